"""Does a run that begins again on an alarm end well, and at which cost? The tables. See self_healing/PROTOCOL.md.

`python benchmarks/self_healing.py report` calls `write`. It reads only runs.csv, chosen.json and recipes_study/runs.csv.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import self_healing as study
from benchmarks.recipes import rate_text
from benchmarks.recipes_report import difference_text, filled, p_text, paired_difference
from benchmarks.self_healing import BEST, FAILING, GENTLE, LONG, PLAIN, RESTARTS, SEED, SEEDS, SETTINGS, Run
from hf_stability.diagnostics.plots import own_style
from hf_stability.statistics import holm, standard_deviation, wilson_interval
from hf_stability.study.report.plots import COLORS
from hf_stability.study.report.restarts import restarts_at_budget
from hf_stability.utils.files import write_text
from hf_stability.utils.text import decimal, markdown_table, share_text


if TYPE_CHECKING:
    from matplotlib.figure import Figure

GOAL_FAILED, GOAL_COST, GOAL_FALSE = 1, 1.5, 1.05
"""At most so many of 40 runs fail; they cost at most so many runs; and where nothing fails at most so many."""
BEST_OF = "best of n plain runs"


def write(runs: Sequence[Run], chosen: Mapping[str, float]) -> None:
    """Write results.md, and the figure, beside the protocol."""
    if not runs:
        raise SystemExit(f"{study.HERE / 'runs.csv'} has no runs; run confirm and collect first.")
    write_text(study.HERE / "results.md", report(runs, chosen))
    with own_style():
        figure = draw(runs, chosen)
        figure.savefig(study.HERE / "cost.png", dpi=100, facecolor="white", metadata={"Software": None})
    print(f"{study.HERE / 'results.md'} is written.")


def arms_of(runs: Sequence[Run], name: str, chosen: Mapping[str, float]) -> dict[str, list[Run]]:
    """The arms of a setting that are complete, each by seed: those of the setting, then those that other runs give."""
    found: dict[str, list[Run]] = {}
    confirmed = [run for run in [*runs, *study.known_runs()] if run.part == "confirm"]
    for arm in (PLAIN, SEED, GENTLE, BEST, LONG):
        own = [run for run in confirmed if (run.setting, run.arm) == (name, arm)]
        if arm == BEST and name == "bert_pair":
            own = [run for run in confirmed if (run.setting, run.arm) == ("sound", PLAIN)]
        if arm == BEST and name == "bert_cola":
            own = found.get(PLAIN, [])  # its rate is the best one
        planned = (
            20 if arm == LONG and SETTINGS[name].best is not None else len(study.LONG_SEEDS if arm == LONG else SEEDS)
        )
        if len(own) == planned:
            found[arm] = sorted(own, key=lambda run: run.seed)
    return found


# ---- the text -------------------------------------------------------------------------------------------------------


def report(runs: Sequence[Run], chosen: Mapping[str, float]) -> str:
    """The text of results.md. An arm with missing runs has no row."""
    by_setting = {name: arms_of(runs, name, chosen) for name in SETTINGS}
    text = ["# Runs that mend themselves", filled(legend()), questions(by_setting), "## The goals", goals(by_setting)]
    text += ["![Failed shares against cost](cost.png)", "## Alarms", alarms_table(by_setting)]
    for name in FAILING:
        text.append(f"## `{name}`")
        if by_setting[name]:
            text += [arms_table(name, by_setting[name]), filled(note(by_setting[name]))]
        else:
            text.append("No arm is complete.")
    return "\n\n".join(text) + "\n"


def legend() -> str:
    """How to read the tables."""
    return (
        "See the [protocol](PROTOCOL.md) and [every run](runs.csv). failed: accuracy at the end of the last attempt at or below "
        "the majority-class baseline of the second half of the development set, or diverged. cost: update steps of all attempts, "
        "in runs of 3 epochs, mean. Scores are from the end of training, on the second half. Intervals of shares are Wilson's."
    )


def questions(by_setting: Mapping[str, Mapping[str, Sequence[Run]]]) -> str:
    """The pre-set tests: each restart arm against the plain runs of the same seeds, exact McNemar tests, Holm over all."""
    places = [(name, arm) for name in FAILING for arm in RESTARTS]
    raw, rows = [], []
    for name, arm in places:
        arms = by_setting[name]
        raw.append(mcnemar_p(arms[PLAIN], arms[arm]) if {PLAIN, arm} <= arms.keys() else 1.0)
    for (name, arm), own, p in zip(places, raw, holm(raw), strict=True):
        arms = by_setting[name]
        if {PLAIN, arm} <= arms.keys():
            pairs = list(zip(arms[PLAIN], arms[arm], strict=True))
            mended = sum(plain.failed and not run.failed for plain, run in pairs)
            spoiled = sum(run.failed and not plain.failed for plain, run in pairs)
            cells = [
                failed_count(arms[PLAIN]),
                failed_count(arms[arm]),
                str(mended),
                str(spoiled),
                p_text(own),
                p_text(p),
            ]
            rows.append([f"`{name}`", f"`{arm}`", *cells])
    header = ["setting", "arm", "failed, plain", "failed, restarts", "mended", "spoiled", "p", "p (Holm)"]
    told = (
        f"Exact McNemar test on the pairs of equal seeds, two-sided, Holm's correction for {len(places)} tests; a test that was "
        "not made counts as p = 1. mended: the plain run failed and the final result did not; spoiled: the other way round."
    )
    return (
        f"## The questions\n\n{markdown_table(header, rows) if rows else 'No arm is complete yet.'}\n\n{filled(told)}"
    )


def mcnemar_p(plain: Sequence[Run], restarted: Sequence[Run]) -> float:
    """Two-sided exact p of McNemar's test: the discordant pairs are as likely either way (McNemar 1947)."""
    from scipy.stats import binomtest

    pairs = [(a.failed, b.failed) for a, b in zip(plain, restarted, strict=True)]
    mended, spoiled = pairs.count((True, False)), pairs.count((False, True))
    return float(binomtest(mended, mended + spoiled).pvalue) if mended + spoiled else 1.0


def failed_count(runs: Sequence[Run]) -> str:
    return f"{sum(run.failed for run in runs)} of {len(runs)}"


def goals(by_setting: Mapping[str, Mapping[str, Sequence[Run]]]) -> str:
    """Whether the goals are met, a row per setting and restart arm; the cost of false alarms is a row of its own."""
    rows = []
    for name, arms in by_setting.items():
        for arm in (arm for arm in RESTARTS if arm in arms):
            own, cost = arms[arm], cost_of(arms[arm])
            failed = sum(run.failed for run in own)
            most = GOAL_FALSE if name == "sound" else GOAL_COST
            met = cost < most if name == "sound" else failed <= GOAL_FAILED and cost <= most
            aim = f"cost < {most:g}" if name == "sound" else f"at most {GOAL_FAILED} failed, cost <= {most:g}"
            rows.append([f"`{name}`", f"`{arm}`", share_cell(own), decimal(cost, 2), aim, "met" if met else "not met"])
    if not rows:
        return "No arm is complete yet."
    return markdown_table(["setting", "arm", "failed = share (95% interval)", "cost, in runs", "goal", ""], rows)


def alarms_table(by_setting: Mapping[str, Mapping[str, Sequence[Run]]]) -> str:
    """How right the alarms were, on the plain runs: each was finished in spite of its alarm."""
    rows = []
    for name, arms in by_setting.items():
        if PLAIN in arms:
            alarmed = [run for run in arms[PLAIN] if run.began_again]
            quiet = [run for run in arms[PLAIN] if not run.began_again]
            differ = [unlike(arms[PLAIN], arms[arm]) for arm in RESTARTS if arm in arms]
            rows.append(
                [f"`{name}`", failed_count(alarmed), failed_count(quiet), " and ".join(differ) if differ else "-"]
            )
    header = ["setting", "failed of alarmed first attempts", "failed of the others", "checked seeds that differ"]
    told = (
        "The first attempt of a restart arm is the plain run of the same seed, up to the alarm. So the arms run only the seeds "
        f"with an alarm, and {study.CHECKED} others to check this: the last column has how many of these are not the plain run."
    )
    return f"{markdown_table(header, rows)}\n\n{filled(told)}" if rows else "No plain arm is complete yet."


def unlike(plain: Sequence[Run], restarted: Sequence[Run]) -> str:
    """`0 of 2`: runs without an alarm that an arm with restarts ran, and that differ from the plain run."""
    pairs = [(a, b) for a, b in zip(plain, restarted, strict=True) if not a.began_again and not b.copied]
    differ = sum((a.score, a.selects, a.steps) != (b.score, b.selects, b.steps_spent) for a, b in pairs)
    return f"{differ} of {len(pairs)}"


def arms_table(name: str, arms: Mapping[str, Sequence[Run]]) -> str:
    """A row per arm, then the best of as many plain runs as each arm with restarts costs."""
    rows = []
    plain = {run.seed: run.score for run in arms.get(PLAIN, ())}
    for arm, own in arms.items():
        scores = np.array([run.score for run in own])
        known = scores[np.isfinite(scores)]
        against = "-"
        if arm in RESTARTS and plain:
            against = difference_text(*paired_difference(scores, np.array([plain[run.seed] for run in own])))
        figures = [decimal(value) for value in (known.mean(), standard_deviation(known), np.median(known))]
        mark = "†" if arm in RESTARTS else ""
        cells = [rate_text(own[0].rate), str(len(own)), share_cell(own), decimal(cost_of(own), 2), *figures, against]
        rows.append([f"`{arm}`{mark}", *cells])
    for arm in (arm for arm in RESTARTS if arm in arms and PLAIN in arms):
        cost = max(cost_of(arms[arm]), 1.0)
        failed, score = best_of(arms[PLAIN], cost)
        label = f"{BEST_OF}, n = {cost:.2f}, as `{arm}`"
        rows.append(
            [label, rate_text(arms[PLAIN][0].rate), "", f"{failed:.2f}", f"{cost:.2f}", decimal(score), "", "", ""]
        )
    header = ["arm", "rate", "n", "failed = share (95% interval)", "cost, in runs", "mean", "std", "median"]
    return markdown_table([*header, f"mean - `{PLAIN}`'s (95% interval)"], rows)


def best_of(plain: Sequence[Run], cost: float) -> tuple[float, float]:
    """Expected failed share and score of the best of `cost` plain runs: chosen on the first half, scored on the second.

    A run without a score counts with -1.
    """
    selects = np.nan_to_num(np.array([run.selects for run in plain]), nan=-1.0)
    scores = np.nan_to_num(np.array([run.score for run in plain]), nan=-1.0)
    failed = np.array([float(run.failed) for run in plain])
    return float(restarts_at_budget(selects, cost, failed)), float(restarts_at_budget(selects, cost, scores))


def note(arms: Mapping[str, Sequence[Run]]) -> str:
    """How to read the table of arms."""
    text = (
        f"† final results: these runs had more than one try, so their std is not comparable. `{BEST}`: `devlin2019` at its own best "
        f"rate. {BEST_OF}: chosen on the first half, as many as the arm costs; linear between whole numbers."
    )
    if LONG in arms and arms[LONG][0].seed not in SEEDS:
        text += f" `{LONG}`: 20 runs of the study of all recipes, on other seeds."
    return text


def cost_of(runs: Sequence[Run]) -> float:
    return float(np.mean([run.cost for run in runs]))


def share_cell(runs: Sequence[Run]) -> str:
    """`9 = 0.45 (0.26-0.66)`."""
    count, n = sum(run.failed for run in runs), len(runs)
    low, high = (share_text(float(end)) for end in wilson_interval(count, n))
    return f"{count}{f' = {share_text(count / n)}' * (count > 0)} ({low}-{high})"


# ---- the figure -----------------------------------------------------------------------------------------------------


def draw(runs: Sequence[Run], chosen: Mapping[str, float]) -> Figure:
    """Failed share against cost, a panel per setting, a mark per arm with its Wilson interval; the goal is shaded."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 6.4), layout="constrained")
    order = {arm: place for place, arm in enumerate((PLAIN, SEED, GENTLE, BEST, LONG))}
    for ax, name in zip(figure.subplots(2, 2, sharey=True).flat, FAILING, strict=True):
        for arm, own in arms_of(runs, name, chosen).items():
            share = np.mean([run.failed for run in own])
            low, high = wilson_interval(sum(run.failed for run in own), len(own))
            look = {"color": COLORS[order[arm]], "marker": "o", "capsize": 3, "label": arm}
            ax.errorbar(cost_of(own), share, [[max(share - low, 0)], [max(high - share, 0)]], **look)
        ax.axvspan(0.9, GOAL_COST, ymax=0.05, color="0.85", zorder=0)
        ax.set_xscale("log")
        ax.set_xticks([1, 1.5, 2, 3, 6.67], ["1", "1.5", "2", "3", "6.67"], minor=False)
        ax.minorticks_off()
        ax.set_xlim(0.9, 8)
        ax.set_ylim(-0.03, 1)
        ax.set_title(name)
        ax.set_xlabel("cost, in runs of 3 epochs (grey: the goal)")
        ax.set_ylabel("failed share")
        if ax.get_legend_handles_labels()[0]:
            ax.legend(fontsize="small", frameon=False)
    return figure
