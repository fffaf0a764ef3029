"""A task from csv, tsv and json files: what is read, and one line for each thing that can be wrong."""

from __future__ import annotations

import csv
import io
import json
import logging
from pathlib import Path

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_stability.errors import InputError
from hf_stability.tasks.files import load_files
from hf_stability.tasks.table import EXTENSIONS


def write(path: Path, rows: list[dict]) -> Path:
    """Rows in the format of the path's extension."""
    if path.suffix == ".parquet":
        Dataset.from_list(rows).to_parquet(path)
        return path
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
    assert "labels such as 1.0 are read as targets of a regression" in caplog.text


def test_label_names(tmp_path):
    data = load(tmp_path, labelled("no", "yes", "no"), label_names=["yes", "no", "never"])
    assert data.task.label_names == ("yes", "no", "never") and data.train["label"][:] == [1, 0, 1]
    data = load(tmp_path, labelled(2, 0), label_names=["a", "b", "c"])
    assert data.task.label_names == ("a", "b", "c") and data.train["label"][:] == [2, 0]
    data = load(tmp_path, labelled(2, 4), label_names=["4", "2"])
    assert data.train["label"][:] == [1, 0]
    with pytest.raises(InputError, match="line 2: label 'no', expected one of yes, never"):
        load(tmp_path, labelled("no", "yes"), label_names=["yes", "never"])
    with pytest.raises(InputError, match="label 3, but there are 3 classes"):
        load(tmp_path, labelled(3, 0), label_names=["a", "b", "c"])


@pytest.mark.parametrize(
    ("train", "validation", "message"),
    [
        (labelled(0, 2, 0), None, "--train_file .*, line 3: label 2, but there are 2 classes; number them 0 to 1"),
        (labelled(1, 2), None, "line 3: label 2, but there are 2 classes; number them 0 to 1"),
        (labelled(0, -1), None, "line 3: label -1"),
        (labelled(0, 1), labelled(0, 1, 2), "--validation_file .*, line 4: label 2, but there are 2 classes"),
        (labelled(0, 1), labelled(0, "x"), "--validation_file .*, line 3: label 'x', expected a whole number"),
        (labelled("a", "b"), labelled("a", "c"), "--validation_file .*, line 3: label 'c', expected one of a, b"),
        (labelled(0.5, 1.5), labelled(0.5, "c"), "--validation_file .*, line 3: label 'c', expected a number"),
        (labelled(0.5, "nan"), None, "line 3: label 'nan', expected a number"),
        (labelled(1, ""), None, r"line 3: no label \(''\); remove the row, or write one"),
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
    assert "record 1: no text in column 'sentence'" in message('[{"sentence": null, "label": 1}]')
    assert "record 1: no label (None); remove the row, or write one" in message('[{"sentence": "a", "label": null}]')
    assert "record 1: label {'a': 1}, expected a class or a number" in message(
        '[{"sentence": "a", "label": {"a": 1}}]'
    )
    assert "record 1: half a surrogate pair" in message('[{"sentence": "a\\ud800", "label": 1}]')
    mixed = '[{"sentence": "a", "label": "x"}, {"sentence": "b", "label": 2}]'
    assert "record 2: label 2 among words" in message(mixed)
    floats = '[{"sentence": "a", "label": 0.5}, {"sentence": "b", "label": NaN}]'
    assert "record 2: no label (nan)" in message(floats)


def test_regression_refused(tmp_path):
    with pytest.raises(InputError, match="line 2: label '0.5', expected a whole number"):
        load(tmp_path, labelled(0.5, 1), regression=False)
    with pytest.raises(InputError, match="line 2: label 'a', expected a number"):
        load(tmp_path, labelled("a", "b"), regression=True)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.csv", None, "no such file"),
        (
            "train.txt",
            b"label",
            "extension '.txt' is not supported; give a file with one of .csv, .tsv, .json, .jsonl, .parquet",
        ),
        ("train", b"label", "extension '' is not supported"),
        ("train.csv", b" \n", "the file is empty"),
        ("train.csv", b"sentence,label\n", "column names, but no rows"),
        ("train.csv", b"sentence,label\n\xff\xfe,1\n", "not UTF-8"),
        ("train.csv", b"sentence,label\na,b,1\n", "line 2: 3 columns, expected 2 (sentence, label)"),
        ("train.csv", b"label,label\n1,1\n", "line 1: two columns are named 'label'"),
        ("train.csv", b'sentence,label\n"a,1\n', "line 2: unexpected end of data"),
        ("train.tsv", b"sentence\tlabel\na\n", "line 2: 1 columns, expected 2"),
        ("train.parquet", b"sentence,label\na,1\n", "not a parquet file"),
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


# --- which columns ---------------------------------------------------------------------------------------------------


def test_columns_are_found_in_other_case_and_with_spaces(tmp_path):
    train = write(tmp_path / "train.csv", [{"Sentence": "x", " LABEL": "a"}, {"Sentence": "y", " LABEL": "b"}])
    dev = write(tmp_path / "dev.csv", [{"label": "b", "SENTENCE ": "z"}])
    data = load_files(train, dev)
    assert data.task.text_columns == ("Sentence",) and data.label_column == " LABEL"
    assert data.validation["validation"][:] == {"Sentence": ["z"], "label": [1]}
    both = [{"sentence": "x", "Label": "a", "LABEL": "b"}] * 2
    with pytest.raises(InputError, match="no column 'label', only sentence, Label, LABEL .*--label_column_name"):
        load(tmp_path, both)


ROWS = [
    {"date": f"2021-01-0{i}", "title": f"t{i}", "text": f"x{i}", "label": str(i), "y": "ab"[i % 2]} for i in (1, 2)
]


def test_columns_are_chosen(tmp_path, caplog):
    data = load(tmp_path, ROWS, text_column_names=["text"], label_column_name="y")
    assert data.task.text_columns == ("text",) and data.label_column == "y"
    assert data.train[:] == {"text": ["x1", "x2"], "label": [1, 0]}
    pair = load(tmp_path, ROWS, text_column_names=["text", "Title"], label_column_name="y")
    assert pair.task.text_columns == ("text", "title") and pair.train["title"][:] == ["t1", "t2"]
    assert caplog.text == ""
    by_position = load(tmp_path, ROWS, label_column_name="y")
    assert by_position.task.text_columns == ("date", "title")  # the other labels are no text
    assert "not used: text" in caplog.text and "label" not in caplog.text.replace("--label_column_name", "")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"text_column_names": ["txt"]},
            "--text_column_names txt: --train_file .* has no column 'txt', only date, title",
        ),
        ({"text_column_names": ["text", "date", "y"]}, "--text_column_names text date y: 3 columns; give one, or two"),
        ({"text_column_names": []}, "--text_column_names : 0 columns"),
        ({"text_column_names": ["text", "TEXT"]}, "--text_column_names text TEXT: the same column twice"),
        ({"text_column_names": ["y"]}, "--text_column_names y: y is the column of the labels"),
        (
            {"text_column_names": ["label"]},
            "--text_column_names label: a column of text cannot be called label; rename it in both files",
        ),
        ({"label_column_name": "z"}, "--label_column_name z: --train_file .* has no such column, only date, title"),
    ],
)
def test_columns_that_cannot_be_chosen(columns, message, tmp_path):
    with pytest.raises(InputError, match=message) as error:
        load(tmp_path, ROWS, **{"label_column_name": "y", **columns})
    assert "\n" not in str(error.value)


def test_the_development_file_needs_the_chosen_columns_too(tmp_path):
    for lacking, message in (("text", "'text' .text of the training file"), ("y", "'y' .the labels of the training")):
        dev = [{name: value for name, value in row.items() if name != lacking} for row in ROWS]
        with pytest.raises(InputError, match=f"--validation_file .*: no column {message}"):
            load(tmp_path, ROWS, dev, text_column_names=["text"], label_column_name="y")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "train.csv",
            "sentence\tlabel\na, b\t1\n",
            "line 1: columns separated by tabs in a .csv file; name the file .tsv",
        ),
        (
            "train.csv",
            "sentence;label\na;1\n",
            "line 1: columns separated by semicolons in a .csv file; save it with c",
        ),
        (
            "train.tsv",
            "sentence,label\na,1\n",
            "line 1: columns separated by commas in a .tsv file; name the file .csv",
        ),
        (
            "train.csv",
            "good film,1\nbad film,0\n",
            "no column 'label', only good film, 1 (the first line must name the c",
        ),
        (
            "train.jsonl",
            '{"sentence": "a", "label": 1, "label": 0}\n',
            "line 1: a record has two columns named 'label'",
        ),
        ("train.json", '[{"sentence": "a", "label": 1, "label": 0}]\n', "a record has two columns named 'label'"),
        (
            "train.jsonl",
            '{"sentence": "a", "label": 1}\n{"label": 1}\n',
            "line 2: columns label, but sentence, label in",
        ),
    ],
)
def test_what_another_program_writes_is_refused_with_the_way_out(name, content, message, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError) as error:
        load_files(tmp_path / name, tmp_path / name)
    assert message in str(error.value) and "\n" not in str(error.value)


# --- what is read, and perhaps was meant otherwise -------------------------------------------------------------------


@pytest.fixture
def warnings_of(tmp_path, caplog):
    """A function of rows that loads them and returns what was warned of."""

    def warnings(rows: list[dict] | str, extension: str = ".csv", **kwargs) -> list[str]:
        caplog.clear()
        if isinstance(rows, str):
            (tmp_path / f"train{extension}").write_text(rows)
            load_files(tmp_path / f"train{extension}", tmp_path / f"train{extension}", **kwargs)
        else:
            load(tmp_path, rows, extension=extension, **kwargs)
        assert all("\n" not in record.getMessage() for record in caplog.records)
        return [record.getMessage() for record in caplog.records if "--train_file" in record.getMessage()]

    return warnings


def test_two_columns_taken_by_position_are_warned_of(warnings_of):
    rows = [{"date": f"2021-01-0{i}", "text": f"x {i}", "label": "ab"[i % 2]} for i in (1, 2)]
    pair, dates = warnings_of(rows)
    assert (
        "text is read from date and text, the first two columns of text, as a pair; to use others, give --text_column_names"
        in pair
    )
    assert "the text in column date looks like dates ('2021-01-01'); to use another, give --text_column_names" in dates
    assert warnings_of(rows, text_column_names=["text"]) == []
    assert warnings_of([{"premise": row["text"], "hypothesis": "z", "label": row["label"]} for row in rows]) == []


def test_blank_columns_are_no_text(warnings_of):
    assert warnings_of("sentence,label,\na,x,\nb,y,\n") == warnings_of("note,text,label\n,a,x\n,b,y\n") == []


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["pos", "pos ", "neg", "pos"], "'pos' (2), 'pos ' (1); spell each class in one way"),
        (["Pos", "pos", " neg", "neg"], "' neg' (1), 'neg' (1); 'Pos' (1), 'pos' (1)"),
        (
            ["caf\u00e9", "cafe\u0301", "x"],
            "differ only by spaces or case count as different classes: 'cafe\u0301' (1), 'caf\u00e9' (1)",
        ),
        (["2021-01-05", "2021-01-06", "2021-01-05"], "the labels look like dates ('2021-01-05')"),
        (["1/2/21", "3/2/21 10:00"], "the labels look like dates"),
        (["1,5", "2,5"], "the labels look like numbers ('1,5') and are read as names of classes"),
        (["50%", "75%"], "A regression needs numbers such as 1.5"),
        (["pos", "nan", "neg"], "'nan' is read as the name of a class, with 1 rows; if it is a missing value"),
    ],
)
def test_odd_names_of_classes_are_warned_of(labels, message, warnings_of):
    (warning,) = warnings_of(labelled(*labels))
    assert message in warning and warning.startswith("--train_file ")


@pytest.mark.parametrize(
    "labels", [["pos", "neg", "pos"], ["1", "0"], ["a b", "ab"], ["0.5", "2"], ["1 star", "2 stars"]]
)
def test_plain_labels_are_not_warned_of(labels, warnings_of):
    assert warnings_of(labelled(*labels)) == []


def test_a_label_of_the_development_file_that_is_nearly_a_class_is_named(tmp_path):
    with pytest.raises(InputError, match=r"line 3: label 'pos ', expected one of neg, pos \(did you mean pos\?\)"):
        load(tmp_path, labelled("pos", "neg"), labelled("neg", "pos "))


def test_text_that_is_none_is_warned_of(warnings_of):
    (warning,) = warnings_of("price,label\n1,a\n2,b\nunknown,a\n")
    assert "the text in column price looks like numbers ('1')" in warning
    (warning,) = warnings_of("sentence,label\na,x\nnan,y\nNaN,y\n")
    assert "line 3: the text in column sentence is 'nan', as in 2 row(s)" in warning
    (warning,) = warnings_of('sentence,label\n"a,x\nb",y\nc,x\n')  # three rows are read as two
    assert "line 3: the text in column sentence has a line break after a label" in warning
    assert warnings_of('sentence,label\n"a,\nb",y\nc,x\n') == []
    (warning,) = warnings_of('sentence\tlabel\n"say ""no"""\tx\n"b"\ty\n', ".tsv")
    assert "2 of 2 texts in column sentence begin and end with" in warning and "save the file as .csv" in warning
    assert warnings_of('sentence,label\n"say ""no""",x\n"b",y\n') == []


# --- several labels per example --------------------------------------------------------------------------------------


SETS = labelled(["b", "a c"], [], ["b"])


def test_lists_are_several_labels(tmp_path):
    data = load(tmp_path, SETS, extension=".jsonl")
    assert data.task.multi_label and data.task.label_names == ("a c", "b") and data.task.num_labels == 2
    assert data.task.metrics == ("f1_micro", "f1_macro")
    assert data.train["label"][:] == data.validation["validation"]["label"][:] == [[1.0, 1.0], [0.0, 0.0], [0.0, 1.0]]
    assert load(tmp_path, SETS, extension=".parquet").train[:] == data.train[:]
    numbers = load(tmp_path, labelled([10], [9, 2]), extension=".jsonl")
    assert numbers.task.label_names == ("2", "9", "10") and numbers.train["label"][:] == [[0, 0, 1], [1, 1, 0]]


def test_a_column_for_each_label(tmp_path):
    rows = [{"text": f"text {i}", "toxic": i % 2, "Rude": ["0.0", "true", "1"][i], "other": i} for i in range(3)]
    data = load(tmp_path, rows, label_column_name="toxic,rude")
    assert data.task.label_names == ("toxic", "rude") and data.task.text_columns == ("text",)
    assert data.train["label"][:] == [[0, 0], [1, 1], [0, 1]] and data.label_column == "toxic,rude"
    with pytest.raises(InputError, match="line 4: '2' in the label's column 'other', expected 0 or 1"):
        load(tmp_path, rows, label_column_name="toxic,other")
    with pytest.raises(
        InputError, match="--label_column_name toxic,x: --train_file .* has no column 'x', only text, "
    ):
        load(tmp_path, rows, label_column_name="toxic,x")


@pytest.mark.parametrize(
    ("train", "validation", "message"),
    [
        (SETS, labelled(["b", "d"]), "--validation_file .*, line 1: label 'd', expected one of a c, b"),
        (SETS, labelled("b"), "--validation_file .*, line 1: label 'b' among lists; write each as a list"),
        (labelled("a", "b"), labelled(["a"]), r"--validation_file .*: label \['a'\] among single ones"),
        (labelled(["a"], None), None, r"line 2: no label \(None\)"),
        (labelled(["a"], ["b", None]), None, "line 2: label None, expected a class"),
        (labelled(["a"], [0.5]), None, "line 2: label 0.5, expected a class"),
        (
            labelled([0, 1, 1], [0, 0, 0]),
            None,
            r"line 1: a label twice in \[0, 1, 1\]; list the names .* a column per label",
        ),
        (labelled(["a", "b"], ["b", "a"]), None, r"all rows \(2\) have the labels \['a', 'b'\]"),
        (labelled(["a"], []), None, "lists of one label only, 'a'; write 1 and 0 instead of lists"),
    ],
)
def test_wrong_lists_of_labels(train, validation, message, tmp_path):
    with pytest.raises(InputError, match=message) as error:
        load(tmp_path, train, validation, extension=".jsonl")
    assert "\n" not in str(error.value)


def test_names_joined_by_commas(tmp_path):
    """As Hugging Face's run_classification.py takes them."""
    assert load(tmp_path, ROWS, text_column_names="title,text", label_column_name="y").task.text_columns == (
        "title",
        "text",
    )
    assert load(tmp_path, ROWS, text_column_names=["title,text"], label_column_name="y").task.text_columns == (
        "title",
        "text",
    )
