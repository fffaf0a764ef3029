"""The single entry, the fingerprint, and tokenised data kept on disk."""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, are_progress_bars_disabled
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

from hf_stability.errors import InputError
from hf_stability.tasks import load
from hf_stability.tasks.glue import GLUE_TASKS
from hf_stability.tasks.load import (
    TokenizedData,
    data_fingerprint,
    half_of_validation,
    load_task_data,
    subsample,
    tokenize,
)
from hf_stability.tasks.metrics import build_compute_metrics
from hf_stability.tasks.task import Task, TaskData


ROOT = Path(__file__).parents[2]
PAIR = GLUE_TASKS["rte"]
SINGLE = Task("single", ("sentence",), ("no", "yes"), ("accuracy",))
SCORE = Task("score", ("sentence",), None, ("pearson_and_spearman", "pearson", "spearman"))


@pytest.fixture(scope="module")
def tokenizer():
    """One token a word, `[CLS] a [SEP] b [SEP]`, as BERT's."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(50))]
    tokens = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokens.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokens.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokens,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=64,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def words(count: int) -> str:
    return " ".join(f"w{i % 50}" for i in range(count))


def make(task: Task, lengths: list[int], labels: list | None = None) -> TaskData:
    """Texts of so many words each; the development set is the training set in reverse."""
    if labels is None:
        labels = [float(i) if task.is_regression else i % task.num_labels for i in range(len(lengths))]
    columns = {name: [words(count) for count in lengths] for name in task.text_columns}
    rows = Dataset.from_dict({**columns, "label": labels})
    return TaskData(task, rows, {"validation": rows.select(range(len(rows))[::-1])}, "test")


# --- the entry -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give --task_name, --train_file with --validation_file, or --dataset_name"),
        ({"task_name": "rte", "train_file": "a.csv"}, "--task_name rte: give either this or --train_file"),
        ({"train_file": "a.csv"}, "--train_file a.csv: --validation_file is missing"),
        ({"validation_file": "a.csv"}, "--validation_file a.csv: --train_file is missing"),
        (
            {"train_file": "a.csv", "validation_file": "b.csv", "data_dir": "d"},
            "--data_dir d: goes with a GLUE --task_name",
        ),
        ({"task_name": "demo_pair", "data_dir": "d"}, "--data_dir d: .* demo_pair is bundled"),
        (
            {"task_name": "mrcp"},
            r"--task_name mrcp: no such task \(did you mean mrpc\?\). Give one of cola, sst2, .*demo_pair",
        ),
        ({"task_name": "rte", "label_column_name": "y"}, "--label_column_name y: goes with --train_file"),
        ({"text_column_names": ["a", "b"]}, "--text_column_names a b: goes with --train_file"),
        ({"task_name": "xyzzy"}, "--task_name xyzzy: no such task. Give one of cola"),
    ],
)
def test_contradictions(arguments, message):
    with pytest.raises(InputError, match=message) as error:
        load_task_data(**arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["sst2", "SST-2", "SST2"])
def test_glue_names(name, tmp_path):
    for file in ("train", "dev"):
        (tmp_path / f"{file}.tsv").write_text("sentence\tlabel\ngood\t1\nbad\t0\n")
    assert load_task_data(name, tmp_path).task is GLUE_TASKS["sst2"]


def test_demo_and_files(tmp_path):
    demo = load_task_data("demo_pair")
    assert demo.task.name == "demo_pair" and len(demo.train) > 0 and list(demo.validation) == ["validation"]
    (tmp_path / "a.csv").write_text("sentence,label\ngood,1\nbad,0\n")
    custom = load_task_data(train_file=tmp_path / "a.csv", validation_file=str(tmp_path / "a.csv"))
    assert custom.task.name == "custom"


def test_importing_is_light():
    """The heavy libraries come with the first data, not with the import."""
    script = """
import sys, types
package = types.ModuleType("hf_stability")  # without the package's own __init__, which imports the trainer
package.__path__ = [sys.argv[1]]
sys.modules["hf_stability"] = package
import hf_stability.tasks.load, hf_stability.tasks.metrics
heavy = {"sklearn", "scipy", "evaluate", "datasets", "matplotlib", "tensorboard", "torch", "transformers"}
assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
"""
    package = str(Path(load.__file__).parents[1])
    subprocess.run([sys.executable, "-c", script, package], check=True, timeout=60)


# --- cutting and fingerprint -----------------------------------------------------------------------------------------


def test_halves_of_the_development_set():
    data = make(PAIR, [3, 4, 5, 6, 7])
    assert half_of_validation(data) is data
    first, second = (half_of_validation(data, half).validation["validation"] for half in ("first", "second"))
    assert first[:]["label"] + second[:]["label"] == data.validation["validation"][:]["label"]
    assert (len(first), len(second)) == (2, 3)
    with pytest.raises(InputError, match="--validation_half first: this half lacks a class .* shuffle"):
        half_of_validation(make(PAIR, [3, 4, 5, 6], labels=[0, 0, 1, 1]), "first")
    with pytest.raises(InputError, match="--validation_half third: give first, second or both"):
        half_of_validation(data, "third")
    with pytest.raises(InputError, match="--validation_half first: the validation set has 1 row"):
        half_of_validation(make(SCORE, [3]), "first")
    assert half_of_validation(make(SCORE, [3, 4, 5, 6]), "first").validation["validation"].num_rows == 2


def test_both_halves_are_two_development_sets_of_which_the_first_counts():
    data = make(PAIR, [3, 4, 5, 6, 7])
    more = replace(data, validation={**data.validation, "other": data.validation["validation"]})
    both = half_of_validation(more, "both").validation
    assert list(both) == ["first", "second", "other"] and both["other"] is data.validation["validation"]
    for half in ("first", "second"):
        assert both[half][:] == half_of_validation(data, half).validation["validation"][:]
    with pytest.raises(InputError, match="--validation_half both: the first half lacks a class .* shuffle"):
        half_of_validation(make(PAIR, [3, 4, 5, 6], labels=[0, 0, 1, 1]), "both")
    with pytest.raises(InputError, match="--validation_half both: the validation set has 1 row"):
        half_of_validation(make(SCORE, [3]), "both")


def test_subsample():
    data = make(PAIR, [3, 4, 5, 6])
    assert subsample(data) == data
    cut = subsample(data, max_train_samples=3, max_eval_samples=9)
    assert cut.train["label"][:] == data.train["label"][:3] and len(cut.validation["validation"]) == 4
    assert len(subsample(data, max_eval_samples=1).validation["validation"]) == 1
    with pytest.raises(InputError, match="--max_eval_samples 0: give 1 or more"):
        subsample(data, max_eval_samples=0)


def test_fingerprint_is_what_its_docstring_says():
    data = make(SINGLE, [1, 2], [0, 1])
    expected = b""
    for texts, labels in ((["w0", "w0 w1"], [0, 1]), (["w0 w1", "w0"], [1, 0])):
        expected += struct.pack("<q", 2)
        for text, label in zip(texts, labels, strict=True):
            expected += struct.pack("<q", len(text)) + text.encode() + struct.pack("<q", label)
    assert data_fingerprint(data) == hashlib.sha256(expected).hexdigest()
    # A literal, so that another version of anything that gives another value is noticed.
    assert data_fingerprint(data).startswith("053c662dc26dc59e")


def test_fingerprint_of_rounded_scores():
    """3.8 as read from a file (64 bits) and as the hub stores it (32 bits) are one label."""
    exact, rounded = (
        make(SCORE, [1, 2], [3.8, 0.1]),
        make(SCORE, [1, 2], [float(np.float32(3.8)), float(np.float32(0.1))]),
    )
    assert data_fingerprint(exact) == data_fingerprint(rounded)


rows = st.lists(st.tuples(st.text(st.characters(codec="utf-8")), st.integers(0, 1)), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(st.lists(rows, min_size=2, max_size=2), st.lists(rows, min_size=2, max_size=2))
def test_fingerprint_tells_data_apart(first, second):
    def fingerprint(splits):
        train, dev = (
            Dataset.from_dict({"sentence": [text for text, _ in part], "label": [label for _, label in part]})
            for part in splits
        )
        return data_fingerprint(TaskData(SINGLE, train, {"validation": dev}))

    assert (fingerprint(first) == fingerprint(second)) == (first == second)


def test_fingerprint_does_not_depend_on_the_storage(tmp_path):
    data = make(PAIR, list(range(1, 9)))
    shuffled = data.train.select([3, 1, 2, 0, 4, 5, 6, 7])
    assert data_fingerprint(replace(data, train=shuffled)) != data_fingerprint(data)
    data.train.save_to_disk(tmp_path / "rows")
    stored = Dataset.load_from_disk(str(tmp_path / "rows"))
    assert data_fingerprint(replace(data, train=stored)) == data_fingerprint(data)


# --- tokens ----------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=8), maximum=st.integers(8, 40), pad=st.booleans())
def test_tokenize_against_reference(tokenizer, lengths, maximum, pad):
    for task, special in ((SINGLE, 2), (PAIR, 3)):
        tokenized = tokenize(make(task, lengths), tokenizer, maximum, pad)
        sizes = [count * len(task.text_columns) + special for count in lengths]
        assert tokenized.truncated_share == pytest.approx(sum(size > maximum for size in sizes) / len(sizes))
        assert [sum(mask) for mask in tokenized.train["attention_mask"]] == [min(size, maximum) for size in sizes]
        padded = [maximum if pad else min(size, maximum) for size in sizes]
        assert [len(ids) for ids in tokenized.train["input_ids"]] == padded
        assert set(tokenized.train.column_names) == {"input_ids", "attention_mask", "token_type_ids", "label"}
        assert tokenized.validation["validation"]["input_ids"][:] == tokenized.train["input_ids"][::-1]


def test_pairs_are_pairs(tokenizer):
    row = tokenize(make(PAIR, [2]), tokenizer).train[0]
    assert row["input_ids"] == [2, 4, 5, 3, 4, 5, 3] and row["token_type_ids"] == [0, 0, 0, 0, 1, 1, 1]


def test_tokenizer_without_token_types(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "model_input_names", ["input_ids", "attention_mask"])
    assert set(tokenize(make(PAIR, [2]), tokenizer).train.column_names) == {"input_ids", "attention_mask", "label"}


def test_length_limits(tokenizer, caplog):
    tokenized = tokenize(make(PAIR, [100]), tokenizer, max_seq_length=500)
    assert len(tokenized.train["input_ids"][0]) == 64 and tokenized.truncated_share == 1.0
    assert "--max_seq_length 500: lowered to 64, the tokenizer's limit" in caplog.text
    caplog.clear()
    tokenize(make(PAIR, [2]), tokenizer, max_seq_length=500)
    assert not caplog.text  # nothing was lost
    with pytest.raises(InputError, match="--max_seq_length 4: no room for text beside 3 special tokens"):
        tokenize(make(PAIR, [2]), tokenizer, max_seq_length=4)


def test_progress_bars_only_for_large_work(tokenizer, capfd, monkeypatch):
    tokenize(make(PAIR, [2] * 50), tokenizer)
    assert capfd.readouterr().err == "" and not are_progress_bars_disabled()
    monkeypatch.setattr(load, "PROGRESS_BAR_ROWS", 99)
    tokenize(make(PAIR, [2] * 50), tokenizer)
    assert "tokenizing" in capfd.readouterr().err


@pytest.mark.parametrize("task", [PAIR, SCORE], ids=["classification", "regression"])
def test_save_and_load(task, tokenizer, tmp_path, capfd):
    folder = tmp_path / "study" / "data"
    tokenized = tokenize(make(task, [2, 40, 6]), tokenizer, max_seq_length=16)
    for _ in range(2):  # the second replaces the first
        tokenized.save(folder)
        assert [path.name for path in folder.parent.iterdir()] == ["data"]  # nothing temporary is left
    loaded = TokenizedData.load(folder)
    assert capfd.readouterr().err == ""
    assert loaded.task == task and loaded.truncated_share == tokenized.truncated_share == 1 / 3
    assert loaded.train[:] == tokenized.train[:]
    assert {name: rows[:] for name, rows in loaded.validation.items()} == {
        "validation": tokenized.validation["validation"][:]
    }
    assert loaded.train.cache_files  # on disk: memory-mapped, not read


def test_save_is_atomic(tokenizer, tmp_path, monkeypatch):
    tokenized = tokenize(make(PAIR, [2, 3]), tokenizer)
    tokenized.save(tmp_path / "data")

    def full_disk(*args, **kwargs):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(load.json, "dumps", full_disk)
        with pytest.raises(OSError, match="no space"):
            tokenized.save(tmp_path / "data")
        with pytest.raises(OSError, match="no space"):
            tokenized.save(tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert TokenizedData.load(tmp_path / "data").train[:] == tokenized.train[:]


SAVE_AND_WAIT = """
import sys, time
from datasets import Dataset
from hf_stability.tasks.load import TokenizedData
from hf_stability.tasks.task import Task

def wait(self, folder):
    folder.mkdir(parents=True)
    print("saving", flush=True)
    time.sleep(60)

Dataset.save_to_disk = wait
rows = Dataset.from_dict({"input_ids": [[1]], "label": [0]})
TokenizedData(Task("single", ("sentence",), ("no", "yes"), ("accuracy",)), rows, {}, 0.0).save(sys.argv[1])
"""


def test_what_a_killed_save_left_is_deleted_by_the_next_and_what_another_process_is_saving_is_not(tokenizer, tmp_path):
    tokenized = tokenize(make(PAIR, [2, 3]), tokenizer)
    with subprocess.Popen(
        [sys.executable, "-c", SAVE_AND_WAIT, str(tmp_path / "theirs")], stdout=subprocess.PIPE, cwd=ROOT
    ) as other:
        try:
            assert other.stdout.readline() == b"saving\n"
            (theirs,) = tmp_path.iterdir()
            tokenized.save(tmp_path / "mine")
            assert sorted(path.name for path in tmp_path.iterdir()) == sorted([theirs.name, "mine"])
        finally:
            other.kill()
            other.wait()
    assert theirs.is_dir()  # a kill cleans nothing up
    tokenized.save(tmp_path / "mine")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("name", "hours", "deleted"),
    [
        (".0123456789abcdef.tmp_abc1", 25, True),  # of an earlier version
        (".0123456789abcdef.tmp_abc1", 23, False),
        (".0123456789abcdef.saving-elsewhere-1-tmp_abc1", 25, True),  # of another machine
        (".0123456789abcdef.saving-elsewhere-1-tmp_abc1", 23, False),
        (".0123456789abcdef.saving-HERE-OWN-tmp_abc1", 0, False),  # this process, in another thread
        (".0123456789abcdef.saving-HERE-OWN-tmp_abc1", 24 * 365, True),  # the number was given again
        (".cache.mine", 24 * 365, False),
        ("0123456789abcdef.saving-HERE-999999999-x", 0, False),  # a user's own
        (".0123456789abcdef.saving-HERE-999999999-tmp_abc1", 0, True),
    ],
)
def test_only_leftovers_are_deleted(tmp_path, name, hours, deleted):
    name = name.replace("HERE", socket.gethostname()).replace("OWN", str(os.getpid()))
    (tmp_path / name / "new").mkdir(parents=True)
    changed = time.time() - hours * 3600
    os.utime(tmp_path / name, (changed, changed))
    load.delete_leftovers(tmp_path)
    assert (tmp_path / name).exists() != deleted


def test_save_and_load_elsewhere(tokenizer, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="has no tokenized data"):
        tokenize(make(PAIR, [2]), tokenizer).save(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").exists()
    for folder in ("mine", "nowhere", "mine/thesis.tex"):
        with pytest.raises(FileNotFoundError, match="has no tokenized data"):
            TokenizedData.load(tmp_path / folder)


@pytest.mark.parametrize("task", [PAIR, SCORE], ids=["classification", "regression"])
def test_trainer_takes_it(task, tokenizer, tmp_path):
    """From task to metrics in the Trainer itself, with its default handling of columns and labels."""
    make(task, [2, 9, 4, 6])
    tokenize(make(task, [2, 9, 4, 6]), tokenizer, 16).save(tmp_path / "data")
    data = TokenizedData.load(tmp_path / "data")
    config = BertConfig(
        vocab_size=54,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=task.num_labels,
    )
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "out"), max_steps=1, report_to="none", use_cpu=True, disable_tqdm=True
    )
    trainer = Trainer(
        model=BertForSequenceClassification(config),
        args=arguments,
        train_dataset=data.train,
        eval_dataset=data.validation["validation"],
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=build_compute_metrics(task),
    )
    assert np.isfinite(trainer.train().training_loss)
    metrics = trainer.evaluate()
    assert all(0 <= abs(metrics[f"eval_{name}"]) <= 1 for name in task.metrics)


def test_several_labels_per_example(tokenizer, tmp_path):
    task = Task("several", ("sentence",), ("a", "b"), ("f1_micro", "f1_macro"), multi_label=True)
    data = make(task, [3, 4, 5, 6], [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    assert data_fingerprint(data) != data_fingerprint(make(task, [3, 4, 5, 6], [[1.0, 0.0]] * 4))
    tokens = tokenize(half_of_validation(subsample(data, 2), "both"), tokenizer)
    tokens.save(tmp_path / "saved")
    loaded = TokenizedData.load(tmp_path / "saved")
    assert loaded.task == task and list(loaded.validation) == ["first", "second"]
    assert loaded.train["label"][:] == [[1.0, 0.0], [0.0, 1.0]]
    sorted_rows = make(task, [3, 4], [[1.0, 0.0], [0.0, 1.0]])
    with pytest.raises(InputError, match="this half lacks a class of the whole validation set"):
        half_of_validation(sorted_rows, "first")
