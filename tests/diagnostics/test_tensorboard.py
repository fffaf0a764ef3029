"""The order of the event files in one folder."""

from __future__ import annotations

import time

import pytest

from hf_stability.diagnostics.tensorboard import _wait_for_a_later_name


def test_a_file_of_this_second_is_waited_for(tmp_path):
    second = int(time.time())
    (tmp_path / f"events.out.tfevents.{second}.host.7.9.stability").write_bytes(b"")
    _wait_for_a_later_name(tmp_path)
    assert second < time.time() < second + 30


@pytest.mark.parametrize("name", ["events.out.tfevents.{}.host.7.9", "events.out.tfevents.mine", "{}"])
def test_others_are_not(tmp_path, monkeypatch, name):
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("waited"))
    _wait_for_a_later_name(tmp_path)
    (tmp_path / name.format(int(time.time()) - 60)).write_bytes(b"")
    _wait_for_a_later_name(tmp_path)
