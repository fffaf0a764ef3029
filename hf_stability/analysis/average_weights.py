"""The mean of several models' weights, and the predictions of a model on a study's development set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError


if TYPE_CHECKING:
    from torch import Tensor


BATCH = 32
"""Examples per batch of an evaluation, as in a study."""


def average_weights(state_dicts: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of R models' weights, name by name (Wortsman et al. 2022, "Model soups", arXiv 2203.05482: the uniform soup).

    The running mean is in float64, m_k = m_(k-1) + (w_k - m_(k-1)) / k, and is rounded once, to the weights' own type. So the
    mean of equal models is this model, bit for bit. Models are added one by one: a generator that loads one at a time needs
    the memory of three.

    The models of a soup usually share their head's start. Seeds of a study do not: each has drawn its own head, and the mean of
    two heads need not be a good one.

    Args:
        state_dicts: R mappings of names to tensors, R at least 1. Tensors that are not floating point (position ids) must be
            the same in all models.

    Returns:
        name -> tensor, of the first model's types and shapes.

    Raises:
        InputError: there is no model, or names, shapes or other tensors differ.
    """
    import torch

    first: dict[str, Any] | None = None
    means: dict[str, Any] = {}
    for number, weights in enumerate(state_dicts, 1):
        if first is None:
            first = {name: tensor.detach().clone() for name, tensor in weights.items()}
            means = {name: tensor.double() for name, tensor in first.items() if tensor.is_floating_point()}
            continue
        if weights.keys() != first.keys() or any(weights[name].shape != first[name].shape for name in first):
            raise InputError("models of different architecture: give models with the same names and shapes of weights")
        for name, own in first.items():
            other = weights[name].detach().to(own.device)
            if name in means:
                change = (other.double() - means[name]) / number
                means[name] = torch.where(change == 0, means[name], means[name] + change)  # -0.0 keeps its sign
            elif not torch.equal(own, other):
                raise InputError(f"{name}: differs between the models and is not a floating point number")
    if first is None:
        raise InputError("an average of no models: give at least one")
    return {name: means[name].to(own.dtype) if name in means else own for name, own in first.items()}


def load_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a model, as `save_pretrained` leaves it, on the CPU.

    Raises:
        InputError: the folder has no `*.safetensors`.
    """
    from safetensors.torch import load_file

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise InputError(f"{folder}: no *.safetensors in it; run the study with --keep_model last")
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def predict(folder: Path, rows: Any, weights: Mapping[str, Tensor] | None = None, batch: int = BATCH) -> np.ndarray:
    """The logits of a classifier on tokenised examples.

    Args:
        folder: the model with its tokenizer, as a study keeps it.
        rows: a `datasets.Dataset` with token ids, as `TokenizedData.validation` has it.
        weights: used in place of the folder's own.
        batch: examples per batch; each is padded to its longest example.

    Returns:
        (n, K) float32, without dropout, on a GPU if there is one.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

    from ..study.run import quiet

    with quiet():
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
        collator = DataCollatorWithPadding(AutoTokenizer.from_pretrained(folder))
    if weights is not None:
        model.load_state_dict(dict(weights), strict=False)
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    rows = rows.remove_columns([name for name in rows.column_names if name == "label"])
    logits = []
    with torch.inference_mode():
        for start in range(0, len(rows), batch):
            inputs: Any = collator([rows[i] for i in range(start, min(start + batch, len(rows)))])
            logits.append(model(**inputs.to(model.device)).logits.float().cpu().numpy())
    return np.concatenate(logits)
