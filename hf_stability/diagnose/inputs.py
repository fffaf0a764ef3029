"""The data, model and tokenizer for the checks: those that the user names, or those of a study's run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import InputError
from ..study.model import load_model, model_config
from ..study.pretrained import DTYPES, load_config, load_tokenizer
from ..tasks.load import DATA_FLAGS
from ..verdicts.constants import IGNORED_LABEL
from .files import Run
from .finding import Checked, Fault, Finding
from .model_values import LOOK_AT, class_names, config_values, model_values, token_values, tokenizer_values
from .words import finding_of


MAX_SEQ_LENGTH = 128  # tokens; the study's default


@dataclass(frozen=True)
class Named:
    """The model and the data that the user names, by the study command's flags. None: not named.

    Args:
        model_name_or_path, tokenizer_name: the PRETRAINED model, and its tokenizer.
        task_name, data_dir, train_file, validation_file, text_column_names, label_column_name, dataset_name,
            dataset_config_name, train_split_name, validation_split_name: the data.
        max_seq_length: in tokens.
        dtype: "float32", "bfloat16", "float16", or "auto" (as the weights were saved). Default: that of the study's run,
            else "auto", as transformers loads them.
    """

    model_name_or_path: str | None = None
    tokenizer_name: str | None = None
    task_name: str | None = None
    data_dir: str | None = None
    train_file: str | None = None
    validation_file: str | None = None
    text_column_names: Sequence[str] | None = None
    label_column_name: str | None = None
    dataset_name: str | None = None
    dataset_config_name: str | None = None
    train_split_name: str | None = None
    validation_split_name: str | None = None
    max_seq_length: int = MAX_SEQ_LENGTH
    dtype: str | None = None

    def __post_init__(self) -> None:
        if self.dtype not in (None, "auto", *DTYPES):
            raise InputError(f"--dtype {self.dtype}: give {', '.join(DTYPES)} or auto")

    @property
    def data(self) -> dict[str, Any]:
        """The data's flags, by name."""
        return {name: getattr(self, name) for name in DATA_FLAGS}

    def __bool__(self) -> bool:
        return any((self.model_name_or_path, self.tokenizer_name, *self.data.values()))


@dataclass
class Inputs:
    """The data and the model of a run.

    Args:
        values: the checks' values on them, by the names in `causes`.
        findings: faults found while loading.
        train: tokenised training examples, a `Dataset`.
        labels: `(n,)`, the labels of `train`.
        collator: makes a batch of examples.
        make_model: makes the model as it was before training.
        trained_before: update steps of training behind `make_model`'s weights.
        no_memorize: what `memorize` needs but these data lack.
        device: where to train.
    """

    values: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    train: Any = None
    labels: np.ndarray | None = None
    collator: Callable | None = None
    make_model: Callable[[], Any] | None = None
    trained_before: int = 0
    no_memorize: str = ""
    device: str | torch.device = "cpu"

    @property
    def can_memorize(self) -> bool:
        """Whether `memorize` has all it needs."""
        return all(part is not None for part in (self.train, self.labels, self.collator, self.make_model))

    @property
    def fit_the_model(self) -> bool:
        """Whether the model takes these labels and token ids without an index error."""
        classes, rows = self.values.get("num_labels") or 1, self.values.get("embedding_rows")
        labels = self.labels[self.labels != IGNORED_LABEL]
        labels_fit = classes == 1 or (labels.size > 0 and labels.min() >= 0 and labels.max() < classes)
        return bool(labels_fit and (rows is None or (self.values.get("largest_id") or 0) < rows))


def load_inputs(run: Run, named: Named) -> Inputs:
    """Load the named data and model. Default for a study's run: its own, if they still exist.

    Raises:
        InputError: what the user named cannot be loaded.
    """
    from ..tasks.load import subsample, tokenize

    inputs, job = Inputs(), run.job
    model, tokenizer = named.model_name_or_path, named.tokenizer_name
    if model:
        load_config(model)  # raises for a wrong name
    texts = tokens = None
    if any(named.data.values()):
        texts, problem = _load_texts(named)
        inputs.findings += [problem] if problem else []
    elif job is not None:
        tokens = _tokens_of(run)
        inputs.values["max_seq_length"] = None if tokens is None else _length_of(tokens)
    if tokenizer or model:
        own_tokenizer = load_tokenizer(tokenizer or model)
    else:
        own_tokenizer = _or_none(load_tokenizer, *([job.tokenizer, job.model] if job else [run.saved_model]))
    if texts is not None and own_tokenizer is not None:
        tokens = tokenize(subsample(texts, LOOK_AT, LOOK_AT), own_tokenizer, named.max_seq_length)
        inputs.values["max_seq_length"] = named.max_seq_length
    _look_at_data(inputs, texts, tokens, own_tokenizer)
    if not model and job is not None and _or_none(load_config, job.model) is not None:
        model = job.model
    if model:
        task = None if texts is tokens is None else (texts or tokens).task
        values, dtype = (job.model_config, job.dtype) if job else ({}, "auto")
        _look_at_model(inputs, model, task, values, named.dtype or dtype)
    elif run.saved_model is not None and (config := _or_none(load_config, str(run.saved_model))) is not None:
        inputs.values |= {"num_labels": config.num_labels, **config_values(config)}
    on_cpu = run.args.get("use_cpu") or not torch.cuda.is_available()
    inputs.device = "cpu" if on_cpu else "cuda"
    return inputs


def _tokens_of(run: Run) -> Any:
    """The tokenised data of a study's run; None if they are gone."""
    from ..tasks.load import TokenizedData

    folder = Path(run.job.data_folder)
    places = (folder, run.folder.parents[2] / "data" / folder.name)  # if the study was moved
    found = next((place for place in places if (place / "task.json").is_file()), None)
    return None if found is None else TokenizedData.load(found)


def _length_of(tokens: Any) -> int | None:
    """The `--max_seq_length` of tokenised data, by their longest example; None if the default explains it."""
    from pyarrow import compute  # MNLI has 400,000 rows: not one by one

    splits = (tokens.train, *tokens.validation.values())
    columns = (rows.with_format("arrow")[:]["input_ids"] for rows in splits)
    longest = max(compute.max(compute.list_value_length(column)).as_py() for column in columns)
    return longest if tokens.truncated_share > 0 or longest > MAX_SEQ_LENGTH else None


def _look_at_data(inputs: Inputs, texts: Any, tokens: Any, tokenizer: Any) -> None:
    """Take the checks' values from the texts, their tokens and the tokenizer, as far as they exist."""
    data = texts or tokens
    if data is not None:
        dev_set, dev = next(iter(data.validation.items()))
        inputs.values |= {
            "train_labels": labels_of(data.train),
            "dev_labels": labels_of(dev),
            "dev_set": dev_set,
            "train_names": data.task.label_names,
            "num_labels": data.task.num_labels,
        }
    if tokens is not None:
        inputs.values |= token_values(tokens.train, getattr(tokenizer, "unk_token_id", None))
        inputs.values["truncated_share"] = tokens.truncated_share
        inputs.train, inputs.labels = tokens.train, np.asarray(tokens.train["label"])
    if tokenizer is not None:
        from transformers import DataCollatorWithPadding

        inputs.values |= tokenizer_values(tokenizer)
        inputs.collator = DataCollatorWithPadding(tokenizer)


def _load_texts(named: Named) -> tuple[Any, Finding | None]:
    """The texts; or a finding, if the user's files exist but are not valid data."""
    from ..tasks.load import load_task_data

    try:
        return load_task_data(**named.data), None
    except InputError as error:
        files = [Path(file) for file in (named.train_file, named.validation_file) if file]
        if named.task_name or len(files) < 2 or not all(file.is_file() for file in files):
            raise
        return None, finding_of(Checked("labels", {}, [Fault("unreadable", "likely", {"error": error})]))


def _look_at_model(inputs: Inputs, model: str, task: Any, values: Mapping[str, Any], dtype: str) -> None:
    """Load the pretrained weights as the run did, to see which weights of the model they lack.

    Args:
        values: for the model's config, from the run's recipe.
        dtype: the weights' precision, as in `Named`.
    """
    from transformers import AutoConfig

    own = AutoConfig.from_pretrained(model)

    def load(**more: Any) -> Any:
        config = model_config(model, task, dict(values)) if task is not None else own
        return load_model(model, config, dtype, **more)

    try:
        loaded, info = load(output_loading_info=True)
    except Exception as error:  # damaged files raise errors of the library that reads them
        line = " ".join(str(error).split())
        raise InputError(f"--model_name_or_path {model}: the weights cannot be loaded: {line}") from None
    fresh = {
        key: value for key, value in model_values(loaded).items() if key not in ("trainable", "frozen", "frozen_parts")
    }
    if task is None:
        del fresh["num_labels"]  # from the config; the run's number may differ
    mismatched = {key for key, *_ in info.get("mismatched_keys", ())}
    inputs.values |= {
        **fresh,
        "model_names": class_names(own),
        "missing_weights": sorted(set(info["missing_keys"]) | mismatched),
        "base_prefix": loaded.base_model_prefix,
    }
    inputs.make_model = load


def columns_of(rows: Any) -> list[str]:
    """A dataset's columns; none for a streamed one."""
    return list(getattr(rows, "column_names", None) or ()) if hasattr(rows, "__len__") else []


def label_column(rows: Any) -> np.ndarray | None:
    """`(n,)`, a dataset's column `labels` or `label`; None if it does not have one number per example."""
    name = next((name for name in ("labels", "label") if name in columns_of(rows)), None)
    try:
        labels = None if name is None else np.asarray(rows[name])
    except (ValueError, TypeError):  # token labels: lists of different lengths
        return None
    return labels if labels is not None and labels.ndim == 1 and np.issubdtype(labels.dtype, np.number) else None


def labels_of(rows: Any) -> np.ndarray | None:
    """`label_column` if its values are class ids, else None."""
    labels = label_column(rows)
    return labels if labels is not None and np.issubdtype(labels.dtype, np.integer) else None


def _or_none(load: Callable, *names: Any) -> Any:
    """Load the first name that can be loaded; None if none can. The user gave none of these names, so no error."""
    for name in filter(None, names):
        try:
            return load(str(name))
        except InputError:
            continue
    return None
