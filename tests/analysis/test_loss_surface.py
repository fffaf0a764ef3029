"""The plane of a study: a run's start made again, which runs are chosen, what is missing, and the command on the demo."""

import json
import random
import shutil

import numpy as np
import pytest
import torch

from hf_stability.analysis import analyze
from hf_stability.analysis.analysis import load_analysis, make_options, write
from hf_stability.analysis.finished_study import FinishedStudy
from hf_stability.analysis.kept_models import missing_models, read_model, settings_of, starting_trainer
from hf_stability.analysis.loss_surface import choose_pair, climb, loss_batches
from hf_stability.cli import main
from hf_stability.errors import InputError
from hf_stability.study.folder import run_folder
from hf_stability.study.records import RunRecord
from hf_stability.study.run import run_job
from hf_stability.utils.files import write_json
from tests.toy import weights


def set_status(folder, statuses):
    """Give runs other statuses: no run of a few steps is ok."""
    for name, status in statuses.items():
        path = folder / "runs" / name / "run.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "status": status}))


def tiny_study_folder(folder, tiny_jobs, recipes=("devlin2019",), seeds=(1, 2), **given):
    for job in tiny_jobs(folder, recipes, seeds, keep_model="last", **given):
        run_job(job, run_folder(folder, job))
    return folder


def test_the_start_of_a_run_is_made_again(tiny_jobs, tmp_path, no_heat_maps):
    # Oracle: with a learning rate of 0 the model that a run keeps is the one that it started from. Its head and its
    # re-initialised layer are drawn from its seed. Separate streams are tested below, by the paths.
    given = {"seeds": (3,), "learning_rate": 0.0, "reinit_layers": 1, "seed_streams": False}
    study = FinishedStudy(tiny_study_folder(tmp_path, tiny_jobs, ("mosbach2021+reinit",), **given))
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    job = settings_of(study, study.runs[0])
    with starting_trainer(job) as trainer:
        start = weights(trainer.model)
    assert torch.equal(start, weights(read_model(study.model_folder(study.runs[0]), job)))
    assert random.getstate() == states[0] and np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_the_surface_of_a_study(tiny_jobs, tmp_path, no_heat_maps):
    folder = tiny_study_folder(tmp_path / "before", tiny_jobs, learning_rate=1e-3)
    set_status(folder, {"devlin2019/seed-001": "failed", "devlin2019/seed-002": "ok"})
    folder = shutil.move(folder, tmp_path / "moved")  # the data are found in the study's folder
    options = {"points": 3, "lowest": 0.0, "highest": 1.0, "examples": 8, "batch_size": 3, "path_points": 2}
    analysis, study = load_analysis("loss-surface"), FinishedStudy(folder)
    options = make_options(analysis, options)
    assert analysis.missing(study, options) == []
    numbers = analysis.numbers(study, options)
    assert (numbers["failed"], numbers["ok"]) == ("devlin2019/seed-001", "devlin2019/seed-002")
    assert numbers["same_start"] is False and numbers["examples"] == 8
    points = {point["point"]: point for point in numbers["tables"]["points"]}
    assert points["start"]["loss"] == points["start"]["loss_of_plane"] == numbers["loss"][0, 0]  # bitwise
    assert points["failed"]["loss"] == pytest.approx(numbers["loss"][2][0], abs=1e-6)
    assert points["ok"]["loss"] == pytest.approx(numbers["loss"][0][2], abs=1e-6)
    paths = {kind: [row for row in numbers["tables"]["paths"] if row["point"] == kind] for kind in ("failed", "ok")}
    # Training again ends at the kept weights; only the failed run starts at (0, 0), because the ok run has another head.
    for kind, end in (("failed", (1, 0)), ("ok", (0, 1))):
        assert [row["step"] for row in paths[kind]] == [0, 2, 4]
        assert (paths[kind][-1]["a"], paths[kind][-1]["b"]) == pytest.approx(end, abs=1e-5)
        assert paths[kind][-1]["distance"] == pytest.approx(0, abs=1e-6)
    assert [paths["failed"][0][key] for key in ("a", "b", "distance")] == [0, 0, 0]
    assert paths["ok"][0]["distance"] > 1e-3
    # Finished points are read, not computed again.
    (saved,) = (folder / "analysis" / "loss-surface").glob("points-*.jsonl")
    saved.write_text(saved.read_text().replace(f'"loss": {numbers["loss"][1][1]}', '"loss": 7.5'))
    assert analysis.numbers(study, options)["loss"][1][1] == 7.5
    # With an output folder nothing is written into the study, and the points there are read.
    out, before = tmp_path / "out", sorted(folder.rglob("*"))
    shutil.copytree(saved.parent, out)
    saved.unlink()
    before.remove(saved)
    elsewhere = FinishedStudy(folder, output_dir=out)
    assert analysis.numbers(elsewhere, options)["loss"][1][1] == 7.5
    assert sorted(folder.rglob("*")) == before and (out / saved.name).is_file()


def record(name, status="ok", **values):
    recipe, _, seed = name.partition("/seed-")
    return RunRecord(id="x", recipe=recipe, seed=int(seed), task="rte", status=status, metric="accuracy", **values)


def made_up(folder, statuses, without_model=()):
    """A study's folder of records, with a model's folder each."""
    for name, status in statuses.items():
        path = folder / "runs" / name
        (path / "model").mkdir(parents=True)
        write_json(path / "run.json", record(name, status).to_dict())
        if name not in without_model:
            (path / "model" / "config.json").write_text("{}")
    return FinishedStudy(folder)


def test_runs_of_one_seed_come_first(tmp_path):
    study = made_up(
        tmp_path,
        {
            "a/seed-001": "diverged",
            "a/seed-002": "failed",
            "a/seed-003": "failed",
            "b/seed-001": "ok",
            "b/seed-003": "ok",
            "b/seed-004": "stopped",
        },
    )
    assert [run.name for run in choose_pair(study)] == ["a/seed-003", "b/seed-003"]
    assert [run.name for run in choose_pair(study, ok="b/seed-001")] == ["a/seed-002", "b/seed-001"]
    assert [run.name for run in choose_pair(study, failed="a/seed-001")] == ["a/seed-001", "b/seed-001"]
    with pytest.raises(InputError, match="--failed b/seed-001: no failed run .* a/seed-001, a/seed-002, a/seed-003"):
        choose_pair(study, failed="b/seed-001")


def test_what_is_missing_comes_with_the_command(tiny_jobs, tmp_path):
    folder = tmp_path / "study"
    statuses = {"devlin2019/seed-001": "failed", "mosbach2021/seed-001": "ok"}
    made_up(folder, statuses, without_model=statuses)
    for job in tiny_jobs(folder, ("devlin2019", "mosbach2021"), (1,)):
        write_json(run_folder(folder, job) / "config.json", {"job": job.to_dict()})
    for name in ("loss-surface", "layer-replacement"):
        with pytest.raises(InputError) as error:
            analyze(name, folder)
        text = str(error.value)
        assert "1 failed (0 with a model), 1 ok (0 with a model)" in text
        assert "--recipe devlin2019 mosbach2021 --seeds 1" in text and "--keep_model last" in text
        assert f"--output_dir {folder}-models" in text and "\n" not in text
    assert not (folder / "analysis").exists()


def test_a_study_without_failed_runs_needs_another_recipe(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_stability.analysis.kept_models.keeping_command", lambda study: "COMMAND")
    study = made_up(tmp_path, {"b/seed-001": "ok"})
    assert any("that fails" in sentence for sentence in missing_models(study))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"points": 1}, "--points 1"),
        ({"lowest": 2.0}, "--lowest 2"),
        ({"lowest": -float("inf")}, "--lowest -inf"),
        ({"highest": float("inf")}, "less than --highest inf"),
        ({"batch_size": 0}, "--batch_size 0"),
        ({"examples": -1}, "--examples -1"),
    ],
)
def test_numbers_without_a_surface_are_refused(tmp_path, options, message):
    made_up(tmp_path, {"b/seed-001": "ok"})
    with pytest.raises(InputError, match=message):
        analyze("loss-surface", tmp_path, **options)


def test_batches_have_each_row_once():
    rows = [{"input_ids": [1] * (1 + row % 5), "label": row} for row in range(11)]

    def collate(part):
        return {"labels": torch.tensor([row["label"] for row in part])}

    batches = loss_batches(rows, collate, 0, 4)
    assert batches.sizes == [4, 4, 3] and batches.examples == 11
    assert sorted(torch.cat([batch["labels"] for batch in batches.batches]).tolist()) == list(range(11))
    some = [torch.cat([batch["labels"] for batch in loss_batches(rows, collate, 5, 4).batches]) for _ in range(2)]
    assert len(some[0]) == 5 and torch.equal(*some)  # the same rows each time


def test_a_climb_is_measured_from_the_lowest_loss_so_far():
    line = [9.0, 1.0, 0.5, 1.25, 0.25, 0.5, 7.0]  # the start is the second value, the end the sixth
    axis = [-0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25]
    losses = np.full((7, 7), 100.0)
    losses[1] = line
    assert climb(axis, losses) == {"height": 0.75, "lowest": 0.25, "at": 0.75}
    losses[1] = line[::-1]
    assert climb([0.1, 1.0], losses) is None  # the grid has no such line
    losses[1, 3] = np.nan
    assert climb(axis, losses) is None


@pytest.mark.slow
def test_both_analyses_on_the_demo(tmp_path, capsys):
    folder = str(tmp_path / "study")
    study = ["--task_name", "demo_pair", "--recipe", "devlin2019", "mosbach2021", "--seeds", "1", "--max_steps", "4"]
    study += ["--max_train_samples", "64", "--max_eval_samples", "32", "--keep_model", "last", "--workers", "0"]
    assert main([*study, "--use_cpu", "--output_dir", folder]) == 0
    set_status(tmp_path / "study", {"devlin2019/seed-001": "failed", "mosbach2021/seed-001": "ok"})
    analysis = tmp_path / "study" / "analysis"
    small = ["--points", "3", "--examples", "16"]
    assert main(["analyze", "loss-surface", folder, *small]) == 0
    numbers = json.loads((analysis / "loss-surface" / "loss-surface.json").read_text())
    assert numbers["same_start"] is True  # one seed: one head
    assert "both runs began there" in capsys.readouterr().out
    names = {path.name for path in (analysis / "loss-surface").iterdir()}
    assert {"loss-surface.json", "surface.csv", "points.csv", "loss-surface.png"} <= names
    assert main(["analyze", "layer-replacement", folder, "--texts", "20"]) == 0
    numbers = json.loads((analysis / "layer-replacement" / "layer-replacement.json").read_text())
    rows = numbers["tables"]["perplexity"]
    assert len(rows) == 2 * 15 and {row["status"] for row in rows} == {"failed", "ok"}
    for row in rows:
        if row["step"] == "head":
            assert row["loss"] == numbers["pretrained"]["loss"]  # bitwise
    assert numbers["pretrained"]["perplexity"] < 20 < numbers["vocabulary"]
    for name in ("loss-surface", "layer-replacement"):  # figure and sentences come from the JSON alone
        numbers = json.loads((analysis / name / f"{name}.json").read_text())
        for path in write(load_analysis(name), numbers, tmp_path / name):
            assert path.read_bytes() == (analysis / name / path.name).read_bytes()
    capsys.readouterr()
    assert main(["analyze", "layer-replacement", folder, "--text_file", "missing.txt"]) == 2
    assert "no such file" in capsys.readouterr().err
