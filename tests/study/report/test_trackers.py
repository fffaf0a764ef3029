"""A study's summary for trackers: transformers' own callbacks, with stand-ins for the libraries behind them.

The slow test at the end has the libraries themselves, offline, and reads back what they kept. It skips those that are not
installed.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest

from hf_stability.study.records import RunRecord
from hf_stability.study.report.summary import summarize
from hf_stability.study.report.trackers import TRACKERS, closing_runs, send_summary, summary_logs, trackers_in
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
        finish=lambda exit_code: (
            library.runs[-1].update(ended=True, failed=bool(exit_code)),
            vars(made).update(run=None),
        ),
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

    def current_run():
        return library.runs[-1] if library.runs and not library.runs[-1]["ended"] else None

    variables = {"current_space_id": lambda: None, "current_run": current_run}
    library_context = types.SimpleNamespace(
        **{name: types.SimpleNamespace(get=get) for name, get in variables.items()}
    )
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

    def end_run(status="FINISHED"):
        active.pop().update(ended=True, failed=status == "FAILED")

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
    assert run["ended"]


def test_a_users_own_open_run_is_continued_as_by_a_training(wandb, summary, tiny_jobs, tmp_path):
    sys.modules["wandb"].init("huggingface", "mine")
    send_summary(summary, tiny_jobs(tmp_path / "rte", report_to="wandb"), tmp_path / "rte")
    (run,) = wandb.runs
    assert run["name"] == "mine" and not run["ended"] and len(run["logged"]) == 1


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_run_that_begins_in_the_block_ends_with_it(tracker, request):
    library, module = request.getfixturevalue(tracker), sys.modules[tracker]
    begin = {
        "wandb": lambda name: module.init("huggingface", name),
        "trackio": lambda name: module.init("huggingface", name, resume="allow"),
        "mlflow": lambda name: module.start_run(name, nested=False),
    }[tracker]
    with closing_runs(tracker):
        begin("whole")
    with pytest.raises(ZeroDivisionError), closing_runs(["tensorboard", tracker]):
        begin("failed")
        raise ZeroDivisionError
    begin("the user's own")
    with closing_runs(tracker):
        pass
    assert [run["ended"] for run in library.runs] == [True, True, False]
    if tracker != "trackio":  # it has no such mark
        assert [run["failed"] for run in library.runs[:2]] == [False, True]


def test_an_error_while_a_run_is_ended_changes_nothing_else(wandb, monkeypatch, caplog):
    def fail(exit_code):
        raise ConnectionError("no server")

    monkeypatch.setattr(sys.modules["wandb"], "finish", fail)
    with caplog.at_level("ERROR"), closing_runs("wandb"):
        sys.modules["wandb"].init("huggingface", "one")
    assert caplog.messages == ["wandb: its run could not be ended (ConnectionError: no server)"]


def test_settings_that_need_a_model_do_not_hinder_the_summary(wandb, summary, tiny_jobs, tmp_path, monkeypatch):
    given = {"WANDB_LOG_MODEL": "end", "WANDB_WATCH": "all"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    (line,) = send_summary(summary, tiny_jobs(tmp_path / "rte", report_to="wandb"), tmp_path / "rte")
    assert line == "The study's summary was sent to wandb: run rte (study)."
    assert {name: os.environ[name] for name in given} == given


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
def test_a_real_study_reports_its_runs_and_then_itself_once(trackio, wandb, tiny_jobs, tmp_path):
    said = []
    jobs = tiny_jobs(tmp_path / "tiny", seeds=(1,), report_to=["trackio", "wandb"])
    run_jobs(jobs, tmp_path / "tiny", say=said.append)
    for library in (trackio, wandb):
        assert [run["name"] for run in library.runs] == ["devlin2019/seed-001", "tiny (study)"]
        assert all(run["ended"] for run in library.runs)
        assert library.runs[0]["settings"]["learning_rate"] == 2e-5
    assert said[-1].endswith(
        "sent to trackio: run tiny (study).\nThe study's summary was sent to wandb: run tiny (study)."
    )
    run_jobs(jobs, tmp_path / "tiny", quiet=True)  # nothing was missing
    assert len(trackio.runs) == len(wandb.runs) == 2


# ---- the libraries themselves ---------------------------------------------------------------------------------------


STUDY = """
import sys
from hf_stability.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""

READ = {  # each prints a list of runs: name, settings, and each dict that was logged
    "trackio": """
import json
import trackio
from trackio.sqlite_storage import SQLiteStorage

runs = trackio.Api().runs("mine")
print(json.dumps([(run.name, run.config, SQLiteStorage.get_logs("mine", run.name, run_id=run.id)) for run in runs]))
""",
    "mlflow": """
import json
import mlflow

client, found = mlflow.MlflowClient(), []
for run in client.search_runs([mlflow.get_experiment_by_name("mine").experiment_id]):
    assert run.info.status == "FINISHED"
    histories = [client.get_metric_history(run.info.run_id, key) for key in run.data.metrics]
    logged = [{"step": one.step, one.key: one.value} for own in histories for one in own]
    found.append((run.info.run_name, run.data.params, logged))
print(json.dumps(found))
""",
    "wandb": """
import json
import struct
from pathlib import Path
from wandb.proto.wandb_internal_pb2 import Record


def records(data, at=7, piece=b""):  # LevelDB's log format: blocks of 32768 bytes; checksum, length, kind; a header of 7 bytes
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        piece, at = piece + data[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):  # a whole record, or its last piece
            yield Record.FromString(piece)
            piece = b""


def values(items):
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


found = []
for path in Path("wandb").glob("offline-run-*/*.wandb"):
    name, settings, logged = "", {}, []
    for record in records(path.read_bytes()):
        name = record.run.display_name or name
        settings |= values(record.run.config.update) | values(record.config.update)
        logged += [values(record.history.item)] if record.history.item else []
    found.append((name, settings, logged))
print(json.dumps(found))
""",
}


def runs_kept(tracker: str, folder: Path) -> dict[str, tuple[dict, list[dict]]]:
    """Read a tracker's runs: name -> settings, and what was logged."""
    done = subprocess.run(
        [sys.executable, "-c", READ[tracker]], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found = [(name, (settings, logged)) for name, settings, logged in json.loads(done.stdout.splitlines()[-1])]
    assert len(dict(found)) == len(found)
    return dict(found)


@pytest.mark.slow
def test_the_trackers_keep_each_run_and_the_study(tiny_model, tiny_csv, tmp_path, monkeypatch):
    """In a worker, which ends without the libraries' own clean-up."""
    trackers = [name for name in TRACKERS if importlib.util.find_spec(name) is not None]
    if not trackers:
        pytest.skip(f"none of {', '.join(TRACKERS)} is installed")
    for name, value in {
        "TRACKIO_DIR": str(tmp_path / "trackio"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "MLFLOW_EXPERIMENT_NAME": "mine",
        "WANDB_MODE": "offline",
        "WANDB_PROJECT": "mine",
        "WANDB_WATCH": "all",
    }.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "study.py").write_text(STUDY)
    study = "--recipe devlin2019 devlin2019+mixout --seeds 1 --max_steps 6 --logging_steps 2 --workers 1 --use_cpu "
    study += f"--train_file {tiny_csv[0]} --validation_file {tiny_csv[1]} --model_name_or_path {tiny_model()} "
    study += "--output_dir small --project mine --report_to all"
    command = [sys.executable, "study.py", *study.split()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "small" / "summary.json").read_text())
    for tracker in trackers:
        assert f"The study's summary was sent to {tracker}: run small (study)." in done.stdout
        kept = runs_kept(tracker, tmp_path)
        assert set(kept) == {"devlin2019/seed-001", "devlin2019+mixout/seed-001", "small (study)"}, tracker
        prefix = "eval_" if tracker == "mlflow" else "eval/"
        for figures in summary["recipes"]:
            settings, logged = kept[f"{figures['recipe']}/seed-001"]
            assert float(settings["learning_rate"]) == 2e-5
            scores = [one[f"{prefix}accuracy"] for one in logged if f"{prefix}accuracy" in one]
            assert scores and scores[-1] == pytest.approx(figures["mean"]), tracker
        settings, logged = kept["small (study)"]
        assert settings["recipes"] == "devlin2019, devlin2019+mixout" and "learning_rate" not in settings
        numbers = {key: value for one in logged for key, value in one.items() if "study/" in key}
        expected = {key.removeprefix("eval_"): value for key, value in summary_logs(summary).items()}
        if tracker == "mlflow":  # its callback replaces the characters that MLflow does not take
            expected = {key.replace("+", "_"): value for key, value in expected.items()}
        assert numbers == {prefix + key: pytest.approx(value) for key, value in expected.items()}, tracker
