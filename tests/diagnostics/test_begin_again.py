"""The check for losses and gradients that are not finite."""

import math

import numpy as np
import pytest

from hf_stability.diagnostics.attempt import NON_FINITE_GRADIENTS, NON_FINITE_LOSS
from hf_stability.diagnostics.begin_again import FiniteCheck, with_restarts
from hf_stability.verdicts.verdict import Verdict


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("losses", "norms", "expected"),
    [
        ([1, 1, 1], [1, 1, 1], None),
        ([1, NAN, 1], [1, NAN, 1], NON_FINITE_LOSS),
        ([NAN, 1, 1], [NAN, 1, 1], NON_FINITE_LOSS),
        ([1, 1, 1], [1, INF, 1], NON_FINITE_GRADIENTS),
        ([1, NAN, 1], [1, 1, 1], None),  # a batch without labels
        ([1, 1, 1], [NAN, NAN, NAN], None),  # norms that cannot be read
        ([1, 1, INF], [NAN, NAN, NAN], NON_FINITE_LOSS),
    ],
)
def test_the_first_fault(losses, norms, expected):
    check, steps = FiniteCheck(), np.arange(1, 4)
    assert check.look(steps, np.array(losses, float), np.array(norms, float)) == expected


def test_a_model_without_a_loss_and_a_gradient_scaler():
    steps, fine, nan, inf = np.arange(1, 4), np.ones(3), np.full(3, NAN), np.array([1, INF, 1])
    assert FiniteCheck().look(steps, nan, nan, saw_loss=False) is None
    assert FiniteCheck(scales_loss=True).look(steps, fine, inf) is None
    assert FiniteCheck(scales_loss=True).look(steps, nan, nan) == NON_FINITE_LOSS


def test_rows_are_looked_at_once():
    check = FiniteCheck()
    assert check.look(np.array([1, 2]), np.ones(2), np.ones(2)) is None
    assert check.look(np.array([1, 2]), np.full(2, NAN), np.full(2, NAN)) is None
    assert check.look(np.array([3]), np.ones(1), np.full(1, NAN)) == NON_FINITE_GRADIENTS


def test_the_verdict_tells_of_the_restarts():
    verdict = with_restarts(Verdict("ok", "ok: 0.9.", {"a": 1}), 2, 190)
    assert verdict.sentence == "ok: 0.9; after 2 restarts, 190 update steps in all."
    assert verdict.evidence == {"a": 1, "restarts": 2, "steps_spent": 190} and verdict.status == "ok"
    assert "after 1 restart, 7 update" in with_restarts(Verdict("ok", "ok."), 1, 7).sentence
