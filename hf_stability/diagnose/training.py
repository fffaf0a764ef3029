"""Update steps, learning rates and losses of a run, in the form that the checks take."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..diagnostics.settings import as_corrected, linear_rates, warmup_of
from ..methods.adamw import effective_step_factor
from ..utils.text import rate_text
from .files import Run


def training_values(run: Run) -> dict[str, Any]:
    """The checks' values on the training itself, by the names in `causes`."""
    args, record = run.args, run.record
    info = record["info"] if record else {}
    total = run.total_steps or info.get("max_steps")
    warmup = info.get("warmup_steps")
    warmup = _warmup_steps(run, total) if warmup is None else warmup
    rate_steps, rates = _rates(run, total, warmup)
    corrects = args.get("bias_correction", True) or args.get("lr_bias_correction", False)
    evaluated = [entry["eval_loss"] for entry in run.history if "eval_loss" in entry]
    values = {
        "step": max(run.step or 0, int(record["step"][-1]) if record else 0) or None,
        "total_steps": total,
        "warmup_steps": warmup,
        "rates": rates,
        "rate_steps": rate_steps,
        "rate_note": _rate_note(run),
        "optimizer": args.get("optimizer", args.get("optim")),
        "bias_correction": args.get("bias_correction"),
        "uncorrected_beta2": None if corrects else _betas(run)[1],
        "corrected_rates": _as_corrected(run, rate_steps, rates),
        "precision": next((name for name in ("fp16", "bf16") if args.get(name)), args.get("mixed_precision")),
        "nan_filter": args.get("logging_nan_inf_filter"),
        "logged_losses": [entry["loss"] for entry in run.history if "loss" in entry] + evaluated,
        "logged_norms": [entry["grad_norm"] for entry in run.history if "grad_norm" in entry],
    }
    if record:
        # Gradients but no loss: the model returns no loss. Neither: NaN from the first step.
        returns_none = not np.isfinite(record["loss"]).any() and np.isfinite(record["grad_norm"]).any()
        values |= {
            "steps": record["step"],
            "losses": None if returns_none else record["loss"],
            "grad_norms": record["grad_norm"],
            "layers": record["layers"],
            "layer_norms": record["layer_norms"],
        }
    return values


def _warmup_steps(run: Run, total: int | None) -> int | None:
    """From the arguments, else the step of the highest logged rate; None if neither is known."""
    if "warmup_steps" in run.args and total:
        return warmup_of(run.args, total)
    logged = [(entry["step"], entry["learning_rate"]) for entry in run.history if "learning_rate" in entry]
    if len(logged) < 2 or not total:
        return None
    top = max(range(len(logged)), key=lambda i: logged[i][1])
    if top:
        return int(logged[top][0])
    return 0 if logged[0][0] <= 0.02 * total else None


def _rates(run: Run, total: int | None, warmup: int | None) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Update steps and the learning rate at each: from the record, else by the Trainer's linear schedule."""
    if run.record:
        return run.record["step"].astype(int), run.record["learning_rate"]
    peak = _logged_peak(run) or run.args.get("learning_rate")
    if peak is None or not total:
        return None, None
    steps, rates = np.arange(1, total + 1), linear_rates(peak, total, warmup or 0)
    if run.args.get("lr_bias_correction"):
        rates = rates * effective_step_factor(steps, *_betas(run))
    return steps, rates


def _logged_peak(run: Run) -> float | None:
    """The highest logged rate, if it is above the arguments' rate: a custom optimizer has its own rates."""
    logged = max((entry["learning_rate"] for entry in run.history if "learning_rate" in entry), default=None)
    given = run.args.get("learning_rate")
    if logged is None or "learning_rate" in run.certain or (given and logged <= 1.01 * given):
        return None
    return logged


def _rate_note(run: Run) -> str | None:
    """A sentence on which parameter group has these rates, if that is in doubt."""
    groups = run.group_rates
    if run.record is not None:
        columns = run.record.get("learning_rates", np.zeros((0, 0)))
        groups = [float(np.nanmax(column)) for column in columns.T if np.isfinite(column).any()] or groups
    if groups and min(groups) < max(groups):
        return f"This is the encoder's rate; the parameter groups have {rate_text(min(groups))} to {rate_text(max(groups))}."
    if run.record is None and _logged_peak(run) is not None:
        return "This is from the log, which shows only the first parameter group's rate."
    return None


def _as_corrected(run: Run, steps: np.ndarray | None, rates: np.ndarray | None) -> np.ndarray | None:
    """The rates at which AdamW with bias correction would make the same steps."""
    if rates is None or run.args.get("bias_correction", True):
        return rates
    return as_corrected(rates, steps, *_betas(run))


def _betas(run: Run) -> tuple[float, float]:
    return run.args.get("adam_beta1", 0.9), run.args.get("adam_beta2", 0.999)
