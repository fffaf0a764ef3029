"""What every method must do, one test for all of them."""

import json
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch._dynamo import OptimizedModule
from transformers import (
    AutoModelForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    Trainer,
    TrainingArguments,
)

from hf_stability import StabilityCallback, StableTrainer, StableTrainingArguments
from hf_stability.errors import InputError
from hf_stability.methods import METHODS as CLASSES
from hf_stability.methods import argument_names
from hf_stability.methods.adamw import BiasCorrection
from hf_stability.methods.mixout import MixLinear
from hf_stability.recipe import load_recipe, recipe_names
from tests import toy
from tests.processes import run_script


# Values at which a toy model shows what a method does, where the packaged recipe's are for large models.
TOY = {
    "lora": {"lora_r": 2},
    "reinit": {"reinit_layers": 1},
    "mixout": {"mixout": 0.6},
    "prior_decay": {"prior_decay": 5.0},
    "l2_sp": {"prior_decay": 5.0},
    "layerwise_lr": {"layerwise_lr_decay": 0.7},
    "component_clip": {"component_clip": 0.02},
    "r_drop": {"r_drop": 1.0},
    "r3f": {"r3f_eps": 0.1},
    "stable_adamw": {"update_clip": 0.2},
    "swa": {"average_from": 0.0},  # two weights at least, also in two steps
}
# Neutral values, where these are not the switch's default alone.
NEUTRAL = {
    "l2_sp": {"prior_decay_form": "l2_sp"},
    "child_tuning_f": {"child_tuning": "F", "child_tuning_share": 1.0},
    "child_tuning_d": {"child_tuning": "D", "child_tuning_share": 1.0},
}


def packaged() -> dict[str, tuple[dict, dict]]:
    """By recipe, of all that switch on a method: values that change the training, and values that must not."""
    found = {}
    for recipe in (load_recipe(name) for name in recipe_names() if "grid" not in name):
        for method in CLASSES:
            values = {name: value for name, value in recipe.args.items() if name in argument_names([method])}
            if method.from_arguments(values).is_on and not isinstance(method(), BiasCorrection):
                switch = fields(method.Arguments)[0]
                neutral = NEUTRAL.get(recipe.name, {switch.name: switch.default})
                found[recipe.name] = {**values, **TOY.get(recipe.name, {})}, neutral
    return found


METHODS = {
    **packaged(),
    "mixout_all": ({"mixout": 0.6, "mixout_where": "all", "mixout_rescale_grad": True}, {"mixout_where": "all"}),
}
ARCHITECTURES = ("bert", "roberta", "albert")
LEAN = ("stable_adamw", "gi_adam", "head_first", "ema", "swa", "lora")  # nothing in them depends on the architecture


def crossed(names, values, quick):
    """Each of these methods with each value. Those of `LEAN` are slow tests, except with `quick`."""
    slow = pytest.mark.slow
    return [
        pytest.param(name, value, marks=slow if name in LEAN and value != quick else ())
        for name in names
        for value in values
    ]


FAST = {**toy.QUIET, "learning_rate": 1e-3, "max_steps": 4, "eval_strategy": "no", "weight_decay": 0.1}


def works_on(name, architecture):
    return not (name == "reinit" and architecture == "albert")  # its one layer is shared


def train(folder, resume=None, architecture="bert", init=True, **values):
    args = StableTrainingArguments(str(folder), **{**FAST, **values})
    quick = [StabilityCallback(heat_map=False, tensorboard=False)]
    return toy.train(StableTrainer, args, callbacks=quick, resume=resume, architecture=architecture, init=init)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The stock Trainer's weights, by architecture."""
    folder = tmp_path_factory.mktemp("stock")
    args = TrainingArguments(str(folder), **FAST)
    return {name: toy.weights(toy.train(Trainer, args, architecture=name)) for name in ARCHITECTURES}


def test_every_method_has_a_recipe_and_every_number_is_tried():
    for method in CLASSES:
        switch = fields(method.Arguments)[0].name
        assert method is BiasCorrection or any(switch in values for values, _ in METHODS.values()), method
    used = {name for values, _ in METHODS.values() for name in values}
    assert {name for method in CLASSES for name in method.ranges} <= used
    used = {name for values, _ in METHODS.values() for name in values} | {"child_tuning_share"}
    assert {name for method in CLASSES for name in method.ranges} <= used


@pytest.mark.parametrize("name", METHODS)
def test_neutral_values_leave_the_training_bit_for_bit(name, plain, tmp_path):
    assert torch.equal(toy.weights(train(tmp_path, **METHODS[name][1])), plain["bert"])


PLAIN = [name for name in METHODS if name != "lora"]  # it saves adapters: test_lora.py


@pytest.mark.parametrize(("name", "architecture"), crossed(PLAIN, ARCHITECTURES, "bert"))
def test_it_acts_and_what_is_saved_is_a_plain_model(name, architecture, plain, tmp_path):
    if not works_on(name, architecture):
        with pytest.raises(InputError, match="--reinit_layers: albert uses one layer many times over"):
            train(tmp_path, architecture=architecture, **METHODS[name][0])
        return
    trainer = train(tmp_path, architecture=architecture, **METHODS[name][0])
    weights = toy.weights(trainer)
    assert torch.isfinite(weights).all() and not torch.equal(weights, plain[architecture])
    trainer.save_model(str(tmp_path / "saved"))
    loaded, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(loaded) is type(toy.model(architecture))
    assert torch.equal(toy.weights(loaded), weights)
    rows = torch.tensor(toy.data(4)["input_ids"])
    assert torch.equal(loaded.eval()(rows).logits, trainer.model.eval()(rows).logits)


@pytest.mark.parametrize(
    ("name", "init"), [*((name, True) for name in METHODS), ("l2_sp", False), ("child_tuning_d", False)]
)
def test_a_resumed_run_has_the_weights_of_one_that_was_not_interrupted(name, init, tmp_path):
    values = {**METHODS[name][0], "save_strategy": "steps", "save_steps": 2}
    whole = train(tmp_path, init=init, **values)
    resumed = train(tmp_path, resume=str(tmp_path / "checkpoint-2"), init=init, **values)
    assert torch.equal(toy.weights(resumed), toy.weights(whole))


TOGETHER = {
    "no correction": {"bias_correction": False},
    "clipping": {"max_grad_norm": 0.05},
    "no clipping": {"max_grad_norm": 0.0},
    "bf16": {"bf16": True},
    "accumulation": {"total_train_batch_size": 8, "gradient_accumulation_steps": 2},
}


@pytest.fixture(scope="module")
def without(tmp_path_factory):
    """Weights without any method, by setting."""
    folder = tmp_path_factory.mktemp("without")
    return {name: toy.weights(train(folder / name, **values)) for name, values in TOGETHER.items()}


@pytest.mark.parametrize(("name", "setting"), crossed(METHODS, TOGETHER, "clipping"))
def test_it_goes_with_the_rest(name, setting, without, tmp_path):
    if (name, setting) == ("gi_adam", "no correction"):
        with pytest.raises(InputError, match="--gi_adam with --bias_correction false"):
            train(tmp_path, **METHODS[name][0], **TOGETHER[setting])
        return
    with_it = train(tmp_path, **METHODS[name][0], **TOGETHER[setting])
    assert torch.isfinite(toy.weights(with_it)).all()
    assert not torch.equal(toy.weights(with_it), without[setting])
    record = with_it.stability.record
    assert record["step"].tolist() == [1, 2, 3, 4] and (record["grad_norm"] > 0).all()


# No dropout, so that a step's examples can be split; the others draw for each micro-batch.
WITHOUT_DRAWS = ("prior_decay", "l2_sp", "layerwise_lr", "component_clip", "child_tuning_f", "head_first")
WITHOUT_DROPOUT = toy.config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
ONE_BATCH = {"total_train_batch_size": 16, "optim": "sgd", "learning_rate": 0.1}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in LEAN else ()) for name in WITHOUT_DRAWS]
)
def test_accumulation_changes_nothing(name, tmp_path, monkeypatch):
    monkeypatch.setitem(toy.CONFIGS, "bert", WITHOUT_DROPOUT)
    values = {**METHODS[name][0], **ONE_BATCH}
    whole = train(tmp_path / "a", **values)
    parts = train(tmp_path / "b", gradient_accumulation_steps=4, **values)
    torch.testing.assert_close(toy.weights(parts), toy.weights(whole), rtol=1e-4, atol=1e-6)


NEED_ADAMW = ("stable_adamw", "gi_adam")
QUICK = ("component_clip",)
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in METHODS if name not in QUICK]


@pytest.mark.parametrize("name", [*QUICK, *SLOW])
def test_torch_compile(name, tmp_path, monkeypatch):
    monkeypatch.setitem(toy.CONFIGS, "bert", toy.config(num_hidden_layers=1))  # compiled sooner
    torch._dynamo.reset()
    steps = {
        "max_steps": 2,
        **({"learning_rate": 1e-3} if name in NEED_ADAMW else {"optim": "sgd", "learning_rate": 0.1}),
    }
    values, neutral = ({**steps, **own} for own in METHODS[name])
    compiled = train(tmp_path / "a", torch_compile=True, torch_compile_backend="aot_eager", **values)
    assert isinstance(compiled.model_wrapped, OptimizedModule)
    eager, plain = train(tmp_path / "b", **values), train(tmp_path / "c", **neutral)
    assert torch.isfinite(toy.weights(compiled)).all()
    if name not in ("mixout", "mixout_all", "r_drop", "r3f", "lora"):  # draws in another order; lora: other parameters
        from_eager = (toy.weights(compiled) - toy.weights(eager)).norm()
        assert from_eager < 0.01 * (toy.weights(plain) - toy.weights(eager)).norm()


@pytest.mark.parametrize("name", ["layerwise_lr", "prior_decay", "child_tuning_f", "child_tuning_d", "mixout"])
def test_a_second_training_with_one_trainer_goes_on(name, tmp_path):
    trainer = train(tmp_path, init=False, **METHODS[name][0])
    before = toy.weights(trainer)
    trainer.train()
    assert torch.isfinite(toy.weights(trainer)).all() and not torch.equal(toy.weights(trainer), before)
    inner = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    assert len(inner._optimizer_step_pre_hooks) == (name in ("prior_decay", "child_tuning_f", "child_tuning_d"))


def test_a_trial_of_a_search_has_its_own_values(tmp_path):
    args = StableTrainingArguments(str(tmp_path), **FAST)
    trainer = StableTrainer(model_init=lambda: toy.model(), args=args, train_dataset=toy.data(16))
    trainer.hp_search_backend, trainer.hp_name = "a search", None

    def set_up(self, trial):
        self.args.mixout = trial["mixout"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_hp_search_setup", set_up)
        for value in (0.4, 0.7):
            trainer.model = trainer.call_model_init({"mixout": value})
            assert not any(isinstance(m, MixLinear) for m in trainer.model.modules())
            trainer._hp_search_setup({"mixout": value})
            assert {m.mixout_p for m in trainer.model.modules() if isinstance(m, MixLinear)} == {value}
        with pytest.raises(InputError, match="--mixout 1.0"):
            trainer._hp_search_setup({"mixout": 1.0})


def test_two_methods_at_once(tmp_path, plain):
    values = {"mixout": 0.5, "prior_decay": 1.0, "layerwise_lr_decay": 0.9, "component_clip": 0.1, "r_drop": 0.5}
    weights = toy.weights(train(tmp_path, child_tuning="F", **values))
    assert torch.isfinite(weights).all() and not torch.equal(weights, plain["bert"])


def test_two_processes_have_the_same_weights(tmp_path, monkeypatch):
    """Under DistributedDataParallel, each method; without dropout those of one process, too. See the end of this file."""
    done = run_script(__file__, [tmp_path], processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2))
    assert set(first) == {*METHODS, "none"}
    for name, seen in first.items():
        assert seen["world_size"] == 2 and seen["wrapped"]
        assert seen["weights"] == second[name]["weights"], name
        assert (seen["weights"] == first["none"]["weights"]) == (name == "none")
    monkeypatch.setitem(toy.CONFIGS, "bert", WITHOUT_DROPOUT)
    for name in WITHOUT_DRAWS:
        alone = train(tmp_path / name, **METHODS[name][0], **ONE_BATCH)
        together = torch.tensor(first[name]["without_dropout"])
        torch.testing.assert_close(together, toy.weights(alone), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"r_drop": 1.0, "r3f": 1.0}, "--r_drop and --r3f"),
        ({"reinit_layers": 1, "mixout": 0.5}, "--reinit_layers 1 with --mixout 0.5"),
        ({"reinit_layers": 1, "prior_decay": 0.5}, "--reinit_layers 1 with --prior_decay 0.5"),
        ({"mixout": 1.0}, "--mixout 1.0: must be 0 or more, and below 1"),
        ({"prior_decay": -1.0}, "--prior_decay -1.0: must be 0 or more"),
        ({"layerwise_lr_decay": 0.0}, "--layerwise_lr_decay 0.0: must be above 0, and at most 1"),
        ({"layerwise_lr_decay": 1.2}, "--layerwise_lr_decay 1.2: must be above 0, and at most 1"),
        ({"child_tuning_share": 0.0}, "--child_tuning_share 0"),
        ({"child_tuning": "E"}, "--child_tuning E: must be one of none, F, D"),
        ({"mixout_where": "some"}, "--mixout_where some: must be one of dropout, all"),
        ({"r_drop": 1.0, "label_smoothing_factor": 0.1}, "--r_drop with --label_smoothing_factor"),
        ({"child_tuning": "D", "label_smoothing_factor": 0.1}, "--child_tuning D with --label_smoothing_factor"),
    ],
)
def test_what_cannot_be_is_refused_when_the_arguments_are_made(values, message, tmp_path):
    with pytest.raises(InputError, match=message):
        StableTrainingArguments(str(tmp_path), **values)


def test_what_others_made_is_not_silently_left_alone(tmp_path):
    model = toy.model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    args = StableTrainingArguments(str(tmp_path), **FAST, layerwise_lr_decay=0.9)
    trainer = StableTrainer(model, args, train_dataset=toy.data(16), optimizers=(optimizer, None))
    with pytest.raises(InputError, match="--layerwise_lr_decay: an optimizer was passed to the Trainer"):
        trainer.train()
    args = StableTrainingArguments(str(tmp_path), **FAST, r_drop=1.0)
    dry = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    with pytest.raises(InputError, match="has no dropout"):
        StableTrainer(toy.model(**dry), args, train_dataset=toy.data(16))
    regression = toy.model(num_labels=2, problem_type="regression")
    rows = toy.data(16).map(lambda row: {"label": [0.1, 0.9]})
    with pytest.raises(InputError, match="with one label per example"):
        StableTrainer(regression, args, train_dataset=rows).train()
    decoder = GPT2ForSequenceClassification(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=60, pad_token_id=0))
    with pytest.raises(InputError, match="--r3f: a gpt2 looks for padding"):
        values = StableTrainingArguments(str(tmp_path), **FAST, r3f=1.0)
        StableTrainer(decoder, values, train_dataset=toy.data(16)).train()
    trainer = StableTrainer(toy.model(), args, train_dataset=toy.data(16), compute_loss_func=lambda *a, **k: None)
    with pytest.raises(InputError, match="--r_drop: needs a ...ForSequenceClassification"):
        trainer.train()


if __name__ == "__main__":
    found = {}
    for name, values in {**{name: values for name, (values, _) in METHODS.items()}, "none": {}}.items():
        trainer = train(Path(sys.argv[1]) / name, ddp_find_unused_parameters=False, **values)
        found[name] = {
            "weights": toy.weights(trainer).double().sum().item(),
            "world_size": trainer.args.world_size,
            "wrapped": isinstance(trainer.model_wrapped, torch.nn.parallel.DistributedDataParallel),
        }
    toy.CONFIGS["bert"] = WITHOUT_DROPOUT
    for name in WITHOUT_DRAWS:
        trainer = train(Path(sys.argv[1]) / name, ddp_find_unused_parameters=False, **METHODS[name][0], **ONE_BATCH)
        found[name]["without_dropout"] = toy.weights(trainer).tolist()
    (Path(sys.argv[1]) / f"rank-{trainer.args.process_index}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()
