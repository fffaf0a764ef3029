"""`hf-stability run`: its dry run, what it refuses and how, and whole studies on tiny models."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from hf_stability import cli
from hf_stability.recipe import recipe_names
from hf_stability.study.describe import describe_methods
from hf_stability.tasks.demo.data import demo_model_path
from hf_stability.tasks.glue import GLUE_TASKS
from tests.conftest import GOOD, OTHER
from tests.events import Events


pytestmark = pytest.mark.usefixtures("no_heat_maps")

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """A function of arguments that runs the command in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()  # what making a model printed
        code = cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return command


@pytest.fixture
def tiny(tiny_model, tiny_csv):
    """The arguments of a study on the tiny model and data, of few steps and in this process."""
    train, dev = tiny_csv
    return [
        *("--model_name_or_path", tiny_model(), "--train_file", train, "--validation_file", dev),
        *("--max_steps", "4", "--workers", "0", "--use_cpu"),
    ]


def tree(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


# --- help and dry run ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--help", "--help_all", "-h"])
def test_help_says_what_there_is(run, flag, capsys):
    with pytest.raises(SystemExit) as end:
        run(flag)
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text for name in recipe_names()) == (flag == "--help_all")
    for word in ("mosbach2021", "--recipe", "--seeds", "--keep_model", "--bias_correction", "rte", "examples:"):
        assert word in text, word
    assert all(task in text for task in GLUE_TASKS)
    assert ("--adam_beta1" in text) == (flag == "--help_all")
    assert "--learning-rate" not in text  # each flag once
    assert max(map(len, text.splitlines())) <= 120


def rows_of_dry_run(text: str) -> dict[str, dict[str, tuple[str, str]]]:
    """Recipe -> argument -> value and source."""
    recipes: dict[str, dict[str, tuple[str, str]]] = {}
    for line in text.splitlines():
        if ": " in line and " run(s), seeds " in line:
            rows = recipes.setdefault(line.partition(":")[0], {})
        elif line.startswith("| ") and not line.startswith("| argument"):
            name, value, source = (cell.strip() for cell in line.strip("|").split("|"))
            rows[name] = (value, source)
    return recipes


def test_dry_run_shows_the_looks_of_until_and_their_level(run, tiny, tmp_path):
    given = [
        "--recipe",
        "devlin2019",
        "mosbach2021",
        "--seeds",
        "20",
        "--until",
        "failed_share",
        "--until_looks",
        "10",
    ]
    code, out, _ = run(*tiny, *given, "--dry_run")
    assert code == 0 and list(tmp_path.iterdir()) == []
    assert "--until failed_share: looks after 10 and 20 seeds per recipe; it stops when the pair" in out
    assert "(Fisher's exact test, p <= 0.0294 at each look: 0.05 over all looks)" in out
    code, _, err = run(*tiny, "--recipe", "devlin2019", "mosbach2021", "--until", "accuracy")
    assert code == 2 and "--until" in err and "failed_share" in err


def test_dry_run_shows_each_value_with_its_source_and_writes_nothing(run, tiny, tmp_path):
    code, out, err = run(*tiny, "--recipe", "devlin2019", "transformers_default", "--seeds", "3", "--dry_run")
    assert code == 0 and err == "" and list(tmp_path.iterdir()) == []
    assert out.splitlines()[0].startswith("task custom: train 48, validation 24 examples, from files")
    rows = rows_of_dry_run(out)
    assert list(rows) == ["devlin2019", "transformers_default"]
    assert rows["devlin2019"]["bias_correction"] == ("False", "recipe devlin2019")
    assert rows["devlin2019"]["learning_rate"] == ("2e-05", "recipe devlin2019")
    assert rows["devlin2019"]["max_steps"] == ("4", "--max_steps")
    assert rows["devlin2019"]["eval_strategy"] == ("epoch", "study default")
    assert rows["devlin2019"]["model_config.hidden_dropout_prob"] == ("0.1", "recipe devlin2019")
    assert "learning_rate" not in rows["transformers_default"]  # the Trainer's default
    assert out.count("3 run(s), seeds 1, 2, 3") == 2
    ids = [line.removeprefix("ids: ").split(", ") for line in out.splitlines() if line.startswith("ids: ")]
    assert len({i for part in ids for i in part}) == 6


@pytest.mark.usefixtures("no_figures")
def test_columns_and_classes_are_said_before_the_runs(run, tiny, tmp_path):
    said = "task custom: text from sentence, label from label; examples in train / validation: 0 24 / 12, 1 24 / 12"
    code, out, err = run(*tiny, "--dry_run")
    assert code == 0 and said in out.splitlines() and err == ""
    code, out, err = run(*tiny, "--seeds", "1")
    assert code == 0 and out.splitlines()[0] == said


@pytest.mark.usefixtures("no_figures")
def test_columns_are_chosen_and_are_part_of_what_a_study_keeps_to(run, tiny, tmp_path, caplog):
    header, rows = "date,text,y,label\n", [(f"{text} film", text) for text in ("good", "bad") * 4]
    for name in ("train", "dev"):
        lines = [f"2021-01-0{i + 1},{text} {name},{label},{i % 2}" for i, (text, label) in enumerate(rows)]
        (tmp_path / f"{name}.csv").write_text(header + "\n".join(lines) + "\n")
    own = [*tiny, "--train_file", "train.csv", "--validation_file", "dev.csv", "--output_dir", "study", "--seeds", "1"]
    chosen = ["--text_column_names", "text", "--label_column_name", "y"]
    code, out, err = run(*own, *chosen)
    assert code == 0, err
    assert "text from text, label from y; examples in train / validation: bad 4 / 4, good 4 / 4" in out
    assert caplog.text == ""
    code, _, err = run(*own, *chosen, "--dry_run")
    assert code == 0
    for other in (chosen[:2], [*chosen[:1], "date", *chosen[1:]], []):
        code, _, err = run(*own, *other, "--dry_run")
        assert code == 2 and "data_fingerprint: " in err
    assert "text is read from date and text, the first two columns of text, as a pair" in caplog.text


def test_a_development_set_of_one_class_is_warned_of_before_the_runs(run, tiny, tmp_path):
    (tmp_path / "one.csv").write_text("sentence,label\ngood film,1\nfine book,1\n")
    code, _, err = run(*tiny, "--validation_file", "one.csv", "--dry_run")
    assert code == 0 and err.count("\n") == 1
    assert "one.csv), validation: all 2 examples are of the class 1. No run can beat the majority-class" in err


@pytest.mark.parametrize("flag", ["--text_column_names", "--label_column_name"])
def test_diagnose_takes_columns_of_files_only(run, tmp_path, flag):
    (tmp_path / "trainer_state.json").write_text('{"log_history": [], "global_step": 1, "max_steps": 2}')
    code, _, err = run("diagnose", tmp_path, flag, "x")
    assert code == 2 and f"{flag} x: goes with --train_file" in err and err.count("\n") == 1


def test_without_arguments_it_is_the_demo(run, tmp_path):
    recipes = ["transformers_default", "devlin2019", "mosbach2021"]
    code, out, err = run("--dry_run")
    assert code == 0 and out.startswith("task demo_pair: train 1000, validation 1000 examples")
    assert err.startswith("No model and no data given: running the bundled demo, demo_pair")
    assert list(rows_of_dry_run(out)) == recipes
    parts = out.split("\nids: ")[: len(recipes)]  # once per recipe, and nothing about mosbach2021
    assert [part.count("\npreflight: ") for part in parts] == [1, 3, 0]
    assert "\npreflight: The peak learning rate is 0.00025. Without bias correction, early steps" in parts[1]
    short = "--seeds", "2", "--recipe", "devlin2019", "--max_steps", "3", "--preflight", "none"
    code, out, _ = run("--dry_run", *short)
    assert "\npreflight: " not in out
    rows = rows_of_dry_run(out)
    assert code == 0 and list(rows) == ["devlin2019"] and rows["devlin2019"]["max_steps"] == ("3", "--max_steps")
    assert "seeds 1, 2\n" in out
    # Whoever names a model means another study.
    assert run("--dry_run", "--model_name_or_path", "x")[0] == 2
    assert not list(tmp_path.iterdir())


def test_values_come_from_the_command_line_then_task_model_type_recipe_study_and_trainer(
    run, tiny, tiny_model, tmp_path, monkeypatch
):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "args: {learning_rate: 1e-5, weight_decay: 0.1, adam_beta2: 0.9, logging_steps: 7, warmup_steps: 5}\n"
        "model_types: {bert: {args: {weight_decay: 0.2, adam_beta2: 0.91, warmup_steps: 6}}}\n"
    )
    from hf_stability.tasks import presets

    monkeypatch.setitem(presets.PRESETS, "custom", {"adam_beta2": 0.92, "warmup_steps": 8, "adam_beta1": 0.8})
    arguments = [*tiny, "--recipe", str(recipe), "--warmup_steps", "9", "--dry_run"]

    def rows(*more):
        code, out, _ = run(*arguments, *more)
        assert code == 0
        return rows_of_dry_run(out)["mine"]

    assert {name: value for name, value in rows().items() if name not in ("max_steps", "use_cpu")} == {
        "warmup_steps": ("9.0", "--warmup_steps"),
        "adam_beta1": ("0.8", "task preset"),
        "adam_beta2": ("0.91", "recipe mine, bert"),
        "weight_decay": ("0.2", "recipe mine, bert"),
        "learning_rate": ("1e-05", "recipe mine"),
        "logging_steps": ("7.0", "recipe mine"),
        "eval_strategy": ("epoch", "study default"),
        "per_device_eval_batch_size": ("32", "study default"),
    }
    albert = rows("--model_name_or_path", tiny_model("albert"))
    assert albert["weight_decay"] == ("0.1", "recipe mine") and albert["adam_beta2"] == ("0.9", "recipe mine")
    assert rows("--adam_beta2", "0.5")["adam_beta2"] == ("0.5", "--adam_beta2")


# --- bad input -------------------------------------------------------------------------------------------------------


def without(name: str):
    """A copy of the tiny model without files of this name."""

    def make(folder: Path, model: str) -> list[str]:
        shutil.copytree(model, folder / "m")
        for path in (folder / "m").glob(name):
            path.unlink()
        return ["--model_name_or_path", "m"]

    return make


def files(**contents: str):
    """Files with these contents (`train` is train.csv), and the flag to use each."""

    def make(folder: Path, model: str) -> list[str]:
        arguments = []
        for name, content in contents.items():
            suffix, flag = (".yaml", "recipe") if name.startswith("r") else (".csv", f"{name}_file")
            (folder / (name + suffix)).write_text(content)
            arguments += [f"--{flag}", name + suffix]
        return arguments

    return make


def damaged(name: str, content: str):
    def make(folder: Path, model: str) -> list[str]:
        shutil.copytree(model, folder / "m")
        (folder / "m" / name).write_text(content)
        return ["--model_name_or_path", "m"]

    return make


def in_the_way(output: str):
    def make(folder: Path, model: str) -> list[str]:
        (folder / "file").write_text("mine")
        return ["--output_dir", output]

    return make


def something_at(path: str, folder: bool = False):
    """A file, or a folder, where the study would write otherwise."""

    def make(base: Path, model: str) -> list[str]:
        target = base / "study" / path
        target.parent.mkdir(parents=True)
        target.mkdir() if folder else target.write_text("mine")
        return ["--output_dir", "study"]

    return make


TWO_CLASSES = "sentence,label\ngood film,1\nbad film,0\n"

# What is given over the good arguments, and what the line must say.
BAD = {
    "unknown flag": (["--learning_rat", "1"], "--learning_rat: no such argument (did you mean --learning_rate?)"),
    "unknown flag with =": (["--learning_rat=1"], "--learning_rat: no such argument (did you mean --learning_rate?)"),
    "shortened flag": (["--learn", "1"], "--learn: no such argument"),
    "stray word": (["--dry_run", "true", "hello"], "hello: no such argument; a flag begins with --"),
    "word for a number": (["--learning_rate", "abc"], "--learning_rate", "abc"),
    "fraction for a count": (["--max_steps", "1.5"], "--max_steps", "1.5"),
    "word for a switch": (["--bias_correction", "maybe"], "--bias_correction", "maybe"),
    "value missing": (["--learning_rate"], "--learning_rate", "expected one argument"),
    "unknown choice": (["--keep_model", "all"], "--keep_model", "all", "failed_and_best"),
    "unknown optimizer": (["--optim", "adamx"], "--optim", "adamx"),
    "unknown scheduler": (["--lr_scheduler_type", "lineal"], "lineal"),
    # recipes
    "unknown recipe": (["--recipe", "mosbach2012"], "--recipe mosbach2012", "did you mean mosbach2021?", "devlin2019"),
    "recipe file missing": (["--recipe", "gone.yaml"], "--recipe gone.yaml: no such recipe"),
    "recipe twice": (["--recipe", "devlin2019", "devlin2019"], "devlin2019/seed-001 is planned twice"),
    "part twice": (["--recipe", "devlin2019+devlin2019"], "--recipe devlin2019+devlin2019: devlin2019 is there twice"),
    "unknown part": (
        ["--recipe", "devlin2019+mosbach2012"],
        "no such recipe 'mosbach2012' (did you mean mosbach2021?)",
    ),
    "contradicting parts": (
        files(r="args: {learning_rate: 1e-3}\n"),
        ["--recipe", "mosbach2021+r.yaml"],
        "--recipe mosbach2021+r: learning_rate: 2e-05 in mosbach2021, 0.001 in r",
        "replaces: [learning_rate]",
    ),
    "grid of models": (
        files(r="grid: {model_name_or_path: [a, b]}\n"),
        "r.yaml: grid.model_name_or_path",
        "--output_dir",
    ),
    "not in the grid": (
        ["--recipe", "mosbach2021_grid,learning_rate=1"],
        "not in the grid, which has learning_rate=1e-05|",
    ),
    "flag that a grid varies": (
        ["--recipe", "mosbach2021_grid", "--learning_rate", "1e-3"],
        "--learning_rate 0.001: the grid of recipe mosbach2021_grid varies it",
    ),
    "epochs of a grid that count for nothing": (  # the tiny study's --max_steps 4
        ["--recipe", "mosbach2021_grid"],
        "--max_steps 4: the grid of recipe mosbach2021_grid varies num_train_epochs",
    ),
    "grid of a field that the model has not": (
        files(r="grid: {model_config.hidden_dropout: [0, 0.1]}\n"),
        "did you mean hidden_dropout_prob?",
    ),
    "broken YAML": (files(r="args: [1\n"), "r.yaml: not a YAML file"),
    "recipe is a list": (files(r="- 1\n"), "r.yaml: a recipe is a mapping"),
    "unknown model config": (files(r="model_config: {hidden_dropout: 0.1}\n"), "did you mean hidden_dropout_prob?"),
    # models
    "no model": (["--model_name_or_path", ""], "--model_name_or_path is missing"),
    "no such folder": (["--model_name_or_path", "./nowhere"], "--model_name_or_path ./nowhere: no such folder"),
    "model is a file": (in_the_way("out"), ["--model_name_or_path", "file"], "--model_name_or_path file"),
    "neither network nor copy of the model": (["--model_name_or_path", "no-such-model"], "no-such-model", "hub"),
    "impossible name": (["--model_name_or_path", "a b c!"], "a b c!"),
    "no weights": (without("model.safetensors"), "--model_name_or_path m: no weights in this folder"),
    "no config": (without("config.json"), "--model_name_or_path m: no config.json"),
    "no tokenizer": (without("tokenizer*"), "no tokenizer in m; give --tokenizer_name"),
    "config is no JSON": (damaged("config.json", "{"), "--model_name_or_path m", "config.json"),
    "unknown architecture": (damaged("config.json", '{"model_type": "nonesuch"}'), "nonesuch"),
    "weights damaged": (damaged("model.safetensors", "junk"), "--model_name_or_path m: the weights cannot be loaded"),
    # data
    "no data": (["--train_file", ""], "--train_file"),
    "unknown task": (["--task_name", "rtee"], "--task_name rtee"),
    "data file missing": (["--train_file", "gone.csv"], "--train_file gone.csv: no such file"),
    "empty": (files(train=""), "--train_file train.csv: the file is empty"),
    "no rows": (files(train="sentence,label\n"), "--train_file train.csv: column names, but no rows"),
    "one class": (files(train="sentence,label\na,1\nb,1\n"), "train.csv: all rows (2) have the label '1'"),
    "no column label": (files(train="sentence,y\na,1\nb,0\n"), "train.csv: no column 'label', only sentence, y"),
    "no text": (files(train="x,label\n1,1\n2,0\n"), "train.csv: no column of text"),
    "other columns in dev": (files(train=TWO_CLASSES, validation="text,label\na,1\n"), "validation.csv: no column"),
    "label out of range": (files(train="sentence,label\na,0\nb,7\n"), "train.csv, line 3: label 7"),
    "label out of range in dev": (
        files(train=TWO_CLASSES, validation="sentence,label\na,2\n"),
        "validation.csv, line 2: label 2",
    ),
    "no such column of labels": (
        ["--label_column_name", "y"],
        "--label_column_name y: --train_file",
        "only sentence, l",
    ),
    "no such column of text": (
        ["--text_column_names", "a", "b"],
        "--text_column_names a b: --train_file",
        "no column 'a'",
    ),
    "tabs in a csv": (
        files(train="sentence\tlabel\na\t1\n"),
        "line 1: columns separated by tabs",
        "name the file .tsv",
    ),
    "no room for text": (["--max_seq_length", "2"], "--max_seq_length 2: no room"),
    "negative length": (["--max_seq_length", "-5"], "--max_seq_length -5: no room"),
    "no such half": (["--validation_half", "third"], "--validation_half", "third", "second"),
    "no example": (["--max_train_samples", "0"], "--max_train_samples 0: give 1 or more"),
    # the study
    "no seed": (["--seeds", "0"], "--seeds 0: means no run"),
    "seed is a word": (["--seeds", "x"], "--seeds x: give a count"),
    "seeds twice": (["--seeds", "3", "3"], "--seeds 3 3: 3 is given twice"),
    "no seeds after the flag": (["--seeds"], "--seeds", "expected at least one argument"),
    "the Trainer's seed": (["--seed", "3"], "--seed 3: not allowed in a study: give --seeds"),
    "a stream's seed": (["--data_seed", "3"], "--data_seed 3: not allowed in a study"),
    "best at end": (["--load_best_model_at_end"], "--load_best_model_at_end True: not allowed in a study"),
    "no threads": (["--threads_per_run", "0"], "--threads_per_run 0"),
    "fewer workers than none": (["--workers", "-1"], "--workers -1"),
    "a run's folder is a file": (
        something_at("runs/mosbach2021/seed-001"),
        "--output_dir study: study/runs/mosbach2021/seed-001 is a file",
        "move it away",
    ),
    "a recipe's folder is a file": (something_at("runs/mosbach2021"), "study/runs/mosbach2021 is a file"),
    "the runs' folder is a file": (something_at("runs"), "--output_dir study: study/runs is a file"),
    "the data's folder is a file": (something_at("data"), "--output_dir study: study/data is a file"),
    "a table is a folder": (something_at("summary.md", folder=True), "study/summary.md is a folder", "move it away"),
    "output is a file": (in_the_way("file"), "--output_dir file: this is a file"),
    "output below a file": (in_the_way("file/below"), "--output_dir file/below: cannot write to"),
    "output not writable": (["--output_dir", "/proc/study"], "--output_dir /proc/study: cannot write to /proc"),
    "output name too long": (["--output_dir", "x" * 300], "--output_dir xxx", "too long"),
    # settings
    "no correction of sgd": (["--bias_correction", "false", "--optim", "sgd"], "--optim sgd", "adamw_torch"),
    "indivisible batch": (
        ["--total_train_batch_size", "7", "--gradient_accumulation_steps", "2"],
        "--total_train_batch_size 7 cannot be divided",
    ),
    "no batch": (["--total_train_batch_size", "0"], "--total_train_batch_size 0"),
    "no accumulation": (["--gradient_accumulation_steps", "0"], "--gradient_accumulation_steps 0: give 1 or more"),
    "contradictory batch": (
        ["--per_device_train_batch_size", "4"],
        "--per_device_train_batch_size 4 contradicts --total_train_batch_size 16",
    ),
    "evaluation without steps": (["--eval_strategy", "steps"], "--eval_strategy steps: also give --eval_steps"),
    "corrected twice": (["--lr_bias_correction", "--bias_correction", "true"], "--lr_bias_correction true", "twice"),
    "logger of a recipe": (files(r="args: {report_to: wnadb}\n"), "--report_to wnadb: not installed"),
    "logger not known": (["--report_to", "wnadb"], "--report_to wnadb: not installed", "tensorboard"),
    "negative warmup": (["--warmup_steps", "-1"], "warmup_steps"),
    "negative rate": (["--learning_rate", "-1"], "--learning_rate -1.0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2_and_nothing_is_written(run, tiny, tiny_model, tmp_path, case):
    given, *expected = BAD[case]
    more = []
    if isinstance(expected[0], list):
        more = expected.pop(0)
    made = given(tmp_path, tiny_model()) if callable(given) else given
    if "--task_name" in made:
        made = [*made, "--train_file", ""]
    before, started = tree(tmp_path), time.monotonic()
    code, out, err = run(*tiny, "--seeds", "1", *made, *more)
    assert time.monotonic() - started < 10
    assert code == 2
    assert err.startswith("hf-stability: error: ") and err.endswith("\n") and err.count("\n") == 1, err
    assert all(part in err for part in expected), err
    assert out == "" and tree(tmp_path) == before


def test_unknown_task_with_the_nearest(run, tiny_model, tmp_path):
    code, _, err = run("--model_name_or_path", tiny_model(), "--task_name", "rtee")
    assert code == 2 and err.count("\n") == 1 and "--task_name rtee: no such task (did you mean rte?)" in err


def test_no_network_and_no_copy_of_the_data(run, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    started = time.monotonic()
    code, _, err = run("--model_name_or_path", tiny_model(), "--task_name", "wnli")
    assert code == 2 and err.count("\n") == 1 and time.monotonic() - started < 10
    assert "--task_name wnli: no cached copy" in err and "give --data_dir" in err


@pytest.mark.slow
@pytest.mark.parametrize("what", [["--task_name", "wnli"], ["--model_name_or_path", "no-such-model-anywhere"]])
def test_a_hub_that_does_not_answer_is_not_waited_for(tiny, tmp_path, what):
    """In a process that was not told to be offline, with a hub at an address where nobody listens."""
    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "home")}
    arguments = [*tiny[:2], *what] if "--task_name" in what else [*tiny, *what]
    started = time.monotonic()
    ended = subprocess.run(
        [sys.executable, str(ROOT / "run_glue_stable.py"), *arguments],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert time.monotonic() - started < 40  # most of it imports; the libraries' own retries alone take 23
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1, ended.stderr
    assert ended.stderr.startswith("hf-stability: error: ") and not (tmp_path / "results").exists()


def test_all_errors_of_a_recipe_are_told_at_once(run, tiny, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("args:\n  learning_rat: 1\n  num_train_epochs: x\n  max_grad_norm: null\nmodel_confg: {}\n")
    code, out, err = run(*tiny, "--recipe", recipe)
    assert code == 2 and out == ""
    first, *lines = err.splitlines()
    assert first.startswith("hf-stability: error: ") and first.endswith("mine.yaml has 4 errors:")
    assert sorted(lines) == [
        "  args.learning_rat: no such key (did you mean learning_rate?)",
        "  args.max_grad_norm: expected float, found None",
        "  args.num_train_epochs: expected float, found 'x'",
        "  model_confg: no such key (did you mean model_config?)",
    ]


@pytest.mark.parametrize(
    "flag", ["--recipe", pytest.param("--task_name", marks=pytest.mark.slow)], ids=["before", "after"]
)
def test_from_a_shell_it_is_one_line_and_no_traceback(tmp_path, flag):
    """Through the script: refused before the libraries are imported, and after, with whatever they print."""
    ended = subprocess.run(
        [sys.executable, str(ROOT / "run_glue_stable.py"), "--model_name_or_path", "mine", flag, "nonesuch"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr.startswith(f"hf-stability: error: {flag} nonesuch") and ended.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


# --- whole studies ---------------------------------------------------------------------------------------------------


def config_of(folder: Path, recipe: str, seed: int) -> dict:
    return json.loads((folder / "runs" / recipe / f"seed-{seed:03d}" / "config.json").read_text())


def test_a_figure_that_fails_hides_neither_table_nor_exit_code(run, tiny, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("no room\nleft")

    monkeypatch.setattr("hf_stability.study.report.figures.draw_figures", fail)
    code, out, err = run(*tiny, "--recipe", "devlin2019", "--seeds", "1")
    assert code == 0 and "summary.md" in out and "tensorboard --logdir" in out
    assert "no figures: RuntimeError: no room left" in err and "Traceback" not in err


@pytest.mark.parametrize(
    "architecture", ["bert", *(pytest.param(name, marks=pytest.mark.slow) for name in ("roberta", "albert"))]
)
def test_a_study_of_two_recipes_and_two_seeds(run, tiny, tiny_model, tmp_path, monkeypatch, architecture):
    recipes = ("devlin2019", "mosbach2021")
    arguments = [*tiny, "--model_name_or_path", tiny_model(architecture), "--recipe", *recipes, "--seeds", "2"]
    code, out, err = run(*arguments)
    assert code == 0 and "Traceback" not in err
    folder = tmp_path / "results" / "custom"
    for recipe in recipes:
        for seed in (1, 2):
            assert f"{recipe}/seed-00{seed}: " in out
            content = config_of(folder, recipe, seed)
            values, drawn = content["args"], content["job"]["model_config"]
            assert values["bias_correction"] is (recipe == "mosbach2021")
            expected = {"bert": (1.0, 0.01, 0.999), "roberta": (0, 0.1, 0.98), "albert": (1.0, 0, 0.999)}
            assert (values["max_grad_norm"], values["weight_decay"], values["adam_beta2"]) == expected[architecture]
            dropout = 0 if architecture == "albert" else 0.1
            assert drawn["hidden_dropout_prob"] == drawn["attention_probs_dropout_prob"] == dropout
            assert ("classifier_dropout_prob" in drawn) == (architecture == "albert")
    with open(folder / "summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["recipe"], row["seed"]) for row in rows] == [(r, s) for r in recipes for s in ("1", "2")]
    assert "accuracy at the end of training\n" in out and f"every run: {Path('results/custom/summary.md')}" in out
    for name in ("scores", "gradient_norms", "score_against_train_loss"):
        assert name in out.partition(f"Figures: {Path('results/custom/figures')}")[2]
        assert {(folder / "figures" / f"{name}.{ending}").is_file() for ending in ("png", "svg")} == {True}
    assert f"tensorboard --logdir {Path('results/custom/runs')}" in out
    shown = Events(folder / "runs")
    assert set(shown.runs) == {".", *(f"{recipe}/seed-00{seed}" for recipe in recipes for seed in (1, 2))}

    monkeypatch.setattr("hf_stability.study.report.figures.draw_figures", lambda *arguments: [])  # once is enough
    before = {name: (folder / name).read_bytes() for name in ("summary.csv", "summary.json", "summary.md")}
    code, out, err = run(*arguments)
    assert code == 0 and "4 finished runs found, kept" in out
    assert {name: (folder / name).read_bytes() for name in before} == before

    written = tree(folder)
    code, out, err = run(*arguments, "--weight_decay", "0.5")
    assert code == 2 and out == "" and tree(folder) == written
    assert err.splitlines()[1:] == [f"  args.weight_decay: {float(expected[architecture][1])} -> 0.5"]


def test_a_study_of_a_composed_recipe_and_of_a_grid(run, tiny, tmp_path, monkeypatch):
    (tmp_path / "more.yaml").write_text(
        "args: {reinit_layers: 1, weight_decay: 0, seed_streams: true}\nreplaces: [weight_decay]\n"
    )
    grid = tmp_path / "rates.yaml"
    grid.write_text("grid: {learning_rate: [1e-4, 1e-3], bias_correction: [false, true]}\n")
    name = "transformers_default+rates"
    points = [
        f"{name},learning_rate={rate},bias_correction={on}" for rate in (0.0001, 0.001) for on in ("false", "true")
    ]
    recipes = ["devlin2019+more", *points]
    arguments = [*tiny, "--recipe", "devlin2019+more.yaml", f"{name}.yaml", "--output_dir", "study"]

    code, out, _ = run(*arguments, "--seeds", "3", "--dry_run")
    rows = rows_of_dry_run(out)
    assert code == 0 and "\n5 recipe(s), 15 run(s)\n" in out and list(rows) == recipes
    assert rows["devlin2019+more"]["weight_decay"] == ("0.0", "recipe more")
    assert rows["devlin2019+more"]["adam_epsilon"] == ("1e-06", "recipe devlin2019")
    assert rows[points[2]]["learning_rate"] == ("0.001", "grid of recipe rates")
    assert rows[points[2]]["bias_correction"] == ("False", "grid of recipe rates")

    code, out, err = run(*arguments, "--seeds", "1")
    assert code == 0, err
    folder = tmp_path / "study"
    for recipe, rate, on in zip(points, (1e-4, 1e-4, 1e-3, 1e-3), (False, True, False, True), strict=True):
        values = config_of(folder, recipe, 1)["args"]
        assert (values["learning_rate"], values["bias_correction"], values["seed_streams"]) == (rate, on, True)
    values = config_of(folder, "devlin2019+more", 1)["args"]
    assert (values["reinit_layers"], values["weight_decay"], values["learning_rate"]) == (1, 0, 2e-5)
    with open(folder / "summary.csv", newline="") as file:
        rows = [(row["recipe"], row["seed"]) for row in csv.DictReader(file)]
    assert rows == [(recipe, "1") for recipe in recipes]
    assert all(f"| {recipe} " in (folder / "summary.md").read_text() for recipe in recipes)
    assert "no figures" not in err and (folder / "figures" / "gradient_norms.png").is_file()
    assert set(Events(folder / "runs").runs) == {".", *(f"{recipe}/seed-001" for recipe in recipes)}
    assert Events(folder / "runs").hparams(f"{points[0]}/seed-001")[0]["recipe"] == points[0]

    monkeypatch.setattr("hf_stability.study.report.figures.draw_figures", lambda *arguments: [])  # once is enough

    # A run that was not finished is run again, more values of the grid are added, and the rest is as it was.
    finished = folder / "runs" / points[0] / "seed-001" / "run.json"
    before = finished.read_bytes()
    finished.unlink()
    grid.write_text("grid: {learning_rate: [1e-4, 1e-3, 1e-2], bias_correction: [false, true]}\n")
    kept = tree(folder / "runs" / points[1])
    code, out, err = run(*arguments, "--seeds", "1")
    assert code == 0 and "4 finished runs found, kept" in out
    assert finished.read_bytes() == before and tree(folder / "runs" / points[1]) == kept
    assert len(list(folder.glob("runs/*/seed-001/run.json"))) == 7
    code, out, _ = run(*tiny, "--recipe", f"{name}.yaml,learning_rate=0.01", "--seeds", "1", "--output_dir", "study")
    assert code == 0 and "2 finished runs found, kept" in out

    # The name stands for what the recipe was: another file under it is refused.
    (tmp_path / "more.yaml").write_text("args: {reinit_layers: 2, seed_streams: true}\n")
    code, out, err = run(*arguments, "--seeds", "1")
    assert code == 2 and err.splitlines()[1:] == [
        "  args.reinit_layers: 1 -> 2",
        "  args.weight_decay: 0.0 -> 0.01",
    ]


@pytest.mark.usefixtures("no_figures")
def test_a_crashed_run_gives_exit_code_1_and_names_its_traceback(run, tiny, tmp_path, monkeypatch):
    from hf_stability.study import run as run_module

    make_trainer = run_module.make_trainer

    def fails_for_seed_2(job, *args):
        if job.seed == 2:
            raise RuntimeError("out of memory")
        return make_trainer(job, *args)

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "make_trainer", fails_for_seed_2)
        code, out, err = run(*tiny, "--seeds", "2", "--output_dir", "study")
    assert code == 1 and "seed-002: crashed: RuntimeError: out of memory" in out
    errors = tmp_path / "study" / "runs" / "mosbach2021" / "seed-002" / "error.txt"
    assert "1 run(s) crashed: see study/runs/mosbach2021/seed-002/error.txt" in err
    assert "fails_for_seed_2" in errors.read_text()
    assert run(*tiny, "--seeds", "2", "--output_dir", "study")[0] == 0 and not errors.exists()


@pytest.mark.usefixtures("no_figures")
def test_a_checkpoint_in_float16_is_trained_in_float32_and_diagnose_knows(run, tiny, tiny_model, tmp_path):
    AutoModel.from_pretrained(tiny_model(), dtype=torch.float16).save_pretrained("half")
    AutoTokenizer.from_pretrained(tiny_model()).save_pretrained("half")
    own = [*tiny, "--model_name_or_path", "half", "--recipe", "devlin2019", "--seeds", "1", "--keep_model", "last"]
    code, _, err = run(*own, "--output_dir", "study")
    path = Path("study/runs/devlin2019/seed-001")
    assert code == 0 and "float16" not in err and "dtype" not in config_of(Path("study"), "devlin2019", 1)["job"]
    assert {tensor.dtype for tensor in load_file(path / "model" / "model.safetensors").values()} == {torch.float32}
    assert "float16" not in run("diagnose", path)[1]

    code, out, err = run(*own, "--dtype", "auto", "--output_dir", "study", "--dry_run")
    assert code == 2 and "  dtype: (not set) -> float16" in err.splitlines()  # other runs than those in the folder
    code, out, _ = run(*own, "--dtype", "auto", "--dry_run")
    assert code == 0 and "half, weights in float16; cpu" in out
    code, _, _ = run(*own, "--dtype", "bfloat16", "--output_dir", "other")
    assert code == 0 and config_of(Path("other"), "devlin2019", 1)["job"]["dtype"] == "bfloat16"
    assert "The weights themselves are bfloat16" in " ".join(
        run("diagnose", "other/runs/devlin2019/seed-001")[1].split()
    )


@pytest.mark.usefixtures("no_figures")
def test_a_value_of_the_command_line_trains_with_it(run, tiny, tmp_path):
    flags = [
        "--learning_rate",
        "1e-3",
        "--gradient_accumulation_steps",
        "4",
        "--pad_to_max_length",
        "--keep_model",
        "last",
    ]
    assert run(*tiny, *flags, "--seeds", "5-5", "--max_seq_length", "16", "--output_dir", "study")[0] == 0
    values = config_of(tmp_path / "study", "mosbach2021", 5)["args"]
    assert values["learning_rate"] == 1e-3 and values["per_device_train_batch_size"] == 4
    assert (tmp_path / "study" / "runs" / "mosbach2021" / "seed-005" / "model" / "config.json").is_file()


@pytest.mark.usefixtures("no_figures")
def test_mnli_is_judged_by_its_matched_development_set(run, tiny, tiny_model, tmp_path):
    words = ("entailment", "neutral", "contradiction")
    for name, size in (("train", 24), ("dev_matched", 12), ("dev_mismatched", 9)):
        rows = [f"{i}\tgood film {i % 7}\tbad book\t{words[i % 3]}\n" for i in range(size)]
        path = tmp_path / "glue" / "MNLI" / f"{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("index\tsentence1\tsentence2\tgold_label\n" + "".join(rows))
    code, out, err = run(
        *("--model_name_or_path", tiny_model(), "--task_name", "mnli", "--data_dir", "glue", "--output_dir", "study"),
        *("--seeds", "1", "--max_steps", "2", "--workers", "0", "--use_cpu"),
    )
    assert code == 0, err
    folder = tmp_path / "study" / "runs" / "mosbach2021" / "seed-001"
    metrics = json.loads((folder / "metrics.json").read_text())["last"]
    record = json.loads((folder / "run.json").read_text())
    assert {"eval_validation_matched_accuracy", "eval_validation_mismatched_accuracy"} <= set(metrics)
    with np.load(folder / "predictions.npz") as saved:
        assert saved["logits"].shape == (12, 3)
        accuracy = (saved["logits"].argmax(-1) == saved["labels"]).mean()
    assert record["last"] == record["accuracy"] == metrics["eval_validation_matched_accuracy"] == accuracy
    assert record["baseline"] == pytest.approx(1 / 3)


@pytest.mark.usefixtures("no_figures")
def test_stsb_is_a_regression(run, tiny_model, tmp_path):
    for name, size in (("train", 24), ("dev", 12)):
        rows = [f"{i}\tgood film {i % 5}\tbad book\t{i % 6 * 0.9:.3f}\n" for i in range(size)]
        path = tmp_path / "glue" / "STS-B" / f"{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("index\tsentence1\tsentence2\tscore\n" + "".join(rows))
    code, out, err = run(
        *("--model_name_or_path", tiny_model(), "--task_name", "STS-B", "--data_dir", "glue", "--output_dir", "study"),
        *("--seeds", "1", "--max_steps", "2", "--workers", "0", "--use_cpu"),
    )
    assert code == 0, err
    folder = tmp_path / "study" / "runs" / "mosbach2021" / "seed-001"
    record = json.loads((folder / "run.json").read_text())
    assert record["metric"] == "pearson_and_spearman" and record["accuracy"] is None and record["baseline"] == 0
    assert record["last"] == record["metrics"]["eval_pearson_and_spearman"]
    with np.load(folder / "predictions.npz") as saved:
        assert saved["logits"].shape == (12, 1)
        assert saved["labels"] == pytest.approx([round(i % 6 * 0.9, 3) for i in range(12)])


@pytest.mark.usefixtures("no_figures")
def test_mrpcs_headline_is_f1_and_not_a_metric_whose_name_ends_alike(run, tiny_model, tmp_path):
    (tmp_path / "MRPC").mkdir()
    for name, size in (("train", 24), ("dev", 12)):
        rows = [f"{int(i % 3 > 0)}\t{i}\t{i + 50}\tgood film\tfine film {i}\n" for i in range(size)]
        header = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
        (tmp_path / "MRPC" / f"{name}.tsv").write_text(header + "".join(rows))
    code, out, err = run(
        *("--model_name_or_path", tiny_model(), "--task_name", "mrpc", "--data_dir", ".", "--output_dir", "study"),
        *("--seeds", "1-1", "--max_steps", "2", "--workers", "0", "--use_cpu"),
    )
    assert code == 0, err
    record = json.loads((tmp_path / "study" / "runs" / "mosbach2021" / "seed-001" / "run.json").read_text())
    metrics = record["metrics"]
    assert record["metric"] == "f1" and record["last"] == metrics["eval_f1"] != metrics["eval_acc_and_f1"]
    assert record["accuracy"] == metrics["eval_accuracy"] and record["baseline"] == pytest.approx(0.8)


def test_a_dry_run_has_the_rates_of_all_layers_where_they_differ():
    job = SimpleNamespace(args={"layerwise_lr_decay": 0.5, "learning_rate": 8e-5}, methods=())
    (line,) = describe_methods(job, str(demo_model_path()))
    words = line.split(", ")
    assert words[:3] == ["learning rates: classifier 8e-05", "pooler 8e-05", "layer_11 4e-05"]
    assert words[-1] == "embeddings 9.77e-09" and len(words) == 15  # 12 layers and the embeddings: 0.5^13
    assert describe_methods(SimpleNamespace(args={}, methods=()), "") == []


# --- other data ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_several_labels_per_example_from_a_data_set(run, tiny_model, tmp_path):
    """All of it: the study, its report, a rescue's and a diagnosis's view of the same data."""
    words = [word for word in (*GOOD, *OTHER) for _ in range(2)]
    several = [
        {"text": f"{word} {words[-i]}", "label": ["a b"] * (i % 2) + ["c"] * (i % 3 == 0)}
        for i, word in enumerate(words)
    ]
    for split in ("train", "dev"):
        Dataset.from_list(several).to_parquet(tmp_path / "data" / "plain" / f"{split}.parquet")
    card = "configs:\n- config_name: plain\n  data_files:\n  - {split: train, path: plain/train*}\n  - {split: dev, path: plain/dev*}\n"
    (tmp_path / "data" / "README.md").write_text(f"---\n{card}---\n")
    data = ["--dataset_name", "data", "--dataset_config_name", "plain", "--validation_split_name", "dev"]
    model = ["--model_name_or_path", tiny_model()]
    code, out, err = run(
        *model, *data, "--max_steps", "4", "--workers", "0", "--seeds", "2", "--use_cpu", "--output_dir", "out"
    )
    assert code == 0, err
    assert "several labels per example" in out and "f1_micro at the end of training" in out
    verdict = json.loads((tmp_path / "out" / "runs" / "mosbach2021" / "seed-001" / "verdict.json").read_text())
    assert verdict["basis"] == "eval_micro_f1" and "best constant set of labels" in verdict["sentence"]
    assert verdict["evidence"]["constant_loss"] > 0
    code, out, err = run("report", "out")
    assert code == 0, err
    for analysis in ("churn", "ensemble"):
        code, _, err = run("analyze", analysis, "out")
        assert code == 2 and "No run in out has a predictions.npz with one label per example" in err, err
    run_folder = "out/runs/mosbach2021/seed-001"
    code, out, err = run("diagnose", run_folder, *model, *data)
    assert code == 0 and "micro-F1" in out, err
    code, _, err = run(*model, *data, "--recipe", "mosbach2021+r_drop", "--dry_run")
    assert code == 2 and "several labels per example" in err and err.count("\n") == 1
