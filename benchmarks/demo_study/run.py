"""The demo's studies: the choice of the learning rate, and the confirmatory run. See PROTOCOL.md.

    python benchmarks/demo_study/run.py choose --output_dir studies
    python benchmarks/demo_study/run.py confirm --output_dir studies

Each part is a study like any other: after an interruption, the same command runs what is missing. Each arm is a recipe file,
written to OUTPUT_DIR/arms, so it can also be run by itself.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml


os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a clone, installed or not
from hf_stability import cli
from hf_stability.methods.adamw import effective_step_factor
from hf_stability.recipe import recipe_dir


TASK = "demo_pair"
RECIPES = ("transformers_default", "devlin2019", "mosbach2021")
GRID = (1e-4, 2e-4, 2.5e-4, 3e-4, 4e-4)  # the same for every recipe
CHOICE_SEEDS = ("1000-1003",)
MORE_CHOICE_SEEDS = ("1004-1009",)  # more for devlin2019, because its failed share picks the rate
CONFIRM_SEEDS = ("1-20",)
EXAMPLES, BATCH, WARMUP = 1000, 16, 0.1  # those of the task and the recipes

# The result of part `choose`: see PROTOCOL.md, "Chosen".
RATE = 2.5e-4
BEST_RATES = {"transformers_default": 1e-4, "devlin2019": 1e-4}


def steps_of(epochs: int) -> int:
    """Update steps in this many epochs of the task's training set."""
    return epochs * math.ceil(EXAMPLES / BATCH)


def schedule(epochs: int, warmup_steps: int | None = None) -> np.ndarray:
    """The Trainer's linear schedule as a share of the peak learning rate, `(steps,)`; warmup steps are rounded up, as there."""
    steps = steps_of(epochs)
    warmup = math.ceil(WARMUP * steps) if warmup_steps is None else warmup_steps
    done = np.arange(steps)
    return np.where(done < warmup, done / max(1, warmup), (steps - done) / max(1, steps - warmup))


def mean_factor(epochs: int) -> float:
    """Mean over a run of bias correction's factor on the step, weighted by the schedule."""
    shape = schedule(epochs)
    return float((shape * effective_step_factor(np.arange(1, len(shape) + 1))).sum() / shape.sum())


def arm_name(recipe: str, rate: float) -> str:
    """Name of an arm in the grid: `devlin2019-3e-04`."""
    return f"{recipe}-{rate:.1e}".replace(".0e", "e")


def choice_arms(recipe: str) -> dict[str, dict[str, Any]]:
    """The arms of a recipe, one per learning rate of the grid: name -> values that override the packaged recipe."""
    return {arm_name(recipe, rate): {"recipe": recipe, "learning_rate": rate} for rate in GRID}


def confirm_arms(rate: float, best_rates: dict[str, float]) -> dict[str, dict[str, Any]]:
    """The arms of the confirmatory run, in the order of the protocol: name -> values that override the packaged recipe."""
    off, on = {"recipe": "devlin2019", "learning_rate": rate}, {"recipe": "mosbach2021", "learning_rate": rate}
    arms = {recipe: {"recipe": recipe, "learning_rate": rate} for recipe in RECIPES}
    arms |= {
        "on_3": {**on, "num_train_epochs": 3},
        "off_3_mean_factor": {**off, "learning_rate": rate * mean_factor(3)},
        "off_3_factor": {**off, "lr_bias_correction": True},
        "off_3_long_warmup": {**off, "warmup_steps": math.ceil(WARMUP * steps_of(20))},
        "off_20": {**off, "num_train_epochs": 20},
    }
    arms |= {
        f"{recipe}_best": {"recipe": recipe, "learning_rate": best}
        for recipe, best in best_rates.items()
        if best != rate
    }
    return arms


def arm_values(part: str, name: str) -> dict[str, Any]:
    """The values with which an arm overrides its recipe."""
    if part == "confirm":
        return confirm_arms(RATE, BEST_RATES)[name]
    return next(arms[name] for recipe in RECIPES if name in (arms := choice_arms(recipe)))


def write_arm(folder: Path, name: str, values: dict[str, Any]) -> Path:
    """Write a packaged recipe with some values changed as a recipe file; its path."""
    content = yaml.safe_load((recipe_dir() / f"{values['recipe']}.yaml").read_text(encoding="utf-8"))
    content["args"] |= {key: value for key, value in values.items() if key != "recipe"}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    head = f"# {values['recipe']} with {', '.join(f'{k} {v}' for k, v in values.items() if k != 'recipe')}; see PROTOCOL.md\n"
    path.write_text(head + yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def run_study(
    folder: Path, arms: dict[str, dict[str, Any]], seeds: tuple[str, ...], half: str, more: list[str]
) -> int:
    """Run arms x seeds on one half of the development set; the command line's exit code."""
    files = [str(write_arm(folder.parent / "arms", name, values)) for name, values in arms.items()]
    where = ["--task_name", TASK, "--validation_half", half, "--output_dir", str(folder)]
    return cli.main([*where, "--recipe", *files, "--seeds", *seeds, *more])


def choose(folder: Path, more: list[str]) -> int:
    """Part `choose`: run the grid, devlin2019 first."""
    code = 0
    for recipe in ("devlin2019", "transformers_default", "mosbach2021"):
        code = code or run_study(folder, choice_arms(recipe), CHOICE_SEEDS, "first", more)
        if recipe == "devlin2019":
            code = code or run_study(folder, choice_arms(recipe), MORE_CHOICE_SEEDS, "first", more)
    return code


def confirm(folder: Path, more: list[str]) -> int:
    """Part `confirm`: run once, on the other half."""
    return run_study(folder, confirm_arms(RATE, BEST_RATES), CONFIRM_SEEDS, "second", more)


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["choose", "confirm"])
    parser.add_argument("--output_dir", type=Path, default=Path("results/demo_study"), help="folder of the studies")
    parser.add_argument("--workers", default=None, help="runs at a time; default: one per core")
    parser.add_argument("--dry_run", action="store_true", help="print the runs and their settings; run nothing")
    arguments = parser.parse_args()  # no other flag: none may override an arm
    more = ["--dry_run"] * arguments.dry_run + (["--workers", arguments.workers] if arguments.workers else [])
    part = {"choose": choose, "confirm": confirm}[arguments.part]
    return part(arguments.output_dir / arguments.part, more)


if __name__ == "__main__":
    raise SystemExit(main())
