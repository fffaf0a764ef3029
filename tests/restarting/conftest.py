import functools

import pytest

from hf_stability.diagnostics.early_warning import check, find_alarm


@pytest.fixture
def alarming(monkeypatch):
    """The first check raises the alarm."""
    monkeypatch.setattr("hf_stability.diagnostics.watch.check", functools.partial(check, threshold=0.0))
    monkeypatch.setattr("hf_stability.diagnostics.watch.find_alarm", functools.partial(find_alarm, threshold=0.0))
