"""A study's figures and table for TensorBoard, beside the runs' own events."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def write_study_events(folder: Path, images: Sequence[Path], text: str | None = None) -> None:
    """Write a study's figures and its summary into one event file in `runs/`, in place of an earlier one.

    `tensorboard --logdir FOLDER` shows them as the run `.`, next to the runs `recipe/seed-001` ...

    Args:
        folder: the folder of the study's runs.
        images: PNG files; the tag is the file's name without `.png`.
        text: Markdown, with the tag `summary`.
    """
    for earlier in Path(folder).glob("events.out.tfevents.*"):
        earlier.unlink()
    if not images and text is None:
        return
    from torch.utils.tensorboard import SummaryWriter

    # purge_step: a running TensorBoard has read the earlier file.
    with SummaryWriter(str(folder), purge_step=0) as writer:
        if text is not None:
            writer.add_text("summary", text, 0)
        for path in images:
            writer.add_image(Path(path).stem, _pixels(path), 0, dataformats="HWC")


def _pixels(path: Path) -> np.ndarray:
    """A PNG as `(height, width, 4)`, uint8."""
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGBA"))
