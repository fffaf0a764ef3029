"""Functions that the tests of `diagnose` share: findings by name, runs' files, live Trainers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers

from hf_stability import StableTrainer, StableTrainingArguments
from tests import toy


FAST = {**toy.QUIET, "learning_rate": 1e-3, "max_steps": 8, "logging_steps": 2, "eval_strategy": "epoch"}


def of(report, name):
    """The finding of this name; there is one."""
    (found,) = [finding for finding in report.findings if finding.name == name]
    return found


def run_of(study: Path) -> Path:
    return study / "runs" / "devlin2019" / "seed-001"


def state(**content):
    def make(folder: Path) -> list[str]:
        (folder / "trainer_state.json").write_text(json.dumps(content))
        return ["trainer_state.json"]

    return make


def files(name: str, content: str):
    def make(folder: Path) -> list[str]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return [name.split("/")[0]]

    return make


GOOD = state(log_history=[], global_step=5, max_steps=10)


def trainer_of(tmp_path, model=None, trainer_class=StableTrainer, train=None, dev=None, **values):
    args = StableTrainingArguments(str(tmp_path / "live"), **{**FAST, **values})
    trainer = trainer_class(
        model=toy.model() if model is None else model,
        args=args,
        train_dataset=toy.data(64) if train is None else train,
        eval_dataset=toy.data(40, seed=1) if dev is None else dev,
        compute_metrics=toy.accuracy,
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def lora(model, **values):
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(model, peft.LoraConfig(**{"r": 2, "target_modules": ["query"], **values}))


def two_groups(model, encoder=2e-5, head=1e-3, **options):
    parts = [list(model.classifier.parameters()), list(model.bert.parameters())]
    groups = [{"params": part, "lr": rate} for part, rate in zip(parts, (head, encoder), strict=True)]
    return torch.optim.AdamW(groups, **options)
