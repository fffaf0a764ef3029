"""Data sets that `datasets` reads: folders, saved data sets, and names on the hub with the hub's client replaced."""

from __future__ import annotations

import math

import datasets
import huggingface_hub
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Sequence, Value
from huggingface_hub.errors import RepositoryNotFoundError

from hf_stability.errors import InputError
from hf_stability.tasks.load import load_task_data
from hf_stability.tasks.table import table_of


NAMES = ["very good", "bad"]  # not in sorted order


def rows(*labels, feature=None) -> Dataset:
    columns = {"text": [f"text {row}" for row in range(len(labels))], "label": list(labels)}
    features = Features({"text": Value("string"), "label": feature}) if feature is not None else None
    return Dataset.from_dict(columns, features=features)


def saved(folder, **splits: Dataset) -> str:
    DatasetDict(splits).save_to_disk(folder)
    return str(folder)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_a_saved_data_set(tmp_path):
    classes = ClassLabel(names=NAMES)
    other_order = ClassLabel(names=NAMES[::-1])
    folder = saved(tmp_path / "data", train=rows(0, 1, 0, feature=classes), validation=rows(0, 1, feature=other_order))
    data = load_task_data(dataset_name=folder)
    assert data.task.label_names == tuple(NAMES) and data.task.name == "custom" and data.task.text_columns == ("text",)
    assert data.train["label"][:] == [0, 1, 0]
    assert data.validation["validation"]["label"][:] == [1, 0]  # by name, not by id
    assert data.source == f"data set {folder}"


def test_a_folder_of_files(tmp_path, own_cache):
    """As the hub has it: parquet files by split, or csv. Both are the same data as from files."""
    for name in ("train", "validation"):
        rows("a", "b").to_parquet(tmp_path / "parquet" / f"{name}-00000-of-00001.parquet")
        rows("a", "b").to_csv(tmp_path / "parquet.csv", index=False)
        (tmp_path / "csv").mkdir(exist_ok=True)
        (tmp_path / "parquet.csv").rename(tmp_path / "csv" / f"{name}.csv")
    found = [load_task_data(dataset_name=str(tmp_path / kind)) for kind in ("parquet", "csv")]
    files = [tmp_path / "csv" / f"{name}.csv" for name in ("train", "validation")]
    found.append(load_task_data(train_file=files[0], validation_file=files[1]))
    assert all(data.train[:] == {"text": ["text 0", "text 1"], "label": [0, 1]} for data in found)
    assert {data.task.label_names for data in found} == {("a", "b")}


def test_splits_by_name(tmp_path):
    folder = saved(tmp_path / "mnli", training=rows(0, 1), validation_matched=rows(1, 0), test=rows(-1, -1))
    splits = {"train_split_name": "training", "validation_split_name": "validation_matched"}
    data = load_task_data(dataset_name=folder, **splits)
    assert data.train["label"][:] == [0, 1] and data.validation["validation"]["label"][:] == [1, 0]
    for given, message in (
        ({}, "no split 'train', only training, validation_matched, test; name yours with --train_split_name"),
        (
            {"train_split_name": "training"},
            "no split 'validation', only training, validation_matched, test; name yours with --validation_split_name",
        ),
        (
            {**splits, "validation_split_name": "dev"},
            "--validation_split_name dev: --dataset_name .* no such split, only",
        ),
        ({**splits, "validation_split_name": "training"}, "trains and evaluates on the same split 'training'"),
        (
            {**splits, "validation_split_name": "test"},
            r"split test, row 0 \(from 0\): label -1, but there are 2 classes",
        ),
    ):
        with pytest.raises(InputError, match=message) as error:
            load_task_data(dataset_name=folder, **given)
        assert "\n" not in str(error.value)


def test_several_labels(tmp_path):
    feature = Sequence(ClassLabel(names=[*NAMES, "never"]))
    folder = saved(
        tmp_path / "data", train=rows([0, 1], [], feature=feature), validation=rows([2], [1], feature=feature)
    )
    data = load_task_data(dataset_name=folder)
    assert data.task.multi_label and data.task.label_names == (*NAMES, "never")
    assert data.train["label"][:] == [[1, 1, 0], [0, 0, 0]]
    assert data.validation["validation"]["label"][:] == [[0, 0, 1], [0, 1, 0]]


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (rows(0.0, 1.0, math.nan), r"split train, row 2 \(from 0\): no label \(nan\); remove the row, or write one"),
        (rows(0, None, 1), r"split train, row 1 \(from 0\): no label \(None\)"),
        (rows(0, -1, feature=ClassLabel(names=NAMES)), r"split train, row 1 \(from 0\): no label \(None\)"),
        (
            Dataset.from_dict({"text": ["a", None], "label": [0, 1]}),
            "row 1 .*: no text in column 'text'; remove the row",
        ),
        (
            Dataset.from_dict({"text": ["a", " "], "label": [0, 1]}),
            "row 1 .*: no text in column 'text'; remove the row",
        ),
        (
            Dataset.from_dict({"text": ["a"], "y": [0]}),
            "split train: no column 'label', only text, y; give another with --l",
        ),
    ],
)
def test_wrong_contents(train, message, tmp_path):
    with pytest.raises(InputError, match=message) as error:
        load_task_data(dataset_name=saved(tmp_path / "data", train=train, validation=rows(0, 1)))
    assert "\n" not in str(error.value) and "--dataset_name" in str(error.value)


def test_what_is_no_data_set(tmp_path, own_cache):
    def message(name: str, **more) -> str:
        with pytest.raises(InputError) as error:
            load_task_data(dataset_name=name, **more)
        assert str(error.value).startswith(f"--dataset_name {name}") and "\n" not in str(error.value)
        return str(error.value)

    (tmp_path / "empty").mkdir()
    assert "cannot be loaded: " in message(str(tmp_path / "empty"))
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "code.py").write_text("raise SystemExit('code of a data set was run')")
    assert "cannot be loaded: " in message(str(tmp_path / "code"))
    (tmp_path / "latin").mkdir()
    (tmp_path / "latin" / "train.csv").write_bytes("text,label\nd\xe9j\xe0,1\n".encode("latin-1"))
    assert "'utf-8' codec can't decode" in message(str(tmp_path / "latin"))
    (tmp_path / "data.parquet").touch()
    assert "a file; give a folder, or --train_file with --validation_file" in message(str(tmp_path / "data.parquet"))
    assert "no such folder, and no name on the hub" in message(str(tmp_path / "nothing"))
    rows(0, 1).save_to_disk(tmp_path / "one")
    assert "no split 'validation', only train;" in message(str(tmp_path / "one"))
    assert "HF_HUB_OFFLINE is set" in message("owner/nobody-cached-this", dataset_config_name="plain")


def test_a_name_on_the_hub(tmp_path, monkeypatch):
    """The edge of the client is replaced: the name and the configuration arrive there, and no flag that lets code run."""
    asked = []

    def load_dataset(name, config_name, **more):
        asked.append((name, config_name, more))
        return DatasetDict(train=rows("a", "b"), validation=rows("b", "a"))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, name, timeout: None)
    data = load_task_data(dataset_name="owner/data", dataset_config_name="plain")
    assert asked == [("owner/data", "plain", {})] and data.train["label"][:] == [0, 1]


def test_the_hub_cannot_be_reached(monkeypatch):
    def unreachable(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    with pytest.raises(InputError) as error:
        load_task_data(dataset_name="owner/nobody-cached-this")
    assert str(error.value).startswith(
        "--dataset_name owner/nobody-cached-this: no cached copy of owner/nobody-cached-this"
    )
    assert "the hub cannot be reached (ConnectionError)" in str(error.value) and "\n" not in str(error.value)


def test_the_hub_has_no_such_data_set(monkeypatch):
    def unknown(*args, **kwargs):
        raise RepositoryNotFoundError.__new__(RepositoryNotFoundError)

    def load_dataset(*args):
        raise datasets.exceptions.DatasetNotFoundError("Dataset 'owner/x' doesn't exist on the Hub\nor is gated")

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unknown)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(
        InputError, match="owner/x cannot be loaded .Dataset 'owner/x' doesn't exist on the Hub.; give"
    ):
        load_task_data(dataset_name="owner/x")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task_name": "rte", "dataset_name": "x"}, "--task_name rte: give either this or --dataset_name, not both"),
        ({"dataset_name": "x", "train_file": "t.csv"}, "--dataset_name x: give either this or --train_file, not both"),
        (
            {"dataset_name": "x", "data_dir": "d"},
            "--data_dir d: goes with a GLUE --task_name, not with --dataset_name",
        ),
        ({"task_name": "rte", "train_split_name": "a"}, "--train_split_name a: goes with --dataset_name"),
        (
            {"train_file": "t", "validation_file": "v", "dataset_config_name": "a"},
            "--dataset_config_name a: goes with",
        ),
        ({"label_column_name": "y"}, "--label_column_name y: goes with --train_file and --validation_file, or"),
    ],
)
def test_contradicting_flags(given, message):
    with pytest.raises(InputError, match=message):
        load_task_data(**given)


def test_a_split_without_rows():
    with pytest.raises(InputError, match="^split train: no rows; add examples"):
        table_of(rows(), "split train")
