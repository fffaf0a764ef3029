"""The recorder: a row of numbers for each update step, from the model's forward passes, its gradients and the probes.

Rows stay on the device until they are flushed. A part that raises is off from then on (see `guard`), and its numbers are
NaN. The process still takes part in everything that all processes do together, so that no process waits for another.
"""

from __future__ import annotations

import functools
import logging
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..utils.adapters import trained_parts
from ..utils.layers import layers_of
from ..utils.optimizers import encoder_group, rates_differ
from .calling_trainer import TrainingLoop
from .forward_pass import ForwardHook, divides_by_num_items, loss_logits_labels, remove_hooks
from .gradients import GradientMeter, is_sharded
from .guard import Guard
from .outputs import combine_statistics, output_statistics
from .own_loss import LossCheck
from .probes import Probe
from .probes.clipping import is_clipped
from .step_record import LAYER_PREFIX, StepRecord


logger = logging.getLogger(__name__)

MAX_CLASSES = 16  # with more classes, classes are not counted
MAX_WIDTH = 128  # with more outputs, there is no logit_std

RECORD, FILE = "the step record", "the file of the step record"
"""The parts' names in warnings. If the file fails, the record continues in memory."""


class Recorder:
    """Records one training.

    Args:
        model: the model on its device, without the wrappers of distributed training.
        args: the training arguments.
        state: the Trainer's state at the beginning of training.
        optimizer: the training's optimizer. Its parameter groups have their learning rates.
        probes: probes for more columns. Probes that are averaged over processes come last.
        path: the record's file. None in all processes but the main one.
        guard: catches errors of the parts.
        loop: the training. None if it is not known.
        checks_loss: whether to check that the loss is the model's plain cross entropy (see `own_loss`).
        quiet_share: share of training, from its start, in which layers are frozen. It counts as warmup, and so does the
            warmup after it.

    Attributes:
        record: the `StepRecord`.
        meter: the `GradientMeter`. None after training.
        saw_loss: whether the model has returned a loss. A loss that is missing is not a divergence.
        before_clipping: whether the last step's norms were taken before clipping.
        micro_batches: loss, logits and labels of the current update step.
        output_names: names of the model's last outputs, in their order, without the loss.
        on_rows: called with each block of rows, `(steps, record.columns)`, in every process.
    """

    def __init__(
        self,
        model: nn.Module,
        args: Any,
        state: Any,
        optimizer: Any,
        probes: Sequence[Probe],
        path: Path | None,
        guard: Guard,
        loop: TrainingLoop | None = None,
        checks_loss: bool = True,
        quiet_share: float = 0.0,
    ) -> None:
        self.model, self.args, self.state, self.probes, self.guard, self.loop = model, args, state, probes, guard, loop
        self.thread = threading.get_ident()
        self.meter = GradientMeter(model)
        config = getattr(model, "config", None)
        num_labels = getattr(config, "num_labels", 0) or 0
        self.classes = num_labels if 2 <= num_labels <= MAX_CLASSES else 0
        self.width = num_labels if num_labels <= MAX_WIDTH else 0
        self.saw_loss = False
        self.before_clipping = False
        self.output_names: list[str] = []
        self.on_rows: Callable[[np.ndarray], None] = lambda rows: None
        run = functools.partial(guard.run, "the check of the loss")
        self.loss_check = LossCheck(run=run) if checks_loss and self.classes else None
        self._divides_by_num_items = divides_by_num_items(model)
        self._losses_add_up = False
        self._said_unknown = self.meter.hidden is not None  # then the meter has warned
        self._rows: list[tuple[int, Sequence[float], Tensor, Tensor]] = []
        self.micro_batches: list[tuple[Tensor | None, Tensor | None, Tensor | None]] = []
        self._norms: tuple[Tensor, Tensor, bool] | None = None
        self._row: tuple[int, Sequence[float], Tensor, Tensor] | None = None
        self._step_is_open = False
        self._total = torch.full((), math.nan)
        for probe in self.probes:
            limit, resumed = args.max_grad_norm or 0.0, state.global_step > 0
            values = {"max_grad_norm": limit, "resumed": resumed}
            guard.run(part_of(probe), lambda p=probe, v=values: p.start(model, layers_of(model), **v))
        groups = getattr(optimizer, "param_groups", [])
        self.encoder_group = encoder_group(groups, model)
        self._group_columns = [f"learning_rate/{i}" for i in range(len(groups))] if rates_differ(groups) else []
        warmup = args.get_warmup_steps(state.max_steps)
        if quiet_share:  # the warmup of all weights comes after it
            warmup = math.ceil(quiet_share * state.max_steps + (1 - quiet_share) * warmup - 1e-9)
        info = {"max_steps": state.max_steps, "warmup_steps": warmup}
        if (parts := trained_parts(model)) is not None:
            info["trained"] = parts
        try:
            # Every process needs a record, even if the file cannot be written: the others would wait for it.
            record = guard.run(FILE, StepRecord, self.columns(), path, state.global_step, info)
            self.record = record or StepRecord(self.columns(), None, state.global_step, info)
        except Exception:
            for probe in self.probes:  # removes their hooks
                probe.stop()
            raise
        remove_hooks(model)
        self._hook = model.register_forward_hook(ForwardHook(self), with_kwargs=True)

    def columns(self) -> list[str]:
        """The record's columns, with the layers that are trained at present."""
        columns = ["step", "learning_rate", "loss", "logit_std", "grad_norm", "clipped"]
        columns += [f"{kind}/{k}" for kind in ("labels", "predicted") for k in range(self.classes)]
        columns += [LAYER_PREFIX + name for name in self.meter.names]
        columns += [column for probe in self.probes for column in probe.columns]
        return columns + self._group_columns

    # ---- a step --------------------------------------------------------------------------------------------------------

    def begin_step(self) -> None:
        """The next forward passes in training mode belong to an update step."""
        self._step_is_open = True
        self.micro_batches.clear()

    @torch.no_grad()
    def observe_forward(self, module: nn.Module, kwargs: Mapping[str, Any], output: Any) -> None:
        """A forward pass of the model."""
        if self.loop is not None and threading.get_ident() == self.thread and not self.loop.is_running():
            self.stop()  # the training was interrupted
            return
        self.guard.run(RECORD, self._observe, module, kwargs, output)

    def _observe(self, module: nn.Module, kwargs: Mapping[str, Any], output: Any) -> None:
        names = [key for key, value in output.items() if value is not None] if isinstance(output, Mapping) else []
        self.output_names = [name for name in names if name != "loss"]
        if not (module.training and self._step_is_open):
            return
        loss, logits, labels = loss_logits_labels(kwargs, output)
        self.saw_loss |= loss is not None
        self._losses_add_up = self._divides_by_num_items and kwargs.get("num_items_in_batch") is not None
        if self.loss_check is not None and not self.micro_batches and logits is not None and labels is not None:
            self.guard.run("the check of the loss", self.loss_check.watch, logits, labels)
        self.micro_batches.append((loss, None if logits is None else logits.detach(), labels))

    def observe_gradients(self, layer_norms: Tensor, total: Tensor, before_clipping: bool) -> None:
        """Take this update step's norms from the trainer. This saves another pass over the gradients.

        Args:
            layer_norms: `(layers,)`, in the order of `meter.names`.
            total: 0-d, the total norm.
            before_clipping: whether they were taken before clipping.
        """
        self._norms = (layer_norms, total, before_clipping)

    def follow_unfreezing(self) -> None:
        """Update the columns if layers were unfrozen or frozen since the last step."""
        if not self.meter.is_current():
            self.flush()  # in all processes, before anything can fail in one of them
            self.guard.run("following unfrozen layers", self._change_layers)

    def _change_layers(self) -> None:
        before = set(self.meter.names)
        self.meter = GradientMeter(self.model)
        step = self.state.global_step + 1
        since = {name: step for name in self.meter.names if name not in before}
        until = dict.fromkeys(sorted(before - set(self.meter.names)), step - 1)
        known = {"since": since, "until": until}
        info = {key: {**self.record.info.get(key, {}), **found} for key, found in known.items() if found}
        self.change(lambda: self.record.set_columns(self.columns()))
        self.change(lambda: self.record.update_info(**info))
        logger.info(f"The trained layers changed. From update step {step} on they are {', '.join(self.meter.names)}.")

    def change(self, change: Callable[[], None]) -> None:
        """Change the record. If its file cannot be written, the record continues in memory."""
        if self.record.path is not None:
            self.guard.run(FILE, change)
            if FILE not in self.guard.off:
                return
            self.record.path = None
        change()

    def before_step(self, optimizer: Any, step: int) -> None:
        """The gradients are complete and clipped. The optimizer's step comes next."""
        self._step_is_open = False
        self.follow_unfreezing()
        self._row = self.guard.run(RECORD, self._make_row, optimizer, step)
        if self._row is None and self.args.world_size > 1:  # the other processes expect a row from each
            self._row = self._unknown_row(step)
        self._norms = None
        self.micro_batches.clear()
        total = self._total
        for probe in self.probes:
            self.guard.run(part_of(probe), probe.before_step, optimizer, total, self.before_clipping, step)

    def _make_row(self, optimizer: Any, step: int) -> tuple[int, Sequence[float], Tensor, Tensor]:
        layer_norms, total, self.before_clipping = self._norms or self._measured()
        self._total = total
        clipped = is_clipped(total, self.args.max_grad_norm or 0.0, self.before_clipping)
        norms = torch.cat([torch.stack([total.float(), clipped.float()]), layer_norms.float().to(total.device)])
        rates = [float(group["lr"]) for group in optimizer.param_groups]
        rates = [rates[self.encoder_group], *(rates if self._group_columns else [])]
        return step, rates, self._seen_here(total), norms

    def _unknown_row(self, step: int) -> tuple[int, Sequence[float], Tensor, Tensor]:
        device = next(self.model.parameters()).device
        sizes = 2 + 2 * self.width + 2 * self.classes, 2 + len(self.meter.names)
        seen, norms = (torch.full((size,), math.nan, device=device) for size in sizes)
        return step, [math.nan] * (1 + len(self._group_columns)), seen, norms

    def _measured(self) -> tuple[Tensor, Tensor, bool]:
        norms = self.meter.parameter_norms()
        layer_norms = self.meter.layer_norms(norms)
        total = torch.linalg.vector_norm(norms.float()).to(norms.dtype)  # rounded as in clipping
        if not self.meter.present or is_sharded(self.args):  # unknown, which is not zero
            layer_norms, total = layer_norms * math.nan, total * math.nan
            self._say_unknown()
        return layer_norms, total, False

    def _say_unknown(self) -> None:
        if not self._said_unknown and self.state.is_world_process_zero:
            logger.warning(
                "Gradient norms are NaN: at the optimizer's step this process does not have the complete gradients (FSDP, "
                "DeepSpeed). Training is not affected. With DeepSpeed, your own code can read them with "
                "deepspeed.utils.safe_get_full_grad(parameter), called on all ranks between its backward and its step."
            )
        self._said_unknown = True

    def after_step(self) -> None:
        """The optimizer has made its step."""
        row, self._row = self._row, None
        if row is None:  # the record is off
            return
        step, rates, seen, norms = row
        for probe in self.probes:
            values = self.guard.run(part_of(probe), probe.after_step)
            values = torch.full((len(probe.columns),), math.nan) if values is None else values
            values = values.to(norms.device)
            if probe.mean_over_processes:
                seen = torch.cat([seen, values])
            else:  # if weights are sharded, a process has only its part
                unknown = is_sharded(self.args) and "/" in probe.columns[0]
                norms = torch.cat([norms, values * math.nan if unknown else values])
        self._rows.append((step, rates, seen, norms))

    @torch.no_grad()
    def _seen_here(self, total: Tensor) -> Tensor:
        """Loss and output statistics of this process's examples in this step, on the device."""
        device = total.device  # with DataParallel the batches are on several devices
        batches = [[part.to(device) if part is not None else None for part in batch] for batch in self.micro_batches]
        losses = [loss.float() for loss, _, _ in batches if loss is not None]
        loss: Any
        sizes = [len(labels) if labels is not None else 1 for loss, _, labels in batches if loss is not None]
        if self._losses_add_up:  # the processes' mean is taken in _flush
            loss = sum(losses) * (self.args.world_size if self.args.average_tokens_across_devices else 1)
        else:
            loss = sum(loss * (size / sum(sizes)) for loss, size in zip(losses, sizes, strict=True))
        loss = loss if losses else torch.full((), torch.nan, device=device)
        seen = [(logits, labels) for _, logits, labels in batches if logits is not None and labels is not None]
        seen = seen if all(logits.shape == (len(labels), self.width) for logits, labels in seen) else []
        logits, labels = (torch.cat(part) for part in zip(*seen, strict=True)) if seen else (None, None)
        statistics = output_statistics(logits, labels, self.width, self.classes, device)
        return torch.cat([loss[None], statistics])

    # ---- a block of steps ----------------------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether its training has ended, or was abandoned."""
        return self.model is None

    @property
    def pending(self) -> int:
        """Number of rows that are not flushed yet."""
        return len(self._rows)

    def last_loss(self) -> float | None:
        """The train loss of the last update step that the host knows, in nats; None before the first.

        On a GPU it is the loss of the last flush: this never waits for the device. On a CPU it is that of the last step.
        """
        if self._rows and self.args.world_size == 1 and self._rows[-1][2].device.type == "cpu":
            return float(self._rows[-1][2][0])
        blocks = self.record.blocks
        if not blocks or not len(blocks[-1]):
            return None
        return float(blocks[-1][-1, self.record.file_columns.index("loss")])

    def flush(self) -> None:
        """Copy the rows of the last block to the host, the file and `on_rows`.

        All processes must call this at the same steps.
        """
        if not self._rows:
            return
        steps, rates, rows, norms = zip(*self._rows, strict=True)
        self._rows = []
        seen = self.of_all_processes(torch.stack(rows)).cpu().numpy()
        block = self.guard.run(RECORD, self._append, steps, rates, seen, torch.stack(norms).cpu().numpy())
        if block is not None:
            self.on_rows(block)

    def _append(self, steps: Sequence[int], rates: Any, seen: np.ndarray, norms: np.ndarray) -> np.ndarray:
        own = sum(len(probe.columns) for probe in self.probes if probe.mean_over_processes)
        seen, probed = np.split(seen, [seen.shape[-1] - own], axis=-1)
        outputs = combine_statistics(seen[..., 1:], self.width)
        loss, probed = (weighted_mean(part, seen[..., 1:2]) for part in (seen[..., :1], probed))
        rates = np.asarray(rates, "<f4")
        parts = [
            steps,
            rates[:, 0],
            loss,
            outputs[:, 0],
            norms[:, :2],
            outputs[:, 1:],
            norms[:, 2:],
            probed,
            rates[:, 1:],
        ]
        block = np.column_stack([np.asarray(part, "<f4") for part in parts])
        if self.record.path is not None:  # appends in memory first, then to the file
            self.guard.run(FILE, self.record.append, block)
            self.record.path = None if FILE in self.guard.off else self.record.path
        else:
            self.record.append(block)
        return block

    def of_all_processes(self, seen: Tensor) -> Tensor:
        """`(steps, columns)` of this process -> `(processes, steps, columns)`. Gradient norms are global already."""
        if self.args.world_size == 1 or not torch.distributed.is_initialized():
            return seen[None]
        gathered = [torch.empty_like(seen) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(gathered, seen)
        return torch.stack(gathered)

    def stop(self) -> None:
        """End the recording, however training ended: remove the hook from the model and drop its batches."""
        self._hook.remove()
        for probe in self.probes:
            self.guard.run(f"the end of {part_of(probe)}", probe.stop)
        self.micro_batches.clear()
        self._rows, self._norms, self._row, self._step_is_open = [], None, None, False
        self._total, self.loss_check, self.loop, self.meter, self.model = None, None, None, None, None


def part_of(probe: Probe) -> str:
    """A probe's name in warnings."""
    return f"diagnostic {probe.name!r}"


def weighted_mean(values: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Mean over processes `(processes, steps) -> (steps,)`, weighted by their numbers of examples if these are known."""
    sizes = np.where(np.isfinite(sizes), sizes, 1.0)
    return (values.astype(np.float64) * sizes).sum(0) / sizes.sum(0)
