"""Compare all recipes on the same ground: the runs. See recipes_study/PROTOCOL.md.

    python benchmarks/recipes.py choose --output_dir studies
    python benchmarks/recipes.py pick --output_dir studies      # writes recipes_study/chosen.json and chosen.md
    python benchmarks/recipes.py confirm --output_dir studies
    python benchmarks/recipes.py same_rate --output_dir studies
    python benchmarks/recipes.py control --output_dir studies
    python benchmarks/recipes.py plan --newer                   # runs and core hours of each part; runs nothing

With --newer, the first four parts are those of the newer recipes alone (see the protocol's last amendment). Their studies are in
OUTPUT_DIR/newer, their rates in recipes_study/newer_chosen.json.

Each part is a study per task, like any other: after an interruption, the same command runs what is missing. A part writes its
changes of the packaged recipes to recipe files in OUTPUT_DIR/arms.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    # what stable_adamw, gi_adam and untuned_warmup change, besides
    "corrected": {"args": {"bias_correction": True}, "replaces": ["bias_correction"]},
    # values that fit the demo's 189 update steps and its 12 layers
    "ema_99": {"args": {"average": "ema", "average_from": 0.0, "average_decay": 0.99}},
    "reinit_1": {"args": {"reinit_layers": 1}},
    "reinit_2": {"args": {"reinit_layers": 2}},
}
CONTROL, CONTROLLED = "devlin2019+no_dropout", "devlin2019+mixout"


@dataclass(eq=False)
class Comparison:
    """Recipes that are compared with each other.

    Attributes:
        name: of the studies' folder, and first in the names of its files. Empty for the first comparison.
        chosen: recipes for which part `choose` finds a learning rate.
        known: recipes that run at the learning rate of the first comparison.
        seeds: of the parts `confirm` and `same_rate`.
        at_one_rate: recipes of part `same_rate`.
    """

    name: str
    chosen: tuple[str, ...]
    known: tuple[str, ...]
    seeds: tuple[str, ...]
    at_one_rate: tuple[str, ...]

    def file(self, name: str) -> Path:
        """A file beside the protocol: `chosen.json`, `newer_chosen.json`."""
        return HERE / "_".join(filter(None, [self.name, name]))


NEWER_ADD_ONS = (
    "corrected", "stable_adamw", "gi_adam", "untuned_warmup", "neftune", "head_first", "ema", "ema_99", "swa", "reinit_1", "reinit_2",
)  # fmt: skip
_FIRST, _NEWER = ((*(f"devlin2019+{name}" for name in names),) for names in (ADD_ONS, NEWER_ADD_ONS))
FIRST = Comparison("", (*BASES, *_FIRST), (), SEEDS, (*BASES, *_FIRST))
NEWER = Comparison(
    "newer",
    (*_NEWER, "mosbach2021+no_dropout", "mosbach2021+mixout"),
    ("devlin2019", "mosbach2021"),
    ("9101-9120",),
    ("devlin2019", *_NEWER),
)


CORRECTED = "devlin2019+corrected"
ALSO_CORRECTED = tuple(f"devlin2019+{name}" for name in ("stable_adamw", "gi_adam", "untuned_warmup"))


def recipe_names(which: Comparison = FIRST) -> list[str]:
    """Names of the recipes that get a learning rate, bases first."""
    return list(which.chosen)


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


def choose(folder: Path, task: str, more: list[str], which: Comparison = FIRST) -> int:
    """Part `choose`: run all recipes at all learning rates of the grid, and beyond an edge as long as one is best there."""
    rates, new = [], list(GRID)
    while new:
        rates += new
        if missing(runs_by_rate(folder / "choose" / task), rates, which):
            code = at_grid(folder, task, new, more, which)
            if code or "--dry_run" in more:
                return code
        means = mean_scores(folder / "choose" / task, rates, which)
        best = {best_rate(own) for own in means.values()}
        edges = best & {min(rates), max(rates)} & BEYOND.keys()
        new = sorted(BEYOND[edge] for edge in edges)
    return 0


def at_grid(folder: Path, task: str, rates: Sequence[float], more: list[str], which: Comparison = FIRST) -> int:
    """Run all recipes at these learning rates, in the study of part `choose`."""
    grid = {"grid": {"learning_rate": list(rates)}, "replaces": ["learning_rate"]}
    part = write_part(folder / "arms", "rates", grid)
    recipes = [composed(name, folder / "arms", part) for name in recipe_names(which)]
    return run_study(folder / "choose" / task, task, recipes, CHOICE_SEEDS, "first", more)


def runs_by_rate(folder: Path) -> dict[tuple[str, float], list[RunRecord]]:
    """By recipe and learning rate, the runs of part `choose` on a task."""
    runs: dict[tuple[str, float], list[RunRecord]] = {}
    for run in read_runs(folder):
        name, _, rate = run.recipe.partition("+rates,learning_rate=")
        runs.setdefault((name, float(rate)), []).append(run)
    return runs


def missing(
    runs: Mapping[tuple[str, float], Sequence[RunRecord]], rates: Sequence[float], which: Comparison = FIRST
) -> list[str]:
    """The cells of part `choose` without all their seeds, at these learning rates: `r_drop at 0.0001`."""
    seeds = len(parse_seeds(CHOICE_SEEDS))
    wanted = [(name, rate) for name in recipe_names(which) for rate in rates]
    return [f"{name} at {rate:g}" for name, rate in wanted if len(runs.get((name, rate), [])) != seeds]


def mean_scores(
    folder: Path, rates: Sequence[float] | None = None, which: Comparison = FIRST
) -> dict[str, dict[float, float]]:
    """By recipe and learning rate, the mean score of part `choose` on a task.

    Args:
        folder: the task's study.
        rates: the learning rates. Default: all that were run.
        which: the recipes.

    Raises:
        SystemExit: a recipe does not have all seeds at all learning rates.
    """
    runs = runs_by_rate(folder)
    rates = sorted(rates or {rate for _, rate in runs})
    lacking = missing(runs, rates, which)
    if lacking or not rates:
        raise SystemExit(
            f"{folder}: part choose is incomplete, missing {', '.join(lacking[:5])} ...; run `recipes.py choose` again."
        )
    return {name: {rate: mean_score(runs[name, rate]) for rate in rates} for name in recipe_names(which)}


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


def pick(folder: Path, which: Comparison = FIRST) -> None:
    """Part `pick`: write the learning rates by the protocol's rule, and the table behind them, beside the protocol."""
    chosen: dict[str, dict[str, float]] = {}
    lines = [
        "# The learning rates that part `choose` gave",
        "",
        "A cell has the mean score over seeds 2000 to 2002 on the first half of the development set, and the number of failed runs",
        "there. * marks a learning rate at the edge of the grid.",
    ]
    for task in TASKS:
        means = mean_scores(folder / "choose" / task, which=which)
        runs = runs_by_rate(folder / "choose" / task)
        failed = {place: sum(run.status in NOT_OK for run in own) for place, own in runs.items()}
        rates = sorted(next(iter(means.values())))
        chosen[task] = {name: best_rate(means[name]) for name in recipe_names(which)}
        rows = [
            [
                f"`{name}`",
                *(_cell(means[name][rate], failed[name, rate]) for rate in rates),
                rate_text(chosen[task][name]) + "*" * (chosen[task][name] in (rates[0], rates[-1])),
            ]
            for name in recipe_names(which)
        ]
        lines += ["", f"## {task}", "", markdown_table(["recipe", *map(rate_text, rates), "chosen"], rows)]
    which.file("chosen.json").write_text(json.dumps(chosen, indent=2) + "\n", encoding="utf-8")
    which.file("chosen.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _cell(mean: float, failed: int) -> str:
    return decimal(mean) + (f", {failed} failed" if failed else "")


def at_rates(
    folder: Path, task: str, rates: dict[str, float], part: str, more: list[str], which: Comparison = FIRST
) -> int:
    """Run each recipe at one learning rate, on the half of the development set that did not choose it."""
    recipes = []
    for name, rate in rates.items():
        label = f"at_{rate:.1e}".replace(".0e", "e")
        content = {"args": {"learning_rate": rate}, "replaces": ["learning_rate"]}
        recipes.append(composed(name, folder / "arms", write_part(folder / "arms", label, content)))
    return run_study(folder / part / task, task, recipes, which.seeds, "both", more)


def run_study(folder: Path, task: str, recipes: list[str], seeds: tuple[str, ...], half: str, more: list[str]) -> int:
    """Run recipes x seeds; the command line's exit code."""
    where = ["--task_name", task, "--validation_half", half, "--output_dir", str(folder)]
    return cli.main([*where, "--recipe", *recipes, "--seeds", *seeds, *more])


def chosen_rates(task: str, which: Comparison = FIRST) -> dict[str, float]:
    """The learning rates for a task that part `pick` wrote, as committed beside the protocol."""
    file = which.file("chosen.json")
    if not file.is_file():
        raise SystemExit(f"{file} is missing; run the parts choose and pick first.")
    known = {name: chosen_rates(task)[name] for name in which.known}
    return known | json.loads(file.read_text(encoding="utf-8"))[task]


def not_at_failing_rate(which: Comparison = FIRST) -> dict[str, float]:
    """The recipes that part `same_rate` runs: those that part `confirm` has at another learning rate."""
    chosen = chosen_rates(TASKS[0], which)
    return {name: FAILING_RATE for name in which.at_one_rate if chosen[name] != FAILING_RATE}


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


def plan(which: Comparison) -> str:
    """The runs and core hours of each part, by the median seconds per run in the committed runs.csv."""
    seconds: dict[tuple[str, str], list[float]] = {}
    with open(FIRST.file("runs.csv"), newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            seconds.setdefault((row["part"], row["recipe"]), []).append(float(row["seconds"]))

    def hours(task: str, names: Sequence[str], runs_each: int) -> float:
        part, bases = f"confirm {task}", [name.partition("+")[0] for name in names]
        costs = (
            np.median(seconds.get((part, name)) or seconds[part, base])
            for name, base in zip(names, bases, strict=True)
        )
        return float(sum(costs)) * runs_each / 3600

    choice, n = len(parse_seeds(CHOICE_SEEDS)), len(parse_seeds(which.seeds))
    both = [*which.known, *which.chosen]
    rows = []
    for task in TASKS:
        for what, rates in (("choose", len(GRID)), ("choose, per further rate", 1)):
            each = rates * choice
            rows.append([what, task, str(len(which.chosen) * each), decimal(hours(task, which.chosen, each), 2)])
        rows.append(["confirm", task, str(len(both) * n), decimal(hours(task, both, n), 2)])
    cost = hours(TASKS[0], which.at_one_rate, n)
    rows.append(["same_rate, at most", TASKS[0], str(len(which.at_one_rate) * n), decimal(cost, 2)])
    return markdown_table(["part", "task", "runs", "core hours"], rows)


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["choose", "pick", "confirm", "same_rate", "control", "plan"])
    parser.add_argument("--newer", action="store_true", help="the newer recipes alone; not for part control")
    parser.add_argument("--task", choices=TASKS, help="run this task only; default: both, one after the other")
    parser.add_argument("--output_dir", type=Path, default=Path("results/recipes_study"), help="folder of the studies")
    parser.add_argument("--workers", default=None, help="runs at a time; default: one per core")
    parser.add_argument("--dry_run", action="store_true", help="print the runs and their settings; run nothing")
    arguments = parser.parse_args()  # no other flag: none may override an arm
    more = ["--dry_run"] * arguments.dry_run + (["--workers", arguments.workers] if arguments.workers else [])
    which = NEWER if arguments.newer else FIRST
    folder = arguments.output_dir / which.name
    if arguments.part == "plan":
        print(plan(which))
        return 0
    if arguments.part == "pick":
        pick(folder, which)
        return 0
    if arguments.part == "control":
        if arguments.newer:
            parser.error("--newer has no part control.")
        return control(folder, more)
    tasks = [arguments.task] if arguments.task else list(TASKS)
    if arguments.part == "same_rate":
        return at_rates(folder, TASKS[0], not_at_failing_rate(which), "same_rate", more, which)
    for task in tasks:
        if arguments.part == "choose":
            code = choose(folder, task, more, which)
        else:
            code = at_rates(folder, task, chosen_rates(task, which), "confirm", more, which)
        if code:
            return code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
