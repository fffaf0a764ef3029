"""Writes docs/everyones_trainer.md from the list of situations: `python -m tests.situations.page`."""

from __future__ import annotations

from pathlib import Path

from .situations import SITUATIONS, Situation


PAGE = Path(__file__).parents[2] / "docs" / "everyones_trainer.md"

INTRODUCTION = """\
# Your script

The tables list {number} ways in which scripts use the Trainer: find yours. For each, tests check that `StabilityCallback` and
`StableTrainer` do not change the training, and that the run gets the verdict in the table.

Most scripts are tested with two runs: one learns, and one is stuck at the majority class. Each is trained three times on a BERT
of two layers: with the stock Trainer alone, with `StabilityCallback` added, and with `StableTrainer`. The tests compare the three:

- The final weights are equal, bit for bit. So are the number of steps, the best model and the checkpoints.
- The log has the same numbers, apart from times. `StableTrainer` may add one evaluation, at the last step.
- Your metric is called equally often, with the same predictions.
- No exception comes up that the stock Trainer does not raise. No hook stays on the model. The random state is the same.
- The [verdict](verdicts.md) is the one in the table. A run that learns raises no alarm.

Some cells have two verdicts. Both are right there, because the evaluation does not show more. `unknown` means that there is no
score to judge by. It counts neither as ok nor as failed. An empty cell was not tested.

The list is in `tests/situations/situations.py`, and `python -m tests.situations.page` writes this page from it. To run the fast
ones: `pytest tests/situations`. To run the rest: `pytest -m slow tests/situations`.
"""


def to_markdown() -> str:
    lines = [INTRODUCTION.format(number=len(SITUATIONS))]
    groups = list(dict.fromkeys(situation.group for situation in SITUATIONS))
    for group in groups:
        lines += [
            f"## {group}",
            "",
            "| situation | the script | verdict if it learns | verdict if it is stuck |",
            "| --- | --- | --- | --- |",
        ]
        lines += [_row(situation) for situation in SITUATIONS if situation.group == group]
        lines.append("")
    return "\n".join(lines)


def _row(situation: Situation) -> str:
    cells = [_cell(situation, learns) for learns in (True, False)]
    return f"| {situation.name.replace('_', ' ')} | {situation.special} | {cells[0]} | {cells[1]} |"


def _cell(situation: Situation, learns: bool) -> str:
    if (situation.learns if learns else situation.stuck) is None:
        return ""
    callback, stable = (", ".join(situation.allowed(learns, kind)) for kind in ("callback", "stable"))
    text = callback if callback == stable else f"{callback}; StableTrainer: {stable}"
    return text.replace("None", "none")


if __name__ == "__main__":
    PAGE.write_text(to_markdown(), encoding="utf-8")
