"""A run that was cut off goes on from its newest complete checkpoint, to the same bytes, or begins anew."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path

import pytest

from hf_stability.study import run as run_module
from hf_stability.study import saving
from hf_stability.study.checkpoints import newest_whole_checkpoint, prepare_folder
from hf_stability.study.run import run_job, training_arguments
from hf_stability.study.saving import MANIFEST, checkpoints_in, write_manifest
from tests.processes import run_script
from tests.study.tools import RUN_FILES, Killed, names_in, results


pytestmark = pytest.mark.usefixtures("no_heat_maps")

BY_STEPS = {"save_strategy": "steps", "save_steps": 2}
BY_DEFAULT: dict = {}
FILES = [name for name in RUN_FILES if name != "gradients.png"]


@pytest.fixture(autouse=True)
def every_tenth(monkeypatch):
    """By default even these short runs are saved at each tenth."""
    monkeypatch.setattr(saving, "WORTH", 0)


@pytest.fixture(scope="module")
def tiny(tiny_jobs, tmp_path_factory):
    """A function of training arguments: a job of 10 update steps. Epochs have 3."""
    folder = tmp_path_factory.mktemp("jobs")
    return lambda **given: tiny_jobs(folder, seeds=(1,), **{"max_steps": 10, "logging_steps": 2, **given})[0]


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """The results of this job, undisturbed and without any checkpoint."""
    folder = tmp_path_factory.mktemp("whole")
    run_job(tiny(save_strategy="no"), folder)
    return results(folder)


def cut_off(job, folder, step: int) -> None:
    """Train until the end of this update step."""

    def report(done, *_):
        if done == step:
            raise Killed

    with pytest.raises(Killed):
        run_job(job, folder, report)


def steps_of(job, folder) -> list[int]:
    """Run a job; return the update steps that it made."""
    seen: list[int] = []
    run_job(job, folder, lambda step, *_: seen.append(step))
    return seen


def saved(folder: Path) -> list[int]:
    return [int(path.name.partition("-")[2]) for path in checkpoints_in(folder)]


@pytest.mark.parametrize(
    ("saves", "last", "kept"),
    [
        pytest.param(BY_STEPS, 6, [4], id="by steps"),
        pytest.param(BY_DEFAULT, 6, [5], id="by default, in mid-epoch"),
        pytest.param(BY_DEFAULT, 7, [6], id="by default, after an epoch"),
        pytest.param({**BY_STEPS, "save_total_limit": 2}, 7, [4, 6], id="two kept, after an epoch"),
    ],
)
def test_a_run_is_resumed_bit_by_bit(tiny, whole, tmp_path, saves, last, kept):
    job, folder = tiny(**saves), tmp_path / "run"
    cut_off(job, folder, last)
    assert saved(folder) == kept
    (folder / "error.txt").write_text("of an earlier crash")
    (folder / "checkpoint-8").mkdir()  # one whose writing was cut off
    assert steps_of(job, folder) == list(range(kept[-1] + 1, 11))
    assert results(folder) == whole
    assert names_in(folder) == FILES  # no checkpoint, no error.txt


def test_a_resumed_run_saves_as_the_new_call_says(tiny, whole, tmp_path):
    cut_off(tiny(), tmp_path / "run", 6)
    assert saved(tmp_path / "run") == [5]
    cut_off(tiny(**BY_STEPS), tmp_path / "run", 9)  # the checkpoint has the `save_steps` of the first call
    assert saved(tmp_path / "run") == [8]
    assert steps_of(tiny(**BY_STEPS), tmp_path / "run") == [9, 10]
    assert results(tmp_path / "run") == whole


def test_a_run_that_was_killed_after_its_last_step_is_resumed(tiny, whole, tmp_path, monkeypatch):
    def killed(*_):
        raise Killed

    with pytest.raises(Killed), monkeypatch.context() as patch:
        patch.setattr(run_module, "write_results", killed)
        run_job(tiny(), tmp_path / "run")
    assert saved(tmp_path / "run") == [9]  # none at the end: the results come next
    assert steps_of(tiny(), tmp_path / "run") == [10]
    assert results(tmp_path / "run") == whole


def test_the_older_checkpoint_is_there_until_the_newer_one_is_complete(tiny, whole, tmp_path, monkeypatch):
    folder, write = tmp_path / "run", saving.write_manifest

    def killed(checkpoint, processes):
        if checkpoint.name == "checkpoint-6":
            raise Killed
        return write(checkpoint, processes)

    with pytest.raises(Killed), monkeypatch.context() as patch:
        patch.setattr(saving, "write_manifest", killed)
        run_job(tiny(), folder)
    assert saved(folder) == [5, 6] and newest_whole_checkpoint(folder) == str(folder / "checkpoint-5")
    assert steps_of(tiny(), folder) == [6, 7, 8, 9, 10]
    assert results(folder) == whole


@pytest.mark.parametrize("content", ["", "[]", "null", '{"id": 3}'])
def test_a_run_whose_settings_are_garbage_is_begun_anew(tiny, tmp_path, content):
    job = tiny()
    (tmp_path / "config.json").write_text(content)
    (tmp_path / "checkpoint-5").mkdir()
    assert prepare_folder(job, tmp_path, training_arguments(job, tmp_path)) is None
    assert saved(tmp_path) == [] and json.loads((tmp_path / "config.json").read_text())["id"] == job.id


def test_a_checkpoint_that_cannot_be_loaded_is_passed_over(tiny, whole, tmp_path, caplog):
    """For example of another version of torch. Its files are as they were written."""
    folder = tmp_path / "run"
    cut_off(tiny(save_total_limit=2), folder, 6)
    (folder / "checkpoint-5" / "optimizer.pt").write_bytes(b"of another version")
    write_manifest(folder / "checkpoint-5")
    assert steps_of(tiny(), folder) == list(range(5, 11))
    assert "checkpoint-5: cannot be loaded" in caplog.text
    assert results(folder) == whole


def test_a_run_whose_record_has_lost_steps_is_begun_anew(tiny, whole, tmp_path, caplog):
    cut_off(tiny(), tmp_path / "run", 6)
    record = tmp_path / "run" / "steps.rec"
    record.write_bytes(record.read_bytes()[:-70])  # a power cut: the last rows are gone, the checkpoint is not
    assert steps_of(tiny(), tmp_path / "run") == list(range(1, 11))
    assert "the record lacks update steps; the run starts again from the beginning" in caplog.text
    assert results(tmp_path / "run") == whole


def test_a_run_with_other_settings_is_not_resumed(tiny, tmp_path):
    cut_off(tiny(max_steps=4), tmp_path / "run", 3)
    assert steps_of(tiny(max_steps=4, learning_rate=1e-3), tmp_path / "run") == [1, 2, 3, 4]


def test_a_run_of_restarts_goes_on_before_and_after_its_look(tiny, tmp_path):
    """The look is at the end of an epoch, where a save by default would wait for an evaluation."""
    policy = {"seeds": [1], "look_at": 0.6, "finish": 1}
    job = dataclasses.replace(tiny(), policy=policy)
    until_look, folder = dataclasses.replace(job, until_look=True), tmp_path / "run"
    cut_off(until_look, folder, 6)
    assert steps_of(until_look, folder) == [6] and saved(folder) == [6]
    assert newest_whole_checkpoint(folder, before=0.6) is None  # of the look itself
    cut_off(job, folder, 9)
    assert steps_of(job, folder) == [9, 10]
    run_job(dataclasses.replace(tiny(save_strategy="no"), policy=policy), tmp_path / "whole")
    assert results(folder) == results(tmp_path / "whole")


# ---- kills, in the middle of a save ------------------------------------------------------------------------------------------

KILLED = """
import os, pickle, signal, sys
import torch
from hf_stability.study import saving
from hf_stability.study.run import run_job, training_arguments

saving.WORTH = 0
job, folder, place = pickle.load(open(sys.argv[1], "rb"))
save, rank = torch.save, os.environ.get("RANK", "0")

def torn(content, path, *rest, **more):
    save(content, path, *rest, **more)
    if os.path.normpath(path).endswith(os.path.normpath(place)):
        os.truncate(path, os.path.getsize(path) // 2)
        os.kill(os.getpid(), signal.SIGKILL)

torch.save = torn
seen = []
run_job(job, folder, lambda step, *_: seen.append(step))
if rank == "0":
    print("steps", *seen)
"""


def run_killed(tmp_path: Path, job, folder: Path, place: str = "nowhere", processes: int = 1):
    """Run a job in processes of its own, until one writes this file of a checkpoint: it is killed when half of it is written."""
    (tmp_path / "script.py").write_text(KILLED)
    (tmp_path / "job.pkl").write_bytes(pickle.dumps((job, folder, place)))
    return run_script(tmp_path / "script.py", [tmp_path / "job.pkl"], processes)


@pytest.mark.slow
def test_a_run_that_is_killed_while_it_saves_goes_on_from_the_checkpoint_before(tiny, whole, tmp_path):
    folder = tmp_path / "run"
    assert run_killed(tmp_path, tiny(), folder, "checkpoint-6/optimizer.pt").returncode == 9
    assert saved(folder) == [5, 6] and newest_whole_checkpoint(folder) == str(folder / "checkpoint-5")
    again = run_killed(tmp_path, tiny(), folder)
    assert "steps 6 7 8 9 10\n" in again.stdout, again.stderr
    assert {name: content for name, content in results(folder).items() if name != "gradients.png"} == whole


@pytest.mark.slow
def test_two_processes_that_train_a_run_together_save_and_resume_it_together(tiny, tmp_path):
    job = dataclasses.replace(tiny(), processes=2)
    folder, undisturbed = tmp_path / "run", tmp_path / "undisturbed"
    killed = run_killed(tmp_path, job, folder, "checkpoint-6/rng_state_1.pth", processes=2)
    assert killed.returncode
    assert newest_whole_checkpoint(folder) == str(folder / "checkpoint-5")
    manifest = json.loads((folder / "checkpoint-5" / MANIFEST).read_text())
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= set(manifest["files"])
    again = run_killed(tmp_path, job, folder, processes=2)
    assert "steps 6 7 8 9 10\n" in again.stdout, again.stderr
    assert run_killed(tmp_path, job, undisturbed, processes=2).returncode == 0
    assert results(folder) == results(undisturbed)
