"""Runs read from their files, those of real, tiny trainings."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch

from hf_stability import StableTrainingArguments
from hf_stability.diagnose import diagnose
from hf_stability.diagnose.files import _settings_of_last_attempt, read_run_files, read_training_args
from hf_stability.diagnostics.attempt_log import AttemptLog
from tests.diagnose.tools import of, run_of


@pytest.mark.parametrize(
    ("path", "looked_at"),
    [
        (".", ["trainer_state.json", "steps.rec", "verdict.json", "training_args.bin"]),
        ("stability", ["trainer_state.json", "steps.rec", "verdict.json"]),
        ("stability/steps.rec", ["trainer_state.json", "steps.rec", "verdict.json"]),
        ("trainer_state.json", ["trainer_state.json", "steps.rec"]),
        ("checkpoint-4", ["trainer_state.json", "training_args.bin", "steps.rec"]),
        ("checkpoint-8/trainer_state.json", ["trainer_state.json", "training_args.bin"]),
    ],
)
def test_a_run_is_known_by_any_of_its_files(run, output, path, looked_at):
    code, out, err = run(output / path)
    assert code == 0 and err == "" and "Traceback" not in out
    first = out[: out.index("\n\n")].replace("\n", " ")
    assert all(name in first for name in looked_at), first
    assert (
        "learning rate: The peak learning rate is 0.001" in out and "update steps: The run has 8 update steps" in out
    )
    assert "could not be checked without\n" in out and "hf-stability rescue --model_name_or_path MODEL" in out
    likely, possible, in_order = (out.index(f"\n{heading}\n") for heading in ("likely", "possible", "in order"))
    assert likely < possible < in_order


def test_a_study_that_was_moved_still_says_its_data(study, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(study, moved)
    config = run_of(moved) / "config.json"
    config.write_text(config.read_text().replace(str(study), str(tmp_path / "gone")))
    assert of(diagnose(run_of(moved)), "labels").likelihood == "unlikely"


def test_training_arguments_are_read_as_they_were(output, tmp_path):
    found = read_training_args(output / "checkpoint-8" / "training_args.bin")
    assert (
        found["learning_rate"] == 1e-3
        and found["lr_scheduler_type"] == "linear"
        and found["optim"].startswith("adamw")
    )
    args = StableTrainingArguments.from_recipe("devlin2019", "bert", output_dir=str(tmp_path), use_cpu=True)
    torch.save(args, tmp_path / "training_args.bin")
    found = read_training_args(tmp_path / "training_args.bin")
    expected = {key: value for key, value in args.to_dict().items() if isinstance(value, (bool, int, float, str))}
    assert {key: found[key] for key in expected if key != "hub_token"} == {
        key: value for key, value in expected.items() if key != "hub_token"
    }


class Harmful:
    def __reduce__(self):
        return (Path.touch, (Path("harm"),))


def test_nothing_in_a_file_of_arguments_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = pickle.dumps({"a": Harmful()})
    pickle.loads(content)
    assert Path("harm").exists()  # as the file is meant
    Path("harm").unlink()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", content)
    Path("training_args.bin").write_bytes(buffer.getvalue())
    assert read_training_args(Path("training_args.bin")) == {} and not Path("harm").exists()
    for damaged in (b"", b"junk", content):
        Path("training_args.bin").write_bytes(damaged)
        assert read_training_args(Path("training_args.bin")) == {}


def test_a_shorter_run_in_the_same_folder_is_the_one_that_is_looked_at(tmp_path):
    def checkpoint(step, total, log, age):
        file = tmp_path / f"checkpoint-{step}" / "trainer_state.json"
        file.parent.mkdir()
        file.write_text(json.dumps({"log_history": log, "global_step": step, "max_steps": total}))
        os.utime(file, (1e9 - age, 1e9 - age))

    old, new = [{"step": 9, "loss": 0.7}], [{"step": 9, "loss": 0.6}]
    checkpoint(500, 600, old, age=100)
    checkpoint(40, 60, [], age=50)
    assert read_run_files(tmp_path).step == 40
    checkpoint(20, 600, new, age=10)  # of as many steps, killed early
    assert read_run_files(tmp_path).step == 20
    checkpoint(30, 600, [*new, {"step": 25, "loss": 0.5}], age=20)  # in a copy of the folder the times say little
    assert read_run_files(tmp_path).step == 30
    damaged = tmp_path / "checkpoint-35" / "trainer_state.json"
    damaged.parent.mkdir()
    damaged.write_text("{")
    assert read_run_files(tmp_path).step == 30


def test_a_studys_folder_names_its_runs(run, study):
    code, _, err = run(study)
    assert code == 2 and f"this is a study's folder; give the folder of one run: {run_of(study)} (" in err


def test_a_run_that_began_again_has_the_settings_of_its_last_attempt(tmp_path):
    """Else the check of the rate would say that bias correction is off."""
    assert _settings_of_last_attempt(tmp_path) == {}
    log = AttemptLog(tmp_path, tmp_path, 1)
    log.abandon("alarm", None, 8, 20)
    assert _settings_of_last_attempt(tmp_path) == {}  # killed in the second attempt
    log.settings = {"bias_correction": True, "learning_rate": 1e-4}
    log.finish(None, 20, 20)
    assert _settings_of_last_attempt(tmp_path) == log.settings
