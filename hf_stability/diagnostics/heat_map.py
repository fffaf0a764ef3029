"""`gradients.png`: a picture of a run's gradient norms by layer and update step, drawn at the end of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..utils.files import write_bytes
from .outcome import Outcome
from .plots import draw_heat_map
from .recorder import Recorder
from .sinks import Sink


HEAT_MAP = "gradients.png"


class HeatMap(Sink):
    """Draws `plot_heat_map` into a file, and gives the picture to the sinks that come after.

    Args:
        folder: the run's folder.
        args: the training arguments.
        recorder: the training's recorder. It knows whether the norms were taken before clipping.
    """

    name = "the heat map"

    def __init__(self, folder: Path, args: Any, recorder: Recorder) -> None:
        self.folder, self.args, self.recorder = folder, args, recorder

    def end(self, outcome: Outcome) -> None:
        if outcome.record is None:
            return
        before = self.recorder.before_clipping
        kind = f"{'before' if before else 'after'} clipping" if self.args.max_grad_norm else ""
        alarm_step = outcome.alarm.step if outcome.alarm else None
        png = draw_heat_map(outcome.record, outcome.verdict.sentence, alarm_step, kind)
        if png is not None:
            write_bytes(self.folder / HEAT_MAP, png)
            outcome.pictures["gradients"] = png
