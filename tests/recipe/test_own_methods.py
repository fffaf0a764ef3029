"""`methods`: a recipe file that names methods of the user's own, and sets their arguments."""

import re

import pytest

from hf_stability.errors import InputError
from hf_stability.methods import load_method
from hf_stability.recipe import describe_recipe, load_recipe, load_recipes, recipe_names
from hf_stability.recipe.resolve import resolve, resolve_stage
from tests.recipe.files import files, write


METHOD = """
from dataclasses import dataclass
from pathlib import Path

from hf_stability.methods import Method

Path(__file__).with_name("imported").touch()


@dataclass
class Arguments:
    {name}_share: float = 0.0
    {name}_layers: int | None = None


class Mine(Method):
    Arguments = Arguments


class NoMethod:
    pass
"""


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Modules of this test's own: a first and a second method, in the folder of the recipe files, which is another one."""
    for name in ("first", "second"):
        (tmp_path / f"{name}_{tmp_path.name}.py").write_text(METHOD.format(name=name))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    return [f"{name}_{tmp_path.name}" for name in ("first", "second")]


@pytest.mark.parametrize("form", ["{}:Mine", "{}.py:Mine", "../{folder}/{}.py:Mine"])
def test_a_file_sets_the_arguments_of_the_methods_that_it_names(tmp_path, modules, form):
    first = form.format(modules[0], folder=tmp_path.name)
    path = write(
        tmp_path,
        f"""
methods: ["{first}"]
args: {{first_share: 1e-2, weight_decay: 0}}
model_types: {{roberta: {{args: {{first_share: 0.5}}}}}}
grid: {{first_layers: [1, null]}}
stages: [{{task_name: mnli, args: {{first_share: 0}}}}]
""",
    )
    one, none = load_recipes(path)
    assert one.methods == none.methods == (f"{tmp_path / modules[0]}.py:Mine",)
    assert load_method(one.methods[0]).Arguments.__dataclass_fields__.keys() == {"first_share", "first_layers"}
    assert {name: r.value for name, r in resolve(one, "bert").items()} == {
        "first_share": 0.01,
        "weight_decay": 0,
        "first_layers": 1,
    }
    assert resolve(none, "roberta")["first_share"].value == 0.5
    assert resolve_stage(one, one.stages[0])["first_share"].value == 0


def test_a_methods_arguments_are_checked_like_ours(tmp_path, modules):
    path = write(
        tmp_path,
        f"methods: ['{modules[0]}:Mine']\nargs: {{first_shar: 1, first_share: x}}\ngrid: {{first_layer: [1]}}",
    )
    with pytest.raises(InputError) as caught:
        load_recipe(path)
    assert [line.strip() for line in str(caught.value).splitlines()[1:]] == [
        "args.first_shar: no such key (did you mean first_share?)",
        "args.first_share: expected float, found 'x'",
        "grid.first_layer: no such key (did you mean first_layers?); write a field of the model's config as model_config.FIELD",
    ]
    with pytest.raises(InputError, match="args.first_share: no such key"):  # of files that do not name it
        load_recipe(write(tmp_path, "args: {first_share: 1}"))


def test_composed_and_extending_files_have_the_methods_of_all(tmp_path, modules):
    first, second = (f"{tmp_path / name}.py:Mine" for name in modules)
    names = files(
        tmp_path,
        a=f"methods: ['{first}']\nargs: {{first_share: 1}}",
        b=f"methods: ['{second}', '{first}', '{second}']\nargs: {{second_share: 2}}",
        c=f"extends: a.yaml\nmethods: ['{second}']\nargs: {{first_layers: 3, second_share: 4}}",
    ).split("+")
    composed = load_recipe(f"{names[0]}+{names[1]}+mixout")
    assert composed.methods == (first, second)
    assert (composed.args["first_share"], composed.args["second_share"]) == (1.0, 2.0)
    extending = load_recipe(names[2])
    assert extending.methods == (first, second)
    assert extending.args == {"first_share": 1.0, "first_layers": 3, "second_share": 4.0}


def test_no_method_is_imported_before_its_file_is_named(tmp_path, modules):
    path = write(tmp_path, f"# Mine.\nmethods: ['{modules[0]}:Mine']\nargs: {{first_share: 1}}")
    assert describe_recipe(path) == "Mine."
    assert all(recipe.methods == () for name in recipe_names() for recipe in load_recipes(name))
    assert not (tmp_path / "imported").exists()
    load_recipe(path)
    assert (tmp_path / "imported").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("methods: '{0}:Mine'", "methods: expected a list of MODULE:CLASS or FILE.py:CLASS, found '"),
        ("methods: [3]", "methods: expected MODULE:CLASS or FILE.py:CLASS, found 3"),
        ("methods: [{{{0}: Mine}}]", "methods: expected MODULE:CLASS or FILE.py:CLASS, found {"),
        ("methods: ['{0}']", "methods: {0}: must be MODULE:CLASS (my_module:Mine) or FILE.py:CLASS"),
        ("methods: ['gone_module:Mine']", "methods: gone_module:Mine: No module named 'gone_module'"),
        ("methods: ['gone.py:Mine']", "methods: gone.py:Mine: no such file in "),
        ("methods: ['{0}:Min']", "no Min in this module (did you mean Mine?)"),
        ("methods: ['{0}.py:NoMethod']", "NoMethod is not a subclass of hf_stability.methods.Method"),
        ("methods: ['broken.py:Mine']", "importing it raised ZeroDivisionError: division by zero"),
        ("method: ['{0}:Mine']", "method: no such key (did you mean methods?)"),
    ],
)
def test_nonsense_is_one_line_with_file_and_key(tmp_path, modules, text, message):
    (tmp_path / "broken.py").write_text("1 / 0")
    path = write(tmp_path, text.format(modules[0]))
    with pytest.raises(InputError, match=re.escape(message.replace("{0}", modules[0]))) as caught:
        load_recipe(path)
    assert re.match(rf"{re.escape(path)}: methods?: ", str(caught.value)) and "\n" not in str(caught.value)
