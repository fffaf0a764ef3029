import json
import os
import time

import numpy as np
import pytest
import torch
from torch import nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import TensorBoardCallback

from hf_stability import StabilityCallback, StableTrainer, layer_grad_norms
from hf_stability.callback import headline
from hf_stability.diagnostics.failures import Verdict
from hf_stability.diagnostics.step_record import read_steps
from tests import toy
from tests.events import Events, event_files


FAST = {**toy.QUIET, "learning_rate": 1e-3, "num_train_epochs": 2}


def stock(tmp_path, *callbacks, architecture="bert", **values):
    trainer_values = {
        k: values.pop(k) for k in ("init", "compute_metrics", "train_dataset", "eval_dataset", "resume") if k in values
    }
    args = TrainingArguments(str(tmp_path), **{**FAST, **values})
    return toy.train(Trainer, args, list(callbacks), architecture=architecture, **trainer_values)


# ---- it changes nothing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["bert", "roberta", "albert"])
@pytest.mark.parametrize("values", [{}, {"gradient_accumulation_steps": 2}, {"bf16": True}, {"max_grad_norm": 0.0}])
def test_the_callback_changes_no_bit_of_the_training(tmp_path, architecture, values):
    values = {"architecture": architecture, "eval_strategy": "epoch", "logging_steps": 3, **values}
    without = stock(tmp_path / "a", **values)
    random_state = torch.random.get_rng_state()
    with_it = stock(tmp_path / "b", StabilityCallback(compute_metrics=toy.accuracy, block_steps=2), **values)
    assert torch.equal(toy.weights(without), toy.weights(with_it))
    assert torch.equal(random_state, torch.random.get_rng_state())
    losses = [[e["loss"] for e in t.state.log_history if "loss" in e] for t in (without, with_it)]
    assert losses[0] == losses[1] and losses[0]


def test_no_hook_stays_on_the_model(tmp_path):
    trainer = stock(tmp_path, StabilityCallback())
    assert not trainer.model._forward_hooks


# ---- what it records ---------------------------------------------------------------------------------------------------------


class Paper(TrainerCallback):
    """The loop of the paper's code: every parameter's `.norm().item()`."""

    def __init__(self):
        self.rows = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.rows.append([float(norm) for norm in layer_grad_norms(model).values()])


@pytest.mark.parametrize("block_steps", [1, 3, 1000])
def test_every_update_step_is_recorded_once(tmp_path, block_steps):
    paper = Paper()
    trainer = stock(tmp_path, StabilityCallback(block_steps=block_steps), paper, logging_steps=5)
    record = read_steps(tmp_path / "stability" / "steps.rec")
    assert record["step"].tolist() == list(range(1, trainer.state.max_steps + 1))
    assert record["layers"] == ["embeddings", "layer_00", "layer_01", "layer_02", "pooler", "classifier"]
    np.testing.assert_array_equal(record["layer_norms"], np.array(paper.rows, "f4"))
    np.testing.assert_allclose(record["grad_norm"], np.linalg.norm(record["layer_norms"], axis=1), rtol=1e-5)
    for key, value in toy.callback_of(trainer).record.items():
        assert (
            np.array_equal(value, record[key], equal_nan=True)
            if isinstance(value, np.ndarray)
            else value == record[key]
        )


def test_the_recorded_loss_and_rate_are_the_trainers(tmp_path):
    trainer = stock(tmp_path, StabilityCallback(), logging_steps=1, warmup_steps=4)
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    record = toy.callback_of(trainer).record
    np.testing.assert_allclose(record["loss"], [entry["loss"] for entry in logged], rtol=1e-6)
    # The Trainer logs the rate of the step that comes after; the record has the step's own.
    np.testing.assert_allclose(record["learning_rate"], [entry["learning_rate"] for entry in logged], rtol=1e-6)
    assert record["info"] == {"max_steps": 16, "warmup_steps": 4}


def test_counts_are_of_the_steps_own_examples(tmp_path):
    record = toy.callback_of(
        stock(tmp_path, StabilityCallback(), num_train_epochs=1, gradient_accumulation_steps=2)
    ).record
    labels = np.array(toy.data(64)["label"])
    assert record["labels"].sum(0).tolist() == np.bincount(labels).tolist()
    assert record["predicted"].sum(1).tolist() == [16.0] * 4


def test_steps_that_hit_the_clip_are_marked(tmp_path):
    record = toy.callback_of(stock(tmp_path / "a", StabilityCallback(), max_grad_norm=0.25)).record
    assert 0 < record["clipped"].sum() < len(record["step"])
    assert (record["clipped"] == (record["grad_norm"] > 0.2499)).all()
    assert record["grad_norm"].max() <= 0.25
    assert toy.callback_of(stock(tmp_path / "b", StabilityCallback(), max_grad_norm=0.0)).record["clipped"].sum() == 0


def test_a_plain_module_is_recorded_too(tmp_path):
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(toy.VOCABULARY, 8), nn.Linear(8, 2)

        def forward(self, input_ids, labels=None):
            logits = self.head(self.embed(input_ids).mean(1))
            return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    trainer = Trainer(
        Plain(), TrainingArguments(str(tmp_path), **FAST), train_dataset=toy.data(64), callbacks=[StabilityCallback()]
    )
    trainer.train()
    record = toy.callback_of(trainer).record
    assert record["layers"] == ["embeddings", "head"]
    assert np.isfinite(record["loss"]).all() and np.isfinite(record["layer_norms"]).all()


def test_a_model_that_returns_no_loss_has_not_diverged(tmp_path):
    args = TrainingArguments(str(tmp_path), **FAST, label_smoothing_factor=0.1)  # the Trainer takes the labels out
    trainer = toy.train(Trainer, args, [StabilityCallback(compute_metrics=toy.accuracy)], init=False)
    callback = toy.callback_of(trainer)
    assert np.isnan(callback.record["loss"]).all()
    assert callback.verdict.status != "diverged"


def test_training_again_begins_a_new_record(tmp_path):
    trainer = stock(tmp_path, StabilityCallback(), num_train_epochs=1)
    trainer.train()
    assert toy.callback_of(trainer).record["step"].tolist() == list(range(1, 9))


# ---- the verdict --------------------------------------------------------------------------------------------------------------


def verdict_of(trainer, tmp_path) -> Verdict:
    verdict = toy.callback_of(trainer).verdict
    saved = json.loads((tmp_path / "stability" / "verdict.json").read_text())
    assert Verdict.from_dict(saved) == verdict
    return verdict


def test_with_compute_metrics_the_verdict_is_on_the_final_accuracy(tmp_path):
    callback = StabilityCallback(compute_metrics=toy.accuracy)
    verdict = verdict_of(stock(tmp_path, callback, eval_strategy="epoch"), tmp_path)
    assert verdict.basis == "eval_accuracy" and "on 40 examples" in verdict.sentence
    assert 0.5 <= callback.constant["score"] < 1


def test_on_a_stock_trainer_it_sees_what_a_stable_trainer_sees(tmp_path):
    callback = StabilityCallback(compute_metrics=toy.accuracy)
    stock(tmp_path / "a", callback, eval_strategy="epoch")
    ours = toy.train(StableTrainer, TrainingArguments(str(tmp_path / "b"), **FAST, eval_strategy="epoch"))
    assert callback.verdict == ours.stability.verdict
    np.testing.assert_array_equal(callback.evaluation["predictions"], ours.stability.evaluation["predictions"])


def test_with_a_baseline_the_verdict_is_on_the_score(tmp_path):
    verdict = verdict_of(stock(tmp_path, StabilityCallback(baseline=1.1), eval_strategy="epoch"), tmp_path)
    assert (verdict.status, verdict.basis) == ("failed", "baseline")


def test_with_neither_it_says_what_it_rests_on(tmp_path):
    verdict = verdict_of(stock(tmp_path, StabilityCallback(), eval_strategy="epoch"), tmp_path)
    assert verdict.basis == "training_only"
    assert "rests on training loss" in verdict.sentence


@pytest.mark.parametrize("trainer_class", [Trainer, StableTrainer])
def test_a_run_that_learns_is_ok_and_one_with_a_mad_rate_failed_or_diverged(tmp_path, trainer_class):
    statuses = []
    for rate in (2e-3, 30.0):
        args = TrainingArguments(
            str(tmp_path), **{**FAST, "learning_rate": rate, "num_train_epochs": 12, "eval_strategy": "epoch"}
        )
        callback = StabilityCallback(compute_metrics=toy.accuracy, tensorboard=False)
        toy.train(
            trainer_class,
            args,
            [callback],
            train_dataset=toy.data(256, length=4),
            eval_dataset=toy.data(100, 1, length=4),
        )
        statuses.append(callback.verdict.status)
    assert statuses[0] == "ok"
    assert statuses[1] in ("failed", "diverged")


def test_a_nan_that_the_trainer_hides_is_divergence(tmp_path):
    class Poison(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            if state.global_step == 5:
                model.classifier.bias.data.fill_(float("nan"))

    trainer = stock(tmp_path, StabilityCallback(), Poison(), logging_steps=1)
    assert not any(np.isnan(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry)
    verdict = verdict_of(trainer, tmp_path)
    assert verdict.status == "diverged" and "step 6" in verdict.sentence


def test_a_compute_metrics_that_cannot_take_a_constant_costs_no_training(tmp_path, caplog):
    def picky(prediction):
        if prediction.predictions.max() == 1 and prediction.predictions.min() == 0:
            raise RuntimeError("no constants, please")
        return toy.accuracy(prediction)

    callback = StabilityCallback(compute_metrics=picky)
    stock(tmp_path, callback, compute_metrics=picky, eval_strategy="epoch")
    assert "no constants, please" in caplog.text
    assert callback.verdict.basis == "eval_accuracy"


@pytest.mark.parametrize(
    ("metrics", "wanted", "expected"),
    [
        ({"eval_loss": 1, "eval_f1": 0.5, "eval_accuracy": 0.7, "epoch": 1}, None, ("accuracy", 0.7)),
        ({"eval_loss": 1, "eval_f1": 0.5, "eval_accuracy": 0.7}, "eval_f1", ("f1", 0.5)),
        ({"eval_loss": 1, "eval_f1": 0.5, "eval_runtime": 3.0}, "loss", ("f1", 0.5)),
        ({"eval_loss": 1, "eval_runtime": 3.0, "epoch": 2.0}, "f1", (None, None)),
    ],
)
def test_the_headline_metric(metrics, wanted, expected):
    assert headline(metrics, wanted) == expected


# ---- files -----------------------------------------------------------------------------------------------------------------------


def trainer_with(tmp_path, callbacks, trainer_class=Trainer, **values):
    args = TrainingArguments(str(tmp_path), **{**FAST, "eval_strategy": "epoch", "logging_steps": 4, **values})
    data = {"train_dataset": toy.data(64), "eval_dataset": toy.data(40, seed=1), "compute_metrics": toy.accuracy}
    trainer = trainer_class(toy.model(), args, callbacks=callbacks, **data)
    trainer.remove_callback(PrinterCallback)
    return trainer


DIAGNOSTICS = {
    "loss",
    "learning_rate",
    "logit_std",
    "clipped",
    "grad_norm/total",
    *(f"grad_norm/{layer}" for layer in ("embeddings", "layer_00", "layer_01", "layer_02", "pooler", "classifier")),
    "final/accuracy",
    "final/failed",
}


def test_on_a_stock_trainer_tensorboard_has_a_folder_of_its_own(tmp_path):
    callback = StabilityCallback()
    trainer_with(tmp_path, [callback], report_to="tensorboard").train()
    events = Events(tmp_path)
    assert len(events.runs) == len(event_files(tmp_path)) == 2 and "stability/tensorboard" in events.runs
    assert events.tags("stability/tensorboard", "scalars") == DIAGNOSTICS | {"eval/accuracy", "eval/loss"}
    assert [step for step, _ in events.scalar("stability/tensorboard", "grad_norm/layer_00")] == list(range(1, 17))
    assert [step for step, _ in events.scalar("stability/tensorboard", "eval/accuracy")] == [8, 16]
    assert events.text("stability/tensorboard", "verdict") == [callback.verdict.sentence]
    assert events.tags("stability/tensorboard", "hparams") == set()


def test_rates_and_scores_are_the_trainers_own(tmp_path):
    trainer = trainer_with(tmp_path, [StabilityCallback()], logging_steps=1)
    trainer.train()
    events = Events(tmp_path)
    for key, tag in (
        ("learning_rate", "learning_rate"),
        ("eval_accuracy", "eval/accuracy"),
        ("eval_loss", "eval/loss"),
    ):
        logged = [(entry["step"], pytest.approx(entry[key])) for entry in trainer.state.log_history if key in entry]
        assert events.scalar("stability/tensorboard", tag) == logged


@pytest.mark.parametrize("trainer_class", [Trainer, StableTrainer])
@pytest.mark.parametrize("chosen", [False, True])
def test_with_the_trainers_own_tensorboard_callback_there_is_one_file(tmp_path, trainer_class, chosen):
    folder = {"tensorboard_dir": tmp_path / "events"} if chosen else {}
    callback = StabilityCallback(hparams={"batch": 8}, **folder)
    trainer = trainer_with(tmp_path, [callback], trainer_class, report_to="tensorboard")
    if trainer_class is Trainer:
        callback.share_tensorboard(trainer)
    trainer.train()
    (file,) = event_files(tmp_path)
    assert file.parent == tmp_path / "events" if chosen else file.is_relative_to(tmp_path / "runs")
    events = Events(tmp_path)
    (run,) = events.runs
    assert DIAGNOSTICS | {"train/loss", "train/grad_norm", "eval/accuracy"} < events.tags(run, "scalars")
    assert [step for step, _ in events.scalar(run, "eval/accuracy")] == [8, 16]
    assert [step for step, _ in events.scalar(run, "loss")] == list(range(1, 17))
    assert events.text(run, "verdict") == [callback.verdict.sentence]
    assert events.hparams(run)[0] == {"batch": 8, "verdict": callback.verdict.status}
    trainer.evaluate()  # the Trainer's callback goes on in the same folder, as without us
    assert Events(tmp_path).runs == events.runs


def test_a_writer_that_the_trainers_callback_was_made_with_is_shared(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    theirs = TensorBoardCallback(SummaryWriter(str(tmp_path / "mine")))
    trainer_with(tmp_path, [theirs, StabilityCallback()], StableTrainer).train()
    assert len(event_files(tmp_path)) == 1
    assert DIAGNOSTICS | {"train/loss"} < Events(tmp_path).tags("mine", "scalars")


def test_hyperparameters_and_texts_of_the_users(tmp_path):
    hparams = {"recipe": "mine", "learning_rate": 1e-3, "bias_correction": False, "seed": 3, "layers": [1, 2]}
    callback = StabilityCallback(hparams=hparams, texts={"notes": "**bold**"})
    trainer_with(tmp_path, [callback]).train()
    events = Events(tmp_path)
    assert events.runs == ["stability/tensorboard"] and len(event_files(tmp_path)) == 1
    values, metrics, status = events.hparams("stability/tensorboard")
    changed = {"bias_correction": "false", "layers": "[1, 2]", "verdict": callback.verdict.status}
    assert values == {**hparams, **changed}
    assert metrics == ["final/accuracy", "final/failed"] and status == 1
    assert events.text("stability/tensorboard", "notes") == ["**bold**"]


class Interrupt(TrainerCallback):
    """Ctrl-C at an update step, once."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.step = None
            raise KeyboardInterrupt


@pytest.mark.parametrize("trainer_class", [Trainer, StableTrainer])
def test_a_training_that_is_interrupted_and_resumed_in_one_process_has_no_step_twice(tmp_path, trainer_class):
    values = {"save_strategy": "steps", "save_steps": 3, "report_to": "tensorboard", "logging_steps": 1}
    trainer = trainer_with(tmp_path, [StabilityCallback(), Interrupt(5)], trainer_class, **values)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    time.sleep(1)  # TensorBoard goes by the seconds in the files' names
    trainer.train(resume_from_checkpoint=True)
    events = Events(tmp_path)
    (run,) = [run for run in events.runs if "loss" in events.tags(run, "scalars")]
    shared = {"train/loss"} if trainer_class is StableTrainer else set()
    for tag in DIAGNOSTICS - {"final/accuracy", "final/failed"} | shared:
        assert [step for step, _ in events.scalar(run, tag)] == list(range(1, 17))


def test_a_training_begun_anew_leaves_no_earlier_events(tmp_path):
    for rate in (1e-3, 2e-3):
        trainer_with(tmp_path, [StabilityCallback(hparams={"rate": rate})], learning_rate=rate).train()
    assert len(event_files(tmp_path)) == 1
    assert Events(tmp_path).hparams("stability/tensorboard")[0]["rate"] == 2e-3


def test_only_our_own_events_are_removed(tmp_path):
    folder = tmp_path / "stability" / "tensorboard"
    folder.mkdir(parents=True)
    for name in ("mine.txt", "events.out.tfevents.1.host.2.3", "events.out.tfevents.1.host.2.3.stability"):
        (folder / name).touch()
    trainer_with(tmp_path, [StabilityCallback()]).train()
    left = {path.name for path in folder.iterdir()}
    assert {"mine.txt", "events.out.tfevents.1.host.2.3"} < left and len(left) == 3
    assert "events.out.tfevents.1.host.2.3.stability" not in left


def test_without_tensorboard_no_events(tmp_path):
    stock(tmp_path, StabilityCallback(tensorboard=False))
    assert sorted(os.listdir(tmp_path / "stability")) == ["steps.rec", "verdict.json"]


def test_the_output_folder_can_be_chosen(tmp_path):
    stock(tmp_path / "run", StabilityCallback(output_dir=tmp_path / "elsewhere", tensorboard=False))
    assert sorted(os.listdir(tmp_path / "elsewhere")) == ["steps.rec", "verdict.json"]
    assert not (tmp_path / "run" / "stability").exists()


def test_a_resumed_stock_run_has_no_step_twice(tmp_path):
    class Die(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 11:
                raise KeyboardInterrupt

    values = {"save_strategy": "steps", "save_steps": 3}
    with pytest.raises(KeyboardInterrupt):
        stock(tmp_path, StabilityCallback(), Die(), **values)
    stock(tmp_path, StabilityCallback(), resume=True, **values)
    whole = stock(tmp_path / "whole", StabilityCallback(), **values)
    resumed = read_steps(tmp_path / "stability" / "steps.rec")
    assert resumed["step"].tolist() == list(range(1, 17))
    assert np.array_equal(resumed["layer_norms"], toy.callback_of(whole).record["layer_norms"])
