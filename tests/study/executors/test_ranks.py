"""`--parallel seeds`: ranks share a study's jobs. First in threads, with fake runs; then as real processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch.distributed

from hf_stability.cli import main
from hf_stability.errors import InputError
from hf_stability.study.executors import ranks, seen
from hf_stability.study.executors.event import Event, ending
from hf_stability.study.executors.ranks import Ranks
from hf_stability.study.records import RunRecord
from hf_stability.utils.launcher import Place
from tests.processes import run_script
from tests.study.executors.test_workers import ROOT, Command, arguments, linux, results, wait_for
from tests.toy import TWO_PROCESSES


# --- in threads --------------------------------------------------------------------------------------------------------


@pytest.fixture
def three(monkeypatch):
    """Three ranks with short signs of life. None of them can kill the tests' process."""
    for name, seconds in (("POLL", 0.01), ("SIGN", 0.02), ("SILENCE", 60.0), ("SHARED", 0.1), ("GOODBYE", 0.2)):
        monkeypatch.setattr(ranks, name, seconds)
    monkeypatch.setattr(ranks.os, "kill", lambda *what: None)
    store = torch.distributed.HashStore()
    made = [Ranks(store, Place(rank, 3, rank, 3)) for rank in range(3)]
    yield made
    for one in made:
        one.leave()


class FakeRuns:
    """In place of `execute_in_process`: notes which thread ran what, and waits until each of the threads has one."""

    def __init__(self, monkeypatch, together: int):
        self.ran: list[tuple[str, str, bool]] = []
        self.barrier = threading.Barrier(together)
        self.waits = together
        monkeypatch.setattr(ranks, "execute_in_process", self)

    def __call__(self, jobs, folders, listen):
        (job,), (folder,) = jobs, folders
        self.ran.append((threading.current_thread().name, job.name, job.until_look))
        if len(self.ran) <= self.waits:
            self.barrier.wait(10)
        listen(Event(job, "progress", 1, 2, 0.5, None))
        if job.seed == 2:
            listen(Event(job, "crashed", error="ValueError: no"))
        else:
            run = RunRecord(job.id, job.recipe, job.seed, job.task, "ok", "accuracy", last=0.1 + 0.2)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / ("look.json" if job.until_look else "run.json")).touch()
            listen(Event(job, ending(job), run=run))


def folders(jobs, name="study"):
    """The jobs' folders, beside the data."""
    return [Path(job.data_folder).parent / name / job.name for job in jobs]


@pytest.fixture
def jobs(tiny_jobs, tmp_path):
    return tiny_jobs(tmp_path, seeds=(1, 2, 3, 4, 5, 6))


def serve(rank: Ranks, jobs, outcome: list, name="study") -> threading.Thread:
    def work():
        try:
            outcome.append(rank.serve(jobs, folders(jobs, name)))
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=work, name=f"rank {rank.rank}", daemon=True)
    thread.start()
    return thread


def test_ranks_share_the_jobs_of_each_round_and_the_main_one_hears_all(three, jobs, monkeypatch):
    main_rank, *others = three
    fake, outcome, events = FakeRuns(monkeypatch, together=3), [], []
    threads = [serve(rank, jobs, outcome) for rank in others]
    with main_rank.leading(jobs) as told:
        main_rank.execute([replace(job, until_look=True) for job in jobs], folders(jobs), events.append)
        assert sorted(name for _, name, _ in fake.ran) == [job.name for job in jobs]
        assert len({thread for thread, *_ in fake.ran}) == 3 and all(look for *_, look in fake.ran)
        ended = [event for event in events if event.kind != "progress"]
        assert [event.kind for event in ended].count("looked") == 5 and len(ended) == 6
        assert {event.run.last for event in ended if event.run} == {0.1 + 0.2}
        assert [(event.job.seed, event.error) for event in ended if event.kind == "crashed"] == [(2, "ValueError: no")]
        assert {(event.steps, event.loss) for event in events if event.kind == "progress"} == {(1, 0.5)}
        main_rank.execute([], [], events.append)  # no round
        main_rank.execute(jobs[1:2], folders(jobs[1:2]), events.append)
        assert fake.ran[6:][0][1:] == (jobs[1].name, False) and len(fake.ran) == 7
        told["summary"] = {"runs": []}
    for thread in threads:
        thread.join(10)
    assert outcome == [{"end": "done", "summary": {"runs": []}}] * 2


@pytest.mark.parametrize(
    ("error", "kind"),
    [(InputError("in use"), InputError), (KeyboardInterrupt(), KeyboardInterrupt), (OSError("full"), dict)],
)
def test_other_ranks_end_as_the_main_one_does(three, jobs, error, kind):
    main_rank, *others = three
    outcome = []
    threads = [serve(rank, jobs, outcome) for rank in others]
    with pytest.raises(type(error)), main_rank.leading(jobs):
        raise error
    for thread in threads:
        thread.join(10)
    assert [type(one) for one in outcome] == [kind] * 2
    assert kind is not dict or outcome[0] == {"end": "OSError", "message": "full"}


def test_a_rank_with_other_jobs_is_refused(three, jobs, monkeypatch):
    main_rank, *others = three

    def run_until_it_tells(jobs, folders, listen):
        wait_for(lambda: main_rank.store.check(["event/2/0"]), 10)
        listen(Event(jobs[0], "crashed"))

    monkeypatch.setattr(ranks, "execute_in_process", run_until_it_tells)
    outcome = []
    threads = [serve(rank, jobs[rank.rank - 1 :], outcome) for rank in others]
    with pytest.raises(InputError, match="process 2 on .* planned other runs"), main_rank.leading(jobs):
        main_rank.execute(jobs, folders(jobs), lambda event: None)
    for thread in threads:
        thread.join(10)
    assert all("planned other runs" in str(one) for one in outcome) and len(outcome) == 2


def test_a_refusal_is_no_crash_of_the_main_ranks_own_run(three, jobs, monkeypatch):
    main_rank, *others = three

    def train(job, folder, report):
        wait_for(lambda: main_rank.store.check(["event/2/0"]), 10)
        report(1, 2, None, None)

    monkeypatch.setattr("hf_stability.study.run.run_job", train)
    events = []
    threads = [serve(rank, jobs[1:], []) for rank in others]
    with pytest.raises(InputError, match="process [12] on .* planned other runs"), main_rank.leading(jobs):
        main_rank.execute(jobs, folders(jobs), events.append)
    for thread in threads:
        thread.join(10)
    assert {event.kind for event in events} == {"progress"}


def test_a_study_goes_on_after_another_one_of_the_same_processes_ended_badly(three, jobs, monkeypatch):
    main_rank, *others = three
    killed, outcome, events = [], [], []

    def end_badly(jobs, folders, listen):
        if threading.current_thread().name.startswith("rank"):
            raise KeyboardInterrupt
        wait_for(lambda: len(outcome) == 2, 10)
        raise OSError("full")

    monkeypatch.setattr(ranks, "execute_in_process", end_badly)
    threads = [serve(rank, jobs, outcome) for rank in others]
    with pytest.raises(OSError, match="full"), main_rank.leading(jobs):
        main_rank.execute(jobs, folders(jobs), events.append)
    assert [type(one) for one in outcome] == [KeyboardInterrupt] * 2

    def run_for_a_while(jobs, folders, listen):
        before = signs()
        wait_for(lambda: all(now > then + 2 for now, then in zip(signs(), before, strict=True)), 10)
        fake(jobs, folders, listen)

    def signs():
        return [rank._whole_store.add(f"alive/{rank.rank}", 0) for rank in others]

    fake = FakeRuns(monkeypatch, together=1)
    monkeypatch.setattr(ranks, "execute_in_process", run_for_a_while)
    monkeypatch.setattr(ranks.os, "kill", lambda *what: killed.append(what))
    outcome.clear()
    threads = [serve(rank, jobs, outcome) for rank in others]
    with main_rank.leading(jobs):
        main_rank.execute(jobs, folders(jobs), events.append)
    for thread in threads:
        thread.join(10)
    assert outcome == [{"end": "done"}] * 2 and killed == []
    assert len([event for event in events if event.kind != "progress"]) == 6


def test_the_main_rank_tells_the_end_of_a_run_when_its_files_are_there(three, jobs, monkeypatch):
    """A network file system shows the other ranks' files late: at the third look."""
    main_rank, *others = three
    looks: list[Path] = []
    monkeypatch.setattr(seen, "POLL_S", 0.001)
    monkeypatch.setattr(seen, "_is_seen", lambda path: looks.append(path) or looks.count(path) >= 3)
    fake, heard = FakeRuns(monkeypatch, together=3), {}
    threads = [serve(rank, jobs, []) for rank in others]

    def listen(event):
        if event.run is not None:
            heard[event.job.name] = [looks.count(path) for path in dict.fromkeys(looks) if event.job.name in str(path)]

    with main_rank.leading(jobs):
        main_rank.execute([replace(job, until_look=True) for job in jobs], folders(jobs), listen)
    own = [name for thread, name, _ in fake.ran if not thread.startswith("rank")]
    assert {name: [] if name in own else [3] for name in heard} == heard and len(own) < 5 == len(heard)
    for thread in threads:
        thread.join(10)


def test_a_rank_waits_for_the_files_from_which_a_run_goes_on(three, jobs, monkeypatch):
    """Ranks 1 and 2 never see the main rank's files."""
    main_rank, *others = three
    monkeypatch.setattr(seen, "SHARED_DELAY_S", 0.05)
    monkeypatch.setattr(seen, "POLL_S", 0.01)
    for job, folder in zip(jobs, folders(jobs), strict=True):
        (folder / "checkpoint-5").mkdir(parents=True)
        (folder / "checkpoint-5" / "model.safetensors").touch()
        (folder / "config.json").write_text(json.dumps({"id": job.id}))
    FakeRuns(monkeypatch, together=1)
    monkeypatch.setattr(main_rank, "_take", lambda jobs: None)
    events = []
    threads = [serve(rank, jobs, [], "elsewhere") for rank in others]
    with main_rank.leading(jobs):
        main_rank.execute(jobs, folders(jobs), events.append)
    for thread in threads:
        thread.join(10)
    assert {event.kind for event in events} == {"crashed"} and len(events) == 6
    assert all(
        event.error.startswith("FileNotFoundError: ") and "does not show up here" in event.error for event in events
    )


def test_a_rank_that_was_given_up_leaves_its_run_when_it_wakes(three, jobs, monkeypatch):
    main_rank, sleeper, _ = three
    monkeypatch.setattr(ranks, "SILENCE", 0.2)
    fake, steps, events = FakeRuns(monkeypatch, together=0), [], []
    numbers = {job.name: number for number, job in enumerate(jobs)}

    def run(jobs, folders, listen):
        (job,) = jobs
        if threading.current_thread().name == "rank 1":
            sleeper.leave()
            wait_for(lambda: main_rank.store.check([f"lost/1/{numbers[job.name]}"]), 10)
            steps.append(job.name)
            listen(Event(job, "progress", 1, 2))
            steps.append("another step")
        else:
            wait_for(lambda: listen(Event(job, "progress", 1, 2)) or steps, 10)
            fake(jobs, folders, listen)

    monkeypatch.setattr(ranks, "execute_in_process", run)
    thread = serve(sleeper, jobs, [])
    with main_rank.leading(jobs):
        main_rank.execute(jobs, folders(jobs), events.append)
    thread.join(10)
    assert "another step" not in steps and [event.kind for event in events if event.job.name == steps[0]] == [
        "crashed"
    ]


def test_a_rank_that_does_not_see_the_folder_is_refused(three, jobs):
    _, rank, _ = three
    away = [replace(job, data_folder="/not/shared") for job in jobs]
    rank.plan = ranks.fingerprint(away)
    message = {"plan": rank.plan, "jobs": [[away[0].name, False]]}
    assert "does not see /not/shared; give an --output_dir on a file system" in rank._refusal(
        message, {away[0].name: (away[0], Path())}
    )


def test_the_job_of_a_dead_rank_has_crashed(three, jobs, monkeypatch):
    """Rank 2 takes a job, and is never heard of again."""
    main_rank, one, dead = three
    monkeypatch.setattr(ranks, "SILENCE", 0.5)
    FakeRuns(monkeypatch, together=1)
    events, outcome = [], []
    dead.leave()
    dead._begin(jobs)
    dead.round = 1
    taken = dead._take(6)
    thread = serve(one, jobs, outcome)
    with main_rank.leading(jobs):
        main_rank.execute(jobs, folders(jobs), events.append)
    thread.join(10)
    lost = [event for event in events if event.job is jobs[taken] and event.kind == "crashed"]
    assert len(lost) == 1 and lost[0].error == "process 2 of 3 is gone: no sign of life"
    assert len({event.job.name for event in events if event.kind in ("finished", "crashed")}) == 6


def test_jobs_that_nobody_took_are_not_lost_with_a_dead_rank(jobs, monkeypatch):
    """Rank 1 of 2 took the first job, and is gone before the main rank runs the others."""
    monkeypatch.setattr(ranks, "POLL", 0.0)
    monkeypatch.setattr(ranks, "SILENCE", 0.0)
    main_rank = Ranks(torch.distributed.HashStore(), Place(0, 2, 0, 2))
    FakeRuns(monkeypatch, together=1)
    main_rank.store.add("next/1", 1)
    main_rank.store.set("taken/1/0", "1")
    events = []
    main_rank.execute(jobs, folders(jobs), events.append)
    main_rank.leave()
    assert [event.job.seed for event in events if "gone" in event.error] == [1]
    assert {event.job.seed for event in events if event.kind == "finished"} == {3, 4, 5, 6}


# --- in processes ------------------------------------------------------------------------------------------------------


CRASH = """
from hf_stability.methods import Method


class Crash(Method):
    def begin_training(self, model, trainer):
        if trainer.args.seed == 3:
            raise RuntimeError("seed 3 has crashed")
"""


RECIPE = """
args: {learning_rate: 1e-3, total_train_batch_size: 8, bias_correction: false, max_grad_norm: 0.5, seed_streams: true}
"""


@pytest.mark.slow
def test_two_processes_give_the_bytes_of_one(tiny_model, tiny_csv, tmp_path):
    """After a stage, with a look in the middle of the runs."""
    train, dev = tiny_csv
    (tmp_path / "mine.yaml").write_text(RECIPE)
    stage = f"stages: [{{train_file: {train}, validation_file: {dev}, args: {{max_steps: 24}}}}]"
    (tmp_path / "stage.yaml").write_text(stage)
    flags = ["--recipe", str(tmp_path / "mine.yaml"), f"{tmp_path / 'mine.yaml'}+{tmp_path / 'stage.yaml'}"]
    flags += ["--restarts", "3", "--look_at", "0.5", "--finish", "1", "--max_steps", "6"]
    command = arguments(tmp_path / "two", tiny_model(), tiny_csv, *flags, "--parallel", "seeds")
    two = run_script(ROOT / "run_glue_stable.py", command, processes=2)
    assert two.returncode == 0, two.stderr[-3000:]
    assert two.stdout.count(": at its look") == 6 and two.stdout.count("stage train-") == 1
    assert two.stdout.count("A folder for each run") == 1
    assert main(arguments(tmp_path / "one", tiny_model(), tiny_csv, *flags, "--workers", "0")) == 0
    assert results(tmp_path / "two") == results(tmp_path / "one")


@pytest.mark.slow
def test_a_crash_on_one_rank_is_a_crash_of_its_run_alone(tiny_model, tiny_csv, tmp_path):
    (tmp_path / "crash.py").write_text(CRASH)
    flags = ["--method", f"{tmp_path / 'crash.py'}:Crash", "--max_steps", "6", "--seeds", "4", "--retry_crashed", "1"]
    command = arguments(tmp_path / "two", tiny_model(), tiny_csv, *flags, "--parallel", "seeds")
    two = run_script(ROOT / "run_glue_stable.py", command, processes=2)
    assert two.returncode == 1 and two.stderr.count("1 run(s) crashed") == 1, two.stderr[-3000:]
    crash = "devlin2019/seed-003: crashed: RuntimeError: seed 3 has crashed"
    assert two.stdout.count(crash) == 2 and two.stdout.count(f"{crash}; it will be run again") == 1
    for seed in (1, 2, 4):
        assert two.stdout.count(f"devlin2019/seed-00{seed}: ") == 1
    assert main(arguments(tmp_path / "one", tiny_model(), tiny_csv, *flags, "--workers", "0")) == 1
    assert results(tmp_path / "two") == results(tmp_path / "one")


def processes_with(text: str) -> list[str]:
    """Command lines of living processes with this text."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            found.append(path.read_text().replace("\0", " "))
    return [line for line in found if text in line]


@linux
@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["seeds", "data"])
def test_ctrl_c_under_torchrun_ends_all_and_the_study_goes_on(tiny_model, tiny_csv, tmp_path, parallel):
    def command(folder, *flags):
        steps = ("--max_steps", "30", "--eval_strategy", "no", "--seeds", "6")
        return arguments(tmp_path / folder, tiny_model(), tiny_csv, *steps, *flags)

    def finished():
        return sorted((tmp_path / "study" / "runs").glob("*/*/run.json"))

    with Command(command("study", "--parallel", parallel), tmp_path / "log", TWO_PROCESSES) as study:
        study.wait_for(finished, 180)  # torchrun and its processes import everything
        os.killpg(study.process.pid, signal.SIGINT)
        assert study.process.wait(timeout=60) != 0
        wait_for(lambda: not processes_with(str(tmp_path)), 30)  # torchrun gives each a session of its own
    text = (tmp_path / "log").read_text()
    assert text.count("hf-stability: interrupted. Finished runs are kept") == 1, text
    assert 1 <= len(finished()) < 6
    if parallel == "data":  # one process would give other sums
        return
    assert main(command("study", "--workers", "0")) == 0
    assert main(command("whole", "--workers", "0")) == 0
    assert results(tmp_path / "study") == results(tmp_path / "whole")


@pytest.mark.slow
def test_a_wrong_flag_is_told_once_and_no_rank_waits(tiny_model, tiny_csv, tmp_path):
    command = arguments(tmp_path / "study", tiny_model(), tiny_csv, "--parallel", "seeds", "--runs_per_gpu", "2")
    done = run_script(ROOT / "run_glue_stable.py", command, processes=2)
    assert done.returncode == 2 and not (tmp_path / "study").exists()
    assert done.stderr.count("hf-stability: error: --runs_per_gpu 2: not with --parallel seeds under a launcher") == 1
