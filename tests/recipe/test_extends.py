"""`extends`: a recipe file that starts from another one's content."""

import copy
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from hf_stability.errors import InputError
from hf_stability.recipe import Stage, load_recipe, load_recipes, recipe_dir
from hf_stability.recipe.compose import compose, expand, extend
from hf_stability.recipe.resolve import resolve, resolve_model_config, resolve_stage
from hf_stability.recipe.schema import parse_recipe
from tests.recipe.files import files, found


def load(tmp_path, **contents):
    """Files that name each other; the last one's recipe."""
    return load_recipe(files(tmp_path, **contents).split("+")[-1])


BASE = """
args: {learning_rate: 1, weight_decay: 1, adam_beta1: 0.5}
model_config: {hidden_dropout_prob: 0.1}
model_types:
  roberta: {args: {weight_decay: 2, adam_beta1: 0.25}, model_config: {hidden_dropout_prob: 0.2}}
"""


def test_a_file_starts_from_the_others_content_and_its_own_values_win(tmp_path):
    recipe = load(
        tmp_path,
        base=BASE,
        mine="""
extends: base.yaml
args: {weight_decay: 3, max_steps: 5}
model_config: {classifier_dropout: 0}
model_types:
  roberta: {args: {learning_rate: 4}}
  albert: {model_config: {hidden_dropout_prob: 0}}
""",
    )
    assert recipe.name == "mine" and recipe.path == tmp_path / "mine.yaml" and not recipe.is_packaged
    common = {
        "learning_rate": (1.0, "recipe base"),
        "adam_beta1": (0.5, "recipe base"),
        "weight_decay": (3.0, "recipe mine"),
        "max_steps": (5, "recipe mine"),
        "hidden_dropout_prob": (0.1, "recipe base"),
        "classifier_dropout": (0, "recipe mine"),
    }
    assert found(recipe) == found(recipe, "bert") == common
    # weight_decay: what the file sets is for every model type, also where the base has a value for one.
    assert found(recipe, "roberta") == {
        **common,
        "learning_rate": (4.0, "recipe mine, roberta"),
        "adam_beta1": (0.25, "recipe base, roberta"),
        "hidden_dropout_prob": (0.2, "recipe base, roberta"),
    }
    assert found(recipe, "albert") == {**common, "hidden_dropout_prob": (0, "recipe mine, albert")}
    assert recipe.args == {"learning_rate": 1, "adam_beta1": 0.5, "weight_decay": 3, "max_steps": 5}
    assert recipe.model_types["roberta"]["args"] == {"adam_beta1": 0.25, "learning_rate": 4}


def test_a_chain_of_files_each_relative_to_the_one_that_names_it(tmp_path, monkeypatch):
    for folder in ("shared", "mine", "elsewhere"):
        (tmp_path / folder).mkdir()
    (tmp_path / "shared" / "first.yaml").write_text("extends: devlin2019\nargs: {learning_rate: 1e-5, r_drop: 0.5}")
    (tmp_path / "shared" / "second.yml").write_text("extends: first.yaml\nargs: {r_drop: 1}")
    (tmp_path / "mine" / "third.yaml").write_text("extends: ../shared/second.yml\nargs: {adam_beta1: 0.8}")
    monkeypatch.chdir(tmp_path / "elsewhere")
    values = found(load_recipe("../mine/third.yaml"), "roberta")
    assert values["learning_rate"] == (1e-5, "recipe first")
    assert values["r_drop"] == (1, "recipe second")
    assert values["adam_beta1"] == (0.8, "recipe third")
    assert values["adam_beta2"] == (0.98, "recipe devlin2019, roberta")
    assert values["num_train_epochs"] == (3, "recipe devlin2019")


@pytest.mark.parametrize("packaged", [True, False])
def test_a_tasks_preset_is_over_what_is_packaged_and_under_what_the_user_wrote(tmp_path, monkeypatch, packaged):
    base = tmp_path / "packaged"
    base.mkdir()
    (base / "base.yaml").write_text("args: {learning_rate: 1, weight_decay: 1, adam_beta1: 0.5}")
    monkeypatch.setattr("hf_stability.utils.recipe_files.recipe_dir", lambda: base)
    (base if packaged else tmp_path).joinpath("mine.yaml").write_text("extends: base\nargs: {weight_decay: 2}")
    recipe = load_recipe("mine" if packaged else str(tmp_path / "mine.yaml"))
    assert recipe.is_packaged == packaged
    values = resolve(recipe, "bert", {"learning_rate": 3.0, "weight_decay": 3.0})
    assert {name: (r.value, r.source) for name, r in values.items()} == {
        "learning_rate": (3.0, "task preset"),
        "weight_decay": (3.0, "task preset") if packaged else (2.0, "recipe mine"),
        "adam_beta1": (0.5, "recipe base"),
    }


# ---- grids, stages, replaces, the length of training -----------------------------------------------------------------------


def test_an_inherited_grid_is_kept_added_to_and_ended(tmp_path):
    path = files(
        tmp_path,
        base="grid: {learning_rate: [1, 2], adam_beta1: [0.5, 0.6]}\nargs: {weight_decay: 1}",
        mine="extends: base.yaml\nargs: {learning_rate: 3}\ngrid: {weight_decay: [4, 5]}",
    )
    recipes = load_recipes(path.split("+")[-1])
    assert [recipe.name for recipe in recipes] == [
        f"mine,adam_beta1={beta},weight_decay={decay}" for beta in (0.5, 0.6) for decay in (4, 5)
    ]
    assert found(recipes[-1]) == {
        "learning_rate": (3.0, "recipe mine"),
        "adam_beta1": (0.6, "grid of recipe base"),
        "weight_decay": (5.0, "grid of recipe mine"),
    }


def test_stages_take_the_place_of_the_inherited_ones(tmp_path):
    staged = "stages: [{task_name: mnli, args: {learning_rate: 1}}]"
    same = load(tmp_path, base=staged, mine="extends: base.yaml\nargs: {learning_rate: 2, adam_beta1: 0.5}")
    assert same.stages == (Stage(task_name="mnli", args={"learning_rate": 1.0}),)
    values = resolve_stage(same, same.stages[0])
    assert (values["learning_rate"].value, values["learning_rate"].source) == (1.0, "stage of recipe base")
    assert (values["adam_beta1"].value, values["adam_beta1"].source) == (0.5, "recipe mine")
    other = load(tmp_path, base=staged, mine="extends: base.yaml\nstages: [{task_name: qnli}]")
    assert other.stages == (Stage(task_name="qnli"),)
    assert resolve_stage(other, other.stages[0]) == {}
    with pytest.raises(InputError, match="base and mine have stages; only one part may have them"):
        load_recipe(files(tmp_path, base=staged, mine="extends: base.yaml"))


def test_what_a_recipe_replaces_is_inherited_and_may_be_an_inherited_value(tmp_path):
    target = "args: {weight_decay: 9, adam_beta1: 0.9}\nmodel_types: {roberta: {args: {weight_decay: 8}}}"
    for mine in (
        "args: {adam_beta1: 0.5}\nreplaces: [adam_beta1]",
        "args: {adam_beta1: 0.5}\nreplaces: [adam_beta1, weight_decay]",
    ):
        base = "args: {weight_decay: 0}" + ("" if "weight" in mine else "\nreplaces: [weight_decay]")
        names = files(tmp_path, target=target, base=base, mine=f"extends: base.yaml\n{mine}").split("+")
        recipe = load_recipe(f"{names[0]}+{names[2]}")
        assert found(recipe, "roberta") == {
            "weight_decay": (0.0, "recipe base"),
            "adam_beta1": (0.5, "recipe mine"),
        }
        assert set(load_recipe(names[2]).replaces) == {"adam_beta1", "weight_decay"}


def test_steps_take_the_place_of_inherited_epochs_and_epochs_that_of_steps(tmp_path):
    steps = load(tmp_path, base="args: {num_train_epochs: 3}", mine="extends: base.yaml\nargs: {max_steps: 5}")
    assert steps.args == {"max_steps": 5}
    epochs = load(tmp_path, base="args: {max_steps: 5}", mine="extends: base.yaml\nargs: {num_train_epochs: 3}")
    assert epochs.args == {"num_train_epochs": 3}
    no_limit = load(tmp_path, base="args: {num_train_epochs: 3}", mine="extends: base.yaml\nargs: {max_steps: -1}")
    assert no_limit.args == {"num_train_epochs": 3, "max_steps": -1}
    # A base that replaces the one replaces the other, too.
    base = "args: {num_train_epochs: 3}\nreplaces: [num_train_epochs]"
    names = files(
        tmp_path, a="args: {max_steps: 9}", base=base, mine="extends: base.yaml\nargs: {max_steps: 5}"
    ).split("+")
    assert load_recipe(f"{names[0]}+{names[2]}").args == {"max_steps": 5}


# ---- against the same recipe, written out -----------------------------------------------------------------------------------

MOSBACH2021 = """
args:
  learning_rate: 2e-5
  num_train_epochs: 20
  total_train_batch_size: 16
  lr_scheduler_type: linear
  warmup_steps: 0.1
  optim: adamw_torch_fused
  bias_correction: true
  adam_beta1: 0.9
  adam_beta2: 0.999
  adam_epsilon: 1e-6
  weight_decay: 0.01
  max_grad_norm: 1.0
  seed_streams: true
model_config:
  hidden_dropout_prob: 0.1
  attention_probs_dropout_prob: 0.1
model_types:
  bert: {}
  roberta:
    args: {weight_decay: 0.1, adam_beta2: 0.98, max_grad_norm: 0}
  albert:
    args: {weight_decay: 0}
    model_config: {hidden_dropout_prob: 0, attention_probs_dropout_prob: 0, classifier_dropout_prob: 0}
  electra: {}
  deberta-v2: {}
  distilbert:
    model_config: {dropout: 0.1, attention_dropout: 0.1}
  modernbert:
    args: {weight_decay: 0.1, adam_beta2: 0.98, max_grad_norm: 0}
"""


def values(recipe, model_type):
    """What is in force, by name."""
    both = {**resolve(recipe, model_type), **resolve_model_config(recipe, model_type)}
    return {name: r.value for name, r in both.items()}


@pytest.mark.parametrize(
    "model_type", [None, "bert", "roberta", "albert", "electra", "distilbert", "modernbert", "xlm-roberta"]
)
def test_the_packaged_recipes_are_what_they_would_be_written_out(model_type):
    whole = parse_recipe(yaml.safe_load(MOSBACH2021), recipe_dir() / "mosbach2021.yaml", is_packaged=True)
    recipe = load_recipe("mosbach2021")
    assert values(recipe, model_type) == values(whole, model_type)
    for field in ("name", "path", "args", "model_config", "grid", "replaces", "stages", "is_packaged"):
        assert getattr(recipe, field) == getattr(whole, field)
    assert recipe.model_types == whole.model_types
    released = {**values(whole, model_type), "bias_correction": False, "lr_bias_correction": True}
    assert values(load_recipe("mosbach2021_released"), model_type) == released
    for place in load_recipes("mosbach2021_grid"):
        assert values(place, model_type) == {**values(whole, model_type), **place.point}


LENGTH = {"num_train_epochs": "max_steps", "max_steps": "num_train_epochs"}
TYPES = ("roberta", "albert")


def written_out(base, own):
    """The mapping that a file with `own` stands for where it extends one with `base`, made the slow way."""
    whole = copy.deepcopy(base)
    here = {section: own.get(section, {}) for section in ("args", "model_config", "grid")}
    for name in (*here["args"], *here["grid"]):
        for gone in (name, LENGTH.get(name, name)):
            if gone != name and here["args"].get(name) == -1:  # no limit
                continue
            whole.get("args", {}).pop(gone, None)
            whole.get("grid", {}).pop(gone, None)
            for kind in TYPES:
                whole["model_types"].get(kind, {}).get("args", {}).pop(gone, None)
    for name in here["model_config"]:
        whole.get("grid", {}).pop(f"model_config.{name}", None)
        for kind in TYPES:
            whole["model_types"].get(kind, {}).get("model_config", {}).pop(name, None)
    for section in here:
        whole[section] = {**whole.get(section, {}), **here[section]}
    for kind, part in own["model_types"].items():
        for section in part:
            whole["model_types"].setdefault(kind, {}).setdefault(section, {}).update(part[section])
    there = {*whole["args"], *whole["grid"], *(f"model_config.{name}" for name in whole["model_config"])}
    replaced = [*base["replaces"], *own["replaces"]]
    whole["replaces"] = list(dict.fromkeys(name if name in there else LENGTH[name] for name in replaced))
    whole["stages"] = own["stages"] or base["stages"]
    return whole


def subset(*names, of=(1, 2)):
    return st.dictionaries(st.sampled_from(names), st.sampled_from(of), max_size=2)


@st.composite
def contents(draw):
    """A recipe file's content."""
    args = subset("weight_decay", "adam_beta1", "num_train_epochs", "max_steps")
    config = subset("hidden_dropout_prob")
    content = {"args": draw(args), "model_config": draw(config)}
    if draw(st.booleans()) and "max_steps" in content["args"]:
        content["args"]["max_steps"] = -1
    part = st.fixed_dictionaries({"args": args, "model_config": config})
    content["model_types"] = draw(st.dictionaries(st.sampled_from(TYPES), part))
    grid = draw(subset("weight_decay", "max_steps", "model_config.hidden_dropout_prob"))
    own = [content, *content["model_types"].values()]
    taken = {
        *(name for c in own for name in c["args"]),
        *(f"model_config.{n}" for c in own for n in c["model_config"]),
    }
    content["grid"] = {name: [value, 7] for name, value in grid.items() if name not in taken}
    sets = [*content["args"], *content["grid"], *(f"model_config.{name}" for name in content["model_config"])]
    content["replaces"] = draw(st.lists(st.sampled_from(sets), unique=True)) if sets else []
    content["stages"] = draw(st.sampled_from([[], [{"task_name": "mnli"}], [{"task_name": "qnli"}]]))
    return content


def parsed(content, name, **more):
    return parse_recipe({key: value for key, value in content.items() if value}, Path(f"{name}.yaml"), **more)


def outcome(parts):
    """What composing comes to: the values of each recipe for each model type, or the words of the refusal."""
    try:
        recipes = expand(compose(parts))
    except InputError as error:
        return sorted(re.findall(r"[\w.]+", str(error)))
    kinds = (None, "bert", *TYPES)
    return sorted(
        (sorted(recipe.point.items()), [values(recipe, kind) for kind in kinds], recipe.stages) for recipe in recipes
    )


@given(contents(), contents(), contents())
def test_a_file_that_extends_is_the_file_written_out_alone_and_composed(base, own, other):
    try:
        first, other = parsed(base, "base"), parsed(other, "other")
        second = parsed(own, "mine", base=first)
        whole = parsed(written_out(base, own), "mine")
    except InputError as error:
        assume("it is also in " not in str(error))  # an inherited grid, and a value for one model type
        raise
    try:
        recipe = extend(first, second)
    except InputError as error:
        assert "inherited" in str(error)
        return
    for field in ("name", "args", "model_config", "grid", "stages"):
        assert getattr(recipe, field) == getattr(whole, field)
    assert set(recipe.replaces) == set(whole.replaces)
    for kind in TYPES:
        nothing = {"args": {}, "model_config": {}}
        assert recipe.model_types.get(kind, nothing) == whole.model_types.get(kind, nothing)
    assert outcome([recipe]) == outcome([whole])
    assert outcome([recipe, other]) == outcome([whole, other])
    assert outcome([other, recipe]) == outcome([other, whole])


def test_a_model_type_that_any_of_the_files_has_a_part_for_is_known_to_all(tmp_path):
    """Otherwise a study would take the model for one that the file does not know, and leave out common values."""
    recipe = load(
        tmp_path,
        base="model_config: {hidden_dropout_prob: 0}\nmodel_types: {bert: {}}",
        mine="extends: base.yaml\nmodel_types: {distilbert: {model_config: {dropout: 0}}}",
    )
    assert [list(part.model_types) for part in recipe.files] == [["bert", "distilbert"]] * 2


# ---- errors ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: mosbach2020", r"extends: mosbach2020: no such recipe \(did you mean mosbach2021\?\). Give a .yaml file, .* child_"),
        ("extends: bas.yaml", r"extends: bas.yaml: no such recipe \(did you mean base.yaml\?\)"),
        ("extends: base", r"extends: base: no such recipe \(did you mean base.yaml\?\)"),
        ("extends: mine.yaml", r"extends: mine.yaml: these files extend each other: mine.yaml extends mine.yaml; remove one `extends`$"),
        ("extends: [base.yaml, other.yaml]", r"extends: expected the name of a recipe or a .yaml file, found \['base"),
        ("extends:", r"extends: expected the name of a recipe or a .yaml file, found None"),
        ("extends: ' '", r"extends: expected the name of a recipe or a .yaml file, found ' '"),
        ("extends: 2021", r"extends: expected the name of a recipe or a .yaml file, found 2021"),
        ("extends: devlin2019+mixout", r"extends: devlin2019\+mixout: a file can extend only one recipe; give a\+b, or a choice"),
        ("extends: mosbach2021_grid,learning_rate=1e-05", "a file can extend only one recipe"),
        ("extends: sub/mine.yaml", r"extends: sub/mine.yaml: it has the same name as a file that extends it; rename"),
        ("extend: devlin2019", r"extend: no such key \(did you mean extends\?\)"),
        ("extends: base.yaml\nstages: []", "stages: an empty list does not remove those of base; extend a recipe without"),
        ("extends: base.yaml\nreplaces: [adam_beta2]", "replaces: adam_beta2 is not set here"),
        (
            "extends: base.yaml\nmodel_types: {bert: {args: {weight_decay: 2}}}",
            "model_types.bert.args.weight_decay: the inherited grid varies weight_decay; to end that, set weight_decay in args",
        ),
        (
            "extends: base.yaml\nmodel_types: {bert: {model_config: {hidden_dropout_prob: 0}}}",
            "model_types.bert.model_config.hidden_dropout_prob: the inherited grid varies model_config.hidden_dropout_prob",
        ),
        (
            "extends: base.yaml\nmodel_types: {bert: {args: {num_train_epochs: 2}}}",
            "model_types.bert.args.num_train_epochs: the inherited max_steps 5 would override it; add max_steps: -1 beside it",
        ),
    ],
)  # fmt: skip
def test_nonsense_is_refused_in_one_line_with_file_and_key(tmp_path, text, message):
    base = "args: {max_steps: 5}\ngrid: {weight_decay: [0, 1], model_config.hidden_dropout_prob: [0, 0.1]}\nstages: [{task_name: mnli}]"
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "mine.yaml").write_text("args: {max_steps: 3}")
    with pytest.raises(InputError) as caught:
        load(tmp_path, base=base, mine=text)
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / 'mine.yaml'}: ") and re.search(message, text) and "\n" not in text


def test_a_circle_is_told_from_its_beginning_to_its_end(tmp_path):
    names = files(tmp_path, a="extends: b.yaml", b="extends: c.yaml", c="extends: a.yaml").split("+")
    with pytest.raises(
        InputError,
        match="c.yaml: extends: a.yaml: these files extend each other: a.yaml extends b.yaml extends c.yaml extends a.yaml; remove one `extends`$",
    ):
        load_recipe(names[0])


def test_an_error_in_the_file_that_is_extended_names_that_file(tmp_path):
    with pytest.raises(InputError, match=r"base.yaml: args.x: no such key$"):
        load(tmp_path, base="args: {x: 1}", mine="extends: base.yaml\nargs: {y: 1}")
    with pytest.raises(InputError, match=r"mine.yaml has 2 errors:\n  args.y: no such key\n  replaces: z is not set"):
        load(tmp_path, base="args: {max_steps: 1}", mine="extends: base.yaml\nargs: {y: 1}\nreplaces: [z]")
