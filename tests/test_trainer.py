import os
import textwrap
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from transformers import (
    EarlyStoppingCallback,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from hf_stability import AdamW, StabilityCallback, StabilityMixin, StableTrainer, StableTrainingArguments
from hf_stability.diagnostics.step_record import read_steps
from hf_stability.errors import InputError
from tests import toy
from tests.processes import run_script


pytestmark = pytest.mark.usefixtures("no_heat_maps")

FAST = {**toy.QUIET, "learning_rate": 1e-3, "num_train_epochs": 2}


def stable(tmp_path, recipe=None, name="run", architecture="bert", callbacks=None, **values):
    trainer_values = {
        k: values.pop(k)
        for k in ("resume", "init", "train_dataset", "eval_dataset", "compute_metrics", "model_init")
        if k in values
    }
    values = {**FAST, "output_dir": str(tmp_path / name), **values}
    make = StableTrainingArguments.from_recipe if recipe else StableTrainingArguments
    args = make(recipe, architecture, **values) if recipe else make(**values)
    return toy.train(StableTrainer, args, callbacks, architecture=architecture, **trainer_values)


# ---- without a recipe it is the Trainer -----------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["bert", "roberta", "albert"])
@pytest.mark.parametrize(
    "values", [{}, {"max_grad_norm": 0.0}, {"max_grad_norm": 0.05}, {"gradient_accumulation_steps": 3}]
)
def test_without_a_recipe_it_is_the_trainer_bitwise(tmp_path, architecture, values):
    values = {**FAST, "eval_strategy": "epoch", "logging_steps": 3, **values}
    stock = toy.train(Trainer, TrainingArguments(str(tmp_path / "a"), **values), architecture=architecture)
    ours = toy.train(StableTrainer, StableTrainingArguments(str(tmp_path / "b"), **values), architecture=architecture)
    assert torch.equal(toy.weights(stock), toy.weights(ours))
    for a, b in zip(stock.state.log_history, ours.state.log_history, strict=True):
        timed = ("runtime", "per_second")
        assert {k: v for k, v in a.items() if not k.endswith(timed)} == {
            k: v for k, v in b.items() if not k.endswith(timed)
        }


@dataclass
class OurSeq2SeqArguments(StableTrainingArguments, Seq2SeqTrainingArguments):
    pass


def test_a_model_without_what_a_recipe_sets_in_its_config_is_told(tmp_path, caplog):
    args = OurSeq2SeqArguments.from_recipe("mosbach2021+mixout", "bert", output_dir=str(tmp_path), use_cpu=True)
    assert args.recipe_model_config == {"hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0.1}
    for config, told in (({}, True), (args.recipe_model_config, False)):
        caplog.clear()
        StableTrainer(toy.model(**{"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, **config}), args)
        said = (
            "recipe mosbach2021+mixout sets hidden_dropout_prob to 0 in the model's config, but this config has 0.1; load the "
            "model with from_pretrained(..., hidden"
        )
        assert (said in caplog.text) == told
    args.recipe_model_config = {"dropout": 0}
    StableTrainer(toy.model(), args)
    assert (
        "recipe mosbach2021+mixout sets dropout to 0 in the model's config, but this config has no such field"
        in caplog.text
    )


def test_plain_training_arguments_will_do(tmp_path):
    trainer = toy.train(StableTrainer, TrainingArguments(str(tmp_path), **FAST, eval_strategy="epoch"))
    assert trainer.stability.verdict.status in ("ok", "failed")


# ---- the optimizer --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("recipe", "corrects"), [("devlin2019", False), ("mosbach2021", True)])
def test_the_optimizer_follows_the_recipe(tmp_path, recipe, corrects):
    trainer = stable(tmp_path, recipe, max_steps=2)
    optimizer = trainer.optimizer.optimizer
    assert isinstance(optimizer, AdamW) is not corrects
    counters = {float(state["step"]) for state in optimizer.state.values()}
    assert counters == ({2.0} if corrects else {1e7 + 2})
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0.0]


def test_an_optimizer_that_is_passed_in_must_leave_the_correction_out_too(tmp_path):
    args = StableTrainingArguments(str(tmp_path), bias_correction=False, **FAST)
    model = toy.model()
    for optimizer_class, fails in ((torch.optim.AdamW, True), (AdamW, False)):
        extra = {} if fails else {"bias_correction": False}
        trainer = StableTrainer(
            model, args, train_dataset=toy.data(16), optimizers=(optimizer_class(model.parameters(), **extra), None)
        )
        if fails:
            with pytest.raises(InputError, match="bias_correction=False"):
                trainer.train()
        else:
            trainer.train()


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.8, 0.98)])
def test_the_correction_in_the_learning_rate_is_the_correction_up_to_eps(tmp_path, betas):
    values = {"adam_beta1": betas[0], "adam_beta2": betas[1], "adam_epsilon": 1e-15, "warmup_steps": 0.25}
    # In double precision: keys' biases have a gradient of 0, and Adam makes whole steps of single precision's noise.
    values["model_init"] = lambda: toy.model().double()
    on = stable(tmp_path, name="on", **values)
    off = stable(tmp_path, name="off", bias_correction=False, **values)
    by_rate = stable(tmp_path, name="by_rate", bias_correction=False, lr_bias_correction=True, **values)
    torch.testing.assert_close(toy.weights(by_rate), toy.weights(on), rtol=1e-6, atol=1e-8)
    assert (toy.weights(off) - toy.weights(on)).abs().max() > 1e-3
    rates = {run: read_steps(tmp_path / run / "stability" / "steps.rec") for run in ("on", "by_rate")}
    steps = rates["on"]["step"].astype(float)
    factor = np.sqrt(1 - betas[1] ** steps) / (1 - betas[0] ** steps)
    np.testing.assert_allclose(
        rates["by_rate"]["learning_rate"], rates["on"]["learning_rate"] * factor, rtol=1e-6, atol=1e-12
    )


def test_the_correction_in_the_learning_rate_goes_with_schedules_of_the_step_only(tmp_path):
    values = {"bias_correction": False, "lr_bias_correction": True, "eval_strategy": "epoch"}
    with pytest.raises(InputError, match="--lr_scheduler_type reduce_lr_on_plateau"):
        stable(tmp_path, lr_scheduler_type="reduce_lr_on_plateau", **values)


def test_the_correction_in_the_learning_rate_is_not_lost_on_a_scheduler_that_is_passed_in(tmp_path):
    args = StableTrainingArguments(str(tmp_path), bias_correction=False, lr_bias_correction=True, **FAST)
    model = toy.model()
    optimizer = AdamW(model.parameters(), bias_correction=False)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    trainer = StableTrainer(model, args, train_dataset=toy.data(16), optimizers=(optimizer, scheduler))
    with pytest.raises(InputError, match="a scheduler was passed"):
        trainer.train()


# ---- batches ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [64, 58])  # 58: the last batch of the epoch has 10, in micro-batches of 8 and 2
@pytest.mark.parametrize("accumulation", [2, 4])
def test_a_batch_of_16_is_the_same_however_it_is_split(tmp_path, accumulation, rows):
    no_dropout = {"model_init": lambda: toy.model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)}
    whole = stable(tmp_path, "devlin2019", "a", max_steps=4, train_dataset=toy.data(rows), **no_dropout)
    split = stable(
        tmp_path,
        "devlin2019",
        "b",
        max_steps=4,
        gradient_accumulation_steps=accumulation,
        train_dataset=toy.data(rows),
        **no_dropout,
    )
    for column in ("loss", "grad_norm", "layer_norms", "logit_std", "labels", "predicted"):
        np.testing.assert_allclose(
            whole.stability.record[column], split.stability.record[column], rtol=1e-4, atol=1e-6
        )
    torch.testing.assert_close(toy.weights(whole), toy.weights(split), rtol=1e-4, atol=1e-6)


# ---- norms before clipping -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_grad_norm", [0.0, 0.01, 1.0])
def test_norms_are_those_before_clipping(tmp_path, max_grad_norm):
    class Slow(TrainerCallback):  # the paper's loop, on a run that never clips
        norms = []

        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            self.norms.append([p.grad.norm().item() for p in model.parameters()])

    slow = Slow()
    stable(tmp_path, name="a", max_grad_norm=0.0, max_steps=1, callbacks=[slow])
    trainer = stable(tmp_path, name="b", max_grad_norm=max_grad_norm, max_steps=1)
    record = trainer.stability.record
    total = np.linalg.norm(slow.norms[0])
    assert record["grad_norm"][0] == pytest.approx(total, rel=1e-5)
    assert np.linalg.norm(record["layer_norms"][0]) == pytest.approx(total, rel=1e-5)
    assert record["clipped"][0] == (0 < max_grad_norm < total)


def test_a_parameter_that_is_unfrozen_later_is_clipped_all_the_same(tmp_path):
    class Unfreeze(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            model.bert.embeddings.requires_grad_(state.global_step >= 2)

    def run(trainer_class, args_class, name):
        args = args_class(str(tmp_path / name), **{**FAST, "max_grad_norm": 0.05, "max_steps": 6})
        model = toy.model()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        model.bert.embeddings.requires_grad_(False)
        trainer = trainer_class(
            model, args, train_dataset=toy.data(64), optimizers=(optimizer, None), callbacks=[Unfreeze()]
        )
        trainer.train()
        return toy.weights(trainer)

    assert torch.equal(run(Trainer, TrainingArguments, "a"), run(StableTrainer, StableTrainingArguments, "b"))


# ---- the last evaluation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        {"eval_strategy": "epoch"},
        {"eval_strategy": "epoch", "max_steps": 5},
        {"eval_strategy": "steps", "eval_steps": 3},
        {"eval_strategy": "steps", "eval_steps": 8},
    ],
)
def test_the_last_step_is_evaluated_once(tmp_path, values):
    trainer = stable(tmp_path, **values)
    evaluated = [entry["step"] for entry in trainer.state.log_history if "eval_accuracy" in entry]
    assert evaluated.count(trainer.state.global_step) == 1
    assert trainer.last_metrics["step"] == trainer.state.global_step == evaluated[-1]


def test_with_eval_strategy_no_nothing_is_evaluated(tmp_path):
    trainer = stable(tmp_path)
    assert not any("eval_accuracy" in entry for entry in trainer.state.log_history)
    assert trainer.last_metrics == {} and trainer.stability.verdict.status == "unknown"


def test_a_last_evaluation_that_raises_costs_no_training(tmp_path, caplog):
    def broken(prediction):
        raise ZeroDivisionError("no positives")

    values = {
        "eval_strategy": "steps",
        "eval_steps": 1000,
        "eval_delay": 1000,
        "save_strategy": "steps",
        "save_steps": 8,
    }
    trainer = stable(tmp_path, compute_metrics=broken, **values)
    assert trainer.state.global_step == trainer.state.max_steps and trainer.stability.verdict.status == "unknown"
    assert "no positives" in caplog.text and "could not be evaluated" in caplog.text
    assert (tmp_path / "run" / f"checkpoint-{trainer.state.max_steps}").is_dir()


def test_without_an_evaluation_set_nothing_is_evaluated(tmp_path):
    trainer = stable(tmp_path, eval_dataset=None)
    assert trainer.last_metrics == trainer.best_metrics == {}
    assert trainer.stability.verdict.basis == "training_only"


def test_a_run_stopped_early_is_evaluated_too(tmp_path):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 3

    trainer = stable(tmp_path, callbacks=[Stop()], eval_strategy="steps", eval_steps=8)
    assert trainer.last_metrics["step"] == 3


def test_verdict_and_last_metrics_are_of_the_last_step_though_the_best_is_reloaded(tmp_path):
    class Scores:
        values = iter([0.9, 0.2])

        def __call__(self, prediction):  # the best is the first epoch's, whatever the model does
            constant = len(set(prediction.predictions.argmax(-1).tolist())) == 1 and prediction.predictions.max() == 1
            return {"accuracy": 0.5 if constant else next(self.values)}

    trainer = stable(
        tmp_path,
        compute_metrics=Scores(),
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
    )
    assert (trainer.last_metrics["eval_accuracy"], trainer.best_metrics["eval_accuracy"]) == (0.2, 0.9)
    assert trainer.best_metrics["step"] < trainer.last_metrics["step"]
    assert trainer.stability.evaluation.metrics["eval_accuracy"] == 0.2
    assert trainer.state.best_model_checkpoint.endswith(str(trainer.best_metrics["step"]))


def test_the_best_of_a_run_without_eval_strategy_can_be_reloaded(tmp_path):
    trainer = stable(
        tmp_path,
        eval_strategy="steps",
        eval_steps=3,
        save_strategy="steps",
        save_steps=3,
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        callbacks=[EarlyStoppingCallback(5)],
    )
    assert os.path.isdir(trainer.state.best_model_checkpoint)


def test_what_is_evaluated_after_training_is_not_the_last_evaluation(tmp_path):
    trainer = stable(tmp_path, eval_strategy="epoch")
    last = trainer.last_metrics
    trainer.evaluate(toy.data(8, seed=5))
    assert trainer.last_metrics == last


def test_the_users_metric_sees_no_made_up_predictions(tmp_path):
    calls = []

    def compute_metrics(prediction):
        calls.append(prediction.predictions.shape)
        return toy.accuracy(prediction)

    trainer = stable(tmp_path, compute_metrics=compute_metrics, eval_strategy="epoch")
    assert calls == [(40, 2)] * 2  # two epochs
    labels = np.array(toy.data(40, seed=1)["label"])
    assert trainer.stability.constant["score"] == max(labels.mean(), 1 - labels.mean())


# ---- any Trainer subclass --------------------------------------------------------------------------------------------------


def test_the_mixin_goes_with_another_trainer(tmp_path):
    class StableSeq2SeqTrainer(StabilityMixin, Seq2SeqTrainer):
        pass

    args = Seq2SeqTrainingArguments(str(tmp_path), **FAST)
    trainer = toy.train(StableSeq2SeqTrainer, args)
    assert len(trainer.stability.record["step"]) == trainer.state.global_step


def test_a_callback_that_is_given_is_the_trainers_own(tmp_path):
    mine = StabilityCallback(tensorboard=False)
    trainer = stable(tmp_path, callbacks=[mine], max_steps=2)
    assert trainer.stability is mine
    assert sum(isinstance(c, StabilityCallback) for c in trainer.callback_handler.callbacks) == 1


def test_several_evaluation_sets(tmp_path):
    sets = {"matched": toy.data(40, seed=1), "mismatched": toy.data(30, seed=2)}
    trainer = stable(tmp_path, eval_dataset=sets, eval_strategy="epoch")
    assert {"eval_matched_accuracy", "eval_mismatched_accuracy"} < set(trainer.last_metrics)
    assert len(trainer.stability.evaluation.labels) == 40
    assert trainer.best_metrics["eval_matched_accuracy"] >= trainer.last_metrics["eval_matched_accuracy"]


def test_a_regression(tmp_path):
    args = StableTrainingArguments(str(tmp_path), **{**FAST, "num_train_epochs": 1, "eval_strategy": "epoch"})

    def mse(prediction):
        return {"mse": float(((prediction.predictions.squeeze() - prediction.label_ids) ** 2).mean())}

    trainer = toy.train(StableTrainer, args, regression=True, compute_metrics=mse)
    verdict = trainer.stability.verdict
    assert verdict.basis == "eval_r2"
    labels = np.array(toy.data(64, regression=True)["label"])
    assert verdict.evidence["constant_loss"] == pytest.approx(labels.var())
    assert verdict.evidence["baseline"] == pytest.approx(np.var(trainer.eval_dataset["label"]))
    assert verdict.evidence["smaller_is_better"] is True


# ---- random streams ---------------------------------------------------------------------------------------------------------


class Orders(TrainerCallback):
    """The order of the examples of each epoch, as the model sees them."""

    def __init__(self):
        self.epochs, self.batches = [], []

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        model.register_forward_pre_hook(self.see, with_kwargs=True)

    def see(self, module, args, kwargs):
        if module.training:
            self.batches += kwargs["input_ids"].tolist()

    def on_epoch_end(self, args, state, control, **kwargs):
        self.epochs.append(str(self.batches))
        self.batches = []


@pytest.mark.parametrize("streams", [True, False])
def test_no_two_runs_share_an_epochs_order(tmp_path, streams):
    seen = []
    for seed in (1, 2, 3):
        orders = Orders()
        stable(tmp_path, seed=seed, seed_streams=streams, num_train_epochs=3, callbacks=[orders])
        seen += orders.epochs
    assert len(seen) == 9
    # Without streams, seed 1's second epoch is seed 2's first: five orders in nine epochs.
    assert len(set(seen)) == (9 if streams else 5)


def test_each_stream_changes_its_own_thing_only(tmp_path):
    def run(**seeds):
        orders = Orders()
        first = []

        class First(TrainerCallback):
            def on_train_begin(self, args, state, control, model=None, **kwargs):
                first.append(toy.weights(model).clone())

        trainer = stable(tmp_path, seed=1, seed_streams=True, callbacks=[orders, First()], **seeds)
        return first[0], orders.epochs, toy.weights(trainer)

    init, order, end = run()
    other_init, same_order, _ = run(init_seed=7)
    assert not torch.equal(init, other_init) and order == same_order
    same_init, other_order, _ = run(data_seed=7)
    assert torch.equal(init, same_init) and order != other_order
    same_init, same_order, other_end = run(dropout_seed=7)
    assert torch.equal(init, same_init) and order == same_order and not torch.equal(end, other_end)
    assert torch.equal(run()[2], end)


# ---- bitwise, twice in a row and after a resume ----------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["bert", "roberta", "albert"])
@pytest.mark.parametrize("recipe", ["devlin2019", "mosbach2021", "transformers_default", "lr_bias_correction"])
def test_a_run_is_the_same_twice_and_after_a_resume_in_mid_epoch(tmp_path, recipe, architecture):
    values = {
        "num_train_epochs": 3,
        "save_strategy": "steps",
        "save_steps": 3,
        "logging_steps": 3,
        "eval_strategy": "epoch",
    }
    if recipe != "transformers_default":
        values["total_train_batch_size"] = 8
    if recipe == "lr_bias_correction":
        recipe, values = "devlin2019", {**values, "lr_bias_correction": True}

    class Die(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 12:  # in the second epoch of 8 steps; the last checkpoint is step 9's
                raise KeyboardInterrupt

    class Begin(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            self.step = state.global_step

    whole = stable(tmp_path, recipe, "whole", architecture, **values)
    again = stable(tmp_path, recipe, "again", architecture, **values)
    with pytest.raises(KeyboardInterrupt):
        stable(tmp_path, recipe, "resumed", architecture, callbacks=[Die()], **values)
    begin = Begin()
    resumed = stable(tmp_path, recipe, "resumed", architecture, resume=True, callbacks=[begin], **values)
    assert begin.step == 9
    bytes_of = {n: (tmp_path / n / "stability" / "steps.rec").read_bytes() for n in ("whole", "again", "resumed")}
    assert len(read_steps(tmp_path / "whole" / "stability" / "steps.rec")["step"]) == 24
    for trainer, name in ((again, "again"), (resumed, "resumed")):
        assert torch.equal(toy.weights(whole), toy.weights(trainer))
        assert bytes_of["whole"] == bytes_of[name]
        assert whole.stability.verdict == trainer.stability.verdict
        for a, b in zip(whole.evaluations, trainer.evaluations, strict=True):
            assert {k: v for k, v in a.items() if "_per_" not in k and "runtime" not in k} == {
                k: v for k, v in b.items() if "_per_" not in k and "runtime" not in k
            }


# ---- two processes -----------------------------------------------------------------------------------------------------------


def test_two_processes_equal_one(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent("""
        import sys
        from hf_stability import StableTrainer, StableTrainingArguments
        from tests import toy
        args = StableTrainingArguments.from_recipe("devlin2019", "bert", output_dir=sys.argv[1], max_steps=5, **toy.QUIET)
        init = lambda: toy.model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        trainer = toy.train(StableTrainer, args, model_init=init)
        trainer.save_model()
        trainer.accelerator.wait_for_everyone()
        trainer.accelerator.end_training()
        assert trainer.is_world_process_zero() == (trainer.stability.verdict is not None)
        """)
    )
    for i in range(2):
        done = run_script(script, [tmp_path / str(i)], processes=i + 1)
        assert done.returncode == 0, done.stderr[-2000:]
    one, two = (read_steps(tmp_path / str(i) / "stability" / "steps.rec") for i in range(2))
    for column in ("loss", "grad_norm", "layer_norms", "logit_std", "labels", "predicted"):
        np.testing.assert_allclose(one[column], two[column], rtol=1e-4, atol=1e-6)
    from safetensors.torch import load_file

    one, two = (load_file(tmp_path / str(i) / "model.safetensors") for i in range(2))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-5)
