import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_stability.errors import InputError
from hf_stability.recipe import Stage, load_recipe, load_recipes
from hf_stability.recipe.compose import compose, expand
from hf_stability.recipe.resolve import resolve
from hf_stability.recipe.schema import parse_recipe
from hf_stability.training_args import StableTrainingArguments
from tests.recipe.files import files, found, write


# ---- a+b -----------------------------------------------------------------------------------------------------------------


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
    with pytest.raises(InputError, match="--recipe devlin2019,learning_rate=2e-05: devlin2019 has no grid"):
        load_recipes("devlin2019,learning_rate=2e-05")
    with pytest.raises(InputError, match="a grid of 8 recipes; name one of them: mine,learning_rate=1e-05,"):
        load_recipe(path)


def test_a_grid_of_one_recipe_is_a_recipe(tmp_path):
    assert load_recipe(write(tmp_path, "grid: {max_steps: [3]}")).name == "mine,max_steps=3"
    assert load_recipe(write(tmp_path, "grid: {}")).name == load_recipe(write(tmp_path, "grid:")).name == "mine"


def test_a_grid_that_is_a_mistake_is_refused(tmp_path):
    values = list(range(1, 33))
    with pytest.raises(InputError, match="a grid of 1024 recipes, more than 1000"):
        load_recipes(write(tmp_path, f"grid: {{max_steps: {values}, eval_steps: {values}}}"))
    with pytest.raises(InputError, match="has 309 bytes; a folder's name can have 255"):
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


def test_one_part_of_a_composed_recipe_and_every_place_in_a_grid_can_have_stages(tmp_path):
    composed = files(
        tmp_path,
        base="args: {weight_decay: 0.1}",
        two="stages: [{task_name: mnli}]",
        grid="grid: {seed_streams: [true, false]}",
    )
    recipes = load_recipes(composed)
    assert [recipe.stages for recipe in recipes] == [(Stage(task_name="mnli"),)] * 2
    with pytest.raises(
        InputError, match="a.b: a and b have stages; only one part may have them: write all stages into one file"
    ):
        load_recipe(files(tmp_path, a="stages: [{task_name: mnli}]", b="stages: [{task_name: qnli}]"))
