"""Faults, with real processes and signals: the other runs go on, and the next call ends as if nothing had happened.

The fault is in a method of the user's own, see `faulty.py`. The undisturbed study has the same method.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from hf_stability.cli import main
from hf_stability.study.records import read_run
from hf_stability.utils.files import write_json
from tests.study.tools import results


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="signals and limits of Linux")

SAVES = ("--save_strategy", "steps", "--save_steps", "2", "--eval_strategy", "no")


@pytest.fixture(scope="module")
def undisturbed(tiny_study, tmp_path_factory, no_heat_maps):
    """A function of more flags: the folder of the study that nothing disturbed, run once. Treat it as read-only."""
    made: dict[tuple, Path] = {}

    def folder(*more: str) -> Path:
        if more not in made:
            made[more] = tmp_path_factory.mktemp("undisturbed") / "study"
            place = made[more].parent
            assert main(command(tiny_study, place, *more)) == 0
        return made[more]

    return folder


@pytest.fixture
def disturbed(tiny_study, tmp_path):
    """A function of a fault and more flags: runs the study with this fault; returns the exit code."""

    def run(fault: str = "", *more: str) -> int:
        if fault:
            (tmp_path / "fault").write_text(fault)
        return main(command(tiny_study, tmp_path, *more))

    return run


def command(tiny_study: list[str], place: Path, *more: str) -> list[str]:
    shutil.copy(Path(__file__).with_name("faulty.py"), place)
    steps = () if "--max_steps" in more else ("--max_steps", "6")
    own = ("--method", f"{place / 'faulty.py'}:Faulty", "--output_dir", str(place / "study"))
    return [*tiny_study, *own, "--seeds", "3", *steps, *SAVES, *more]


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file of each run and stage: when it was written, and its content."""
    paths = [path for place in ("runs/*/*/**/*", "stages/*/**/*") for path in sorted(folder.glob(place))]
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes()) for p in paths if p.is_file()}


def assert_whole(folder: Path, undisturbed: Path, again) -> None:
    """All results are those of the undisturbed study, nothing else is left, and the next call changes no file of a run."""
    assert {name: text for name, text in results(folder).items() if not name.endswith(".png")} == {
        name: text for name, text in results(undisturbed).items() if not name.endswith(".png")
    }
    assert names(folder) == names(undisturbed)
    before = files(folder)
    assert again() == 0
    assert files(folder) == before


def names(folder: Path) -> set[str]:
    """The files and folders of a study, without event files (each resume adds one) and pictures."""
    paths = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    return {path for path in paths if "tfevents" not in path and not path.endswith(".png") and "figures" not in path}


# --- one run breaks ---------------------------------------------------------------------------------------------------

MEMORY = "give fewer --workers, or a smaller --per_device_train_batch_size"
KILLED = f"crashed: the worker process ended: killed by SIGKILL. If memory ran out: {MEMORY}"
BREAKS = {
    "in_step": KILLED,
    "while_saving": KILLED,
    "while_writing_its_record": KILLED,
    "out_of_memory": f"Memory ran out: {MEMORY}",
    "full_disk": "crashed: OSError: ",
    "nearly_full_disk": "crashed: ",
    "error": "crashed: RuntimeError: a bug",
}


@linux
@pytest.mark.parametrize(
    "fault",
    [pytest.param(name, marks=() if name == "while_writing_its_record" else pytest.mark.slow) for name in BREAKS],
)
def test_a_run_that_breaks_has_its_reason_in_one_line_and_the_others_go_on(
    undisturbed, disturbed, tmp_path, capsys, no_figures, fault
):
    assert disturbed(f"{fault} 2", "--workers", "2") == 1
    out, err = capsys.readouterr()
    (line,) = [line for line in out.splitlines() if line.startswith("devlin2019/seed-002: ")]
    assert BREAKS[fault] in line and "Traceback" not in out + err
    assert "1 run(s) crashed" in err and "--retry_crashed 2" in err
    study = tmp_path / "study"
    done = [read_run(study / "runs" / "devlin2019" / f"seed-00{seed}") is not None for seed in (1, 2, 3)]
    assert done == [True, False, True]
    assert disturbed() == 0
    assert_whole(study, undisturbed(), disturbed)
