import functools
import json
import os
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch import nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import MLflowCallback, TensorBoardCallback, WandbCallback

from hf_stability import StabilityCallback, StableTrainer, StableTrainingArguments, layer_grad_norms
from hf_stability.diagnostics.dashboard import custom_layout
from hf_stability.diagnostics.early_warning import check, find_alarm
from hf_stability.diagnostics.judging import headline
from hf_stability.diagnostics.loggers import is_logger
from hf_stability.diagnostics.recorder import Recorder as StepRecorder
from hf_stability.diagnostics.step_record import read_steps
from hf_stability.errors import InputError
from hf_stability.verdicts.verdict import Verdict
from tests import toy
from tests.events import Events, event_files


pytestmark = pytest.mark.usefixtures("no_heat_maps")

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
    ours = StabilityCallback(compute_metrics=toy.accuracy, block_steps=2, diagnostics="all")
    with_it = stock(tmp_path / "b", ours, **values)
    assert torch.equal(toy.weights(without), toy.weights(with_it))
    assert torch.equal(random_state, torch.random.get_rng_state())
    losses = [[e["loss"] for e in t.state.log_history if "loss" in e] for t in (without, with_it)]
    assert losses[0] == losses[1] and losses[0]


def test_no_hook_stays_on_the_model(tmp_path):
    trainer = stock(tmp_path, StabilityCallback(diagnostics="all"))
    assert not any(module._forward_hooks for module in trainer.model.modules())


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


class Unfreeze(TrainerCallback):
    """The encoder is trained from the second epoch on."""

    def on_epoch_begin(self, args, state, control, model=None, **kwargs):
        if state.epoch >= 1:
            model.requires_grad_(True)


@pytest.mark.parametrize("trainer_class", [Trainer, StableTrainer])
def test_layers_unfrozen_in_mid_training_are_in_the_record_from_then_on(tmp_path, trainer_class):
    model, paper = toy.model(), Paper()
    model.bert.requires_grad_(False)
    args = TrainingArguments(str(tmp_path), **{**FAST, "logging_steps": 3, "max_grad_norm": 0.0})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    callback = StabilityCallback(diagnostics=["clipping"])
    trainer = trainer_class(
        model, args, train_dataset=toy.data(64), callbacks=[Unfreeze(), callback, paper], optimizers=(optimizer, None)
    )
    trainer.train()
    record = read_steps(tmp_path / "stability" / "steps.rec")
    assert record["layers"] == [*LAYERS] and record["step"].tolist() == list(range(1, 17))
    assert np.isnan(record["layer_norms"][:8, :5]).all() and np.isfinite(record["layer_norms"][8:]).all()
    np.testing.assert_array_equal(record["layer_norms"][8:], np.array(paper.rows[8:], "f4"))
    logged = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
    np.testing.assert_allclose(record["grad_norm"][2::3], logged, rtol=1e-5)
    assert record["info"]["since"] == {name: 9 for name in LAYERS if name != "classifier"}
    assert (record["clip_factor"] == 1).all() and callback.verdict.status == "unknown"
    unfrozen = "trained parts: classifier, from step 9 on also embeddings, layers 00-02 and pooler."
    assert callback.verdict.sentence.endswith(unfrozen) and callback.monitor.risk is None
    events = Events(tmp_path)
    assert [step for step, _ in events.scalar("stability/tensorboard", "loss")] == list(range(1, 17))
    assert callback.monitor.sinks.label_counts.tolist() == record["labels"].sum(0).tolist()


@pytest.mark.parametrize("trainer_class", [Trainer, StableTrainer])
def test_of_parameter_groups_the_encoders_rate_counts(tmp_path, trainer_class):
    model = toy.model()
    encoder = list(model.bert.parameters())
    head = list(model.classifier.parameters())
    optimizer = torch.optim.AdamW([{"params": head, "lr": 0.1}, {"params": encoder, "lr": 1e-3}])
    callback = StabilityCallback(tensorboard=False)
    args = TrainingArguments(str(tmp_path), **{**FAST, "lr_scheduler_type": "constant", "logging_steps": 1})
    trainer = trainer_class(
        model, args, train_dataset=toy.data(64), callbacks=[callback], optimizers=(optimizer, None)
    )
    trainer.train()
    assert np.unique(callback.record["learning_rate"]).tolist() == [np.float32(1e-3)]
    rates = read_steps(tmp_path)["learning_rates"]
    np.testing.assert_array_equal(rates, np.tile(np.float32([0.1, 1e-3]), (16, 1)))
    assert trainer.state.log_history[0]["learning_rate"] == 0.1  # the Trainer's log has the first group's


class Weighted(Trainer):
    """The labels stay in: the model shows its own loss, another one is minimised."""

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        outputs = model(**inputs)
        loss = nn.functional.cross_entropy(outputs.logits, inputs["labels"], weight=torch.tensor([1.0, 12.0]))
        return (loss, outputs) if return_outputs else loss


@pytest.mark.parametrize(("trainer_class", "own"), [(Trainer, False), (Weighted, True)])
def test_with_a_loss_of_ones_own_the_early_warning_is_silent(tmp_path, alarming, trainer_class, own):
    callback = StabilityCallback(on_alarm="stop")
    trainer_with(tmp_path, [callback], trainer_class).train()
    record = read_steps(tmp_path)
    assert record["info"].get("own_loss", False) is own
    assert (callback.alarm is None) is own and len(record["step"]) == (16 if own else callback.alarm.step)
    assert ("optimisation" in callback.verdict.evidence) is not own


def test_weights_in_half_precision_are_warned_of_and_stand_first(tmp_path, caplog):
    model = toy.model().to(torch.bfloat16)
    args = TrainingArguments(str(tmp_path), **{**FAST, "eval_strategy": "epoch"})
    callback = StabilityCallback(tensorboard=False)
    data = {"train_dataset": toy.data(64), "eval_dataset": toy.data(40, seed=1), "compute_metrics": toy.accuracy}
    Trainer(model, args, callbacks=[callback], **data).train()
    (warning,) = [record.message for record in caplog.records if "dtype=torch.float32" in record.message][:1]
    assert "are bfloat16" in warning
    assert callback.verdict.sentence.split(": ", 1)[1].startswith(warning.rstrip("."))
    assert callback.verdict.basis == "eval_accuracy"


def test_a_search_has_a_verdict_for_each_trial(tmp_path):
    optuna = pytest.importorskip("optuna")

    class Second(optuna.pruners.BasePruner):
        def prune(self, study, trial):
            return trial.number == 1

    callback = StabilityCallback(tensorboard=False)
    args = TrainingArguments(str(tmp_path), **{**FAST, "eval_strategy": "epoch"})
    data = {"train_dataset": toy.data(64), "eval_dataset": toy.data(40, seed=1), "compute_metrics": toy.accuracy}
    trainer = Trainer(model_init=lambda: toy.model(), args=args, callbacks=[callback], **data)
    trainer.hyperparameter_search(
        hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-3)},
        n_trials=3,
        direction="maximize",
        pruner=Second(),
        compute_objective=lambda metrics: metrics["eval_accuracy"],
    )
    statuses = [verdict.status for verdict in callback.verdicts]
    assert statuses[1] == "stopped" and set(statuses[::2]) <= {"ok", "failed"} and len(statuses) == 3
    assert "pruned by the search at step 8 of 16" in callback.verdicts[1].sentence
    for number, verdict in enumerate(callback.verdicts):
        saved = json.loads((tmp_path / f"run-{number}" / "stability" / "verdict.json").read_text())
        assert Verdict.from_dict(saved) == verdict


# ---- more diagnostics ---------------------------------------------------------------------------------------------------------


class Weights(TrainerCallback):
    """Slow and obvious: the first layer's weights before training, and before and after each update step."""

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.parameters = list(model.bert.encoder.layer[0].parameters())
        self.start, self.ratios, self.distances = self.copy(), [], []

    def copy(self):
        return torch.cat([parameter.detach().flatten() for parameter in self.parameters])

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.before = self.copy()

    def on_optimizer_step(self, args, state, control, **kwargs):
        now = self.copy()
        self.ratios.append(float((now - self.before).norm() / self.before.norm()))
        self.distances.append(float((now - self.start).norm()))


SCALARS = "clip_factor step_factor pooler_saturation prediction_entropy one_class_share cls_variance".split()


@pytest.mark.parametrize("block_steps", [1, 5])
def test_all_diagnostics_are_columns_of_the_steps_own_row(tmp_path, block_steps):
    slow = Weights()
    stock(tmp_path, StabilityCallback(diagnostics="all", block_steps=block_steps), slow)
    record = read_steps(tmp_path / "stability" / "steps.rec")
    layer = record["layers"].index("layer_00")
    np.testing.assert_allclose(record["update_ratio"][:, layer], slow.ratios, rtol=1e-5)
    np.testing.assert_allclose(record["distance"][:, layer], slow.distances, rtol=1e-5)
    steps = np.arange(1, 17)
    np.testing.assert_allclose(record["step_factor"], np.sqrt(1 - 0.999**steps) / (1 - 0.9**steps), rtol=1e-5)
    np.testing.assert_allclose(record["one_class_share"], record["predicted"].max(1) / record["predicted"].sum(1))
    for name in SCALARS:
        assert record[name].shape == (16,) and np.isfinite(record[name][record["clipped"] == 0]).all()


def test_diagnostics_are_recorded_with_those_that_processes_share_first(tmp_path):
    callback = StabilityCallback(diagnostics=["prediction_entropy", "clipping"], tensorboard=False, heat_map=False)
    plain = toy.callback_of(stock(tmp_path / "a", StabilityCallback(tensorboard=False)))
    stock(tmp_path / "b", callback)
    assert callback.recorder.record.columns == [
        *plain.recorder.record.columns, "clip_factor", "prediction_entropy", "one_class_share",
    ]  # fmt: skip
    np.testing.assert_array_equal(
        callback.recorder.record.rows()[:, : len(plain.recorder.record.columns)], plain.recorder.record.rows()
    )


def test_what_a_process_sees_of_its_own_examples_is_averaged_over_processes(tmp_path, monkeypatch):
    def two(self, seen):  # the other one has three times as many examples, and values that are greater by 1
        other = seen.clone()
        other[:, 1] *= 3
        other[:, -1] += 1
        return torch.stack([seen, other])

    names = {"diagnostics": ["cls_variance", "clipping"], "tensorboard": False, "heat_map": False}
    alone, together = StabilityCallback(**names), StabilityCallback(**names)
    stock(tmp_path / "a", alone)
    monkeypatch.setattr(StepRecorder, "of_all_processes", two)
    stock(tmp_path / "b", together)
    np.testing.assert_allclose(together.record["cls_variance"], alone.record["cls_variance"] + 0.75, rtol=1e-6)
    np.testing.assert_array_equal(together.record["clip_factor"], alone.record["clip_factor"])


def test_a_diagnostic_that_there_is_not(tmp_path):
    with pytest.raises(InputError, match="update_ratio"):
        StabilityCallback(diagnostics=["update_ration"])


def test_a_resumed_run_has_its_diagnostics_too(tmp_path):
    values = {"save_strategy": "steps", "save_steps": 3}
    with pytest.raises(KeyboardInterrupt):
        stock(tmp_path, StabilityCallback(diagnostics="all"), Interrupt(11), **values)
    stock(tmp_path, StabilityCallback(diagnostics="all"), resume=True, **values)
    whole = toy.callback_of(stock(tmp_path / "whole", StabilityCallback(diagnostics="all"), **values)).record
    resumed = read_steps(tmp_path / "stability" / "steps.rec")
    for name in ("step", "update_ratio", *SCALARS):
        np.testing.assert_array_equal(resumed[name], whole[name])
    assert np.isnan(resumed["distance"][9:]).all() and np.isfinite(resumed["distance"][:9]).all()


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
    np.testing.assert_array_equal(callback.evaluation.predictions, ours.stability.evaluation.predictions)


def test_with_a_baseline_the_verdict_is_on_the_score(tmp_path):
    verdict = verdict_of(stock(tmp_path, StabilityCallback(baseline=1.1), eval_strategy="epoch"), tmp_path)
    assert (verdict.status, verdict.basis) == ("failed", "baseline")


def test_without_arguments_it_takes_the_outputs_that_the_trainer_has(tmp_path):
    verdict = verdict_of(stock(tmp_path, StabilityCallback(), eval_strategy="epoch"), tmp_path)
    assert verdict.basis == "eval_accuracy" and "on 40 examples" in verdict.sentence


@pytest.mark.parametrize("values", [{"compute_metrics": None, "eval_strategy": "epoch"}, {"eval_strategy": "no"}])
def test_without_outputs_of_an_evaluation_the_verdict_is_unknown(tmp_path, values):
    verdict = verdict_of(stock(tmp_path, StabilityCallback(), **values), tmp_path)
    assert (verdict.status, verdict.basis) == ("unknown", "training_only")
    assert "no evaluation gave predictions" in verdict.sentence and "train loss" in verdict.sentence
    assert "final/failed" not in Events(tmp_path).tags("stability/tensorboard", "scalars")


@pytest.mark.parametrize("trainer_class", [Trainer, StableTrainer])
def test_a_run_that_learns_is_ok_and_one_with_a_mad_rate_failed_or_diverged(tmp_path, trainer_class):
    statuses = []
    for rate in (2e-3, 30.0):
        args = TrainingArguments(
            str(tmp_path),
            **{**FAST, "learning_rate": rate, "num_train_epochs": 12 if rate < 1 else 4, "eval_strategy": "epoch"},
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


def test_a_baseline_of_an_unknown_kind_is_refused():
    with pytest.raises(InputError, match="'compute_metrics'"):
        StabilityCallback(baseline="majority")


def test_compute_metrics_is_called_on_constants_only_where_that_is_asked_for(tmp_path):
    seen = []

    def keeping(prediction):
        seen.append(prediction.predictions)
        return toy.accuracy(prediction)

    calls = []
    for baseline in (None, "compute_metrics"):
        seen.clear()
        callback = StabilityCallback(baseline=baseline)
        stock(tmp_path / str(baseline), callback, compute_metrics=keeping, eval_strategy="epoch")
        calls.append(len(seen))
        assert callback.constant["score"] == 0.525 and callback.constant["constant"] in (0, 1)
    assert calls == [2, 4]  # an evaluation each epoch; and once for each class


def test_a_compute_metrics_that_cannot_take_a_constant_costs_no_training(tmp_path, caplog):
    def picky(prediction):
        if prediction.predictions.max() == 1 and prediction.predictions.min() == 0:
            raise RuntimeError("no constants, please")
        return toy.accuracy(prediction)

    callback = StabilityCallback(compute_metrics=picky, baseline="compute_metrics")
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


LAYERS = ("embeddings", "layer_00", "layer_01", "layer_02", "pooler", "classifier")
NORMS = {f"grad_norm/{name}" for name in ("total", *LAYERS)}
DIAGNOSTICS = {
    *("loss", "label_entropy", "learning_rate", "logit_std", "clipped"),
    *NORMS,
    *(f"log10_{tag}" for tag in NORMS),
    *("final/accuracy", "final/failed"),
}


def test_on_a_stock_trainer_tensorboard_has_a_folder_of_its_own(tmp_path):
    callback = StabilityCallback()
    trainer_with(tmp_path, [callback], report_to="tensorboard").train()
    events = Events(tmp_path)
    assert len(events.runs) == len(event_files(tmp_path)) == 2 and "stability/tensorboard" in events.runs
    assert events.tags("stability/tensorboard", "scalars") == DIAGNOSTICS | {
        "eval/accuracy",
        "eval/loss",
        "alarm/risk",
    }
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
    stock(tmp_path, StabilityCallback(tensorboard=False, heat_map=True))
    assert sorted(os.listdir(tmp_path / "stability")) == ["gradients.png", "steps.rec", "verdict.json"]


def test_the_output_folder_can_be_chosen(tmp_path):
    stock(tmp_path / "run", StabilityCallback(output_dir=tmp_path / "elsewhere", tensorboard=False, heat_map=False))
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


# ---- TensorBoard that reads itself ---------------------------------------------------------------------------------------------


@pytest.fixture
def alarming(monkeypatch):
    """The first check raises the alarm."""
    monkeypatch.setattr("hf_stability.diagnostics.watch.check", functools.partial(check, threshold=0.0))
    monkeypatch.setattr("hf_stability.diagnostics.watch.find_alarm", functools.partial(find_alarm, threshold=0.0))


def test_the_curves_are_the_record(tmp_path):
    callback = StabilityCallback(diagnostics=["update_ratio", "clipping"])
    stock(tmp_path, callback)
    record, events, run = callback.record, Events(tmp_path), "stability/tensorboard"

    def curve(tag):
        return [value for _, value in events.scalar(run, tag)]

    for i, layer in enumerate(record["layers"]):
        for quantity, values in (("grad_norm", record["layer_norms"]), ("update_ratio", record["update_ratio"])):
            assert curve(f"{quantity}/{layer}") == values[:, i].tolist()
            np.testing.assert_allclose(curve(f"log10_{quantity}/{layer}"), np.log10(values[:, i]), rtol=1e-5)
    for tag in ("loss", "learning_rate", "logit_std", "clip_factor"):
        assert curve(tag) == record[tag].tolist()
    shares = record["labels"].cumsum(0) / record["labels"].cumsum(0).sum(1, keepdims=True)
    np.testing.assert_allclose(curve("label_entropy"), -(shares * np.log(shares + 1e-30)).sum(1), rtol=1e-5)


def test_a_long_curve_has_at_most_so_many_points(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_stability.diagnostics.sinks.POINTS", 7)
    callback = StabilityCallback(block_steps=5)
    stock(tmp_path, callback)
    events = Events(tmp_path)
    assert [step for step, _ in events.scalar("stability/tensorboard", "loss")] == [1, 4, 7, 10, 13, 16]
    entropies = [value for _, value in events.scalar("stability/tensorboard", "label_entropy")]
    counts = callback.record["labels"].cumsum(0)[::3]
    shares = counts / counts.sum(1, keepdims=True)
    np.testing.assert_allclose(entropies, -(shares * np.log(shares + 1e-30)).sum(1), rtol=1e-5)  # of all steps


@pytest.mark.parametrize("report_to", ["none", "tensorboard"])
def test_the_custom_scalars_tab_is_laid_out(tmp_path, report_to):
    callback = StabilityCallback(diagnostics="all")
    trainer_with(tmp_path, [callback], StableTrainer, report_to=report_to).train()
    events = Events(tmp_path)
    (run,) = events.runs
    expected = custom_layout(callback.recorder.record.columns)
    assert events.layout(run) == {
        category: {title: patterns for title, (_, patterns) in charts.items()} for category, charts in expected.items()
    }


def test_the_heat_map_is_a_file_and_an_image_at_the_end(tmp_path):
    callback = StabilityCallback(heat_map=True)
    stock(tmp_path, callback)
    step, pixels = Events(tmp_path).image("stability/tensorboard", "gradients")
    with Image.open(tmp_path / "stability" / "gradients.png") as image:
        assert step == 16 and np.array_equal(pixels, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(
    ("trainer_class", "values", "kind"),
    [
        (Trainer, {}, "after clipping"),
        (StableTrainer, {}, "before clipping"),
        (StableTrainer, {"max_grad_norm": 0.0}, ""),
    ],
)
def test_the_heat_map_says_what_it_shows(tmp_path, monkeypatch, alarming, trainer_class, values, kind):
    given = []
    monkeypatch.setattr("hf_stability.diagnostics.heat_map.draw_heat_map", lambda *arguments: given.append(arguments))
    callback = StabilityCallback(on_alarm="none", heat_map=True)
    trainer_with(tmp_path, [callback], trainer_class, **values).train()
    ((record, sentence, alarm_step, found),) = given
    assert record["step"].tolist() == list(range(1, 17))
    assert (sentence, alarm_step, found) == (callback.verdict.sentence, callback.alarm.step, kind)


def test_a_picture_that_fails_costs_no_training(tmp_path, monkeypatch, caplog):
    def fail(*arguments):
        raise MemoryError("too many pixels")

    monkeypatch.setattr("hf_stability.diagnostics.heat_map.draw_heat_map", fail)
    (tmp_path / "stability").mkdir()
    (tmp_path / "stability" / "gradients.png").write_bytes(b"an earlier run's")
    trainer = stock(tmp_path, StabilityCallback(heat_map=True))
    assert "too many pixels" in caplog.text
    assert verdict_of(trainer, tmp_path) is not None and not (tmp_path / "stability" / "gradients.png").exists()
    assert Events(tmp_path).text("stability/tensorboard", "verdict")


class Unseen(TrainerCallback):
    """Gradients that cannot be seen, as DeepSpeed's."""

    def __init__(self, callback):
        self.callback = callback

    def on_train_begin(self, args, state, control, **kwargs):
        names = self.callback.meter.names
        self.callback.recorder.meter = SimpleNamespace(
            names=names,
            present=[],
            is_current=lambda: True,
            parameter_norms=lambda: torch.zeros(0),
            layer_norms=lambda _: torch.zeros(len(names)),
        )


def test_a_run_without_norms_has_no_picture(tmp_path, caplog):
    callback = StabilityCallback(heat_map=True)
    stock(tmp_path, callback, Unseen(callback))
    assert np.isnan(callback.record["layer_norms"]).all() and "heat map" not in caplog.text
    assert not (tmp_path / "stability" / "gradients.png").exists()


def test_the_risk_and_the_alarm_stand_at_their_steps(tmp_path, alarming):
    callback = StabilityCallback(on_alarm="none")
    stock(tmp_path, callback)
    events, run = Events(tmp_path), "stability/tensorboard"
    risks = events.scalar(run, "alarm/risk")
    assert len(risks) > 2 and risks[0] == (callback.alarm.step, pytest.approx(callback.alarm.risk))
    assert events.text(run, "alarm") == [callback.alarm.sentence]
    assert [event.step for event in events.multiplexer.Tensors(run, "alarm/text_summary")] == [callback.alarm.step]


def test_a_run_that_the_alarm_stopped_is_neither_failed_nor_ok(tmp_path, alarming):
    callback = StabilityCallback(on_alarm="stop")
    stock(tmp_path, callback, eval_strategy="epoch")
    assert callback.verdict.status == "stopped"
    assert "final/failed" not in Events(tmp_path).tags("stability/tensorboard", "scalars")


def test_a_run_resumed_after_its_alarm_stopped_it_is_finished(tmp_path, alarming):
    values = {"save_strategy": "steps", "save_steps": 1000}  # the only checkpoint is that of the stop
    stopped = stock(tmp_path, StabilityCallback(on_alarm="stop"), **values)
    step = toy.callback_of(stopped).alarm.step
    assert stopped.state.global_step == step < stopped.state.max_steps
    callback = StabilityCallback(on_alarm="stop")
    resumed = stock(tmp_path, callback, resume=True, **values)
    assert resumed.state.global_step == resumed.state.max_steps
    assert callback.alarm.step == step and not callback.stopped and callback.verdict.status != "stopped"


def test_without_settings_of_its_own_the_callback_has_those_of_the_training_arguments(tmp_path, alarming):
    for name, own in (("theirs", {}), ("own", {"on_alarm": "none", "diagnostics": []})):
        callback = StabilityCallback(tensorboard=False, heat_map=False, **own)
        args = StableTrainingArguments(
            str(tmp_path / name), **toy.QUIET, max_steps=30, on_alarm="stop", diagnostics=["clipping"]
        )
        Trainer(toy.model(), args, train_dataset=toy.data(64), callbacks=[callback]).train()
        assert callback.stopped == ("clip_factor" in callback.record) == (name == "theirs")


def test_a_writer_of_another_library_gets_the_same_numbers(tmp_path):
    class Other:
        """As tensorboardX's: no events of torch's."""

        def __init__(self):
            self.calls = []

        def __getattr__(self, name):
            return lambda *arguments, **kwargs: self.calls.append((name, arguments))

    writer, callback = Other(), StabilityCallback(heat_map=True)
    trainer_with(tmp_path, [TensorBoardCallback(writer), callback], StableTrainer).train()
    found = {arguments[0]: arguments[1:] for name, arguments in writer.calls if name == "add_scalar"}
    assert set(found) >= DIAGNOSTICS
    assert found["grad_norm/layer_00"] == (float(callback.record["layer_norms"][-1, 1]), 16)
    assert {"add_custom_scalars", "add_image", "add_text"} < {name for name, _ in writer.calls}


# ---- other loggers ------------------------------------------------------------------------------------------------------------


class Recorder(TrainerCallback):
    """A logger: what it was sent, and when."""

    def __init__(self):
        self.sent, self.closed = [], False

    def on_log(self, args, state, control, logs=None, **kwargs):
        assert not self.closed
        self.sent.append((state.global_step, state.epoch, dict(logs)))

    def on_train_end(self, args, state, control, **kwargs):
        self.closed = True

    def curve(self, key):
        return [(step, logs[key]) for step, _, logs in self.sent if key in logs]


def attached(tmp_path, *callbacks, trainer_class=Trainer, **values):
    """A trained trainer, our callback attached to it and last in its list."""
    ours = StabilityCallback(tensorboard=False, heat_map=False, diagnostics=["distance"])
    trainer = trainer_with(tmp_path, [*callbacks, ours], trainer_class, **values)
    ours.attach(trainer)
    trainer.train()
    return ours


@pytest.mark.parametrize("trainer_class", [Trainer, StableTrainer])
@pytest.mark.parametrize("logging_steps", [1, 5])
def test_other_loggers_get_each_row_with_its_own_step(tmp_path, trainer_class, logging_steps):
    recorder = Recorder()
    ours = attached(tmp_path, recorder, trainer_class=trainer_class, logging_steps=logging_steps)
    record = ours.record
    for i, layer in enumerate(record["layers"]):
        for quantity, values in (("grad_norm", record["layer_norms"]), ("distance", record["distance"])):
            assert recorder.curve(f"{quantity}/{layer}") == list(zip(range(1, 17), values[:, i].tolist(), strict=True))
    for key, column in (
        ("step/loss", "loss"),
        ("step/learning_rate", "learning_rate"),
        ("grad_norm/total", "grad_norm"),
    ):
        assert recorder.curve(key) == list(zip(range(1, 17), record[column].tolist(), strict=True))
    assert [epoch for _, epoch, logs in recorder.sent if "step/loss" in logs] == pytest.approx(np.arange(1, 17) / 8)
    assert [step for step, _ in recorder.curve("loss")] == list(
        range(logging_steps, 17, logging_steps)
    )  # the Trainer's
    assert recorder.curve("final/failed") == [(16, float(ours.verdict.status != "ok"))]
    assert recorder.curve("final/accuracy") == [recorder.curve("eval_accuracy")[-1]]
    assert recorder.curve("alarm/risk")
    steps = [step for step, _, _ in recorder.sent]
    assert steps == sorted(steps)  # a logger that takes no step twice, or only later ones, has all
    assert not any(key.startswith("log10_") for _, _, logs in recorder.sent for key in logs)


def test_without_attach_other_loggers_get_what_they_always_got(tmp_path):
    recorder = Recorder()
    trainer_with(tmp_path, [recorder, StabilityCallback(tensorboard=False)]).train()
    assert not recorder.curve("grad_norm/layer_00") and recorder.curve("loss")


def test_other_loggers_get_as_many_points_as_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_stability.diagnostics.sinks.POINTS", 4)
    recorder = Recorder()
    attached(tmp_path, recorder)
    assert [step for step, _ in recorder.curve("grad_norm/layer_00")] == [1, 5, 9, 13]


def test_numbers_that_are_not_finite_are_not_sent(tmp_path):
    class Poison(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            if state.global_step == 5:
                model.classifier.bias.data.fill_(float("nan"))

    recorder = Recorder()
    ours = attached(tmp_path, recorder, Poison())
    assert ours.verdict.status == "diverged"
    assert [step for step, _ in recorder.curve("step/loss")] == [1, 2, 3, 4, 5]
    assert all(np.isfinite(value) for _, _, logs in recorder.sent for key, value in logs.items() if "/" in key)


def test_a_logger_that_raises_is_left_out_and_the_others_are_not(tmp_path, caplog):
    class Broken(Recorder):
        def on_log(self, args, state, control, logs=None, **kwargs):
            super().on_log(args, state, control, logs)
            if "grad_norm/total" in logs:
                raise ConnectionError("no such host")

    broken, recorder = Broken(), Recorder()
    ours = attached(tmp_path, broken, recorder)
    assert caplog.text.count("no such host") == 1
    assert len(broken.curve("grad_norm/total")) == 1 and len(recorder.curve("grad_norm/total")) == 16
    assert len(broken.curve("loss")) == len(recorder.curve("loss")) == 4  # the Trainer's own still arrive
    assert ours.verdict is not None


def test_a_logger_cannot_change_what_others_see_nor_the_training(tmp_path):
    class Meddler(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            if "grad_norm/total" in logs:
                logs.clear()
                state.global_step = 1000
                control.should_training_stop = True

    recorder = Recorder()
    ours = attached(tmp_path, Meddler(), recorder)
    assert len(ours.record["step"]) == len(recorder.curve("grad_norm/total")) == 16


class Wandb(WandbCallback):
    """transformers' own callback with a stub of wandb."""

    def __init__(self):
        self.rows = []
        self._initialized = True
        self._wandb = SimpleNamespace(log=self.rows.append, run=SimpleNamespace(summary={}))

    def setup(self, *arguments, **kwargs): ...

    def on_train_begin(self, *arguments, **kwargs): ...

    def on_train_end(self, *arguments, **kwargs): ...


class Mlflow(MLflowCallback):
    """The same of mlflow."""

    def __init__(self):
        self.rows = []
        self._initialized, self._async_log, self._auto_end_run = True, False, True
        self._ml_flow = SimpleNamespace(log_metrics=self.log_metrics, active_run=lambda: True, end_run=self.rows.clear)

    def log_metrics(self, metrics, step):
        assert all(isinstance(value, float | int) for value in metrics.values())
        self.rows.append({**metrics, "step": step})

    def on_train_begin(self, *arguments, **kwargs): ...

    def on_train_end(self, args, state, control, **kwargs):
        self.ended = list(self.rows)
        super().on_train_end(args, state, control, **kwargs)

    def __del__(self): ...


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_transformers_own_loggers_get_the_rows(tmp_path, name):
    logger = Wandb() if name == "wandb" else Mlflow()
    ours = attached(tmp_path, logger)
    rows, prefix, step = (
        (logger.rows, "train/", "train/global_step") if name == "wandb" else (logger.ended, "", "step")
    )
    key = f"{prefix}grad_norm/layer_00"
    norms = ours.record["layer_norms"][:, ours.record["layers"].index("layer_00")].tolist()
    assert [(row[step], row[key]) for row in rows if key in row] == list(zip(range(1, 17), norms, strict=True))
    assert len([row for row in rows if f"{prefix}loss" in row]) == 4  # the Trainer's means, and no others among them
    assert any(f"{prefix}final/failed" in row for row in rows)
    if name == "mlflow":
        assert logger.rows == []  # nothing after the end of the run


def test_attach_shares_tensorboard_too(tmp_path):
    ours, recorder = StabilityCallback(heat_map=False), Recorder()
    trainer = trainer_with(tmp_path, [recorder, ours], report_to="tensorboard")
    ours.attach(trainer)
    trainer.train()
    (run,) = Events(tmp_path).runs
    assert DIAGNOSTICS | {"train/loss"} < Events(tmp_path).tags(run, "scalars")
    assert len(Events(tmp_path).scalar(run, "grad_norm/layer_00")) == 16  # not once more through their callback
    assert len(recorder.curve("grad_norm/layer_00")) == 16


def test_what_is_a_logger():
    class Bar(transformers.ProgressCallback):
        def on_log(self, args, state, control, logs=None, **kwargs): ...

    mine = [StabilityCallback(), TensorBoardCallback(), transformers.DefaultFlowCallback(), TrainerCallback(), Bar()]
    theirs = [transformers.ProgressCallback(), PrinterCallback(), transformers.EarlyStoppingCallback()]
    assert not any(is_logger(callback) for callback in (*mine, *theirs))
    assert all(is_logger(callback) for callback in (Recorder(), Wandb(), Mlflow()))


def test_a_notebooks_table_is_no_logger():
    pytest.importorskip("IPython")
    from transformers.utils.notebook import NotebookProgressCallback

    assert not is_logger(NotebookProgressCallback())
