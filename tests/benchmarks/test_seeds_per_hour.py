"""The benchmark of seeds per hour: its comparison of results, its floor, its report, and a whole small run."""

from __future__ import annotations

import argparse
import json
import math
import random

import numpy as np
import pytest
import torch

from benchmarks import floor, seeds_per_hour, stock_glue
from benchmarks.seeds_per_hour import BF16, DEMO, PACKED, PADDED, REAL, STUDY, TRAINER
from hf_stability.study.api import run_study
from tests.conftest import tiny_sentence


@pytest.fixture(scope="module")
def cola(tmp_path_factory):
    """A folder with 64 and 24 sentences in the layout of CoLA."""
    folder, rng = tmp_path_factory.mktemp("glue"), random.Random("cola")
    (folder / "CoLA").mkdir()
    for name, rows in (("train.tsv", 64), ("dev.tsv", 24)):
        lines = [f"source\t{i % 2}\t\t{tiny_sentence(rng, i % 2)}" for i in range(rows)]
        (folder / "CoLA" / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def options(cola, tiny_model, tmp_path):
    """Options of a command with the tiny model and two update steps per seed."""
    words = ["--quick", "--tasks", "cola", "--data_dir", str(cola), "--model", tiny_model()]
    return seeds_per_hour.parsed([*words, "--output_dir", str(tmp_path)])


def test_a_study_gives_the_stock_trainers_scores_and_losses_bit_for_bit_and_its_logits(
    options, tmp_path, no_figures, no_heat_maps
):
    """Equal seed, order, threads and settings. The learning rate is high, so that weights and scores move."""
    options.train = 64
    texts, predictions = seeds_per_hour.texts_file(options, "cola"), tmp_path / "stock.npz"
    shared = {**seeds_per_hour.SETTINGS, "learning_rate": 5e-3}
    script = {"model": options.models["cola"], "texts": texts, "dynamic": True, "logging_steps": 1}
    given = argparse.Namespace(**script, **shared, output=tmp_path / "stock.json", predictions=predictions)
    theirs = stock_glue.train(given, seed=3)
    mine = {seeds_per_hour.IN_A_STUDY.get(name, name): value for name, value in shared.items()}
    mine |= {"recipes": seeds_per_hour.RECIPE, "seeds": [3], "seed_streams": False, "use_cpu": True, "workers": 0}
    mine |= {"task_name": "cola", "data_dir": options.data_dir, "model_name_or_path": options.models["cola"]}
    mine |= {"max_train_samples": 64, "max_eval_samples": 24, "output_dir": tmp_path / "study"}
    (run,) = run_study(**mine, quiet=True).runs
    assert torch.get_num_threads() == 1
    folder, logits = tmp_path / "study" / "runs" / run.name, np.load(predictions)["logits"]
    assert seeds_per_hour.compared(theirs, logits, folder) == [] and len(np.unique(logits)) > 2
    assert set(run.metrics) & set(theirs["scores"]) >= {"eval_loss", "eval_matthews_correlation"}
    assert len(theirs["losses"]) == theirs["steps"] == run.steps == 4
    theirs["losses"][2] += 1e-6
    theirs["scores"]["eval_matthews_correlation"] += 1e-9
    assert [line.split(":")[0] for line in seeds_per_hour.compared(theirs, logits + 1e-3, folder)] == [
        "eval_matthews_correlation",
        "logits",
        "train loss",
    ]


def made_up(*seconds: dict[str, float], tasks=("cola",)) -> dict:
    """Made-up content of parts.json: wall seconds per seed of each arm, a round each."""
    parts = {
        f"{number}/{task}/{arm}": {"wall": 2 * value, "cpu": value, "seeds": 2, "memory": 2**30, "load": 0.1}
        for number, wall in enumerate(seconds, start=1)
        for task in tasks
        for arm, value in wall.items()
    }
    return {"parts": parts, "floor": dict.fromkeys(tasks, 5.0), "different": []}


def test_the_ratios_are_of_the_same_round_and_the_bars_count(options):
    options.quick = False
    good = {PADDED: 90.0, TRAINER: 15.0, STUDY: 12.0, PACKED: 10.0, BF16: 5.0}
    slower = {arm: 2 * value for arm, value in good.items()}  # the machine, for a round: no ratio changes
    text, missed = seeds_per_hour.report(made_up(good, slower), options)
    assert "| packed / trainer | 1.50 (1.50 to 1.50) | 1.4 |" in text and not missed
    assert (
        "| packed / padded | 9.00 (9.00 to 9.00) | 8.0 |" in text
        and "| bf16 / trainer | 3.00 (3.00 to 3.00) | 2.0 |" in text
    )
    assert "| 1.0 | 33% |" in text and "bit for bit" in text
    content = made_up(good, {**good, TRAINER: 12.0})
    content["different"] = ["cola: logits: up to 1e-3"]
    text, missed = seeds_per_hour.report(content, options)
    assert [line.partition(": ")[0] for line in missed] == [
        "cola",
        "cola, packed / trainer",
    ] and "the bar is 1.4" in missed[1]
    options.quick = True
    assert seeds_per_hour.report(content, options)[1] == content["different"]


def test_the_interval_is_students_on_the_logarithms():
    from scipy import stats

    content = made_up(*({STUDY: 10.0, TRAINER: 10.0 * r} for r in (1.2, 1.5, 1.4)))
    found = seeds_per_hour.ratio(content["parts"], "cola", STUDY, TRAINER)
    expected = stats.ttest_1samp(np.log([1.2, 1.5, 1.4]), 0).confidence_interval(0.95)
    np.testing.assert_allclose(found, [(1.2 * 1.5 * 1.4) ** (1 / 3), *np.exp(expected)])
    one = seeds_per_hour.ratio(made_up({STUDY: 1.0, TRAINER: 2.0})["parts"], "cola", STUDY, TRAINER)
    assert one == (pytest.approx(2.0), 0.0, math.inf)


def test_every_bar_is_of_arms_and_tasks_that_are_measured():
    assert set(seeds_per_hour.TITLES) == set(seeds_per_hour.ARMS)
    for pair, tasks in seeds_per_hour.BARS.items():
        assert set(pair) <= set(seeds_per_hour.ARMS) and set(tasks) <= {DEMO, *REAL}


def test_the_operations_are_those_that_torch_counts(tiny_model):
    """Without padding, one text at a time. Pooler and head are left out of ours, and have few."""
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModel

    model = AutoModel.from_pretrained(tiny_model(), add_pooling_layer=False, attn_implementation="eager").eval()
    shape = model.config.num_hidden_layers, model.config.hidden_size, model.config.intermediate_size
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        for length in (5, 9):
            model(input_ids=torch.full((1, length), 7))
    assert counter.get_total_flops() == floor.operations([5, 9], *shape)
    assert floor.matrix_rate(8, 4, 8, seconds=0.0) > 0


def test_parts_of_another_setting_are_refused(tmp_path):
    (tmp_path / "parts.json").write_text(json.dumps({"settings": {"seeds": [1]}, "parts": {}}))
    with pytest.raises(SystemExit, match="other settings"):
        seeds_per_hour.main(["--tasks", DEMO, "--output_dir", str(tmp_path)])


@pytest.mark.slow
def test_a_whole_quick_run_and_a_second_call_that_finds_everything_done(cola, tiny_model, tmp_path, monkeypatch):
    command = [
        "--quick",
        "--tasks",
        "cola",
        "--data_dir",
        str(cola),
        "--model",
        tiny_model(),
        "--output_dir",
        str(tmp_path),
    ]
    assert seeds_per_hour.main(command) == 0
    text = (tmp_path / "results.md").read_text()
    assert "equal, bit for bit" in text
    found = json.loads((tmp_path / "parts.json").read_text())["parts"]
    assert {key: part["seeds"] for key, part in found.items()} == {
        f"1/cola/{arm}": 1 if arm == PADDED else 2 for arm in seeds_per_hour.ARMS
    }
    # the workers' CPU time is there, though their server is no child of the command
    assert found[f"1/cola/{STUDY}"]["cpu"] > 2
    assert all(part["wall"] > 0 and part["memory"] > 2**26 for part in found.values())
    monkeypatch.setattr(seeds_per_hour, "run", None)
    assert seeds_per_hour.main(command) == 0 and (tmp_path / "results.md").read_text() == text
