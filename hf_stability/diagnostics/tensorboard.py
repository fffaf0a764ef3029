"""TensorBoard: a run's event file, shared with the Trainer's own TensorBoardCallback if that is known."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from transformers.integrations.integration_utils import TensorBoardCallback, default_logdir

from .attempt import Attempt, steps_spent
from .begin_again import HOW
from .dashboard import custom_layout
from .early_warning import Alarm
from .judging import scores_of
from .outcome import Outcome
from .sinks import Sink


logger = logging.getLogger(__name__)

EVENTS_SUFFIX = ".stability"  # at the end of our event files' names


class TensorBoard(Sink):
    """Writes a run's event file.

    | tag | content |
    | --- | --- |
    | `grad_norm/<layer>` | the layer's gradient norm |
    | `grad_norm/total`, `loss`, `learning_rate`, `logit_std`, `clipped` | as in the record |
    | the columns of `diagnostics` | as in the record: `clip_factor`, `update_ratio/<layer>` ... |
    | `log10_grad_norm/<layer>`, `log10_grad_norm/total`, `log10_update_ratio/<layer>` ... | logarithm of each quantity with a value for each layer; -12 for 0 |
    | `label_entropy` | entropy of the labels so far (nats): the loss of the best constant prediction |
    | `eval/<metric>` | every number of every evaluation except times, for any value of `report_to` |
    | `alarm/risk` | the early warning's risk, at each check |
    | `alarm` (text) | the alarm's sentence, at its step |
    | `final/<metric>` | the headline metric, at the end |
    | `final/failed` | 1 if the run failed or diverged, 0 if it is ok; not written if it was stopped or is unknown |
    | `verdict` (text) | the verdict's sentence |
    | `gradients` (image) | `gradients.png` |

    A curve has at most 1000 points. The Custom Scalars tab has all layers in one chart, and a chart for each diagnostic.
    A run has one event file, and one more for each time it is resumed.

    **Attempts.** If the run began again, the new attempt's points follow those of the attempts before: their steps are counted
    on. A text `attempt` has the first step of each new attempt. This includes what the Trainer's own TensorBoardCallback writes,
    if the writer is shared and is torch's.

    Args:
        folder: the run's folder. The events are in its `tensorboard/`.
        args: the training arguments.
        state: the Trainer's state.
        directory: another folder for the events.
        theirs: the Trainer's own TensorBoardCallback, which then writes to the same file. None for a separate file.
        hparams: for the HParams tab, written at the end.
        texts: tag -> Markdown, for the Text tab.
        attempts: the attempts before this one.
    """

    name = "TensorBoard"

    def __init__(
        self,
        folder: Path,
        args: Any,
        state: Any,
        directory: str | os.PathLike | None = None,
        theirs: TensorBoardCallback | None = None,
        hparams: Mapping[str, Any] | None = None,
        texts: Mapping[str, str] | None = None,
        attempts: Sequence[Attempt] = (),
    ) -> None:
        self.folder, self.args, self.state, self.directory = folder, args, state, directory
        # In a hyperparameter search the Trainer's callback has a folder for each trial.
        self.theirs = None if state.is_hyper_param_search else theirs
        self.hparams, self.texts, self.attempts = hparams, texts, attempts
        self.writer: Any = None  # torch's SummaryWriter, or another library's
        self.shares_writer = self.made_writer = False

    def open(self, columns: list[str]) -> None:
        """Open the file. This happens before the Trainer's callback would open its own."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            logger.warning(
                "tensorboard is not installed, so the diagnostics are only in the record's file. To see them: pip install tensorboard"
            )
            return
        first_step = self.state.global_step + 1
        if self.theirs is not None and self.theirs.tb_writer is not None:
            self.writer = self.theirs.tb_writer  # the user gave it to the Trainer's callback
        else:
            directory = self._events_folder()
            _wait_for_a_later_name(Path(directory))
            purge_step = first_step + steps_spent(self.attempts)
            self.writer = SummaryWriter(directory, purge_step=purge_step, filename_suffix=EVENTS_SUFFIX)
            self.made_writer = True
            if self.theirs is not None:
                self.theirs.tb_writer, self.theirs.logging_dir = self.writer, directory
        self.shares_writer = self.theirs is not None
        if isinstance(self.writer, SummaryWriter):
            _count_on(self.writer, steps_spent(self.attempts))
        self.writer.add_custom_scalars(custom_layout(columns))
        for tag, text in (self.texts or {}).items():
            self.writer.add_text(tag, text, first_step)
        if self.attempts and first_step == 1:
            ended = self.attempts[-1]
            text = f"Attempt {len(self.attempts)} begins here. The one before had {HOW[ended.reason]} at its step {ended.steps}."
            self.writer.add_text("attempt", text, first_step)
        self.writer.flush()

    def _events_folder(self) -> str:
        if self.directory is not None:
            return str(self.directory)
        if self.theirs is not None:
            return self.theirs.logging_dir or os.path.join(self.args.output_dir, default_logdir())
        if (
            self.state.global_step == 0 and not self.attempts
        ):  # a new run, like its record: TensorBoard would keep the old run's hparams
            for earlier in (self.folder / "tensorboard").glob(f"events.out.tfevents.*{EVENTS_SUFFIX}"):
                earlier.unlink()
        return str(self.folder / "tensorboard")

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """Write all numbers in one event. This takes a seventh of the time of separate events."""
        if self.writer is None:
            return
        from tensorboard.compat.proto.summary_pb2 import Summary
        from torch.utils.tensorboard import SummaryWriter

        if isinstance(self.writer, SummaryWriter):
            parts = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
            writer: Any = self.writer.file_writer
            writer.add_summary(Summary(value=parts), step)
        else:  # a writer of another library, which the user gave to the Trainer's callback
            for tag, value in values.items():
                self.writer.add_scalar(tag, value, step)

    def flush(self) -> None:
        if self.writer is not None:
            self.writer.flush()

    def evaluation(self, metrics: Mapping[str, float], step: int) -> None:
        if self.writer is None or self.shares_writer:  # the Trainer's callback writes the same tags
            return
        for key, value in scores_of({k: v for k, v in metrics.items() if k.startswith("eval_")}).items():
            self.writer.add_scalar(f"eval/{key}", value, step)
        self.writer.flush()

    def alarm(self, alarm: Alarm) -> None:
        if self.writer is not None:
            self.writer.add_text("alarm", alarm.sentence, alarm.step)

    def end(self, outcome: Outcome) -> None:
        """Write the verdict, the picture and the final scores.

        The HParams tab keeps the first values that it gets, so a run that may continue is not written there.
        """
        if self.writer is None:
            return
        for tag, png in outcome.pictures.items():
            self.writer.add_image(tag, _pixels(png), outcome.step, dataformats="HWC")
        self.numbers(outcome.final, outcome.step)
        self.writer.add_text("verdict", outcome.verdict.sentence, outcome.step)
        if self.hparams is not None and outcome.finished:
            from torch.utils.tensorboard.summary import hparams

            given = {**self.hparams, "verdict": outcome.verdict.status}
            values = {key: _hparam(value) for key, value in given.items()}
            # SummaryWriter.add_hparams would make a second run.
            for summary in hparams(values, dict(outcome.final)):
                self.writer.file_writer.add_summary(summary)
        self.writer.flush()

    def close(self, abandoned: bool = False) -> None:
        writer, self.writer = self.writer, None
        if writer is None or (self.shares_writer and not abandoned):  # the Trainer's callback closes the file later
            return
        if self.shares_writer and not self.made_writer:
            return
        writer.close()
        if self.theirs is not None and self.theirs.tb_writer is writer:
            self.theirs.tb_writer = None


def _count_on(writer: Any, steps: int) -> None:
    """Add these update steps to the step of everything that torch's writer writes from now on."""
    file_writer = writer.file_writer
    add_event = type(file_writer).add_event

    def count_on(event: Any, step: int | None = None, walltime: float | None = None) -> None:
        add_event(file_writer, event, None if step is None else step + steps, walltime)

    if steps or "add_event" in vars(file_writer):  # the user's writer lives on from attempt to attempt
        file_writer.add_event = count_on


def _pixels(png: bytes) -> np.ndarray:
    """A PNG as `(height, width, 3)`, uint8."""
    from PIL import Image

    with Image.open(BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))


def _hparam(value: Any) -> int | float | str:
    """A value as the HParams tab takes it. A bool becomes text, because torch would make a number of it."""
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, (int, float)) else str(value)


def _wait_for_a_later_name(directory: Path) -> None:
    """Wait for the next second, if the newest event file is of this one.

    TensorBoard reads the files of a folder in the order of their names. A name begins with the second of its writing; within one
    second the order is not that of time, and what came first would hide what came last.
    """
    names = [file.name for file in directory.glob("events.out.tfevents.*")]
    seconds = [int(found[1]) for name in names if (found := re.match(r"events\.out\.tfevents\.(\d+)\.", name))]
    now = time.time()
    if seconds and max(seconds) == int(now):
        time.sleep(1 - now % 1)
