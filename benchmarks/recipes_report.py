"""Every recipe on the same ground: the tables. See recipes_study/PROTOCOL.md, "Analysis".

    python benchmarks/recipes_report.py --output_dir studies

It writes recipes_study/results.md and runs.csv, and the summary between the two marks in recipes/README.md.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, installed or not
from benchmarks import recipes as study
from hf_stability.callback import write_text
from hf_stability.study.prepare import parse_seeds
from hf_stability.study.restarts import restarts_at_budget
from hf_stability.study.statistics import brown_forsythe, fisher_exact_p, holm, standard_deviation, wilson_interval
from hf_stability.study.study import read_runs
from hf_stability.study.summary import NOT_OK, markdown_table


BASE = "devlin2019"
README = Path(__file__).resolve().parents[1] / "recipes" / "README.md"
MARKS = "<!-- recipes_report.py: begin -->", "<!-- recipes_report.py: end -->"
RESAMPLES, POWER_DRAWS = 9999, 4000


@dataclass(frozen=True)
class Arm:
    """A recipe's runs, in the order of seeds.

    Args:
        rate: learning rate.
        select, report: (n,) scores at the end on the half that selects, and on the one that is reported.
        failed: (n,) bool.
        seconds: (n,) of each run.
    """

    recipe: str
    rate: float
    seeds: tuple[int, ...]
    select: np.ndarray
    report: np.ndarray
    failed: np.ndarray
    seconds: np.ndarray


def read_arms(folder: Path, rates: dict[str, float]) -> dict[str, Arm]:
    """The arms of a part; raises SystemExit where runs are missing, or were not planned."""
    runs: dict[str, list] = {}
    for run in read_runs(folder):
        runs.setdefault(run.recipe.partition("+at_")[0], []).append(run)
    seeds = tuple(parse_seeds(study.SEEDS))
    arms = {}
    for recipe, rate in rates.items():
        own = sorted(runs.get(recipe, []), key=lambda run: run.seed)
        if tuple(run.seed for run in own) != seeds:
            raise SystemExit(f"{folder}: {recipe} has {len(own)} runs, planned are {len(seeds)}")
        walls = [_seconds(folder / "runs" / run.name) for run in own]
        values = ([_number(getattr(run, name)) for run in own] for name in ("last", "report"))
        failed = np.array([run.status in NOT_OK for run in own])
        arms[recipe] = Arm(recipe, rate, seeds, *map(np.array, values), failed, np.array(walls))
    return arms


def _seconds(folder: Path) -> float:
    return json.loads((folder / "times.json").read_text(encoding="utf-8"))["wall"]


def _number(value: float | None) -> float:
    return np.nan if value is None else float(value)


def paired_difference(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
    """Mean difference, seed by seed, with its percentile bootstrap interval, 95%."""
    difference = first - second
    draws = np.random.default_rng(0).choice(difference, (RESAMPLES, len(difference))).mean(1)
    return float(difference.mean()), *map(float, np.percentile(draws, [2.5, 97.5]))


def power(n: int, ratio: float, alpha: float = 0.05) -> float:
    """Share of draws of two normal samples of n, their standard deviations `ratio` to 1, that Brown-Forsythe tells apart."""
    rng = np.random.default_rng(0)
    p_values = [brown_forsythe(rng.normal(0, 1, n), rng.normal(0, ratio, n)).p for _ in range(POWER_DRAWS)]
    return float(np.mean(np.array(p_values) < alpha))


def spread_p(arm: Arm, base: Arm) -> float:
    """The primary test; 1 where it is undefined (scores that are all the same)."""
    result = brown_forsythe(arm.report[np.isfinite(arm.report)], base.report[np.isfinite(base.report)])
    return 1.0 if result.p is None else result.p


def arm_row(arm: Arm, base: Arm, p: float | None) -> list[str]:
    """A recipe's row of its task's table."""
    low, high = wilson_interval(int(arm.failed.sum()), len(arm.failed))
    ok = arm.report[~arm.failed]
    finite = arm.report[np.isfinite(arm.report)]
    cost = float(arm.seconds.mean() / base.seconds.mean())
    best = _restarts(base, cost)
    difference = (
        "" if arm is base else "{:+.3f} ({:+.3f} to {:+.3f})".format(*paired_difference(arm.report, base.report))
    )
    return [
        f"`{arm.recipe}`",
        f"{arm.rate:g}",
        f"{int(arm.failed.sum())} ({float(low):.2f}-{float(high):.2f})",
        _std(ok),
        _std(finite),
        f"{finite.mean():.3f}",
        f"{np.median(finite):.3f}",
        f"{finite.max():.3f}",
        difference,
        "" if p is None else ("< .001" if p < 0.001 else f"{p:.3f}"),
        f"{arm.seconds.mean():.0f}",
        f"{cost:.2f}: {best}",
    ]


HEADER = [
    "recipe", "rate", "failed (95% interval)", "std of the ok runs", "std, all", "mean", "median", "max",
    f"mean - `{BASE}`'s, paired (95%)", "spread: p (Holm)", "seconds a run", f"cost in runs of `{BASE}`: the best of as many",
]  # fmt: skip


def _restarts(base: Arm, cost: float) -> str:
    """Expected score of as many restarts of the base, selected on the other half."""
    known = np.isfinite(base.select) & np.isfinite(base.report)
    if not 1 <= cost <= known.sum():
        return "-"
    return f"{float(restarts_at_budget(base.select[known], cost, base.report[known])):.3f}"


def _std(scores: np.ndarray) -> str:
    return f"{float(standard_deviation(scores)):.3f}" if len(scores) > 1 else "-"


def task_tables(arms: dict[str, dict[str, Arm]]) -> str:
    """Part `confirm`: a table for each task, the p-values Holm's over all."""
    compared = [(task, name) for task, own in arms.items() for name in own if name != BASE]
    p_values = dict(zip(compared, holm([spread_p(arms[t][n], arms[t][BASE]) for t, n in compared]), strict=True))
    n = len(parse_seeds(study.SEEDS))
    text = [
        f"n = {n} a row. Spread: Brown-Forsythe against `{BASE}`, Holm over the {len(compared)} comparisons. Power of one such test at "
        f"n = {n} for a ratio of the standard deviations of 1.5: {power(n, 1.5):.2f} before Holm's correction (at n = 60: "
        f"{power(60, 1.5):.2f}); of 3: {power(n, 3.0):.2f}."
    ]
    for task, own in arms.items():
        rows = [arm_row(arm, own[BASE], p_values.get((task, name))) for name, arm in own.items()]
        text += [f"### {task}, each recipe at its own rate", markdown_table(HEADER, rows)]
    return "\n\n".join(text)


def same_rate_table(arms: dict[str, Arm]) -> str:
    """Part `same_rate`: who fails at the rate at which the base fails."""
    base, others = arms[BASE], [arm for name, arm in arms.items() if name != BASE]
    counts = (int(base.failed.sum()), len(base.failed))
    raw = [fisher_exact_p(int(arm.failed.sum()), len(arm.failed), *counts) for arm in others]
    adjusted = dict(zip((arm.recipe for arm in others), holm(raw), strict=True))
    rows = []
    for arm in arms.values():
        low, high = wilson_interval(int(arm.failed.sum()), len(arm.failed))
        p = adjusted.get(arm.recipe)
        rows.append(
            [
                f"`{arm.recipe}`",
                f"{int(arm.failed.sum())} ({float(low):.2f}-{float(high):.2f})",
                "" if p is None else ("< .001" if p < 0.001 else f"{p:.3f}"),
                f"{np.nanmean(arm.report):.3f}",
                _std(arm.report[~arm.failed]),
            ]
        )
    header = ["recipe", "failed (95% interval)", "Fisher's p (Holm)", "mean", "std of the ok runs"]
    title = f"### {study.TASKS[0]}, all at {study.FAILING_RATE:g}, where {BASE} fails"
    return f"{title}\n\n{markdown_table(header, rows)}"


def runs_csv(parts: dict[str, dict[str, Arm]]) -> str:
    """Every run, a line each."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["part", "recipe", "learning_rate", "seed", "failed", "select", "report", "seconds"])
    for part, arms in parts.items():
        for arm in arms.values():
            columns = zip(arm.seeds, arm.failed, arm.select, arm.report, arm.seconds, strict=True)
            writer.writerows(
                [part, arm.recipe, f"{arm.rate:g}", seed, int(failed), f"{a:.6g}", f"{b:.6g}", f"{s:.1f}"]
                for seed, failed, a, b, s in columns
            )
    return out.getvalue()


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("results/recipes_study"), help="folder of the studies")
    folder = parser.parse_args().output_dir
    confirm = {task: read_arms(folder / "confirm" / task, study.chosen_rates(task)) for task in study.TASKS}
    first = confirm[study.TASKS[0]]
    left = {name: study.FAILING_RATE for name, arm in first.items() if arm.rate != study.FAILING_RATE}
    others = read_arms(folder / "same_rate" / study.TASKS[0], left) if left else {}
    same = {name: others.get(name, first[name]) for name in study.recipe_names()}
    text = f"{task_tables(confirm)}\n\n{same_rate_table(same)}\n"
    write_text(study.HERE / "results.md", f"# Every recipe on the same ground\n\n{text}")
    parts = {**{f"confirm {task}": arms for task, arms in confirm.items()}, "same_rate": same}
    write_text(study.HERE / "runs.csv", runs_csv(parts))
    readme = README.read_text(encoding="utf-8")
    before, after = readme.partition(MARKS[0])[0], readme.partition(MARKS[1])[2]
    write_text(README, f"{before}{MARKS[0]}\n{text}{MARKS[1]}{after}")
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
