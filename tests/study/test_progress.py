"""A study's progress: counts, time left, lines and the live table; with a fake clock, and on a real terminal."""

from __future__ import annotations

import io
import json
import re
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from hf_stability.diagnostics.early_warning import check
from hf_stability.diagnostics.recorder import Recorder
from hf_stability.diagnostics.step_record import read_steps
from hf_stability.study import progress
from hf_stability.study.executors.event import Event, throttled
from hf_stability.study.executors.in_process import execute_in_process
from hf_stability.study.job import STAGE, Job
from hf_stability.study.live import LiveTable, PlainLines, minute_text, table_lines, terminal
from hf_stability.study.progress import Progress
from hf_stability.study.progress_file import PROGRESS, RunningRun, Snapshot, read_progress, write_progress
from hf_stability.study.records import RunRecord, read_run
from hf_stability.study.status import StatusReader
from hf_stability.study.study import run_jobs
from hf_stability.study.tally import EARLIEST, Tally
from hf_stability.utils.files import write_json
from tests.study.tools import results
from tests.terminal import Screen, Terminal


class Clock:
    """Seconds that pass only when the test says so."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def job(seed: int, steps: int = 100, **values) -> Job:
    return Job("devlin2019", seed, "tiny", {"max_steps": steps}, {}, "", "", **values)


def record(seed: int, status: str = "ok") -> RunRecord:
    return RunRecord("id", "devlin2019", seed, "tiny", status, "accuracy", sentence=f"{status}: as it says")


def step(of: Job, steps: int, **values) -> Event:
    return Event(of, "progress", steps, of.args["max_steps"], **values)


# ---- counts and the time left ---------------------------------------------------------------------------------------


def test_the_time_left_follows_the_pace_of_this_call():
    clock, jobs = Clock(), [job(seed) for seed in range(1, 5)]
    tally = Tally(jobs, [record(9), record(10)], clock=clock)
    clock.now += 60  # imports: they come once
    assert tally.seconds_left is None
    tally.take(step(jobs[0], 1))
    for steps in range(2, 52):
        clock.now += 1
        tally.take(step(jobs[0], steps))
        assert (tally.seconds_left is None) == (steps - 1 < EARLIEST)
    assert tally.share == pytest.approx(51 / 400)
    assert tally.seconds_left == pytest.approx(349)  # a second per step, whatever was kept


def test_a_resumed_run_a_crash_and_an_alarm_do_not_count_as_work_done():
    clock, jobs = Clock(), [job(seed) for seed in range(1, 5)]
    tally = Tally(jobs, clock=clock)
    tally.take(step(jobs[0], 1))
    tally.take(step(jobs[1], 51))  # resumed from step 50
    clock.now += 20
    tally.take(step(jobs[0], 11))
    tally.take(Event(jobs[0], "finished", run=record(1, "stopped")))
    tally.take(Event(jobs[2], "crashed", error="MemoryError"))
    assert tally.work_here == pytest.approx(11 / 400) and tally.share == pytest.approx((100 + 51 + 100) / 400)
    assert tally.seconds_left == pytest.approx(149 * 20 / 11)


def test_the_slowest_running_run_bounds_the_time_left():
    clock, jobs = Clock(), [job(1), job(2)]
    tally = Tally(jobs, clock=clock)
    tally.take(step(jobs[0], 1))
    tally.take(step(jobs[1], 1))
    clock.now += 50
    tally.take(step(jobs[0], 100))
    tally.take(step(jobs[1], 11))
    assert tally.seconds_left == pytest.approx(89 * 50 / 11)


def test_a_crashed_run_that_is_run_again_counts_once():
    clock, (first, second) = Clock(), (job(1), job(2))
    tally = Tally([first, second], clock=clock)
    tally.take(step(first, 50))
    tally.take(Event(first, "again", error="MemoryError"))
    assert tally.share == 0 and tally.snapshot().again == 1 and tally.snapshot().crashed == {}
    tally.take(step(first, 1, loss=0.5, risk=0.25))
    now = tally.snapshot()
    assert now.again == 0 and now.running == (RunningRun(first.name, "devlin2019", "1", 1, 100, 0.5, 0.25),)
    tally.take(Event(first, "crashed", error="MemoryError"))
    tally.take(Event(second, "finished", run=record(2, "failed")))
    now = tally.snapshot()
    assert (now.finished, now.failed, now.crashed, now.running) == (1, 1, {first.name: "MemoryError"}, ())


def test_runs_at_their_look_wait_and_the_others_end():
    jobs = [job(1), job(2)]
    tally = Tally(jobs)
    tally.take(step(jobs[0], 25))
    tally.take(Event(jobs[0], "looked", run=record(1)))
    assert tally.snapshot().running == () and tally.finished == 0 and tally.share == pytest.approx(25 / 200)
    tally.end(record(1, "stopped early"))
    tally.end(record(2, "waiting"))
    assert tally.finished == 1 and tally.share == 1


def test_work_is_in_epochs_where_runs_have_no_steps():
    jobs = [
        Job("a", 1, "tiny", {"num_train_epochs": 3.0, "per_device_train_batch_size": 8}, {}, "", ""),
        Job("b", 1, "tiny", {"num_train_epochs": 9.0, "per_device_train_batch_size": 8}, {}, "", ""),
    ]
    assert Tally(jobs).shares == {"a/seed-001": 0.25, "b/seed-001": 0.75}
    assert Tally([]).share == 1


def test_an_event_of_a_run_that_was_not_planned_does_no_harm():
    tally = Tally([job(1)])
    tally.take(step(job(2), 50))
    tally.take(Event(job(2), "finished", run=record(2)))
    assert tally.share == 0 and tally.finished == 1


# ---- text -----------------------------------------------------------------------------------------------------------

SEEDS = ("7", "1003", "i2 o1 d1")
RECIPES = (
    "devlin2019",
    "devlin2019+rates.yaml,learning_rate=2e-05+a_very_long_name_of_a_method_of_mine",
    "mosbach2021",
)
SIXTEEN = tuple(
    RunningRun(
        str(i), RECIPES[i % 3], SEEDS[i % 3], 37 * i, 1000, (None, 0.41, 3e-5)[i % 3], (None, 0.12, 0.95)[i % 3]
    )
    for i in range(16)
)
BUSY = Snapshot(
    planned=tuple(map(str, range(300))),
    running=SIXTEEN,
    finished=12,
    failed=1,
    again=1,
    crashed={"a": "b"},
    share=0.243,
    seconds_left=7800,
)


@pytest.mark.parametrize("width", [60, 80, 120, 30])
def test_sixteen_runs_fit_on_a_terminal(width):
    lines = table_lines(BUSY, width - 1, 23)
    assert len(lines) <= 23 and max(len(line.text) for line in lines) < width
    assert lines[0].text.startswith("recipe")
    if width >= 60:
        assert lines[0].text.split() == ["recipe", "seed", "step", "loss", "risk"]
        assert len([line for line in lines if "/1000" in line.text]) == 16
        assert lines[3].text.split() == ["mosbach2021", "i2", "o1", "d1", "74/1000", "3e-05", "0.95"]
        assert "12 of 300 runs finished (1 failed), 1 crashed" in " ".join(line.text for line in lines)
        assert lines[-1].text.endswith(" 24%  2 h 10 min left")
    assert [line.style for line in lines[1:4]] == ["", "", "yellow"]  # a risk that raises the alarm


def test_rows_that_do_not_fit_are_counted():
    lines = [line.text for line in table_lines(BUSY, 79, 10)]
    assert len(lines) <= 10 and "... and 10 more" in lines


def test_the_table_keeps_its_widths_while_numbers_grow():
    few, many = (
        table_lines(Snapshot(running=(RunningRun("a", "devlin2019", "7", steps, 1000, loss),)), 79)
        for steps, loss in ((1, 0.7), (1000, 3e-5))
    )
    assert (
        few[0] == many[0] and len(few[1].text) == len(many[1].text) and many[1].text.endswith("1000/1000  3e-05     -")
    )


def test_a_study_in_one_line():
    two = Snapshot(planned=("a", "b", "c"), running=SIXTEEN[:2], finished=1, seconds_left=45)
    assert minute_text(two) == (
        "1 of 3 runs finished; 2 running: devlin2019 seed 7 step 0/1000 and "
        f"{RECIPES[1]} seed 1003 step 37/1000 loss 0.41 risk 0.12; 45 s left"
    )
    assert "step 111/1000 and 12 more; 2 h 10 min left" in minute_text(BUSY)
    assert minute_text(Snapshot(kind="stage", planned=("a",))) == "0 of 1 stage finished"


# ---- where it is shown ----------------------------------------------------------------------------------------------


def test_plain_lines_come_once_a_minute(capsys):
    clock = Clock()
    lines = PlainLines(clock)
    for _ in range(4 * 150):  # 150 s
        clock.now += 0.25
        lines.draw(BUSY)
    assert capsys.readouterr().out == f"{minute_text(BUSY)}\n" * 2


@pytest.mark.parametrize("broken", [OSError, ValueError])
def test_a_study_outlives_its_standard_output(monkeypatch, broken):
    class Gone(io.StringIO):
        def write(self, text):
            raise broken

    monkeypatch.setattr(sys, "stdout", Gone())
    with Progress([job(1)]) as shown:
        shown.show(Event(job(1), "finished", run=record(1)))


def test_only_a_terminal_that_can_move_its_cursor_gets_a_table(monkeypatch):
    class Tty(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    for variable in ("TTY_COMPATIBLE", "TTY_INTERACTIVE", "FORCE_COLOR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(sys, "stdout", Tty())
    assert terminal() is not None
    monkeypatch.setenv("TERM", "dumb")
    assert terminal() is None
    monkeypatch.setenv("TERM", "xterm")
    for other in (io.StringIO(), None, SimpleNamespace(write=print)):  # a file; pythonw; a notebook's own stream
        monkeypatch.setattr(sys, "stdout", other)
        assert terminal() is None


def as_shown(file: io.StringIO) -> str:
    """As a terminal gets it: the system puts a carriage return before each new line."""
    return file.getvalue().replace("\n", "\r\n")


def drawn(width: int, monkeypatch, **env: str) -> tuple[Screen, str]:
    """The table at work, and what is left of it at the end."""
    for name in ("NO_COLOR", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    file = io.StringIO()
    table = LiveTable(Console(file=file, force_terminal=True, width=width, height=24, color_system="standard"))
    table.draw(BUSY)
    table.print("devlin2019/seed-007: ok: [bold]" + " long" * 40)
    table.draw(BUSY)
    working = Screen(width)
    working.write(as_shown(file))
    assert not working.cursor_shown and not working.unknown
    table.close()
    ended = Screen(width)
    ended.write(as_shown(file))
    assert ended.cursor_shown
    return working, ended.text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_lines_scroll_above_the_table_which_is_gone_at_the_end(width, monkeypatch):
    working, left = drawn(width, monkeypatch)
    line = "devlin2019/seed-007: ok: [bold]" + " long" * 40
    assert "".join(left.split("\n")).replace(" ", "") == line.replace(" ", "")  # wrapped by the terminal
    text = working.text
    assert text.count("recipe ") == 1 and text.count("/1000") == 16 and text.index("long") < text.index("recipe")
    assert working.wrapped == len(line) // width and working.colours


def test_there_are_no_colours_where_none_are_wanted(monkeypatch):
    working, _ = drawn(80, monkeypatch, NO_COLOR="1")
    assert working.colours == 3  # the header is bold: it was drawn, and again for the line, and again
    assert "recipe" in working.text


class BrokenTable(LiveTable):
    def __init__(self, console):
        pass

    def print(self, line):
        raise RuntimeError("no drawing today")

    draw = print

    def close(self):
        raise RuntimeError("nor this")


def test_a_drawing_error_ends_the_drawing_and_not_the_study(monkeypatch, capsys):
    monkeypatch.setattr(progress, "terminal", lambda: True)
    monkeypatch.setattr(progress, "LiveTable", BrokenTable)
    with Progress([job(1), job(2)]) as shown:
        shown.show(Event(job(1), "finished", run=record(1)))
        shown.show(Event(job(2), "crashed", error="MemoryError"))
    assert capsys.readouterr().out.splitlines() == [
        "devlin2019/seed-001: ok: as it says",
        "devlin2019/seed-002: crashed: MemoryError",
    ]


def test_a_custom_function_gets_each_line_and_none_per_minute(capsys):
    clock, said = Clock(), []
    with Progress([job(1), job(2)], [record(3)], say=said.append, clock=clock) as shown:
        clock.now += 61
        shown.tick()
        shown.show(Event(job(1), "again", error="MemoryError"))
        shown.show(Event(job(1), "finished", run=record(1)))
    assert said == [
        "1 finished run found, kept",
        "devlin2019/seed-001: crashed: MemoryError; it will be run again",
        "devlin2019/seed-001: ok: as it says",
    ]
    assert capsys.readouterr().out == ""


def test_a_minute_line_comes_while_no_event_comes(capsys):
    clock = Clock()
    with Progress([job(1)], clock=clock) as shown:
        shown.show(step(job(1), 10))
        clock.now += 61
        shown.tick()
    assert capsys.readouterr().out == "0 of 1 run finished; 1 running: devlin2019 seed 1 step 10/100\n"


def test_quiet_prints_nothing_and_its_thread_ends(capsys, tmp_path):
    clock, before = Clock(), threading.active_count()
    with Progress([job(1)], [record(2)], quiet=True, folder=tmp_path, clock=clock) as shown:
        clock.now += 61
        shown.tick()
        shown.show(Event(job(1), "finished", run=record(1)))
    assert capsys.readouterr() == ("", "") and threading.active_count() == before
    assert read_progress(tmp_path).finished == 2


# ---- progress.json --------------------------------------------------------------------------------------------------


def test_progress_json_tells_how_far_the_study_is_and_how_it_ended(tmp_path):
    clock, jobs = Clock(), [job(1), job(2)]
    with Progress(jobs, [record(3, "failed")], quiet=True, folder=tmp_path, clock=clock) as shown:
        first = read_progress(tmp_path)
        assert (first.state, first.finished, first.failed) == ("running", 1, 1)
        assert first.planned == tuple(f"devlin2019/seed-00{seed}" for seed in (3, 1, 2))
        shown.show(step(jobs[0], 7, loss=float("nan"), risk=1.0))
        shown.tick()
        assert read_progress(tmp_path) == first  # not yet due
        clock.now += 2
        shown.tick()
        now = read_progress(tmp_path)
        assert (
            now.running == (RunningRun(jobs[0].name, "devlin2019", "1", 7, 100, None, 1.0),) and now.beat > first.beat
        )
        json.loads((tmp_path / PROGRESS).read_text(), parse_constant=pytest.fail)  # NaN is no JSON
    assert read_progress(tmp_path).state == "ended" and read_progress(tmp_path).running == ()
    with pytest.raises(KeyboardInterrupt), Progress(jobs, quiet=True, folder=tmp_path):
        raise KeyboardInterrupt
    assert read_progress(tmp_path).state == "interrupted"


def test_stages_hand_over_to_the_runs(tmp_path):
    stage = job(1, keep_model=STAGE)
    with Progress([stage], quiet=True, kind="stage", folder=tmp_path) as shown:
        shown.show(Event(stage, "finished", run=record(1)))
    assert (read_progress(tmp_path).state, read_progress(tmp_path).kind) == ("running", "stage")
    with Progress([stage], quiet=True, kind="stage", folder=tmp_path) as shown:
        shown.show(Event(stage, "crashed", error="MemoryError"))
    assert read_progress(tmp_path).state == "ended"


def test_a_call_without_runs_only_corrects_what_a_killed_one_has_left(tmp_path):
    with Progress([], [record(1)], quiet=True, folder=tmp_path):
        pass
    assert not (tmp_path / PROGRESS).exists()
    for state, beat in (("ended", 7), ("running", 1)):
        write_progress(tmp_path, Snapshot(state=state, beat=7))
        with Progress([], [record(1)], quiet=True, folder=tmp_path):
            pass
        assert (read_progress(tmp_path).state, read_progress(tmp_path).beat) == ("ended", beat)


def test_a_folder_that_was_moved_is_not_made_again(tmp_path):
    clock = Clock()
    with Progress([job(1)], quiet=True, folder=tmp_path / "study", clock=clock) as shown:
        (tmp_path / "study").rename(tmp_path / "moved")
        clock.now += 3
        shown.tick()
    assert [path.name for path in tmp_path.iterdir()] == ["moved"]


def test_a_full_disk_does_not_end_a_study(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(progress, "write_progress", full)
    with Progress([job(1)], quiet=True, folder=tmp_path) as shown:
        shown.tick()
    assert not (tmp_path / PROGRESS).exists()


# ---- what runs tell -------------------------------------------------------------------------------------------------


def test_a_worker_reports_its_first_and_last_step_and_a_few_between(monkeypatch):
    clock, told = Clock(), []
    monkeypatch.setattr("hf_stability.study.executors.event.time.monotonic", clock)
    report = throttled(lambda *done: told.append(done))
    for number in range(1, 101):
        report(number, 100, 0.5, None)
        clock.now += 1 / 64
    assert [done[0] for done in told] == [1, 14, 27, 40, 53, 66, 79, 92, 100] and told[0] == (1, 100, 0.5, None)


def test_events_have_the_loss_and_the_risk_that_the_run_has_recorded(tiny_jobs, tmp_path, no_heat_maps):
    (job,) = tiny_jobs(tmp_path, seeds=(1,), max_steps=20, warmup_steps=1)
    events = []
    execute_in_process([job], [tmp_path / "run"], events.append)
    record = read_steps(tmp_path / "run" / "steps.rec")
    told = [event for event in events if event.kind == "progress"]
    assert [event.loss for event in told] == record["loss"].tolist()
    risks = {event.steps: event.risk for event in told}
    assert risks[5] is None and risks[20] == pytest.approx(check(record, 19, 20)[0], abs=1e-6)


def test_the_loss_of_a_step_that_is_still_on_the_device_is_not_asked_for():
    class OnGpu:
        device = SimpleNamespace(type="cuda")

        def __getitem__(self, index):
            raise AssertionError("this would wait for the device")

    flushed = SimpleNamespace(
        blocks=[np.array([[1, 1e-5, 0.7], [2, 1e-5, 0.6]], "<f4")], file_columns=["step", "lr", "loss"]
    )
    recorder = SimpleNamespace(_rows=[(3, [], OnGpu(), OnGpu())], args=SimpleNamespace(world_size=1), record=flushed)
    assert Recorder.last_loss(recorder) == pytest.approx(0.6)
    flushed.blocks = []
    assert Recorder.last_loss(recorder) is None


# ---- a study in a file and on a terminal ----------------------------------------------------------------------------


def test_a_log_file_has_a_line_per_run_and_no_control_characters(tiny_jobs, tmp_path, capfd):
    jobs = tiny_jobs(tmp_path)
    capfd.readouterr()
    run_jobs(jobs, tmp_path)
    out, err = capfd.readouterr()
    assert not re.search(r"[\r\x1b]", out + err)
    runs = [read_run(tmp_path / "runs" / job.name) for job in jobs]
    assert out.splitlines()[:2] == [f"{run.name}: {run.sentence}" for run in runs]
    assert [line.partition(":")[0] for line in out.splitlines()].count(jobs[0].name) == 1


SCRIPT = """
import json
import sys
from pathlib import Path

from hf_stability.study.execution import Execution
from hf_stability.study.job import Job
from hf_stability.study.study import run_jobs

if __name__ == "__main__":
    jobs = [Job.from_dict(job) for job in json.loads(Path(sys.argv[1], "jobs.json").read_text())]
    try:
        run_jobs(jobs, sys.argv[1], Execution(workers=int(sys.argv[2])))
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.fixture
def study(tiny_jobs, tmp_path):
    """A function of update steps and workers: a script with its words, a study of two seeds in `tmp_path`."""

    def words(steps: int, workers: int) -> list[object]:
        jobs = tiny_jobs(tmp_path, max_steps=steps, eval_strategy="no")
        write_json(tmp_path / "jobs.json", [job.to_dict() for job in jobs])
        (tmp_path / "script.py").write_text(SCRIPT)
        return [tmp_path / "script.py", tmp_path, workers]

    return words


@pytest.mark.slow
def test_ctrl_c_leaves_a_clean_terminal_and_another_shell_sees_it(study, tmp_path):
    with Terminal(study(300, 0)) as shell:
        shell.read_until(lambda output: "1 running" in output)
        shown = shell.screen()
        assert re.search(r"^recipe +seed +step +loss +risk$", shown.text, re.M) and not shown.cursor_shown
        assert re.search(r"^devlin2019 +1 +\d+/300 +0\.\d\d", shown.text, re.M)
        status = StatusReader(tmp_path).read()
        assert status.state == "running" and status.snapshot.process == shell.process.pid
        shell.press_ctrl_c()
        assert shell.end() == 130
        ended = shell.screen()
    assert ended.text in ("", "^C") and ended.cursor_shown and not ended.unknown
    status = StatusReader(tmp_path).read()
    assert status.state == "interrupted" and status.left == 2


@pytest.mark.slow
def test_a_study_in_workers_on_a_terminal(study, tmp_path):
    words, began = study(200, 2), time.monotonic()
    with Terminal(words) as shell:
        shell.read_until(lambda output: "2 running" in output)
        assert len(re.findall(r"^devlin2019 +\d +\d+/200 ", shell.screen().text, re.M)) == 2
        assert shell.end() == 0
        ended = shell.screen()
    assert shell.output.count("[2K") and shell.output.count("% ") <= 4 * (time.monotonic() - began)  # it is calm
    assert ended.cursor_shown and not ended.unknown
    assert ended.text.count("devlin2019/seed-00") == 2 and "accuracy at the end of training" in ended.text
    assert " running" not in ended.text and "step" not in ended.text  # the table is gone
    before = results(tmp_path)
    with Terminal(words) as again:
        assert again.end() == 0
    assert results(tmp_path) == before and "2 finished runs found, kept" in again.output
    assert "step" not in again.output


@pytest.mark.slow
def test_a_killed_study_is_told_as_gone(study, tmp_path):
    with Terminal(study(2000, 1), NO_COLOR="1") as shell:
        shell.read_until(lambda output: "1 running" in output)
        assert StatusReader(tmp_path).read().state == "running"
        shell.process.kill()
        shell.process.join()
        status = StatusReader(tmp_path).read()
        assert status.state == "not running" and status.snapshot.running == () and status.left == 2
        assert shell.screen().colours <= shell.output.count("recipe")  # the header is bold
