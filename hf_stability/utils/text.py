"""Numbers, lists and tables as text. The whole package prints them with these functions.

Numbers below one have their leading zero (`0.527`). Tables are Markdown that is also readable in a terminal.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone


MOST_DECIMALS = 9
"""Numbers that agree to this many decimals count as equal."""


# ---- numbers --------------------------------------------------------------------------------------------------------


def decimal(value: float | None, decimals: int = 3, minus_zero: bool = False) -> str:
    """`0.827`, `-0.012`, `1.000`; `-` for None.

    Args:
        value: any number. NaN and Inf become `nan` and `inf`.
        decimals: number of decimals.
        minus_zero: whether a negative value that rounds to zero keeps its sign: `-0.000`, not `0.000`.
    """
    if value is None:
        return "-"
    text = f"{value:.{decimals}f}"
    return text if minus_zero or text.strip("-0.") else text.removeprefix("-")


def apart(*values: float | None, decimals: int = 3, minus_zero: bool = False) -> list[str]:
    """Numbers with as many decimals as are needed to tell them apart: `0.5002` and `0.5001`.

    Numbers that agree to `MOST_DECIMALS` keep `decimals`.

    Args:
        values: two numbers or more, as for `decimal`.
        decimals: the smallest number of decimals.
        minus_zero: as in `decimal`.
    """

    # Else two numbers on both sides of a rounding boundary, 0.0015 and 0.00149999999999999, would differ in three decimals.
    rounded = [None if value is None else round(value, MOST_DECIMALS) for value in values]

    def texts(places: int) -> list[str]:
        return [decimal(value, places, minus_zero) for value in rounded]

    if len(set(texts(MOST_DECIMALS))) > 1:
        while len(set(texts(decimals))) == 1:
            decimals += 1
    return texts(decimals)


def share_text(share: float) -> str:
    """A share in [0, 1] with two decimals. `0` means exactly none and `1` exactly all."""
    return str(int(share)) if share in (0, 1) else decimal(share, 2)


def interval_text(low: float | None, high: float | None) -> str:
    """The 95% interval of a share: `95% interval 0.51 to 1`. Without one: `no run`."""
    return "no run" if low is None or high is None else f"95% interval {share_text(low)} to {share_text(high)}"


def p_text(p: float, two_decimals_from: float = math.inf) -> str:
    """A p-value: `p = 0.043`, `p < 0.001`.

    Args:
        p: in [0, 1].
        two_decimals_from: from this value on, p has two decimals instead of three. Default: p always has three.
    """
    return "p < 0.001" if p < 0.001 else f"p = {decimal(p, 2 if p >= two_decimals_from else 3)}"


def loss_text(loss: float) -> str:
    """A loss with two decimals. A small loss has one significant digit: `0.69`, `0.04`, `3e-05`."""
    return decimal(loss, 2) if abs(loss) >= 0.095 else f"{loss:.1g}"


def rate_text(rate: float) -> str:
    """A learning rate with two digits: `2e-5`, `0.0025`."""
    return f"{rate:.2g}".replace("e-0", "e-")


def duration_text(seconds: float) -> str:
    """A duration in its two largest units: `45 s`, `12 min`, `2 h 10 min`, `3 d 4 h`."""
    if seconds < 59.5:
        return f"{max(round(seconds), 0)} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"


def shortened(text: str, width: int) -> str:
    """The text in at most `width` characters: `...` replaces its middle, because long names differ at their ends."""
    if len(text) <= width:
        return text
    if width <= 5:
        return text[:width]
    head = (width - 2) // 2
    return f"{text[:head]}...{text[len(text) - (width - 3 - head) :]}"


def error_line(error: BaseException, kind: bool = False, first: bool = False) -> str:
    """An error in one line: its text, or the name of its type if it has none.

    Args:
        error: any.
        kind: whether the name of its type comes first: `OSError: no space left`.
        first: take only the first line of its text. Others may be a stack trace.
    """
    name, text = type(error).__name__, str(error).strip()
    text = " ".join((text.splitlines()[0] if first and text else text).split())
    return (f"{name}: {text}" if kind else text) if text else name


# ---- lists ----------------------------------------------------------------------------------------------------------


def joined(words: Iterable[object], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`. Empty for no words.

    Args:
        words: the words. Each is converted to a string.
        last: the conjunction before the last word.
    """
    texts = list(map(str, words))
    return "".join(texts) if len(texts) < 2 else f"{', '.join(texts[:-1])} {last} {texts[-1]}"


# ---- tables ---------------------------------------------------------------------------------------------------------


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], lined_up: bool = True) -> str:
    """A Markdown table. A `|` in a cell is escaped, and a line break becomes a space.

    Args:
        header: a name for each column.
        rows: a cell for each column, as text.
        lined_up: whether to pad cells to the width of their column, so that the table is readable in a terminal.
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


LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$", "±": r"$\pm$",
    "†": r"$\dagger$",
}  # fmt: skip
"""Characters that mean something else in LaTeX."""


def latex(text: str) -> str:
    """A text for LaTeX. A line break becomes a space."""
    return "".join(LATEX.get(character, character) for character in " ".join(text.split("\n")))


def latex_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """A LaTeX table with the rules of the package booktabs: a `tabular`, without a float and a caption.

    Args:
        header: a name for each column.
        rows: a cell for each column, as text.
        left: indices of columns that are aligned left; the others are aligned right.
    """
    kinds = "".join("l" if number in left else "r" for number in range(len(header)))
    head, *body = (" & ".join(map(latex, cells)) + r" \\" for cells in (header, *rows))
    rules = (r"\toprule", head, r"\midrule", *body, r"\bottomrule")
    return "\n".join([rf"\begin{{tabular}}{{{kinds}}}", *rules, r"\end{tabular}"])


def utc_now() -> str:
    """This moment, `2026-03-01 14:05:09 UTC`."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
