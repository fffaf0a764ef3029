import os

import pytest

from hf_stability.errors import InputError
from hf_stability.recipe import load_recipe, load_recipes
from hf_stability.recipe.resolve import resolve, resolve_stage
from hf_stability.training_args import StableTrainingArguments
from tests.recipe.files import files, write


@pytest.mark.parametrize("packaged", [True, False])
def test_command_line_over_preset_over_model_type_over_recipe_over_study_default(tmp_path, monkeypatch, packaged):
    if packaged:
        monkeypatch.setattr("hf_stability.utils.recipe_files.recipe_dir", lambda: tmp_path)
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


def test_each_part_keeps_its_own_place_beside_the_tasks_preset(tmp_path, monkeypatch):
    """Over a packaged recipe's values, under those of a user's own file, also where these are parts of one recipe."""
    packaged = tmp_path / "packaged"
    packaged.mkdir()
    (packaged / "base.yaml").write_text("args: {learning_rate: 1, weight_decay: 1}")
    monkeypatch.setattr("hf_stability.utils.recipe_files.recipe_dir", lambda: packaged)
    mine = write(tmp_path, "args: {adam_beta2: 0.5, adam_beta1: 0.5}")
    for name in (f"base+{mine}", f"{mine}+base"):
        values = resolve(load_recipe(name), None, {"learning_rate": 3.0, "adam_beta2": 3.0}, given={"adam_beta1": 4.0})
        assert {name: (r.value, r.source) for name, r in values.items()} == {
            "learning_rate": (3.0, "task preset"),
            "weight_decay": (1.0, "recipe base"),
            "adam_beta2": (0.5, "recipe mine"),
            "adam_beta1": (4.0, "--adam_beta1"),
        }


def test_a_grid_goes_over_the_tasks_preset_and_nothing_can_be_given_over_it(tmp_path, monkeypatch):
    """Otherwise all its recipes would be the same, under names that say something else."""
    path = write(tmp_path, "grid: {learning_rate: [1e-5, 2e-5]}")
    for packaged in (True, False):
        folder = tmp_path if packaged else tmp_path / "none"
        monkeypatch.setattr("hf_stability.utils.recipe_files.recipe_dir", lambda folder=folder: folder)
        recipe = load_recipe(f"{path},learning_rate=2e-05")
        assert recipe.is_packaged == packaged
        assert resolve(recipe, preset={"learning_rate": 1.0})["learning_rate"].value == 2e-5
        with pytest.raises(InputError, match="--learning_rate 3.0: the grid of recipe mine varies it"):
            resolve(recipe, given={"learning_rate": 3.0})


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


def test_arguments_from_a_recipe_with_stages_say_that_these_are_not_in_them(tmp_path, caplog):
    StableTrainingArguments.from_recipe("devlin2019", "bert", output_dir=str(tmp_path), use_cpu=True)
    assert "stages" not in caplog.text
    StableTrainingArguments.from_recipe("devlin2019+stilts", "bert", output_dir=str(tmp_path), use_cpu=True)
    assert "recipe devlin2019+stilts has stages, and these arguments are only for the target task" in caplog.text
