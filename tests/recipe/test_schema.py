import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from transformers import SchedulerType

from hf_stability.errors import InputError
from hf_stability.recipe import Stage, load_recipe, load_recipes
from hf_stability.recipe.schema import coerce
from tests.recipe.files import write


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("replaces: weight_decay", "replaces: expected a list of arguments, found 'weight_decay'"),
        (
            "args: {weight_decay: 0}\nreplaces: [wieght_decay]",
            "wieght_decay is not set here.*did you mean weight_decay?",
        ),
        ("model_config: {hidden_dropout_prob: 0}\nreplaces: [hidden_dropout_prob]", "model_config.FIELD"),
        # For all other model types nothing would be in its place.
        ("model_types: {bert: {args: {weight_decay: 0}}}\nreplaces: [weight_decay]", "weight_decay is not set here"),
        ("model_types: {bert: {replaces: [weight_decay]}}", "model_types.bert.replaces: no such key"),
    ],
)
def test_what_cannot_be_replaced_is_an_error(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        load_recipe(write(tmp_path, text))


def test_all_errors_of_a_grid_are_reported_at_once(tmp_path):
    path = write(
        tmp_path,
        """
args: {weight_decay: 0.1}
model_config: {hidden_dropout_prob: 0}
model_types: {roberta: {args: {adam_beta2: 0.98}}}
grid:
  learning_rat: [1]
  learning_rate: [1e-5, x, true]
  max_steps: []
  num_train_epochs: 3
  weight_decay: [0, 0.1]
  adam_beta2: [0.9, 0.98]
  model_config.hidden_dropout_prob: [0, 0.1]
  hidden_dropout_prob: [0]
  adam_beta1: [0.9, "0.90"]
  model_name_or_path: [bert-base-uncased, bert-large-uncased]
  data_seed: [1, 2]
""",
    )
    with pytest.raises(InputError) as caught:
        load_recipes(path)
    first, *lines = str(caught.value).splitlines()
    assert first == f"{path} has 12 errors:"
    for line, piece in zip(
        lines,
        (
            "grid.learning_rat: no such key (did you mean learning_rate?)",
            "grid.learning_rate: expected float, found 'x'",
            "grid.learning_rate: expected float, found True",
            "grid.max_steps: the list is empty",
            "grid.num_train_epochs: expected a list of values, found 3",
            "grid.weight_decay: it is also in args;",
            "grid.adam_beta2: it is also in model_types.roberta.args;",
            "grid.model_config.hidden_dropout_prob: it is also in model_config;",
            "grid.hidden_dropout_prob: no such key; write a field of the model's config as model_config.FIELD",
            "grid.adam_beta1: 0.9 is there twice",
            "grid.model_name_or_path: all runs of a study have the same model and data",
            "grid.data_seed: a recipe cannot set this",
        ),
        strict=True,
    ):
        assert line.startswith(f"  {piece}")


def test_stages_are_read_in_their_order(tmp_path):
    text = """
stages:
  - {task_name: mnli, data_dir: glue, seed: 7, args: {learning_rate: 3e-5}}
  - {train_file: a.csv, validation_file: b.csv}
"""
    first, second = load_recipe(write(tmp_path, text)).stages
    assert first == Stage(task_name="mnli", data_dir="glue", args={"learning_rate": 3e-5}, seed=7)
    assert second == Stage(train_file="a.csv", validation_file="b.csv", args={}, seed=1)
    assert load_recipe(write(tmp_path, "stages:")).stages == load_recipe("devlin2019").stages == ()


def test_all_that_is_wrong_with_stages_is_told_at_once(tmp_path):
    text = """
stages:
  - {task: mnli, task_name: 3}
  - {task_name: mnli, train_file: a.csv, seed: -1}
  - {train_file: a.csv, args: {learning_rat: 1, learning_rate: x, seed: 3}}
  - mnli
  - {seed: true, args: [1]}
  - {train_file: a.csv, validation_file: b.csv, data_dir: c}
"""
    with pytest.raises(InputError) as caught:
        load_recipe(write(tmp_path, text))
    assert [line.strip() for line in str(caught.value).splitlines()[1:]] == [
        "stages.1.task: no such key (did you mean task_name?)",
        "stages.1.task_name: expected text, found 3",
        "stages.2.seed: expected a whole number from 0 to 2^32 - 1, found -1",
        "stages.2: give either task_name or train_file, not both",
        "stages.3: train_file goes with validation_file; give both",
        "stages.3.args.learning_rat: no such key (did you mean learning_rate?)",
        "stages.3.args.learning_rate: expected float, found 'x'",
        "stages.3.args.seed: a recipe cannot set this; give it on the command line",
        "stages.4: expected a mapping with task_name, found 'mnli'",
        "stages.5.seed: expected a whole number from 0 to 2^32 - 1, found True",
        "stages.5: no data: give task_name, or train_file with validation_file",
        "stages.5.args: expected a mapping, found [1]",
        "stages.6: data_dir goes with a GLUE task_name, not with train_file",
    ]
    with pytest.raises(InputError, match="stages: expected a list of stages, found {'task_name': 'mnli'}"):
        load_recipe(write(tmp_path, "stages: {task_name: mnli}"))
