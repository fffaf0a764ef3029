"""What holds for every policy; those that there are are found by themselves."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil

import pytest

from hf_stability.errors import InputError
from hf_stability.study import policies
from hf_stability.study.job import check_jobs
from hf_stability.study.policies.early_stopping import EarlyStopping
from hf_stability.study.policies.policy import Policy
from hf_stability.study.policies.two_way import TwoWay
from hf_stability.study.policies.until import Until
from hf_stability.study.records import RunRecord


for module in pkgutil.iter_modules(policies.__path__):
    importlib.import_module(f"{policies.__name__}.{module.name}")

VALUES = {"EarlyStopping": (4, 0.25, 2), "TwoWay": (2, 3), "Until": ("failed_share", (4, 6))}
"""Of every policy values that are right; a new one needs an entry."""

SEEDS = range(1, 9)
"""The seeds for a policy that has none of its own."""


@pytest.fixture(params=Policy.__subclasses__(), ids=lambda kind: kind.__name__)
def policy(request):
    return request.param(*VALUES[request.param.__name__])


def test_all_are_found():
    assert {EarlyStopping, TwoWay, Until} <= set(Policy.__subclasses__()) and len(VALUES) == len(
        Policy.__subclasses__()
    )


def test_its_jobs_are_the_same_each_time_and_runs_of_their_own_where_it_changes_them(policy, tiny_jobs, tmp_path):
    planned = tiny_jobs(tmp_path, ("devlin2019", "mosbach2021"), policy.planned_seeds() or SEEDS)
    jobs = policy.jobs(planned)
    check_jobs(jobs)
    assert [job.id for job in jobs] == [job.id for job in policy.jobs(planned)]
    plain = {job.id for job in jobs} & {job.id for job in planned}
    assert len(plain) == (len(jobs) if isinstance(policy, Until) else 0)  # it only leaves out whole runs
    grouped = [job for group in policy.rounds(jobs) for job in group]
    assert sorted(job.name for job in grouped) == sorted(job.name for job in jobs)
    assert list(dict.fromkeys(job.recipe for job in jobs)) == ["devlin2019", "mosbach2021"]
    records = [RunRecord("id", job.recipe, job.seed, "t", "ok", "accuracy", cell=job.cell) for job in jobs]
    policy.start(tmp_path, jobs)
    for there in ([], records[:1], records):
        policy.check_runs(jobs, there, tmp_path)  # a folder of its own runs can be gone on with


def test_alarms_that_stop_runs_do_not_go_with_it(policy, tiny_jobs, tmp_path):
    recipes = ("devlin2019", "mosbach2021")
    planned = tiny_jobs(tmp_path, recipes, policy.planned_seeds() or SEEDS, on_alarm="stop")
    with pytest.raises(InputError, match="--on_alarm stop: not allowed with --.*; give warn or none"):
        policy.jobs(planned)


def test_its_values_are_checked_when_it_is_made_and_stay(policy):
    for field in dataclasses.fields(policy):
        with pytest.raises(InputError, match=r"^--\w+ .*0.*: (must be|give) "):
            dataclasses.replace(policy, **{field.name: 0})
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(policy, field.name, 3)


def test_what_it_prints_at_the_end_is_text_though_nothing_was_run(policy, tmp_path):
    assert isinstance(policy.conclusion(tmp_path, ["devlin2019"]), str)
    assert list(tmp_path.iterdir()) == []


def test_the_plain_study_is_one_too(tiny_jobs, tmp_path):
    jobs = tiny_jobs(tmp_path)
    plain = Policy()
    assert (
        plain.rounds(jobs) == [jobs] and plain.describe(jobs) == [] and plain.after_round(tmp_path, 1, jobs, {}).go_on
    )
    assert plain.planned_seeds() is None and plain.jobs(jobs) == jobs and plain.conclusion(tmp_path, []) == ""
