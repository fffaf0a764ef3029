"""ckpt-chaos (PyPI) kills the command at the boundaries of its files, and runs it again: nothing is lost, nothing differs."""

from __future__ import annotations

import multiprocessing
import sys
import threading
from collections import Counter
from multiprocessing.connection import Listener

import pytest

from hf_stability.study.executors.server import PRELOAD
from tests.study import chaos_command


POINTS = 32  # of about 300: killed before a file, in the middle of it, with its unsynced data lost, and by SIGTERM


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_killed_at_any_file_the_command_ends_with_the_same_summary(tiny_study, tmp_path, monkeypatch, capsys):
    chaos = pytest.importorskip("ckpt_chaos.cli")
    from ckpt_chaos.runner import rejudge

    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOAD)
    monkeypatch.chdir(tmp_path)
    saves = ("--save_strategy", "steps", "--save_steps", "2", "--logging_steps", "2", "--eval_strategy", "epoch")
    study = [*tiny_study, *saves, "--max_steps", "7", "--seeds", "2", "--output_dir", "{out}"]
    with Listener(str(tmp_path / "commands"), "AF_UNIX") as listener:
        threading.Thread(target=chaos_command.serve, args=(listener,), daemon=True).start()
        start = [sys.executable, "-I", "-S", chaos_command.__file__, listener.address, "{out}.log"]
        options = ["--modes", "before,torn,unsynced,term", "--max-points", str(POINTS), "--jobs", "2"]
        judged = ["--result-file", "{out}/summary.json", "--work", str(tmp_path / "work"), "--timeout", "120"]
        code = chaos.main(["run", *options, *judged, "--", *start, *study])
    rows = rejudge(tmp_path / "work")
    verdicts = Counter(row.verdict for row in rows)
    assert code == 0 and set(verdicts) <= {"PASS"}, capsys.readouterr().out[-20000:]
    assert sum(row.crashed for row in rows) >= 0.9 * POINTS
