"""Single values of a user's table: numbers, blanks, dates, and the words that libraries write for a missing value."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any


MISSING = ("nan", "none", "null", "n/a", "na", "<na>")  # what libraries write for a missing value
_INTEGER = re.compile(r"[+-]?\d+")
_DATE = re.compile(r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4})([ T].*)?")
_NUMBER_IN_WORDS = re.compile(r"[-+]?[$€£]?\s?\d[\d.,']*\s?[%$€£]?")  # 1,5 or 50% or $3
_LOOKED_AT = 1000  # values; enough to recognise a column's kind


def is_integer(value: Any) -> bool:
    """Whether this is a whole number, or a string that spells one."""
    return isinstance(value, int) or isinstance(value, str) and _INTEGER.fullmatch(value.strip()) is not None


def is_blank(value: Any) -> bool:
    """Whether this is None or a string of spaces only."""
    return value is None or isinstance(value, str) and not value.strip()


def is_missing(value: Any) -> bool:
    """Whether this is None, NaN, or a string of spaces only."""
    return is_blank(value) or isinstance(value, float) and math.isnan(value)


def is_number(value: Any) -> bool:
    """Whether this is a number, or a string that spells one (also `nan` and `inf`)."""
    try:
        float(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def dates_or_numbers(values: Sequence[str]) -> str:
    """`"dates ('2021-01-05')"` or `"numbers ('1,5')"` if more than half of these strings are; else ""."""
    values = [value.strip() for value in values[:_LOOKED_AT]]
    dates = [value for value in values if _DATE.fullmatch(value)]
    numbers = [value for value in values if is_number(value) or _NUMBER_IN_WORDS.fullmatch(value)]
    numbers = [value for value in numbers if value.lower() not in MISSING]
    for kind, found in (("dates", dates), ("numbers", numbers)):
        if 2 * len(found) > len(values):
            return f"{kind} ({found[0]!r})"
    return ""
