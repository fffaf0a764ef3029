import os

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from transformers import SchedulerType

from hf_stability.errors import InputError
from hf_stability.recipe import coerce, load_recipe, recipe_names, resolve, resolve_model_config
from hf_stability.training_args import StableTrainingArguments
from tests import toy


def write(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return str(path)


# ---- every recipe, found by itself ---------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", ["bert", "roberta", "albert", "electra"])
@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_makes_training_arguments(name, model_type, tmp_path):
    args = StableTrainingArguments.from_recipe(name, model_type, output_dir=str(tmp_path), use_cpu=True)
    assert args.recipe == name and args.seed_streams


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_opens_with_its_source_and_its_command(name):
    recipe = load_recipe(name)
    head = [line for line in recipe.path.read_text().splitlines() if line.startswith("#")]
    assert any("run_glue_stable.py" in line and f"--recipe {name}" in line for line in head)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_sets_fields_that_the_models_configs_have(name):
    recipe = load_recipe(name)
    for model_type in ("bert", "roberta", "albert"):
        for key in resolve_model_config(recipe, model_type):
            assert hasattr(toy.CONFIGS[model_type], key), f"{model_type} has no {key}"


# ---- the paper's values (see each recipe's sources) ------------------------------------------------------------------


@pytest.mark.parametrize(("name", "epochs", "bias_correction"), [("devlin2019", 3, False), ("mosbach2021", 20, True)])
def test_the_papers_recipes(name, epochs, bias_correction):
    values = {key: r.value for key, r in resolve(load_recipe(name), "bert").items()}
    assert (values["num_train_epochs"], values["bias_correction"]) == (epochs, bias_correction)
    assert (values["learning_rate"], values["total_train_batch_size"], values["warmup_steps"]) == (2e-5, 16, 0.1)
    assert (values["adam_epsilon"], values["adam_beta1"], values["adam_beta2"]) == (1e-6, 0.9, 0.999)
    assert (values["weight_decay"], values["max_grad_norm"], values["lr_scheduler_type"]) == (0.01, 1.0, "linear")


@pytest.mark.parametrize("name", ["devlin2019", "mosbach2021"])
def test_the_parts_of_roberta_and_albert(name):
    recipe = load_recipe(name)
    roberta, albert = ({key: r.value for key, r in resolve(recipe, kind).items()} for kind in ("roberta", "albert"))
    assert (roberta["weight_decay"], roberta["adam_beta2"], roberta["max_grad_norm"]) == (0.1, 0.98, 0)
    assert (albert["weight_decay"], albert["adam_beta2"], albert["max_grad_norm"]) == (0, 0.999, 1.0)
    dropout = {key: r.value for key, r in resolve_model_config(recipe, "albert").items()}
    assert set(dropout.values()) == {0} and "classifier_dropout_prob" in dropout
    assert resolve_model_config(recipe, "roberta")["hidden_dropout_prob"].value == 0.1


def test_transformers_default_leaves_the_trainer_alone(tmp_path):
    ours = StableTrainingArguments.from_recipe("transformers_default", output_dir=str(tmp_path))
    stock = StableTrainingArguments(output_dir=str(tmp_path))
    changed = {k for k, v in stock.to_dict().items() if ours.to_dict()[k] != v}
    assert changed == {"seed_streams", "init_seed", "data_seed", "dropout_seed"}


# ---- errors ------------------------------------------------------------------------------------------------------------


def test_all_errors_are_reported_at_once_with_the_nearest_names(tmp_path):
    path = write(
        tmp_path,
        """
arg: {}
args:
  learning_rat: 2e-5
  num_train_epochs: three
  max_grad_norm: null
  bias_correction: 1
  lr_scheduler_type: linea
  seed: 3
model_types:
  roberta:
    args: {wieght_decay: 0.1}
    modelconfig: {}
""",
    )
    with pytest.raises(InputError) as caught:
        load_recipe(path)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{path} has 9 errors:"
    text = str(caught.value)
    for piece in (
        "arg: no such key (did you mean args?)",
        "args.learning_rat: no such key (did you mean learning_rate?)",
        "args.num_train_epochs: expected float, found 'three'",
        "args.max_grad_norm: expected float, found None",
        "args.bias_correction: expected bool, found 1",
        "args.lr_scheduler_type: expected",
        "args.seed: a recipe cannot set this",
        "model_types.roberta.args.wieght_decay: no such key (did you mean weight_decay?)",
        "model_types.roberta.modelconfig: no such key (did you mean model_config?)",
    ):
        assert piece in text


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2]",
        "args: 3",
        "args: {a: ",
        "just words",
        "model_types: {bert: 3}",
        "model_types: {bert: {model_config: [1]}}",
    ],
)
def test_what_is_no_recipe_is_an_input_error(tmp_path, text):
    with pytest.raises(InputError, match="mine.yaml"):
        load_recipe(write(tmp_path, text))


def test_a_single_error_is_a_single_line(tmp_path):
    with pytest.raises(InputError, match=r"mine.yaml: args.x: no such key$"):
        load_recipe(write(tmp_path, "args: {x: 1}"))


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(InputError, match="did you mean mosbach2021"):
        load_recipe("mosbach2020")


# ---- types --------------------------------------------------------------------------------------------------------------


def test_a_rate_that_yaml_reads_as_text_becomes_a_number(tmp_path):
    assert yaml.safe_load("2e-5") == "2e-5"
    assert load_recipe(write(tmp_path, "args: {learning_rate: 2e-5}")).args == {"learning_rate": 2e-5}


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_field_takes_any_way_of_writing_a_float(value):
    assert coerce(str(value), float) == coerce(value, float) == value


@given(st.integers(-(10**6), 10**6))
def test_an_int_field_takes_an_int_and_never_a_fraction(value):
    assert coerce(value, int) == coerce(str(value), int) == value
    with pytest.raises(ValueError, match="expected int"):
        coerce(value + 0.5, int)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (True, float),
        (1, bool),
        ("yes", bool),
        (None, float),
        (float("nan"), float),
        (float("inf"), float),
        ("x", int),
        ([], dict),
        ("linea", SchedulerType),
    ],
)
def test_what_is_of_another_type_is_refused(value, annotation):
    with pytest.raises(ValueError, match="expected"):
        coerce(value, annotation)


# ---- precedence -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packaged", [True, False])
def test_command_line_over_preset_over_model_type_over_recipe_over_study_default(tmp_path, monkeypatch, packaged):
    if packaged:
        monkeypatch.setattr("hf_stability.recipe.recipe_dir", lambda: tmp_path)
    text = """
args: {learning_rate: 1, weight_decay: 1, adam_beta2: 1, max_steps: 1}
model_types: {roberta: {args: {weight_decay: 2, adam_beta2: 2, max_steps: 2}}}
"""
    recipe = load_recipe(write(tmp_path, text))
    found = resolve(
        recipe,
        "roberta",
        {"adam_beta2": 3.0, "max_steps": 3, "adam_beta1": 3.0},
        "task preset",
        {"max_steps": 4},
        base={"logging_steps": 0, "learning_rate": 0},
    )
    assert {name: (r.value, r.source) for name, r in found.items()} == {
        "logging_steps": (0, "study default"),
        "learning_rate": (1.0, "recipe mine"),
        "weight_decay": (2.0, "recipe mine, roberta"),
        "adam_beta1": (3.0, "task preset"),
        # What a user wrote in a file of his own is meant for the task.
        "adam_beta2": (3.0, "task preset") if packaged else (2.0, "recipe mine, roberta"),
        "max_steps": (4, "--max_steps"),
    }
    assert recipe.is_packaged == packaged
    assert load_recipe(os.path.relpath(recipe.path)).is_packaged == packaged
    assert resolve(recipe, "bert")["weight_decay"].value == 1.0
