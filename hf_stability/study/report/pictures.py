"""A study's pictures: drawn when its runs have ended, and put into TensorBoard with its tables."""

from __future__ import annotations

import json
from pathlib import Path


def draw_study(folder: Path) -> tuple[list[Path], str]:
    """Draw a study's figures. Put them and its tables into TensorBoard.

    An error is returned, not raised: it must not hide the runs and the tables.

    Returns:
        the PNG files, and why there are none, in one line.
    """
    try:
        from .figures import draw_figures
        from .tensorboard import write_study_events

        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        recipes = [figures["recipe"] for figures in summary["recipes"] if figures["runs"]]  # in the table's order
        pictures = [path for path in draw_figures(folder, recipes) if path.suffix == ".png"] if recipes else []
        write_study_events(folder / "runs", pictures, (folder / "summary.md").read_text("utf-8"))
    except Exception as error:
        return [], f"{type(error).__name__}: {' '.join(str(error).split())}"
    return pictures, ""
