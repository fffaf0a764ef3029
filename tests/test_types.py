"""The type hints as a user's type checker sees them; and what they rest on."""

import ast
import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hf_stability
from hf_stability import StableTrainingArguments
from hf_stability.methods import METHODS, MethodArguments
from hf_stability.recipe.arguments import argument_types


ROOT = Path(__file__).parents[1]

RIGHT = """
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import Trainer, TrainerControl

from hf_stability import (
    AdamW, StabilityCallback, StabilityMixin, StableTrainer, StableTrainingArguments, layer_grad_norms, load_recipe,
    plan_study, read_steps, run_study, steps_frame,
)
from hf_stability.diagnostics.early_warning import Alarm
from hf_stability.methods import Method, Range
from hf_stability.verdicts import Verdict, judge


def on_alarm(alarm: Alarm, control: TrainerControl) -> None:
    if alarm.risk > 0.5 and alarm.layer != "classifier":
        control.should_training_stop = True


def watch(trainer: Trainer) -> str:
    callback = StabilityCallback(on_alarm=on_alarm, diagnostics=["clipping"], baseline=0.5)
    trainer.add_callback(callback)
    callback.attach(trainer)
    trainer.train()
    verdict: Verdict | None = callback.verdict
    return "" if verdict is None else verdict.sentence


@dataclass
class ShrinkArguments:
    shrink: float = field(default=0.0, metadata={"help": "Shrink the weights by this share. 0: off."})


class Shrink(Method):
    Arguments = ShrinkArguments
    ranges = {"shrink": Range(0, 1)}

    def prepare_model(self, model: nn.Module, trainer: Any, generator: torch.Generator | None = None) -> None:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1 - self.settings.shrink)


class Mine(StabilityMixin, Trainer):
    pass


def train(model: nn.Module) -> float:
    args = StableTrainingArguments.from_recipe("mosbach2021+mixout", model_type="bert", output_dir="out", max_steps=10)
    share: float = args.mixout * 2 + args.prior_decay
    layers: int = args.reinit_layers
    corrected: bool = args.bias_correction
    trainer = StableTrainer(model=model, args=args, methods=[Shrink(shrink=0.1)])
    trainer.train()
    if trainer.stability.verdict is not None and trainer.stability.verdict.status == "failed" and corrected:
        return share + layers
    return float(trainer.best_metrics["eval_accuracy"])


def study() -> int:
    plan = plan_study(task_name="demo_pair", recipes=["devlin2019"], methods=Shrink, seeds=2, output_dir="out")
    print(plan.describe(), len(plan.jobs))
    result = run_study(task_name="demo_pair", recipes=load_recipe("mosbach2021").name, seeds="1-3")
    failed = result.frame[result.frame["status"] == "failed"]
    return len(failed) + len(steps_frame("out")) + len(result.summary)


def numbers(model: nn.Module) -> str:
    optimizer = AdamW(model.parameters(), lr=2e-5, bias_correction=False)
    optimizer.step()
    norms: dict[str, Any] = dict(layer_grad_norms(model))
    record = read_steps("out")
    verdict = judge(eval_labels=np.array([0, 1]), eval_predictions=np.array([[0.1, 0.2], [0.3, 0.1]]), losses=record["loss"])
    return f"{verdict.status}: {verdict.sentence} {norms}"
"""

WRONG = """
import numpy as np
from torch import nn

from hf_stability import StabilityCallback, StableTrainer, StableTrainingArguments, plan_study
from hf_stability.methods import Method
from hf_stability.verdicts import judge

StabilityCallback(block_steps="often")  # arg-type
StabilityCallback(on_alarms="stop")  # call-arg
StableTrainingArguments(output_dir="out", mixout="a lot")  # arg-type
args = StableTrainingArguments.from_recipe("mosbach2021", output_dir="out")
args.mixot  # attr-defined
length: str = args.mixout  # assignment
StabilityCallback().verdict.sentence  # union-attr
StableTrainer(methods=[3])  # list-item
plan_study(recipes=["mosbach2021"], workers="two")  # arg-type
verdict: float = judge(eval_labels=np.array([0]), eval_predictions=np.array([1])).status  # assignment


class Mine(Method):
    def prepare_model(self, model: str) -> int:  # override
        return 1
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What mypy says with its strict rules on a user's two files, as (file, line, code)."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "right.py").write_text(RIGHT)
    (folder / "wrong.py").write_text(WRONG)
    command = [sys.executable, "-m", "mypy", "--strict", "--ignore-missing-imports", "--follow-imports=silent"]
    command += ["--config-file=", "--no-error-summary", "--hide-error-context", "right.py", "wrong.py"]
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    found = re.findall(r"^(\w+\.py):(\d+): error: (.*?)  \[([\w-]+)\]$", done.stdout, re.M)
    return [(file, int(line), code, text) for file, line, text, code in found]


@pytest.mark.slow
def test_a_users_file_passes_the_strict_check(said):
    assert [error for error in said if error[0] == "right.py"] == []


@pytest.mark.slow
def test_wrong_types_in_a_users_file_are_found(said):
    expected = [(n, line.split("# ")[1]) for n, line in enumerate(WRONG.splitlines(), 1) if "  # " in line]
    assert sorted({(line, code) for file, line, code, _ in said if file == "wrong.py"}) == expected


def test_the_methods_arguments_are_written_out_in_the_order_of_the_methods():
    """mypy reads the bases of the class; its fields, flags and `--help` come in the order of METHODS."""
    assert MethodArguments.__bases__ == tuple(method.Arguments for method in reversed(METHODS))
    ours = [field.name for method in METHODS for field in dataclasses.fields(method.Arguments)]
    assert [field.name for field in dataclasses.fields(MethodArguments)] == ours
    assert [name for name in argument_types() if name in ours] == ours
    assert set(ours) <= {field.name for field in dataclasses.fields(StableTrainingArguments)}


def test_type_checkers_see_every_public_name_where_it_is():
    """`__init__.py` imports lazily; the block for type checkers has to say the same."""
    tree = ast.parse((ROOT / "hf_stability" / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {name.asname: f".{line.module}" for line in block.body for name in getattr(line, "names", ())}
    assert seen == hf_stability._HOME
