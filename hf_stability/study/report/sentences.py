"""Two recipes compared, in words: the sentences in `summary.json` and `summary.md`, and the lines that a study prints.

Failed runs come first. A recipe that nearly always fails has a small standard deviation. So no recipe is called more stable
than one that fails less often.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...utils.text import MOST_DECIMALS, apart, decimal, p_text, share_text
from ..attempts import MARK


LEVEL = 0.05
"""A difference is shown where p is below this."""

BOUNDS = ("failed_share_if_all_heal", "failed_share_if_all_fail")
"""Names of the smallest and the largest possible failed share, where runs were stopped."""


UNJUDGED_NOTE = (
    "Unjudged runs have a score, but no baseline to judge them by (for accuracy: the share of the most frequent class). Their "
    "scores count in mean and std. The failed share and the std of runs that did not fail are not known. Give --baseline."
)
"""Why a recipe with unjudged runs has no failed share."""


def comparison_sentence(comparison: Mapping[str, Any]) -> str:
    """Two recipes compared in one paragraph: failed shares, then spread; only bounds if runs were stopped.

    Args:
        comparison: of two recipes, the values of a pair in the order of its `recipes`: `failed`, `runs`, `stopped`,
            `stopped_early`, `std_ok`, `std`, `failed_share_audited` and the two of `BOUNDS`; `fisher_p`, and
            `brown_forsythe` as a dict; `unjudged` and `restarts` only if there are such runs. See `summarize`.
    """
    if restarted := comparison.get("restarts"):
        names = [f"{name}{MARK * own}" for name, own in zip(comparison["recipes"], restarted, strict=True)]
        plain = {key: value for key, value in comparison.items() if key != "restarts"}
        return f"{comparison_sentence({**plain, 'recipes': names})} {MARK} Final results: its runs may have had more than one try."
    (a, b), (failed_a, failed_b), (runs_a, runs_b) = (comparison[key] for key in ("recipes", "failed", "runs"))
    if any(comparison["stopped_early"]):
        return (
            f"{a} against {b}: seeds were stopped early because others looked better. Therefore neither failed shares nor "
            "spreads are compared. A comparison of the two best runs would compare one seed with one seed."
        )
    if runs_a and runs_b and any(comparison.get("unjudged", ())):
        return f"{a} against {b}: {_unjudged(comparison)}"
    if runs_a and runs_b and any(comparison["stopped"]):
        return f"{a} against {b}: {_bounds(comparison)}"
    head = f"{a} against {b}: failed {failed_a} of {runs_a} against {failed_b} of {runs_b}"
    if not (runs_a and runs_b):
        return f"{head}. Nothing to compare."
    head += f" (Fisher's exact {p_text(comparison['fisher_p'])})."
    if failed_a == failed_b == 0:
        return f"{head} {_no_failures(comparison)}"
    if failed_a * runs_b == failed_b * runs_a:
        return f"{head} {_equal_shares(comparison)}"
    return f"{head} {_different_shares(comparison)}"


def comparison_line(comparison: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """Two recipes compared in a line: failed runs, or where none failed the spreads; with the test's p.

    Args:
        comparison: as for `comparison_sentence`.
        names: recipe -> what to call it.
    """
    a, b = (names[recipe] for recipe in comparison["recipes"])
    (failed_a, failed_b), (runs_a, runs_b) = comparison["failed"], comparison["runs"]
    head = f"{a} vs {b}: "
    if any(comparison["stopped_early"]):
        return f"{head}not compared, seeds were stopped early"
    if not (runs_a and runs_b):
        return f"{head}nothing to compare"
    if any(comparison.get("unjudged", ())):
        p = comparison["brown_forsythe"]["p"]
        spreads = " vs ".join(apart(*comparison["std"]))
        return f"{head}failed shares not known; std of all runs {spreads}, {'no test' if p is None else p_text(p)}"
    if any(comparison["stopped"]):
        shares = [
            f"{share_text(low)}-{share_text(high)}" if stopped else share_text(low)
            for low, high, stopped in zip(*(comparison[key] for key in (*BOUNDS, "stopped")), strict=True)
        ]
        return f"{head}failed share {' vs '.join(shares)}; not tested, runs were stopped"
    if failed_a == failed_b == 0:
        p = comparison["brown_forsythe"]["p"]
        spreads = " vs ".join(apart(*comparison["std_ok"]))
        return f"{head}none failed; std {spreads}, {'no test' if p is None else p_text(p)}"
    p = p_text(comparison["fisher_p"])
    return f"{head}failed {failed_a} of {runs_a} vs {failed_b} of {runs_b}, Fisher {p}"


def _bounds(comparison: Mapping[str, Any]) -> str:
    """Bounds on the failed shares (some runs were stopped); nothing is tested."""
    low, high = (comparison[key] for key in BOUNDS)
    parts = []
    for k, stopped in enumerate(comparison["stopped"]):
        audited = comparison["failed_share_audited"][k]
        part = f"{share_text(low[k])} to {share_text(high[k])}" if stopped else share_text(low[k])
        part += f" ({stopped} of {comparison['runs'][k]} stopped"
        parts.append(part + (f"; audited estimate {share_text(audited)})" if stopped and audited is not None else ")"))
    text = f"failed share {parts[0]} against {parts[1]}. "
    if max(low) <= min(high):
        text += "The bounds overlap: which of the two fails less often is open."
    else:
        less = comparison["recipes"][0 if high[0] < low[1] else 1]
        text += (
            f"{less} has the smaller failed share here, whatever the stopped runs would have done. This may be chance."
        )
    return f"{text} Stopped runs are censored, so neither failed shares nor spreads are tested."


def _unjudged(comparison: Mapping[str, Any]) -> str:
    """Whether runs failed is not known: only the spreads of all runs are compared."""
    return (
        "failed shares are not compared, because no baseline tells which runs failed (--baseline). Std of all runs: "
        f"{_both(comparison['std'])}. {_brown_forsythe(comparison['brown_forsythe'])} A small std is no sign of stability "
        "where runs may have failed."
    )


def _no_failures(comparison: Mapping[str, Any]) -> str:
    """No run of either failed: their spreads are compared."""
    test = comparison["brown_forsythe"]
    text = f"Std: {_both(comparison['std_ok'])}. {_brown_forsythe(test)}"
    if test["p"] is None:
        return text
    steadier = _smaller(comparison["std_ok"])
    if steadier is None or steadier != _smaller(test["distances"]) or not _shown(test["p"]):
        return f"{text} No difference in spread is shown."
    name = comparison["recipes"][steadier]
    return f"{text} {name} is the more stable of the two: no run failed, and its scores spread less."


def _equal_shares(comparison: Mapping[str, Any]) -> str:
    """The same share failed, and it is not 0."""
    if comparison["failed"] == comparison["runs"]:
        caution = "where no run succeeds, this says nothing about stability."
    else:
        caution = "it includes failed runs, and shows how far they are from the others."
    text = f"The failed shares are the same. Std of all runs: {_both(comparison['std'])}; {caution}"
    return f"{text} {_brown_forsythe(comparison['brown_forsythe'])}"


def _different_shares(comparison: Mapping[str, Any]) -> str:
    failed, runs, names, std = (comparison[key] for key in ("failed", "runs", "recipes", "std"))
    more = 0 if failed[0] * runs[1] > failed[1] * runs[0] else 1
    if _shown(comparison["fisher_p"]):
        text = f"{names[1 - more]} is the more stable of the two: it fails less often."
    else:
        text = "The difference in failed shares may be chance."
    text += f" Std of all runs: {_both(std)}"
    if _smaller(std) == more:
        # A few failed runs, far from the others, make a std large. They make it small only if half of the runs fail.
        if 2 * failed[more] >= runs[more]:
            text += f"; that of {names[more]} is small because its runs fail, which is no sign of stability"
        else:
            text += f"; that of {names[more]} is smaller, but more of its runs fail: this is no sign of stability"
    return f"{text}. {_brown_forsythe(comparison['brown_forsythe'])}"


def _brown_forsythe(test: Mapping[str, Any]) -> str:
    n = " and ".join(map(str, test["n"]))
    if test["p"] is None:
        return f"Brown-Forsythe: undefined, {test['reason']} (n = {n})."
    return f"Brown-Forsythe: F(1, {sum(test['n']) - 2}) = {decimal(test['f'], 2)}, {p_text(test['p'])} (n = {n})."


def _smaller(values: Sequence[float | None]) -> int | None:
    """Index of the smaller one; None if they differ only by rounding, or one is missing."""
    if None in values or round(values[0], MOST_DECIMALS) == round(values[1], MOST_DECIMALS):
        return None
    return 0 if values[0] < values[1] else 1


def _shown(p: float) -> bool:
    """Whether p, as it is printed, is below the level: one that reads 0.050 is not."""
    return round(p, 3) < LEVEL


def _both(values: Sequence[float | None]) -> str:
    """Two numbers, with as many decimals as it takes to tell them apart."""
    return " against ".join(apart(*values))
