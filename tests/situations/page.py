"""docs/everyones_trainer.md, made from the list of situations: `python -m tests.situations.page`."""

from __future__ import annotations

from pathlib import Path

from .situations import SITUATIONS, Situation


PAGE = Path(__file__).parents[2] / "docs" / "everyones_trainer.md"

INTRODUCTION = """\
# Everyone's Trainer

People's fine-tuning scripts differ. These {number} situations are scripts that use the Trainer in {number} ways, most of them twice:
a run that learns, and a run that is stuck at the majority class. Each is played three times on a BERT of two layers: with the stock
Trainer alone, with `StabilityCallback` on it, and with `StableTrainer`.

For each, the tests hold:

- the final weights are the stock Trainer's, bit for bit, and so are the number of steps, the best model and the checkpoints;
- the log has the same numbers, apart from times. StableTrainer may add one evaluation, at the last step;
- the user's metric is called as often as without us, with the same predictions;
- nothing is raised that the stock Trainer does not raise, no hook is left on the model, the random state is the same;
- the verdict is the one in the table, from the callback and from StableTrainer. A run that learns has no alarm.

Where two verdicts are given, both are right: what the Trainer evaluated may not tell more. `unknown` means that there is no score
to judge by. It counts neither as a success nor as a failure.

This page is made from the list in `tests/situations/situations.py`: `python -m tests.situations.page`. To run them:
`pytest tests/situations`, and `pytest -m slow tests/situations` for the slow ones and for those whose kind has a faster one.
"""


def to_markdown() -> str:
    lines = [INTRODUCTION.format(number=len(SITUATIONS))]
    groups = list(dict.fromkeys(situation.group for situation in SITUATIONS))
    for group in groups:
        lines += [f"## {group}", "", "| situation | the script | learns | stuck |", "| --- | --- | --- | --- |"]
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
