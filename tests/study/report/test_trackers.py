"""A study's summary for trackers: transformers' own callbacks, with stand-ins for the libraries behind them."""

from __future__ import annotations

import importlib.machinery
import sys
import types
from dataclasses import replace

import pytest

from hf_stability.study.records import RunRecord
from hf_stability.study.report.summary import summarize
from hf_stability.study.report.trackers import TRACKERS, send_summary, summary_logs, trackers_in
from hf_stability.study.run import training_arguments
from hf_stability.study.study import run_jobs


class Library:
    """Stands for a tracker's library: its runs, each with its settings and what was logged."""

    def __init__(self):
        self.runs = []
        self.error = None

    def begin(self, name, **given):
        if self.error:
            raise self.error
        self.runs.append({"name": name, "settings": {}, "logged": [], "ended": False, **given})
        return self.runs[-1]

    def module(self, monkeypatch, name, **members):
        """Make it importable under this name."""
        made = types.ModuleType(name)
        made.__spec__ = importlib.machinery.ModuleSpec(name, None)
        vars(made).update(members)
        monkeypatch.setitem(sys.modules, name, made)
        return made


@pytest.fixture
def wandb(monkeypatch):
    library = Library()

    def init(project, name=None):
        library.begin(name, project=project)
        made.run = types.SimpleNamespace(_label=lambda code: None, summary={})
        made.config = Settings(library.runs[-1])

    made = library.module(
        monkeypatch,
        "wandb",
        run=None,
        init=init,
        log=lambda values: library.runs[-1]["logged"].append(values),
        define_metric=lambda *given, **more: None,
    )
    for name in ("wandb.sdk", "wandb.sdk.lib"):
        library.module(monkeypatch, name)
    library.module(monkeypatch, "wandb.sdk.lib.config_util", ConfigError=ValueError)
    return library


class Settings(dict):
    """A run's settings as wandb and Trackio have them."""

    def __init__(self, run):
        self.run = run

    def update(self, values, allow_val_change):
        self.run["settings"].update(values)


@pytest.fixture
def trackio(monkeypatch):
    library = Library()

    def init(project, name, **given):
        made.config = Settings(library.begin(name, project=project, resume=given["resume"]))

    library_context = types.SimpleNamespace(current_space_id=types.SimpleNamespace(get=lambda: None))
    made = library.module(
        monkeypatch,
        "trackio",
        init=init,
        context_vars=library_context,
        log=lambda values: library.runs[-1]["logged"].append(values),
        finish=lambda: library.runs[-1].update(ended=True),
    )
    return library


@pytest.fixture
def mlflow(monkeypatch):
    library = Library()
    active = []

    def start_run(run_name, nested):
        active.append(library.begin(run_name))

    def end_run():
        active.pop()["ended"] = True

    library.module(
        monkeypatch,
        "mlflow",
        __version__="3.0.0",
        utils=types.SimpleNamespace(
            validation=types.SimpleNamespace(MAX_PARAM_VAL_LENGTH=6000, MAX_PARAMS_TAGS_PER_BATCH=100)
        ),
        is_tracking_uri_set=lambda: False,
        active_run=lambda: types.SimpleNamespace(info=types.SimpleNamespace(run_id="1")) if active else None,
        start_run=start_run,
        end_run=end_run,
        log_params=lambda values, synchronous: active[-1]["settings"].update(values),
        log_metrics=lambda metrics, step, synchronous: active[-1]["logged"].append(metrics),
    )
    return library


@pytest.fixture
def summary():
    scores = {"a": (0.5, 0.7, 0.8), "b": (None,)}
    runs = [
        RunRecord("id", recipe, seed, "rte", "failed" if score == 0.5 else "ok", "accuracy", last=score)
        for recipe, found in scores.items()
        for seed, score in enumerate(found, 1)
    ]
    return summarize(runs)


def test_the_figures_are_those_of_the_summary(summary):
    logs = summary_logs(summary)
    assert logs["eval_study/a/accuracy_mean"] == pytest.approx(2 / 3) and logs["eval_study/a/failed"] == 1
    assert logs["eval_study/a/failed_share"] == 1 / 3 and logs["eval_study/b/runs"] == 1
    assert not any(value is None for value in logs.values()) and "eval_study/b/accuracy_mean" not in logs


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_study_is_one_run_with_its_own_facts(tracker, request, summary, tiny_jobs, tmp_path):
    library = request.getfixturevalue(tracker)
    jobs = tiny_jobs(tmp_path / "rte", report_to=tracker, project="mine")
    assert send_summary(summary, jobs, tmp_path / "rte") == [
        f"The study's summary was sent to {tracker}: run rte (study)."
    ]
    (run,) = library.runs
    assert run["name"] == "rte (study)" and run["settings"]["recipes"] == "a, b"
    assert "learning_rate" not in run["settings"]  # the recipes have different ones
    (logged,) = run["logged"]
    prefix = "eval_study" if tracker == "mlflow" else "eval/study"
    assert logged[f"{prefix}/a/failed_share"] == 1 / 3 and logged[f"{prefix}/a/accuracy_std"] > 0
    if tracker == "trackio":
        assert run["project"] == "mine" and run["resume"] == "allow"
    assert run["ended"] is (tracker != "wandb")  # wandb ends its run with the process


def test_a_users_own_open_run_is_continued_as_by_a_training(wandb, summary, tiny_jobs, tmp_path):
    sys.modules["wandb"].init("huggingface", "mine")
    send_summary(summary, tiny_jobs(tmp_path / "rte", report_to="wandb"), tmp_path / "rte")
    (run,) = wandb.runs
    assert run["name"] == "mine" and not run["ended"] and len(run["logged"]) == 1


def test_a_tracker_that_fails_ends_nothing(trackio, summary, tiny_jobs, tmp_path):
    trackio.error = ConnectionError("no server\nat this address")
    (line,) = send_summary(summary, tiny_jobs(tmp_path, report_to="trackio"), tmp_path)
    assert line == "--report_to trackio: the study's summary was not sent (ConnectionError: no server)"


def test_nothing_is_sent_without_a_tracker(trackio, summary, tiny_jobs, tmp_path):
    (job,) = tiny_jobs(tmp_path, seeds=(1,))
    for report_to in (None, "none", "tensorboard", ["tensorboard"], []):
        job = replace(job, args={**job.args, "report_to": report_to})
        assert trackers_in(report_to) == [] and send_summary(summary, [job], tmp_path) == [] and trackio.runs == []
        assert training_arguments(job, tmp_path).run_name is None


def test_all_means_those_that_are_installed(trackio):
    assert "trackio" in trackers_in("all") and trackers_in("all") == trackers_in(["all"])
    assert trackers_in(["wandb", "mlflow"]) == ["mlflow", "wandb"]


@pytest.mark.usefixtures("no_heat_maps")
def test_a_real_study_reports_its_runs_and_then_itself_once(trackio, tiny_jobs, tmp_path):
    said = []
    jobs = tiny_jobs(tmp_path / "tiny", seeds=(1,), report_to="trackio")
    run_jobs(jobs, tmp_path / "tiny", say=said.append)
    assert [run["name"] for run in trackio.runs] == ["devlin2019/seed-001", "tiny (study)"]
    assert all(run["ended"] for run in trackio.runs) and said[-1].endswith("sent to trackio: run tiny (study).")
    assert trackio.runs[0]["settings"]["learning_rate"] == 2e-5
    run_jobs(jobs, tmp_path / "tiny", quiet=True)  # nothing was missing
    assert len(trackio.runs) == 2
