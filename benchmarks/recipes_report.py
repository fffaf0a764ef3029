"""Compare all recipes on the same ground: the tables. See recipes_study/PROTOCOL.md, "Analysis" and "Amendment".

    python benchmarks/recipes_report.py --output_dir studies
    python benchmarks/recipes_report.py --from_csv    # make the tables again from the committed runs.csv, without the studies
    python benchmarks/recipes_report.py --newer --output_dir studies    # the newer recipes: recipes_study/newer_results.md ...

Writes recipes_study/results.md (all columns), runs.csv and a picture of the scores per table. Puts the pictures and narrower
tables between the two marks in docs/remedies.md. With --from_csv, runs.csv and the pictures stay as they are, and costs come from
seconds rounded to tenths. With --newer the page stays as it is.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, installed or not
from benchmarks import recipes as study
from benchmarks.interval_coverage import PAIRED, RESTARTS, coverage_text
from hf_stability.diagnostics.plots import own_style
from hf_stability.statistics import brown_forsythe, fisher_exact_p, holm, standard_deviation, t_interval
from hf_stability.study.folder import read_runs
from hf_stability.study.prepare import parse_seeds
from hf_stability.study.records import RunRecord
from hf_stability.study.report.against_restarts import AgainstRestarts
from hf_stability.study.report.against_restarts import against_restarts as compare
from hf_stability.study.report.figures import scores_figure
from hf_stability.study.report.restarts import restarts_at_budget
from hf_stability.study.report.summary import summarize
from hf_stability.study.report.summary_page import failed_text
from hf_stability.tasks.load import HALVES, TokenizedData
from hf_stability.utils.files import write_text
from hf_stability.utils.text import decimal, markdown_table


BASE = "devlin2019"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "remedies.md"
FROM_PAGE = "../benchmarks/recipes_study/"
SAME_RATE = "same_rate"  # name of the part
MARKS = "<!-- recipes_report.py: begin -->", "<!-- recipes_report.py: end -->"
RESTARTS_RESAMPLES, POWER_DRAWS = 2000, 4000
WORK = {"mosbach2021": 20 / 3}  # cost in runs of the base, by update steps; all other costs are by seconds
AT_EQUAL_COMPUTE = 1.1  # recipes that cost this many runs of the base, or more, have a row there
IN_A_ROW = 7  # boxes per row of a picture, so that it is legible at a page's width
NO_SPREAD = 0.002  # one example in 500
SCORES = {"mean": "mean", "std": "std", "std of runs that did not fail": "std_ok", "median": "median", "max": "max"}
"""Columns of the scores -> key of the figure in a summary."""
FAILED, DIFFERENCE = "failed = share (95% interval)", f"mean - `{BASE}`'s (95% interval)"
SPREAD_P, FAILED_P, MIXOUT = (
    "p of spread (Holm)",
    "p of failed (Holm)",
    f"`{study.CONTROLLED}`'s mean - this (95% interval)",
)
ON_PAGE = ("task", "recipe", "learning rate", FAILED, FAILED_P, "mean", "std", DIFFERENCE, MIXOUT)
"""Columns of the page's tables; results.md has all."""


@dataclass(frozen=True)
class Arm:
    """A recipe's n runs on a task, in the order of seeds.

    Args:
        metric: name of the headline metric.
        rate: learning rate.
        edge: whether the rate is at an edge of the grid it was chosen from.
        select, report: (n,) scores at the end of training, on the half that selects and on the reported half.
        failed: (n,) bool, on the reported half.
        seconds: (n,) wall clock per run.
        stage_seconds: wall clock of the stages that all runs start from; 0 without stages.
    """

    recipe: str
    metric: str
    rate: float
    edge: bool
    seeds: tuple[int, ...]
    select: np.ndarray
    report: np.ndarray
    failed: np.ndarray
    seconds: np.ndarray
    stage_seconds: float = 0.0


# ---- the runs -------------------------------------------------------------------------------------------------------


def read_arms(
    folder: Path,
    rates: Mapping[str, float],
    grid: Mapping[str, tuple[float, ...]],
    which: study.Comparison = study.FIRST,
) -> dict[str, Arm]:
    """The arms of a part.

    Args:
        folder: the part's study of a task.
        rates: by recipe, its planned learning rate.
        grid: by recipe, the learning rates it was chosen from. A recipe without one was not at an edge.
        which: the comparison, which has the seeds.

    Raises:
        SystemExit: runs are missing, were not planned, or have another learning rate.
    """
    runs: dict[str, list[RunRecord]] = {}
    for run in read_runs(folder):
        runs.setdefault(run.recipe.partition("+at_")[0], []).append(run)
    seeds = tuple(parse_seeds(which.seeds))
    arms = {}
    for recipe, rate in rates.items():
        own = sorted(runs.get(recipe, []), key=lambda run: run.seed)
        if tuple(run.seed for run in own) != seeds:
            raise SystemExit(
                f"{folder}: {recipe} has {len(own)} runs, planned are {len(seeds)}; run this part to its end."
            )
        jobs = [json.loads((folder / "runs" / run.name / "config.json").read_text("utf-8"))["job"] for run in own]
        others = {job["args"]["learning_rate"] for job in jobs} - {rate}
        if others:
            raise SystemExit(
                f"{folder}: {recipe} was run at {others.pop():g}, planned is {rate:g}; give the folder of the planned study."
            )
        baseline = second_half_baseline(folder / "data" / Path(jobs[0]["data_folder"]).name)
        accuracy = _scores([run.metrics.get(f"eval_{HALVES[1]}_accuracy") for run in own])
        diverged = np.array([run.status == "diverged" for run in own])
        stages = [path for stage in jobs[0].get("stages", ()) for path in folder.glob(f"stages/*-{stage}")]
        arms[recipe] = Arm(
            recipe,
            own[0].metric,
            rate,
            recipe in grid and rate in (min(grid[recipe]), max(grid[recipe])),
            seeds,
            _scores([run.last for run in own]),
            _scores([run.report for run in own]),
            diverged | (accuracy <= baseline),
            np.array([_seconds(folder / "runs" / run.name) for run in own]),
            sum(map(_seconds, stages)),
        )
    return arms


@cache
def second_half_baseline(folder: Path) -> float:
    """Accuracy of the majority-class baseline on the reported half."""
    labels = np.array(TokenizedData.load(folder).validation[HALVES[1]]["label"])
    return float(np.bincount(labels).max() / len(labels))


def _scores(values: list[float | None]) -> np.ndarray:
    return np.array(values, dtype=float)  # None: NaN


def _seconds(folder: Path) -> float:
    return json.loads((folder / "times.json").read_text(encoding="utf-8"))["wall"]


# ---- statistics -----------------------------------------------------------------------------------------------------


def paired_difference(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
    """Mean paired difference and the ends of its 95% t interval, over the seeds that have both scores."""
    difference = (first - second)[np.isfinite(first) & np.isfinite(second)]
    return float(difference.mean()), *map(float, t_interval(difference))


@cache
def power(n: int, ratio: float, alpha: float = 0.05) -> float:
    """Power of the Brown-Forsythe test on two normal samples of n with standard deviations `ratio` to 1, by simulation."""
    rng = np.random.default_rng(0)
    p_values = [brown_forsythe(rng.normal(0, 1, n), rng.normal(0, ratio, n)).p for _ in range(POWER_DRAWS)]
    return float(np.mean(np.array(p_values) < alpha))


def spread_p(arm: Arm, base: Arm) -> float:
    """p of the primary test; 1 where it is undefined (all scores are the same)."""
    result = brown_forsythe(arm.report[np.isfinite(arm.report)], base.report[np.isfinite(base.report)])
    return 1.0 if result.p is None else result.p


def says_nothing_of_stability(arm: Arm, base: Arm) -> bool:
    """Whether the recipe with the smaller spread has more failed runs, or no spread at all."""
    spreads = [float(standard_deviation(one.report[np.isfinite(one.report)])) for one in (arm, base)]
    steadier, other = (arm, base) if spreads[0] < spreads[1] else (base, arm)
    return bool(min(spreads) < NO_SPREAD or steadier.failed.sum() > other.failed.sum())


def known_runs(base: Arm) -> tuple[np.ndarray, np.ndarray]:
    """The selecting and the reported scores of the runs that have both."""
    known = np.isfinite(base.select) & np.isfinite(base.report)
    return base.select[known], base.report[known]


def restarts(base: Arm, cost: float) -> float:
    """The expected score of the best of `cost` restarts, chosen on one half and scored on the other."""
    select, report = known_runs(base)
    return float(restarts_at_budget(select, cost, report))


def against_restarts(arm: Arm, base: Arm, cost: float) -> AgainstRestarts:
    """The arm's mean minus the expected best of `cost` `restarts` of the base, with its 95% interval over seeds."""
    own = arm.report[np.isfinite(arm.report)]
    return compare(own, *known_runs(base), cost, np.random.default_rng(0), RESTARTS_RESAMPLES)


# ---- tables ---------------------------------------------------------------------------------------------------------


def figures_of(arm: Arm) -> dict:
    """An arm's figures as a study's summary has them, on the reported half."""
    return summarize(records_of(arm))["recipes"][0]


def records_of(arm: Arm, title: str = "") -> list[RunRecord]:
    """An arm's runs as records, with verdicts and scores on the reported half."""
    return [
        RunRecord("", arm.recipe, seed, title, "failed" if failed else "ok", arm.metric, last=_known(score))
        for seed, failed, score in zip(arm.seeds, arm.failed.tolist(), arm.report.tolist(), strict=True)
    ]


def _known(score: float) -> float | None:
    return score if np.isfinite(score) else None


def task_tables(arms: Mapping[str, Mapping[str, Arm]], on_page: bool = False) -> str:
    """Part `confirm`: a table per task with p-values by Holm over all tasks, and a table at equal compute.

    Args:
        arms: by task and recipe.
        on_page: whether for the page, with fewer columns and no table at equal compute.
    """
    compared = [(task, name) for task, own in arms.items() for name in own if name != BASE]
    p_values = dict(zip(compared, holm([spread_p(arms[t][n], arms[t][BASE]) for t, n in compared]), strict=True))
    text = [] if on_page else [legend(len(compared))]
    for task, own in arms.items():
        rows = [arm_row(arm, own[BASE], p_values.get((task, name))) for name, arm in own.items()]
        text += [f"## `{task}`, each recipe at its own learning rate", picture(task), table_of(rows, on_page)]
        text += [f"{metric_text(own[BASE])}. * at the edge of the grid."]
        if not on_page:
            text += [f"## `{task}`, at equal compute", equal_compute_table(own)]
    return "\n\n".join(text)


def table_of(rows: Sequence[Mapping[str, str]], on_page: bool) -> str:
    """A Markdown table; rows are column -> cell. On the page it has only the columns of `ON_PAGE`."""
    columns = [column for column in rows[0] if not on_page or column in ON_PAGE]
    return markdown_table(columns, [[row[column] for column in columns] for row in rows])


def filled(text: str, indent: str = "") -> str:
    """Text in lines of at most 120 characters."""
    return textwrap.fill(text, 120, subsequent_indent=indent, break_on_hyphens=False)


def metric_text(arm: Arm) -> str:
    """`Scores: accuracy, n = 20 seeds per recipe`."""
    return f"Scores: {arm.metric.replace('_', ' ').replace('matthews', 'Matthews')}, n = {len(arm.seeds)} seeds per recipe"


def legend(comparisons: int) -> str:
    """How to read the tables."""
    n, last = len(parse_seeds(study.SEEDS)), 0.05 / comparisons

    def powers(n: int, ratio: float) -> str:
        return f"{decimal(power(n, ratio), 2)} and {decimal(power(n, ratio, last), 2)}"

    notes = [
        "Learning rate: chosen per recipe on the first half with 3 other seeds. * at the edge of the grid: the best may lie "
        "beyond. Nothing else was tuned. The methods keep their packaged settings, which are for large models. "
        "`stilts_demo` is a recipe of this benchmark: one stage on `demo_nli` at 1e-4, 3 epochs.",
        "failed: accuracy on this half at or below the majority-class baseline, or diverged; with the 95% Wilson interval. "
        "ok: all other runs. (The verdict that a run carries is on the first half.)",
        "std: over all runs. The std of runs that did not fail is comparable only where no run failed.",
        f"{DIFFERENCE}: paired by seed, 95% t interval ({coverage_text(PAIRED, n)}). Not tested.",
        f"{SPREAD_P}: Brown-Forsythe test of the spread against `{BASE}`, all runs, Holm's correction for {comparisons} "
        "comparisons. The test has no direction; the ratio of the standard deviations beside it has. †: the p-value does not "
        "show stability. The recipe with the smaller spread has more failed runs, or has no spread (all right, or all at the "
        "baseline).",
        f"Power of that test for normal scores, alone and at the first step of the correction. At n = {n}: {powers(n, 1.5)} if the "
        f"standard deviations are 1.5 to 1, {powers(n, 2.0)} at 2 to 1, {powers(n, 3.0)} at 3 to 1. At n = 60: {powers(60, 1.5)} at "
        f"1.5 to 1. A large p does not show that spreads are equal.",
        "seconds per run: median wall clock, one of two threads, with the evaluations on both halves. Recipes ran one after "
        "the other.",
    ]
    links = (
        f"[protocol]({FROM_PAGE}PROTOCOL.md), [learning rates]({FROM_PAGE}chosen.md), [every run]({FROM_PAGE}runs.csv)"
    )
    head = f"n = {n} seeds per row. Scores are from the end of training, on the second half of the development set (500 examples)."
    items = "\n".join(filled(f"- {note}", "  ") for note in notes)
    return f"{filled(head)}\n\nSee the {links}.\n\n{items}"


def arm_row(arm: Arm, base: Arm, p: float | None) -> dict[str, str]:
    """A recipe's row of its task's table, column -> cell; p is None for the base."""
    figures = figures_of(arm)
    row = {"recipe": f"`{arm.recipe}`", "learning rate": study.rate_text(arm.rate) + "*" * arm.edge}
    row |= {FAILED: failed_text(figures)} | {name: decimal(figures[key]) for name, key in SCORES.items()}
    spread, bases = figures["std"], figures_of(base)["std"]
    nothing = "†" * says_nothing_of_stability(arm, base)
    against = {
        DIFFERENCE: lambda: difference_text(*paired_difference(arm.report, base.report)),
        f"std / `{BASE}`'s": lambda: decimal(spread / bases if bases else None, 2),
        SPREAD_P: lambda: p_text(p) + nothing,
    }
    row |= {name: "" if p is None else cell() for name, cell in against.items()}
    return row | {"seconds per run": f"{np.median(arm.seconds):.0f}"}


def cost_of(arm: Arm, base: Arm) -> float:
    """Cost of a run in runs of the base, without a stage."""
    return WORK.get(arm.recipe.partition("+")[0], float(np.median(arm.seconds) / np.median(base.seconds)))


def equal_compute_table(arms: Mapping[str, Arm]) -> str:
    """One run of each dearer recipe beside the best of as many restarts of the base."""
    base = arms[BASE]
    rows = []
    for name, arm in arms.items():
        costs = {"": cost_of(arm, base)}
        if arm.stage_seconds:
            stage = arm.stage_seconds / float(np.median(base.seconds))
            costs = {
                " with its stage": costs[""] + stage,
                f" with 1/{len(arm.seeds)} of its stage": costs[""] + stage / len(arm.seeds),
            }
        for what, cost in costs.items():
            if name != BASE and AT_EQUAL_COMPUTE <= cost <= len(base.seeds):
                found = against_restarts(arm, base, cost)
                mean = float(np.nanmean(arm.report))
                cells = [f"`{name}`{what}", f"{cost:.2f}", decimal(mean), decimal(found.restarts)]
                rows.append([*cells, difference_text(found.difference, found.low, found.high)])
    header = ["recipe", f"cost, runs of `{BASE}`", "mean of one run", f"best of as many restarts of `{BASE}`"]
    text = (
        f"Restarts are chosen on the first half. Cost: by update steps for `mosbach2021`, by seconds for the others. Recipes that "
        f"cost less than {AT_EQUAL_COMPUTE:g} runs of `{BASE}` have no row. Interval: expanded percentiles of the bootstrap over "
        f"seeds, 95% ({coverage_text(RESTARTS, len(base.seeds))})."
    )
    return f"{markdown_table([*header, 'difference (95% interval)'], rows)}\n\n{filled(text)}"


def same_rate_table(arms: Mapping[str, Arm], on_page: bool = False) -> str:
    """Part `same_rate`: which recipes fail at the learning rate at which the base fails."""
    base, others = arms[BASE], [arm for name, arm in arms.items() if name != BASE]
    counts = (int(base.failed.sum()), len(base.failed))
    raw = [fisher_exact_p(int(arm.failed.sum()), len(arm.failed), *counts) for arm in others]
    adjusted = dict(zip((arm.recipe for arm in others), holm(raw), strict=True))
    rows = []
    for arm in arms.values():
        figures, p = figures_of(arm), adjusted.get(arm.recipe)
        row = {"recipe": f"`{arm.recipe}`", FAILED: failed_text(figures), FAILED_P: "" if p is None else p_text(p)}
        rows.append(row | {name: decimal(figures[key]) for name, key in SCORES.items()})
    best = restarts(base, WORK["mosbach2021"])
    title = f"## `{study.TASKS[0]}`, all at {study.rate_text(study.FAILING_RATE)}, where `{BASE}` fails"
    text = (
        f"{metric_text(base)}. {FAILED_P}: failed runs against `{BASE}`, Fisher's exact test, Holm's correction for {len(others)} "
        f"comparisons. One run of `mosbach2021` costs as much as {WORK['mosbach2021']:.2f} runs of `{BASE}`; the best of so many "
        f"has {decimal(best)} on average."
    )
    shown = [] if on_page else [picture(SAME_RATE)]  # the page has it at its top
    return "\n\n".join([title, *shown, table_of(rows, on_page), filled(text)])


def control_table(studies: Mapping[tuple[str, str], Mapping[str, Arm]], on_page: bool = False) -> str:
    """Part `control`: by its folder and task, the arms of the base, the control and Mixout."""
    rows = []
    for (_, task), arms in studies.items():
        mixed = arms[study.CONTROLLED]
        for name, arm in arms.items():
            figures = figures_of(arm)
            row = {"task": f"`{task}`", "recipe": f"`{name}`", "learning rate": study.rate_text(arm.rate)}
            row |= {FAILED: failed_text(figures)} | {column: decimal(figures[key]) for column, key in SCORES.items()}
            difference = "" if arm is mixed else difference_text(*paired_difference(mixed.report, arm.report))
            rows.append(row | {MIXOUT: difference})
    title = "## Mixout, or hidden dropout 0?"
    text = (
        "Not planned: added after a look at the tables above. The recipe `mixout` also sets hidden dropout to 0. `no_dropout` does "
        "only that. Scores: accuracy on `demo_pair`, Matthews correlation on `demo_cola`."
    )
    return "\n\n".join([title, filled(text), table_of(rows, on_page)])


def corrected_table(confirm: Mapping[str, Mapping[str, Arm]]) -> str:
    """Part `confirm` of the newer recipes: those that also switch bias correction on, beside bias correction alone."""
    rows = []
    for task, arms in confirm.items():
        base = arms[study.CORRECTED]
        for name in study.ALSO_CORRECTED:
            difference = difference_text(*paired_difference(arms[name].report, base.report))
            rows.append([f"`{task}`", f"`{name}`", difference])
    header = ["task", "recipe", f"mean - `{study.CORRECTED}`'s (95% interval)"]
    return f"## Beside bias correction alone\n\n{markdown_table(header, rows)}\n\nPaired by seed. Not tested."


def p_text(p: float) -> str:
    return "< 0.001" if p < 0.001 else decimal(p)


def difference_text(mean: float, low: float, high: float) -> str:
    """`+0.012 (-0.003 to +0.027)`; `0.000` has no sign. Without an interval (one run): the mean alone."""
    if not np.isfinite([low, high]).all():
        return "+" * (round(mean, 3) > 0) + decimal(mean)
    mean, low, high = ("+" * (round(value, 3) > 0) + decimal(value) for value in (mean, low, high))
    return f"{mean} ({low} to {high})"


def picture(name: str) -> str:
    """The Markdown of what `draw_scores` drew."""
    return f"![Scores of the next table, a mark per run]({FROM_PAGE}{name}.png)"


def draw_scores(arms: Mapping[str, Arm], path: Path, title: str) -> None:
    """Draw the scores of a table: a box per recipe, a mark per run."""
    with own_style():
        title += "; second half of the development set"
        figure = scores_figure({recipe: records_of(arm, title) for recipe, arm in arms.items()}, in_a_row=IN_A_ROW)
        figure.savefig(path, dpi=100, facecolor="white", metadata={"Software": None})


COLUMNS = (
    "part", "recipe", "metric", "learning_rate", "edge", "seed", "failed", "select", "report", "seconds", "stage_seconds",
)  # fmt: skip


def runs_csv(parts: Mapping[str, Mapping[str, Arm]]) -> str:
    """All runs, a line per run."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for part, arms in parts.items():
        for arm in arms.values():
            head = [part, arm.recipe, arm.metric, f"{arm.rate:g}", int(arm.edge)]
            columns = zip(arm.seeds, arm.failed, arm.select, arm.report, arm.seconds, strict=True)
            writer.writerows(
                [*head, seed, int(failed), f"{a:.6g}", f"{b:.6g}", f"{s:.1f}", f"{arm.stage_seconds:.1f}"]
                for seed, failed, a, b, s in columns
            )
    return out.getvalue()


def parts_from_csv(path: Path) -> dict[str, dict[str, Arm]]:
    """The arms of each part, from what `runs_csv` wrote.

    The committed file had no column `stage_seconds` at first. Two of its values were worked out from the printed costs, to a
    tenth of a second. The value of part `same_rate` is nan; no table uses it.
    """
    found: dict[tuple[str, str], list[dict[str, str]]] = {}
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found.setdefault((row["part"], row["recipe"]), []).append(row)
    parts: dict[str, dict[str, Arm]] = {}
    for (part, recipe), rows in found.items():
        select, report, seconds = (np.array([float(row[k]) for row in rows]) for k in ("select", "report", "seconds"))
        parts.setdefault(part, {})[recipe] = Arm(
            recipe,
            rows[0]["metric"],
            float(rows[0]["learning_rate"]),
            rows[0]["edge"] == "1",
            tuple(int(row["seed"]) for row in rows),
            select,
            report,
            np.array([row["failed"] == "1" for row in rows]),
            seconds,
            float(rows[0]["stage_seconds"]),
        )
    return parts


def parts_from_studies(folder: Path, which: study.Comparison = study.FIRST) -> dict[str, dict[str, Arm]]:
    """The arms of each part, from the studies' folders."""
    confirm = {}
    for task in study.TASKS:
        grid = {name: tuple(own) for name, own in study.mean_scores(folder / "choose" / task, which=which).items()}
        confirm[task] = read_arms(folder / "confirm" / task, study.chosen_rates(task, which), grid, which)
    first = confirm[study.TASKS[0]]
    left = study.not_at_failing_rate(which)
    at_failing_rate = dict.fromkeys(left, (study.FAILING_RATE,))
    others = read_arms(folder / SAME_RATE / study.TASKS[0], left, at_failing_rate, which) if left else {}
    parts = {f"confirm {task}": arms for task, arms in confirm.items()}
    parts[SAME_RATE] = {name: others[name] if name in others else first[name] for name in which.at_one_rate}
    for part, task, rate in study.control_places() if which is study.FIRST else ():
        parts[f"{part} {task}"] = read_arms(folder / part / task, {study.CONTROL: rate}, {study.CONTROL: (rate,)})
    return parts


def all_tables(parts: Mapping[str, Mapping[str, Arm]], on_page: bool = False) -> str:
    """The text of results.md; on the page, the text between the marks."""
    confirm, same = {task: parts[f"confirm {task}"] for task in study.TASKS}, parts[SAME_RATE]
    controls = {}
    for part, task, _ in study.control_places():
        if f"{part} {task}" in parts:
            planned = same if part.endswith(SAME_RATE) else confirm[task]
            arms = {BASE: planned[BASE], **parts[f"{part} {task}"], study.CONTROLLED: planned[study.CONTROLLED]}
            controls[part, task] = arms
    tables = [task_tables(confirm, on_page), same_rate_table(same, on_page)]
    newer = study.CORRECTED in confirm[study.TASKS[0]]
    control = [corrected_table(confirm) if newer else control_table(controls, on_page)]
    return "\n\n".join([*(reversed(tables) if on_page else tables), *control]) + "\n"


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("results/recipes_study"), help="folder of the studies")
    parser.add_argument("--newer", action="store_true", help="the newer recipes alone")
    parser.add_argument(
        "--from_csv", action="store_true", help="read the committed runs.csv, not the studies' folders"
    )
    arguments = parser.parse_args()
    which = study.NEWER if arguments.newer else study.FIRST
    if arguments.from_csv:
        parts = parts_from_csv(which.file("runs.csv"))
    else:
        parts = parts_from_studies(arguments.output_dir / which.name, which)
        for task in study.TASKS:
            title = f"{task}, each recipe at its own learning rate"
            draw_scores(parts[f"confirm {task}"], which.file(f"{task}.png"), title)
        title = f"{study.TASKS[0]}, all at {study.rate_text(study.FAILING_RATE)}"
        draw_scores(parts[SAME_RATE], which.file(f"{SAME_RATE}.png"), title)
        write_text(which.file("runs.csv"), runs_csv(parts))
    text = all_tables(parts).replace(FROM_PAGE, "")
    text = re.sub(r"\((\w+\.(?:png|csv)|chosen\.md)\)", lambda found: f"({which.file(found[1]).name})", text)
    title = "The newer recipes on the same ground" if arguments.newer else "All recipes on the same ground"
    write_text(which.file("results.md"), f"# {title}\n\n{text}")
    if not arguments.newer:
        page = PAGE.read_text(encoding="utf-8")
        before, after = page.partition(MARKS[0])[0], page.partition(MARKS[1])[2]
        write_text(PAGE, f"{before}{MARKS[0]}\n{all_tables(parts, on_page=True)}{MARKS[1]}{after}")
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
