"""benchmarks/gpu_target.py with tiny models on the CPU: time limit, resuming, table, refusals."""

from __future__ import annotations

import contextlib
import csv
import json
import shutil
import signal
import time

import numpy as np
import pytest
from huggingface_hub import constants
from scipy.stats import binomtest, fisher_exact
from transformers import TrainerCallback

from benchmarks import gpu_target
from benchmarks.gpu_target import BERT, FAILED, ROBERTA, Timed, beside, how_many, interrupt_after, seconds_of_a_run
from hf_stability.recipe import load_recipe
from hf_stability.recipe.resolve import resolve
from hf_stability.study import run as study_run
from hf_stability.study.records import RunRecord


pytestmark = pytest.mark.usefixtures("no_heat_maps", "no_figures")

WORDS = [("good great film", "nice play"), ("bad film", "poor awful book")]


@pytest.fixture
def place(tmp_path, tiny_model):
    """A folder with tiny models under the names of the large ones, and RTE with 32 and 8 examples."""
    for name, architecture in ((BERT, "bert"), (ROBERTA, "roberta")):
        shutil.copytree(tiny_model(architecture), tmp_path / "models" / name)
    (tmp_path / "glue" / "RTE").mkdir(parents=True)
    for name, size in (("train", 32), ("dev", 8)):
        rows = [(*WORDS[i % 2], ("entailment", "not_entailment")[i % 2]) for i in range(size)]
        lines = ["index\tsentence1\tsentence2\tlabel", *("\t".join([str(i), *row]) for i, row in enumerate(rows))]
        (tmp_path / "glue" / "RTE" / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path


def words(place, part="run", seeds=2, **more):
    given = {"model_dir": place / "models", "data_dir": place / "glue", "output_dir": place / "out"}
    given |= {"tasks": "rte", "models": BERT, "device": "cpu", "workers": 0, "seeds": seeds, **more}
    return [part, *(word for name, value in given.items() if value is not None for word in (f"--{name}", str(value)))]


def timed(steps, seconds, status="ok", seed=0):
    return Timed(RunRecord("id", "du_nguyen2023", seed, "rte", status, "accuracy", steps=steps), seconds)


# ---- what they published ----------------------------------------------------------------------------------------------


SUCCESSFUL = {
    (BERT, "rte"): [1, 3, 4, 6, 10, 12, 13, 16, 18, 19],
    (BERT, "mrpc"): [2, 3, 4, 5, 7, 13, 14, 16, 17],
    (BERT, "cola"): [6, 11, 13, 15, 17, 18, 19],
    (ROBERTA, "rte"): [1, 3, 4, 6, 7, 8, 10, 12, 14],
    (ROBERTA, "mrpc"): [0, 2, 4, 5, 7, 8, 9, 10, 12, 14, 16, 17, 18],
    (ROBERTA, "cola"): [1, 2, 4, 6, 8, 10, 11, 12, 14, 16, 18],
}
"""The other list of their notebook."""


def test_the_published_seeds_are_all_that_did_not_succeed():
    assert {cell: sorted({*range(20)} - {*seeds}) for cell, seeds in SUCCESSFUL.items()} == {
        cell: list(seeds) for cell, seeds in FAILED.items()
    }


@pytest.mark.parametrize(("model", "model_type"), [(BERT, "bert"), (ROBERTA, "roberta")])
def test_the_recipe_has_their_values_for_both_models(model, model_type, tmp_path):
    path = tmp_path / "du_nguyen2023.yaml"
    path.write_text(gpu_target.RECIPE.format(rate=gpu_target.RATES[model], epochs=3))
    values = {name: found.value for name, found in resolve(load_recipe(str(path)), model_type).items()}
    assert values["learning_rate"] == {BERT: 5e-5, ROBERTA: 3e-5}[model] and values["num_train_epochs"] == 3
    # Oracle: ft_save_model.py, and the defaults of AdamW in transformers 4.14.1
    theirs = {"weight_decay": 0.01, "max_grad_norm": 1.0, "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-6}
    theirs |= {"total_train_batch_size": 16, "lr_scheduler_type": "linear", "warmup_steps": 0.1}
    assert {name: values[name] for name in theirs} == theirs
    assert (values["bias_correction"], values["lr_bias_correction"]) == (False, True)  # eps outside the correction


# ---- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "at_a_time", "seconds", "remaining", "number"),
    [
        (20, 4, None, 540, 4),  # the first runs are timed
        (3, 4, None, 540, 3),
        (20, 4, 60, 540, 20),  # 7 times 4 would fit
        (20, 2, 100, 540, 8),  # 20 s to start, then 4 times 120 s
        (20, 2, 100, 139, 0),
        (20, 2, 100, 140, 2),
        (20, 2, 100, 5, 0),
        (20, 2, 1000, 540, 2),  # longer than a call: it saves checkpoints
    ],
)
def test_no_run_is_started_that_would_not_finish(left, at_a_time, seconds, remaining, number):
    assert how_many(left, at_a_time, seconds, remaining, whole=540) == number


def test_the_time_of_a_run_is_that_of_earlier_ones():
    rte, cola, other = (BERT, "rte"), (BERT, "cola"), (ROBERTA, "rte")
    assert seconds_of_a_run(rte, {rte: {}, cola: {}}, 1) is None
    runs = {rte: {0: timed(156, 30), 1: timed(156, 50), 2: timed(156, 40)}, cola: {}, other: {0: timed(156, 156)}}
    assert seconds_of_a_run(rte, runs, 1) == 40
    assert seconds_of_a_run(cola, runs, 1) == pytest.approx(535 * 50 / 156)  # the slowest of the same model
    assert seconds_of_a_run(cola, {other: runs[other]}, 2) == pytest.approx(1070)


@pytest.mark.parametrize("ctrl_c", [signal.default_int_handler, signal.SIG_IGN])
def test_the_alarm_is_a_ctrl_c(ctrl_c):
    before, rang = signal.signal(signal.SIGINT, ctrl_c), []
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), interrupt_after(0.05, rang):
        time.sleep(30)
    assert rang and time.monotonic() - began < 10
    with interrupt_after(30, rang):
        pass
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0) and signal.getsignal(signal.SIGINT) is ctrl_c
    signal.signal(signal.SIGINT, before)


def test_calls_add_up_and_finished_runs_are_kept(place, capsys, monkeypatch):
    assert gpu_target.main(words(place, "plan")) == 0
    assert "not known yet" in capsys.readouterr().out
    starts = iter([1, 0])
    with monkeypatch.context() as patch:
        patch.setattr(gpu_target, "how_many", lambda *_: next(starts))
        assert gpu_target.main(words(place)) == 0
    assert "1 of 2 runs are finished. Time for the others: about" in capsys.readouterr().out
    first = place / "out" / "epochs-1" / BERT / "rte" / "runs" / "du_nguyen2023" / "seed-000"
    before = (first / "run.json").stat().st_mtime_ns
    assert gpu_target.main(words(place)) == 0
    assert "All 2 runs are finished: nothing is left." in capsys.readouterr().out
    assert (first / "run.json").stat().st_mtime_ns == before
    with open(place / "out" / "epochs-1" / "gpu_target.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["seed"], row["failed_there"]) for row in rows] == [(BERT, "0", "1"), (BERT, "1", "0")]
    record = json.loads((first / "run.json").read_text())
    assert record["steps"] == 2 and float(rows[0]["accuracy"]) == record["accuracy"]
    assert gpu_target.main(words(place, "plan")) == 0
    assert "not known yet" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_of_several_calls_continues_from_its_checkpoint(place, capsys, monkeypatch):
    steps: list[int] = []
    rang: list[bool] = []

    @contextlib.contextmanager
    def interrupt_after(seconds, told):
        yield rang.append(told)

    class Alarm(TrainerCallback):  # the time is up after 14 update steps of each call
        def on_step_end(self, args, state, control, **kwargs):
            steps[-1] += 1
            if steps[-1] == 14:
                rang[-1].append(True)
                signal.raise_signal(signal.SIGINT)

    made = study_run.make_trainer

    def make_trainer(*args):
        trainer = made(*args)
        trainer.add_callback(Alarm())
        return trainer

    monkeypatch.setattr(gpu_target, "interrupt_after", interrupt_after)
    monkeypatch.setattr(study_run, "make_trainer", make_trainer)
    while "All 1 runs are finished" not in capsys.readouterr().out:
        steps.append(0)
        assert gpu_target.main(words(place, seeds=1, epochs=30)) == 0
        assert len(steps) < 7
    # Each tenth of 60 update steps is saved, in the first call only if it is worth it. Each later call continues at least 12 further on.
    assert set(steps[:-1]) == {14} and steps[-1] <= 12 and len(steps) in (5, 6)
    assert json.loads(next((place / "out").rglob("run.json")).read_text())["steps"] == 60


# ---- the table --------------------------------------------------------------------------------------------------------


def test_the_table_has_both_shares_with_interval_and_test():
    cell = (BERT, "cola")
    failed = {seed: seed < 6 for seed in range(12)}
    found = beside(cell, failed)
    assert (found.theirs, found.failed, found.runs) == (13, 6, 12)
    interval = binomtest(6, 12).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.p == pytest.approx(fisher_exact([[6, 6], [13, 7]]).pvalue)
    outcomes = np.array([seed in FAILED[cell] for seed in range(12)])
    assert found.same == sum(outcomes == np.array(list(failed.values())))
    assert found.by_chance == pytest.approx(12 * (0.5 * outcomes.mean() + 0.5 * (1 - outcomes.mean())))
    text = gpu_target.table([found, beside((ROBERTA, "mrpc"), {})])
    rows = [[part.strip() for part in line.split("|")[1:-1]] for line in text.splitlines()]
    assert rows[2][:7] == [BERT, "cola", "5e-05", "13 of 20", "0.65", "6 of 12", "0.50 (0.25 to 0.75)"]
    assert rows[3] == [ROBERTA, "mrpc", "3e-05", "7 of 20", "0.35", *["-"] * 4]


def test_diverged_runs_count_as_failed(place, monkeypatch, capsys):
    runs = {seed: timed(156, 9.0, status, seed) for seed, status in enumerate(["ok", "failed", "diverged", "ok"])}
    monkeypatch.setattr(gpu_target, "finished", lambda options, cell: runs)
    assert gpu_target.main(words(place, "report")) == 0
    assert "2 of 4" in capsys.readouterr().out
    assert "2 of 4" in (place / "out" / "epochs-1" / "gpu_target.md").read_text()


# ---- refusals ---------------------------------------------------------------------------------------------------------


def test_without_gpu_weights_and_data_a_line_each_tells_the_way_out(place, capsys, monkeypatch):
    monkeypatch.setattr(gpu_target.torch.cuda, "is_available", lambda: False)
    assert constants.HF_HUB_OFFLINE  # else this test would ask the hub
    monkeypatch.setenv("HF_HOME", str(place))
    assert gpu_target.main(words(place, device="cuda", model_dir=None, data_dir=place / "nowhere")) == 2
    out, lines = capsys.readouterr()
    lines = lines.splitlines()
    assert not out and [line.partition(":")[0] for line in lines] == ["no GPU", f"no weights of {BERT}", "no data"]
    assert "--device cpu" in lines[0] and f"hf download {BERT}" in lines[1] and "GLUE_DIR" in lines[2]
    assert not (place / "out").exists()
    assert gpu_target.main(words(place, model_dir=place)) == 2
    assert f"not in {place}" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [{"minutes": 0}, {"seeds": 21}, {"seeds": 0}, {"epochs": 0}, {"tasks": "qnli"}])
def test_wrong_options_are_refused(wrong, place, capsys):
    with pytest.raises(SystemExit) as error:
        gpu_target.main(words(place, **wrong))
    assert error.value.code == 2 and f"--{next(iter(wrong))}" in capsys.readouterr().err


def test_a_crashed_run_ends_the_call_with_its_reason(place, capsys, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("no memory")

    monkeypatch.setattr("hf_stability.study.run.make_trainer", broken)
    assert gpu_target.main(words(place, seeds=1)) == 2
    assert "no memory" in capsys.readouterr().err.splitlines()[-1]
