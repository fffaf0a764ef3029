"""Two-way seeds: how much of the scores' variance comes from the initialisation, and how much from the data order.

Every initialisation seed is run with every data-order seed, r times with other dropout (Dodge et al. 2020, arXiv
2002.06305, for r = 1). A study's seeds are a sample of all possible seeds, so that their effects are random. Run k of
initialisation i = 1 .. I with data order j = 1 .. J scores

    y_ijk = mu + a_i + b_j + (ab)_ij + e_ijk,    k = 1 .. r

with uncorrelated effects of mean 0 and variances s_a, s_b, s_ab and s_e. The analysis of variance estimates them by the
method of moments: it sets mean squares equal to their expectations (Searle, Casella & McCulloch 1992, "Variance
Components", chapter 4). This needs no normal distribution. Scores of studies with failed runs are not normal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import InputError
from ...statistics import ROUNDING, check_confidence


SOURCES = ("initialisation", "data order", "interaction", "dropout")
COMBINED = "interaction + dropout"
"""The last two sources with one run per cell: only their sum can be estimated."""


# ---- cells ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Grid:
    """The runs of a crossed design, by cell.

    Args:
        init_seeds: (I,), sorted.
        data_seeds: (J,), sorted.
        scores: (I, J, r), the replicates of a cell in the given order.
    """

    init_seeds: tuple
    data_seeds: tuple
    scores: np.ndarray


def crossed_grid(init_seeds: Sequence[Any], data_seeds: Sequence[Any], scores: Sequence[float] | np.ndarray) -> Grid:
    """The cells of a balanced crossed design, from a list of runs.

    Args:
        init_seeds: (n,), each run's initialisation seed.
        data_seeds: (n,), its data-order seed.
        scores: (n,), finite.

    Returns:
        The grid, with I * J * r = n.

    Raises:
        InputError: a cell is missing, or has more or fewer runs than others (the message names it); a score is not finite;
            there are fewer than two seeds of either kind.
    """
    if not len(init_seeds) == len(data_seeds) == len(scores):
        raise InputError(
            f"{len(init_seeds)} and {len(data_seeds)} seeds for {len(scores)} scores: need one of each per run"
        )
    cells: dict[tuple, list[float]] = {}
    for init, order, score in zip(init_seeds, data_seeds, scores, strict=True):
        cells.setdefault((init, order), []).append(score)
    rows, columns = sorted(set(init_seeds)), sorted(set(data_seeds))
    most = max(map(len, cells.values()), default=0)
    for init in rows:
        for order in columns:
            number = len(cells.get((init, order), ()))
            if number < most:
                raise InputError(
                    f"initialisation seed {init} with data-order seed {order}: {number} runs, others have {most}; each "
                    "pair of seeds needs the same number. Rerun the command of the largest design to add what is missing"
                )
    array = np.array([[cells[init, order] for order in columns] for init in rows], dtype=float)
    return Grid(tuple(rows), tuple(columns), _checked(array, rows, columns))


def _checked(scores: np.ndarray, init_seeds: Sequence | None = None, data_seeds: Sequence | None = None) -> np.ndarray:
    """Scores as (I, J, r) floats. Raises InputError for another shape, or a score that is not finite."""
    scores = np.asarray(scores, dtype=float)
    if scores.ndim != 3 or min(scores.shape[:2]) < 2 or not scores.shape[2]:
        raise InputError(
            f"scores of shape {scores.shape}: need initialisation seeds x data-order seeds x replicates, at least two "
            "seeds of each kind"
        )
    for i, j, _ in np.argwhere(~np.isfinite(scores))[:1]:
        init, order = (seeds[k] if seeds else f"number {k}" for seeds, k in ((init_seeds, i), (data_seeds, j)))
        raise InputError(
            f"initialisation seed {init} with data-order seed {order}: a score is missing or not finite; for a "
            "diverged run, give the score of its predictions"
        )
    return scores


# ---- variance components --------------------------------------------------------------------------------------------


def mean_squares(scores: np.ndarray) -> np.ndarray:
    """Mean squares of the two-way analysis of variance; a dot is a mean over that index.

        source          mean square                                                         expectation
        initialisation  MS_a  = J r sum_i (y_i.. - y_...)^2 / (I - 1)                       s_e + r s_ab + J r s_a
        data order      MS_b  = I r sum_j (y_.j. - y_...)^2 / (J - 1)                       s_e + r s_ab + I r s_b
        interaction     MS_ab = r sum_ij (y_ij. - y_i.. - y_.j. + y_...)^2 / (I - 1)(J - 1)  s_e + r s_ab
        dropout         MS_e  = sum_ijk (y_ijk - y_ij.)^2 / IJ(r - 1)                       s_e

    Args:
        scores: (..., I, J, r), I and J at least 2.

    Returns:
        (..., 4), in this order, the scores' unit squared; for r = 1 (..., 3), without MS_e.
    """
    i, j, r = scores.shape[-3:]
    cell = scores.mean(-1)
    row, column = cell.mean(-1, keepdims=True), cell.mean(-2, keepdims=True)
    grand = row.mean(-2, keepdims=True)
    squares = [
        j * r * ((row - grand) ** 2).sum((-2, -1)) / (i - 1),
        i * r * ((column - grand) ** 2).sum((-2, -1)) / (j - 1),
        r * ((cell - row - column + grand) ** 2).sum((-2, -1)) / ((i - 1) * (j - 1)),
    ]
    if r > 1:
        squares.append(((scores - cell[..., None]) ** 2).sum((-3, -2, -1)) / (i * j * (r - 1)))
    return np.stack(squares, -1)


def variance_components(scores: np.ndarray) -> np.ndarray:
    """Estimates of the variance components by the method of moments: unbiased, and therefore sometimes negative.

        s_e = MS_e,  s_ab = (MS_ab - MS_e) / r,  s_a = (MS_a - MS_ab) / (J r),  s_b = (MS_b - MS_ab) / (I r)

    With one run per cell, MS_ab estimates s_ab + s_e: the two are not separable.

    Args:
        scores: (..., I, J, r), I and J at least 2.

    Returns:
        (..., 4): s_a, s_b, s_ab, s_e, the scores' unit squared; for r = 1 (..., 3): s_a, s_b, s_ab + s_e.
    """
    i, j, r = scores.shape[-3:]
    ms_a, ms_b, ms_ab, *ms_e = np.moveaxis(mean_squares(scores), -1, 0)
    s_a, s_b = (ms_a - ms_ab) / (j * r), (ms_b - ms_ab) / (i * r)
    return np.stack([s_a, s_b, (ms_ab - ms_e[0]) / r, ms_e[0]] if r > 1 else [s_a, s_b, ms_ab], -1)


def bootstrap_components(scores: np.ndarray, rng: np.random.Generator, draws: int = 2000) -> np.ndarray:
    """Variance components of resampled designs: rows and columns independently, then replicates within the cells.

    A draw takes I initialisation seeds and J data-order seeds, each with replacement. In every resulting cell it takes r
    replicates with replacement (McCullagh 2000, Bernoulli 6, p. 285; Owen 2007, "The pigeonhole bootstrap"). It assumes that
    both kinds of seeds are independent draws, exchangeable among themselves, and that replicates are exchangeable within a
    cell. It assumes no distribution.

    A seed may be drawn twice. This biases the components of a draw by a known amount. Over all draws, from estimates s_a,
    s_b, s_ab and s_e, they are on average

        s_a* = (1 - 1/I) (s_a + c / J)     s_b* = (1 - 1/J) (s_b + c / I)     with c = s_ab + s_e / r
        s_ab* = (1 - 1/I) (1 - 1/J) c      s_e* = (1 - 1/r) s_e

    (with two replicates the dropout's component is halved). Each draw is corrected by the inverse of this, so that the mean
    over all draws is the estimate (Brennan 2007, Educ. Psychol. Meas. 67, p. 784, for such designs in general).

    Args:
        scores: (I, J, r), I and J at least 2.
        rng: draws the seeds.
        draws: at least 1.

    Returns:
        (draws, 4), for r = 1 (draws, 3), as `variance_components`.
    """
    i, j, r = scores.shape
    rows = rng.integers(i, size=(draws, i, 1, 1))
    columns = rng.integers(j, size=(draws, 1, j, 1))
    replicates = rng.integers(r, size=(draws, i, j, r))
    a, b, ab, *e = np.moveaxis(variance_components(scores[rows, columns, replicates]), -1, 0)
    c = ab / ((1 - 1 / i) * (1 - 1 / j))
    a, b = a / (1 - 1 / i) - c / j, b / (1 - 1 / j) - c / i
    if r == 1:
        return np.stack([a, b, c], -1)
    s_e = e[0] / (1 - 1 / r)
    return np.stack([a, b, c - s_e / r, s_e], -1)


@dataclass(frozen=True)
class Component:
    """One source of variance.

    Args:
        source: one of `SOURCES`, or `COMBINED`.
        df: degrees of freedom of its mean square.
        mean_square: see `mean_squares`.
        variance: the unbiased estimate, sometimes negative, in the scores' unit squared.
        low, high: its bootstrap interval.
        truncated: the estimate, or 0 if it is negative; biased upwards.
        share: of the sum of the truncated components; None if that sum is 0.
        share_low, share_high: its bootstrap interval.
    """

    source: str
    df: int
    mean_square: float
    variance: float
    low: float
    high: float
    truncated: float
    share: float | None
    share_low: float | None
    share_high: float | None


@dataclass(frozen=True)
class TwoWay:
    """Result of `analyse`.

    Args:
        shape: (I, J, r).
        mean: of all scores.
        components: one per source of `SOURCES`; without replicates initialisation, data order and `COMBINED`.
        confidence: of the intervals.
        draws: bootstrap draws.
    """

    shape: tuple[int, int, int]
    mean: float
    components: tuple[Component, ...]
    confidence: float
    draws: int

    @property
    def separable(self) -> bool:
        """Whether interaction and dropout can be separated, because there are replicates."""
        return self.shape[2] > 1


def analyse(scores: np.ndarray, rng: np.random.Generator, draws: int = 2000, confidence: float = 0.95) -> TwoWay:
    """Variance components of a crossed design, with bootstrap intervals.

    Intervals are percentiles of `bootstrap_components`: of the untruncated estimates, and of the truncated shares.
    `two_way_page.COVERAGE_NOTE` tells how often 95% intervals cover the true variance. With 5 seeds they cover it too rarely,
    above all if a fifth of the seeds fails: 5 seeds may include none that fails. Intervals of the interaction, the dropout and
    small components nearly always cover it. They are two to three times too long, so an interval that excludes 0 is credible.

    Args:
        scores: (I, J, r): initialisation seeds x data-order seeds x dropout replicates, I and J at least 2, r at least 1.
        rng: of the bootstrap.
        draws: bootstrap draws, at least 1. Default: 2000.
        confidence: of the intervals, in (0, 1). Default: 0.95.

    Returns:
        The components, in the scores' unit squared.

    Raises:
        InputError: a score is missing (the message names the cell), the scores have another shape, the confidence is outside
            (0, 1), or there are no draws.
    """
    scores = _checked(scores)
    check_confidence(confidence)
    if draws < 1:
        raise InputError(f"{draws} bootstrap draws: need at least 1, better 1000")
    i, j, r = scores.shape
    squares, variances = mean_squares(scores), variance_components(scores)
    drawn = bootstrap_components(scores, rng, draws)
    ends = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.quantile(drawn, ends, axis=0)
    nothing = (ROUNDING * np.abs(scores).max()) ** 2
    shares, drawn_shares = _shares(variances, nothing), _shares(drawn, nothing)
    drawn_shares = drawn_shares[~np.isnan(drawn_shares[:, 0])]  # draws with equal scores have no shares
    known = not np.isnan(shares[0]) and len(drawn_shares)
    share_low, share_high = np.quantile(drawn_shares, ends, axis=0) if known else (shares, shares)
    sources = SOURCES if r > 1 else (*SOURCES[:2], COMBINED)
    freedom = (i - 1, j - 1, (i - 1) * (j - 1), i * j * (r - 1))
    components = tuple(
        Component(
            source,
            freedom[k],
            *map(float, (squares[k], variances[k], low[k], high[k], max(variances[k], 0.0))),
            *(float(share[k]) if known else None for share in (shares, share_low, share_high)),
        )
        for k, source in enumerate(sources)
    )
    return TwoWay((i, j, r), float(scores.mean()), components, confidence, draws)


def _shares(variances: np.ndarray, nothing: float) -> np.ndarray:
    """Shares of the truncated components' sum over the last axis; NaN if the sum is at most `nothing`."""
    truncated = variances.clip(0)
    total = truncated.sum(-1, keepdims=True)
    return np.divide(truncated, total, out=np.full_like(truncated, np.nan), where=total > nothing)


# ---- failures -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Failures:
    """Result of `analyse_failures`.

    Args:
        analysis: the components of the 0/1 response.
        counts: (I, J), number of failed runs of each cell, out of r.
        by_initialisation: (I,), the same for each initialisation seed, out of J r.
        by_data_order: (J,), the same for each data-order seed, out of I r.
    """

    analysis: TwoWay
    counts: tuple[tuple[int, ...], ...]
    by_initialisation: tuple[int, ...]
    by_data_order: tuple[int, ...]


def analyse_failures(
    failed: np.ndarray, rng: np.random.Generator, draws: int = 2000, confidence: float = 0.95
) -> Failures:
    """The same analysis of failed runs, with their counts: y is 1 for a failed run, 0 for any other.

    Let p_ij be the probability, over dropout, that initialisation i fails with data order j. The first three components are
    the variances of p_ij over initialisations, over data orders, and of the remainder. The dropout's component is the mean
    of p_ij (1 - p_ij), the variance of a failure with a known probability. The sum of all four estimates p (1 - p), with p
    the share that fails. If few runs fail, or nearly all, this sum is small, whatever the cause. So compare shares between
    recipes, not components. The scale is that of probabilities, not of log odds. With few failed runs the intervals say
    little, and with none they say nothing: read the counts.

    Args:
        failed: (I, J, r), of 0 and 1, or booleans.
        rng, draws, confidence: as in `analyse`.

    Raises:
        InputError: a value is not 0 or 1; and as `analyse`.
    """
    failed = _checked(failed)
    if not np.isin(failed, (0, 1)).all():
        raise InputError("failed runs: need 1 for a run that failed and 0 for one that did not")
    counts = failed.sum(-1).astype(int)
    rows, columns = counts.sum(1).tolist(), counts.sum(0).tolist()
    analysis = analyse(failed, rng, draws, confidence)
    return Failures(analysis, tuple(map(tuple, counts.tolist())), tuple(rows), tuple(columns))
