"""The examples as a user runs them: processes of their own, offline."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from hf_stability import cli, read_steps, steps_frame
from hf_stability.study.records import read_run
from tests.docs.workshop import blocks
from tests.processes import run_script


EXAMPLES = Path(__file__).parents[1] / "examples"


def run(script, folder, *arguments, processes=1):
    done = run_script(EXAMPLES / f"{script}.py", ["--output_dir", folder, *arguments], processes, cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize(
    ("script", "processes"),
    [("plain_loop", 1), ("accelerate_loop", 1), ("accelerate_loop", 2), ("trainer", 1)],
)
def test_an_example_records_every_step_and_ends_with_a_verdict(tmp_path, script, processes):
    out = run(script, tmp_path, processes=processes)
    assert out.splitlines()[-1].startswith("ok: accuracy ")
    assert out.count("accuracy ") == 1 and "ALARM" not in out  # of two processes one speaks
    record, frame = read_steps(tmp_path), steps_frame(tmp_path)
    assert record["step"].tolist() == list(range(1, 101)) and record["info"] == {"max_steps": 100, "warmup_steps": 10}
    top = ["classifier"] if script == "plain_loop" else ["pooler", "classifier"]
    assert record["layers"] == ["embeddings", "layer_00", "layer_01", *top]
    assert np.isfinite(frame).all(axis=None) and (record["layer_norms"] > 0).all()
    assert (record["labels"].sum(1) == 16).all()  # all examples of the step, whoever has seen them
    np.testing.assert_allclose(record["grad_norm"][:5], np.linalg.norm(record["layer_norms"][:5], axis=1), rtol=1e-4)
    rates = record["learning_rate"]
    assert rates.argmax() in (9, 10) and rates[-1] < rates.max() / 10


@pytest.mark.parametrize(
    ("script", "processes"),
    [("plain_loop", 1), pytest.param("accelerate_loop", 2, marks=pytest.mark.slow)],
)
def test_a_run_that_fails_raises_the_alarm_before_its_verdict(tmp_path, script, processes):
    out = run(script, tmp_path, "--learning_rate", "1", processes=processes)
    alarm, verdict = out.splitlines()
    assert alarm.startswith("ALARM step ") and "looks like one that fails" in alarm
    assert verdict.startswith("failed: accuracy ") and "vanished" in verdict


OWN_METHOD = EXAMPLES / "own_method.py"


@pytest.mark.slow
def test_a_method_of_ones_own_runs_through_a_study_in_worker_processes(tmp_path):
    out = run("own_method", tmp_path, "--max_steps", "2", "--seeds", "2")
    assert OWN_METHOD.read_text().count("\n") < 60
    rows = [line.split() for line in out.splitlines()[-5:]]
    assert rows[0] == ["recipe", "seed", "status", "last"]
    assert [row[:2] for row in rows[1:]] == [
        [recipe, seed] for recipe in ("devlin2019", "devlin2019+own_method") for seed in ("1", "2")
    ]
    folders = {row[0]: tmp_path / "runs" / row[0] / "seed-001" for row in rows[1:]}
    jobs = {recipe: json.loads((folder / "config.json").read_text())["job"] for recipe, folder in folders.items()}
    plain, own = jobs["devlin2019"], jobs["devlin2019+own_method"]
    assert "methods" not in plain and "method_hashes" not in plain and "noisy_tune" not in plain["args"]
    assert own["methods"] == [f"{OWN_METHOD}:NoisyTune"] and own["args"]["noisy_tune"] == 0.15
    assert own["method_hashes"] == [hashlib.sha256(OWN_METHOD.read_bytes()).hexdigest()]
    norms = {recipe: read_steps(folder)["layer_norms"] for recipe, folder in folders.items()}
    assert not np.allclose(norms["devlin2019"], norms["devlin2019+own_method"])  # the first step's, too


def test_a_method_of_ones_own_is_compared_on_the_command_line(tmp_path, tiny_study, capsys):
    """The same study three ways: a recipe file, a flag, from Python; and another source is another run."""
    source = tmp_path / "their_method_in_a_test.py"
    source.write_text(OWN_METHOD.read_text())
    (tmp_path / "with_it.yaml").write_text("methods: [their_method_in_a_test.py:NoisyTune]\nargs: {noisy_tune: 0.5}\n")
    common = [*tiny_study, "--max_steps", "2", "--seeds", "1"]

    def command(*more):
        assert cli.main([*common, *map(str, more)]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    by_file = ["--recipe", "devlin2019", f"devlin2019+{tmp_path / 'with_it.yaml'}", "--output_dir", tmp_path / "study"]
    command(*by_file)
    command("--method", f"{source}:NoisyTune", "--noisy_tune", "0.5", "--output_dir", tmp_path / "flag")
    first, second = (
        read_run(folder)
        for folder in (tmp_path / "study/runs/devlin2019+with_it/seed-001", tmp_path / "flag/runs/devlin2019/seed-001")
    )
    assert first.metrics == second.metrics and first.train_loss == second.train_loss
    out = command(
        "--method", f"{source}:NoisyTune", "--noisy_tune", "0.0", "--dry_run", "--output_dir", tmp_path / "x"
    )
    assert read_run(tmp_path / "study/runs/devlin2019/seed-001").id in out  # off, it is the run without it
    source.write_text(source.read_text() + "\n# changed\n")
    assert cli.main([*common, *map(str, by_file)]) == 2
    assert "method_hashes: ['" in capsys.readouterr().err


def test_the_page_on_your_own_method_shows_the_example():
    page = EXAMPLES.parent / "docs" / "your_own_method.md"
    (shown,) = (block.text for block in blocks(page) if block.title == "noisy_tune.py")
    start, code = "@torch.no_grad()", OWN_METHOD.read_text()
    assert shown[shown.index(start) :].strip() == code[code.index(start) : code.index("if __name__")].strip()


def test_a_flag_of_a_method_that_nobody_named_is_refused(tiny_study, capsys):
    assert cli.main([*tiny_study, "--noisy_tune", "0.5", "--dry_run"]) == 2
    assert "--noisy_tune: no such argument" in capsys.readouterr().err
