import os
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from transformers import SchedulerType

from hf_stability.errors import InputError
from hf_stability.recipe import Stage, load_recipe, load_recipes, recipe_dir, recipe_names
from hf_stability.recipe.compose import compose, expand
from hf_stability.recipe.resolve import resolve, resolve_model_config, resolve_stage
from hf_stability.recipe.schema import coerce, parse_recipe
from hf_stability.tasks.presets import PRESETS, task_preset
from hf_stability.training_args import METHOD_ARGS, StableTrainingArguments
from tests import toy


def write(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return str(path)


# ---- every recipe, found by itself ---------------------------------------------------------------------------------

EVERY = [recipe.name for name in recipe_names() for recipe in load_recipes(name)]  # those of grids, too
ADD_ONS = [name for name in recipe_names() if "An add-on:" in (recipe_dir() / f"{name}.yaml").read_text()]
BASES = [name for name in recipe_names() if name not in ADD_ONS and not name.endswith("_grid")]


@pytest.mark.parametrize("model_type", ["bert", "roberta", "albert", "electra"])
@pytest.mark.parametrize("name", EVERY)
def test_every_recipe_makes_training_arguments(name, model_type, tmp_path):
    args = StableTrainingArguments.from_recipe(name, model_type, output_dir=str(tmp_path), use_cpu=True)
    assert args.recipe == name and args.seed_streams


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_opens_with_its_source_and_its_command(name):
    lines = (recipe_dir() / f"{name}.yaml").read_text().splitlines()
    head = [line for line in lines if line.startswith("#")]
    commands = [line.partition("--recipe ")[2].split() for line in head if "run_glue_stable.py" in line]
    (asked,) = {words[0] for words in commands if words}
    assert name in asked.split("+")  # alone, or on top of another
    assert all(recipe.name.startswith(asked) for recipe in load_recipes(asked))  # its parts go together


@pytest.mark.parametrize("name", EVERY)
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


@pytest.mark.parametrize("model_type", ["bert", "roberta", "albert"])
def test_the_released_step_is_the_stable_baseline_but_for_where_the_correction_is(model_type):
    """See tests/methods/test_adamw.py for the step itself."""
    ours, theirs = (
        {
            key: r.value
            for key, r in {**resolve(recipe, model_type), **resolve_model_config(recipe, model_type)}.items()
        }
        for recipe in map(load_recipe, ("mosbach2021", "mosbach2021_released"))
    )
    assert theirs == {**ours, "bias_correction": False, "lr_bias_correction": True}


@pytest.mark.parametrize("task", PRESETS)
def test_a_demo_tasks_rate_is_that_of_all_whole_recipes(task):
    for base in BASES:
        rate = resolve(load_recipe(base), "bert", task_preset(task))["learning_rate"]
        assert (rate.value, rate.source) == (PRESETS[task]["learning_rate"], "task preset")


@pytest.mark.parametrize("add_on", ADD_ONS)
@pytest.mark.parametrize("base", BASES)
def test_every_method_can_be_added_to_every_whole_recipe(base, add_on, tmp_path):
    for model_type in ("bert", "roberta", "albert"):
        values = {"output_dir": str(tmp_path), "use_cpu": True}
        args = StableTrainingArguments.from_recipe(f"{base}+{add_on}", model_type, **values)
        alone, base_alone = (StableTrainingArguments.from_recipe(r, model_type, **values) for r in (add_on, base))
        default = StableTrainingArguments(**values)
        for key in ("bias_correction", "lr_bias_correction", "num_train_epochs", "learning_rate", "adam_beta2"):
            assert getattr(args, key) == getattr(base_alone, key)
        for key in (*METHOD_ARGS, "max_grad_norm"):
            set_by_method = getattr(alone, key) != getattr(default, key)
            assert getattr(args, key) == getattr(alone if set_by_method else base_alone, key)


@pytest.mark.parametrize("name", ["devlin2019", "mosbach2021", "mosbach2021_released"])
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
        monkeypatch.setattr("hf_stability.recipe.load.recipe_dir", lambda: tmp_path)
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


# ---- a+b -----------------------------------------------------------------------------------------------------------------


def files(tmp_path, **contents):
    """A file for each, and their names composed."""
    paths = []
    for name, text in contents.items():
        paths.append(tmp_path / f"{name}.yaml")
        paths[-1].write_text(text)
    return "+".join(map(str, paths))


def found(recipe, model_type=None):
    """What is in force, by name, with its source."""
    both = {**resolve(recipe, model_type), **resolve_model_config(recipe, model_type)}
    return {name: (r.value, r.source) for name, r in both.items()}


def test_a_composed_recipe_sets_what_its_parts_set_and_names_them(tmp_path):
    composed = files(
        tmp_path,
        base="""
args: {learning_rate: 1e-5, seed_streams: true}
model_config: {hidden_dropout_prob: 0.1}
model_types: {roberta: {args: {weight_decay: 0.1}}}
""",
        more="""
args: {reinit_layers: 2, seed_streams: true}
model_types: {albert: {args: {reinit_layers: 0}, model_config: {classifier_dropout_prob: 0}}}
""",
    )
    recipe = load_recipe(composed)
    assert recipe.name == "base+more" and not recipe.is_packaged
    common = {
        "learning_rate": (1e-5, "recipe base"),
        "seed_streams": (True, "recipe more"),
        "hidden_dropout_prob": (0.1, "recipe base"),
        "reinit_layers": (2, "recipe more"),
    }
    assert found(recipe) == found(recipe, "bert") == common
    assert found(recipe, "roberta") == {**common, "weight_decay": (0.1, "recipe base, roberta")}
    of_albert = {"reinit_layers": (0, "recipe more, albert"), "classifier_dropout_prob": (0, "recipe more, albert")}
    assert found(recipe, "albert") == {**common, **of_albert}
    assert recipe.args == {"learning_rate": 1e-5, "seed_streams": True, "reinit_layers": 2}
    assert recipe.model_types["roberta"]["args"] == {"weight_decay": 0.1}


def test_packaged_recipes_and_files_of_ones_own_compose(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "args: {r_drop: 0.5, label_smoothing_factor: 0}")
    recipe = load_recipe("mosbach2021+mine.yaml")
    assert recipe.name == "mosbach2021+mine" and not recipe.is_packaged
    assert found(recipe, "bert")["r_drop"] == (0.5, "recipe mine")
    assert found(recipe, "bert")["num_train_epochs"] == (20, "recipe mosbach2021")
    assert load_recipe("mosbach2021+transformers_default").is_packaged
    args = StableTrainingArguments.from_recipe("mosbach2021+mine.yaml", "roberta", output_dir=str(tmp_path))
    assert (args.recipe, args.r_drop, args.weight_decay) == ("mosbach2021+mine", 0.5, 0.1)


def test_each_part_keeps_its_own_place_beside_the_tasks_preset(tmp_path, monkeypatch):
    """Over a packaged recipe's values, under those of a user's own file, also where these are parts of one recipe."""
    packaged = tmp_path / "packaged"
    packaged.mkdir()
    (packaged / "base.yaml").write_text("args: {learning_rate: 1, weight_decay: 1}")
    monkeypatch.setattr("hf_stability.recipe.load.recipe_dir", lambda: packaged)
    mine = write(tmp_path, "args: {adam_beta2: 0.5, adam_beta1: 0.5}")
    for name in (f"base+{mine}", f"{mine}+base"):
        values = resolve(load_recipe(name), None, {"learning_rate": 3.0, "adam_beta2": 3.0}, given={"adam_beta1": 4.0})
        assert {name: (r.value, r.source) for name, r in values.items()} == {
            "learning_rate": (3.0, "task preset"),
            "weight_decay": (1.0, "recipe base"),
            "adam_beta2": (0.5, "recipe mine"),
            "adam_beta1": (4.0, "--adam_beta1"),
        }


def test_parts_that_contradict_each_other_are_refused_with_both_values():
    with pytest.raises(InputError) as caught:
        load_recipe("devlin2019+mosbach2021")
    first, *lines = str(caught.value).splitlines()
    assert first.startswith("--recipe devlin2019+mosbach2021: the parts contradict each other 2 times; ")
    assert "replaces: [num_train_epochs, bias_correction]" in first and "put a space between them" in first
    assert lines == [
        "  num_train_epochs: 3 in devlin2019, 20 in mosbach2021",
        "  bias_correction: false in devlin2019, true in mosbach2021",
    ]


@pytest.mark.parametrize(
    ("a", "b", "line"),
    [
        ("args: {learning_rate: 1e-5}", "args: {learning_rate: 2e-5}", "learning_rate: 1e-05 in a, 2e-05 in b"),
        (
            "args: {num_train_epochs: 3}",
            "args: {max_steps: 500}",
            "max_steps: num_train_epochs 3 in a, max_steps 500 in b",
        ),
        (
            "args: {max_steps: 500}",
            "grid: {num_train_epochs: [3, 4]}",
            "num_train_epochs: max_steps 500 in a, num_train_epochs a grid (3, 4) in b",
        ),
        (
            "model_config: {hidden_dropout_prob: 0}",
            "model_config: {hidden_dropout_prob: 0.1}",
            "model_config.hidden_dropout_prob: 0 in a, 0.1 in b",
        ),
        (
            "model_types: {roberta: {args: {weight_decay: 0}}}",
            "model_types: {roberta: {args: {weight_decay: 0.1}}}",
            "weight_decay (roberta): 0 in a, 0.1 in b",
        ),
        (  # for roberta b's part would silently go over what a sets for all
            "args: {weight_decay: 0}",
            "model_types: {roberta: {args: {weight_decay: 0.1}}}",
            "weight_decay (roberta): 0 in a, 0.1 in b",
        ),
        (
            "args: {weight_decay: 0.1}\nmodel_types: {albert: {args: {weight_decay: 0}}}",
            "args: {weight_decay: 0.1}",
            "weight_decay (albert): 0 in a, 0.1 in b",
        ),
        ("args: {weight_decay: 0}", "grid: {weight_decay: [0]}", "weight_decay: 0 in a, a grid (0) in b"),
        (
            "grid: {weight_decay: [0, 1]}",
            "grid: {weight_decay: [0, 1]}",
            "weight_decay: a grid (0, 1) in a, a grid (0, 1) in b",
        ),
    ],
)
def test_one_contradiction_is_one_line(tmp_path, a, b, line):
    with pytest.raises(InputError) as caught:
        load_recipe(files(tmp_path, a=a, b=b))
    assert f"--recipe a+b: {line}: the parts contradict" in str(caught.value) and "\n" not in str(caught.value)


def test_equal_values_are_no_contradiction(tmp_path):
    part = "args: {learning_rate: 1e-5, weight_decay: 0}\nmodel_types: {roberta: {args: {weight_decay: 0.1}}}\n"
    recipe = load_recipe(files(tmp_path, a=part, b=part.replace("1e-5", "0.00001"), c="args: {max_steps: 3}"))
    assert {name: value for name, (value, _) in found(recipe, "roberta").items()} == {
        "learning_rate": 1e-5,
        "weight_decay": 0.1,
        "max_steps": 3,
    }


def test_steps_replace_epochs(tmp_path):
    steps = load_recipe(
        files(tmp_path, a="args: {num_train_epochs: 3}", b="args: {max_steps: 5}\nreplaces: [max_steps]")
    )
    assert steps.args == {"max_steps": 5}


@pytest.mark.parametrize(
    "text", ["args: {adam_beta1: 0.8}\nargs: {adam_beta2: 0.9}", "args: {seed_streams: true, seed_streams: false}"]
)
def test_a_key_that_stands_twice_is_refused(tmp_path, text):
    with pytest.raises(InputError, match="not a YAML file: the key '(args|seed_streams)' stands twice, in .*, line"):
        load_recipe(write(tmp_path, text))


BASE = """
args: {weight_decay: 0.1, learning_rate: 1e-5}
model_config: {hidden_dropout_prob: 0.1}
model_types: {roberta: {args: {weight_decay: 0.2}, model_config: {hidden_dropout_prob: 0.2}}}
"""
REPLACES = """
args: {weight_decay: 0}
model_config: {hidden_dropout_prob: 0}
replaces: [weight_decay, model_config.hidden_dropout_prob]
"""


@pytest.mark.parametrize("order", [("base", "more"), ("more", "base")])
@pytest.mark.parametrize("model_type", [None, "bert", "roberta"])
def test_what_a_part_replaces_is_gone_from_the_others_whatever_the_order_and_the_model_type(
    tmp_path, order, model_type
):
    contents = {"base": BASE, "more": REPLACES}
    recipe = load_recipe(files(tmp_path, **{name: contents[name] for name in order}))
    assert found(recipe, model_type) == {
        "learning_rate": (1e-5, "recipe base"),
        "weight_decay": (0, "recipe more"),
        "hidden_dropout_prob": (0, "recipe more"),
    }
    assert load_recipe(str(tmp_path / "more.yaml")).args == {"weight_decay": 0}  # alone it replaces nothing


def test_two_parts_that_replace_the_same_contradict_each_other(tmp_path):
    with pytest.raises(InputError, match="model_config.hidden_dropout_prob: 0 in b, 0.5 in c"):
        load_recipe(
            files(
                tmp_path,
                a=BASE,
                b="model_config: {hidden_dropout_prob: 0}\nreplaces: [model_config.hidden_dropout_prob]",
                c="model_config: {hidden_dropout_prob: 0.5}\nreplaces: [model_config.hidden_dropout_prob]",
            )
        )


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


def test_a_part_that_is_there_twice_or_not_at_all_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"--recipe devlin2019\+devlin2019: devlin2019 is there twice"):
        load_recipe("devlin2019+devlin2019")
    path = tmp_path / "devlin2019.yaml"
    path.write_text("args: {}")
    with pytest.raises(InputError, match="devlin2019 is there twice"):  # their names tell them apart nowhere
        load_recipe(f"devlin2019+{path}")
    with pytest.raises(InputError, match=r"--recipe devlin2019\+mosbach2020: no such recipe 'mosbach2020' \(did you"):
        load_recipe("devlin2019+mosbach2020")
    with pytest.raises(InputError, match=r"--recipe devlin2019\+: no such recipe ''"):
        load_recipe("devlin2019+")


def test_a_file_may_have_a_plus_or_a_comma_in_its_path(tmp_path):
    folder = tmp_path / "c++, and more"
    folder.mkdir()
    assert load_recipe(write(folder, "args: {max_steps: 3}")).args == {"max_steps": 3}


SETTINGS = st.dictionaries(
    st.sampled_from(["weight_decay", "adam_beta1", "max_grad_norm"]), st.sampled_from([0.5, 0.25])
)
PARTS = st.lists(
    st.fixed_dictionaries({"args": SETTINGS, "model_types": st.fixed_dictionaries({"roberta": SETTINGS})}),
    min_size=2,
    max_size=3,
)


@given(PARTS)
def test_composing_is_refused_exactly_where_two_parts_disagree_for_some_model_type(contents):
    contents = [
        {"args": c["args"], "model_types": {"roberta": {"args": c["model_types"]["roberta"]}}} for c in contents
    ]
    parts = [parse_recipe(content, Path(f"{name}.yaml")) for name, content in zip("abc", contents, strict=False)]
    for order in (parts, parts[::-1]):
        alone = {kind: [resolve(part, kind) for part in order] for kind in ("bert", "roberta")}
        values = {kind: [{name: r.value for name, r in part.items()} for part in own] for kind, own in alone.items()}
        agree = all(
            a[name] == b[name] for own in values.values() for a in own for b in own for name in a.keys() & b.keys()
        )
        if not agree:
            with pytest.raises(InputError, match="contradict each other"):
                compose(order)
            continue
        recipe = compose(order)
        for kind, own in values.items():
            expected = {name: value for part in own for name, value in part.items()}
            assert {name: r.value for name, r in resolve(recipe, kind).items()} == expected
            merged = {**recipe.args, **recipe.model_types.get(kind, {}).get("args", {})}
            assert merged == expected


# ---- grids -----------------------------------------------------------------------------------------------------------------


GRID = """
args: {max_steps: 3}
grid:
  learning_rate: [1e-5, 0.00002]
  num_train_epochs: [3]
  bias_correction: [off, on]
  model_config.hidden_dropout_prob: [0, 0.1]
"""


def test_a_grid_is_a_recipe_for_each_combination(tmp_path):
    recipes = load_recipes(write(tmp_path, GRID))
    names = [recipe.name for recipe in recipes]
    assert len(set(names)) == 8
    assert names[:3] == [
        "mine,learning_rate=1e-05,num_train_epochs=3,bias_correction=false,model_config.hidden_dropout_prob=0",
        "mine,learning_rate=1e-05,num_train_epochs=3,bias_correction=false,model_config.hidden_dropout_prob=0.1",
        "mine,learning_rate=1e-05,num_train_epochs=3,bias_correction=true,model_config.hidden_dropout_prob=0",
    ]
    source = "grid of recipe mine"
    assert found(recipes[1]) == {
        "max_steps": (3, "recipe mine"),
        "learning_rate": (1e-5, source),
        "num_train_epochs": (3.0, source),
        "bias_correction": (False, source),
        "hidden_dropout_prob": (0.1, source),
    }
    assert not recipes[0].is_packaged


def test_grids_compose_and_multiply_out(tmp_path):
    name = files(
        tmp_path,
        base="args: {learning_rate: 1, weight_decay: 1}\nmodel_types: {roberta: {args: {learning_rate: 2}}}",
        rates="grid: {learning_rate: [3, 4]}\nreplaces: [learning_rate]",
        steps="grid: {max_steps: [5, 6, 7]}",
    )
    recipes = load_recipes(name)
    assert [recipe.name for recipe in recipes] == [
        f"base+rates+steps,learning_rate={rate},max_steps={steps}" for rate in (3, 4) for steps in (5, 6, 7)
    ]
    assert found(recipes[-1], "roberta") == {
        "weight_decay": (1.0, "recipe base"),
        "learning_rate": (4.0, "grid of recipe rates"),
        "max_steps": (7, "grid of recipe steps"),
    }


def test_some_of_a_grid_are_chosen_by_what_their_names_say(tmp_path):
    path = write(tmp_path, GRID)
    everything = load_recipes(path)
    for recipe in everything:
        assert load_recipe(path + recipe.name.removeprefix("mine")) == recipe
    chosen = load_recipes(f"{path},bias_correction=true,learning_rate=2e-05")
    assert chosen == [r for r in everything if r.point["bias_correction"] and r.point["learning_rate"] == 2e-5]
    assert len(chosen) == 2
    with pytest.raises(
        InputError, match=r"not in the grid, which has learning_rate=1e-05\|2e-05; num_train_epochs=3;"
    ):
        load_recipes(f"{path},learning_rate=3e-05")
    with pytest.raises(
        InputError, match="--recipe devlin2019,learning_rate=2e-05: not in the grid, which has nothing"
    ):
        load_recipes("devlin2019,learning_rate=2e-05")
    with pytest.raises(InputError, match="a grid of 8 recipes; name one of them: mine,learning_rate=1e-05,"):
        load_recipe(path)


def test_a_grid_of_one_recipe_is_a_recipe(tmp_path):
    assert load_recipe(write(tmp_path, "grid: {max_steps: [3]}")).name == "mine,max_steps=3"
    assert load_recipe(write(tmp_path, "grid: {}")).name == load_recipe(write(tmp_path, "grid:")).name == "mine"


def test_a_grid_goes_over_the_tasks_preset_and_nothing_can_be_given_over_it(tmp_path, monkeypatch):
    """Otherwise all its recipes would be the same, under names that say something else."""
    path = write(tmp_path, "grid: {learning_rate: [1e-5, 2e-5]}")
    for packaged in (True, False):
        monkeypatch.setattr("hf_stability.recipe.load.recipe_dir", lambda: tmp_path if packaged else tmp_path / "none")  # noqa: B023
        recipe = load_recipe(f"{path},learning_rate=2e-05")
        assert recipe.is_packaged == packaged
        assert resolve(recipe, preset={"learning_rate": 1.0})["learning_rate"].value == 2e-5
        with pytest.raises(InputError, match="--learning_rate 3.0: the grid of recipe mine varies it"):
            resolve(recipe, given={"learning_rate": 3.0})


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
            "grid.weight_decay: it is in args, too",
            "grid.adam_beta2: it is in model_types.roberta.args, too",
            "grid.model_config.hidden_dropout_prob: it is in model_config, too",
            "grid.hidden_dropout_prob: no such key; a field of the model's config is model_config.FIELD",
            "grid.adam_beta1: 0.9 is there twice",
            "grid.model_name_or_path: all runs of a study are of one model and data",
            "grid.data_seed: a recipe cannot set this",
        ),
        strict=True,
    ):
        assert line.startswith(f"  {piece}")


def test_a_grid_that_is_a_mistake_is_refused(tmp_path):
    values = list(range(1, 33))
    with pytest.raises(InputError, match="a grid of 1024 recipes, more than 1000"):
        load_recipes(write(tmp_path, f"grid: {{max_steps: {values}, eval_steps: {values}}}"))
    with pytest.raises(InputError, match="has 309 bytes, and the name of a folder at most 255"):
        load_recipes(write(tmp_path, f"grid: {{run_name: [{'ab ' * 98}x]}}"))


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12), min_size=1, max_size=4))
def test_names_are_safe_as_folders_in_shells_and_in_tables(texts):
    content = {"grid": {"run_name": texts, "learning_rate": [2e-5, 1e20]}}
    try:
        recipes = expand(parse_recipe(content, Path("mine.yaml")))
    except InputError as error:
        assert "is there twice" in str(error)
        return
    for recipe in recipes:
        assert re.fullmatch(r"[\w.,=+-]+", recipe.name)
    assert len({recipe.name for recipe in recipes}) == 2 * len(texts)


# ---- the paper's grid ----------------------------------------------------------------------------------------------------


def test_the_papers_grid_for_bert():
    recipes = load_recipes("mosbach2021_grid")
    points = {tuple(recipe.point.values()) for recipe in recipes}
    assert len(recipes) == len(points) == 16
    assert points == {
        (rate, epochs, on) for rate in (1e-5, 2e-5, 3e-5, 5e-5) for epochs in (3, 10) for on in (False, True)
    }
    assert recipes[0].name == "mosbach2021_grid,learning_rate=1e-05,num_train_epochs=3,bias_correction=false"


@pytest.mark.parametrize("model_type", ["bert", "roberta", "albert"])
def test_the_papers_grid_has_devlins_recipe_in_it_and_all_else_is_mosbachs(model_type):
    def values(name):
        recipe = load_recipe(name)
        return {key: value for key, (value, _) in found(recipe, model_type).items()}

    place = "mosbach2021_grid,learning_rate=2e-05,num_train_epochs=3,bias_correction=false"
    assert values(place) == values("devlin2019")
    assert values(place) == {**values("mosbach2021"), "num_train_epochs": 3, "bias_correction": False}


# ---- stages ----------------------------------------------------------------------------------------------------------------


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


def test_one_part_of_a_composed_recipe_and_every_place_in_a_grid_can_have_stages(tmp_path):
    composed = files(
        tmp_path,
        base="args: {weight_decay: 0.1}",
        two="stages: [{task_name: mnli}]",
        grid="grid: {seed_streams: [true, false]}",
    )
    recipes = load_recipes(composed)
    assert [recipe.stages for recipe in recipes] == [(Stage(task_name="mnli"),)] * 2
    with pytest.raises(InputError, match="a.b: a and b have stages; put all of them, in their order, into one part"):
        load_recipe(files(tmp_path, a="stages: [{task_name: mnli}]", b="stages: [{task_name: qnli}]"))


def test_a_stages_own_arguments_go_over_all_others(tmp_path):
    composed = files(
        tmp_path,
        base="args: {learning_rate: 1, adam_beta2: 0.9, on_alarm: stop}",
        more="stages: [{task_name: mnli, args: {num_train_epochs: 3, total_train_batch_size: 24, weight_decay: 0.2}}]",
        grid="grid: {adam_beta1: [0.8], weight_decay: [0.3]}",
    )
    (recipe,) = load_recipes(composed)
    given = {"max_steps": 9, "per_device_train_batch_size": 8, "adam_beta2": 0.5, "num_train_epochs": 1}
    given |= {"eval_strategy": "steps", "eval_steps": 31}
    values = resolve_stage(recipe, recipe.stages[0], "bert", {"learning_rate": 5}, given, {"eval_strategy": "epoch"})
    assert {name: (r.value, r.source) for name, r in values.items()} == {
        "eval_strategy": ("epoch", "study default"),
        "learning_rate": (1.0, "recipe base"),
        "adam_beta1": (0.8, "grid of recipe grid"),
        "adam_beta2": (0.5, "--adam_beta2"),
        "num_train_epochs": (3.0, "stage of recipe more"),
        "total_train_batch_size": (24, "stage of recipe more"),
        "weight_decay": (0.2, "stage of recipe more"),
    }


def test_the_papers_stage():
    recipe = load_recipe("devlin2019+stilts")
    (stage,) = recipe.stages
    values = {name: r.value for name, r in resolve_stage(recipe, stage, "bert").items()}
    assert (stage.task_name, values["learning_rate"], values["num_train_epochs"]) == ("mnli", 2e-5, 3)
    assert (values["total_train_batch_size"], values["warmup_steps"], values["bias_correction"]) == (24, 0.1, False)
    other = load_recipe("mosbach2021+stilts")  # the same stage before both
    assert {name: r.value for name, r in resolve_stage(other, other.stages[0], "bert").items()} == values


def test_arguments_from_a_recipe_with_stages_say_that_these_are_not_in_them(tmp_path, caplog):
    StableTrainingArguments.from_recipe("devlin2019", "bert", output_dir=str(tmp_path), use_cpu=True)
    assert "stages" not in caplog.text
    StableTrainingArguments.from_recipe("devlin2019+stilts", "bert", output_dir=str(tmp_path), use_cpu=True)
    assert "recipe devlin2019+stilts: its stages are not in these arguments" in caplog.text
