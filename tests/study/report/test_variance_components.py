"""Variance components of crossed seeds against sums written out, simulated designs and all bootstrap draws."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from hf_stability.errors import InputError
from hf_stability.study.report.variance_components import (
    COMBINED,
    SOURCES,
    analyse,
    analyse_failures,
    bootstrap_components,
    crossed_grid,
    mean_squares,
    variance_components,
)


shapes = st.tuples(st.integers(2, 4), st.integers(2, 4), st.integers(1, 3))
grids = shapes.flatmap(lambda shape: arrays.arrays(float, shape, elements=st.integers(0, 20).map(lambda k: k / 20)))


def rng(seed=0):
    return np.random.default_rng(seed)


def simulate(draws, shape, variances, generator, effect=None):
    """(draws, I, J, r) scores with variances s_a, s_b, s_ab, s_e; `effect` draws effects of variance 1."""
    i, j, r = shape
    effect = effect or generator.normal
    sizes = ((draws, i, 1, 1), (draws, 1, j, 1), (draws, i, j, 1), (draws, i, j, r))
    return 0.6 + sum(s**0.5 * effect(size=size) for s, size in zip(variances, sizes, strict=True))


def bimodal(generator):
    """Effects of variance 1, of which a fifth is low: levels that fail."""
    return lambda size: (generator.binomial(1, 0.2, size) - 0.2) / 0.4


# ---- estimates ------------------------------------------------------------------------------------------------------


def sums_written_out(y):
    """The textbook's sums of squares, index by index, over their degrees of freedom."""
    n_i, n_j, r = y.shape
    cells = range(n_i), range(n_j)
    grand = sum(y[i, j, k] for i in range(n_i) for j in range(n_j) for k in range(r)) / y.size
    row = [sum(y[i, j, k] for j in range(n_j) for k in range(r)) / (n_j * r) for i in range(n_i)]
    column = [sum(y[i, j, k] for i in range(n_i) for k in range(r)) / (n_i * r) for j in range(n_j)]
    cell = {(i, j): sum(y[i, j, k] for k in range(r)) / r for i, j in product(*cells)}
    total = sum((y[i, j, k] - grand) ** 2 for i, j in product(*cells) for k in range(r))
    a = n_j * r * sum((row[i] - grand) ** 2 for i in range(n_i))
    b = n_i * r * sum((column[j] - grand) ** 2 for j in range(n_j))
    ab = r * sum((cell[i, j] - row[i] - column[j] + grand) ** 2 for i, j in product(*cells))
    e = sum((y[i, j, k] - cell[i, j]) ** 2 for i, j in product(*cells) for k in range(r))
    assert a + b + ab + e == pytest.approx(total, abs=1e-9)
    squares = [a / (n_i - 1), b / (n_j - 1), ab / ((n_i - 1) * (n_j - 1))]
    return squares + ([e / (n_i * n_j * (r - 1))] if r > 1 else [])


@settings(deadline=None)
@given(grids)
def test_mean_squares_and_components_are_the_textbooks(scores):
    expected = sums_written_out(scores)
    assert mean_squares(scores) == pytest.approx(expected, abs=1e-9)
    i, j, r = scores.shape
    a, b, ab, *e = expected
    components = [(a - ab) / (j * r), (b - ab) / (i * r), *([(ab - e[0]) / r, e[0]] if e else [ab])]
    assert variance_components(scores) == pytest.approx(components, abs=1e-9)
    both = np.stack([scores, 1 - 2 * scores])
    assert variance_components(both) == pytest.approx(np.array([components, [4 * c for c in components]]), abs=1e-9)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("shape", [(4, 5, 2), (3, 3, 3), (5, 4, 1)])
def test_the_estimates_are_unbiased(shape, fails):
    """10,000 designs with known components, normal or with a fifth of low levels; within 4 standard errors."""
    generator, variances = rng(), np.array([0.5, 0.2, 0.1, 0.3])
    estimates = variance_components(
        simulate(10_000, shape, variances, generator, bimodal(generator) if fails else None)
    )
    expected = variances if shape[2] > 1 else np.array([0.5, 0.2, 0.1 + 0.3])
    error = (estimates.mean(0) - expected) / (estimates.std(0) / 100)
    assert (np.abs(error) < 4).all()


def test_negative_estimates_stay_and_are_truncated_beside_it():
    scores = np.array([[0.0, 1.0], [1.0, 0.0]])[..., None].repeat(2, -1)  # all interaction
    result = analyse(scores, rng(), draws=20)
    variances = [part.variance for part in result.components]
    assert variances == pytest.approx([-0.5, -0.5, 1, 0])
    assert [part.truncated for part in result.components] == pytest.approx([0, 0, 1, 0])
    assert [part.share for part in result.components] == pytest.approx([0, 0, 1, 0])


@settings(deadline=None, max_examples=50)
@given(grids, st.randoms(use_true_random=False), st.integers(-5, 5), st.sampled_from([0.01, 3, -100]))
def test_neither_the_seeds_names_nor_a_constant_matters_and_a_unit_is_squared(scores, random, shift, unit):
    i, j, r = (random.sample(range(size), size) for size in scores.shape)
    moved = unit * (scores[i][:, j][..., r] + shift)
    expected = unit**2 * variance_components(scores)
    assert variance_components(moved) == pytest.approx(expected, rel=1e-6, abs=1e-9 * unit**2)
    a, b, *rest = variance_components(scores)
    assert variance_components(scores.swapaxes(0, 1)) == pytest.approx([b, a, *rest], abs=1e-12)


# ---- bootstrap ------------------------------------------------------------------------------------------------------


class AllDraws:
    """Stands in for a generator: the draws are all that there are, each once."""

    def __init__(self, shape):
        i, j, r = shape
        sizes = i, j, i * j * r
        draws = product(*(product(range(high), repeat=n) for high, n in zip(shape, sizes, strict=True)))
        self.drawn = [np.array(column) for column in zip(*draws, strict=True)]

    def integers(self, high, size):
        return self.drawn.pop(0).reshape(size)


@pytest.mark.parametrize("shape", [(2, 2, 2), (2, 3, 1), (3, 3, 1)])
def test_the_mean_over_all_bootstrap_draws_is_the_estimate(shape):
    scores = rng().random(shape)
    every = AllDraws(shape)
    drawn = bootstrap_components(scores, every, draws=len(every.drawn[0]))
    assert drawn.mean(0) == pytest.approx(variance_components(scores), abs=1e-12)


@pytest.mark.parametrize(
    ("shape", "variances", "fails", "low", "high"),
    [
        ((10, 10, 2), (0.25, 0.25, 0.2, 0.3), False, 0.91, 0.98),
        ((10, 10, 2), (0.25, 0.25, 0.2, 0.3), True, 0.82, 0.93),
        ((5, 10, 3), (0.3, 0, 0, 0.3), False, 0.75, 0.88),
        ((5, 10, 3), (0.3, 0, 0, 0.3), True, 0.57, 0.73),
    ],
)
def test_coverage_of_the_bootstrap_intervals(shape, variances, fails, low, high):
    """About what COVERAGE_NOTE says of 95% intervals; 250 designs, 250 draws: the binomial's standard error is at most 0.03."""
    generator = rng()
    designs = simulate(250, shape, variances, generator, bimodal(generator) if fails else None)
    drawn = np.array([bootstrap_components(design, generator, 250) for design in designs])
    ends = np.quantile(drawn, [0.025, 0.975], axis=1)
    covered = ((ends[0] <= variances) & (variances <= ends[1])).mean(0)
    assert low < covered[0] < high  # of the initialisation
    assert (covered[2:] > 0.97).all()  # of interaction and dropout
    if not variances[1]:
        assert covered[1] > 0.97


def test_the_generator_alone_decides_the_draws():
    scores = rng().random((3, 4, 2))
    before = np.random.get_state()[1].copy()
    first, again, other = (analyse(scores, rng(seed), draws=50) for seed in (1, 1, 2))
    assert first == again != other
    assert (np.random.get_state()[1] == before).all()


def test_intervals_hold_and_shares_lie_in_0_to_1():
    result = analyse(simulate(1, (5, 6, 2), (0.5, 0.2, 0.1, 0.3), rng())[0], rng(), draws=500)
    assert result.separable and [part.source for part in result.components] == list(SOURCES)
    assert [part.df for part in result.components] == [4, 5, 20, 30]
    assert sum(part.share for part in result.components) == pytest.approx(1)
    for part in result.components:
        assert part.low < part.high and 0 <= part.share_low <= part.share_high <= 1
        assert part.truncated == max(part.variance, 0)
    narrow = analyse(simulate(1, (5, 6, 2), (0.5, 0.2, 0.1, 0.3), rng())[0], rng(), draws=500, confidence=0.5)
    for part, inner in zip(result.components, narrow.components, strict=True):
        assert part.low < inner.low < inner.high < part.high


# ---- what is not there ----------------------------------------------------------------------------------------------


def test_without_replicates_the_interaction_is_not_separable():
    result = analyse(rng().random((4, 5, 1)), rng(), draws=50)
    assert not result.separable
    assert [part.source for part in result.components] == ["initialisation", "data order", COMBINED]
    assert result.components[2].df == 12


def test_scores_that_are_all_the_same_have_no_shares():
    result = analyse(np.full((3, 3, 2), 0.1), rng(), draws=50)
    assert all(part.share is part.share_low is part.share_high is None for part in result.components)
    assert all(abs(part.variance) < 1e-30 for part in result.components)


def test_a_grid_of_runs_in_any_order():
    runs = [(init, order, init + order / 10) for init in (7, 3) for order in (2, 1, 0)] * 2
    grid = crossed_grid(*zip(*runs[::-1], strict=True))
    assert grid.init_seeds == (3, 7) and grid.data_seeds == (0, 1, 2)
    assert (grid.scores[..., 0] == [[3, 3.1, 3.2], [7, 7.1, 7.2]]).all() and grid.scores.shape == (2, 3, 2)


def test_the_cell_that_is_missing_short_or_not_finite_is_named():
    runs = [(init, order, 0.5) for init in (7, 3) for order in (2, 1)] * 2
    with pytest.raises(InputError, match="initialisation seed 3 with data-order seed 1: 1 runs, others have 2"):
        crossed_grid(*zip(*runs[:-1], strict=True))
    with pytest.raises(InputError, match="initialisation seed 3 with data-order seed 1: 0 runs, others have 1"):
        crossed_grid(*zip(*runs[:3], strict=True))
    with pytest.raises(InputError, match="seed 3 with data-order seed 1: a score is missing or not finite"):
        crossed_grid(*zip(*[*runs[:-1], (3, 1, np.nan)], strict=True))
    scores = np.full((2, 3, 2), 0.5)
    scores[1, 2, 0] = np.nan
    with pytest.raises(InputError, match="initialisation seed number 1 with data-order seed number 2"):
        analyse(scores, rng())


def test_other_designs_are_refused():
    for bad in (np.zeros((1, 3, 2)), np.zeros((3, 1, 2)), np.zeros((3, 3)), np.zeros((3, 3, 0))):
        with pytest.raises(InputError, match="at least two seeds of each kind"):
            analyse(bad, rng())
    for runs in ([], [(0, 0, 0.5), (0, 1, 0.5)]):
        with pytest.raises(InputError, match="at least two seeds of each kind"):
            crossed_grid(*(zip(*runs, strict=True) if runs else ([], [], [])))
    with pytest.raises(InputError, match="2 and 2 seeds for 1 scores"):
        crossed_grid([0, 1], [0, 1], [0.5])
    with pytest.raises(InputError, match="confidence 95: "):
        analyse(np.zeros((2, 2, 2)), rng(), confidence=95)
    with pytest.raises(InputError, match="0 bootstrap draws"):
        analyse(np.zeros((2, 2, 2)), rng(), draws=0)


# ---- failures -------------------------------------------------------------------------------------------------------


def test_components_of_failures_are_those_of_their_probability():
    """Failures with p_ij = u_i v_j: all four components are known; 10,000 designs, within 4 standard errors."""
    generator, levels = rng(), np.array([0.2, 0.8])
    u, v = (generator.choice(levels, size=(10_000, *size)) for size in ((4, 1, 1), (1, 5, 1)))
    failed = generator.random((10_000, 4, 5, 2)) < u * v
    estimates = variance_components(failed.astype(float))
    mean, variance = levels.mean(), levels.var()
    second = mean**2 + variance
    expected = [mean**2 * variance, mean**2 * variance, variance**2, mean**2 - second**2]
    error = (estimates.mean(0) - expected) / (estimates.std(0) / 100)
    assert (np.abs(error) < 4).all()
    assert sum(expected) == pytest.approx(mean**2 * (1 - mean**2))  # p (1 - p)


def test_failures_are_counted():
    failed = np.zeros((2, 3, 2), dtype=bool)
    failed[1] = True
    failed[0, 2, 1] = True
    result = analyse_failures(failed, rng(), draws=20)
    assert result.counts == ((0, 0, 1), (2, 2, 2))
    assert result.by_initialisation == (1, 6) and result.by_data_order == (2, 2, 3)
    assert result.analysis == analyse(failed.astype(float), rng(), draws=20)
    none = analyse_failures(np.zeros((2, 2, 2)), rng(), draws=20)
    assert none.by_data_order == (0, 0) and none.analysis.components[0].share is None
    with pytest.raises(InputError, match="need 1 for a run that failed and 0"):
        analyse_failures(np.full((2, 2, 2), 0.5), rng())
