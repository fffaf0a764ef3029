"""Numbers, lists and tables as text: the one home of how this package prints them.

A number below one has its leading zero (`0.527`). A table is Markdown that also reads in a terminal.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence


MOST_DECIMALS = 9
"""Numbers that are the same to this many decimals are the same."""


# ---- numbers --------------------------------------------------------------------------------------------------------


def decimal(value: float | None, decimals: int = 3, minus_zero: bool = False) -> str:
    """`0.827`, `-0.012`, `1.000`; `-` for None.

    Args:
        value: any number; `nan` and `inf` are spelled so.
        decimals: how many.
        minus_zero: whether a negative value that rounds to zero keeps its sign: `-0.000`, not `0.000`.
    """
    if value is None:
        return "-"
    text = f"{value:.{decimals}f}"
    return text if minus_zero or text.strip("-0.") else text.removeprefix("-")


def apart(*values: float | None, decimals: int = 3, minus_zero: bool = False) -> list[str]:
    """Numbers with three decimals, or with as many as it takes to tell them apart: `0.5002` and `0.5001`.

    Numbers that are the same to `MOST_DECIMALS` stay at `decimals`.

    Args:
        values: two numbers or more, as [`decimal`] takes them.
        decimals: the fewest.
        minus_zero: as in [`decimal`].
    """

    def texts(places: int) -> list[str]:
        return [decimal(value, places, minus_zero) for value in values]

    if len(set(texts(MOST_DECIMALS))) > 1:
        while len(set(texts(decimals))) == 1:
            decimals += 1
    return texts(decimals)


def share_text(share: float) -> str:
    """A share in [0, 1] with two decimals; `0` and `1` only where it is none and all."""
    return str(int(share)) if share in (0, 1) else decimal(share, 2)


def p_text(p: float, two_decimals_from: float = math.inf) -> str:
    """A p-value: `p = 0.043`, `p < 0.001`.

    Args:
        p: in [0, 1].
        two_decimals_from: a p of this or more gets two decimals instead of three; default: none does.
    """
    return "p < 0.001" if p < 0.001 else f"p = {decimal(p, 2 if p >= two_decimals_from else 3)}"


def loss_text(loss: float) -> str:
    """A loss with two decimals; a small one with one significant digit: `0.69`, `0.04`, `3e-05`."""
    return decimal(loss, 2) if abs(loss) >= 0.095 else f"{loss:.1g}"


# ---- lists ----------------------------------------------------------------------------------------------------------


def joined(words: Iterable[object], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`; empty for none.

    Args:
        words: what to join; each is made a string.
        last: the word before the last of them.
    """
    texts = list(map(str, words))
    return "".join(texts) if len(texts) < 2 else f"{', '.join(texts[:-1])} {last} {texts[-1]}"


# ---- tables ---------------------------------------------------------------------------------------------------------


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], lined_up: bool = True) -> str:
    """A Markdown table. A `|` in a cell is escaped, a line break becomes a space.

    Args:
        header: a name for each column.
        rows: a cell for each column, as text.
        lined_up: whether cells are padded to the width of their column, so that the table reads in a terminal.
    """
    cells = [[" ".join(cell.replace("|", "\\|").split("\n")) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in cells) if lined_up else 0 for i in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    if lined_up:
        rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    else:
        rule = "| " + " | ".join("---" for _ in header) + " |"
    return "\n".join([lines[0], rule, *lines[1:]])
