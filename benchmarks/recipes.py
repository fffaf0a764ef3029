"""Every recipe on the same ground: the runs. See recipes_study/PROTOCOL.md.

    python benchmarks/recipes.py choose --output_dir studies
    python benchmarks/recipes.py pick --output_dir studies      # writes recipes_study/chosen.json and chosen.md
    python benchmarks/recipes.py confirm --output_dir studies
    python benchmarks/recipes.py same_rate --output_dir studies
    python benchmarks/recipes.py control --output_dir studies

Each part is a study for each task, like any other: interrupted, the same command goes on with what is missing. What a part
sets over the packaged recipes stands in recipe files that it writes to OUTPUT_DIR/arms.
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
# ... and where one is best at an edge, more for all
BEYOND = {1e-4: 4e-5, 4e-5: 1.6e-5, 6e-4: 1.5e-3, 1.5e-3: 3.75e-3}
CHOICE_SEEDS, SEEDS = ("2000-2002",), ("4001-4020",)
FAILING_RATE = 2.5e-4  # of devlin2019 on demo_pair: see demo_study

OWN_PARTS = {
    # STILTs, on what is bundled
    "stilts_demo": {"stages": [{"task_name": "demo_nli", "args": {"learning_rate": 1e-4}}]},
    # what the recipe mixout does besides Mixout
    "no_dropout": {"model_config": {"hidden_dropout_prob": 0}, "replaces": ["model_config.hidden_dropout_prob"]},
}
CONTROL, CONTROLLED = "devlin2019+no_dropout", "devlin2019+mixout"


def recipe_names() -> list[str]:
    """The recipes that are compared, bases first."""
    return [*BASES, *(f"devlin2019+{name}" for name in ADD_ONS)]


def write_part(folder: Path, name: str, content: dict) -> str:
    """A part of a composed recipe, as a file of our own; its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text("# see benchmarks/recipes_study/PROTOCOL.md\n" + yaml.safe_dump(content), encoding="utf-8")
    return str(path)


def composed(name: str, folder: Path, rate_part: str) -> str:
    """A recipe as --recipe takes it, with what sets its rate."""
    parts = [write_part(folder, part, OWN_PARTS[part]) if part in OWN_PARTS else part for part in name.split("+")]
    return "+".join([*parts, rate_part])


def choose(folder: Path, task: str, more: list[str]) -> int:
    """Part `choose`: every recipe at every rate of the grid, and beyond an edge of it as long as one is best there."""
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
    """Every recipe at each of these rates, in the study of part `choose`."""
    grid = {"grid": {"learning_rate": list(rates)}, "replaces": ["learning_rate"]}
    part = write_part(folder / "arms", "rates", grid)
    recipes = [composed(name, folder / "arms", part) for name in recipe_names()]
    return run_study(folder / "choose" / task, task, recipes, CHOICE_SEEDS, "first", more)


def runs_by_rate(folder: Path) -> dict[tuple[str, float], list[RunRecord]]:
    """By recipe and rate, the runs of part `choose` on a task."""
    runs: dict[tuple[str, float], list[RunRecord]] = {}
    for run in read_runs(folder):
        name, _, rate = run.recipe.partition("+rates,learning_rate=")
        runs.setdefault((name, float(rate)), []).append(run)
    return runs


def missing(runs: Mapping[tuple[str, float], Sequence[RunRecord]], rates: Sequence[float]) -> list[str]:
    """What part `choose` has not, with all its seeds, at these rates: `r_drop at 0.0001`."""
    seeds = len(parse_seeds(CHOICE_SEEDS))
    wanted = [(name, rate) for name in recipe_names() for rate in rates]
    return [f"{name} at {rate:g}" for name, rate in wanted if len(runs.get((name, rate), [])) != seeds]


def mean_scores(folder: Path, rates: Sequence[float] | None = None) -> dict[str, dict[float, float]]:
    """By recipe and rate, the mean score of part `choose` on a task.

    Args:
        folder: the task's study.
        rates: those wanted. Default: all that are there.

    Raises:
        SystemExit: not every recipe has all seeds at every rate.
    """
    runs = runs_by_rate(folder)
    rates = sorted(rates or {rate for _, rate in runs})
    lacking = missing(runs, rates)
    if lacking or not rates:
        raise SystemExit(f"part choose is not whole: {folder} has not {', '.join(lacking[:5])} ...")
    return {name: {rate: mean_score(runs[name, rate]) for rate in rates} for name in recipe_names()}


def mean_score(runs: Sequence[RunRecord]) -> float:
    """Of the runs that have a score; NaN where none has."""
    return float(np.nanmean(np.array([run.last for run in runs], dtype=float)))


def rate_text(rate: float) -> str:
    """`2.5e-4`."""
    mantissa, exponent = f"{rate:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def best_rate(means: Mapping[float, float]) -> float:
    """That with the highest mean score; of equals the lower one."""
    return min(means, key=lambda rate: (-means[rate], rate))


def pick(folder: Path) -> None:
    """What part `choose` gave: the rates by the protocol's rule, and the table behind them, written beside the protocol."""
    chosen: dict[str, dict[str, float]] = {}
    lines = [
        "# What part `choose` gave",
        "",
        "Mean score over seeds 2000 to 2002, first half of the development set; failed runs there; * a rate at the grid's edge.",
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
    """Each recipe at one rate, on the part of the development set that did not choose it."""
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
    """What part `choose` picked for a task, as committed beside the protocol."""
    file = HERE / "chosen.json"
    if not file.is_file():
        raise SystemExit(f"{file} is missing: part choose comes first, and what it picks is committed")
    return json.loads(file.read_text(encoding="utf-8"))[task]


def not_at_failing_rate() -> dict[str, float]:
    """The runs of part `same_rate`: recipes that part `confirm` has at another rate."""
    return {name: FAILING_RATE for name, rate in chosen_rates(TASKS[0]).items() if rate != FAILING_RATE}


def control(folder: Path, more: list[str]) -> int:
    """Part `control`: hidden dropout left out, without Mixout, wherever Mixout was run."""
    for part, task, rate in control_places():
        code = at_rates(folder, task, {CONTROL: rate}, part, more)
        if code:
            return code
    return 0


def control_places() -> list[tuple[str, str, float]]:
    """The studies of part `control`: its folder, the task and the rate, which is Mixout's."""
    own = [("control", task, chosen_rates(task)[CONTROLLED]) for task in TASKS]
    return [*own, ("control_same_rate", TASKS[0], FAILING_RATE)]


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["choose", "pick", "confirm", "same_rate", "control"])
    parser.add_argument("--task", choices=TASKS, help="default: both, one after the other")
    parser.add_argument("--output_dir", type=Path, default=Path("results/recipes_study"), help="folder of the studies")
    parser.add_argument("--workers", default=None, help="runs at a time; default: one a core")
    parser.add_argument("--dry_run", action="store_true", help="print what would be run")
    arguments = parser.parse_args()  # nothing else: no flag may go over an arm
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
