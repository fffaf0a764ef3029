"""Every packaged recipe, found automatically: its opening, the values of its paper, and the recipes it can be joined with."""

import itertools
import re
import shutil

import pytest
import transformers
import yaml

from hf_stability.errors import InputError
from hf_stability.methods import argument_names
from hf_stability.recipe import describe_recipe, load_recipe, load_recipes, recipe_dir, recipe_names
from hf_stability.recipe.load import is_add_on
from hf_stability.recipe.resolve import resolve, resolve_model_config, resolve_stage
from hf_stability.tasks.presets import PRESETS, task_preset
from hf_stability.training_args import StableTrainingArguments
from tests import toy
from tests.docs import workshop
from tests.recipe.files import found


PAGE = workshop.ROOT / "docs" / "recipes.md"
EVERY = [recipe.name for name in recipe_names() for recipe in load_recipes(name)]  # those of grids, too
ADD_ONS = [name for name in recipe_names() if is_add_on(name)]
BASES = [name for name in recipe_names() if name not in ADD_ONS and not name.endswith("_grid")]


@pytest.mark.parametrize("model_type", ["bert", "roberta", "albert", "electra", "modernbert"])
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


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_says_in_one_line_what_it_is(name):
    sentence = describe_recipe(name)
    assert re.fullmatch(r"[A-Z].{20,90}\.", sentence)
    assert "et al" not in sentence and "arXiv" not in sentence  # the paper comes after it


def test_the_recipe_files_that_the_page_shows_are_recipes(tmp_path, monkeypatch):
    """The page's commands themselves are run by tests/docs/test_pages.py."""
    shutil.copytree(workshop.ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    loaded = {}
    for block in workshop.blocks(PAGE):
        if block.language == "yaml":
            (tmp_path / block.title).write_text(block.text)
        for words in workshop.commands(block.text) if block.language == "bash" else ():
            after = words[words.index("--recipe") + 1 :] if "--recipe" in words else []
            loaded |= {
                name: load_recipes(name) for name in itertools.takewhile(lambda w: not w.startswith("--"), after)
            }
    files = {path.name for path in tmp_path.glob("*.yaml")}
    assert len(files) >= 6 and all(any(file in name for name in loaded) for file in files)
    kinds = {kind: resolve(loaded["mine.yaml"][0], kind)["weight_decay"].value for kind in ("roberta", None)}
    assert kinds == {"roberta": 0, None: 0}
    counts = {name: len(recipes) for name, recipes in loaded.items() if "rates" in name}
    assert counts == {"mosbach2021+rates.yaml": 6, "mosbach2021+rates.yaml,learning_rate=2e-05": 2}
    assert loaded["devlin2019+nli_first.yaml"][0].stages and loaded["devlin2019+noise.yaml"][0].methods


def test_the_page_has_a_row_for_each_recipe_with_its_values():
    text = PAGE.read_text()
    rows = dict(re.findall(r"^\| \[`(\w+)`\]\(\S+\.yaml\) \| (.*)$", text, re.M))
    assert sorted(rows) == recipe_names()
    for name in BASES:
        values = {"num_train_epochs": 3, "learning_rate": 5e-5, "bias_correction": True}  # the Trainer's
        values |= {key: r.value for key, r in resolve(load_recipe(name), "bert").items()}
        rate, epochs, correction = (cell.strip() for cell in rows[name].split("|")[:3])
        assert (float(rate), int(epochs)) == (values["learning_rate"], values["num_train_epochs"])
        on = values["bias_correction"] or values.get("lr_bias_correction", False)
        assert correction.startswith("on" if on else "off")
    for name in ADD_ONS:
        for key, value in re.findall(r"`(\w+)` ([\d.e-]+)", rows[name].split("|")[1]):
            assert float(load_recipe(name).args[key]) == float(value)


def test_the_page_has_the_values_of_each_model_type():
    """The files' own parts, none left out; the opposite way, no row without a part."""
    text = PAGE.read_text().partition("## Values by model type")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([\w-]+)` \| (.*?) \| .*\[.*\]|^\| `([\w-]+)` \| (.*?) \| the same", text, re.M)
    shown = {
        (a or c, key, float(value)) for a, b, c, d in rows for key, value in re.findall(r"`(\w+)` ([\d.]+)", b or d)
    }
    parts = {}
    for name in recipe_names():
        own = yaml.safe_load((recipe_dir() / f"{name}.yaml").read_text()).get("model_types") or {}
        for model_type, part in own.items():
            values = parts.setdefault(model_type, {})
            for section in part.values():
                values |= section
    assert shown == {(kind, key, float(value)) for kind, values in parts.items() for key, value in values.items()}
    assert {a or c for a, _, c, _ in rows} == set(parts)


def test_every_part_sets_fields_that_its_model_type_has():
    recipe = load_recipe("devlin2019")
    for model_type in recipe.model_types:
        config = transformers.AutoConfig.for_model(model_type)
        assert all(hasattr(config, key) for key in resolve_model_config(recipe, model_type))


@pytest.mark.parametrize("name", EVERY)
def test_every_recipe_sets_fields_that_the_models_configs_have(name):
    recipe = load_recipe(name)
    for model_type in ("bert", "roberta", "albert"):
        for key in resolve_model_config(recipe, model_type):
            assert hasattr(toy.CONFIGS[model_type], key), f"{model_type} has no {key}"


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


REFUSED = [("lora", name) for name in ("child_tuning_d", "l2_sp", "layerwise_lr", "mixout", "prior_decay", "reinit")]
"""Methods for pretrained weights that are trained, beside a recipe that freezes them."""


@pytest.mark.parametrize(("base", "add_on"), REFUSED)
def test_a_method_that_contradicts_a_recipe_is_refused(base, add_on, tmp_path):
    with pytest.raises(InputError, match="--lora_r 8 with --"):
        StableTrainingArguments.from_recipe(f"{base}+{add_on}", output_dir=str(tmp_path), use_cpu=True)


@pytest.mark.parametrize(
    ("base", "add_on"), [pair for pair in itertools.product(BASES, ADD_ONS) if pair not in REFUSED]
)
def test_every_method_can_be_added_to_every_whole_recipe(base, add_on, tmp_path):
    if (base, add_on) == ("mosbach2021_released", "head_first"):
        with pytest.raises(InputError, match="--head_first with --lr_bias_correction"):
            StableTrainingArguments.from_recipe(f"{base}+{add_on}", output_dir=str(tmp_path), use_cpu=True)
        return
    for model_type in ("bert", "roberta", "albert"):
        values = {"output_dir": str(tmp_path), "use_cpu": True}
        args = StableTrainingArguments.from_recipe(f"{base}+{add_on}", model_type, **values)
        alone, base_alone = (StableTrainingArguments.from_recipe(r, model_type, **values) for r in (add_on, base))
        default = StableTrainingArguments(**values)
        replaced = load_recipe(add_on).replaces
        for key in ("bias_correction", "lr_bias_correction", "num_train_epochs", "learning_rate", "adam_beta2"):
            assert getattr(args, key) == getattr(alone if key in replaced else base_alone, key)
        for key in (*argument_names(), "max_grad_norm"):
            set_by_method = key in replaced or getattr(alone, key) != getattr(default, key)
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


def test_the_papers_stage():
    recipe = load_recipe("devlin2019+stilts")
    (stage,) = recipe.stages
    values = {name: r.value for name, r in resolve_stage(recipe, stage, "bert").items()}
    assert (stage.task_name, values["learning_rate"], values["num_train_epochs"]) == ("mnli", 2e-5, 3)
    assert (values["total_train_batch_size"], values["warmup_steps"], values["bias_correction"]) == (24, 0.1, False)
    other = load_recipe("mosbach2021+stilts")  # the same stage before both
    assert {name: r.value for name, r in resolve_stage(other, other.stages[0], "bert").items()} == values
