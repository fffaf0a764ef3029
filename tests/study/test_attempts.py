"""Attempts in a study: records, ids, counts, progress and marks. On made-up records; two slow tests train a study."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from hf_stability.callback import StabilityCallback
from hf_stability.diagnostics.early_warning import Alarm
from hf_stability.errors import InputError
from hf_stability.recipe import load_recipe
from hf_stability.restarting import settings as restart_settings
from hf_stability.study import prepare
from hf_stability.study import run as run_module
from hf_stability.study.attempts import (
    MARK,
    attempt_text,
    cost,
    first_attempts,
    has_attempts,
    restart_sentence,
    was_restarted,
    with_marks,
)
from hf_stability.study.executors.event import Event
from hf_stability.study.job import Job
from hf_stability.study.live import minute_text, table_lines
from hf_stability.study.policies.early_stopping import EarlyStopping
from hf_stability.study.policies.two_way import TwoWay
from hf_stability.study.policies.until import Until
from hf_stability.study.prepare import _check_restarts
from hf_stability.study.progress_file import read_progress, write_progress
from hf_stability.study.records import ATTEMPT_FIELDS, RUN_SCHEMA, WITH_ATTEMPTS, RunRecord, read_run
from hf_stability.study.report.card.card import card_text
from hf_stability.study.report.card.source import read_source
from hf_stability.study.report.elsewhere.read import read_scores_file
from hf_stability.study.report.export import exported
from hf_stability.study.report.page.compare import comparison
from hf_stability.study.report.page.contents import report_contents
from hf_stability.study.report.pictures import draw_study
from hf_stability.study.report.printed import printed_summary
from hf_stability.study.report.summary import summarize
from hf_stability.study.report.summary_page import to_markdown, write_summary
from hf_stability.study.report.timeline import timeline_lines
from hf_stability.study.report.trackers import summary_logs
from hf_stability.study.run import run_job
from hf_stability.study.study import run_jobs
from hf_stability.study.tally import Tally
from hf_stability.utils.files import write_json
from tests.study.made_up import STEPS, restarted_run
from tests.study.report.card.test_card import JOB, leave_run
from tests.study.tools import Killed, results


REASONS = ("alarm", "non-finite loss", "non-finite gradients")

RUNS = [
    restarted_run(1, (), "ok", 0.9),
    restarted_run(2, (), "failed", 0.5),
    restarted_run(3, ("alarm",), "ok", 0.8),
    restarted_run(4, ("alarm", "alarm"), "failed", 0.5),
    restarted_run(5, ("non-finite loss",), "ok", 0.7),
    restarted_run(6, ("alarm",), "ok", 0.6, audit="failed"),
    restarted_run(7, ("alarm",), "ok", 0.6, audit="ok"),
]
PLAIN = [
    RunRecord("id", "plain", seed, "demo_pair", "ok", "accuracy", 0.8 + seed / 100, 0.9, 0.8, 0.5, 0.1, STEPS, STEPS)
    for seed in range(1, 8)
]


# ---- records --------------------------------------------------------------------------------------------------------


def test_a_record_keeps_its_attempts_and_one_without_them_stays_as_it_was(tmp_path):
    run = RUNS[3]
    write_json(tmp_path / "run.json", run.to_dict())
    assert read_run(tmp_path) == run and run.schema == WITH_ATTEMPTS
    assert [attempt["reason"] for attempt in run.attempts] == ["alarm", "alarm", None]
    assert (run.steps_spent, run.steps, run.first_status) == (30 + 30 + STEPS, STEPS, "stopped")
    plain = PLAIN[0].to_dict()
    assert plain["schema"] == RUN_SCHEMA and not set(ATTEMPT_FIELDS) & set(plain)
    assert list(plain) == [f.name for f in dataclasses.fields(RunRecord) if f.name not in ATTEMPT_FIELDS]


def test_the_dry_run_tells_how_runs_begin_again():
    args = {"max_restarts": 2, "restart_with": "seed", "audit_alarms": 0.2}
    assert restart_sentence({**args, "on_alarm": "stop"}) == ""
    assert restart_sentence({**args, "on_alarm": "restart"}) == (
        "restarts: a run begins again after an alarm, NaN or Inf, at most 2 time(s), with seed. If an alarm ends the first "
        "attempt, this attempt is also finished, as an audit, with probability 0.2"
    )


@pytest.mark.parametrize(
    ("number", "first", "spent", "audited"),
    [(0, "ok", 100, False), (1, "failed", 100, False), (2, "stopped", 130, False), (4, "diverged", 130, False), (5, "failed", 130, True)],
)  # fmt: skip
def test_how_the_first_attempt_ended(number, first, spent, audited):
    run = RUNS[number]
    assert (run.first_status, run.steps_spent, run.audited) == (first, spent, audited)
    assert cost(run) == spent / STEPS and was_restarted(run) == (spent > STEPS)


def test_cost_is_in_runs_of_the_first_attempt_though_the_last_one_is_longer():
    run = restarted_run(1, ("alarm",))
    longer = {**run.attempts[1], "steps": 500, "total_steps": 500}
    run = dataclasses.replace(run, attempts=[run.attempts[0], longer], steps=500, planned_steps=500, steps_spent=530)
    assert cost(run) == 5.3 and cost(PLAIN[0]) == 1.0
    assert cost(dataclasses.replace(PLAIN[0], planned_steps=0)) is None


kinds = st.tuples(
    st.lists(st.sampled_from(REASONS), max_size=2),
    st.sampled_from(["ok", "failed"]),
    st.sampled_from([None, "ok", "failed"]),
)


@given(st.lists(kinds, min_size=1, max_size=12))
@settings(max_examples=20, deadline=None)
def test_first_attempts_are_counted_as_a_slow_loop_does(drawn):
    runs, failed, stopped, audits = [], 0, 0, []
    for seed, (reasons, status, audit) in enumerate(drawn, 1):
        audit = audit if reasons and reasons[0] == "alarm" else None
        runs.append(restarted_run(seed, reasons, status, audit=audit))
        if not reasons:
            failed += status == "failed"
        elif reasons[0] != "alarm":
            failed += 1
        elif audit is None:
            stopped += 1
        else:
            failed += audit == "failed"
            audits.append(audit)
    assert first_attempts(runs) == {
        "failed": failed,
        "stopped": stopped,
        "audited": len(audits),
        "audited_failed": audits.count("failed"),
    }
    figures = summarize(runs)["recipes"][0]
    first, n = figures["restarts"], len(runs)
    low, high = first["failed_share_if_all_heal"], first["failed_share_if_all_fail"]
    assert low == failed / n and high == (failed + stopped) / n
    assert first["failed_share_if_all_heal_low"] == pytest.approx(proportion_confint(failed, n, method="wilson")[0])
    assert first["failed_share_if_all_fail_high"] == pytest.approx(
        proportion_confint(failed + stopped, n, method="wilson")[1]
    )
    if audits:
        assert low - 1e-12 <= first["failed_share_audited"] <= high + 1e-12
    assert figures["failed"] == sum(status == "failed" for _, status, _ in drawn)  # of final results
    assert first["cost"] == pytest.approx(sum(1 + 0.3 * len(reasons) for reasons, _, _ in drawn) / n)
    assert figures["budget"] == pytest.approx(n * first["cost"])


# ---- ids and policies -----------------------------------------------------------------------------------------------


def job(seed: int = 1, recipe: str = "devlin2019", **args) -> Job:
    return Job(recipe, seed, "tiny", {"max_steps": 100, **args}, {}, "", "")


def test_restarts_change_the_id_and_their_arguments_count_only_then():
    plain, on = job(), job(on_alarm="restart")
    more = {"max_restarts": 1, "restart_with": "seed"}
    assert job(on_alarm="warn", **more).id == plain.id
    assert job(on_alarm="stop", **more).id == job(on_alarm="stop").id
    ids = [plain.id, on.id, *(job(on_alarm="restart", **{name: value}).id for name, value in more.items())]
    ids.append(job(on_alarm="restart", audit_alarms=0.5).id)
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("policy", [EarlyStopping(2, 0.5, 1), TwoWay(2, 2)])
@pytest.mark.parametrize("on_alarm", ["stop", "restart"])
def test_a_policy_that_needs_each_training_refuses_them(policy, on_alarm):
    with pytest.raises(
        InputError, match=rf"^--on_alarm {on_alarm}: not allowed with --\w+, which .*; give warn or none$"
    ):
        policy.jobs([job(seed, on_alarm=on_alarm) for seed in (1, 2)])


def test_until_compares_final_results():
    jobs = [job(seed, recipe, on_alarm="restart") for recipe in ("a", "b") for seed in range(1, 9)]
    assert Until("failed_share").jobs(jobs) == jobs


# ---- tables ---------------------------------------------------------------------------------------------------------


def lines_with(text: str, word: str) -> list[str]:
    return [line for line in text.splitlines() if word in line]


def test_every_table_with_a_std_marks_the_recipe_and_says_what_the_mark_means(tmp_path):
    summary = summarize([*RUNS, *PLAIN])
    write_summary(tmp_path, summary)
    texts = {
        "summary.md": (tmp_path / "summary.md").read_text(),
        "printed": printed_summary(summary, tmp_path),
        "markdown": exported([*RUNS, *PLAIN], "markdown").decode(),
        "latex": exported([*RUNS, *PLAIN], "latex").decode().replace(r"$\dagger$", MARK),
    }
    for name, text in texts.items():
        assert f"restarted{MARK}" in text and f"plain{MARK}" not in text, name
        assert any("final results" in line for line in lines_with(text, MARK)), name
    (sentence,) = (comparison["sentence"] for comparison in summary["comparisons"])
    assert sentence.startswith(f"restarted{MARK} against plain") and "more than one try" in sentence
    assert summary["comparisons"][0]["recipes"] == ["restarted", "plain"]  # the numbers keep the names
    logs = summary_logs(summary)
    assert "eval_study/restarted after restarts/accuracy_std" in logs and "eval_study/plain/accuracy_std" in logs
    assert not any(key.startswith("eval_study/restarted/") for key in logs)


def test_the_card_and_a_comparison_of_studies_mark_it_too(tmp_path):
    for seed, last in ((1, 0.7), (2, 0.72), (3, 0.53)):
        leave_run(tmp_path / "again", seed, last)
        leave_run(tmp_path / "plain", seed, last, job=dataclasses.replace(JOB, recipe="devlin2019"))
    for path in (tmp_path / "again").rglob("run.json"):
        run = read_run(path.parent)
        made = restarted_run(run.seed, ("alarm",) if run.seed > 1 else (), run.status)
        fields = {name: getattr(made, name) for name in (*ATTEMPT_FIELDS, "schema")}
        write_json(path, dataclasses.replace(run, **fields).to_dict())
    card = card_text(read_source(tmp_path / "again"))
    assert f"| std of all runs{MARK} " in card and "standard deviation of accuracy, 3 runs, after restarts" in card
    assert any("final results" in line for line in lines_with(card, MARK))
    compared = comparison([tmp_path / "again", tmp_path / "plain"])
    assert lines_with(compared, "| mosbach2021") == lines_with(compared, f"| mosbach2021{MARK}") != []
    assert f"devlin2019{MARK}" not in compared


def test_tables_without_restarts_have_no_word_of_them(tmp_path):
    summary = summarize(PLAIN)
    write_summary(tmp_path, summary)
    text = json.dumps(summary) + to_markdown(summary) + printed_summary(summary, "folder") + str(summary_logs(summary))
    text += (tmp_path / "summary.csv").read_text()
    assert not any(word in text for word in (MARK, "restart", "attempt", "steps_spent", "began again"))


def test_the_columns_of_first_attempts(tmp_path):
    summary = summarize([*RUNS, *PLAIN])
    row = next(line for line in to_markdown(summary).splitlines() if line.startswith(f"| restarted{MARK}"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    # 2 of 7 final results failed; of first attempts 3 failed (seed 2, 5, audited 6), 2 are unknown, 1 of 2 audited failed
    assert cells[2].startswith("2 = 0.29 (") and cells[3] == "5"
    assert cells[4].startswith("0.43-0.71 (") and cells[5].startswith("0.57 (") and cells[5].endswith(", 1 of 2")
    assert cells[6] == "1.26"  # (100 + 100 + 130 + 160 + 3 x 130) / 700
    write_summary(tmp_path, summary)
    with open(tmp_path / "summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["attempts"] for row in rows[:4]] == ["1", "1", "2", "3"] and rows[3]["steps_spent"] == "160"
    assert rows[7]["attempts"] == rows[7]["first_status"] == ""


def test_an_exported_table_that_is_read_again_keeps_the_mark(tmp_path):
    content = exported([*RUNS, *PLAIN], "csv")
    (tmp_path / "scores.csv").write_bytes(content)
    columns = next(csv.reader(io.StringIO(content.decode())))
    assert columns[-3:] == ["attempts", "steps_spent", "first_status"]
    runs = read_scores_file(tmp_path / "scores.csv")
    restarted = [run for run in runs if run.recipe == "restarted"]
    assert has_attempts(restarted) and not has_attempts(run for run in runs if run.recipe == "plain")
    figures, again = summarize(RUNS)["recipes"][0]["restarts"], summarize(restarted)["recipes"][0]["restarts"]
    for key in ("runs", "restarted", "failed", "stopped", "cost"):
        assert again[key] == figures[key]


def test_the_report_counts_the_update_steps_of_all_attempts():
    contents = report_contents([*RUNS, *PLAIN])
    by_name = {figures["recipe"]: figures for figures in contents["recipes"]}
    spent = sum(run.steps_spent for run in RUNS)
    assert by_name["restarted"]["steps"] == round(spent / 7) and by_name["plain"]["steps"] == STEPS
    assert contents["expected_maximum"]["restarted"]["cost"][-1] == pytest.approx(spent)
    assert contents["expected_maximum"]["plain"]["cost"][-1] == 7 * STEPS


def test_marks_are_on_names_alone():
    given = {"a": ["a", ("b", 1), {"recipe": "a", "name": "a/seed-001"}], "b": None}
    assert with_marks(given, ["a"]) == {
        f"a{MARK}": [f"a{MARK}", ("b", 1), {"recipe": f"a{MARK}", "name": "a/seed-001"}], "b": None,
    }  # fmt: skip
    assert with_marks(given, []) is given


# ---- the timeline ---------------------------------------------------------------------------------------------------


def test_the_timeline_has_a_bar_per_attempt_one_after_the_other():
    lines = timeline_lines([*RUNS, *PLAIN])
    assert [line.name for line in lines] == [str(seed) for seed in range(1, 8)]  # plain runs have none
    for run, line in zip(RUNS, lines, strict=True):
        ends = [bar.start + bar.steps for bar in line.bars]
        assert [bar.start for bar in line.bars] == [0, *ends[:-1]] and ends[-1] == run.steps_spent
    assert [bar.end for bar in lines[3].bars] == ["alarm", "alarm", "failed"]
    assert [bar.alarm for bar in lines[3].bars] == [30, 60, None]
    assert [bar.end for bar in lines[4].bars] == ["not finite", "ok"]


# ---- progress -------------------------------------------------------------------------------------------------------


def test_progress_tells_the_attempt(tmp_path):
    tally, own = Tally([job(3)]), job(3)
    tally.take(Event(own, "progress", 40, 100, 0.7, 0.9, attempt_text(1, 3)))
    tally.take(Event(own, "progress", 10, 100, 0.6, 0.1, attempt_text(2, 3)))
    assert tally.share == 0.1 and tally.running[own.name].first_steps == 10
    snapshot = tally.snapshot()
    assert "seed 3 attempt 2 of 3 step 10/100" in minute_text(snapshot)
    assert "attempt 2 of 3, 10/100" in table_lines(snapshot, 100)[1].text
    write_progress(tmp_path, snapshot)
    assert read_progress(tmp_path) == snapshot
    plain = Tally([own])
    plain.take(Event(own, "progress", 40, 100, 0.7, 0.9))
    write_progress(tmp_path, plain.snapshot())
    assert "attempt" not in (tmp_path / "progress.json").read_text() and read_progress(tmp_path) is not None


# ---- trained ----------------------------------------------------------------------------------------------------------


class AlarmInFirstAttempt(StabilityCallback):
    """Raises its alarm after the second update step of seed 1's first attempt. It can be killed in a later attempt."""

    kill_at: int | None = None
    began: ClassVar[list[int]] = []

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        self.began.append(len(self.attempts))

    def on_step_begin(self, args, state, control, **kwargs):
        super().on_step_begin(args, state, control, **kwargs)
        if self.attempts and state.global_step == self.kill_at:
            raise Killed

    def on_step_end(self, args, state, control, **kwargs):
        super().on_step_end(args, state, control, **kwargs)
        if state.global_step == 2 and args.seed == 1:  # a restart has another seed
            self.monitor.flush()  # as before every look
            self.monitor.alarm = Alarm(2, state.max_steps, 0.9, "layer_00", {}, "looks like one that fails")
            if self.monitor.on_alarm == "restart":
                self.monitor._begin_again("alarm", 2, control)


@pytest.fixture
def forced(monkeypatch):
    """Alarms of seed 1; no audits."""
    monkeypatch.setattr(run_module, "StabilityCallback", AlarmInFirstAttempt)
    monkeypatch.setattr(run_module, "audits", lambda seed, share: False)
    monkeypatch.setattr(AlarmInFirstAttempt, "began", [])
    monkeypatch.setattr(AlarmInFirstAttempt, "kill_at", None)
    return monkeypatch


def folders_in(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


@pytest.mark.slow
def test_a_study_whose_first_seed_begins_again(tiny_jobs, tmp_path, forced):
    said: list[str] = []
    jobs = tiny_jobs(tmp_path, seeds=(1, 2), on_alarm="restart")
    runs = run_jobs(jobs, tmp_path, say=said.append)
    assert [len(run.attempts) for run in runs] == [2, 1] and [run.steps_spent for run in runs] == [6, 4]
    assert [run.first_status for run in runs] == ["stopped", runs[1].status] and AlarmInFirstAttempt.began == [0, 1, 0]
    assert runs[0].attempts[0]["alarm"]["step"] == 2 and "after 1 restart" in runs[0].sentence
    assert read_run(tmp_path / "runs" / runs[0].name) == runs[0]
    assert f"devlin2019{MARK}" in said[-1] and "runs that began again" in said[-1]
    pictures, problem = draw_study(tmp_path)
    assert not problem and "attempts.png" in [path.name for path in pictures]
    before = results(tmp_path)
    assert run_jobs(jobs, tmp_path, quiet=True) == runs and results(tmp_path) == before
    # the seed without an alarm is the run of a study without restarts
    (plain,) = run_jobs(tiny_jobs(tmp_path / "plain", seeds=(2,)), tmp_path / "plain", quiet=True)
    own = dict.fromkeys(ATTEMPT_FIELDS) | {"id": plain.id, "schema": plain.schema}
    assert dataclasses.replace(runs[1], **own) == plain


@pytest.mark.slow
@pytest.mark.parametrize(
    ("saves", "kill_at"), [({"save_strategy": "no"}, 3), ({"save_strategy": "steps", "save_steps": 1}, 3), ({"save_strategy": "no"}, 0)]
)  # fmt: skip
def test_a_killed_run_goes_on_in_its_attempt(tiny_jobs, tmp_path, forced, saves, kill_at):
    (job,) = tiny_jobs(tmp_path, seeds=(1,), on_alarm="restart", **saves)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run_job(job, whole)
    AlarmInFirstAttempt.began.clear()
    with pytest.raises(Killed), forced.context() as patch:
        patch.setattr(AlarmInFirstAttempt, "kill_at", kill_at)
        run_job(job, cut)
    assert bool(list(cut.glob("checkpoint-*"))) == ("save_steps" in saves)
    run = run_job(job, cut)
    assert AlarmInFirstAttempt.began == [0, 1, 1]  # the first attempt is not trained again
    assert results(cut) == results(whole) and run.steps_spent == 6
    assert folders_in(cut) == folders_in(whole) == ["attempt-0"]


@pytest.mark.slow
def test_an_audit_trains_the_first_attempt_to_the_end_of_the_plain_run(tiny_jobs, tmp_path, forced):
    forced.setattr(run_module, "audits", lambda seed, share: True)
    (job,) = tiny_jobs(tmp_path, seeds=(1,), on_alarm="restart")
    told: list[tuple] = []
    run = run_job(job, tmp_path / "run", lambda *done: told.append(done))
    (plain_job,) = tiny_jobs(tmp_path, seeds=(1,))
    plain = run_job(plain_job, tmp_path / "plain")
    assert run.audited and run.first_status == plain.status and run.steps_spent == 6
    assert read_run(tmp_path / "run") == run and not list((tmp_path / "run").rglob("checkpoint-*"))
    audit = tmp_path / "run" / "audit"
    assert (audit / "steps.rec").read_bytes() == (tmp_path / "plain" / "steps.rec").read_bytes()
    assert [done[4] for done in told[::2]] == ["attempt 1 of 3", "attempt 2 of 3", "attempt 2 of 3", "", ""]


@pytest.mark.slow
def test_a_run_that_is_killed_in_its_audit_keeps_its_attempts(tiny_jobs, tmp_path, forced):
    forced.setattr(run_module, "audits", lambda seed, share: True)
    (job,) = tiny_jobs(tmp_path, seeds=(1,), on_alarm="restart")
    run = run_job(job, tmp_path / "whole")

    def killed(*_):
        raise Killed

    with pytest.raises(Killed), forced.context() as patch:
        patch.setattr(run_module, "_audit", killed)
        run_job(job, tmp_path / "cut")
    assert read_run(tmp_path / "cut") is None
    assert run_job(job, tmp_path / "cut") == run and results(tmp_path / "cut") == results(tmp_path / "whole")


@pytest.mark.parametrize(("restart_with", "why"), [("mine.yaml", "packaged recipe"), ("stilts", "stages")])
def test_a_restart_that_a_study_cannot_repeat_is_refused(restart_with, why):
    with pytest.raises(InputError, match=rf"^--restart_with {restart_with}: .*{why}"):
        _check_restarts(restart_with)
    assert _check_restarts("mosbach2021") is None


def test_a_restart_that_changes_what_a_trainer_reads_once_is_refused_in_the_plan(monkeypatch):
    monkeypatch.setattr(restart_settings, "READ_ONCE", ("weight_decay",))  # no packaged recipe sets a real one
    given = {"on_alarm": "restart", "restart_with": "mosbach2021", "use_cpu": True, "report_to": "none"}
    recipe = load_recipe("devlin2019")
    with pytest.raises(
        InputError, match="^--restart_with mosbach2021: a restart cannot change weight_decay; give seed"
    ):
        prepare.resolved_settings(recipe, "bert", {}, {**given, "weight_decay": 0.5})
    prepare.resolved_settings(recipe, "bert", {}, {**given, "weight_decay": 0.01})
