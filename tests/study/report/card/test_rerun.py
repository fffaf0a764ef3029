"""The command of a card that runs a study again."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_stability import cli
from hf_stability.study.prepare import parse_seeds
from hf_stability.study.records import RunRecord
from hf_stability.study.report.card.rerun import (
    BUNDLED,
    public,
    rerun_command,
    rerun_section,
    seed_flags,
    seed_words,
)
from hf_stability.tasks.demo.data import demo_model_path
from tests.study.report.card.test_card import JOB


def run(seed=1, **values):
    return RunRecord("id", "mosbach2021", seed, "rte", "ok", "accuracy", last=0.7, **values)


RUNS = [run(seed) for seed in (1, 2, 3)]


@given(st.sets(st.integers(0, 50), min_size=1, max_size=8))
def test_seeds_are_written_as_the_command_reads_them(seeds):
    """Oracle: the study's own reader of `--seeds`."""
    words = seed_words(list(seeds)).split()
    assert sorted(parse_seeds(words)) == sorted(seeds)


def test_flags_of_the_command_line_are_repeated_and_those_of_recipes_are_not():
    words = rerun_command(JOB, RUNS, "bert-large-uncased")
    assert words == [
        "hf-stability",
        "--model_name_or_path bert-large-uncased",
        "--task_name rte",
        "--recipe mosbach2021",
        "--seeds 3",
        "--max_steps 40",
        "--deepspeed zero.json",
        "--keep_model failed_and_best",
        "--output_dir again",
    ]


def test_a_policys_flags():
    policy = {"seeds": [1, 2, 3, 4], "look_at": 0.25, "finish": 1}
    assert seed_flags(replace(JOB, policy=policy), RUNS) == ["--restarts 4", "--look_at 0.25", "--finish 1"]
    others = seed_flags(replace(JOB, policy={**policy, "seeds": [7, 8, 9, 10]}), RUNS)
    assert others == ["--seeds 7-10", "--restarts 4", "--look_at 0.25", "--finish 1"]


def test_the_demo_needs_no_model():
    job = replace(JOB, task="demo_pair", model=str(demo_model_path()))
    assert "--model_name_or_path" not in " ".join(rerun_command(job, RUNS, BUNDLED))


def test_what_the_records_do_not_have_is_named():
    text = "\n".join(rerun_section(replace(JOB, task="custom", processes=2), RUNS))
    assert "Replace MODEL, TRAIN_FILE, VALIDATION_FILE by your own" in text
    assert "--max_seq_length" in text and "--validation_half. " not in text and "--label_column_name" in text
    assert "2 processes trained each run together" in text and JOB.id not in text
    known = "\n".join(rerun_section(JOB, [run(metrics={"eval_second_accuracy": 0.6})], "bert-large-uncased"))
    assert "Replace" not in known and "--validation_half both" in known and JOB.id in known
    assert "--max_eval_samples. Add" in known


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/home/anna/a b.json", "a b.json"),
        ("~/x.json", "x.json"),
        ("../x.json", "x.json"),
        ("C:\\Users\\anna\\x.json", "x.json"),
        (["/home/anna/x", "adamw"], ["x", "adamw"]),
        ("linear", "linear"),
        ("bert/base", "bert/base"),
        (0.1, 0.1),
        (None, None),
    ],
)
def test_paths_are_shortened(value, shown):
    assert public(value) == shown


@pytest.mark.slow
def test_the_command_of_a_real_study_makes_runs_with_the_same_ids(
    tiny_study, tiny_csv, tmp_path, monkeypatch, no_figures, no_heat_maps
):
    monkeypatch.chdir(tmp_path)
    flags = [
        "--seeds",
        "2",
        "--max_steps",
        "4",
        "--validation_half",
        "both",
        "--keep_model",
        "last",
        "--learning_rate",
        "1e-3",
    ]
    assert cli.main([*tiny_study, *flags, "--output_dir", "study"]) == 0
    assert cli.main(["card", "study"]) == 0
    text = (tmp_path / "study" / "README.md").read_text()
    assert str(tmp_path) not in text and "## These weights" in text
    command = re.search(r"```bash\n(.*?)```", text, re.S)[1].replace("\\\n", " ")
    model = tiny_study[tiny_study.index("--model_name_or_path") + 1]
    for name, value in {"MODEL": model, "VALIDATION_FILE": tiny_csv[1], "TRAIN_FILE": tiny_csv[0]}.items():
        command = re.sub(rf"\b{name}\b", value, command)
    program, *words = shlex.split(command)
    assert program == "hf-stability" and cli.main([*words, "--workers", "0"]) == 0
    ids = [
        [json.loads(path.read_text())["id"] for path in sorted(tmp_path.glob(f"{folder}/runs/*/*/config.json"))]
        for folder in ("study", "again")
    ]
    assert ids[0] == ids[1] and len(ids[0]) == 2 and set(re.findall("the id `(.*?)`", text)) <= set(ids[0])
