"""A study's folder: which models stay there, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hf_stability.errors import InputError
from hf_stability.study.folder import check_folder, prune_models, run_folder
from hf_stability.study.records import RunRecord
from hf_stability.study.study import run_jobs
from hf_stability.utils.files import write_json


def record(seed: int, last: float | None, status: str = "ok", recipe: str = "a") -> RunRecord:
    return RunRecord("id", recipe, seed, "rte", status, "accuracy", last=last)


def test_of_the_models_only_failed_ones_and_each_recipes_best_are_kept(tmp_path):
    runs = [
        record(1, 0.7),
        record(2, 0.8),
        record(3, 0.8),
        record(4, 0.5, "failed"),
        record(5, None, "diverged"),
        record(6, None, "stopped"),
        record(1, 0.6, recipe="b"),
    ]
    for run in runs:
        (tmp_path / "runs" / run.name / "model").mkdir(parents=True)
    for keep_model in ("none", "last"):
        prune_models(tmp_path, runs, keep_model)
        assert len(list(tmp_path.glob("runs/*/*/model"))) == 7
    prune_models(tmp_path, runs, "failed_and_best")
    kept = sorted(str(p.parent.relative_to(tmp_path / "runs")) for p in tmp_path.glob("runs/*/*/model"))
    assert kept == ["a/seed-002", "a/seed-004", "a/seed-005", "b/seed-001"]  # of equals the first


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/study", "x" * 300])
def test_a_folder_that_cannot_be_written_to_is_refused(tiny_jobs, tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    jobs = tiny_jobs(tmp_path / "data", seeds=(1,))
    Path("file").write_text("mine")
    with pytest.raises(InputError, match="--output_dir .*give a"):
        run_jobs(jobs, place, quiet=True)
    assert Path("file").read_text() == "mine" and sorted(p.name for p in tmp_path.iterdir()) == ["data", "file"]


@pytest.mark.parametrize("recipe", ["devlin2019", "mosbach2021"])
def test_a_folder_has_runs_of_one_precision(tiny_jobs, tmp_path, recipe):
    """Under the same recipe or another one: tables never mix float32 and bfloat16."""
    (job,) = tiny_jobs(tmp_path, seeds=(1,))
    folder = run_folder(tmp_path, job)
    folder.mkdir(parents=True)
    write_json(folder / "config.json", {"job": job.to_dict()})
    write_json(folder / "run.json", replace(record(1, 0.7, recipe="devlin2019"), id=job.id).to_dict())
    for given, changed in (
        ({}, None),
        ({"bf16": True}, "mixed_precision: no -> bf16"),
        ({"dtype": "bfloat16"}, "dtype:"),
    ):
        jobs = tiny_jobs(tmp_path / "new", recipes=(recipe,), seeds=(2,), **given)
        if changed is None:
            assert [run.seed for run in check_folder(jobs, tmp_path)] == [1]
            continue
        with pytest.raises(InputError, match=f"(?s)devlin2019/seed-001 was run with other settings.*{changed}"):
            check_folder(jobs, tmp_path)
