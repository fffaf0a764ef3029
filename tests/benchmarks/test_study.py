"""The benchmark of a study's speed: its comparison of bits, its report, and a whole small run."""

from __future__ import annotations

import argparse
import json
import random

import numpy as np
import pytest
import torch

from benchmarks import stock_glue, study
from hf_stability.diagnostics.step_record import read_steps
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


def test_a_study_gives_the_stock_trainers_scores_logits_and_losses_bit_for_bit(
    cola, tiny_model, tmp_path, no_figures, no_heat_maps
):
    """Equal seed, order, threads and settings. The learning rate is high, so that weights and scores move."""
    options = argparse.Namespace(quick=True, rounds=1, max_train_samples=64, max_eval_samples=24)
    shared = {**study.same_settings(options), "learning_rate": 5e-3}
    script = {"model": tiny_model(), "data_dir": cola, "dynamic": True, "logging_steps": 1}
    output = {"output": tmp_path / "stock.json", "predictions": tmp_path / "stock.npz"}
    theirs = stock_glue.train(argparse.Namespace(**script, **output, **shared), seed=3)
    named = {study.IN_A_STUDY.get(name, name): value for name, value in shared.items()}
    place = {
        "task_name": "cola",
        "data_dir": cola,
        "model_name_or_path": tiny_model(),
        "output_dir": tmp_path / "study",
    }
    mine = {"recipes": study.RECIPE, "seeds": [3], "seed_streams": False, "use_cpu": True, "workers": 0}
    (run,) = run_study(**place, **mine, **named, quiet=True).runs
    assert torch.get_num_threads() == 1
    folder = tmp_path / "study" / "runs" / run.name
    assert {name: theirs["scores"][name] for name in run.metrics} == run.metrics
    logits = np.load(tmp_path / "stock.npz")["logits"]
    assert logits.tobytes() == np.load(folder / "predictions.npz")["logits"].tobytes() and len(np.unique(logits)) > 2
    assert np.array(theirs["losses"], np.float32).tobytes() == read_steps(folder)["loss"].tobytes()
    assert len(theirs["losses"]) == theirs["steps"] == run.steps == 4


def parts(*seconds: tuple[float, float, float]) -> dict[str, dict]:
    """Made-up parts of several rounds: seconds per seed of the script, of one process and of the study."""
    made = {}
    for number, wall in enumerate(seconds, start=1):
        for name, value in zip(study.PARTS, wall, strict=True):
            made[f"{number}/{name}"] = {"wall": 2 * value, "cpu": value, "seeds": 2, "steps_per_s": 3.0, "load": 0.1}
    return made


def test_the_ratios_are_of_the_same_round_and_the_bars_count(tmp_path):
    options = study.parsed(["--data_dir", str(tmp_path), "--model", "m", "--seeds", "2"])
    text, missed = study.report(parts((60, 15, 10), (130, 28, 20), (70, 14, 10)), options, [])
    assert "| 6.50 (6.00 to 7.00) | 6 |" in text and "| 1.40 (1.40 to 1.50) | 1.35 |" in text
    assert "equal, bit for bit" in text and not missed
    text, missed = study.report(parts((60, 13, 10)), options, ["logits: 1 of 24 examples"])
    assert len(missed) == 2 and "bar is 1.35" in missed[0] and "logits: 1 of 24 examples" in text


def test_parts_of_another_setting_are_refused(tmp_path):
    (tmp_path / "parts.json").write_text(json.dumps({"settings": {"seeds": [1]}, "parts": {}}))
    with pytest.raises(SystemExit, match="other settings"):
        study.main(["--data_dir", str(tmp_path), "--model", "m", "--output_dir", str(tmp_path)])


@pytest.mark.slow
def test_a_whole_quick_run_and_a_second_call_that_finds_everything_done(cola, tiny_model, tmp_path, monkeypatch):
    command = ["--quick", "--data_dir", str(cola), "--model", tiny_model(), "--output_dir", str(tmp_path)]
    assert study.main(command) == 0
    text = (tmp_path / "results.md").read_text()
    assert "equal, bit for bit" in text
    found = json.loads((tmp_path / "parts.json").read_text())["parts"]
    assert {key: part["seeds"] for key, part in found.items()} == {"1/script": 1, "1/one process": 2, "1/study": 2}
    # the workers' CPU time is there, though their server is no child of the command
    assert found["1/study"]["cpu"] > 2 and all(part["wall"] > 0 and part["steps_per_s"] > 0 for part in found.values())
    monkeypatch.setattr(study, "run", None)
    assert study.main(command) == 0 and (tmp_path / "results.md").read_text() == text
