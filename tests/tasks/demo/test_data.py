from __future__ import annotations

import hashlib
import json
import re

import pytest

from hf_stability.errors import InputError
from hf_stability.tasks.demo import data
from hf_stability.tasks.demo.data import DEMO_TASKS, SPLIT_SIZES
from hf_stability.tasks.demo.grammar import WORDS


TASKS = tuple(DEMO_TASKS)


def fingerprint(rows: list) -> str:
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:16]


# If one of these fails, the generator changed: every figure measured on the demo, and the bundled model, with it.
FINGERPRINTS = {
    "demo_pair": "1d6c14d982483cde",
    "demo_cola": "f7355dc4dab7a90c",
    "demo_nli": "88d7f5d70b36e003",
    "demo_pair, second half": "3342d8cea6a0c96a",
    "demo_cola, second half": "6f4af7a64fc6ca3f",
    "pretraining": "6cc107055433e532",
    "heldout": "47516894bb1efea0",
}


@pytest.mark.parametrize("name", TASKS)
def test_first_rows_are_pinned(splits, name):
    assert fingerprint([rows[:50] for rows in splits[name].values()]) == FINGERPRINTS[name]
    second_half = f"{name}, second half"
    if second_half in FINGERPRINTS:
        assert fingerprint(splits[name]["validation"][500:550]) == FINGERPRINTS[second_half]


WHOLE = {"demo_pair": "2dad123ff38bd700", "demo_cola": "d9fb8ac6ad772467", "demo_nli": "02122e549566e676"}


@pytest.mark.parametrize("name", TASKS)
def test_all_rows_are_pinned(splits, name):
    assert fingerprint(list(splits[name].values())) == WHOLE[name]


def test_the_rows_are_the_callers_own():
    data.demo_splits("demo_cola")["train"][0]["label"] = "changed"
    data.demo_splits("demo_cola")["test"].clear()
    assert fingerprint(list(data.demo_splits("demo_cola").values())) == WHOLE["demo_cola"]


def test_pretraining_text_is_pinned():
    assert fingerprint(data.pretraining_pairs(0, 50)) == FINGERPRINTS["pretraining"]
    assert fingerprint(data.heldout_text(50)) == FINGERPRINTS["heldout"]


@pytest.mark.parametrize("name", TASKS)
def test_splits_have_their_sizes_and_columns(splits, name):
    sizes = {"train": 10_000, "validation": 1000, "test": 2000}
    if name != "demo_nli":
        sizes |= {"train": 1000, "train_full": 10_000}
    assert {split: len(rows) for split, rows in splits[name].items()} == sizes
    assert all(set(row) == {*DEMO_TASKS[name].text_columns, "label"} for row in splits[name]["test"])


@pytest.mark.parametrize("name", TASKS)
def test_no_first_sentence_comes_twice_in_any_split(splits, name):
    first = DEMO_TASKS[name].text_columns[0]
    sentences = [row[first] for rows in splits[name].values() for row in rows]
    assert len(set(sentences)) == len(sentences)


def test_the_intermediate_task_has_no_premise_of_the_target_task(splits):
    pair, nli = (
        {row["sentence1"] for rows in splits[name].values() for row in rows} for name in ("demo_pair", "demo_nli")
    )
    assert not pair & nli


@pytest.mark.parametrize(
    ("name", "shares"), [("demo_pair", (0.5, 0.5)), ("demo_cola", (0.3, 0.7)), ("demo_nli", (1 / 3, 1 / 3, 1 / 3))]
)
def test_label_balance(splits, name, shares):
    for split, rows in splits[name].items():
        for label, share in enumerate(shares):
            count = sum(row["label"] == label for row in rows)
            assert count / len(rows) == pytest.approx(share, abs=0.05), split  # 1000 rows: standard error 0.016


@pytest.mark.parametrize("name", TASKS)
def test_every_word_is_in_the_vocabulary(splits, name):
    columns = DEMO_TASKS[name].text_columns
    used = {
        word
        for rows in splits[name].values()
        for row in rows
        for column in columns
        for word in re.findall(r"\w+|[^\w\s]", row[column])
    }
    assert used <= set(WORDS)


def held_out_accuracy(features, splits: dict[str, list[dict]]) -> float:
    """Accuracy on `test` of a logistic regression on the words of `features(row)`, trained on all of `train_full`."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(CountVectorizer(binary=True, token_pattern=r"\S+"), LogisticRegression(C=0.1, max_iter=2000))
    train, test = splits["train_full"], splits["test"]
    model.fit([features(row) for row in train], [row["label"] for row in train])
    return model.score([features(row) for row in test], [row["label"] for row in test])


@pytest.mark.parametrize(
    "features",
    [
        lambda row: row["sentence2"],
        lambda row: row["sentence1"],
        lambda row: " ".join(["1" + word for word in row["sentence1"].split()]) + " " + row["sentence2"],
    ],
    ids=["hypothesis", "premise", "both"],
)
def test_words_alone_do_not_tell_whether_a_hypothesis_follows(splits, features):
    assert held_out_accuracy(features, splits["demo_pair"]) < 0.54  # chance 0.50, standard error 0.011


def test_words_alone_hardly_tell_the_classes_of_the_intermediate_task_apart(splits):
    nli = {"train_full": splits["demo_nli"]["train"], "test": splits["demo_nli"]["test"]}
    assert held_out_accuracy(lambda row: row["sentence2"], nli) < 0.40  # chance 0.33, standard error 0.011


def test_words_alone_hardly_tell_whether_a_sentence_is_acceptable(splits):
    majority = sum(row["label"] for row in splits["demo_cola"]["test"]) / SPLIT_SIZES["demo_cola"]["test"]
    assert held_out_accuracy(lambda row: row["sentence"], splits["demo_cola"]) < majority + 0.04


def test_few_wrong_hypotheses_can_be_told_by_a_new_word(splits):
    """Comparing stems (three letters), as exact words change with the number: a third would make it easy."""

    def has_new_stem(row: dict) -> bool:
        premise = {word[:3] for word in row["sentence1"].split()}
        return any(word[:3] not in premise for word in row["sentence2"].split() if word not in ("is", "are"))

    rows = splits["demo_pair"]["train_full"]
    new = [row["label"] for row in rows if has_new_stem(row)]
    assert all(label == 1 for label in new)
    assert len(new) / sum(row["label"] for row in rows) < 0.3


@pytest.mark.parametrize("name", TASKS)
def test_load_demo_data(splits, name):
    loaded = data.load_demo_data(name)
    assert loaded.task is DEMO_TASKS[name]
    assert loaded.train.to_list() == splits[name]["train"]
    assert list(loaded.validation) == ["validation"]
    assert loaded.validation["validation"].to_list() == splits[name]["validation"]
    assert name in loaded.source


def test_tasks_describe_themselves():
    assert {name: task.name for name, task in DEMO_TASKS.items()} == {name: name for name in TASKS}
    assert DEMO_TASKS["demo_pair"].headline == "accuracy"
    assert DEMO_TASKS["demo_cola"].headline == "matthews_correlation"
    assert [task.num_labels for task in DEMO_TASKS.values()] == [2, 2, 3]


def test_unknown_names_are_input_errors():
    with pytest.raises(InputError, match="demo_rte.*demo_pair, demo_cola, demo_nli"):
        data.load_demo_data("demo_rte")
    with pytest.raises(InputError, match="'gpt'.*--architecture gpt"):
        data.demo_model_path("gpt")


def test_pretraining_pairs_are_balanced_and_differ_by_seed():
    pairs = data.pretraining_pairs(1, 2000)
    assert sum(pair["label"] for pair in pairs) / 2000 == pytest.approx(0.5, abs=0.05)
    assert pairs[:100] != data.pretraining_pairs(2, 100)
    assert pairs[:100] == data.pretraining_pairs(1, 100)


def test_importing_the_data_does_not_import_datasets():
    import subprocess
    import sys

    # The modules are loaded by themselves: what the package's own __init__ imports is no matter here.
    code = (
        "import sys, types; package = types.ModuleType('hf_stability'); package.__path__ = [sys.argv[1]]; "
        "sys.modules['hf_stability'] = package; import hf_stability.tasks.demo.data; "
        "print(sorted({'datasets', 'torch', 'transformers'} & set(sys.modules)))"
    )
    package = str(data.ASSETS.parents[2])
    shown = subprocess.run([sys.executable, "-c", code, package], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
