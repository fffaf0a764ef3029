"""The development set of a study's predictions, from the tokens that the study saved: its labels, classes and texts.

A study keeps tokens, not texts. They are decoded again, so that a text is what the model saw: without capitals if the model is
uncased, and cut at `--max_seq_length`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ....tasks.load import TokenizedData
from ....tasks.task import Task
from ....utils.text import error_line
from ...records import RunRecord


if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER = "tokenizer.json"
WHOLE = "text"
"""Name of a text that cannot be split into the task's columns."""


@dataclass(frozen=True)
class SavedExamples:
    """The first development set of a study, which is the one that counts.

    Args:
        task: the task; None if the data is not there.
        name: the set's name; empty if the data is not there.
        others: names of the other development sets. No run keeps predictions for them.
        labels: (n,); None if the data is not there.
        rows: the saved examples.
        tokenizer: for `texts`; None if it is not there.
        missing: why there are no texts, in one sentence; empty if there are.
    """

    task: Task | None = None
    name: str = ""
    others: tuple[str, ...] = ()
    labels: np.ndarray | None = None
    rows: Any = None
    tokenizer: Tokenizer | None = None
    missing: str = ""

    def texts(self, index: int) -> dict[str, str] | None:
        """The text columns of an example, counted from 0; None if there are no texts."""
        if self.tokenizer is None:
            return None
        row = self.rows[index]
        ids = [token for token, seen in zip(row["input_ids"], row["attention_mask"], strict=True) if seen]
        return decode(self.tokenizer, ids, self.task.text_columns)


def read_examples(folder: Path, runs: Iterable[RunRecord]) -> SavedExamples:
    """The first development set of a study.

    Args:
        folder: the study's folder.
        runs: its runs. Their `config.json` names the data and the tokenizer. All runs of a study have the same data.
    """
    jobs = (_job(folder, run) for run in runs)
    first = next((job for job in jobs if job), None)
    if first is None:
        return SavedExamples(missing="No run has a config.json that names the study's data.")
    saved = folder / "data" / Path(first.get("data_folder", "")).name
    try:
        data = TokenizedData.load(saved)
        name, *others = data.validation
        rows = data.validation[name]
        labels = np.asarray(rows.with_format("numpy")["label"][:])
    except (OSError, ValueError, KeyError) as error:
        return SavedExamples(missing=f"The study's data cannot be read: {error_line(error)}.")
    names = dict.fromkeys(job.get("tokenizer", "") for job in [first, *(job for job in jobs if job)])
    file = next((file for file in (tokenizer_file(name, folder) for name in names) if file), None)
    tokenizer, missing = None, ""
    if file is None:
        missing = f"No {TOKENIZER} of {' or '.join(map(repr, names))} is on this machine, so tokens cannot be decoded."
    else:
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises plain exceptions
            missing = f"{file} cannot be read: {error_line(error)}."
    return SavedExamples(data.task, name, tuple(others), labels, rows, tokenizer, missing)


def tokenizer_file(name: str, folder: Path) -> Path | None:
    """The `tokenizer.json` of a tokenizer: in its folder, or in the hub's cache. No network is asked.

    Args:
        name: a folder, or a name on the hub.
        folder: the study's folder. It may have been moved since its runs, and the encoder of a stage with it.
    """
    moved = folder.joinpath(*Path(name).parts[-3:])  # stages/TASK-ID/encoder
    for place in (Path(name), moved):
        if name and (place / TOKENIZER).is_file():
            return place / TOKENIZER
    from huggingface_hub import try_to_load_from_cache

    try:
        cached = try_to_load_from_cache(name, TOKENIZER)
    except ValueError:  # a folder's name is none of the hub
        return None
    return Path(cached) if isinstance(cached, str) else None


def decode(tokenizer: Tokenizer, ids: Sequence[int], columns: Sequence[str]) -> dict[str, str]:
    """An example's texts by column, from its token ids without padding.

    The special tokens that the tokenizer puts around texts separate the columns. If the number of texts differs from that of
    the columns (an empty text, a tokenizer without such tokens), all of it is one text under `text`.
    """
    empty = tokenizer.encode("", "")
    around = {token for token, special in zip(empty.ids, empty.special_tokens_mask, strict=True) if special}
    parts: list[list[int]] = [[]]
    for token in ids:
        if token not in around:
            parts[-1].append(token)
        elif parts[-1]:
            parts.append([])
    texts = [tokenizer.decode(part, skip_special_tokens=False) for part in parts if part]
    return dict(zip(columns, texts, strict=True)) if len(texts) == len(columns) else {WHOLE: " ".join(texts)}


def _job(folder: Path, run: RunRecord) -> dict[str, Any] | None:
    """The job of a run, from its `config.json`; None if it cannot be read."""
    try:
        job = json.loads((folder / "runs" / run.name / "config.json").read_text(encoding="utf-8"))["job"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return job if isinstance(job, dict) else None
