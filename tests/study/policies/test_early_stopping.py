"""`--restarts`: real tiny studies through the command; bad seeds end early, the others as if they had never been stopped."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil

import pytest

from hf_stability import cli
from hf_stability.errors import InputError
from hf_stability.study import run as run_module
from hf_stability.study.execution import Execution
from hf_stability.study.folder import check_folder, read_runs
from hf_stability.study.look import look_step
from hf_stability.study.policies import early_stopping
from hf_stability.study.policies.early_stopping import (
    check_policy,
    chosen_seeds,
    jobs_to_look_at,
    look_sentence,
    policy_jobs,
)
from hf_stability.study.records import LOOK, RunRecord, read_run
from hf_stability.study.report.restarts import early_stopping_cost
from hf_stability.study.run import run_job
from hf_stability.study.study import run_jobs
from tests.events import Events
from tests.study.test_study import results


pytestmark = pytest.mark.usefixtures("no_heat_maps")

POLICY = ["--restarts", "4", "--look_at", "0.25", "--finish", "2"]


class Killed(BaseException):
    """As a kill: nothing catches it."""


@pytest.fixture(scope="module")
def arguments(tiny_study):
    return [*tiny_study, *"--validation_half both --max_steps 8 --learning_rate 3e-3".split()]


@pytest.fixture(scope="module")
def finished(arguments, tmp_path_factory):
    """A study that starts 4 seeds, looks at them at step 2 of 8, and finishes 2. Not to be changed."""
    folder = tmp_path_factory.mktemp("policy") / "study"
    assert cli.main([*arguments, *POLICY, "--output_dir", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def jobs(tiny_jobs):
    """A function of a folder: jobs of a policy, 3 seeds of 6 update steps, one to be finished."""

    def make(folder, **given):
        planned = tiny_jobs(folder, seeds=(1, 2, 3), **{"max_steps": 6, "learning_rate": 3e-3, **given})
        return policy_jobs(planned, 0.4, 1)

    return make


def looks_of(folder):
    return [read_run(path.parent, LOOK) for path in sorted(folder.glob(f"runs/*/*/{LOOK}"))]


# ---- the study ------------------------------------------------------------------------------------------------------


def test_the_best_at_the_look_are_finished_and_the_others_are_censored(finished):
    runs, looks = read_runs(finished), looks_of(finished)
    assert len(runs) == len(looks) == 4
    ranked = sorted(looks, key=lambda run: (-run.metrics["eval_first_accuracy"], run.seed))
    chosen = {run.seed for run in ranked[:2]}
    for run in runs:
        evaluations = json.loads((finished / "runs" / run.name / "metrics.json").read_text())["evaluations"]
        assert evaluations[0]["step"] == 2 and {"eval_first_accuracy", "eval_second_accuracy"} < set(evaluations[0])
        assert not list((finished / "runs" / run.name).glob("checkpoint-*"))
        if run.seed in chosen:
            assert run.status in ("ok", "failed") and (run.steps, run.planned_steps) == (8, 8) and run.last is not None
        else:
            assert run.status == "stopped early" and (run.steps, run.planned_steps) == (2, 8)
            assert run.last is run.best is run.accuracy is run.train_loss is run.report is run.alarm_step is None
            until = (
                "stopped early at step 2 of 8: not counted as failed, because its end is unknown; verdict until then: "
            )
            assert run.sentence.startswith(until)
            verdict = json.loads((finished / "runs" / run.name / "verdict.json").read_text())
            assert (verdict["status"], verdict["sentence"]) == (run.status, run.sentence)
    assert {run.seed for run in runs if run.steps == 8} == chosen


def test_the_summary_has_what_was_spent_and_the_best_finished_run_and_no_failed_share(finished):
    summary = json.loads((finished / "summary.json").read_text())
    (figures,) = summary["recipes"]
    assert (figures["runs"], figures["stopped_early"], figures["stopped"], figures["scores"]) == (4, 2, 0, 2)
    assert figures["budget"] == pytest.approx(early_stopping_cost(4, 0.25, 2)) == 2.5
    assert figures["failed_share"] is figures["mean"] is figures["std"] is None
    assert figures["failed_share_if_all_fail"] - figures["failed_share_if_all_heal"] == 0.5
    whole = [run for run in read_runs(finished) if run.steps == 8]
    best = max(whole, key=lambda run: (run.last, -run.seed))
    assert figures["best_run"] == {"seed": best.seed, "score": best.last, "report": best.report}
    text = (finished / "summary.md").read_text()
    assert "| stopped early |" in text and "| 2.50 " in text and "alarm" not in text
    assert f"devlin2019: the best finished run is seed {best.seed}" in text and "which did not select it" in text
    with open(finished / "summary.csv", newline="") as file:
        assert [row["status"] for row in csv.DictReader(file)].count("stopped early") == 2


def test_figures_and_tensorboard_do_not_call_them_failed(finished):
    assert len(list((finished / "figures").iterdir())) == 6
    for run in read_runs(finished):
        events, early = Events(finished / "runs" / run.name), run.status == "stopped early"
        assert events.text(".", "verdict")[-1] == run.sentence
        assert ("final/failed" in events.tags(".", "scalars")) == (not early)
        if not early:
            assert events.hparams(".")[0]["verdict"] == run.status


def test_the_same_command_again_changes_nothing_and_another_policy_is_refused(arguments, finished, tmp_path, capsys):
    folder = tmp_path / "study"
    shutil.copytree(finished, folder)
    before = results(folder)
    assert cli.main([*arguments, *POLICY, "--output_dir", str(folder)]) == 0
    assert "4 finished runs found, kept" in capsys.readouterr().out and results(folder) == before
    for given, change in (
        (["--restarts", "4", "--look_at", "0.25", "--finish", "3"], "policy.finish: 2 -> 3"),
        (["--seeds", "4"], "policy: {'seeds': [1, 2, 3, 4], 'look_at': 0.25, 'finish': 2} -> (not set)"),
    ):
        assert cli.main([*arguments, *given, "--output_dir", str(folder)]) == 2
        assert change in capsys.readouterr().err and results(folder) == before
    assert cli.main(["restarts", str(folder)]) == 2
    assert "2 of 4 runs were stopped early" in capsys.readouterr().err


@pytest.mark.parametrize(
    "given, message",
    [
        (["--restarts", "4"], "--restarts 4: also give --look_at and --finish"),
        (["--finish", "4"], "--finish 4: also give --restarts and --look_at"),
        (["--restarts", "4", "--look_at", "1", "--finish", "2"], "--look_at 1.0: must be a fraction of training"),
        (["--restarts", "4", "--look_at", "nan", "--finish", "2"], "--look_at nan: must be a fraction of training"),
        (
            ["--restarts", "4", "--look_at", "0.3", "--finish", "4"],
            "--finish 4: must be between 1 and 3, less than --restarts 4",
        ),
        (["--restarts", "1", "--look_at", "0.3", "--finish", "1"], "--restarts 1: must be 2 or more"),
        ([*POLICY, "--seeds", "3", "7"], "--restarts 4: --seeds 3 7 makes 2; give 4 seeds, or leave out --seeds"),
        ([*POLICY, "--two_way", "2", "2"], "--restarts 4 with --two_way: give only one of them"),
        ([*POLICY, "--on_alarm", "stop"], "--on_alarm stop: not allowed with --restarts"),
        ([*POLICY, "--save_only_model"], "--save_only_model: not allowed with --restarts"),
        ([*POLICY, "--save_strategy", "best"], "--save_strategy best: not allowed with --restarts"),
    ],
)
def test_what_is_no_policy_is_refused_before_anything_is_written(arguments, tmp_path, capsys, given, message):
    assert cli.main([*arguments, *given, "--output_dir", str(tmp_path / "study")]) == 2
    assert message in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_a_dry_run_says_the_policy_and_seeds_can_be_named(arguments, tmp_path, capsys):
    given = [*POLICY, "--seeds", "1000-1003", "--dry_run", "--output_dir", str(tmp_path / "study")]
    assert cli.main([*arguments, *given]) == 0
    out = capsys.readouterr().out
    assert (
        "4 run(s), seeds 1000, 1001, 1002, 1003\nstarts 4, looks at them after 25% of training, finishes the best 2"
        in out
    )


# ---- the same bytes, whatever happens -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(jobs, tmp_path_factory):
    """The study of `jobs`, not interrupted. Not to be changed."""
    folder = tmp_path_factory.mktemp("whole")
    run_jobs(jobs(folder), folder, quiet=True)
    return folder


def test_a_run_that_goes_on_is_as_if_it_had_never_stopped(jobs, whole, tmp_path):
    (chosen,) = (job for job in jobs(tmp_path) if read_run(whole / "runs" / job.name).status != "stopped early")
    run_job(chosen, tmp_path / "whole")
    assert results(tmp_path / "whole") == results(whole / "runs" / chosen.name)
    entries = json.loads((tmp_path / "whole" / "metrics.json").read_text())["evaluations"]
    assert [entry["step"] for entry in entries] == [2, 3, 6]  # the look, and each epoch's


def test_worker_processes_choose_the_same(jobs, whole, tmp_path):
    run_jobs(jobs(tmp_path), tmp_path, Execution(workers=2), quiet=True)
    made = {name: content for name, content in results(tmp_path).items() if not name.endswith("gradients.png")}
    assert made == results(whole)


def kill_after(monkeypatch, module, name, calls):
    """Let a function of a module be called so often, then be killed before it does anything."""
    original, count = getattr(module, name), iter(range(calls))

    def killed(*args, **kwargs):
        if next(count, None) is None:
            raise Killed
        return original(*args, **kwargs)

    monkeypatch.setattr(module, name, killed)


def test_a_study_that_is_killed_again_and_again_goes_on_to_the_same_bytes(jobs, whole, tmp_path, monkeypatch):
    saves = {"save_strategy": "steps", "save_steps": 1, "keep_model": "failed_and_best"}  # they change no result
    kills = {
        "after the checkpoint of the second look": (run_module, "write_results", 1, (0, 1)),
        "before the choice": (early_stopping, "delete_checkpoints", 0, (0, 3)),
        "between a checkpoint's deletion and the record": (early_stopping, "write_json", 0, (0, 3)),
        "after the last step of the chosen one": (run_module, "write_results", 0, (2, 3)),
    }
    for place, (module, name, calls, expected) in kills.items():
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill_after(patch, module, name, calls)
            run_jobs(jobs(tmp_path, **saves), tmp_path, quiet=True)
        known = len(list(tmp_path.glob("runs/*/*/run.json"))), len(looks_of(tmp_path))
        assert known == expected, place
    for checkpoint in tmp_path.glob("runs/*/*/checkpoint-*"):
        shutil.rmtree(checkpoint)  # it then begins anew, without another choice
    runs = run_jobs(jobs(tmp_path, **saves), tmp_path, quiet=True)
    assert results(tmp_path) == results(whole) and len(looks_of(tmp_path)) == 3
    assert not list(tmp_path.glob("runs/*/*/checkpoint-*"))
    finished = next(run for run in runs if run.status != "stopped early")
    assert [path.parent.name for path in tmp_path.glob("runs/*/*/model")] == [finished.name.split("/")[1]]


def test_nothing_is_chosen_while_one_that_crashed_has_not_been_looked_at(jobs, tmp_path):
    made, said = jobs(tmp_path), []
    lost = [dataclasses.replace(job, data_folder=str(tmp_path / "gone")) if job.seed == 2 else job for job in made]
    runs = run_jobs(lost, tmp_path, say=said.append)
    assert [run.status for run in runs] == ["waiting", "crashed", "waiting"]
    assert not list(tmp_path.glob("runs/*/*/run.json"))
    (figures,) = json.loads((tmp_path / "summary.json").read_text())["recipes"]
    assert (figures["runs"], figures["crashed"], figures["stopped_early"]) == (0, 1, 0)
    for other in (jobs(tmp_path, weight_decay=0.5), [dataclasses.replace(job, policy=None) for job in made]):
        with pytest.raises(InputError, match="was run with other settings"):  # not a look is lost
            run_jobs(other, tmp_path, quiet=True)
    assert len(looks_of(tmp_path)) == 2
    assert sum("paused after --look_at, because another run of this recipe crashed" in line for line in said) == 2
    runs = run_jobs(made, tmp_path, quiet=True)
    assert sorted(run.status == "stopped early" for run in runs) == [False, True, True]
    assert len(list(tmp_path.glob("runs/*/*/run.json"))) == 3


# ---- small things ---------------------------------------------------------------------------------------------------


def look(seed, score, status="stopped early"):
    return RunRecord("id", "a", seed, "rte", status, "accuracy", metrics={"eval_accuracy": score})


def test_of_equals_the_smaller_seeds_go_on_and_no_number_is_the_worst():
    looks = [look(4, 0.5), look(2, None), look(3, 0.7), look(1, 0.5), look(0, 0.9, "diverged")]
    assert [chosen_seeds(looks, number) for number in (1, 2, 3)] == [[3], [3, 1], [3, 1, 4]]
    assert chosen_seeds(looks, 5) == [3, 1, 4, 2, 0]
    assert (
        look_sentence(dataclasses.replace(look(1, 0.5), steps=2, planned_steps=8)) == "accuracy 0.500 at step 2 of 8"
    )


@pytest.mark.parametrize(
    "fraction, steps, expected", [(0.25, 8, 2), (0.01, 8, 1), (0.99, 8, 7), (0.5, 2, 1), (0.3, 100, 30)]
)
def test_a_look_is_after_the_first_step_and_before_the_last(fraction, steps, expected):
    assert look_step(fraction, steps) == expected
    with pytest.raises(InputError, match="1 update step has no look"):
        look_step(fraction, 1)


def test_the_policy_is_in_the_id_and_the_look_is_not(jobs, tiny_jobs, tmp_path):
    made, plain = jobs(tmp_path), tiny_jobs(tmp_path, seeds=(1,), max_steps=6, learning_rate=3e-3)[0]
    assert made[0].id != plain.id and dataclasses.replace(made[0], policy=None).id == plain.id
    assert [job.id for job in jobs_to_look_at(made, tmp_path)] == [job.id for job in made]
    check_folder(made, tmp_path)
    with pytest.raises(InputError, match="several processes"):
        policy_jobs([dataclasses.replace(plain, processes=2)], 0.4, 1)
    check_policy(8, 0.25, 3)
