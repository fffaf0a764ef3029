"""Two recipes compared: difference of means, probability of superiority, practical equivalence, noise floor, Holm's correction.

A and B are two recipes' scores over seeds; larger is better. A positive difference favours A.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError
from .checks import ROUNDING, check_confidence, runs_or_tasks, score_per_run
from .permutation import permutation_p, signs, splits
from .scores import t_interval
from .shares import wilson_interval


# ---- means ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """Result of `mean_difference`.

    Args:
        estimate: mean of A minus mean of B, in the scores' unit.
        low: lower end of its interval; NaN with fewer than 2 runs.
        high: upper end.
        p: of the permutation test; NaN with fewer than 2 runs.
        n: numbers of runs, (n_a, n_b); for pairs their number, (pairs,).
    """

    estimate: float
    low: float
    high: float
    p: float
    n: tuple[int, ...]


def mean_difference(
    a: ArrayLike,
    b: ArrayLike,
    paired: bool = False,
    permutations: int = 9999,
    confidence: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Difference of two recipes' mean scores, with an interval and a permutation test.

    Independent runs: Welch's interval `mean_a - mean_b -+ t sqrt(v_a / n_a + v_b / n_b)` with v the variances and
    Satterthwaite's degrees of freedom (Welch 1938, Biometrika 29, p. 350). The test permutes the runs between the recipes; its
    statistic is Welch's t, so that it also holds for unequal spreads in large samples (Janssen 1997, Statistics & Probability
    Letters 36, p. 9).

    Pairs: run i of A and run i of B have the same seed. The interval is `t_interval` of the differences. The test exchanges the
    two scores within seeds (Fisher 1935, "The Design of Experiments", section 21); its statistic is the mean difference.
    Pairing helps only if equal seeds give similar scores: check their correlation first.

    Args:
        a: (n_a,), A's scores, finite; or (runs, tasks), where each run counts with its mean over the tasks.
        b: (n_b,), B's. Pairs: of A's length, in the same order of seeds.
        paired: whether run i of both has the same seed.
        permutations: largest number of permutations. If all are no more than these, all are used, and p is exact.
        confidence: in (0, 1).
        seed: of the random permutations.

    Raises:
        InputError: a score is not finite, there are no scores, pairs of unequal number, or the confidence is outside (0, 1).
    """
    a, b = score_per_run(a), score_per_run(b)
    check_confidence(confidence)
    if not paired:
        return _independent(a, b, permutations, confidence, seed)
    if len(a) != len(b):
        raise InputError(f"{len(a)} and {len(b)} paired scores: give one score of both recipes for each seed")
    differences = a - b
    estimate, n = float(differences.mean()), (len(a),)
    if len(a) < 2:
        return Difference(estimate, np.nan, np.nan, np.nan, n)
    low, high = t_interval(differences, confidence)
    means = np.abs(signs(len(a), permutations, seed) @ differences) / len(a)
    means = np.where(means <= ROUNDING * max(np.abs(a).max(), np.abs(b).max()), 0.0, means)
    return Difference(estimate, float(low), float(high), permutation_p(means), n)


def _independent(a: np.ndarray, b: np.ndarray, permutations: int, confidence: float, seed: int) -> Difference:
    from scipy.special import stdtrit

    n = (len(a), len(b))
    both = np.concatenate([a, b])
    level = both.mean()
    estimate = float(a.mean() - b.mean())
    if min(n) < 2:
        return Difference(estimate, np.nan, np.nan, np.nan, n)
    errors = _squared_errors(a - level, np.ones((1, n[0])))[0], _squared_errors(b - level, np.ones((1, n[1])))[0]
    tiny = ROUNDING * np.abs(both).max()
    if sum(errors) <= tiny**2:
        half = 0.0
    else:
        freedom = sum(errors) ** 2 / sum(error**2 / (m - 1) for error, m in zip(errors, n, strict=True))
        half = float(stdtrit(freedom, (1 + confidence) / 2) * np.sqrt(sum(errors)))
    first = splits(*n, permutations, seed)
    differences = np.abs(first @ (both - level) / n[0] - (1 - first) @ (both - level) / n[1])
    error = np.sqrt(_squared_errors(both - level, first) + _squared_errors(both - level, 1 - first))
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(error > tiny, differences / error, np.inf)
    p = permutation_p(np.where(differences <= tiny, 0.0, t))
    return Difference(estimate, estimate - half, estimate + half, p, n)


def _squared_errors(centred: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Squared standard error of the mean of the chosen scores: (ways,) for `chosen` (ways, runs) of 0 and 1."""
    n = chosen[0].sum()
    return (chosen @ centred**2 - (chosen @ centred) ** 2 / n).clip(0) / (n - 1) / n


# ---- ranks ----------------------------------------------------------------------------------------------------------


def probability_of_superiority(a: ArrayLike, b: ArrayLike, confidence: float = 0.95) -> tuple[float, float, float]:
    """Probability that a run of A beats a run of B, P(A > B) + P(A = B) / 2, with an interval.

    The estimate is the share of pairs (a run of A, a run of B) that A wins, with a tie as half a win: Mann & Whitney's U over
    n_a n_b. Failed runs count: A loses with each of them against an ok run.

    The interval is Wilson's, of this share of m runs, where m is the number of runs that gives the share's own variance:

        m = share (1 - share) / V,    V = var(share of B beaten, over A) / n_a + var(share of A that wins, over B) / n_b

    V is that of DeLong, DeLong & Clarke-Pearson 1988, Biometrics 44, p. 837. m is kept between min(n_a, n_b), where the
    variance is the largest possible one (Birnbaum & Klose
    1957, Annals of Mathematical Statistics 28, p. 933), and n_a + n_b. So the interval has a width even if every run of A
    beats every run of B. `benchmarks/statistics_coverage.py` chose it among other intervals, and measures its coverage.

    Args:
        a: (n_a,), A's scores, finite, at least 2 runs for an interval; or (runs, tasks): then the mean over the tasks of each
            task's probability (Agarwal et al. 2021, NeurIPS, "probability of improvement").
        b: (n_b,), B's, with the same tasks.
        confidence: in (0, 1).

    Returns:
        estimate, low, high, in [0, 1]; low and high are NaN with fewer than 2 runs of a recipe.

    Raises:
        InputError: a score is not finite, there are no scores, the tasks differ, or the confidence is outside (0, 1).
    """
    a, b = runs_or_tasks(a), runs_or_tasks(b)
    check_confidence(confidence)
    if a.shape[1:] != b.shape[1:]:
        raise InputError(f"scores of shapes {a.shape} and {b.shape}: need the same tasks for both recipes")
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    wins = ((a[:, None] > b[None]) + 0.5 * (a[:, None] == b[None])).mean(2)  # (n_a, n_b), the mean over the tasks
    share = float(wins.mean())
    if min(wins.shape) < 2:
        return share, np.nan, np.nan
    variance = sum(wins.mean(1 - axis).var(ddof=1) / wins.shape[axis] for axis in (0, 1))
    least, most = min(wins.shape), sum(wins.shape)
    runs = share * (1 - share) / variance if variance > 0 else least
    runs = float(np.clip(runs, least, most))
    low, high = wilson_interval(min(share * runs, runs), runs, confidence)
    return share, float(low), float(high)


# ---- decisions ------------------------------------------------------------------------------------------------------


def equivalence(low: float, high: float, rope: float) -> str:
    """Is A better than B by more than a difference that matters? From the interval of A - B, larger is better.

    The region of practical equivalence is `[-rope, rope]` (Kruschke 2018, Advances in Methods and Practices in Psychological
    Science 1, p. 270). With a 90% interval it is the two one-sided tests of Schuirmann 1987 at the level 0.05; with a 95%
    interval it is stricter.

    Args:
        low: lower end of the interval; NaN if it is unknown.
        high: upper end.
        rope: the smallest difference that matters, in the scores' unit, at least 0.

    Returns:
        `better`: the whole interval is above rope. `worse`: below -rope. `equal`: within the region. `undecided`: otherwise.

    Raises:
        InputError: the rope is negative, or low is above high.
    """
    if not rope >= 0:
        raise InputError(f"rope {rope}: need the smallest difference that matters, 0 or more, for example 0.01")
    if low > high:
        raise InputError(f"an interval from {low} to {high}: need the lower end first")
    if low > rope:
        return "better"
    if high < -rope:
        return "worse"
    return "equal" if -rope <= low and high <= rope else "undecided"


def noise_floor(score: float, examples: int) -> float:
    """How far a score may be off because the development set is finite: half the width of its 95% interval (Wilson's).

    For a share of right examples, such as the accuracy: about `1.96 sqrt(score (1 - score) / examples)`, 0.058 for 0.5 on
    277 examples. Do not rank recipes that differ by less. More seeds do not lower this floor, because all runs are
    evaluated on the same examples. On the same examples two similar models differ by less than the floor by chance, so it is a
    careful rule, not a test.

    F1 and Matthews are no shares of independent examples, and their floors are higher. `benchmarks/statistics_coverage.py` gives
    the ratio: for balanced classes Matthews is twice the accuracy minus 1, so that its floor is twice as high.

    Args:
        score: in [0, 1].
        examples: number of examples of the development set, at least 1.

    Returns:
        In the score's unit.
    """
    if not 0 <= score <= 1 or examples < 1:
        raise InputError(
            f"a score of {score} on {examples} examples: need a share from 0 to 1, and at least 1 example"
        )
    low, high = wilson_interval(score * examples, examples)
    return float(high - low) / 2


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the given order (Holm 1979, Scandinavian Journal of Statistics 6, p. 65).

    With the sorted p_(1) <= ... <= p_(m), the adjusted p of the i-th is `max_{j <= i} min(1, (m - j + 1) p_(j))`. Comparisons
    with an adjusted p of at most 0.05 are shown, and the chance of any false one among the m is at most 0.05. Name the family:
    which m comparisons they are.
    """
    order = np.argsort(p_values)
    adjusted = np.maximum.accumulate([(len(order) - rank) * p_values[i] for rank, i in enumerate(order)])
    result = np.empty(len(order))
    result[order] = np.minimum(adjusted, 1.0)
    return result.tolist()
