"""Every recipe on the same ground: the tables. See recipes_study/PROTOCOL.md, "Analysis" and "Amendment".

    python benchmarks/recipes_report.py --output_dir studies
    python benchmarks/recipes_report.py --from_csv    # the tables again, without the studies, from the committed runs.csv

It writes recipes_study/results.md, runs.csv and a picture of the scores for each table, and puts tables and pictures between
the two marks in recipes/README.md. With --from_csv it leaves runs.csv and the pictures as they are; costs in seconds are from
seconds rounded to tenths then.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, installed or not
from benchmarks import recipes as study
from benchmarks.interval_coverage import PAIRED, RESTARTS, coverage_text
from hf_stability.diagnostics.plots import own_style
from hf_stability.study.folder import read_runs
from hf_stability.study.prepare import parse_seeds
from hf_stability.study.records import RunRecord
from hf_stability.study.report.against_restarts import AgainstRestarts
from hf_stability.study.report.against_restarts import against_restarts as compare
from hf_stability.study.report.figures import scores_figure
from hf_stability.study.report.restarts import restarts_at_budget
from hf_stability.study.report.statistics import brown_forsythe, fisher_exact_p, holm, standard_deviation, t_interval
from hf_stability.study.report.summary import summarize
from hf_stability.study.report.summary_page import SCORE_COLUMNS, failed_text
from hf_stability.tasks.load import HALVES, TokenizedData
from hf_stability.utils.files import write_text
from hf_stability.utils.text import decimal, markdown_table


BASE = "devlin2019"
README = Path(__file__).resolve().parents[1] / "recipes" / "README.md"
FROM_README = "../benchmarks/recipes_study/"
SAME_RATE = "same_rate"  # the part of that name
MARKS = "<!-- recipes_report.py: begin -->", "<!-- recipes_report.py: end -->"
RESTARTS_RESAMPLES, POWER_DRAWS = 2000, 4000
WORK = {"mosbach2021": 20 / 3}  # runs of the base, in update steps; of all others by their seconds
AT_EQUAL_COMPUTE = 1.1  # cost, in runs of the base, from which a recipe has a row there
IN_A_ROW = 7  # boxes of a picture, so that it reads at a page's width
NO_SPREAD = 0.002  # one example in 500


@dataclass(frozen=True)
class Arm:
    """A recipe's n runs on a task, in the order of seeds.

    Args:
        metric: the headline's name.
        rate: learning rate.
        edge: whether the rate is at an edge of the grid it was chosen from.
        select, report: (n,) scores at the end, on the half that selects and on the one that is reported.
        failed: (n,) bool, on the latter.
        seconds: (n,) of each run.
        stage_seconds: of the stages that all runs start from; 0 without.
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


def read_arms(folder: Path, rates: Mapping[str, float], grid: Mapping[str, tuple[float, ...]]) -> dict[str, Arm]:
    """The arms of a part.

    Args:
        folder: the part's study of a task.
        rates: by recipe, the rate that it has there.
        grid: by recipe, the rates that it could have had.

    Raises:
        SystemExit: runs are missing, were not planned, or have another rate.
    """
    runs: dict[str, list[RunRecord]] = {}
    for run in read_runs(folder):
        runs.setdefault(run.recipe.partition("+at_")[0], []).append(run)
    seeds = tuple(parse_seeds(study.SEEDS))
    arms = {}
    for recipe, rate in rates.items():
        own = sorted(runs.get(recipe, []), key=lambda run: run.seed)
        if tuple(run.seed for run in own) != seeds:
            raise SystemExit(f"{folder}: {recipe} has {len(own)} runs, planned are {len(seeds)}")
        jobs = [json.loads((folder / "runs" / run.name / "config.json").read_text("utf-8"))["job"] for run in own]
        others = {job["args"]["learning_rate"] for job in jobs} - {rate}
        if others:
            raise SystemExit(f"{folder}: {recipe} was run at {others.pop():g}, planned is {rate:g}")
        constant = second_halfs_constant(folder / "data" / Path(jobs[0]["data_folder"]).name)
        accuracy = _scores([run.metrics.get(f"eval_{HALVES[1]}_accuracy") for run in own])
        diverged = np.array([run.status == "diverged" for run in own])
        stages = [path for stage in jobs[0].get("stages", ()) for path in folder.glob(f"stages/*-{stage}")]
        arms[recipe] = Arm(
            recipe,
            own[0].metric,
            rate,
            rate in (min(grid[recipe]), max(grid[recipe])),
            seeds,
            _scores([run.last for run in own]),
            _scores([run.report for run in own]),
            diverged | (accuracy <= constant),
            np.array([_seconds(folder / "runs" / run.name) for run in own]),
            sum(map(_seconds, stages)),
        )
    return arms


@cache
def second_halfs_constant(folder: Path) -> float:
    """The best constant's accuracy on the half that is reported."""
    labels = np.array(TokenizedData.load(folder).validation[HALVES[1]]["label"])
    return float(np.bincount(labels).max() / len(labels))


def _scores(values: list[float | None]) -> np.ndarray:
    return np.array(values, dtype=float)  # None: NaN


def _seconds(folder: Path) -> float:
    return json.loads((folder / "times.json").read_text(encoding="utf-8"))["wall"]


# ---- statistics -----------------------------------------------------------------------------------------------------


def paired_difference(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
    """Mean difference, seed by seed, with its 95% t interval; of the seeds that have both scores."""
    difference = (first - second)[np.isfinite(first) & np.isfinite(second)]
    return float(difference.mean()), *map(float, t_interval(difference))


@cache
def power(n: int, ratio: float, alpha: float = 0.05) -> float:
    """Share of draws of two normal samples of n, their standard deviations `ratio` to 1, that Brown-Forsythe tells apart."""
    rng = np.random.default_rng(0)
    p_values = [brown_forsythe(rng.normal(0, 1, n), rng.normal(0, ratio, n)).p for _ in range(POWER_DRAWS)]
    return float(np.mean(np.array(p_values) < alpha))


def spread_p(arm: Arm, base: Arm) -> float:
    """The primary test; 1 where it is undefined (scores that are all the same)."""
    result = brown_forsythe(arm.report[np.isfinite(arm.report)], base.report[np.isfinite(base.report)])
    return 1.0 if result.p is None else result.p


def says_nothing_of_stability(arm: Arm, base: Arm) -> bool:
    """Whether the smaller of the two spreads is one of more failed runs, or no spread at all."""
    spreads = [float(standard_deviation(one.report[np.isfinite(one.report)])) for one in (arm, base)]
    steadier, other = (arm, base) if spreads[0] < spreads[1] else (base, arm)
    return bool(min(spreads) < NO_SPREAD or steadier.failed.sum() > other.failed.sum())


def known_runs(base: Arm) -> tuple[np.ndarray, np.ndarray]:
    """The scores that select and those that are reported, of the runs that have both."""
    known = np.isfinite(base.select) & np.isfinite(base.report)
    return base.select[known], base.report[known]


def restarts(base: Arm, cost: float) -> float:
    """The expected score of the best of `cost` restarts, chosen on the one half, scored on the other."""
    select, report = known_runs(base)
    return float(restarts_at_budget(select, cost, report))


def against_restarts(arm: Arm, base: Arm, cost: float) -> AgainstRestarts:
    """The arm's mean minus the score of `cost` [`restarts`] of the base, with its 95% interval over seeds."""
    own = arm.report[np.isfinite(arm.report)]
    return compare(own, *known_runs(base), cost, np.random.default_rng(0), RESTARTS_RESAMPLES)


# ---- tables ---------------------------------------------------------------------------------------------------------


def figures_of(arm: Arm) -> dict:
    """The study table's figures of an arm, of the half that is reported."""
    return summarize(records_of(arm))["recipes"][0]


def records_of(arm: Arm, title: str = "") -> list[RunRecord]:
    """An arm's runs as records, with the verdicts and scores of the half that is reported."""
    return [
        RunRecord("", arm.recipe, seed, title, "failed" if failed else "ok", arm.metric, last=_known(score))
        for seed, failed, score in zip(arm.seeds, arm.failed.tolist(), arm.report.tolist(), strict=True)
    ]


def _known(score: float) -> float | None:
    return score if np.isfinite(score) else None


def task_tables(arms: Mapping[str, Mapping[str, Arm]]) -> str:
    """Part `confirm`: a table for each task, the p-values Holm's over all, and one at equal compute."""
    compared = [(task, name) for task, own in arms.items() for name in own if name != BASE]
    p_values = dict(zip(compared, holm([spread_p(arms[t][n], arms[t][BASE]) for t, n in compared]), strict=True))
    text = [legend(len(compared))]
    for task, own in arms.items():
        metric = own[BASE].metric
        header = [
            "recipe", "learning rate", "failed = share (95% interval)", *(f"{metric}: {name}" for name in SCORE_COLUMNS),
            f"mean - `{BASE}`'s (95%)", f"std / `{BASE}`'s", "p (Holm)", "seconds a run",
        ]  # fmt: skip
        rows = [arm_row(arm, own[BASE], p_values.get((task, name))) for name, arm in own.items()]
        text += [f"### `{task}`, each recipe at its own rate", picture(task), markdown_table(header, rows)]
        text += [f"### `{task}`, at equal compute", equal_compute_table(own)]
    return "\n\n".join(text)


def legend(comparisons: int) -> str:
    """How to read the tables."""
    n, last = len(parse_seeds(study.SEEDS)), 0.05 / comparisons

    def powers(n: int, ratio: float) -> str:
        return f"{decimal(power(n, ratio), 2)} and {decimal(power(n, ratio, last), 2)}"

    notes = [
        "Each recipe's rate was chosen on the first half with 3 other seeds; * at the edge of the grid, so that the best may "
        "lie beyond. Nothing else of any recipe was tuned: its own settings are those of large models. "
        "`stilts_demo`, a recipe of the benchmark's, is one stage on `demo_nli` at 1e-4, of 3 epochs.",
        "failed: accuracy on this half no greater than the best constant's on it, or diverged; with 95% Wilson interval. ok: all "
        "others. (A run's own verdict is of the first half.)",
        f"mean - `{BASE}`'s: paired by seed, with its 95% t interval ({coverage_text(PAIRED, n)}); not tested.",
        f"p: the spread, Brown-Forsythe against `{BASE}`'s scores, all runs, after Holm's correction for {comparisons} "
        "comparisons. The test has no direction, see the ratio of the standard deviations beside it. †: says nothing of "
        "stability, as the smaller spread is that of more failed runs, or is none (all right, or all at the constant).",
        f"Its power at n = {n}, alone and at the first step of the correction, if scores are normal: {powers(n, 1.5)} where "
        f"the standard deviations are 1.5 to 1, {powers(n, 2.0)} at 2 to 1, {powers(n, 3.0)} at 3 to 1 (with 60 runs each, "
        f"{powers(60, 1.5)} at 1.5 to 1). That p is not small does not mean that spreads are equal.",
        "seconds a run: median, one thread of two, wall clock with both halves' evaluations; recipes ran one after the other.",
    ]
    link = f"[protocol]({FROM_README}PROTOCOL.md), [rates]({FROM_README}chosen.md)"
    head = f"n = {n} seeds a row, scores at the end of training on the second half of the development set (500 examples); {link}."
    return f"{textwrap.fill(head, 120)}\n\n" + "\n".join(
        textwrap.fill(f"- {note}", 120, subsequent_indent="  ") for note in notes
    )


def arm_row(arm: Arm, base: Arm, p: float | None) -> list[str]:
    """A recipe's row of its task's table."""
    figures = figures_of(arm)
    row = [f"`{arm.recipe}`", study.rate_text(arm.rate) + "*" * arm.edge, failed_text(figures)]
    row += [decimal(figures[key]) for key in SCORE_COLUMNS.values()]
    if p is None:
        return [*row, "", "", "", f"{np.median(arm.seconds):.0f}"]
    spread, bases = figures["std"], figures_of(base)["std"]
    nothing = "†" * says_nothing_of_stability(arm, base)
    return [
        *row,
        difference_text(*paired_difference(arm.report, base.report)),
        decimal(spread / bases if bases else None, 2),
        p_text(p) + nothing,
        f"{np.median(arm.seconds):.0f}",
    ]


def cost_of(arm: Arm, base: Arm) -> float:
    """What a run costs, in runs of the base, without a stage."""
    return WORK.get(arm.recipe, float(np.median(arm.seconds) / np.median(base.seconds)))


def equal_compute_table(arms: Mapping[str, Arm]) -> str:
    """One run of each dearer recipe next to the best of as many restarts of the base."""
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
        f"Restarts are chosen on the first half. Cost: of `mosbach2021` in update steps, of the others in seconds; those that "
        f"are not here cost less than {AT_EQUAL_COMPUTE:g} runs of `{BASE}`. Interval: expanded percentiles of the "
        f"bootstrap over seeds, 95% ({coverage_text(RESTARTS, len(base.seeds))})."
    )
    return f"{markdown_table([*header, 'difference (95%)'], rows)}\n\n{textwrap.fill(text, 120)}"


def same_rate_table(arms: Mapping[str, Arm]) -> str:
    """Part `same_rate`: who fails at the rate at which the base fails."""
    base, others = arms[BASE], [arm for name, arm in arms.items() if name != BASE]
    counts = (int(base.failed.sum()), len(base.failed))
    raw = [fisher_exact_p(int(arm.failed.sum()), len(arm.failed), *counts) for arm in others]
    adjusted = dict(zip((arm.recipe for arm in others), holm(raw), strict=True))
    rows = []
    for arm in arms.values():
        figures = figures_of(arm)
        p = adjusted.get(arm.recipe)
        cells = [decimal(figures[key]) for key in SCORE_COLUMNS.values()]
        rows.append([f"`{arm.recipe}`", failed_text(figures), "" if p is None else p_text(p), *cells])
    best = restarts(base, WORK["mosbach2021"])
    header = [
        "recipe",
        "failed = share (95% interval)",
        "p (Holm)",
        *(f"{base.metric}: {name}" for name in SCORE_COLUMNS),
    ]
    title = f"### `{study.TASKS[0]}`, all at {study.rate_text(study.FAILING_RATE)}, where `{BASE}` fails"
    text = (
        f"p: failed shares against `{BASE}`'s, Fisher's exact test, Holm's correction for {len(others)} comparisons. For as much "
        f"compute as one run of `mosbach2021`, the best of {WORK['mosbach2021']:.2f} restarts of `{BASE}` is at {decimal(best)}."
    )
    return "\n\n".join([title, picture(SAME_RATE), markdown_table(header, rows), textwrap.fill(text, 120)])


def control_table(studies: Mapping[tuple[str, str], Mapping[str, Arm]]) -> str:
    """Part `control`: by its folder and task the base's arm, the control's and Mixout's."""
    rows = []
    for (_, task), arms in studies.items():
        for name, arm in arms.items():
            figures = figures_of(arm)
            cells = [f"`{task}`", f"`{name}`", study.rate_text(arm.rate), failed_text(figures)]
            cells += [decimal(figures[key]) for key in SCORE_COLUMNS.values()]
            mixed = arms[study.CONTROLLED]
            rows.append(
                [*cells, "" if arm is mixed else difference_text(*paired_difference(mixed.report, arm.report))]
            )
    header = ["task", "recipe", "learning rate", "failed = share (95% interval)", *SCORE_COLUMNS]
    title = "### What is Mixout's, and what is the missing dropout's"
    text = (
        "Not planned, added after a look at the tables above: the recipe `mixout` sets hidden dropout to 0 too, `no_dropout` does "
        "nothing else. Accuracy on `demo_pair`, Matthews correlation on `demo_cola`."
    )
    table = markdown_table([*header, f"`{study.CONTROLLED}`'s mean - this (95%)"], rows)
    return "\n\n".join([title, textwrap.fill(text, 120), table])


def p_text(p: float) -> str:
    return "< 0.001" if p < 0.001 else decimal(p)


def difference_text(mean: float, low: float, high: float) -> str:
    """`+0.012 (-0.003 to +0.027)`; `0.000` has no sign. Without an interval (one run) the mean alone."""
    if not np.isfinite([low, high]).all():
        return "+" * (round(mean, 3) > 0) + decimal(mean)
    mean, low, high = ("+" * (round(value, 3) > 0) + decimal(value) for value in (mean, low, high))
    return f"{mean} ({low} to {high})"


def picture(name: str) -> str:
    """The line that shows what [`draw_scores`] drew."""
    return f"![The scores of the next table, a mark for each run]({FROM_README}{name}.png)"


def draw_scores(arms: Mapping[str, Arm], name: str, title: str) -> None:
    """The scores of a table, a box for each recipe and a mark for each run."""
    with own_style():
        title += "; second half of the development set"
        figure = scores_figure({recipe: records_of(arm, title) for recipe, arm in arms.items()}, in_a_row=IN_A_ROW)
        figure.savefig(study.HERE / f"{name}.png", dpi=100, facecolor="white", metadata={"Software": None})


COLUMNS = (
    "part", "recipe", "metric", "learning_rate", "edge", "seed", "failed", "select", "report", "seconds", "stage_seconds",
)  # fmt: skip


def runs_csv(parts: Mapping[str, Mapping[str, Arm]]) -> str:
    """Every run, a line each."""
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
    """The arms of each part, from what [`runs_csv`] wrote.

    The committed file had no column `stage_seconds` at first: two values are worked out from the printed costs, to a
    tenth of a second; that of part `same_rate`, which no table uses, is nan.
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


def parts_from_studies(folder: Path) -> dict[str, dict[str, Arm]]:
    """The arms of each part, from the studies' folders."""
    confirm = {}
    for task in study.TASKS:
        grid = {name: tuple(own) for name, own in study.mean_scores(folder / "choose" / task).items()}
        confirm[task] = read_arms(folder / "confirm" / task, study.chosen_rates(task), grid)
    first = confirm[study.TASKS[0]]
    left = study.not_at_failing_rate()
    at_failing_rate = dict.fromkeys(left, (study.FAILING_RATE,))
    others = read_arms(folder / SAME_RATE / study.TASKS[0], left, at_failing_rate) if left else {}
    parts = {f"confirm {task}": arms for task, arms in confirm.items()}
    parts[SAME_RATE] = {name: others.get(name, first[name]) for name in study.recipe_names()}
    for part, task, rate in study.control_places():
        parts[f"{part} {task}"] = read_arms(folder / part / task, {study.CONTROL: rate}, {study.CONTROL: (rate,)})
    return parts


def all_tables(parts: Mapping[str, Mapping[str, Arm]]) -> str:
    """The text between the marks."""
    confirm, same = {task: parts[f"confirm {task}"] for task in study.TASKS}, parts[SAME_RATE]
    controls = {}
    for part, task, _ in study.control_places():
        planned = same if part.endswith(SAME_RATE) else confirm[task]
        arms = {BASE: planned[BASE], **parts[f"{part} {task}"], study.CONTROLLED: planned[study.CONTROLLED]}
        controls[part, task] = arms
    return f"{task_tables(confirm)}\n\n{same_rate_table(same)}\n\n{control_table(controls)}\n"


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("results/recipes_study"), help="folder of the studies")
    parser.add_argument(
        "--from_csv", action="store_true", help="read the committed runs.csv, not the studies' folders"
    )
    arguments = parser.parse_args()
    if arguments.from_csv:
        parts = parts_from_csv(study.HERE / "runs.csv")
    else:
        parts = parts_from_studies(arguments.output_dir)
        for task in study.TASKS:
            draw_scores(parts[f"confirm {task}"], task, f"{task}, each recipe at its own rate")
        title = f"{study.TASKS[0]}, all at {study.rate_text(study.FAILING_RATE)}"
        draw_scores(parts[SAME_RATE], SAME_RATE, title)
        write_text(study.HERE / "runs.csv", runs_csv(parts))
    text = all_tables(parts)
    beside = text.replace(FROM_README, "")
    write_text(study.HERE / "results.md", f"# Every recipe on the same ground\n\n{beside}")
    readme = README.read_text(encoding="utf-8")
    before, after = readme.partition(MARKS[0])[0], readme.partition(MARKS[1])[2]
    write_text(README, f"{before}{MARKS[0]}\n{text}{MARKS[1]}{after}")
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
