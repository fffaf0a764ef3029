"""Methods as plug-ins: a made-up one does everything that ours do, and touches no file of the package."""

import ast
import copy
import dataclasses
import inspect
import pickle
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from transformers import HfArgumentParser, Trainer, TrainerCallback, TrainingArguments

from hf_stability import StabilityCallback, StableTrainer, StableTrainingArguments
from hf_stability.errors import InputError
from hf_stability.methods import METHODS, Method, Range, argument_names
from hf_stability.methods.child_tuning import ChildTuningMethod
from hf_stability.methods.mixout import Mixout
from hf_stability.methods.reinit import Reinit
from hf_stability.recipe.arguments import argument_types
from hf_stability.training_args import arguments_class
from tests import toy


PACKAGE = Path(__file__).parents[2] / "hf_stability"
CALLS = []


@dataclass
class TwistArguments:
    twist: float = field(default=0.0, metadata={"help": "How much of everything; 0 is nothing."})
    twist_form: str = field(default="soft", metadata={"help": "Which form.", "choices": ["soft", "hard"]})


class Twist(Method):
    """Has every hook, and notes each call."""

    Arguments = TwistArguments
    ranges = {"twist": Range(0, 1)}
    needs_whole_gradients = True

    def check(self, args):
        if args.get("label_smoothing_factor"):
            raise InputError("--twist with --label_smoothing_factor: give one of them")

    def check_model(self, config, task):
        CALLS.append("check_model")

    def describe(self, config, args):
        return [f"twist of {config.model_type}"]

    def prepare_model(self, model, trainer, generator=None):
        CALLS.append("prepare_model")

    def begin_training(self, model, trainer):
        CALLS.append("begin_training")

    def change_optimizer(self, optimizer_cls, kwargs, args):
        CALLS.append("change_optimizer")
        return torch.optim.SGD, {"lr": kwargs["lr"]}

    def parameter_groups(self, trainer, learning_rate):
        CALLS.append("parameter_groups")
        return [{"params": [p], "lr": learning_rate} for p in trainer.model.parameters()]

    def check_optimizer(self, optimizer):
        CALLS.append(f"check_optimizer {type(optimizer).__name__} {len(optimizer.param_groups) > 2}")

    def change_scheduler(self, scheduler, trainer, passed_in):
        CALLS.append(f"change_scheduler {passed_in}")
        return scheduler

    def loss(self, compute_loss, inputs, trainer):
        CALLS.append("loss")
        loss, outputs = compute_loss(dict(inputs))
        return loss * (1 + self.settings.twist), outputs

    def add_gradients(self):
        CALLS.append("add_gradients")

    def clip(self, gradients, norms):
        CALLS.append("clip")
        return norms

    def before_step(self, optimizer, steps_done):
        CALLS.append(f"before_step {steps_done}")

    def after_step(self, optimizer, steps_done):
        CALLS.append(f"after_step {steps_done}")


FAST = {**toy.QUIET, "max_steps": 2, "eval_strategy": "no", "save_strategy": "no", "learning_rate": 0.01}
QUIET = {"heat_map": False, "tensorboard": False}
EACH_STEP = ["loss", "add_gradients", "clip", "before_step", "after_step"]


def train(tmp_path, args=None, **more):
    CALLS.clear()
    args = StableTrainingArguments(str(tmp_path), **FAST) if args is None else args
    trainer = StableTrainer(
        toy.model(), args, train_dataset=toy.data(16), callbacks=[StabilityCallback(**QUIET)], **more
    )
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    """The stock Trainer's weights with SGD."""
    folder = tmp_path_factory.mktemp("stock")
    trainer = Trainer(toy.model(), TrainingArguments(str(folder), **FAST, optim="sgd"), train_dataset=toy.data(16))
    trainer.train()
    return toy.weights(trainer)


def check_calls():
    """Every hook of a training was called, in this order, once or once per update step."""
    once = [call for call in CALLS if call.split()[0] not in EACH_STEP]
    assert once == [
        "prepare_model",
        "begin_training",
        "change_optimizer",
        "parameter_groups",
        "check_optimizer SGD True",
        "change_scheduler False",
    ]
    steps = [call for call in CALLS if call.split()[0] in EACH_STEP]
    assert steps == [*EACH_STEP[:3], "before_step 0", "after_step 0", *EACH_STEP[:3], "before_step 1", "after_step 1"]


def test_a_method_passed_to_the_trainer_has_all_hooks_called(tmp_path, stock):
    trainer = train(tmp_path, methods=[Twist(twist=0.5)])
    check_calls()
    assert not torch.equal(toy.weights(trainer), stock) and trainer.stability.adds_loss_terms


def test_arguments_with_the_methods_fields_do_the_same(tmp_path):
    passed = train(tmp_path, methods=[Twist(twist=0.5)])
    args = arguments_class([Twist])(str(tmp_path), **FAST, twist=0.5)
    trainer = train(tmp_path, args)
    check_calls()
    assert torch.equal(toy.weights(trainer), toy.weights(passed))


def test_off_it_changes_nothing(tmp_path):
    plain = train(tmp_path)
    for off in ({"methods": [Twist()]}, {"args": arguments_class([Twist])(str(tmp_path), **FAST, twist_form="hard")}):
        trainer = train(tmp_path, **off)
        assert CALLS == [] and torch.equal(toy.weights(trainer), toy.weights(plain))


def test_its_arguments_are_arguments_like_ours(tmp_path):
    cls = arguments_class([Twist])
    assert cls is arguments_class([Twist]) and arguments_class([]) is StableTrainingArguments
    (args,) = HfArgumentParser(cls).parse_args_into_dataclasses(
        ["--output_dir", "x", "--twist", "0.25", "--mixout", "0.5"]
    )
    assert (args.twist, args.twist_form, args.mixout) == (0.25, "soft", 0.5) and isinstance(
        args, StableTrainingArguments
    )
    assert argument_types((Twist,))["twist"] is float and "twist" not in argument_types()
    for values, message in (
        ({"twist": 1.5}, "--twist 1.5: must be 0 or more, and below 1"),
        ({"twist_form": "loud"}, "--twist_form loud: must be one of soft, hard"),
        ({"twist": 0.1, "label_smoothing_factor": 0.1}, "--twist with --label_smoothing_factor"),
    ):
        with pytest.raises(InputError, match=message):
            cls(str(tmp_path), **values)
    with pytest.raises(InputError, match="--twist 2"):
        train(tmp_path, methods=[Twist(twist=2)])


def test_arguments_can_be_copied_and_pickled(tmp_path):
    for methods in ([], [Twist]):
        args = arguments_class(methods)(str(tmp_path), **FAST)
        for copied in (copy.deepcopy(args), pickle.loads(pickle.dumps(args)), dataclasses.replace(args)):
            assert type(copied) is type(args) and copied.to_dict() == args.to_dict()


def test_a_recipe_file_brings_its_methods_with_it(tmp_path, monkeypatch):
    examples = Path(__file__).parents[2] / "examples"
    args = StableTrainingArguments.from_recipe(
        f"devlin2019+{examples / 'own_method.yaml'}", "bert", output_dir=str(tmp_path), max_steps=2
    )
    assert args.noisy_tune == 0.15 and not args.bias_correction
    assert [method.__name__ for method in args.own_methods] == ["NoisyTune"]
    values = {"output_dir": str(tmp_path), **toy.QUIET, "max_steps": 1, "total_train_batch_size": 8}
    with_noise = StableTrainingArguments.from_recipe(str(examples / "own_method.yaml"), **values)
    first, second = (
        toy.weights(StableTrainer(toy.model(), args, train_dataset=toy.data(16)))
        for args in (with_noise, StableTrainingArguments(**values))
    )
    change = (first - second).abs()
    assert 0 < change.max() and (change > 0).float().mean() > 0.9  # every weight but the head's and constant ones


def test_a_name_that_is_taken_is_refused():
    @dataclass
    class Arguments:
        mixout: float = 0.0

    class Mine(Method):
        pass

    Mine.Arguments = Arguments
    with pytest.raises(InputError, match="there is an argument mixout already; give this one another name"):
        arguments_class([Mine])


def test_a_method_without_arguments_is_always_on(tmp_path):
    seen = []

    class Count(Method):
        def before_step(self, optimizer, steps_done):
            seen.append(steps_done)

    train(tmp_path, methods=[Count()])
    assert seen == [0, 1] and Count.flag() == "Count"


def test_an_optimizer_that_was_passed_in_is_not_silently_left_alone(tmp_path):
    model = toy.model()
    args = StableTrainingArguments(str(tmp_path), **FAST)
    optimizers = (torch.optim.SGD(model.parameters(), lr=0.1), None)
    trainer = StableTrainer(model, args, train_dataset=toy.data(16), optimizers=optimizers, methods=[Twist(twist=0.5)])
    with pytest.raises(InputError, match="--twist: an optimizer was passed to the Trainer"):
        trainer.train()


def test_arguments_may_change_until_training_begins_and_while_it_goes_on(tmp_path):
    def weights(change=None, during=None, **values):
        args = StableTrainingArguments(str(tmp_path), **{**FAST, "max_steps": 3}, **values)
        trainer = StableTrainer(toy.model(), args, train_dataset=toy.data(24), callbacks=[StabilityCallback(**QUIET)])
        for name, value in (change or {}).items():
            setattr(trainer.args, name, value)
        if during:
            trainer.add_callback(during)
        trainer.train()
        return toy.weights(trainer)

    class Later(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            args.component_clip = 0.01

    plain = weights()
    for name, value in {
        "component_clip": 0.01, "r_drop": 2.0, "layerwise_lr_decay": 0.5, "child_tuning": "F", "bias_correction": False,
    }.items():  # fmt: skip
        changed = weights({name: value})
        assert torch.equal(changed, weights(**{name: value})) and not torch.equal(changed, plain), name
    both = {"bias_correction": False, "lr_bias_correction": True}
    assert torch.equal(weights(both), weights(**both))
    assert torch.equal(weights({"r_drop": 0.0}, r_drop=2.0), plain)
    assert not torch.equal(weights(during=Later()), plain)
    assert torch.equal(
        weights({"prior_decay": 5.0}), plain
    )  # there was nothing to remember when the model was prepared


def test_arguments_of_a_class_or_a_property_count(tmp_path):
    class Own(TrainingArguments):
        component_clip = 0.01

        @property
        def bias_correction(self):
            return False

    train(tmp_path, Own(str(tmp_path), **FAST))
    trainer = train(tmp_path, Own(str(tmp_path), **FAST))
    assert [method.flag() for method in trainer.methods.methods if method.is_on] == [
        "--bias_correction",
        "--component_clip",
    ]
    assert not torch.equal(
        toy.weights(trainer), toy.weights(train(tmp_path, TrainingArguments(str(tmp_path), **FAST)))
    )


@pytest.mark.parametrize("init", [True, False])
def test_who_makes_their_own_optimizer_still_has_terms_known(init, tmp_path):
    class Own(StableTrainer):
        def create_optimizer(self, *args, **kwargs):
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
            return self.optimizer

    args = StableTrainingArguments(str(tmp_path), **FAST, r_drop=1.0)
    model = {"model_init": lambda: toy.model()} if init else {"model": toy.model()}
    trainer = Own(args=args, train_dataset=toy.data(16), callbacks=[StabilityCallback(**QUIET)], **model)
    assert trainer.stability.adds_loss_terms
    trainer.train()
    assert trainer.stability.adds_loss_terms


def test_methods_that_are_passed_are_checked_like_those_of_the_arguments(tmp_path):
    args = StableTrainingArguments(str(tmp_path), **FAST)
    for methods, message in (
        ([Reinit(reinit_layers=1), Mixout(mixout=0.5)], "--reinit_layers 1 with --mixout 0.5"),
        ([Twist], "Give objects: methods=.Mine"),
        (Twist, "Give objects"),
        ([3], "Give objects"),
    ):
        with pytest.raises(InputError, match=message):
            StableTrainer(toy.model(), args, train_dataset=toy.data(16), methods=methods)
    with pytest.raises(InputError, match="--reinit_layers 1 with --mixout 0.5"):
        other = StableTrainingArguments(str(tmp_path), **FAST, mixout=0.5)
        StableTrainer(toy.model(), other, train_dataset=toy.data(16), methods=[Reinit(reinit_layers=1)])
    stock = TrainingArguments(str(tmp_path), **FAST)
    trainer = train(tmp_path, stock, methods=ChildTuningMethod(child_tuning="F"))  # one alone, without our arguments
    assert not torch.equal(toy.weights(trainer), toy.weights(train(tmp_path, stock)))


def test_a_switch_that_is_a_list_is_off_by_default():
    @dataclass
    class Arguments:
        parts: list[str] = field(default_factory=list, metadata={"help": "Which parts."})

    class Parts(Method):
        pass

    Parts.Arguments = Arguments
    assert not Parts().is_on and Parts(parts=["a"]).is_on and Parts.flag() == "--parts"


class Split(Method):
    """Parameter groups of its own, or none."""

    @dataclass
    class Arguments:
        split: str = field(default="no", metadata={"help": "Whether, and how."})

    def parameter_groups(self, trainer, learning_rate):
        if self.settings.split == "abstain":
            return None
        return [{"params": list(trainer.model.parameters()), "lr": 2 * learning_rate}]


def test_two_methods_with_parameter_groups_are_refused(tmp_path):
    args = StableTrainingArguments(str(tmp_path), **FAST, layerwise_lr_decay=0.9)
    message = "--layerwise_lr_decay and --split: each makes the optimizer's parameter groups. Use only one of them."
    with pytest.raises(InputError, match=message):
        train(tmp_path, args, methods=[Split(split="yes")])
    alone = [group["lr"] for group in train(tmp_path, args).optimizer.param_groups]
    beside = train(tmp_path, args, methods=[Split(split="abstain")])
    assert [group["lr"] for group in beside.optimizer.param_groups] == alone and len(alone) > 2
    only = train(tmp_path, methods=[Split(split="yes")])
    assert [group["initial_lr"] for group in only.optimizer.param_groups] == [2 * FAST["learning_rate"]]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_every_packaged_method_is_off_by_default_and_documented(method):
    assert not method().is_on and method.__doc__
    method().check_values()
    for argument in dataclasses.fields(method.Arguments):
        assert len(argument.metadata["help"]) > 20
    assert set(method.ranges) <= set(argument_names([method]))
    assert "arXiv" in Path(inspect.getfile(method)).read_text(encoding="utf-8"), "a method's file cites its paper"


def names_in(path):
    """Every identifier, attribute and whole string in a file's code."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.keyword):
            yield node.arg
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


NEUTRAL = [
    "trainer.py",
    "training_args.py",
    "callback.py",
    *(f"{room}/**/*.py" for room in ("study", "cli", "recipe")),
]


@pytest.mark.parametrize("path", sorted(p for part in NEUTRAL for p in PACKAGE.glob(part)), ids=str)
def test_who_uses_methods_names_none(path):
    assert not set(names_in(path)) & set(argument_names())
