"""Power: against sums over all outcomes with scipy's Fisher test, Cohen's tables, and integrals of the t statistic."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import binom, chi2, fisher_exact, norm
from scipy.stats import t as student

from hf_stability.errors import InputError
from hf_stability.statistics import MOST_SEEDS, means_found, seeds_for_means, seeds_for_shares, shares_found


# ---- failed shares --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "n", "alpha"), [(0.3, 0.05, 12, 0.05), (0.5, 0.1, 9, 0.05), (0.9, 0.2, 10, 0.01), (1, 0, 5, 0.05)]
)
def test_power_is_the_sum_over_all_outcomes_that_scipys_fisher_test_rejects(a, b, n, alpha):
    expected = sum(
        binom.pmf(i, n, a) * binom.pmf(j, n, b)
        for i in range(n + 1)
        for j in range(n + 1)
        if fisher_exact([[i, n - i], [j, n - j]])[1] <= alpha
    )
    assert shares_found(a, b, n, alpha) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5])
def test_the_size_is_below_the_level_and_the_order_does_not_matter(share):
    for n in (5, 20, 50):
        assert shares_found(share, share, n) < 0.05
        assert shares_found(share, 0.6, n) == pytest.approx(shares_found(0.6, share, n))
        assert shares_found(share, 0.6, n) == pytest.approx(shares_found(1 - share, 0.4, n))


def test_the_seeds_for_shares_are_the_smallest_and_near_fleisss_approximation():
    n = seeds_for_shares(0.3, 0.05)
    assert shares_found(0.3, 0.05, n) >= 0.8
    assert all(shares_found(0.3, 0.05, k) < 0.8 for k in range(2, n))
    # The normal approximation without correction is too small, the one with Fleiss's correction is close.
    z, mean = norm.ppf([0.975, 0.8]), 0.175
    plain = (z[0] * math.sqrt(2 * mean * (1 - mean)) + z[1] * math.sqrt(0.3 * 0.7 + 0.05 * 0.95)) ** 2 / 0.25**2
    corrected = plain / 4 * (1 + math.sqrt(1 + 4 / (plain * 0.25))) ** 2
    assert plain < n < corrected + 2


@pytest.mark.parametrize(("a", "b"), [(0.1, 0.02), (0.5, 0.35), (0.2, 0.1), (0.15, 0.05)])
def test_no_smaller_number_of_seeds_has_the_power(a, b):
    n = seeds_for_shares(a, b)
    assert n > 100 and next(k for k in range(2, n + 1) if shares_found(a, b, k) >= 0.8) == n


# ---- means ----------------------------------------------------------------------------------------------------------


def power_by_integration(delta, n, alpha, paired):
    """P(|T| > t): the integral over the sample's standard deviation of normal tails."""
    freedom, shift = (n - 1, delta * math.sqrt(n)) if paired else (2 * n - 2, delta * math.sqrt(n / 2))
    t = student.ppf(1 - alpha / 2, freedom)

    def density(u):
        bound = t * math.sqrt(u / freedom)
        return (norm.sf(bound - shift) + norm.cdf(-bound - shift)) * chi2.pdf(u, freedom)

    ends = chi2.ppf([1e-13, 1 - 1e-13], freedom)
    return quad(density, *ends, limit=200)[0]


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize(("delta", "n", "alpha"), [(0.2, 5, 0.05), (0.5, 64, 0.05), (1.2, 10, 0.01), (3, 4, 0.05)])
def test_power_is_the_integral_over_the_samples_spread(delta, n, alpha, paired):
    found = means_found(0.03 * delta, 0.03, n, alpha, paired)
    assert found == pytest.approx(power_by_integration(delta, n, alpha, paired), abs=1e-6)
    assert found == means_found(-0.03 * delta, 0.03, n, alpha, paired)


COHEN_1988 = {0.2: 393, 0.5: 64, 0.8: 26}  # table 2.4.1: n per group for power 0.8 at the two-sided level 0.05


@pytest.mark.parametrize("delta", COHEN_1988)
def test_cohens_table(delta):
    n = seeds_for_means(delta, 1.0)
    assert n == pytest.approx(COHEN_1988[delta], abs=1)  # the table rounds 393.4 down
    assert means_found(delta, 1, n) >= 0.8 > means_found(delta, 1, n - 1)


def test_pairs_need_the_seeds_of_one_sample():
    assert seeds_for_means(0.5, 1, paired=True) == 34  # Cohen 1988: d = 0.5 sqrt(2) needs 33.4
    assert seeds_for_means(5, 1) == 3 and seeds_for_means(100, 1) == 2


@pytest.mark.parametrize("n", [2, 3, 5, 10, 50, 1000])
def test_power_grows_from_the_level_to_1_without_gaps(n):
    found = [means_found(delta, 1, n) for delta in np.linspace(0, 50, 120)]
    assert found[0] == pytest.approx(0.05) and found[-1] == pytest.approx(1, abs=2e-3 if n == 2 else 1e-6)
    assert np.isfinite(found).all() and (np.diff(found) > -1e-9).all()


# ---- wrong input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: shares_found(30, 5, 10), "failed shares 30 and 5: need shares from 0 to 1"),
        (lambda: shares_found(0.3, 0.1, 0), "0 runs per recipe"),
        (lambda: shares_found(0.3, 0.1, 10, 5), "level 5"),
        (lambda: seeds_for_shares(0.3, 0.3), "they are the same"),
        (lambda: seeds_for_shares(0.3, 0.1, power=80), "power 80"),
        (lambda: seeds_for_shares(0.3, 0.29), f"needs more than {MOST_SEEDS} runs"),
        (lambda: seeds_for_means(0, 1), "a difference of 0"),
        (lambda: seeds_for_means(0.1, 0), "need two numbers, and a std above 0"),
        (lambda: seeds_for_means(0.001, 1), f"needs more than {MOST_SEEDS} runs"),
        (lambda: means_found(0.1, 1, 1), "1 runs per recipe: need at least 2"),
    ],
)
def test_wrong_input_says_what_is_needed(call, message):
    with pytest.raises(InputError, match=message):
        call()
