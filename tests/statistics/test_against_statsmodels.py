"""The statistics against those of statsmodels, an independent implementation. It is no dependency: without it this is skipped.

All comparisons with it are in this file, because its import takes seconds.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from hf_stability.statistics import (
    fleiss_kappa,
    holm,
    mcnemar_p,
    means_found,
    seeds_for_means,
    share_difference_interval,
    wilson_interval,
)


proportion = pytest.importorskip("statsmodels.stats.proportion")
contingency_tables = pytest.importorskip("statsmodels.stats.contingency_tables")
inter_rater = pytest.importorskip("statsmodels.stats.inter_rater")
multitest = pytest.importorskip("statsmodels.stats.multitest")
power = pytest.importorskip("statsmodels.stats.power")

quick = settings(max_examples=50, deadline=None)
counts = st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
confidences = st.sampled_from([0.8, 0.9, 0.95, 0.99])


@quick
@given(counts, confidences)
def test_wilson(count, confidence):
    theirs = proportion.proportion_confint(*count, alpha=1 - confidence, method="wilson")
    assert wilson_interval(*count, confidence) == pytest.approx(theirs, abs=1e-12)


@quick
@given(counts, counts, confidences)
def test_newcombes_interval_of_a_difference(a, b, confidence):
    theirs = proportion.confint_proportions_2indep(*a, *b, method="newcomb", compare="diff", alpha=1 - confidence)
    assert share_difference_interval(*a, *b, confidence) == pytest.approx(theirs, abs=1e-12)


@quick
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm(p_values):
    assert holm(p_values) == pytest.approx(multitest.multipletests(p_values, method="holm")[1], abs=1e-15)


@quick
@given(st.integers(2, 4).flatmap(lambda classes: st.tuples(st.just(classes), votes(classes))))
def test_fleiss_kappa(given_votes):
    classes, predictions = given_votes
    table = np.stack([(predictions == each).sum(0) for each in range(classes)], axis=1)
    if (table.sum(0) > 0).sum() > 1:  # else 0 / 0
        assert fleiss_kappa(predictions, classes) == pytest.approx(inter_rater.fleiss_kappa(table), abs=1e-10)


def votes(classes: int):
    shapes = st.tuples(st.integers(2, 8), st.integers(1, 30))
    return shapes.flatmap(lambda shape: arrays.arrays(np.int64, shape, elements=st.integers(0, classes - 1)))


@quick
@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar(only_a, only_b):
    theirs = contingency_tables.mcnemar([[3, only_a], [only_b, 5]], exact=True).pvalue
    assert mcnemar_p(only_a, only_b) == pytest.approx(min(theirs, 1), abs=1e-12)


def power_of(effect: float, n: int, alpha: float, paired: bool) -> float:
    """Their power. It is NaN for some powers above 0.96: no example then."""
    found = (power.TTestPower() if paired else power.TTestIndPower()).power(effect, n, alpha)
    assume(np.isfinite(found))
    return found


@quick
@given(st.floats(0.1, 2.5), st.integers(2, 60), st.sampled_from([0.05, 0.01, 0.05 / 13]), st.booleans())
def test_power_of_the_t_test(effect, n, alpha, paired):
    expected = power_of(effect, n, alpha, paired)
    assert means_found(0.03 * effect, 0.03, n, alpha, paired) == pytest.approx(expected, abs=1e-10)


@quick
@given(st.floats(0.25, 2), st.sampled_from([0.7, 0.8, 0.95]), st.sampled_from([0.05, 0.01]), st.booleans())
def test_seeds_for_a_difference_of_means(effect, wanted, alpha, paired):
    """Their power at our number of seeds is enough, and at one seed fewer it is not."""
    n = seeds_for_means(0.03 * effect, 0.03, wanted, alpha, paired)
    assert n == 2 or power_of(effect, n - 1, alpha, paired) < wanted + 1e-9
    assert power_of(effect, n, alpha, paired) >= wanted - 1e-9
