"""Shared by the tests of `diagnose`: the command, and the files of two real, tiny trainings."""

from __future__ import annotations

import pytest
from transformers import Trainer, TrainingArguments

from hf_stability import StabilityCallback, cli
from tests import toy
from tests.diagnose.tools import FAST


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """A function of arguments that runs the command in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main(["diagnose", *map(str, arguments)])
        out, err = capsys.readouterr()
        return code, out, err

    return command


@pytest.fixture(scope="session")
def output(tmp_path_factory):
    """The output folder of a stock Trainer with our callback, two checkpoints in it."""
    folder = tmp_path_factory.mktemp("run") / "output"
    args = TrainingArguments(str(folder), **{**FAST, "save_strategy": "steps", "save_steps": 4})
    trainer = toy.train(Trainer, args, [StabilityCallback(toy.accuracy)], init=False)
    trainer.save_state()
    return folder


@pytest.fixture(scope="session")
def study(tmp_path_factory, tiny_jobs):
    """The folder of a study with one run."""
    from hf_stability.study.study import run_jobs

    folder = tmp_path_factory.mktemp("study") / "study"
    run_jobs(tiny_jobs(folder, seeds=(1,), learning_rate=1e-3), folder, quiet=True)
    return folder
