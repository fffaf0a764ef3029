"""`until.json` in words: the looks of a study with `--until`, and how its figures are to be read.

A study that stops when a difference looks large has, on average, too large a difference. So every text about such a study
says it: what the study prints, `summary.md`, and the report.

| key of `until.json` | content |
| --- | --- |
| `decides` | `failed_share` or `score`: what is compared |
| `recipes`, `seeds` | those of the study, in their order |
| `looks` | numbers of seeds per recipe at the looks; the last is all of them |
| `test` | the test's name |
| `alpha` | chance of any false decision, over all looks and pairs |
| `level` | a pair is decided at a look if p is at most this |
| `taken` | a look each: `look` (from 1), `seeds`, `decided` (whether all pairs are), `pairs` |
| `pairs` | in a look, per pair of recipes: `recipes`, their `values` (failed shares or mean scores), `p`; p is null if unknown |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ...utils.text import decimal, joined, p_text, share_text
from .settings import read_json


UNTIL = "until.json"
UNTIL_SCHEMA = "hf_stability.until/1"

NAMED = 4
"""A sentence names at most so many pairs of a kind."""

BIAS = (
    "It stopped because a difference looked large. So its failed shares and mean scores lie too far apart on average; "
    "docs/until.md has the size of this bias."
)

TABLES = "Intervals and p-values in tables and verdicts are not adjusted for the looks, and hold for one look only."


def read_until(folder: Path) -> dict[str, Any]:
    """The content of `until.json`; empty if there is none, or if it cannot be read."""
    content = read_json(folder / UNTIL)
    return content if content.get("schema") == UNTIL_SCHEMA else {}


def look_sentence(until: Mapping[str, Any], look: Mapping[str, Any]) -> str:
    """A look in a line: `look 1 of 4, 5 seeds per recipe: not decided by failed shares: a 0.40 against b 0, p = 0.444 (...)`.

    Args:
        until: the content of `until.json`.
        look: one of `taken`.
    """
    return f"{_place(until, look)}, {look['seeds']} seeds per recipe: {_outcome(until, look)}"


def _place(until: Mapping[str, Any], look: Mapping[str, Any]) -> str:
    return f"look {look['look']} of {len(until['looks'])}"


def _outcome(until: Mapping[str, Any], look: Mapping[str, Any]) -> str:
    """`not decided by failed shares: a 0.40 against b 0, p = 0.444 (Fisher's exact test, level 0.0182)`; first the decided pairs."""
    parts = []
    for word, wanted in (("decided", True), ("not decided", False)):
        own = [pair for pair in look["pairs"] if _decided(pair, until) == wanted]
        pairs = [_pair_text(pair, until["decides"]) for pair in own[:NAMED]]
        pairs += [f"{len(own) - NAMED} more pairs"] if len(own) > NAMED else []
        parts += [f"{word} by {_what(until)}: {'; '.join(pairs)}"] if own else []
    return f"{'; '.join(parts)} ({until['test']}, level {until['level']:.3g})"


def until_notes(folder: Path, runs: Iterable[tuple[str, int]]) -> list[str]:
    """How the figures of a study with `--until` are to be read, a sentence each; empty without `until.json` or any look.

    Args:
        folder: the study's.
        runs: recipe and seed of each run that the figures count.
    """
    until = read_until(folder)
    if not until or not until["taken"]:
        return []
    there, look, seeds = set(runs), until["taken"][-1], len(until["seeds"])
    complete = [seed for seed in until["seeds"] if all((recipe, seed) in there for recipe in until["recipes"])]
    place, outcome = f"{_place(until, look)} (--until)", _outcome(until, look)
    outcome = f"It was {outcome}."
    if len(complete) > look["seeds"]:
        return [f"More seeds were run after {place}, at {look['seeds']} seeds per recipe. {outcome}", TABLES]
    if look["seeds"] == seeds:
        return [f"All {seeds} seeds were run, with {place}. {outcome}", TABLES]
    if look["decided"]:
        head = f"This study stopped early, at {place}, after {look['seeds']} of {seeds} seeds per recipe. {outcome}"
        return [head, BIAS, TABLES]
    return [f"This study is not complete; {place} was at {look['seeds']} seeds per recipe. {outcome}", TABLES]


def _decided(pair: Mapping[str, Any], until: Mapping[str, Any]) -> bool:
    return pair["p"] is not None and pair["p"] <= until["level"]


def _what(until: Mapping[str, Any]) -> str:
    return {"failed_share": "failed shares", "score": "mean scores"}[until["decides"]]


def _pair_text(pair: Mapping[str, Any], decides: str) -> str:
    """`a 0.40 against b 0, p = 0.444`; without p if runs have no verdict or score."""
    if pair["p"] is None:
        return f"{joined(pair['recipes'])} have runs without a {'verdict' if decides == 'failed_share' else 'score'}"
    text = share_text if decides == "failed_share" else decimal
    a, b = (f"{name} {text(value)}" for name, value in zip(pair["recipes"], pair["values"], strict=True))
    return f"{a} against {b}, {p_text(pair['p'])}"
