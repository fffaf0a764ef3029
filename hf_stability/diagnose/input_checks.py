"""Checks of the data, the tokenizer and the model. They take the values in `causes` and return numbers, or None if these are
unknown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..utils.layers import POOLERS
from ..verdicts.constants import IGNORED_LABEL
from .finding import Checked, Fault


MAJORITY, SHIFT, LARGE_SHIFT = 0.9, 0.1, 0.3  # shares of the examples
SHIFT_P = 0.001  # chi-square test
TRUNCATED, MUCH_TRUNCATED = 0.05, 0.5
UNKNOWN, MUCH_UNKNOWN = 0.05, 0.2
TO_SAVE = ("new", "adapted", "unknown")
"""Origins of frozen parts that PEFT should train and save as they are."""


# ---- the data -------------------------------------------------------------------------------------------------------


def check_labels(
    train_labels: np.ndarray | None = None,
    dev_labels: np.ndarray | None = None,
    num_labels: int | None = None,
    train_names: Sequence[str] | None = None,
    dev_names: Sequence[str] | None = None,
    model_names: Sequence[str] | None = None,
) -> Checked | None:
    """Label mapping: ids that the model lacks, hidden labels, other class names in dev or in an earlier task."""
    if train_labels is None and dev_labels is None:
        return None
    faults: list[Fault] = []
    figures: dict[str, Any] = {"num_labels": num_labels}
    seen = {}
    for split, labels in (("train", train_labels), ("dev", dev_labels)):
        if labels is None:
            continue
        counted = np.asarray(labels)[np.asarray(labels) != IGNORED_LABEL]
        seen[split] = set(np.unique(counted).tolist())
        figures[f"{split}_ids"] = sorted(seen[split])[:20]
        top = math.inf if num_labels is None else num_labels
        outside = counted[(counted < 0) | (counted >= top)]
        if counted.size == 0:
            faults.append(Fault("ignored", "likely", {"split": split}))
        elif (counted == -1).all():
            faults.append(Fault("hidden", "likely", {"split": split}))
        elif outside.size:
            kind = "no class id" if num_labels is None else "no class of the model"
            ids = np.unique(outside)[:5].tolist()
            values = {"split": split, "outside": outside.size, "size": counted.size, "ids": ids}
            faults.append(Fault(kind, "likely", values))
        elif split == "train" and len(seen[split]) == 1:
            faults.append(Fault("one class", "likely"))
    new = sorted(seen["dev"] - seen["train"]) if len(seen) == 2 else []
    if new and min(new) >= 0:
        faults.append(Fault("new in dev", "likely", {"ids": new[:5]}))
    faults += _name_faults(train_names, dev_names, model_names, num_labels)
    return Checked("labels", figures, faults)


def _name_faults(train: Any, dev: Any, model: Any, num_labels: Any) -> list[Fault]:
    faults = []
    train, dev, model = ([str(n) for n in names] if names else None for names in (train, dev, model))
    if train and dev and train != dev:
        kind = "dev in another order" if sorted(train) == sorted(dev) else "dev by other names"
        faults.append(Fault(kind, "likely", {"train": train, "dev": dev}))
    if train and model and train != model and len(model) == (num_labels or len(train)):
        same = sorted(name.lower() for name in train) == sorted(name.lower() for name in model)
        kind = "model in another order" if same else "model of another task"
        faults.append(Fault(kind, "possible", {"train": train, "model": model}))
    return faults


def check_class_shares(
    train_labels: np.ndarray | None = None,
    dev_labels: np.ndarray | None = None,
    train_names: Sequence[str] | None = None,
) -> Checked | None:
    """Class shares: one class dominates, or train and dev differ (chi-square test at 0.001)."""
    if train_labels is None or dev_labels is None:
        return None
    train, dev = (np.asarray(part)[np.asarray(part) >= 0] for part in (train_labels, dev_labels))
    if not train.size or not dev.size:
        return None
    classes = int(max(train.max(), dev.max())) + 1
    counts = np.stack([np.bincount(part, minlength=classes) for part in (train, dev)])
    shares = counts / counts.sum(-1, keepdims=True)
    majority, constant = shares.max(-1), int(shares[1].argmax())
    shift = float(np.abs(shares[0] - shares[1]).max())
    p = _chi_square_p(counts)
    faults = []
    if majority.max() >= MAJORITY:
        faults.append(Fault("one class dominates", "possible"))
    if shift >= SHIFT and p < SHIFT_P:
        faults.append(Fault("train and dev differ", "likely" if shift >= LARGE_SHIFT else "possible"))
    figures = {
        "train_shares": shares[0].tolist(),
        "dev_shares": shares[1].tolist(),
        "constant_accuracy": float(majority[1]),
        "largest_difference": shift,
        "p": p,
    }
    name = train_names[constant] if train_names and constant < len(train_names) else None
    more = {"train_majority": majority[0], "dev_majority": majority[1], "constant": constant, "constant_name": name}
    return Checked("class shares", figures, faults, more)


def _chi_square_p(counts: np.ndarray) -> float:
    from scipy.stats import chi2_contingency

    counts = counts[:, counts.sum(0) > 0]
    return float(chi2_contingency(counts).pvalue) if counts.shape[1] > 1 else 1.0


def check_truncation(truncated_share: float | None = None, max_seq_length: int | None = None) -> Checked | None:
    """Examples that are longer than the model reads."""
    if truncated_share is None:
        return None
    level = "likely" if truncated_share >= MUCH_TRUNCATED else "possible"
    faults = [Fault("long", level)] if truncated_share >= TRUNCATED else []
    figures = {"truncated_share": float(truncated_share), "max_seq_length": max_seq_length}
    return Checked("truncation", figures, faults)


# ---- the tokenizer and the model ------------------------------------------------------------------------------------


def check_tokenizer(
    tokenizer_size: int | None = None,
    embedding_rows: int | None = None,
    largest_id: int | None = None,
    unknown_share: float | None = None,
    tokenizer_ids: Mapping[str, int | None] | None = None,
    config_ids: Mapping[str, int | None] | None = None,
    tokenizer_class: type | None = None,
    expected_class: type | None = None,
) -> Checked | None:
    """A tokenizer of another model: size, special ids, class, and unknown tokens in the data."""
    if tokenizer_size is None and largest_id is None and unknown_share is None:
        return None
    faults: list[Fault] = []
    if largest_id is not None and embedding_rows is not None and largest_id >= embedding_rows:
        faults.append(Fault("id too large", "likely", {"last_row": embedding_rows - 1}))
    elif tokenizer_size is not None and embedding_rows is not None:
        if tokenizer_size > embedding_rows:
            faults.append(Fault("too many tokens", "likely"))
        elif embedding_rows - tokenizer_size > max(256, 0.02 * embedding_rows):  # less is padding of the matrix
            faults.append(Fault("too few tokens", "possible"))
    for name, expected in (config_ids or {}).items():
        found = (tokenizer_ids or {}).get(name)
        if found is not None and expected is not None and found != expected:
            faults.append(Fault("special token", "likely", {"token": name, "found": found, "expected": expected}))
    class_names = [None if one is None else one.__name__ for one in (tokenizer_class, expected_class)]
    if None not in class_names and not _same_kind(tokenizer_class, expected_class):
        faults.append(Fault("another class", "possible"))
    if unknown_share is not None and unknown_share >= UNKNOWN:
        faults.append(Fault("unknown tokens", "likely" if unknown_share >= MUCH_UNKNOWN else "possible"))
    figures = {
        "tokenizer_size": tokenizer_size,
        "embedding_rows": embedding_rows,
        "largest_id": largest_id,
        "unknown_share": unknown_share,
        "tokenizer_ids": dict(tokenizer_ids or {}),
        "config_ids": dict(config_ids or {}),
        "tokenizer_class": class_names[0],
        "expected_class": class_names[1],
    }
    return Checked("tokenizer", figures, faults)


def _same_kind(one: type, other: type) -> bool:
    """Whether either is the other, a subclass of it, or its fast twin."""
    twins = one.__name__.removesuffix("Fast") == other.__name__.removesuffix("Fast")
    return twins or issubclass(one, other) or issubclass(other, one)


def check_new_weights(missing_weights: Sequence[str] | None = None, base_prefix: str = "") -> Checked | None:
    """Weights that from_pretrained drew at random: normal for the head, a bug for the encoder."""
    if missing_weights is None:
        return None
    inside = sorted(name for name in missing_weights if base_prefix and name.startswith(f"{base_prefix}."))
    pooler = [name for name in inside if ".pooler." in name]
    encoder = [name for name in inside if name not in pooler]
    head = sorted(name for name in missing_weights if name not in inside)
    faults = [Fault("new encoder", "likely", {"number": len(encoder), "first": encoder[0]})] if encoder else []
    return Checked("new weights", {"encoder": encoder, "pooler": pooler, "head": head}, faults)


def check_frozen(
    trainable: Mapping[str, int] | None = None,
    frozen: Mapping[str, int] | None = None,
    adapters: str | None = None,
    frozen_parts: Mapping[str, str] | None = None,
    missing_weights: Sequence[str] | None = None,
) -> Checked | None:
    """Frozen weights (`requires_grad` is False), above all those that were drawn at random."""
    if frozen_parts is None and (trainable is None or frozen is None):
        return None
    trainable, frozen = trainable or {}, frozen or {}
    share = sum(frozen.values()) / max(1, sum(trainable.values()) + sum(frozen.values()))
    layers = [name for name in frozen if name not in trainable]
    if frozen_parts is None:  # assume a new head if nothing else is known
        frozen_parts = {"classifier": "new"} if "classifier" in layers else {}
    parts = {name: _origin(name, origin, missing_weights) for name, origin in frozen_parts.items()}
    if frozen and not sum(trainable.values()):
        faults = [Fault("all", "likely")]
    else:
        faults = _frozen_part_faults(parts, bool(adapters))
        others = [name for name in layers if name not in _told(faults)]
        if not adapters and (others or (frozen and not faults)):  # with adapters, a frozen encoder is intended
            values = {"layers": others or list(frozen)}
            faults.append(Fault("share", "likely" if share > 0.5 else "possible", values))
    figures = {
        "frozen_share": share if trainable or frozen else None,
        "frozen_layers": layers,
        "frozen_parts": parts,
    }
    more = {
        "share": share,
        "adapters": adapters,
        "all_trained": not (adapters and (frozen or not trainable)),
        "to_save": sorted({_module_to_save(name) for name, origin in parts.items() if origin in TO_SAVE}),
    }
    return Checked("frozen weights", figures, faults, more)


def _module_to_save(part: str) -> str:
    """PEFT's name for a frozen part: `pooler` for `bert.pooler.dense`, `classifier` for `classifier.out_proj`."""
    names = part.split(".")
    return "pooler" if "pooler" in names else names[0]


def _origin(part: str, origin: str, missing_weights: Sequence[str] | None) -> str:
    """Where a frozen part's values come from: `new` if the pretrained files lack them, unless they have adapters."""
    return (
        "new" if origin != "adapted" and any(name.startswith(f"{part}.") for name in missing_weights or ()) else origin
    )


def _frozen_part_faults(parts: Mapping[str, str], adapters: bool) -> list[Fault]:
    """The faults of frozen parts, by where their values come from."""

    def of(origin: str) -> list[str]:
        return [name for name, its in parts.items() if its == origin]

    poolers = [name for name in of("new") if "pooler" in name.split(".")]
    found = {
        "new head": ("likely", [name for name in of("new") if name not in poolers]),
        "new pooler": ("likely", poolers),
        "adapted head": ("possible", of("adapted")),
        "unknown head": ("possible", of("unknown")),
        "loaded head": ("possible", [] if adapters else of("loaded")),
        "new tokens": ("possible", of("new tokens")),
    }
    return [Fault(kind, level, {"parts": names}) for kind, (level, names) in found.items() if names]


def _told(faults: Sequence[Fault]) -> set[str]:
    """The layers that the faults of frozen parts report already. The head is always among them: it is a part itself."""
    parts = {part for fault in faults for part in fault.values["parts"]}
    in_pooler = any(name in POOLERS for part in parts for name in part.split("."))
    return {"classifier", *parts, *(["pooler"] if in_pooler else [])}


def check_dtype(weights_dtype: str | None = None) -> Checked | None:
    """Weights in half precision: rounding loses AdamW's small steps."""
    if weights_dtype is None:
        return None
    faults = [Fault("half", "likely")] if weights_dtype in ("torch.float16", "torch.bfloat16") else []
    return Checked("weights' precision", {"dtype": weights_dtype}, faults)
