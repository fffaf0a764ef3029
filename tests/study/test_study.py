"""`run_jobs`: what is missing is run, what is there is kept; with either executor, the same bytes."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForSequenceClassification

from hf_stability.callback import StabilityCallback
from hf_stability.cli.run import tell
from hf_stability.diagnostics.early_warning import Alarm
from hf_stability.diagnostics.step_record import read_steps
from hf_stability.errors import InputError
from hf_stability.study import run as run_module
from hf_stability.study import study as study_module
from hf_stability.study.api import StudyResult
from hf_stability.study.execution import Execution
from hf_stability.study.executors.event import Event
from hf_stability.study.executors.in_process import execute_in_process
from hf_stability.study.folder import check_folder, read_runs
from hf_stability.study.records import read_run
from hf_stability.study.report.pictures import draw_study
from hf_stability.study.run import run_job
from hf_stability.study.study import run_jobs
from hf_stability.utils.files import write_json
from tests.events import Events
from tests.study.tools import RUN_FILES, SUMMARIES, Killed, names_in, results


def stamps(folder: Path) -> dict[str, int]:
    """When each file was last written."""
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def finished(tiny_jobs, tmp_path_factory):
    """A study of two recipes and two seeds, run in this process: its folder, jobs and records. Not to be changed."""
    folder = tmp_path_factory.mktemp("study")
    jobs = tiny_jobs(folder, ["devlin2019", "mosbach2021"])
    return folder, jobs, run_jobs(jobs, folder, quiet=True)


@pytest.fixture
def study(finished, tmp_path):
    """The same in a folder of the test's own."""
    folder, jobs, _ = finished
    shutil.copytree(folder, tmp_path / "study")
    return tmp_path / "study", jobs


def test_every_run_leaves_its_files_and_its_record(finished):
    folder, jobs, runs = finished
    assert [(run.recipe, run.seed, run.id) for run in runs] == [(job.recipe, job.seed, job.id) for job in jobs]
    for job, run in zip(jobs, runs, strict=True):
        path = folder / "runs" / job.recipe / f"seed-00{job.seed}"
        assert names_in(path) == RUN_FILES
        assert run.status in ("ok", "failed") and run.steps == 4 and run.evaluations == 2 and run.metric == "accuracy"
        assert read_run(path) == run
        assert list(read_steps(path / "steps.rec")["step"]) == [1, 2, 3, 4]
        with np.load(path / "predictions.npz") as saved:
            correct = (saved["logits"].argmax(-1) == saved["labels"]).mean()
        assert run.last == run.accuracy == correct
        assert json.loads((path / "config.json").read_text())["job"] == job.to_dict()
    assert sorted(p.name for p in folder.iterdir() if p.is_file()) == ["progress.json", *SUMMARIES]


def test_seeds_and_recipes_make_different_runs(finished):
    folder, jobs, _ = finished
    records = {(folder / "runs" / job.name / "steps.rec").read_bytes() for job in jobs}
    assert len(records) == len(jobs) == 4


def test_running_a_finished_study_again_changes_nothing_but_writes_the_same_summary(study):
    folder, jobs = study
    before, written = results(folder), stamps(folder)
    said = []
    run_jobs(jobs, folder, say=said.append)
    assert results(folder) == before
    assert {name for name, stamp in stamps(folder).items() if stamp != written[name]} == set(SUMMARIES)
    assert said[0] == "4 finished runs found, kept" and "\ndevlin2019 " in said[1] and len(said) == 2


def test_only_what_is_missing_is_run_and_gives_the_same_bytes(study):
    folder, jobs = study
    before, written = results(folder), stamps(folder)
    missing = folder / "runs" / jobs[1].name
    (missing / "run.json").unlink()  # as after a kill in the last moment
    (missing / "steps.rec").write_bytes(b"half a rec")
    said = []
    runs = run_jobs(jobs, folder, say=said.append)
    assert results(folder) == before
    changed = {name for name, stamp in stamps(folder).items() if stamp != written.get(name)}
    changed -= {*SUMMARIES, "progress.json"}
    assert {name.split("/seed-")[0] for name in changed} == {"runs/devlin2019"}
    assert all("seed-002" in name for name in changed)
    assert said[0] == "3 finished runs found, kept" and said[1] == f"devlin2019/seed-002: {runs[1].sentence}"


@pytest.mark.parametrize("seeds", [(1, 2), (3,)], ids=["the same seeds", "another seed"])
def test_a_changed_setting_is_refused_with_the_difference_and_nothing_is_written(study, tiny_jobs, tmp_path, seeds):
    folder, _ = study
    changed = tiny_jobs(tmp_path, seeds=seeds, learning_rate=3e-5)
    written = stamps(folder)
    with pytest.raises(InputError, match="devlin2019/seed-00. was run with other settings") as error:
        run_jobs(changed, folder, quiet=True)
    assert str(error.value).splitlines()[1:] == ["  args.learning_rate: 2e-05 -> 3e-05"]
    assert stamps(folder) == written


def test_runs_of_another_model_do_not_come_into_the_same_table(study, tiny_jobs, make_tiny_model, tmp_path):
    folder, jobs = study
    shutil.rmtree(folder / "runs" / "mosbach2021")
    others = tiny_jobs(tmp_path, ["mosbach2021"], model=make_tiny_model("bert", seed=1))
    with pytest.raises(InputError, match="(?s)devlin2019/seed-001 was run with other settings.*model_fingerprint: "):
        run_jobs(others, folder, quiet=True)
    check_folder(jobs, folder)  # another recipe on the same model is welcome


def test_what_changes_no_result_is_not_refused(study, tiny_jobs, tmp_path):
    folder, _ = study
    check_folder(tiny_jobs(tmp_path / "elsewhere", keep_model="last", logging_steps=1, save_strategy="epoch"), folder)


def test_seeds_and_recipes_can_be_added(study, tiny_jobs):
    folder, jobs = study
    before = results(folder)
    added = tiny_jobs(folder, ["transformers_default", "devlin2019"], seeds=(3,))
    runs = run_jobs(added, folder, quiet=True)
    assert [run.name for run in runs] == ["transformers_default/seed-003", "devlin2019/seed-003"]
    after = results(folder)
    assert {name: after[name] for name in before if name not in SUMMARIES} == {
        name: content for name, content in before.items() if name not in SUMMARIES
    }
    recipes = json.loads((folder / "summary.json").read_text())["recipes"]
    assert {figures["recipe"]: figures["runs"] for figures in recipes} == {
        "transformers_default": 1,
        "devlin2019": 3,
        "mosbach2021": 2,
    }
    everything = [run.name for run in read_runs(folder)]
    assert len(everything) == 6 and everything == sorted(everything)


def test_worker_processes_give_the_same_bytes_as_this_process(finished, tiny_jobs, tmp_path):
    folder, jobs, runs = finished
    again = tiny_jobs(tmp_path, ["devlin2019", "mosbach2021"])
    assert [job.id for job in again] == [job.id for job in jobs]
    assert run_jobs(again, tmp_path, Execution(workers=2), quiet=True) == runs
    assert results(tmp_path) == results(folder)


def test_a_crash_is_of_one_job_and_is_run_again(study):
    folder, jobs = study
    before = results(folder)
    shutil.rmtree(folder / "runs")
    lost = [
        dataclasses.replace(job, data_folder=str(folder / "gone")) if i == 1 else job for i, job in enumerate(jobs)
    ]
    said = []
    runs = run_jobs(lost, folder, say=said.append)
    assert [run.status == "crashed" for run in runs] == [False, True, False, False]
    assert runs[1].sentence.startswith("crashed: FileNotFoundError") and runs[1].last is None
    assert any(line.startswith("devlin2019/seed-002: crashed: FileNotFoundError") for line in said)
    path = folder / "runs" / jobs[1].name
    assert "Traceback" in (path / "error.txt").read_text() and not (path / "run.json").exists()
    assert "1 (+1 crashed)" in (folder / "summary.md").read_text()
    run_jobs(jobs, folder, quiet=True)
    assert results(folder) == before and not (path / "error.txt").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_appears_in_a_runs_place_is_a_crash_in_one_line(tiny_jobs, tmp_path, monkeypatch, capfd, workers):
    jobs = tiny_jobs(tmp_path, seeds=(1,))
    with pytest.raises(InputError, match="devlin2019 is a file, but a folder is needed there; move it away"):
        (tmp_path / "runs").mkdir()
        (tmp_path / "runs" / "devlin2019").write_text("mine")
        run_jobs(jobs, tmp_path, Execution(workers=workers), quiet=True)
    monkeypatch.setattr(study_module, "check_folder", lambda *arguments: None)  # it appears after the look
    (tmp_path / "runs" / "devlin2019").unlink()
    (tmp_path / "runs" / "devlin2019").mkdir()
    (tmp_path / "runs" / jobs[0].name).write_text("mine")
    (run,) = run_jobs(jobs, tmp_path, Execution(workers=workers), quiet=True)
    assert run.status == "crashed" and "seed-001 is a file, but the run needs a folder there" in run.sentence
    assert "Traceback" not in capfd.readouterr().err
    assert (tmp_path / "runs" / jobs[0].name).read_text() == "mine"


def test_a_crash_reads_the_same_from_a_worker(tiny_jobs, tmp_path):
    jobs = [dataclasses.replace(job, data_folder=str(tmp_path / "gone")) for job in tiny_jobs(tmp_path, seeds=(1,))]
    here, worker = (run_jobs(jobs, tmp_path / str(n), Execution(workers=n), quiet=True)[0] for n in (0, 1))
    assert here == worker and here.status == "crashed"
    assert (tmp_path / "0" / "summary.md").read_bytes() == (tmp_path / "1" / "summary.md").read_bytes()


def test_an_interruption_leaves_finished_runs_whole(study):
    folder, jobs = study
    before = results(folder)
    shutil.rmtree(folder / "runs")

    def interrupt(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs(jobs, folder, say=interrupt)
    assert [run.name for run in read_runs(folder)] == [jobs[0].name]
    run_jobs(jobs, folder, quiet=True)
    assert results(folder) == before


def test_it_is_said_where_a_finished_run_has_no_model_to_keep(study, tiny_jobs):
    folder, jobs = study
    lines = []
    again = [dataclasses.replace(job, keep_model="last") for job in jobs]
    run_jobs(again, folder, say=lines.append)
    assert any(
        line.startswith("--keep_model last: 4 of the finished runs have no model, for example devlin2019/seed-")
        for line in lines
    )


def test_the_last_model_is_kept(tiny_jobs, tmp_path):
    jobs = tiny_jobs(tmp_path, keep_model="last")
    run_jobs(jobs, tmp_path, quiet=True)
    for job in jobs:
        path = tmp_path / "runs" / job.name
        model = AutoModelForSequenceClassification.from_pretrained(path / "model")
        assert model.config.num_labels == 2
        assert (path / "model" / "tokenizer.json").is_file()  # so that it can be used as it is


def test_models_are_pruned_while_the_study_runs(tiny_jobs, tmp_path):
    jobs = tiny_jobs(
        tmp_path, ["transformers_default"], seeds=(1, 2, 3), keep_model="failed_and_best", learning_rate=1e-3
    )
    runs = run_jobs(jobs, tmp_path, quiet=True)
    best = max(runs, key=lambda run: (run.last, -run.seed))
    expected = {run.name for run in runs if run.status != "ok" or run is best}
    assert {str(p.parent.relative_to(tmp_path / "runs")) for p in tmp_path.glob("runs/*/*/model")} == expected


def test_a_run_whose_settings_are_lost_is_named(study):
    folder, jobs = study
    (folder / "runs" / jobs[0].name / "config.json").write_text("{}")
    with pytest.raises(InputError, match="seed-001/config.json: these are not a run's settings"):
        run_jobs(jobs, folder, quiet=True)


def test_a_damaged_record_is_run_again(study):
    folder, jobs = study
    before = results(folder)
    (folder / "runs" / jobs[2].name / "run.json").write_text('{"schema": "hf_stab')
    run_jobs(jobs, folder, quiet=True)
    assert results(folder) == before


def test_a_run_of_another_version_is_refused(study):
    folder, jobs = study
    path = folder / "runs" / jobs[0].name / "run.json"
    write_json(path, {**json.loads(path.read_text()), "schema": "hf_stability.run/0"})
    with pytest.raises(InputError, match="schema 'hf_stability.run/0'"):
        run_jobs(jobs, folder, quiet=True)


def test_events_tell_of_every_step_and_then_of_the_run(tiny_jobs, tmp_path):
    (job,) = tiny_jobs(tmp_path, seeds=(1,))
    events: list[Event] = []
    execute_in_process([job], [tmp_path / "run"], events.append)
    assert [(e.kind, e.steps, e.total) for e in events[:-1]] == [("progress", step, 4) for step in (1, 2, 3, 4)]
    assert events[-1].kind == "finished" and events[-1].run == read_run(tmp_path / "run")


@pytest.mark.slow
def test_data_can_be_loaded_by_processes_of_their_own(tiny_jobs, tmp_path):
    jobs = tiny_jobs(tmp_path, seeds=[1], dataloader_num_workers=1)
    assert [run.status for run in run_jobs(jobs, tmp_path, Execution(workers=1), quiet=True)] != ["crashed"]


def test_a_diverged_run_reads_the_same_now_and_later(tiny_jobs, tmp_path):
    jobs = tiny_jobs(tmp_path, seeds=[1], learning_rate=1e30, max_grad_norm=0.0)
    runs = run_jobs(jobs, tmp_path, quiet=True)
    assert runs[0].status == "diverged"
    summary = (tmp_path / "summary.json").read_bytes()
    json.loads(summary, parse_constant=pytest.fail)  # NaN and Infinity are no JSON
    assert run_jobs(jobs, tmp_path, quiet=True) == runs
    assert (tmp_path / "summary.json").read_bytes() == summary


# ---- runs that their alarm stops --------------------------------------------------------------------------------------


class AlarmAtStepTwo(StabilityCallback):
    """Raises its alarm after the second update step, whatever the run looks like."""

    def on_step_end(self, args, state, control, **kwargs):
        super().on_step_end(args, state, control, **kwargs)
        if state.global_step == 2:
            self.monitor.alarm = Alarm(2, state.max_steps, 0.9, "layer_00", {}, "looks like one that fails")
            self.monitor.stopped = self.monitor.on_alarm == "stop" and not self.audited
            control.should_training_stop |= self.stopped


@pytest.fixture(scope="module")
def censored(tiny_jobs, tmp_path_factory):
    """A study with `--on_alarm stop`, whose second seed is audited: its folder, jobs, records and lines. Not to be changed."""
    folder, said = tmp_path_factory.mktemp("censored"), []
    jobs = tiny_jobs(folder, on_alarm="stop")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "StabilityCallback", AlarmAtStepTwo)
        patch.setattr(run_module, "audits", lambda seed, share: seed == 2)
        runs = run_jobs(jobs, folder, say=said.append)
    return folder, jobs, runs, said


def test_a_stopped_run_is_censored_and_an_audited_one_is_finished(censored):
    folder, _, runs, said = censored
    stopped, audited = runs
    assert stopped.status == "stopped" and audited.status in ("ok", "failed")
    fields = ("steps", "planned_steps", "alarm_step", "audited")
    assert [[getattr(run, name) for name in fields] for run in runs] == [[2, 4, 2, False], [4, 4, 2, True]]
    scores = ("last", "best", "accuracy", "train_loss")  # at the end of training
    assert [[getattr(run, name) is None for name in scores] for run in runs] == [[True] * 4, [False] * 4]
    for run in runs:
        path = folder / "runs" / run.name
        assert read_run(path) == run and names_in(path) == RUN_FILES
        assert list(read_steps(path / "steps.rec")["step"]) == list(range(1, run.steps + 1))
        with np.load(path / "predictions.npz") as saved:  # of the stop, where it was stopped
            correct = (saved["logits"].argmax(-1) == saved["labels"]).mean()
        assert run.metrics["eval_accuracy"] == correct
        evaluations = json.loads((path / "metrics.json").read_text())["evaluations"]
        assert evaluations[-1]["step"] == run.steps and len(evaluations) == run.evaluations
    assert said[0].startswith("devlin2019/seed-001: stopped ") and "step 2 of 4" in said[0]
    assert "step 2 of 4" in said[1] and "stopped" not in said[1]


@pytest.mark.parametrize("saves", [{"save_strategy": "steps", "save_steps": 1}, {"save_strategy": "epoch"}])
def test_a_stopped_run_that_was_killed_before_it_was_written_is_stopped_again(tiny_jobs, tmp_path, monkeypatch, saves):
    (job,) = tiny_jobs(tmp_path, seeds=(1,), on_alarm="stop", audit_alarms=0.0, **saves)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    monkeypatch.setattr(run_module, "StabilityCallback", AlarmAtStepTwo)
    run_job(job, whole)

    def killed(*_):
        raise Killed

    with pytest.raises(Killed), monkeypatch.context() as patch:
        patch.setattr(run_module, "write_results", killed)
        run_job(job, cut)
    assert not (cut / "checkpoint-2" / "complete.json").exists()  # of the stop itself: no run continues from it
    assert run_job(job, cut).status == "stopped" and results(cut) == results(whole)


def test_stopped_runs_are_in_the_tables_and_stay_there(censored, tmp_path):
    shutil.copytree(censored[0], tmp_path / "study")
    folder, jobs, runs = tmp_path / "study", *censored[1:3]
    (figures,) = json.loads((folder / "summary.json").read_text())["recipes"]
    assert [figures[key] for key in ("runs", "stopped", "alarmed", "audited", "saved_steps")] == [2, 1, 2, 1, 2]
    with open(folder / "summary.csv", newline="") as file:
        rows = [[row[k] for k in ("last", "alarm_step", "planned_steps", "audited")] for row in csv.DictReader(file)]
    assert rows == [["", "2", "4", "False"], [str(runs[1].last), "2", "4", "True"]]
    before = results(folder)
    assert run_jobs(jobs, folder, quiet=True) == runs and results(folder) == before


def test_a_study_with_stopped_runs_has_figures_and_events(censored, tmp_path, capsys):
    shutil.copytree(censored[0], tmp_path / "study")
    pictures, problem = draw_study(tmp_path / "study")
    summary = json.loads((tmp_path / "study" / "summary.json").read_text())
    assert tell(StudyResult(tmp_path / "study", censored[2], summary, pictures, problem)) == 0
    out, err = capsys.readouterr()
    assert "1 run(s) were stopped by an alarm: censored, not failed. 2 update steps were saved." in out
    assert "no figures" not in err and len(list((tmp_path / "study" / "figures").iterdir())) == 6
    events = Events(tmp_path / "study" / "runs")
    assert "| stopped |" in events.text(".", "summary")[0]
    for run in censored[2]:
        assert events.text(run.name, "verdict") == [run.sentence]
        assert events.hparams(run.name)[0]["verdict"] == run.status


def test_a_warning_changes_no_result_and_is_welcome_where_runs_had_none(finished, tiny_jobs, tmp_path, monkeypatch):
    folder, _, runs = finished
    monkeypatch.setattr(run_module, "StabilityCallback", AlarmAtStepTwo)
    warned = tiny_jobs(tmp_path, seeds=(1,), on_alarm="warn", audit_alarms=1.0)
    check_folder(warned, folder)
    (run,) = run_jobs(warned, tmp_path, quiet=True)
    assert run.alarm_step == 2 and not run.audited and "step 2 of 4" in run.sentence
    assert dataclasses.replace(run, alarm_step=None, sentence=runs[0].sentence) == runs[0]


def test_a_study_that_stops_runs_is_another_one(finished, tiny_jobs, tmp_path):
    with pytest.raises(InputError, match=r"(?s)run with other settings.*args.on_alarm: \(not set\) -> stop"):
        check_folder(tiny_jobs(tmp_path, on_alarm="stop"), finished[0])


def test_a_run_that_diverges_is_no_censored_one_though_its_alarm_ends_it(tiny_jobs, tmp_path):
    """The real early warning: a loss that is not finite raises it."""
    given = {"learning_rate": 1e30, "max_grad_norm": 0.0, "max_steps": 8, "warmup_steps": 0, "on_alarm": "stop"}
    stopped = run_jobs(tiny_jobs(tmp_path / "0", seeds=[1], audit_alarms=0, **given), tmp_path / "0", quiet=True)[0]
    audited = run_jobs(tiny_jobs(tmp_path / "1", seeds=[1], audit_alarms=1, **given), tmp_path / "1", quiet=True)[0]
    assert stopped.status == audited.status == "diverged"
    assert stopped.steps == stopped.alarm_step == audited.alarm_step < audited.steps == stopped.planned_steps == 8
    assert stopped.last is None and not stopped.audited and not audited.audited


def test_more_diagnostics_change_no_result(finished, tiny_jobs, tmp_path):
    folder, jobs, runs = finished
    more = tiny_jobs(tmp_path, ["devlin2019", "mosbach2021"], diagnostics=["all"])
    assert [job.id for job in more] == [job.id for job in jobs]
    assert run_jobs(more[:1], tmp_path, quiet=True) == runs[:1]
    record = read_steps(tmp_path / "runs" / more[0].name / "steps.rec")
    alone = read_steps(folder / "runs" / jobs[0].name / "steps.rec")
    np.testing.assert_array_equal(record["layer_norms"], alone["layer_norms"])
    assert (tmp_path / "runs" / more[0].name / "steps.rec").stat().st_size > (
        folder / "runs" / jobs[0].name / "steps.rec"
    ).stat().st_size
