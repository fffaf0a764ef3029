"""A job's id: it changes with all that changes a result, and with nothing else."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_stability.errors import InputError
from hf_stability.recipe.arguments import argument_types
from hf_stability.study.folder import encoder_folder, run_folder
from hf_stability.study.job import ALARM_ARGS, IGNORED_ARGS, IGNORED_FIELDS, RESTART_ARGS, Job, check_jobs, differences


JOB = Job(
    recipe="mosbach2021",
    seed=3,
    task="rte",
    args={"learning_rate": 2e-5, "num_train_epochs": 20.0, "bias_correction": True, "optim": "adamw_torch_fused"},
    model_config={"hidden_dropout_prob": 0.1},
    model_fingerprint="a" * 64,
    data_fingerprint="b" * 64,
    model="bert-large-uncased",
    sources={"learning_rate": "recipe mosbach2021"},
)

# Another value for every field of a job.
OTHER = {
    "recipe": "devlin2019",
    "seed": 4,
    "task": "mrpc",
    "args": {**JOB.args, "learning_rate": 3e-5},
    "model_config": {"hidden_dropout_prob": 0.0},
    "model_fingerprint": "c" * 64,
    "data_fingerprint": "d" * 64,
    "threads": 2,
    "processes": 2,
    "device": "cuda",
    "mixed_precision": "bf16",
    "model": "/elsewhere/bert-large-uncased",
    "tokenizer": "bert-large-cased",
    "data_folder": "/elsewhere/data",
    "keep_model": "last",
    "sources": {"learning_rate": "--learning_rate"},
    "stages": ("e" * 16,),
    "cell": {"init": 1, "order": 2, "dropout": 1},
    "policy": {"seeds": [1, 2], "look_at": 0.25, "finish": 1},
    "until_look": True,
    "dtype": "bfloat16",
    "methods": ("my_module:Mine",),
    "method_hashes": ("f" * 64,),
    "schema": "hf_stability.job/2",
}

scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=8)


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Job)])
def test_a_field_changes_the_id_unless_it_is_listed_as_ignored(field):
    changed = dataclasses.replace(JOB, **{field: OTHER[field]})
    assert (changed.id == JOB.id) == (field in IGNORED_FIELDS)


@pytest.mark.parametrize("name", IGNORED_ARGS)
def test_an_ignored_argument_does_not_change_the_id(name):
    assert name in argument_types(), "not an argument of the Trainer: a misspelt name here ignores nothing"
    for value in (None, 7, "text"):
        assert dataclasses.replace(JOB, args={**JOB.args, name: value}).id == JOB.id


@pytest.mark.parametrize(
    "name",
    ["eval_strategy", "eval_steps", "per_device_eval_batch_size", "dataloader_num_workers", "bf16", "data_seed"],
)
def test_what_changes_results_in_a_less_obvious_way_is_in_the_id(name):
    assert dataclasses.replace(JOB, args={**JOB.args, name: 1}).id != JOB.id


@given(
    name=st.sampled_from(sorted({*argument_types()} - {*IGNORED_ARGS, *ALARM_ARGS, *RESTART_ARGS})),
    first=scalars,
    second=scalars,
)
def test_two_values_of_an_argument_have_one_id_only_if_they_are_the_same(name, first, second):
    ids = [dataclasses.replace(JOB, args={**JOB.args, name: value}).id for value in (first, second)]
    assert (ids[0] == ids[1]) == (json.dumps(first) == json.dumps(second))


def with_args(**args) -> Job:
    return dataclasses.replace(JOB, args={**JOB.args, **args})


@pytest.mark.parametrize("on_alarm", [{}, {"on_alarm": "none"}, {"on_alarm": "warn"}])
@pytest.mark.parametrize("audit", [{}, {"audit_alarms": 0.2}, {"audit_alarms": 0.5}])
def test_an_alarm_that_stops_nothing_does_not_change_the_id(on_alarm, audit):
    job = with_args(**on_alarm, **audit)
    assert job.id == JOB.id and differences(JOB.identity(), job.identity()) == []


def test_an_alarm_that_stops_runs_changes_the_id_and_so_does_the_share_that_is_audited():
    stops = [with_args(on_alarm="stop", **audit) for audit in ({}, {"audit_alarms": 0.1}, {"audit_alarms": 0.5})]
    assert len({JOB.id, *(job.id for job in stops)}) == 4
    assert set(ALARM_ARGS) < set(argument_types())
    assert differences(JOB.identity(), stops[1].identity()) == [
        "args.audit_alarms: (not set) -> 0.1",
        "args.on_alarm: (not set) -> stop",
    ]


@given(st.permutations(list(JOB.args)), st.permutations(list(JOB.to_dict())))
def test_order_does_not_matter(args, names):
    content = JOB.to_dict()
    content["args"] = {name: JOB.args[name] for name in args}
    assert Job.from_dict({name: content[name] for name in names if name in content}).id == JOB.id


def test_an_id_is_the_same_in_every_process_and_version():
    assert JOB.id == "76de7f377b31f1fc"  # folders made earlier keep their meaning


@given(
    seed=st.integers(0, 2**32 - 1),
    args=st.dictionaries(st.text(max_size=8), scalars | st.lists(scalars, max_size=3), max_size=4),
    threads=st.integers(1, 64),
    stages=st.lists(st.text("0123456789abcdef", min_size=16, max_size=16), max_size=2),
)
def test_a_job_goes_through_json_and_back(seed, args, threads, stages):
    job = dataclasses.replace(JOB, seed=seed, args=args, threads=threads, stages=tuple(stages))
    back = Job.from_dict(json.loads(json.dumps(job.to_dict())))
    assert back == job and back.id == job.id


def test_a_job_without_stages_is_written_as_before_there_were_any():
    assert "stages" not in JOB.to_dict() and "stages" not in JOB.identity()
    chain = dataclasses.replace(JOB, stages=("a" * 16, "b" * 16))
    turned = dataclasses.replace(JOB, stages=("b" * 16, "a" * 16))
    assert len({JOB.id, chain.id, turned.id}) == 3
    assert differences(JOB.identity(), chain.identity()) == [f"stages: (not set) -> {['a' * 16, 'b' * 16]}"]


def test_a_job_of_another_version_is_refused():
    with pytest.raises(
        InputError, match="job schema 'hf_stability.job/2': this version of hf_stability reads only hf_stability.job/1"
    ):
        Job.from_dict({**JOB.to_dict(), "schema": "hf_stability.job/2"})


def test_differences_name_what_changed_and_how():
    changed = dataclasses.replace(
        JOB,
        args={"learning_rate": 3e-5, "num_train_epochs": 20.0, "optim": "adamw_torch_fused", "bf16": True},
        threads=2,
        model="elsewhere",
    )
    assert differences(JOB.identity(), changed.identity()) == [
        "args.bf16: (not set) -> True",
        "args.bias_correction: True -> (not set)",
        "args.learning_rate: 2e-05 -> 3e-05",
        "threads: 1 -> 2",
    ]


@given(st.dictionaries(st.text(max_size=5), scalars), st.dictionaries(st.text(max_size=5), scalars))
def test_there_are_differences_exactly_where_identities_differ(first, second):
    jobs = [dataclasses.replace(JOB, args=args).identity() for args in (first, second)]
    assert bool(differences(*jobs)) == (jobs[0] != jobs[1])
    assert differences(jobs[0], jobs[0]) == []


def test_a_recipe_and_seed_can_be_planned_once():
    check_jobs([JOB, dataclasses.replace(JOB, seed=4), dataclasses.replace(JOB, recipe="devlin2019")])
    with pytest.raises(InputError, match="mosbach2021/seed-003 is planned twice"):
        check_jobs([JOB, dataclasses.replace(JOB, threads=2)])


def test_recipes_of_a_study_have_one_precision():
    stage = dataclasses.replace(JOB, recipe="mnli", keep_model="encoder")
    half = dataclasses.replace(JOB, recipe="devlin2019", mixed_precision="bf16")
    check_jobs([stage, half, dataclasses.replace(half, seed=4)])
    with pytest.raises(
        InputError, match="--recipe: mosbach2021 has no and devlin2019 has bf16 .* --bf16 true or false"
    ):
        check_jobs([JOB, half])


def test_folders_sort_as_seeds_do(tmp_path):
    assert run_folder(tmp_path, JOB) == tmp_path / "runs" / "mosbach2021" / "seed-003"
    assert JOB.name == "mosbach2021/seed-003"


def test_a_stage_has_a_folder_of_its_own_by_its_id(tmp_path):
    stage = dataclasses.replace(JOB, recipe="mnli", keep_model="encoder")
    assert stage.is_stage and not JOB.is_stage
    assert run_folder(tmp_path, stage) == tmp_path / "stages" / f"mnli-{stage.id}"
    assert encoder_folder(tmp_path, stage) == tmp_path / "stages" / f"mnli-{stage.id}" / "encoder"
    check_jobs([stage, dataclasses.replace(stage, args={})])  # of one task and seed, and yet two


def test_two_way_seeds_are_called_otherwise_than_plain_ones_and_share_their_settings():
    first, second = ({"init": 1, "order": 2, "dropout": k} for k in (1, 2))
    streams = {"init_seed": 1, "data_seed": 2}
    jobs = [
        dataclasses.replace(JOB, seed=k, cell=cell, args={**JOB.args, **streams, "dropout_seed": k})
        for k, cell in enumerate((first, second), 1)
    ]
    assert [job.name for job in jobs] == [f"mosbach2021/init-01_order-02_dropout-{k}" for k in (1, 2)]
    assert jobs[0].settings() == jobs[1].settings() and len({job.id for job in jobs}) == 2
    assert differences(JOB.settings(), jobs[0].settings()) == ["cell: (not set) -> two-way seeds"]
    assert Job.from_dict(json.loads(json.dumps(jobs[0].to_dict()))) == jobs[0]
