"""An error in any piece of the callback: one warning with the piece's name, and the training is the stock Trainer's."""

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_stability import StabilityCallback, StableTrainer
from hf_stability.diagnostics.probes import PROBES
from tests import toy
from tests.processes import run_script


VALUES = {**toy.QUIET, "num_train_epochs": 1, "eval_strategy": "epoch", "learning_rate": 1e-3, "logging_steps": 3}
DIAGNOSTICS = "hf_stability.diagnostics"

# Part's name in the warning -> where an exception is put in.
PIECES = {
    "the record: its making": ("The step record", f"{DIAGNOSTICS}.recorder.GradientMeter.__init__"),
    "the record: a forward pass": ("The step record", f"{DIAGNOSTICS}.recorder.loss_logits_labels"),
    "the record: a row": ("The step record", f"{DIAGNOSTICS}.recorder.output_statistics"),
    "the record: a block": ("The step record", f"{DIAGNOSTICS}.recorder.combine_statistics"),
    "the record's file: a block": ("The file of the step record", f"{DIAGNOSTICS}.step_record.open"),
    "the record's file: its making": ("The file of the step record", f"{DIAGNOSTICS}.recorder.StepRecord._write"),
    "the meter": ("The step record", f"{DIAGNOSTICS}.gradients.GradientMeter.layer_norms"),
    "the check of the loss": ("The check of the loss", f"{DIAGNOSTICS}.own_loss.differs"),
    "the check of the precision": ("The check of the precision", f"{DIAGNOSTICS}.monitor.half_precision_weights"),
    "the preflight": ("The check before the first step", f"{DIAGNOSTICS}.preflight.is_fine_tuned"),
    "the early warning: a look": ("The early warning", f"{DIAGNOSTICS}.watch.check"),
    "the early warning: earlier steps": ("The early warning", f"{DIAGNOSTICS}.watch.find_alarm"),
    "the evaluation": ("Reading the evaluation", f"{DIAGNOSTICS}.trainers_evaluation.calling_evaluation"),
    "the clean-up": (
        "The clean-up after an interrupt",
        f"{DIAGNOSTICS}.calling_trainer.TrainingLoop.call_when_abandoned",
    ),
    "the verdict": ("The verdict", f"{DIAGNOSTICS}.monitor.judge_run"),
    "the verdict's file": ("The file of the verdict", f"{DIAGNOSTICS}.verdict_file.write_json"),
    "the heat map": ("The heat map", f"{DIAGNOSTICS}.heat_map.draw_heat_map"),
    "the final scores": ("The final scores", f"{DIAGNOSTICS}.outcome.headline"),
    "the curves": ("The curves", f"{DIAGNOSTICS}.sinks.curves"),
    **{
        f"TensorBoard: {what}": ("TensorBoard", f"{DIAGNOSTICS}.tensorboard.TensorBoard.{what}")
        for what in ("open", "numbers", "flush", "evaluation", "end")
    },
    "TensorBoard: close": ("Closing TensorBoard", f"{DIAGNOSTICS}.tensorboard.TensorBoard.close"),
    "the call stack": ("Reading the call stack", f"{DIAGNOSTICS}.monitor.training_loop"),
    **{
        f"the loggers: {what}": ("The output to other loggers", f"{DIAGNOSTICS}.loggers.Loggers.{what}")
        for what in ("numbers", "end")
    },
    **{
        f"{name}: {what}": (f"Diagnostic {name!r}", f"{probe.__module__}.{probe.__name__}.{what}")
        for name, probe in PROBES.items()
        for what in ("start", "after_step")
    },
}


class Logger(TrainerCallback):
    def on_log(self, args, state, control, logs=None, **kwargs): ...


def train(folder, trainer_class, callback):
    data = {"train_dataset": toy.data(64), "eval_dataset": toy.data(40, seed=1), "compute_metrics": toy.accuracy}
    trainer = trainer_class(
        toy.model(),
        TrainingArguments(str(folder), **VALUES),
        callbacks=[Logger(), *([callback] if callback else [])],
        **data,
    )
    if callback:
        callback.attach(trainer)
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    """The stock Trainer's weights and scores."""
    trainer = train(tmp_path_factory.mktemp("stock"), Trainer, None)
    return toy.weights(trainer), scores(trainer)


def scores(trainer):
    return [entry["eval_accuracy"] for entry in trainer.state.log_history if "eval_accuracy" in entry]


@pytest.mark.parametrize("trainer_class", [Trainer, StableTrainer])
@pytest.mark.parametrize("piece", PIECES)
def test_an_error_of_ours_costs_no_training(tmp_path, monkeypatch, caplog, stock, piece, trainer_class):
    name, where = PIECES[piece]

    def fail(*args, **kwargs):
        raise ZeroDivisionError(f"in {piece}")

    monkeypatch.setattr(where, fail, raising=False)  # `open` is no name of the module's own
    callback = StabilityCallback(diagnostics="all", heat_map=piece == "the heat map")
    trainer = train(tmp_path, trainer_class, callback)
    assert torch.equal(toy.weights(trainer), stock[0]) and scores(trainer) == stock[1]
    said = [record.message for record in caplog.records if f"in {piece}" in record.message]
    assert [message.split(" is off for the rest")[0] for message in said] in (
        [name],
        ["The gradient norms", name],
        [name] * 1,
    ), said
    if "file" in piece and "verdict" not in piece:  # the record itself is whole, in memory
        assert callback.record["step"].tolist() == list(range(1, 9))
    assert not any(module._forward_hooks for module in trainer.model.modules())
    assert callback.verdict.status == (
        "unknown" if piece in ("the verdict", "the evaluation", "the call stack") else "failed"
    ), callback.verdict


def test_without_an_error_everything_is_there(tmp_path, caplog, stock):
    callback = StabilityCallback(diagnostics="all")
    trainer = train(tmp_path, StableTrainer, callback)
    assert torch.equal(toy.weights(trainer), stock[0]) and not callback.guard.off
    assert np.isfinite(callback.record["layer_norms"]).all() and callback.verdict.status == "failed"
    assert not [record for record in caplog.records if "is off" in record.message]


SCRIPT = """
import os, sys
import hf_stability.diagnostics.recorder as recorder
from hf_stability import StabilityCallback
from tests import toy
from transformers import Trainer, TrainingArguments

def fail(*args, **kwargs):
    raise ZeroDivisionError("in one process")

class Logs(Trainer):
    def log(self, logs, *args):
        super().log(logs, *args)
        if self.is_world_process_zero() and sys.argv[3] == "log" and "mine" not in logs:
            self.log({"mine": 1.0})

if os.environ["RANK"] == sys.argv[2] and sys.argv[3] in ("row", "file"):
    setattr(*{"row": (recorder, "output_statistics"), "file": (recorder.StepRecord, "_write")}[sys.argv[3]], fail)
callback = StabilityCallback(tensorboard=False)
args = TrainingArguments(sys.argv[1], **{**toy.QUIET, "max_steps": 8, "eval_strategy": "steps", "eval_steps": 4})
args.logging_steps = 3
trainer = toy.train(Logs, args, [callback])
print("ended", os.environ["RANK"], trainer.state.global_step, len(callback.record["step"]), sorted(callback.guard.off))
"""


TWO = [
    (0, "file", ["the file of the step record"]),
    (1, "row", ["the step record"]),
    (0, "log", []),  # the user logs in the main process alone
    (0, "folder", ["the removal of an earlier verdict.json", "the file of the verdict"]),
]


@pytest.mark.parametrize(("rank", "where", "off"), TWO)
def test_an_error_in_one_of_two_processes_keeps_none_waiting(tmp_path, rank, where, off):
    (tmp_path / "train.py").write_text(SCRIPT)
    if where == "folder":
        (tmp_path / "out" / "stability" / "verdict.json").mkdir(parents=True)
    done = run_script(tmp_path / "train.py", [tmp_path / "out", rank, where], processes=2, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    for process in (0, 1):
        rows = 0 if process == rank and where == "row" else 8
        assert f"ended {process} 8 {rows} {sorted(off) if process == rank else []}" in done.stdout
