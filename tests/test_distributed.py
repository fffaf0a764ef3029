"""One study by two processes: `torchrun --nproc_per_node 2 run_glue_stable.py --use_cpu`."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hf_stability.diagnostics.step_record import read_steps
from tests.processes import run_script
from tests.toy import TWO_PROCESSES


SCRIPT = Path(__file__).parents[1] / "run_glue_stable.py"
NO_DROPOUT = """
args: {learning_rate: 1e-3, total_train_batch_size: 8, bias_correction: false, max_grad_norm: 0.5, seed_streams: true}
model_config: {hidden_dropout_prob: 0, attention_probs_dropout_prob: 0}
"""


STAGE = "stages: [{train_file: %s, validation_file: %s, args: {max_steps: 24}}]"


def launch(launcher, *arguments):
    command = [sys.executable, *launcher, str(SCRIPT), "--use_cpu", *arguments]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parent)}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)


@pytest.fixture
def study(tmp_path, tiny_model, tiny_csv):
    train, dev = tiny_csv
    (tmp_path / "mine.yaml").write_text(NO_DROPOUT)
    (tmp_path / "stage.yaml").write_text(STAGE % (train, dev))
    words = [
        "--model_name_or_path",
        tiny_model("bert"),
        "--train_file",
        train,
        "--validation_file",
        dev,
        "--max_steps",
        "6",
    ]
    return [*map(str, words), "--recipe", str(tmp_path / "mine.yaml"), "--seeds", "2"]


def test_two_processes_make_one_study_and_equal_one_process(tmp_path, study):
    """Also after a stage."""
    staged = ["--recipe", str(tmp_path / "mine.yaml"), f"{tmp_path / 'mine.yaml'}+{tmp_path / 'stage.yaml'}"]
    two = run_script(SCRIPT, ["--use_cpu", *study, *staged, "--output_dir", tmp_path / "two"], processes=2)
    one = run_script(SCRIPT, ["--use_cpu", *study, *staged, "--workers", "0", "--output_dir", tmp_path / "one"])
    assert (one.returncode, two.returncode) == (0, 0), two.stderr[-2000:]
    for out in (one.stdout, two.stdout):
        assert out.count("mine/seed-001: ") == out.count("mine/seed-002: ") == 1
        assert len(re.findall(r"^mine +2 ", out, re.M)) == len(re.findall(r"^mine\+stage +2 ", out, re.M)) == 1
        assert out.count("stage train-") == 1
    for run in ("mine/seed-001", "mine/seed-002", "mine+stage/seed-001", "mine+stage/seed-002"):
        folders = [tmp_path / name / "runs" / run for name in ("one", "two")]
        one, two = ({name.partition(".out.tfevents.")[0] for name in os.listdir(folder)} for folder in folders)
        assert one == two and {"events", "run.json", "steps.rec"} <= one
        records = [read_steps(folder / "steps.rec") for folder in folders]
        for column in ("loss", "grad_norm", "layer_norms", "logit_std", "labels", "predicted"):
            np.testing.assert_allclose(records[0][column], records[1][column], rtol=1e-3, atol=1e-5)
        logits = [np.load(folder / "predictions.npz")["logits"] for folder in folders]
        np.testing.assert_allclose(logits[0], logits[1], rtol=1e-3, atol=1e-4)
        runs = [json.loads((folder / "run.json").read_text()) for folder in folders]
        assert runs[0]["last"] == runs[1]["last"] and runs[0]["status"] == runs[1]["status"]
        assert runs[0]["id"] != runs[1]["id"]  # their last digits differ: they are not each other's repetition


@pytest.mark.slow
def test_two_processes_stop_together_where_a_stage_failed(tmp_path, study):
    path = tmp_path / "stage.yaml"
    path.write_text(path.read_text().replace("max_steps: 24", "learning_rate: 1e6"))
    more = ["--recipe", f"{tmp_path / 'mine.yaml'}+{path}", "--seeds", "1", "--output_dir", str(tmp_path / "study")]
    done = launch(TWO_PROCESSES, *study, *more)
    assert done.returncode != 0 and done.stderr.count("Nothing was started from it.") == 1
    assert not (tmp_path / "study" / "runs").exists()


def test_two_processes_say_a_wrong_argument_once(tmp_path, study):
    command = ["--use_cpu", *study, "--learning_rat", "1", "--output_dir", tmp_path / "study"]
    done = run_script(SCRIPT, command, processes=2)
    assert (
        done.stderr.count("hf-stability: error: --learning_rat: no such argument (did you mean --learning_rate?)") == 1
    )
    assert done.returncode != 0 and not (tmp_path / "study").exists()
