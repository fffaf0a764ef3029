"""Any data set that `datasets` reads: a name on the hub, or a local folder. Its splits become tables, as files do.

The flags are those of Hugging Face's `run_classification.py`, with one difference: without a split `validation` that script
evaluates on `test`. Here it is an error, because a test set that chooses settings is no test set any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..utils.text import error_line
from .hub import load_from_hub
from .table import Table, table_of


TRAIN, VALIDATION = "train", "validation"
SAVED = ("dataset_dict.json", "state.json")  # files of save_to_disk: of a DatasetDict, of a Dataset


def read_dataset(
    name: str, config_name: str | None = None, train_split: str | None = None, validation_split: str | None = None
) -> tuple[Table, Table]:
    """The training set and the development set.

    Args:
        name: a local folder that `load_dataset` reads (csv, json, parquet ...) or that `save_to_disk` wrote; else a name on
            the hub.
        config_name: the configuration, if the data set has several.
        train_split: the split to train on. Default: `train`.
        validation_split: the split to evaluate on. Default: `validation`. No other one is guessed.

    Raises:
        InputError: the data cannot be loaded, or there is no such split. The message names the splits.
    """
    where = f"--dataset_name {name}" + (f" --dataset_config_name {config_name}" if config_name else "")
    splits = _load(name, config_name, where)
    chosen = [
        _split(splits, asked, default, flag, where)
        for asked, default, flag in (
            (train_split, TRAIN, "--train_split_name"),
            (validation_split, VALIDATION, "--validation_split_name"),
        )
    ]
    if chosen[0] == chosen[1]:
        raise InputError(f"{where}: trains and evaluates on the same split {chosen[0]!r}; give two different ones")
    train, validation = (table_of(splits[split], f"{where}, split {split}") for split in chosen)
    return train, validation


def _split(splits: Mapping[str, Any], asked: str | None, default: str, flag: str, where: str) -> str:
    """The name of a split that exists."""
    if (split := asked or default) in splits:
        return split
    known = f"only {', '.join(splits)}"
    if asked is not None:
        raise InputError(f"{flag} {asked}: {where} has no such split, {known}; give one of these")
    raise InputError(f"{where}: no split {default!r}, {known}; name yours with {flag}")


def _load(name: str, config_name: str | None, where: str) -> Mapping[str, Any]:
    """The splits, by name."""
    import datasets

    path = Path(name).expanduser()
    if path.is_file():
        raise InputError(f"{where}: a file; give a folder, or --train_file with --validation_file")
    if not path.is_dir():
        if name.startswith((".", "/", "~")) or name.count("/") > 1:
            raise InputError(f"{where}: no such folder, and no name on the hub")
        way_out = "give the name as on the hub, a local folder, or --train_file with --validation_file"
        return load_from_hub(name, config_name, where, way_out)
    try:
        if not any((path / file).is_file() for file in SAVED):
            return datasets.load_dataset(str(path.absolute()), config_name)  # "csv" alone is a builder
        loaded: Any = datasets.load_from_disk(str(path))
    except Exception as error:  # each builder, and each version of datasets, has its own errors
        raise InputError(f"{where}: cannot be loaded: {_reason(error)}") from error
    return loaded if isinstance(loaded, Mapping) else {TRAIN: loaded}


def _reason(error: BaseException) -> str:
    """The first line of an error, and of its cause: `datasets` hides a wrong file behind a general message."""
    lines = [error_line(one, first=True) for one in (error, error.__cause__) if one is not None]
    return "; ".join(dict.fromkeys(lines))
