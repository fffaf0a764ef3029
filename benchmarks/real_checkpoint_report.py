"""Do the recipes do for a real checkpoint what they do for the scale model? The tables. See real_checkpoint/PROTOCOL.md.

`python benchmarks/real_checkpoint.py report` calls `write`. It reads only runs.csv and chosen.json, so anyone can repeat it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import real_checkpoint as study
from benchmarks.real_checkpoint import BASE, LONG, RECIPES, Run
from benchmarks.recipes import rate_text
from benchmarks.recipes_report import difference_text, filled, p_text, paired_difference
from hf_stability.diagnostics.plots import own_style
from hf_stability.statistics import fisher_exact_p, holm, standard_deviation, wilson_interval
from hf_stability.study.report.against_restarts import against_restarts
from hf_stability.study.report.plots import COLORS, FAILED, MARKERS
from hf_stability.utils.files import write_text
from hf_stability.utils.text import decimal, markdown_table, share_text


if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUESTIONS = {
    "bias correction": "devlin2019_correction",
    "the warmup of 20 epochs": "devlin2019_long_warmup",
    "20 epochs": "devlin2019_20_epochs",
    "correction and 20 epochs": LONG,
    "the Trainer's defaults": "transformers_default",
}
"""The difference from the base at the stress rate -> the arm."""
COST = 20 / 3
"""Runs of the base that cost as many update steps as one of 20 epochs."""
DRAWS = 2000
OPTIMISATION = "failed optimisation = share (95% interval)"


def write(runs: Sequence[Run], chosen: Mapping[str, Mapping[str, Any]]) -> None:
    """Write results.md, and a figure for each training set with runs, beside the protocol."""
    if not runs:
        raise SystemExit(f"{study.HERE / 'runs.csv'} has no runs; run select and collect first.")
    write_text(study.HERE / "results.md", report(runs, chosen))
    for data, own in by_set(runs).items():
        with own_style():
            draw(data, own).savefig(
                study.HERE / f"{data}.png", dpi=100, facecolor="white", metadata={"Software": None}
            )
    print(f"{study.HERE / 'results.md'} is written.")


def by_set(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs by training set, in the order of the settings; sets without runs have no entry."""
    found = {data: [run for run in runs if run.data == data] for data in study.SETS}
    return {data: own for data, own in found.items() if own}


def of_part(runs: Sequence[Run], part: str) -> list[Run]:
    return [run for run in runs if run.part == part]


def of_arm(runs: Sequence[Run], arm: str, rate: float) -> list[Run]:
    """An arm's runs, in the order of seeds."""
    return sorted((run for run in runs if (run.arm, run.rate) == (arm, rate)), key=lambda run: run.seed)


# ---- the text -------------------------------------------------------------------------------------------------------


def report(runs: Sequence[Run], chosen: Mapping[str, Mapping[str, Any]]) -> str:
    """The text of results.md. An incomplete part has no table of results; the text says how many runs are missing."""
    sets = by_set(runs)
    names = list(dict.fromkeys([*study.FIRST_SETS, *sets]))
    done = {data: own for data, own in sets.items() if data in chosen and not left_to_confirm(own, data, chosen[data])}
    text = ["# The recipes on a real checkpoint", filled(legend())]
    text += [questions(done, chosen)]
    for data in names:
        text += [f"## `{data}`", *selection(data, sets.get(data, []))]
        if sets.get(data):
            text.append(f"![Scores and failed runs by learning rate]({data}.png)")
        if data in done:
            text += confirmation(data, of_part(done[data], "confirm"), chosen[data])
        elif data in chosen:
            own = sets.get(data, [])
            lacking, planned = left_to_confirm(own, data, chosen[data]), cells_of(data, chosen[data])
            count, total = (sum(map(len, cells.values())) for cells in (lacking, planned))
            text.append(
                f"**Confirmation: incomplete.** {count} of {study.runs_text(total)} are missing, so there is no table."
            )
        else:
            text.append("**Confirmation: not begun.** No rates are chosen yet.")
    return "\n\n".join(text) + "\n"


def legend() -> str:
    """How to read the tables."""
    return (
        "See the [protocol](PROTOCOL.md) and [every run](runs.csv). failed: accuracy at the end of training at or below the "
        "majority-class baseline of the scored half, or diverged. failed optimisation: failed, and the train loss of the last 10% "
        "of the update steps is at least 0.95 of the label entropy. A run that failed in another way has learned its training set "
        "and does not generalise. Part `select` is scored on the first half of the development set, part `confirm` on the second. "
        "Scores are from the end of training. Intervals of shares are Wilson's."
    )


def cells_of(data: str, chosen: Mapping[str, Any]) -> study.Cells:
    return study.confirm_cells(data, chosen["stress"], chosen["best"])


def left_to_confirm(runs: Sequence[Run], data: str, chosen: Mapping[str, Any]) -> study.Cells:
    """The runs of part `confirm` that a training set lacks."""
    return study.missing(cells_of(data, chosen), of_part(runs, "confirm"))


def selection(data: str, runs: Sequence[Run]) -> list[str]:
    """Part `select` of a training set: a table of what there is, and what is missing."""
    runs = of_part(runs, "select")
    lacking = sum(map(len, study.missing(study.select_cells(data, runs), runs).values()))
    text = (
        [f"**Selection: incomplete.** {study.runs_text(lacking)} or more are missing."]
        if lacking
        else ["### Selection"]
    )
    if not runs:
        return text
    rates = sorted({run.rate for run in runs})
    arms = [recipe for recipe in RECIPES if recipe == BASE or recipe in study.tuned(data)]
    rows = [[f"`{arm}`", *(selection_cell(of_arm(runs, arm, rate)) for rate in rates)] for arm in arms]
    note = (
        f"A cell: mean {metric_text(runs)}; failed optimisation, failed, runs (seeds {study.STRESS_SEEDS[0]} and up)."
    )
    text += [markdown_table(["recipe", *map(rate_text, rates)], rows), filled(note)]
    if not lacking:
        text.append(choice_text(study.choice(data, runs) or {}))
    return text


def selection_cell(runs: Sequence[Run]) -> str:
    if not runs:
        return ""
    counts = sum(run.failed_optimisation for run in runs), sum(run.failed for run in runs), len(runs)
    return f"{decimal(mean(runs))}; {counts[0]}, {counts[1]} of {counts[2]}"


def choice_text(found: Mapping[str, Any]) -> str:
    """The chosen rates in words."""
    best = ", ".join(f"`{recipe}` {rate_text(rate)}" for recipe, rate in found["best"].items())
    best = f"Own best rates: {best}. " if best else ""
    if found["stress"] is None:
        return filled(f"{best}No stress rate: no run of `{BASE}` failed its optimisation from its best rate on.")
    share, (low, high) = found["stress_failed_share"], study.WINDOW
    aim = "within" if low <= share <= high else "outside"
    return filled(
        f"{best}Stress rate: {rate_text(found['stress'])}, with a failed share of {share_text(share)} in "
        f"{len(study.STRESS_SEEDS)} runs, {aim} the aim of {low} to {high}."
    )


def questions(done: Mapping[str, Sequence[Run]], chosen: Mapping[str, Mapping[str, Any]]) -> str:
    """The pre-set tests: failed optimisation at the stress rate, each arm against the base, Holm over the whole family."""
    tests: list[tuple[str, str]] = []
    raw: list[float] = []
    for data in study.FIRST_SETS:
        stress = chosen[data]["stress"] if data in done else None
        for name, arm in QUESTIONS.items():
            if arm not in study.arms_of(data):
                continue
            tests.append((data, name))
            raw.append(1.0 if stress is None else failed_p(of_part(done[data], "confirm"), arm, stress))
    adjusted = holm(raw)
    rows = []
    for (data, name), p, own in zip(tests, adjusted, raw, strict=True):
        if data in done and chosen[data]["stress"] is not None:
            runs, stress = of_part(done[data], "confirm"), chosen[data]["stress"]
            counts = [failed_count(of_arm(runs, arm, stress)) for arm in (QUESTIONS[name], BASE)]
            rows.append([f"`{data}`", name, rate_text(stress), *counts, p_text(own), p_text(p)])
    if not rows:
        return "No training set has a complete confirmation at a stress rate yet, so no question is answered."
    header = ["training set", f"differs from `{BASE}` by", "rate", "failed optimisation", f"`{BASE}`", "p", "p (Holm)"]
    note = f"Fisher's exact test, Holm's correction for {len(tests)} tests. A test that was not made counts as p = 1."
    return f"## The questions\n\n{markdown_table(header, rows)}\n\n{filled(note)}"


def failed_p(runs: Sequence[Run], arm: str, rate: float) -> float:
    """p of Fisher's test on failed optimisation, an arm against the base."""
    counts = []
    for name in (arm, BASE):
        own = of_arm(runs, name, rate)
        counts += [sum(run.failed_optimisation for run in own), len(own)]
    return fisher_exact_p(*counts)


def failed_count(runs: Sequence[Run]) -> str:
    return f"{sum(run.failed_optimisation for run in runs)} of {len(runs)}"


def confirmation(data: str, runs: Sequence[Run], chosen: Mapping[str, Any]) -> list[str]:
    """Part `confirm` of a training set: at the stress rate, at each recipe's own best rate, and against restarts."""
    text, note = [], filled(f"Scores: {metric_text(runs)}. n: seeds per row.") if runs else ""
    if chosen["stress"] is not None:
        title = f"### All at the stress rate, {rate_text(chosen['stress'])}"
        text += [title, arms_table(runs, dict.fromkeys(study.arms_of(data), chosen["stress"])), note]
    if chosen["best"]:
        text += ["### Each recipe at its own best rate", arms_table(runs, chosen["best"]), note]
        text += ["### Restarts at equal compute", restarts_table(runs, chosen)]
    return text


def arms_table(runs: Sequence[Run], rates: Mapping[str, float]) -> str:
    """A row per arm."""
    base = {run.seed: run.score for run in of_arm(runs, BASE, rates[BASE])}
    rows = []
    for arm, rate in rates.items():
        own = of_arm(runs, arm, rate)
        scores = np.array([run.score for run in own])
        known = scores[np.isfinite(scores)]
        pairs = scores, np.array([base[run.seed] for run in own])
        against = "" if arm == BASE else difference_text(*paired_difference(*pairs))
        figures = [
            decimal(value) for value in (known.mean(), standard_deviation(known), np.median(known), known.max())
        ]
        shares = [share_cell([run.failed_optimisation for run in own]), share_cell([run.failed for run in own])]
        seconds = f"{np.median([run.seconds for run in own]):.0f}"
        rows.append([f"`{arm}`", rate_text(rate), str(len(own)), *shares, *figures, against, seconds])
    header = ["arm", "rate", "n", OPTIMISATION, "failed", "mean", "std", "median", "max"]
    return markdown_table([*header, f"mean - `{BASE}`'s (95% interval)", "seconds per run"], rows)


def share_cell(failed: Sequence[bool]) -> str:
    """`9 = 0.45 (0.26-0.66)`."""
    count, n = sum(failed), len(failed)
    low, high = (share_text(float(end)) for end in wilson_interval(count, n))
    return f"{count}{f' = {share_text(count / n)}' * (count > 0)} ({low}-{high})"


def restarts_table(runs: Sequence[Run], chosen: Mapping[str, Any]) -> str:
    """One run of 20 epochs beside the best of as many restarts of the base, chosen on the first half."""
    places = {"own best rates": (chosen["best"][LONG], chosen["best"][BASE])}
    if chosen["stress"] is not None:
        places["stress rate"] = (chosen["stress"], chosen["stress"])
    rows = []
    for place, (long_rate, base_rate) in places.items():
        scores = np.array([run.score for run in of_arm(runs, LONG, long_rate)])
        pairs = np.array([(run.chosen_by, run.score) for run in of_arm(runs, BASE, base_rate)])
        scores, pairs = scores[np.isfinite(scores)], pairs[np.isfinite(pairs).all(1)]
        if min(len(scores), len(pairs)) < COST:  # the others diverged
            rows.append([place, *["-"] * 4])
            continue
        found = against_restarts(scores, pairs[:, 0], pairs[:, 1], COST, np.random.default_rng(0), DRAWS)
        cells = [decimal(value) for value in (pairs[:, 1].mean(), found.restarts, scores.mean())]
        rows.append([place, *cells, difference_text(found.difference, found.low, found.high)])
    header = [
        "",
        f"one run of `{BASE}`",
        f"best of {COST:.2f} restarts of it",
        f"one run of `{LONG}`",
        "difference (95% interval)",
    ]
    return markdown_table(header, rows)


def mean(runs: Sequence[Run]) -> float:
    """The mean score of the runs that have one; NaN without any."""
    scores = [run.score for run in runs if np.isfinite(run.score)]
    return float(np.mean(scores)) if scores else float("nan")


def metric_text(runs: Sequence[Run]) -> str:
    """`Matthews correlation`."""
    return runs[0].metric.replace("_", " ").replace("matthews", "Matthews")


# ---- the figure -----------------------------------------------------------------------------------------------------


def draw(data: str, runs: Sequence[Run]) -> Figure:
    """A panel per part: scores by learning rate, a mark per run; failed optimisation is crossed."""
    from matplotlib.figure import Figure

    parts = [part for part in ("select", "confirm") if of_part(runs, part)]
    figure = Figure(figsize=(5.5 * len(parts), 3.8), layout="constrained")
    figure.suptitle(data)
    for ax, part in zip(figure.subplots(1, len(parts), squeeze=False)[0], parts, strict=True):
        own = of_part(runs, part)
        arms = [arm for arm in study.ARMS if any(run.arm == arm for run in own)]
        for place, arm in enumerate(arms):
            mine = [run for run in own if run.arm == arm]
            shift = 1.06 ** (place - (len(arms) - 1) / 2)  # arms at one rate stand beside each other
            crossed = [run for run in mine if run.failed_optimisation]
            look = {
                "color": COLORS[place],
                "marker": MARKERS[place],
                "linestyle": "none",
                "markersize": 4,
                "label": arm,
            }
            ax.plot([run.rate * shift for run in mine], [run.score for run in mine], **look)
            ax.plot(
                [run.rate * shift for run in crossed], [run.score for run in crossed], "x", color=FAILED, markersize=8
            )
        ax.set_xscale("log")
        ax.set_xlabel("learning rate (x: failed optimisation)")
        ax.set_ylabel(metric_text(own))
        ax.set_title(f"part {part}, {'first' if part == 'select' else 'second'} half")
        ax.legend(fontsize="small")
    return figure
