"""Finds the logits among a model's outputs by their name, in the forms that models and the Trainer return."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


LOGITS = "logits"


def named_output(outputs: Any, names: Sequence[str] = (), key: str = LOGITS, or_first: bool = True) -> Any:
    """The output with the name `key`, in tuples and dicts of any depth.

    The elements of a tuple have no names, unless `names` gives them. Without names the first element is taken, because
    models return their logits first. A loss before it is skipped: it has no dimensions.

    Args:
        outputs: an array, or tuples and dicts of arrays.
        names: names of the elements of the outermost tuple, in order, if they are known.
        key: the name.
        or_first: whether to take the first array of a dict without this name.

    Returns:
        the output, of any type; None if there is none.
    """
    if isinstance(outputs, Mapping):
        found = _search(outputs, key, or_first)
        return found if found is not None or not or_first else _first(outputs.values(), key, or_first)
    if isinstance(outputs, (tuple, list)):
        if len(names) == len(outputs) and key in names:
            return named_output(outputs[list(names).index(key)], (), key, or_first)
        return _first(outputs, key, or_first)
    return outputs


def _search(outputs: Mapping, key: str, or_first: bool) -> Any:
    if outputs.get(key) is not None:
        return named_output(outputs[key], (), key, or_first)
    inner = (_search(value, key, or_first) for value in outputs.values() if isinstance(value, Mapping))
    return next((found for found in inner if found is not None), None)


def _first(outputs: Iterable[Any], key: str, or_first: bool) -> Any:
    present = (part for part in outputs if part is not None and getattr(part, "ndim", 1) > 0)
    return next((named_output(part, (), key, or_first) for part in present), None)
