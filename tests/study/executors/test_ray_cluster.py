"""Runs on a real Ray cluster of two nodes on this machine, with real kills."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import signal
import socket
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from hf_stability.errors import InputError
from hf_stability.methods import load_method, source_hash
from hf_stability.study import execution
from hf_stability.study.execution import Execution
from hf_stability.study.executors import claim, parcels, ray_cluster, ray_connection, ray_task
from hf_stability.study.executors.in_process import execute_in_process
from hf_stability.study.executors.ray_cluster import execute_on_ray
from hf_stability.study.executors.ray_connection import check_room, look_at_cluster
from hf_stability.study.folder import run_folder
from hf_stability.study.policies.early_stopping import policy_jobs
from hf_stability.study.records import RunRecord
from hf_stability.study.study import run_jobs
from hf_stability.utils.files import write_json
from tests.study.executors.test_workers import Command, arguments, linux, wait_for
from tests.study.tools import files_named, results


SMALL = {"object_store_memory": 100 * 2**20, "include_dashboard": False}
SAVING = {"max_steps": 60, "save_strategy": "steps", "save_steps": 10, "eval_strategy": "no"}


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one CPU each."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    os.environ["RAY_worker_niceness"] = "0"  # 15 is Ray's default, and a busy machine then runs nothing
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **SMALL})
    made.add_node(num_cpus=1, object_store_memory=SMALL["object_store_memory"])
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def joined(cluster):
    """This process is in the cluster, so that all tests share the same workers."""
    import ray

    with ray_cluster.connected(cluster.address):
        yield ray


class Heard(list):
    """A listener that keeps the events; `act` is called with each, and with all before it."""

    def __init__(self, act=lambda event, heard: None):
        super().__init__()
        self.act = act

    def __call__(self, event):
        self.act(event, self)
        self.append(event)

    def ends(self):
        return sorted((event.job.seed, event.kind) for event in self if event.kind != "progress")


def folders(jobs, folder):
    return [folder / "runs" / job.name for job in jobs]


@pytest.fixture
def both(tiny_jobs, tmp_path):
    """A function of seeds and arguments: the same jobs in two folders, the first of which was executed in this process.
    Seed 1 has `threads`."""

    def make(seeds=(1, 2), threads=1, **given):
        jobs = [tiny_jobs(tmp_path / name, seeds=seeds, **given) for name in ("here", "ray")]
        jobs = [[replace(first, threads=threads), *others] for first, *others in jobs]
        execute_in_process(jobs[0], folders(jobs[0], tmp_path / "here"), lambda event: None)
        return jobs[1], tmp_path / "ray", results(tmp_path / "here")

    return make


def workers_of(node=None) -> list[psutil.Process]:
    """The processes that train now, of a node or of all nodes."""
    parent = psutil.Process() if node is None else psutil.Process(node.all_processes["raylet"][0].process.pid)
    return [child for child in parent.children(recursive=True) if trains(child)]


def trains(process: psutil.Process) -> bool:
    """Whether the process is a worker of Ray with a run; Ray gives it the run's name."""
    try:
        return re.match("ray::.*/seed-", " ".join(process.cmdline())) is not None
    except psutil.Error:  # it has ended
        return False


# --- without Ray -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("local", "auto"), "--ray_address auto: needs --executor ray"),
        (("ray", None, 0), "--workers 0 with --executor ray: Ray runs each job in a process; leave it out"),
        (
            ("ray", "localhost:1"),
            "--ray_address localhost:1: no Ray cluster answers there (Connection refused); start",
        ),
    ],
)
def test_flags_that_cannot_be_are_refused_in_one_line(given, message):
    with pytest.raises(InputError) as raised:
        look_at_cluster(*given)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_without_ray_the_plan_names_the_package(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'--executor ray: Ray is not installed; pip install "hf_stability\[ray\]"'):
        look_at_cluster("ray", None)


def test_under_a_launcher_the_plan_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="--executor ray in 2 processes of a launcher: start the command once"):
        look_at_cluster("ray", None)


def test_runs_that_fit_no_node_are_refused(tiny_jobs, tmp_path):
    (job,) = tiny_jobs(tmp_path, seeds=(1,))
    nodes = [{"CPU": 4.0, "GPU": 2.0}, {"CPU": 16.0}]
    gpu = replace(job, device="cuda", threads=4)
    check_room([job, replace(job, threads=16), gpu], 3, nodes)
    for jobs, among, message in (
        ([gpu], nodes[1:], "the runs train on a GPU, but no node of the cluster has one; give --use_cpu"),
        (
            [replace(job, threads=17)],
            nodes,
            "--threads_per_run 17: no node of the Ray cluster has as many CPUs (at most 16)",
        ),
        (
            [replace(gpu, threads=5)],
            nodes,
            "--threads_per_run 5: no node with a GPU of the Ray cluster has as many CPUs",
        ),
    ):
        with pytest.raises(InputError) as raised:
            check_room(jobs, 1, among)
        assert message in str(raised.value)


def test_a_cluster_with_gpus_makes_the_runs_train_there(tiny_model, tiny_csv, tmp_path, monkeypatch):
    from hf_stability.study import api

    monkeypatch.setattr(api, "look_at_cluster", lambda *given: [{"CPU": 2.0, "GPU": 1.0}])
    given = {"model_name_or_path": tiny_model(), "train_file": tiny_csv[0], "validation_file": tiny_csv[1]}
    given |= {"executor": "ray", "ray_address": "auto", "seeds": 1, "output_dir": tmp_path}
    plan = api.plan_study(**given)
    assert [job.device for job in plan.jobs] == ["cuda"] and plan.execution.workers == 0
    assert [job.device for job in api.plan_study(**given, use_cpu=True).jobs] == ["cpu"]
    with pytest.raises(InputError, match="--workers 0 with --executor ray"):
        plan.run(workers=0)


def test_a_users_module_does_not_hide_the_library_from_the_look_at_the_cluster(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise ImportError('the wrong one')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ray_connection, "TELL_NODES", "import json; print(json.dumps([{'CPU': 1.0}]))")
    assert look_at_cluster("ray", "auto") == [{"CPU": 1.0}]


def test_a_study_with_nothing_to_run_does_not_join_the_cluster(tiny_jobs, tmp_path, monkeypatch):
    joins = []
    monkeypatch.setattr(execution, "connected", lambda address: joins.append(address) or contextlib.nullcontext())
    jobs = tiny_jobs(tmp_path, seeds=(1, 2))
    for job, folder in zip(jobs, folders(jobs, tmp_path), strict=True):
        with Execution(executor="ray", ray_address="auto").session(folders(jobs, tmp_path)):
            folder.mkdir(parents=True)
        write_json(folder / "run.json", RunRecord(job.id, job.recipe, job.seed, job.task, "ok", "accuracy").to_dict())
    assert joins == ["auto", "auto"]
    with Execution(executor="ray", ray_address="auto").session(folders(jobs, tmp_path)):
        assert joins == ["auto", "auto"]


def test_a_task_reports_its_last_step_however_soon_it_comes(tiny_jobs, tmp_path):
    board = types.SimpleNamespace(report=types.SimpleNamespace(remote=lambda *done: told.append(done)))
    told: list = []
    (job,) = tiny_jobs(tmp_path, seeds=(1,))
    report = ray_task._reporter(ray_task.Order(job, "folder", {}, "driver", "/"), board)
    for step in (1, 2, 3):
        report(step, 3, 0.5, None)
    assert told == [(job.name, 1, 3, 0.5, None), (job.name, 3, 3, 0.5, None)]


def test_a_claim_ends_the_attempt_that_lost_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(claim, "GRACE_S", 0)
    folder = tmp_path / "recipe" / "seed-001"
    claim.open_claim(folder, "driver")
    first = claim.Claim(folder, "driver")
    assert first.holds()
    second = claim.Claim(folder, "driver")
    assert second.holds() and not first.holds()
    claim.open_claim(folder, "another driver")
    assert not second.holds()
    with pytest.raises(InputError, match="another command has started this run"):
        claim.Claim(folder, "driver")
    claim.close_claim(folder)
    assert list(folder.parent.iterdir()) == []


def test_a_study_on_this_machine_ends_the_tasks_of_a_driver_that_was_killed(
    tiny_model, tiny_csv, tmp_path, monkeypatch
):
    from hf_stability.study import api

    monkeypatch.setattr(claim, "GRACE_S", 0)
    given = {"model_name_or_path": tiny_model(), "train_file": tiny_csv[0], "validation_file": tiny_csv[1]}
    plan = api.plan_study(**given, seeds=1, max_steps=2, output_dir=tmp_path / "study", workers=0, use_cpu=True)
    attempts = []
    for folder in (run_folder(plan.folder, plan.jobs[0]), plan.folder / "stages" / "rte-12345678"):
        claim.open_claim(folder, "driver")
        attempts.append(claim.Claim(folder, "driver"))
    monkeypatch.setattr(api, "run_jobs", lambda *given: [attempt.holds() for attempt in attempts])
    monkeypatch.setattr(api, "draw_study", lambda folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        plan.run(quiet=True)
    assert [attempt.holds() for attempt in attempts] == [False, False]


def test_a_parcel_is_used_in_place_or_unpacked_once(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "machine"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "machine").mkdir()
    source = tmp_path / "model"
    (source / "deep").mkdir(parents=True)
    (source / "a.json").write_text("{}")
    (source / "deep" / "empty.bin").touch()
    content = parcels.pack(source)
    seen = parcels.Parcel(str(source), parcels.stamp_of(source))
    packed = parcels.Parcel(str(source), None, parcels.key_of(content), "reference")
    assert parcels.place(seen, None) == source
    path = parcels.place(packed, {"reference": content}.get)
    assert path != source and parcels.pack(path).keys() == content.keys() and (path / "a.json").read_text() == "{}"
    before = (path / "a.json").stat().st_ino
    assert parcels.place(packed, {"reference": content}.get) == path and (path / "a.json").stat().st_ino == before
    (path / "a.json").unlink()  # as a cleaner of temporary folders does
    assert (parcels.place(packed, {"reference": content}.get) / "a.json").read_text() == "{}"
    (source / "a.json").write_text("[]")  # the same size at another time: not the same file
    os.utime(source / "a.json", ns=(1, 1))
    assert not parcels.in_place(seen)
    assert [path.name for path in (path.parents[1]).iterdir()] == [packed.key]


def test_two_runs_of_a_machine_may_unpack_the_same_parcel(tmp_path, monkeypatch):
    """The second one puts it into place just before the first."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a.json").write_text("{}")
    content = parcels.pack(tmp_path / "model")
    packed = parcels.Parcel(str(tmp_path / "model"), None, parcels.key_of(content), "reference")
    rename, others = os.rename, []

    def late(old, new):
        if not others:
            others.append("it begins")
            others.append(parcels.place(packed, {"reference": content}.get))
        rename(old, new)

    monkeypatch.setattr(os, "rename", late)
    path = parcels.place(packed, {"reference": content}.get)
    assert others[1] == path and (path / "a.json").read_text() == "{}"
    assert [each.name for each in path.parents[1].iterdir()] == [packed.key]
    monkeypatch.setattr(parcels, "_files", lambda path: [("a.json", path / "moved")])
    assert not parcels._is_whole(path, content)


def test_fetched_files_replace_what_was_there_and_the_record_comes_last(tmp_path, monkeypatch):
    folder = tmp_path / "seed-001"
    (folder / "checkpoint-1").mkdir(parents=True)
    written = []
    monkeypatch.setattr(
        os, "replace", lambda old, new, replace=os.replace: (written.append(new.name), replace(old, new))
    )
    bytes_of = {name: np.frombuffer(name.encode(), np.uint8) for name in ("run.json", "config.json", "a/steps.rec")}
    ray_cluster.receive(bytes_of, folder)
    assert written == ["config.json", "run.json"]
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*")} == {*bytes_of, "a"}
    assert (folder / "a" / "steps.rec").read_text() == "a/steps.rec"


# --- a cluster of two nodes ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [False, True], ids=["shared", "fetched"])
def test_the_same_bytes_as_in_this_process(both, joined, hidden):
    jobs, folder, expected = both(seeds=(1, 2, 3), max_steps=150)  # so long that progress is seen
    heard = Heard()
    execute_on_ray(jobs, folders(jobs, folder), heard, workers=int(hidden), hidden=hidden)
    assert heard.ends() == [(1, "finished"), (2, "finished"), (3, "finished")]
    assert results(folder) == expected
    seeds = [event.job.seed for event in heard]
    assert seeds == sorted(seeds) or not hidden  # one at a time
    assert {event.steps for event in heard if event.kind == "progress"} - {0}


@pytest.mark.slow
def test_config_json_names_the_drivers_paths_and_own_methods_are_shipped(joined, tiny_jobs, tmp_path):
    text = (Path(__file__).parents[3] / "examples" / "own_method.py").read_text()
    (tmp_path / "mine.py").write_text(text)
    name = f"{tmp_path / 'mine.py'}:{re.findall(r'^class (.*)[(]Method[)]', text, re.M)[0]}"
    (job,) = tiny_jobs(tmp_path, seeds=(1,))
    method = load_method(name)
    job = replace(job, methods=(name,), method_hashes=(source_hash(method),))
    configs = {}
    for hidden in (False, True):
        heard = Heard()
        execute_on_ray([job], folders([job], tmp_path), heard, hidden=hidden)
        assert heard.ends() == [(1, "finished")], heard[-1].error
        configs[hidden] = json.loads((folders([job], tmp_path)[0] / "config.json").read_text())
    assert configs[True] == configs[False]
    assert configs[True]["job"] == job.to_dict()
    assert configs[True]["args"]["output_dir"] == str(folders([job], tmp_path)[0])
    assert not list(tmp_path.rglob(".*.claim"))


@pytest.mark.slow
def test_a_crash_is_one_line_and_the_others_go_on(joined, tiny_jobs, tmp_path):
    jobs = tiny_jobs(tmp_path, seeds=(1, 2))
    jobs[0] = replace(jobs[0], model_config={"no_such_field": 1})
    heard = Heard()
    execute_on_ray(jobs, folders(jobs, tmp_path), heard, hidden=True)
    assert heard.ends() == [(1, "crashed"), (2, "finished")]
    (error,) = [event.error for event in heard if event.kind == "crashed"]
    assert "no_such_field" in error and "\n" not in error
    assert (folders(jobs, tmp_path)[0] / "error.txt").read_text().startswith("Traceback")


@pytest.mark.slow
def test_a_killed_worker_costs_nothing_but_time(joined, both):
    jobs, folder, expected = both(seeds=(1, 2), **SAVING)
    killed = []

    def kill_one(event, heard):
        if event.kind == "progress" and not killed and (checkpoints := files_named(folder, "trainer_state.json")):
            killed.append(checkpoints)
            workers_of()[0].kill()

    heard = Heard(kill_one)
    execute_on_ray(jobs, folders(jobs, folder), heard)
    assert killed and heard.ends() == [(1, "finished"), (2, "finished")]
    assert results(folder) == expected


@pytest.mark.slow
def test_restarts_go_on_from_the_look(joined, tiny_jobs, tmp_path, monkeypatch):
    monkeypatch.setattr(execution, "execute_on_ray", functools.partial(execute_on_ray, hidden=True))
    studies = {}
    for name, how in (("local", Execution()), ("cluster", Execution(executor="ray", ray_address="auto"))):
        jobs = policy_jobs(tiny_jobs(tmp_path / name, seeds=(1, 2, 3), max_steps=6), 0.4, 1)
        run_jobs(jobs, tmp_path / name, how, quiet=True)
        studies[name] = results(tmp_path / name)
    assert studies["cluster"] == studies["local"]
    assert not list((tmp_path / "cluster").rglob("checkpoint-*")) and not list(
        (tmp_path / "cluster").rglob(".*.claim")
    )


@pytest.mark.slow
def test_ctrl_c_cancels_the_tasks(joined, tiny_jobs, tmp_path):
    jobs = tiny_jobs(tmp_path, seeds=(1, 2, 3), max_steps=2000)

    def interrupt(event, heard):
        if event.kind == "progress":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute_on_ray(jobs, folders(jobs, tmp_path), Heard(interrupt))
    wait_for(lambda: not workers_of(), 10)
    assert not list(tmp_path.rglob(".*.claim")) and not list(tmp_path.rglob("run.json"))


@pytest.mark.slow
def test_a_lost_node_costs_nothing_but_time(joined, cluster, both):
    """Only the lost node, and the one that replaces it, have the two CPUs that seed 1 asks for."""
    jobs, folder, expected = both(seeds=(1, 2), threads=2, **{**SAVING, "max_steps": 30})
    large = {"num_cpus": 2, "object_store_memory": SMALL["object_store_memory"]}
    nodes = [cluster.add_node(**large)]

    def lose_it(event, heard):
        if event.job.seed == 1 and event.kind == "progress" and event.steps > 10 and len(nodes) == 1:
            assert workers_of(nodes[0])
            cluster.remove_node(nodes[0], allow_graceful=False)
            nodes.append(cluster.add_node(**large))

    heard = Heard(lose_it)
    execute_on_ray(jobs, folders(jobs, folder), heard, hidden=True)
    cluster.remove_node(nodes[-1])
    assert len(nodes) == 2 and heard.ends() == [(1, "finished"), (2, "finished")]
    assert results(folder) == expected


# --- a study in processes of its own ---------------------------------------------------------------------------------


@pytest.fixture
def command(cluster, tiny_model, tiny_csv, tmp_path):
    def make(folder, *more):
        saves = ("--save_strategy", "steps", "--save_steps", "10", "--logging_steps", "10", "--eval_strategy", "no")
        given = ("--max_steps", "60", "--seeds", "2", *saves, *more)
        return arguments(tmp_path / folder, tiny_model(), tiny_csv, *given)

    return make


def patiently(study: Command, what) -> None:
    """Wait for what a study does: Ray's own processes and their imports take a while."""
    wait_for(lambda: what() or study.process.poll() is not None, 300)
    assert study.process.poll() is None, study.log.read_text()


@linux
@pytest.mark.slow
def test_a_killed_driver_goes_on_and_ctrl_c_ends_it(cluster, command, tmp_path):
    from hf_stability.cli import main

    on_ray = ("--executor", "ray", "--ray_address", cluster.address)
    found = functools.partial(files_named, tmp_path / "study")
    with Command(command("study", *on_ray), tmp_path / "log") as study:
        patiently(study, lambda: found("trainer_state.json"))
        os.kill(study.process.pid, signal.SIGKILL)
        study.process.wait()
    assert not found("run.json")
    with Command(command("study", *on_ray), tmp_path / "log") as study:  # its grace is over when a checkpoint is new
        before = {path.stat().st_mtime_ns for path in found("trainer_state.json")}
        patiently(study, lambda: {path.stat().st_mtime_ns for path in found("trainer_state.json")} - before)
        os.killpg(study.process.pid, signal.SIGINT)
        assert study.process.wait(timeout=60) == 130
        study.wait_for_all_processes()
    text = (tmp_path / "log").read_text()
    assert "hf-stability: interrupted." in text and "Traceback" not in text
    assert not found(".*.claim")
    with Command(command("study", *on_ray), tmp_path / "log") as study:
        assert study.process.wait(timeout=300) == 0, study.log.read_text()
    assert main(command("whole", "--workers", "0")) == 0
    assert results(tmp_path / "study") == results(tmp_path / "whole")


@linux
@pytest.mark.slow
def test_ray_of_its_own_ends_with_the_study(command, tmp_path):
    with Command(command("study", "--executor", "ray"), tmp_path / "log") as study:
        patiently(study, lambda: files_named(tmp_path / "study", "trainer_state.json"))
        study.process.send_signal(signal.SIGTERM)
        assert study.process.wait(timeout=60) == 130, study.log.read_text()
        study.wait_for_all_processes()
    assert "Traceback" not in study.log.read_text()


@pytest.mark.slow
def test_an_address_that_is_no_cluster_does_not_hang(command, capsys, monkeypatch):
    from hf_stability.cli import main

    monkeypatch.setattr(ray_connection, "ANSWER_S", 6)
    with socket.create_server(("localhost", 0)) as silent:
        address = f"localhost:{silent.getsockname()[1]}"
        assert main(command("study", "--executor", "ray", "--ray_address", address)) == 2
    error = capsys.readouterr().err
    assert (
        f"--ray_address {address}: no Ray cluster answers there (no answer in 6 s)" in error
        and "Traceback" not in error
    )
