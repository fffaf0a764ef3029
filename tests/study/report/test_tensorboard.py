"""A study in TensorBoard: runs by name, one event file each, whole curves after a resume, and the study's figures."""

from __future__ import annotations

import time

import numpy as np
import pytest
from PIL import Image

from hf_stability.study.folder import run_folder
from hf_stability.study.report.tensorboard import write_study_events
from hf_stability.study.run import run_job
from hf_stability.study.study import run_jobs
from tests.events import Events, event_files


DIAGNOSTICS = {"loss", "learning_rate", "logit_std", "clipped", "final/accuracy", "final/failed"}
SCORES = {"eval/accuracy", "eval/f1", "eval/loss", "eval/matthews_correlation"}


@pytest.fixture(scope="module")
def finished(tiny_jobs, tmp_path_factory):
    """A study of two seeds: its folder, jobs and records. Not to be changed."""
    folder = tmp_path_factory.mktemp("study")
    jobs = tiny_jobs(folder)
    return folder, jobs, run_jobs(jobs, folder, quiet=True)


def test_tensorboard_shows_each_run_by_its_name_with_one_event_file(finished):
    folder, jobs, _ = finished
    assert Events(folder / "runs").runs == ["devlin2019/seed-001", "devlin2019/seed-002"]
    files = [event_files(run_folder(folder, job)) for job in jobs]
    assert [len(found) for found in files] == [1, 1] and sorted(sum(files, [])) == event_files(folder)


def test_the_tags_of_a_run(finished):
    folder, jobs, runs = finished
    events = Events(folder / "runs")
    scalars = events.tags(jobs[0].name, "scalars")
    norms = {tag for tag in scalars if tag.startswith("grad_norm/")}
    assert scalars - norms == DIAGNOSTICS | SCORES | {"label_entropy"} | {f"log10_{tag}" for tag in norms}
    assert {"grad_norm/total", "grad_norm/embeddings", "grad_norm/layer_00", "grad_norm/classifier"} < norms
    for tag in norms | {"loss", "learning_rate", "logit_std"}:
        assert [step for step, _ in events.scalar(jobs[0].name, tag)] == [1, 2, 3, 4]
    for job, run in zip(jobs, runs, strict=True):
        accuracies = events.scalar(job.name, "eval/accuracy")
        assert [step for step, _ in accuracies] == [3, 4]
        assert accuracies[-1] == (4, pytest.approx(run.last))
        assert events.scalar(job.name, "final/accuracy") == [accuracies[-1]]
        assert events.text(job.name, "verdict") == [run.sentence]


def test_the_recipe_is_there_as_a_table_of_value_and_source(finished):
    folder, jobs, _ = finished
    (table,) = Events(folder / "runs").text(jobs[0].name, "recipe")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert rows[0] == ["argument", "value", "from"]
    assert ["bias_correction", "False", "recipe devlin2019"] in rows and ["max_steps", "4", "--max_steps"] in rows
    assert len(rows) == 2 + len(jobs[0].args) + len(jobs[0].model_config)


def test_the_hyperparameters_are_in_the_run_itself(finished):
    folder, jobs, runs = finished
    events = Events(folder / "runs")
    for job, run in zip(jobs, runs, strict=True):
        values, metrics, status = events.hparams(job.name)
        assert values == {
            "recipe": "devlin2019",
            "seed": job.seed,
            "learning_rate": 2e-5,
            "max_steps": 4,
            "verdict": run.status,
        }
        assert metrics == ["final/accuracy", "final/failed"] and status == 1
        assert events.scalar(job.name, "final/failed") == [(4, float(run.status != "ok"))]


def test_the_trainers_own_events_are_in_the_same_file(finished, tiny_jobs, tmp_path):
    folder, jobs, runs = finished
    reported = tiny_jobs(tmp_path, report_to="tensorboard", logging_steps=1)
    assert run_jobs(reported, tmp_path, quiet=True) == runs
    assert (
        [len(event_files(run_folder(tmp_path, job))) for job in reported]
        == [1, 1]
        == [len(event_files(tmp_path)) / 2] * 2
    )
    events, alone = Events(tmp_path / "runs"), Events(folder / "runs")
    assert events.runs == alone.runs
    for job in jobs:
        tags = events.tags(job.name, "scalars")
        assert alone.tags(job.name, "scalars") | {"train/loss", "train/learning_rate", "train/train_loss"} < tags
        for tag in alone.tags(job.name, "scalars"):  # once, whoever wrote it
            assert events.scalar(job.name, tag) == alone.scalar(job.name, tag)
        assert events.hparams(job.name) == alone.hparams(job.name)
        assert events.text(job.name, "verdict") == alone.text(job.name, "verdict")
        assert len(events.text(job.name, "args")) == 1


class Killed(BaseException):
    """As abrupt as a kill: nothing of ours catches it."""


def kill_at(last: int):
    def report(step: int, *_: object) -> None:
        if step == last:
            raise Killed

    return report


@pytest.mark.parametrize("report_to", ["none", "tensorboard"])
def test_the_curves_of_a_resumed_run_are_whole_and_have_no_step_twice(tiny_jobs, tmp_path, report_to):
    cadence = {"save_strategy": "steps", "save_steps": 2, "logging_steps": 1}
    (job,) = tiny_jobs(tmp_path, seeds=(1,), max_steps=8, report_to=report_to, **cadence)
    with pytest.raises(Killed):
        run_job(job, tmp_path / "runs" / "cut", kill_at(6))  # after the events of step 5, which a resume at 4 repeats
    time.sleep(1)  # TensorBoard goes by the seconds in the files' names
    run_job(job, tmp_path / "runs" / "cut")
    run_job(job, tmp_path / "runs" / "whole")
    events = Events(tmp_path / "runs")
    assert events.runs == ["cut", "whole"]
    tags = events.tags("whole", "scalars")
    assert tags == events.tags("cut", "scalars") and "eval/accuracy" in tags
    times = ("runtime", "per_second", "total_flos", "train/train_loss", "train/loss", "train/grad_norm")
    for tag in sorted(tags):
        steps = [step for step, _ in events.scalar("cut", tag)]
        assert steps == [step for step, _ in events.scalar("whole", tag)]
        if not tag.endswith(times):
            assert events.scalar("cut", tag) == events.scalar("whole", tag)
    assert events.text("cut", "verdict") == events.text("whole", "verdict")
    assert events.hparams("cut") == events.hparams("whole")


def test_a_run_begun_anew_leaves_no_earlier_events(tiny_jobs, tmp_path):
    # By default a slow machine saves checkpoints, and then the run is resumed and not begun anew.
    (job,) = tiny_jobs(tmp_path, seeds=(1,), save_strategy="no")
    with pytest.raises(Killed):
        run_job(job, tmp_path / "run", kill_at(3))
    assert len(event_files(tmp_path)) == 1
    run_job(job, tmp_path / "run")
    assert len(event_files(tmp_path)) == 1


def test_a_studys_figures_and_table_are_in_a_run_of_their_own(tmp_path):
    (tmp_path / "runs" / "a" / "seed-001").mkdir(parents=True)
    run_events = tmp_path / "runs" / "a" / "seed-001" / "events.out.tfevents.1.host"
    run_events.write_bytes(b"")
    paths = []
    for name, color in (("scores", (255, 0, 0)), ("gradients", (0, 0, 255))):
        paths.append(tmp_path / f"{name}.png")
        Image.new("RGB", (30, 20), color).save(paths[-1])
    for text in ("first", "| a | b |\n|---|---|\n| 1 | 2 |"):
        write_study_events(tmp_path / "runs", paths, text)
    assert len(list((tmp_path / "runs").glob("events.*"))) == 1 and run_events.exists()
    events = Events(tmp_path / "runs")
    assert "." in events.runs
    assert events.tags(".", "images") == {"scores", "gradients"}
    assert events.text(".", "summary") == [text]
    width, height, encoded = events.multiplexer.Tensors(".", "scores")[0].tensor_proto.string_val
    assert (int(width), int(height)) == (30, 20)
    shown = tmp_path / "shown.png"
    shown.write_bytes(encoded)
    with Image.open(shown) as image:
        assert np.array(image.convert("RGB"))[0, 0].tolist() == [255, 0, 0]


def test_without_figures_and_table_only_the_earlier_ones_go(tmp_path):
    write_study_events(tmp_path, [], "a table")
    assert Events(tmp_path).runs == ["."]
    write_study_events(tmp_path, [])
    assert event_files(tmp_path) == []
