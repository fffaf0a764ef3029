"""The record of a run, read back."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_stability.errors import InputError
from hf_stability.study.records import RunRecord, read_run
from hf_stability.utils.files import finite, write_json


RUN = RunRecord("0123456789abcdef", "mosbach2021", 7, "rte", "ok", "accuracy", last=0.71, best=0.72, steps=100)


def test_a_record_is_read_as_it_was_written(tmp_path):
    write_json(tmp_path / "run.json", RUN.to_dict())
    assert read_run(tmp_path) == RUN
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]  # written by way of a file that is gone


@pytest.mark.parametrize("content", [None, "", '{"schema": "hf_stability.run/1", "id"', "\x00\x00"])
def test_a_run_without_a_whole_record_was_not_finished(tmp_path, content):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    assert read_run(tmp_path) is None


def test_no_folder_no_run(tmp_path):
    assert read_run(tmp_path / "nowhere") is None


def test_the_record_of_another_version_is_refused(tmp_path):
    write_json(tmp_path / "run.json", {**RUN.to_dict(), "schema": "hf_stability.run/5"})
    with pytest.raises(
        InputError,
        match="run.json: schema 'hf_stability.run/5'; this version of hf_stability reads hf_stability.run/4",
    ):
        read_run(tmp_path)


def test_a_record_from_before_the_alarms_is_read(tmp_path):
    old = RUN.to_dict()
    for name in ("planned_steps", "alarm_step", "audited", "cell"):
        del old[name]
    write_json(tmp_path / "run.json", {**old, "schema": "hf_stability.run/1"})
    assert read_run(tmp_path) == dataclasses.replace(RUN, planned_steps=100, alarm_step=None, audited=False)


def test_a_record_from_before_two_way_seeds_is_read(tmp_path):
    old = RUN.to_dict()
    del old["cell"]
    write_json(tmp_path / "run.json", {**old, "schema": "hf_stability.run/2"})
    assert read_run(tmp_path) == RUN


def test_the_reporting_half_is_that_of_the_end_of_training():
    both = {"eval_first_accuracy": 0.71, "eval_second_accuracy": 0.69}
    assert dataclasses.replace(RUN, metrics=both).report == 0.69
    assert RUN.report is None and dataclasses.replace(RUN, metrics=both, last=None).report is None


def test_a_stopped_run_is_read_as_it_was_written(tmp_path):
    stopped = dataclasses.replace(RUN, status="stopped", last=None, best=None, planned_steps=400, alarm_step=100)
    write_json(tmp_path / "run.json", stopped.to_dict())
    assert read_run(tmp_path) == stopped


numbers = st.floats() | st.integers() | st.text(max_size=3) | st.none() | st.booleans()
contents = st.recursive(numbers, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner))


@given(contents)
def test_json_gets_no_nan_and_loses_nothing_else(content):
    def same(before, after):
        if isinstance(before, dict):
            return before.keys() == after.keys() and all(same(before[key], after[key]) for key in before)
        if isinstance(before, list):
            return len(before) == len(after) and all(map(same, before, after))
        if isinstance(before, float) and (before != before or abs(before) == float("inf")):
            return after is None
        return after is before or after == before

    cleaned = finite(content)
    json.dumps(cleaned, allow_nan=False)
    assert same(content, cleaned)
