"""Attempts of a run: JSON in and out, and their cost."""

import json

import pytest

from hf_stability.diagnostics.attempt import ALARM, Attempt, steps_spent
from hf_stability.errors import InputError


FIRST = Attempt(0, {}, {"init": 1, "data": 1, "dropout": 1}, ALARM, {"step": 30}, 30, 100)
LAST = Attempt(1, {"learning_rate": 1e-5}, {"init": 7, "data": 8, "dropout": 9}, None, None, 100, 100)


@pytest.mark.parametrize("attempt", [FIRST, LAST])
def test_an_attempt_survives_json(attempt):
    assert Attempt.from_dict(json.loads(json.dumps(attempt.to_dict()))) == attempt


def test_another_schema_is_refused():
    with pytest.raises(InputError, match=r"hf_stability.attempt/1"):
        Attempt.from_dict({**FIRST.to_dict(), "schema": "hf_stability.attempt/9"})


def test_the_cost_is_that_of_all_attempts():
    assert steps_spent([FIRST, LAST]) == 130
    assert steps_spent([]) == 0
    assert FIRST.was_abandoned and not LAST.was_abandoned


def test_other_fields_are_refused():
    with pytest.raises(InputError, match="other fields"):
        Attempt.from_dict({**FIRST.to_dict(), "colour": "red"})
