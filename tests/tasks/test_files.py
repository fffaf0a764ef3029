"""A task from csv, tsv and json files: what is read, and one line for each thing that can be wrong."""

from __future__ import annotations

import csv
import io
import json
import logging
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_stability.errors import InputError
from hf_stability.tasks.files import EXTENSIONS, load_files


def write(path: Path, rows: list[dict]) -> Path:
    """Rows in the format of the path's extension."""
    if path.suffix == ".json":
        text = json.dumps(rows)
    elif path.suffix == ".jsonl":
        text = "".join(json.dumps(row) + "\n" for row in rows)
    elif path.suffix == ".tsv":
        text = (
            "\n".join("\t".join(str(value) for value in row) for row in [rows[0], *(r.values() for r in rows)]) + "\n"
        )
    else:
        file = io.StringIO(newline="")
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
        text = file.getvalue()
    path.write_bytes(text.encode("utf-8"))
    return path


def load(folder: Path, rows: list[dict], validation: list[dict] | None = None, extension: str = ".csv", **kwargs):
    train = write(folder / f"train{extension}", rows)
    return load_files(train, write(folder / f"dev{extension}", validation or rows), **kwargs)


def labelled(*labels, **columns) -> list[dict]:
    return [{"sentence": f"text {row}", **columns, "label": label} for row, label in enumerate(labels)]


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_formats_agree(extension, tmp_path):
    rows = [{"idx": 5, "sentence1": 'say "no"', "sentence2": "ünï, ß", "label": 1}]
    rows += [{"idx": 6, "sentence1": "x", "sentence2": "y", "label": 0}]
    data = load(tmp_path, rows, extension=extension)
    assert data.task.name == "custom" and data.task.text_columns == ("sentence1", "sentence2")
    assert data.task.label_names == ("0", "1") and data.task.metrics == ("accuracy", "f1", "matthews_correlation")
    expected = {"sentence1": ['say "no"', "x"], "sentence2": ["ünï, ß", "y"], "label": [1, 0]}
    assert data.train[:] == data.validation["validation"][:] == expected
    assert data.source == f"files (train{extension}, dev{extension})"


text = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\t\0")).filter(str.strip)


@settings(max_examples=40, deadline=None)
@given(texts=st.lists(text, min_size=2, max_size=6), extension=st.sampled_from(EXTENSIONS))
def test_any_text_survives(texts, extension, tmp_path_factory):
    rows = [{"label": row % 2, "sentence": text} for row, text in enumerate(texts)]
    data = load(tmp_path_factory.mktemp("files"), rows, extension=extension)
    assert data.train["sentence"][:] == texts


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from(["b", "a", "Z", "maybe", "10", "9"]), min_size=2, max_size=8).filter(
        lambda x: len(set(x)) > 1
    )
)
def test_words_are_numbered_in_sorted_order(tmp_path_factory, labels):
    if all(label.isdigit() for label in labels):
        return  # these are ids, not words
    data = load(tmp_path_factory.mktemp("files"), labelled(*labels))
    assert data.task.label_names == tuple(sorted(set(labels)))
    assert [data.task.label_names[label] for label in data.train["label"]] == labels


def test_text_columns(tmp_path, caplog):
    def columns(**texts):
        return load(tmp_path, [{"n": "7", **texts, "label": "a"}, {"n": "8", **texts, "label": "b"}]).task.text_columns

    assert columns(sentence2="x", sentence1="y") == ("sentence1", "sentence2")
    assert columns(id="q", premise="x") == ("premise",)
    assert columns(premise="x", hypothesis="y") == ("premise", "hypothesis")
    assert caplog.text == ""
    assert columns(premise="x", hypothesis="y", genre="z") == ("premise", "hypothesis")
    assert "text is read from premise and hypothesis; not used: genre" in caplog.text
    assert columns(question="x", sentence="y") == ("sentence",)
    assert "text is read from sentence; not used: question" in caplog.text
    with pytest.raises(InputError, match="no column of text, only n, label"):
        columns()


def test_three_classes(tmp_path):
    task = load(tmp_path, labelled("0", "1", "2")).task
    assert task.num_labels == 3 and task.metrics == ("accuracy",)


@pytest.mark.parametrize("extension", [".csv", ".jsonl"])
def test_regression(extension, tmp_path, caplog):
    data = load(tmp_path, labelled(0.5, 3, 4.25), extension=extension)
    assert data.task.is_regression and data.task.num_labels == 1
    assert data.task.metrics == ("pearson_and_spearman", "pearson", "spearman")
    assert data.train["label"][:] == [0.5, 3.0, 4.25]
    assert load(tmp_path, labelled(1, 5), extension=extension, regression=True).task.is_regression
    assert not load(tmp_path, labelled(1, 0), extension=extension).task.is_regression
    assert caplog.text == ""
    with caplog.at_level(logging.WARNING):
        load(tmp_path, labelled(1.0, 0.0), extension=extension)
    assert "labels such as 1.0 are read as a regression's" in caplog.text


def test_label_names(tmp_path):
    data = load(tmp_path, labelled("no", "yes", "no"), label_names=["yes", "no", "never"])
    assert data.task.label_names == ("yes", "no", "never") and data.train["label"][:] == [1, 0, 1]
    data = load(tmp_path, labelled(2, 0), label_names=["a", "b", "c"])
    assert data.task.label_names == ("a", "b", "c") and data.train["label"][:] == [2, 0]
    data = load(tmp_path, labelled(2, 4), label_names=["4", "2"])
    assert data.train["label"][:] == [1, 0]
    with pytest.raises(InputError, match="line 2: label 'no', expected one of yes, never"):
        load(tmp_path, labelled("no", "yes"), label_names=["yes", "never"])
    with pytest.raises(InputError, match="label 3; the 3 classes"):
        load(tmp_path, labelled(3, 0), label_names=["a", "b", "c"])


@pytest.mark.parametrize(
    ("train", "validation", "message"),
    [
        (labelled(0, 2, 0), None, "--train_file .*, line 3: label 2; the 2 classes must be numbered 0 to 1"),
        (labelled(1, 2), None, "line 3: label 2; the 2 classes must be numbered 0 to 1"),
        (labelled(0, -1), None, "line 3: label -1"),
        (labelled(0, 1), labelled(0, 1, 2), "--validation_file .*, line 4: label 2; the 2 classes"),
        (labelled(0, 1), labelled(0, "x"), "--validation_file .*, line 3: label 'x', expected a whole number"),
        (labelled("a", "b"), labelled("a", "c"), "--validation_file .*, line 3: label 'c', expected one of a, b"),
        (labelled(0.5, 1.5), labelled(0.5, "c"), "--validation_file .*, line 3: label 'c', expected a number"),
        (labelled(0.5, "nan"), None, "line 3: label 'nan', expected a number"),
        (labelled(1, ""), None, "line 3: label '', expected a class or a number"),
        (labelled("a", "a"), None, r"--train_file .*train.csv: all rows \(2\) have the label 'a'"),
        (labelled(1, 1), None, r"all rows \(2\) have the label '1'"),
        ([{"sentence": "a", "y": "1"}], None, "--train_file .*: no column 'label', only sentence, y"),
        (labelled(0, 1), [{"sentence1": "a", "label": 0}], "--validation_file .*: no column 'sentence'"),
        (labelled(0, 1, sentence=" "), None, "--train_file .*, line 2: no text in column 'sentence'"),
    ],
)
def test_wrong_contents(train, validation, message, tmp_path):
    with pytest.raises(InputError, match=message) as error:
        load(tmp_path, train, validation)
    assert "\n" not in str(error.value)


def test_wrong_json(tmp_path):
    def message(text: str, name: str = "train.json") -> str:
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError) as error:
            load_files(tmp_path / name, tmp_path / name)
        assert "\n" not in str(error.value) and name in str(error.value)
        return str(error.value)

    assert "line 2: not JSON" in message('{"sentence": "a", "label": 1}\n{"sentence"\n', "train.jsonl")
    assert "not JSON" in message("[{]")
    assert "an empty array" in message("[]")
    assert "record 1: not an object" in message("[3]")
    assert "record 2: columns sentence, but sentence, label" in message(
        '[{"sentence": "a", "label": 1}, {"sentence": "b"}]'
    )
    assert "record 1: column 'sentence' is None" in message('[{"sentence": null, "label": 1}]')
    assert "record 1: label None" in message('[{"sentence": "a", "label": null}]')
    assert "record 1: label [1]" in message('[{"sentence": "a", "label": [1]}]')
    assert "record 1: half a surrogate pair" in message('[{"sentence": "a\\ud800", "label": 1}]')
    mixed = '[{"sentence": "a", "label": "x"}, {"sentence": "b", "label": 2}]'
    assert "record 2: label 2 among labels that are words" in message(mixed)
    floats = '[{"sentence": "a", "label": 0.5}, {"sentence": "b", "label": NaN}]'
    assert "record 2: label nan, expected a number" in message(floats)


def test_regression_refused(tmp_path):
    with pytest.raises(InputError, match="line 2: label '0.5', expected a whole number"):
        load(tmp_path, labelled(0.5, 1), regression=False)
    with pytest.raises(InputError, match="line 2: label 'a', expected a number"):
        load(tmp_path, labelled("a", "b"), regression=True)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.csv", None, "no such file"),
        ("train.txt", b"label", "extension '.txt' is not supported, expected one of .csv, .tsv, .json, .jsonl"),
        ("train", b"label", "extension '' is not supported"),
        ("train.csv", b" \n", "the file is empty"),
        ("train.csv", b"sentence,label\n", "column names, but no rows"),
        ("train.csv", b"sentence,label\n\xff\xfe,1\n", "not UTF-8"),
        ("train.csv", b"sentence,label\na,b,1\n", "line 2: 3 columns, expected 2 (sentence, label)"),
        ("train.csv", b"label,label\n1,1\n", "line 1: two columns are named 'label'"),
        ("train.csv", b'sentence,label\n"a,1\n', "line 2: unexpected end of data"),
        ("train.tsv", b"sentence\tlabel\na\n", "line 2: 1 columns, expected 2"),
    ],
)
def test_wrong_files(name, content, message, tmp_path):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    good = write(tmp_path / "good.csv", labelled(0, 1))
    for files, flag in (((path, good), "--train_file"), ((good, path), "--validation_file")):
        with pytest.raises(InputError) as error:
            load_files(*files)
        assert str(error.value).startswith(f"{flag} {path}") and message in str(error.value)
        assert "\n" not in str(error.value)


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "train.csv").mkdir()
    with pytest.raises(InputError, match="a folder, not a file"):
        load_files(tmp_path / "train.csv", tmp_path / "train.csv")


def test_byte_order_mark_blank_lines_and_quoted_line_breaks(tmp_path):
    (tmp_path / "train.csv").write_bytes('\ufeffsentence,label\r\n"a\nb",1\r\n\r\nc,0\r\n'.encode())
    data = load_files(tmp_path / "train.csv", tmp_path / "train.csv")
    assert data.train[:] == {"sentence": ["a\nb", "c"], "label": [1, 0]}
