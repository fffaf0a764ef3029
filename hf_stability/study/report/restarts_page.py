"""`restarts.md` and its figure: the value that restarts would have had in a finished study.

The statistics are those of `restarts`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...diagnostics.plots import own_style
from ...errors import InputError
from ...statistics import expected_maximum
from ...utils.files import write_text
from ...utils.text import markdown_table
from ..attempts import has_attempts
from . import restarts
from .figures import empty_figure, write_figure
from .plots import plot_restarts
from .scores import RecipeScores, read_recipes, read_scores


BUDGET = 10.0
"""Default budget, in runs; less if a recipe has fewer runs."""

MOST_LOOKS = 10
"""Largest number of evaluations before the end that the tables use, evenly spaced."""

RULE_FRACTION = 0.25
"""The figure's line of early stopping looks at the evaluation closest to this share of training (Dodge et al. 2020, section
5: 20 to 30%), and finishes half the budget."""


@dataclass(frozen=True)
class RecipeRestarts:
    """Expected scores of the best of n runs of a recipe, from N finished runs.

    Args:
        scores: the scores of the N runs.
        without, replaced: (N,), expected score of the best of n = 1 ... N runs, drawn without and with replacement.
        budget: of `policies`, in runs.
        policies: early stoppings at that budget, each against plain restarts.
        rule_costs, rule_scores: (B,), early stopping by one rule at budgets of 2, 3 ... N: its costs in runs, and its
            expected scores.
        rule: the rule in words; empty if there is no evaluation to look at.
    """

    scores: RecipeScores
    without: np.ndarray
    replaced: np.ndarray
    budget: float
    policies: list[restarts.PolicyWorth]
    rule_costs: np.ndarray
    rule_scores: np.ndarray
    rule: str


def analyse(scores: RecipeScores, budget: float | None = None) -> RecipeRestarts:
    """Restarts and early stopping, from a recipe's finished runs.

    Args:
        scores: of N runs. Their `report` is valued, if they have one.
        budget: in runs, from 1 to N. Default: 10, or N if that is less.

    Raises:
        InputError: the budget is outside 1 to N, or the runs have two-way seeds, which are no independent draws;
            or they could begin again on an alarm.
    """
    number = len(scores.runs)
    if any(run.cell for run in scores.runs):
        raise InputError(
            f"{scores.recipe}: its runs have two-way seeds and share initialisations and data orders, but restarts draw both "
            "anew. Give a study with plain seeds (--seeds)"
        )
    if has_attempts(scores.runs):
        raise InputError(
            f"{scores.recipe}: its runs may begin again (--on_alarm restart), so one run may have cost several. Give a "
            "study with --on_alarm warn"
        )
    if budget is not None and not 1 <= budget <= number:
        raise InputError(
            f"--budget {budget:g}: must be between 1 and {number}, the number of finished runs of {scores.recipe}"
        )
    budget = min(BUDGET, number) if budget is None else budget
    n = np.arange(1, number + 1)
    without, replaced = (
        expected_maximum(scores.scores, n, scores.report, replace=replace) for replace in (False, True)
    )
    looks = len(scores.fractions)
    chosen = np.linspace(0, looks - 1, min(looks, MOST_LOOKS)).round().astype(int)
    fractions = [scores.fractions[k] for k in chosen]
    policies = restarts.tabulate(budget, fractions, scores.looks[:, chosen], scores.scores, scores.report)
    return RecipeRestarts(scores, without, replaced, budget, policies, *_by_rule(scores))


def _by_rule(scores: RecipeScores) -> tuple[np.ndarray, np.ndarray, str]:
    """Early stopping at each whole budget by a rule that was not chosen for its gain: costs, scores, words."""
    costs: list[float] = []
    values: list[float] = []
    if not scores.fractions:
        return np.array(costs), np.array(values), ""
    k = int(np.argmin([abs(fraction - RULE_FRACTION) for fraction in scores.fractions]))
    fraction, look = scores.fractions[k], scores.looks[:, k]
    for budget in range(2, len(scores.runs) + 1):
        for started, _, finished in restarts.affordable(budget, [fraction], len(scores.runs)):
            if finished == budget // 2:
                costs.append(restarts.early_stopping_cost(started, fraction, finished))
                values.append(restarts.expected_early_stopping(look, scores.scores, started, finished, scores.report))
    return np.array(costs), np.array(values), f"look at {fraction:.0%}, finish half the budget"


def write_restarts(
    folder: str | os.PathLike, recipes: Sequence[str] | None = None, budget: float | None = None
) -> str:
    """Write `restarts.md` and `figures/restarts.png`, `.svg` into a study's folder. Repeated calls write the same bytes.

    Args:
        folder: the study's folder.
        recipes: which recipes, in this order. Default: all in the folder.
        budget: for the table of early stopping, in runs. Default: 10, or a recipe's number of runs if that is less.

    Returns:
        the text of `restarts.md`.

    Raises:
        InputError: there are no finished runs, runs were stopped, or the budget is larger than the number of runs. Nothing
            is written then.
    """
    folder = Path(folder)
    found = [analyse(read_scores(folder, runs), budget) for runs in read_recipes(folder, recipes).values()]
    text = to_markdown(found)
    draw(found, folder / "figures")
    write_text(folder / "restarts.md", text)
    return text


# ---- words ----------------------------------------------------------------------------------------------------------


def to_markdown(found: Sequence[RecipeRestarts]) -> str:
    """The text of `restarts.md`: how to read it, then a section per recipe."""
    notes = [
        "Expected maximum: n runs are drawn from the N finished runs, and the best by the score at the end of training is "
        "kept. The expected scores are exact. Without replacement the estimate is unbiased (Tang et al. 2020). With "
        "replacement (Dodge et al. 2019) a run may be drawn twice: the estimate is too low on average, the more the closer n is "
        "to N. The last rows rest on few subsets, the very last on one.",
        "Early stopping (Dodge et al. 2020): start some runs, look at them after a part of training, finish the best. The budget "
        "counts update steps, as a number of whole runs, and no evaluations. The gain is over plain restarts of the same cost. "
        "Its jackknife standard error, in brackets, is for other seeds, and is too large rather than too small. It is missing "
        "where all N runs are started.",
        "Do not report the gain of the best row. The row was chosen by its own gain, so that this gain is too high, and its "
        "standard error too small. Choose a row on some seeds, value it on others.",
    ]
    lines = ["# Restarts", "", *(f"- {note}" for note in notes)]
    for part in found:
        lines += ["", f"## {part.scores.recipe}", "", *_section(part)]
    return "\n".join(lines) + "\n"


def _section(part: RecipeRestarts) -> list[str]:
    scores = part.scores
    facts = [_runs(scores), _split(scores)]
    table = markdown_table(
        ["n", f"{_metric(scores)}: without replacement", "with replacement"],
        [
            [str(n), f"{a:.3f}", f"{b:.3f}"]
            for n, (a, b) in enumerate(zip(part.without, part.replaced, strict=True), 1)
        ],
    )
    lines = [*(f"- {fact}" for fact in facts), "", "Expected maximum of n runs:", "", table, ""]
    if part.policies:
        lines += [
            f"Early stopping at a budget of {part.budget:g} runs:",
            "",
            policies_table(part.policies, _metric(scores)),
            "",
            f"The figure's line of early stopping: {part.rule}, at each whole budget.",
        ]
    elif scores.fractions:
        lines += [
            f"No early stopping: a budget of {part.budget:g} of {len(scores.runs)} runs is too small to stop one."
        ]
    else:
        lines += [
            "No early stopping: the runs were not evaluated before their end (--eval_strategy steps --eval_steps N)."
        ]
    return lines


def policies_table(policies: Sequence[restarts.PolicyWorth], metric: str = "score") -> str:
    """A Markdown table of `tabulate`'s rows; `metric` names the report score."""
    header = ["started", "looked at", "finished", "budget, runs", f"{metric}: early stopping"]
    header += [f"{metric}: restarts at this budget", "gain (standard error)"]
    rows = [
        [
            str(policy.started),
            f"{policy.fraction:.0%}",
            str(policy.finished),
            f"{policy.budget:.2f}",
            f"{policy.score:.3f}",
            f"{policy.restarts:.3f}",
            f"{round(policy.gain, 3) + 0.0:+.3f}" + ("" if policy.gain_se is None else f" ({policy.gain_se:.3f})"),
        ]
        for policy in policies
    ]
    return markdown_table(header, rows)


def _runs(scores: RecipeScores) -> str:
    text = f"N = {len(scores.runs)} finished runs."
    if scores.diverged:
        text += (
            f" {scores.diverged} of them diverged. They count with the score of their last predictions, because the recipe "
            "would look better without them."
        )
    left = [
        f"{number} {what}"
        for number, what in ((scores.crashed, "crashed"), (scores.unfinished, "unfinished"))
        if number
    ]
    return text + (f" Left out: {' and '.join(left)}." if left else "")


def _split(scores: RecipeScores) -> str:
    if scores.report is not None:
        return "Selected on the first half of the development set, valued on the second."
    return (
        "Selected and valued on the same development set. On new examples expect lower scores; the gap grows with n. "
        "With --validation_half both, one half selects and the other scores."
    )


def _metric(scores: RecipeScores) -> str:
    return f"{scores.metric} on the second half" if scores.report is not None else scores.metric


# ---- figure ---------------------------------------------------------------------------------------------------------


def draw(found: Sequence[RecipeRestarts], folder: Path) -> list[Path]:
    """Write `restarts.png` and `.svg`: a panel per recipe, all with one scale of scores. Returns the files."""
    with own_style():
        columns = min(len(found), 3)
        rows = -(-len(found) // columns)
        figure = empty_figure(max(6.5, 3.2 * columns), 0.9 + 3 * rows, found[0].scores.runs[0].task)
        body: Any = figure.subfigures()  # so that its legend is below the figure's title
        axes = list(body.subplots(rows, columns, sharey=True, squeeze=False).flat)
        for ax in axes[len(found) :]:
            ax.remove()
        handles: dict[str, Any] = {}
        for ax, part in zip(axes, found, strict=False):
            budgets = [policy.budget for policy in part.policies]
            values = [policy.score for policy in part.policies]
            rule = part.rule_costs, part.rule_scores
            plot_restarts(
                ax, part.without, part.replaced, budgets, values, *rule, _metric(part.scores), part.scores.recipe, True
            )
            handles |= {text: handle for handle, text in zip(*ax.get_legend_handles_labels(), strict=True)}
        body.legend(handles.values(), handles, loc="outside upper left", ncols=2, frameon=False, fontsize="small")
        body.supxlabel("budget, runs", fontsize="medium")
        name = _metric(found[0].scores).replace("_", " ")
        body.supylabel(f"expected {name}\nof the best run", fontsize="medium")
        folder.mkdir(exist_ok=True)
        return write_figure(figure, folder, "restarts")
