"""How often an alarm is right: Bayes' theorem on counts."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_stability.diagnostics.alarm_odds import BANDS, HELD_OUT, Counts, share_of_right_alarms


def test_the_share_is_that_of_runs_counted_one_by_one():
    counts = {"a": Counts(50, 100, (20, 5, 0), (10, 1, 0)), "b": Counts(10, 20, (4, 1, 0), (1, 0, 0))}
    # 1000 runs, 100 of them fail. By 30% of training 40% of the failed runs raise an alarm, and 7.5% of the others.
    right, wrong = 0.4 * 100, 0.075 * 900
    assert share_of_right_alarms(0.3, 0.1, counts) == pytest.approx(right / (right + wrong))
    assert share_of_right_alarms(0.31, 0.1, counts) == pytest.approx(10 / (10 + 4.5))
    assert math.isnan(share_of_right_alarms(0.9, 0.1, counts))


@given(progress=st.floats(0, 1), failing=st.floats(0.01, 0.99), more=st.floats(0, 1))
def test_where_more_runs_fail_more_alarms_are_right(progress, failing, more):
    higher = failing + more * (0.99 - failing)
    assert 0 < share_of_right_alarms(progress, failing) <= share_of_right_alarms(progress, higher) + 1e-12 <= 1


def test_every_part_of_training_has_a_share():
    assert BANDS[-1] == 1 and all(0 < share_of_right_alarms(end, 0.1) < 1 for end in BANDS)
    for own in HELD_OUT.values():
        assert sum(own.failed_alarmed) <= own.failed and sum(own.others_alarmed) <= own.others
