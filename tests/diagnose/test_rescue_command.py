"""The `hf-stability rescue` that a report ends with."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from transformers import TrainingArguments

from hf_stability import StableTrainer, StableTrainingArguments, cli, plan_study
from hf_stability.cli.rescue import DEFAULTS, parse_flags
from hf_stability.cli.run import keywords
from hf_stability.diagnose import diagnose, rescue
from hf_stability.diagnose.files import Run, read_run_files
from hf_stability.diagnose.inputs import Named
from hf_stability.diagnose.rescue_command import NOT_A_RESCUES, TRAINING_ARGS, rescue_command
from hf_stability.recipe.arguments import argument_types
from hf_stability.study.job import ALARM_ARGS, IGNORED_ARGS, Job
from hf_stability.study.prepare import OWN_ARGS
from hf_stability.study.run import quiet
from tests import toy
from tests.diagnose.tools import GOOD, run_of


pytestmark = pytest.mark.usefixtures("no_heat_maps")


def given_by(command: str) -> dict:
    """The command's flags, as `hf-stability rescue` reads them."""
    words = shlex.split(command)
    assert words[:2] == ["hf-stability", "rescue"]
    return parse_flags(words[2:])


def same_as(command: str, data) -> Job:
    """The first job of the arm `same` of the command, with the data put in."""
    given = {**DEFAULTS, **given_by(command)}
    if given.get("train_file") == "TRAIN":
        given["train_file"], given["validation_file"] = data
    with quiet():
        plan = plan_study(**keywords({**given, "output_dir": "nowhere"}))
    planned, _ = rescue.rescue_jobs(plan.jobs, len(plan.data.train), toy.config())
    return planned[0]


def test_the_rescue_that_is_named_begins_from_the_same_settings(study, tiny_csv, tmp_path, monkeypatch):
    """The command, with the data put in, plans as its arm `same` the very settings of the run."""
    monkeypatch.chdir(tmp_path)
    report = diagnose(run_of(study))
    assert "--recipe devlin2019" in report.rescue and "--max_seq_length" not in report.rescue
    job = read_run_files(run_of(study)).job
    same = same_as(report.rescue, tiny_csv)
    assert same.args == job.args and same.data_fingerprint == job.data_fingerprint
    assert same.model_fingerprint == job.model_fingerprint


def test_so_it_does_with_another_tokenizer_cut_texts_and_alarms(run, tiny_model, tiny_csv, tmp_path):
    tokenizer = tmp_path / "the tokenizer"
    transformers.AutoTokenizer.from_pretrained(tiny_model()).save_pretrained(tokenizer)
    flags = {
        "model_name_or_path": tiny_model(), "tokenizer_name": tokenizer, "train_file": tiny_csv[0], "max_steps": 2,
        "validation_file": tiny_csv[1], "max_seq_length": 6, "recipe": "devlin2019", "seeds": "1-1", "workers": 0,
        "on_alarm": "stop", "audit_alarms": 0.5, "diagnostics": "clipping", "weight_decay": 0.3, "output_dir": "cut", "preflight": "none",
        "lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": '{"power": 2.0}',
    }  # fmt: skip
    words = [str(word) for name, value in flags.items() for word in (f"--{name}", value)]
    assert cli.main([*words, "--use_cpu", "--label_names", "labels", "label"]) == 0
    folder = tmp_path / "cut" / "runs" / "devlin2019" / "seed-001"
    job, command = read_run_files(folder).job, diagnose(folder).rescue
    assert "--max_seq_length 6" in command and f"--tokenizer_name '{tokenizer}'" in command
    assert "--label_names labels label" in command
    same = same_as(command, tiny_csv)
    assert same.args == {name: job.args[name] for name in job.args if name not in NOT_A_RESCUES}
    assert set(NOT_A_RESCUES) < set(job.args)
    assert same.data_fingerprint == job.data_fingerprint and same.tokenizer == job.tokenizer
    # who gives the length says it, and who gives a model gives its tokenizer with it
    command = diagnose(folder, max_seq_length=9, model_name_or_path=tiny_model(), train_file=tiny_csv[0], validation_file=tiny_csv[1]).rescue  # fmt: skip
    assert "--max_seq_length 9" in command and "--tokenizer_name" not in command


def test_a_studys_batch_and_precision_are_those_of_its_processes(study):
    run = read_run_files(run_of(study))
    args = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}
    sources = {name: f"--{name}" for name in args}
    run.job = replace(run.job, args=args, sources=sources, processes=3, mixed_precision="bf16")
    command = rescue_command(run, Named(train_file="a.csv", validation_file="b.csv"))
    assert "--total_train_batch_size 24" in command and "per_device" not in command and "--bf16 True" in command


OTHER_ARGS = {
    "learning_rate": 3e-5, "lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": 0.1},
    "warmup_steps": 0.2, "num_train_epochs": 4.0, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2,
    "dataloader_drop_last": True, "optim": "adamw_torch", "adam_beta1": 0.8, "adam_beta2": 0.98, "adam_epsilon": 1e-6,
    "weight_decay": 0.05, "bias_correction": False, "lr_bias_correction": True, "max_grad_norm": 0.5,
    "label_smoothing_factor": 0.1, "neftune_noise_alpha": 5.0, "reinit_layers": 1, "bf16": True,
    "train_sampling_strategy": "group_by_length",
}  # fmt: skip


@pytest.mark.parametrize("live", [False, True])
def test_outside_a_study_all_that_changes_training_is_said(tmp_path, live):
    args = StableTrainingArguments(str(tmp_path), **toy.QUIET, **OTHER_ARGS)
    if live:
        source = StableTrainer(toy.model(), args, train_dataset=toy.data(64), processing_class=None)
    else:
        source = tmp_path / "trainer_state.json"
        GOOD(tmp_path)
        torch.save(args, tmp_path / "training_args.bin")
    given = given_by(diagnose(source).rescue)
    given["lr_scheduler_kwargs"] = json.loads(given["lr_scheduler_kwargs"])
    expected = {"model_name_or_path": "MODEL", "train_file": "TRAIN", "validation_file": "DEV", **OTHER_ARGS}
    assert {name: getattr(value, "value", value) for name, value in given.items()} == expected


def test_the_trainers_defaults_are_not_said(tmp_path):
    GOOD(tmp_path)
    torch.save(TrainingArguments(str(tmp_path), use_cpu=True), tmp_path / "training_args.bin")
    command = diagnose(tmp_path / "trainer_state.json").rescue
    assert command.partition("--validation_file DEV ")[2] == (
        "--learning_rate 5e-05 --num_train_epochs 3.0 --per_device_train_batch_size 8"
    )


def test_the_batch_of_several_processes_is_that_of_all(tmp_path):
    args = TrainingArguments(str(tmp_path), use_cpu=True, per_device_train_batch_size=4, gradient_accumulation_steps=2)
    args.distributed_state = SimpleNamespace(num_processes=3)
    GOOD(tmp_path)
    torch.save(args, tmp_path / "training_args.bin")
    given = given_by(diagnose(tmp_path / "trainer_state.json").rescue)
    assert given["total_train_batch_size"] == 24 and given["gradient_accumulation_steps"] == 2
    assert "per_device_train_batch_size" not in given


def test_an_older_trainers_arguments_are_said_by_todays_names():
    args = {"learning_rate": 1e-5, "warmup_ratio": 0.06, "warmup_steps": 0, "optim": "adamw_hf", "max_steps": -1}
    command = rescue_command(Run("x", args=args), Named("m", task_name="rte"))
    assert command.endswith("--task_name rte --learning_rate 1e-05 --warmup_steps 0.06")


def test_what_is_carried_over_is_a_studys_to_set():
    assert set(TRAINING_ARGS) <= set(argument_types())
    assert not set(TRAINING_ARGS) & {*OWN_ARGS, *IGNORED_ARGS, *ALARM_ARGS}


def test_a_recipe_of_ones_own_is_spelt_out(study):
    """The command must not need a file that may be gone, nor an arm's name, which is no recipe."""
    run = read_run_files(run_of(study))
    sources = {"learning_rate": "recipe mine", "max_steps": "--max_steps", "eval_strategy": "study default"}
    args = {"learning_rate": 1e-4, "max_steps": 9, "eval_strategy": "epoch"}
    run.job = replace(run.job, recipe="mine", args=args, sources=sources)
    command = rescue_command(run, Named(train_file="a.csv", validation_file="b.csv"))
    assert command.endswith("--train_file a.csv --validation_file b.csv --learning_rate 0.0001 --max_steps 9")
    assert "--recipe" not in command and f"--model_name_or_path {run.job.model} " in command


def test_a_state_names_what_it_knows(output):
    command = diagnose(output, task_name="demo_pair").rescue
    assert "--task_name demo_pair" in command and "--learning_rate 0.001" in command and "--max_steps 8" in command


def test_a_method_of_ones_own_is_named(tmp_path, tiny_study, monkeypatch, no_figures):
    """The printed command is one that can be run."""
    monkeypatch.chdir(tmp_path)
    example = Path(__file__).parents[2] / "examples" / "own_method.py"
    own = ["--method", f"{example}:NoisyTune", "--noisy_tune", "0.5", "--max_steps", "2", "--seeds", "1"]
    assert cli.main([*tiny_study, *own, "--output_dir", "study"]) == 0
    command = diagnose("study/runs/devlin2019/seed-001").rescue
    assert f"--method {example}:NoisyTune " in command and "--noisy_tune 0.5" in command
    assert given_by(command)["noisy_tune"] == 0.5
