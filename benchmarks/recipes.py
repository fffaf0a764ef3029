"""Compare all recipes on the same ground: the runs. See recipes_study/PROTOCOL.md.

    python benchmarks/recipes.py choose --output_dir studies
    python benchmarks/recipes.py pick --output_dir studies      # writes recipes_study/chosen.json and chosen.md
    python benchmarks/recipes.py confirm --output_dir studies
    python benchmarks/recipes.py same_rate --output_dir studies
    python benchmarks/recipes.py control --output_dir studies

Each part is a study per task, like any other: after an interruption, the same command runs what is missing. A part writes its
changes of the packaged recipes to recipe files in OUTPUT_DIR/arms.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml


os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, installed or not
from hf_stability import cli
from hf_stability.study.folder import read_runs
from hf_stability.study.prepare import parse_seeds
from hf_stability.study.records import RunRecord
from hf_stability.utils.text import decimal, markdown_table
from hf_stability.verdicts.verdict import NOT_OK


HERE = Path(__file__).parent / "recipes_study"
TASKS = ("demo_pair", "demo_cola")
BASES = ("transformers_default", "devlin2019", "mosbach2021")
ADD_ONS = (
    "mixout", "prior_decay", "l2_sp", "reinit", "layerwise_lr", "component_clip", "r_drop", "r3f", "child_tuning_f",
    "child_tuning_d", "stilts_demo",
)  # fmt: skip
GRID = (1e-4, 2.5e-4, 6e-4)  # the same for every recipe, ...
# ... and the next one, for all recipes, where one of them is best at an edge
BEYOND = {1e-4: 4e-5, 4e-5: 1.6e-5, 6e-4: 1.5e-3, 1.5e-3: 3.75e-3}
CHOICE_SEEDS, SEEDS = ("2000-2002",), ("4001-4020",)
FAILING_RATE = 2.5e-4  # where devlin2019 fails on demo_pair, see demo_study

OWN_PARTS = {
    # STILTs on the bundled tasks
    "stilts_demo": {"stages": [{"task_name": "demo_nli", "args": {"learning_rate": 1e-4}}]},
    # the other change that the recipe mixout makes
    "no_dropout": {"model_config": {"hidden_dropout_prob": 0}, "replaces": ["model_config.hidden_dropout_prob"]},
}
CONTROL, CONTROLLED = "devlin2019+no_dropout", "devlin2019+mixout"


def recipe_names() -> list[str]:
    """Names of the compared recipes, bases first."""
    return [*BASES, *(f"devlin2019+{name}" for name in ADD_ONS)]


def write_part(folder: Path, name: str, content: dict) -> str:
    """Write a part of a composed recipe as a file; its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text("# see benchmarks/recipes_study/PROTOCOL.md\n" + yaml.safe_dump(content), encoding="utf-8")
    return str(path)


def composed(name: str, folder: Path, rate_part: str) -> str:
    """A recipe for --recipe, with the part that sets its learning rate."""
    parts = [write_part(folder, part, OWN_PARTS[part]) if part in OWN_PARTS else part for part in name.split("+")]
    return "+".join([*parts, rate_part])


def choose(folder: Path, task: str, more: list[str]) -> int:
    """Part `choose`: run all recipes at all learning rates of the grid, and beyond an edge as long as one is best there."""
    rates, new = [], list(GRID)
    while new:
        rates += new
        if missing(runs_by_rate(folder / "choose" / task), rates):
            code = at_grid(folder, task, new, more)
            if code or "--dry_run" in more:
                return code
        means = mean_scores(folder / "choose" / task, rates)
        best = {best_rate(own) for own in means.values()}
        edges = best & {min(rates), max(rates)} & BEYOND.keys()
        new = sorted(BEYOND[edge] for edge in edges)
    return 0


def at_grid(folder: Path, task: str, rates: Sequence[float], more: list[str]) -> int:
    """Run all recipes at these learning rates, in the study of part `choose`."""
    grid = {"grid": {"learning_rate": list(rates)}, "replaces": ["learning_rate"]}
    part = write_part(folder / "arms", "rates", grid)
    recipes = [composed(name, folder / "arms", part) for name in recipe_names()]
    return run_study(folder / "choose" / task, task, recipes, CHOICE_SEEDS, "first", more)


def runs_by_rate(folder: Path) -> dict[tuple[str, float], list[RunRecord]]:
    """By recipe and learning rate, the runs of part `choose` on a task."""
    runs: dict[tuple[str, float], list[RunRecord]] = {}
    for run in read_runs(folder):
        name, _, rate = run.recipe.partition("+rates,learning_rate=")
        runs.setdefault((name, float(rate)), []).append(run)
    return runs


def missing(runs: Mapping[tuple[str, float], Sequence[RunRecord]], rates: Sequence[float]) -> list[str]:
    """The cells of part `choose` without all their seeds, at these learning rates: `r_drop at 0.0001`."""
    seeds = len(parse_seeds(CHOICE_SEEDS))
    wanted = [(name, rate) for name in recipe_names() for rate in rates]
    return [f"{name} at {rate:g}" for name, rate in wanted if len(runs.get((name, rate), [])) != seeds]


def mean_scores(folder: Path, rates: Sequence[float] | None = None) -> dict[str, dict[float, float]]:
    """By recipe and learning rate, the mean score of part `choose` on a task.

    Args:
        folder: the task's study.
        rates: the learning rates. Default: all that were run.

    Raises:
        SystemExit: a recipe does not have all seeds at all learning rates.
    """
    runs = runs_by_rate(folder)
    rates = sorted(rates or {rate for _, rate in runs})
    lacking = missing(runs, rates)
    if lacking or not rates:
        raise SystemExit(
            f"{folder}: part choose is incomplete, missing {', '.join(lacking[:5])} ...; run `recipes.py choose` again."
        )
    return {name: {rate: mean_score(runs[name, rate]) for rate in rates} for name in recipe_names()}


def mean_score(runs: Sequence[RunRecord]) -> float:
    """The mean over the runs that have a score; NaN if none has."""
    return float(np.nanmean(np.array([run.last for run in runs], dtype=float)))


def rate_text(rate: float) -> str:
    """`2.5e-4`."""
    mantissa, exponent = f"{rate:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def best_rate(means: Mapping[float, float]) -> float:
    """The learning rate with the highest mean score; the lower one of two equals."""
    return min(means, key=lambda rate: (-means[rate], rate))


def pick(folder: Path) -> None:
    """Part `pick`: write the learning rates by the protocol's rule, and the table behind them, beside the protocol."""
    chosen: dict[str, dict[str, float]] = {}
    lines = [
        "# The learning rates that part `choose` gave",
        "",
        "A cell has the mean score over seeds 2000 to 2002 on the first half of the development set, and the number of failed runs",
        "there. * marks a learning rate at the edge of the grid.",
    ]
    for task in TASKS:
        means = mean_scores(folder / "choose" / task)
        runs = runs_by_rate(folder / "choose" / task)
        failed = {place: sum(run.status in NOT_OK for run in own) for place, own in runs.items()}
        rates = sorted(next(iter(means.values())))
        chosen[task] = {name: best_rate(means[name]) for name in recipe_names()}
        rows = [
            [
                f"`{name}`",
                *(_cell(means[name][rate], failed[name, rate]) for rate in rates),
                rate_text(chosen[task][name]) + "*" * (chosen[task][name] in (rates[0], rates[-1])),
            ]
            for name in recipe_names()
        ]
        lines += ["", f"## {task}", "", markdown_table(["recipe", *map(rate_text, rates), "chosen"], rows)]
    (HERE / "chosen.json").write_text(json.dumps(chosen, indent=2) + "\n", encoding="utf-8")
    (HERE / "chosen.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _cell(mean: float, failed: int) -> str:
    return decimal(mean) + (f", {failed} failed" if failed else "")


def at_rates(folder: Path, task: str, rates: dict[str, float], part: str, more: list[str]) -> int:
    """Run each recipe at one learning rate, on the half of the development set that did not choose it."""
    recipes = []
    for name, rate in rates.items():
        label = f"at_{rate:.1e}".replace(".0e", "e")
        content = {"args": {"learning_rate": rate}, "replaces": ["learning_rate"]}
        recipes.append(composed(name, folder / "arms", write_part(folder / "arms", label, content)))
    return run_study(folder / part / task, task, recipes, SEEDS, "both", more)


def run_study(folder: Path, task: str, recipes: list[str], seeds: tuple[str, ...], half: str, more: list[str]) -> int:
    """Run recipes x seeds; the command line's exit code."""
    where = ["--task_name", task, "--validation_half", half, "--output_dir", str(folder)]
    return cli.main([*where, "--recipe", *recipes, "--seeds", *seeds, *more])


def chosen_rates(task: str) -> dict[str, float]:
    """The learning rates for a task that part `pick` wrote, as committed beside the protocol."""
    file = HERE / "chosen.json"
    if not file.is_file():
        raise SystemExit(f"{file} is missing; run the parts choose and pick first.")
    return json.loads(file.read_text(encoding="utf-8"))[task]


def not_at_failing_rate() -> dict[str, float]:
    """The recipes of part `same_rate`: those that part `confirm` has at another learning rate."""
    return {name: FAILING_RATE for name, rate in chosen_rates(TASKS[0]).items() if rate != FAILING_RATE}


def control(folder: Path, more: list[str]) -> int:
    """Part `control`: run hidden dropout 0 without Mixout wherever Mixout was run."""
    for part, task, rate in control_places():
        code = at_rates(folder, task, {CONTROL: rate}, part, more)
        if code:
            return code
    return 0


def control_places() -> list[tuple[str, str, float]]:
    """The studies of part `control`: folder, task and learning rate (that of Mixout)."""
    own = [("control", task, chosen_rates(task)[CONTROLLED]) for task in TASKS]
    return [*own, ("control_same_rate", TASKS[0], FAILING_RATE)]


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["choose", "pick", "confirm", "same_rate", "control"])
    parser.add_argument("--task", choices=TASKS, help="run this task only; default: both, one after the other")
    parser.add_argument("--output_dir", type=Path, default=Path("results/recipes_study"), help="folder of the studies")
    parser.add_argument("--workers", default=None, help="runs at a time; default: one per core")
    parser.add_argument("--dry_run", action="store_true", help="print the runs and their settings; run nothing")
    arguments = parser.parse_args()  # no other flag: none may override an arm
    more = ["--dry_run"] * arguments.dry_run + (["--workers", arguments.workers] if arguments.workers else [])
    if arguments.part == "pick":
        pick(arguments.output_dir)
        return 0
    if arguments.part == "control":
        return control(arguments.output_dir, more)
    tasks = [arguments.task] if arguments.task else list(TASKS)
    if arguments.part == "same_rate":
        return at_rates(arguments.output_dir, TASKS[0], not_at_failing_rate(), "same_rate", more)
    for task in tasks:
        if arguments.part == "choose":
            code = choose(arguments.output_dir, task, more)
        else:
            code = at_rates(arguments.output_dir, task, chosen_rates(task), "confirm", more)
        if code:
            return code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
