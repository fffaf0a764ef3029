"""The texts of a study's development set, decoded from saved tokens, with the bundled demo's tokenizer and others."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from hf_stability.study.records import RunRecord
from hf_stability.study.report.page.example_texts import decode, read_examples, tokenizer_file
from hf_stability.tasks.demo.data import ASSETS
from hf_stability.tasks.load import TokenizedData
from hf_stability.tasks.task import Task
from hf_stability.utils.files import write_json


PAIR = Task("pairs", ("premise", "hypothesis"), ("no", "yes"), ("accuracy",))
BERT = Tokenizer.from_file(str(ASSETS / "bert" / "tokenizer.json"))
WORDS = [token for token in BERT.get_vocab() if token.isalpha()][:6]


def tokens(*texts, tokenizer=BERT):
    encoding = tokenizer.encode(*texts)
    return {"input_ids": encoding.ids, "attention_mask": encoding.attention_mask}


def save_data(folder, rows, labels, task=PAIR, names=("validation",), tokenizer=str(ASSETS / "bert")):
    """A study's folder with the data and one run's config. Returns the run."""
    data = Dataset.from_list([{**row, "label": label} for row, label in zip(rows, labels, strict=True)])
    TokenizedData(task, data, dict.fromkeys(names, data), 0.0).save(folder / "data" / "0123")
    run = RunRecord("id", "a", 1, task.name, "ok", "accuracy")
    path = folder / "runs" / run.name
    path.mkdir(parents=True)
    write_json(path / "config.json", {"job": {"data_folder": "elsewhere/data/0123", "tokenizer": tokenizer}})
    return run


def test_texts_come_back_by_column_without_padding(tmp_path):
    a, b, c = " ".join(WORDS[:3]), " ".join(WORDS[3:5]), WORDS[5]
    row = tokens(c, a)
    padded = {key: [*values, 0, 0] for key, values in row.items()}
    run = save_data(tmp_path, [tokens(a, b), padded], [1, 0], names=("first", "second"))
    found = read_examples(tmp_path, [run])
    assert (found.name, found.others, found.missing) == ("first", ("second",), "")
    assert found.task == PAIR and found.labels.tolist() == [1, 0]
    assert found.texts(0) == {"premise": a, "hypothesis": b}
    assert found.texts(1) == {"premise": c, "hypothesis": a}


def test_an_unknown_word_does_not_separate_texts():
    ids = tokens(f"{WORDS[0]} Zyx {WORDS[1]}", WORDS[2])["input_ids"]
    assert decode(BERT, ids, ("s1", "s2")) == {"s1": f"{WORDS[0]} [UNK] {WORDS[1]}", "s2": WORDS[2]}


def test_an_empty_text_leaves_one_text():
    assert decode(BERT, tokens(WORDS[0], "")["input_ids"], ("s1", "s2")) == {"text": WORDS[0]}


def test_a_tokenizer_of_robertas_form():
    vocabulary = {word: i for i, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", "one", "two"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    ids = tokens("one three", "two", tokenizer=tokenizer)["input_ids"]
    assert decode(tokenizer, ids, ("s1", "s2")) == {"s1": "one <unk>", "s2": "two"}
    assert decode(tokenizer, tokens("two one", tokenizer=tokenizer)["input_ids"], ("s",)) == {"s": "two one"}


def test_without_the_tokenizer_there_are_labels_but_no_texts(tmp_path):
    run = save_data(tmp_path, [tokens(WORDS[0], WORDS[1])], [1], tokenizer="no-such-tokenizer")
    found = read_examples(tmp_path, [run])
    assert found.texts(0) is None and found.labels.tolist() == [1]
    assert "'no-such-tokenizer'" in found.missing


def test_without_the_data_nothing_is_known(tmp_path):
    run = save_data(tmp_path, [tokens(WORDS[0], WORDS[1])], [1])
    shutil.rmtree(tmp_path / "data")
    found = read_examples(tmp_path, [run])
    assert found.task is None and found.labels is None and "cannot be read" in found.missing
    (tmp_path / "runs" / run.name / "config.json").write_text("{}")
    assert "config.json" in read_examples(tmp_path, [run]).missing


def test_a_run_without_config_is_passed_over(tmp_path):
    run = save_data(tmp_path, [tokens(WORDS[0], WORDS[1])], [1])
    lost = RunRecord("id", "a", 2, "pairs", "ok", "accuracy")
    assert read_examples(tmp_path, [lost, run]).texts(0) == {"premise": WORDS[0], "hypothesis": WORDS[1]}


def test_values_of_a_regression_keep_their_labels(tmp_path):
    task = Task("values", ("s1", "s2"), None, ("pearson",))
    run = save_data(tmp_path, [tokens(WORDS[0], WORDS[1])] * 2, [0.5, 2.25], task)
    found = read_examples(tmp_path, [run])
    assert found.task.is_regression
    np.testing.assert_array_equal(found.labels, [0.5, 2.25])


@pytest.mark.parametrize("name", ["", "a/b/c/d", "not a name", "user/name"])
def test_a_name_without_a_tokenizer_here_gives_none(tmp_path, name):
    assert tokenizer_file(name, tmp_path) is None


def test_the_encoder_of_a_stage_is_found_in_a_moved_study(tmp_path):
    place = tmp_path / "stages" / "mnli-0123" / "encoder"
    place.mkdir(parents=True)
    (place / "tokenizer.json").write_text("{}")
    assert tokenizer_file("/old/place/stages/mnli-0123/encoder", tmp_path) == place / "tokenizer.json"
