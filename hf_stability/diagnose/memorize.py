"""Can a model learn 32 of its training examples by heart? If not, it has a bug. If so, it may be unstable."""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ..errors import InputError
from ..verdicts.constants import IGNORED_LABEL
from .inputs import Inputs


EXAMPLES, BATCH_SIZE, STEPS = 32, 8, 300
RATE, WIDTH = 5e-5, 768  # BERT-base's middle rate (Devlin et al. 2019), and its units
ADAPTERS = 10  # adapters take rates that are 10 to 100 times a whole model's
WARMUP = 10  # update steps


def memorize(
    model: torch.nn.Module,
    examples: Sequence[Mapping[str, Any]],
    collator: Callable[[list], Mapping[str, torch.Tensor]],
    rate: float | None = None,
    steps: int = STEPS,
    batch_size: int = BATCH_SIZE,
    device: str | torch.device = "cpu",
    show: bool = True,
) -> dict[str, Any]:
    """Train a model on a few examples until it knows them by heart. This changes the model.

    AdamW with bias correction, no weight decay, a constant rate after 10 steps of warmup, no dropout, float32. Training
    ends once all examples are right in two passes in a row (R2 of 0.95 for a regression; with several labels per example, all
    labels). If `rate` fails, a third of it is tried from the same weights.

    Args:
        model: a classifier, or a regression, that returns its loss; frozen parameters stay as they are.
        examples: as the collator takes them, with labels.
        rate: learning rate. Default: 5e-5 x 768 / the model's units; 10 times that for a model with adapters (PEFT).
        steps: the most update steps, for each of the two rates.
        show: whether to show a progress bar.

    Returns:
        `learned`, `score` (accuracy or R2, of the last pass), `steps`, `rate`, `loss`, `examples`, `regression`.

    Raises:
        InputError: the model returns no loss.
    """
    from tqdm.auto import tqdm

    width = getattr(model.config, "hidden_size", WIDTH)
    usual = RATE * WIDTH / width * (ADAPTERS if getattr(model, "peft_config", None) else 1)
    rate = usual if rate is None else rate
    model = model.to(device).float().eval()  # eval: dropout off, gradients all the same
    parts = [list(examples[i : i + batch_size]) for i in range(0, len(examples), batch_size)]
    batches = [{key: value.to(device) for key, value in collator(part).items()} for part in parts]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    start = [parameter.detach().clone() for parameter in trained]
    result: dict[str, Any] = {}
    for factor in (1.0, 1 / 3):
        with torch.no_grad():
            for parameter, value in zip(trained, start, strict=True):
                parameter.copy_(value)
        with tqdm(total=steps, desc=f"memorizing {len(examples)} examples", disable=not show, leave=False) as bar:
            tried = _fit(model, trained, batches, rate * factor, steps, bar.update)
        # `not <=` instead of `>`: a NaN score compares as False, and is replaced too
        if not result or tried["learned"] or not tried["score"] <= result["score"]:
            result = tried
        if result["learned"] or not trained:
            break
    return {**result, "examples": len(examples)}


def _fit(
    model: Any, trained: list[Any], batches: list[Any], rate: float, steps: int, update: Callable[[int], Any]
) -> dict[str, Any]:
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0) if trained else None
    regression = model.config.num_labels == 1
    in_row = done = 0
    score = loss = math.nan
    while done < steps and in_row < 2:
        outputs, labels, losses = [], [], []
        for batch in batches:
            output = model(**batch)
            if getattr(output, "loss", None) is None:
                raise InputError("the model's forward returns no loss on these examples")
            outputs.append(output.logits.detach())
            labels.append(batch["labels"])
            losses.append(float(output.loss.detach()))
            if optimizer is not None:
                for group in optimizer.param_groups:
                    group["lr"] = rate * min(1.0, (done + 1) / WARMUP)
                optimizer.zero_grad()
                output.loss.backward()
                torch.nn.utils.clip_grad_norm_(trained, 1.0)
                optimizer.step()
            done += 1
            update(1)
        score, loss = _score(torch.cat(outputs), torch.cat(labels), regression), float(np.mean(losses))
        in_row = in_row + 1 if score >= (0.95 if regression else 1.0) else 0
        if optimizer is None or not math.isfinite(loss):
            break
    learned = in_row >= 2
    return {"learned": learned, "score": score, "steps": done, "rate": rate, "loss": loss, "regression": regression}


def _score(logits: torch.Tensor, labels: torch.Tensor, regression: bool) -> float:
    if labels.ndim == 2:  # several labels per example
        return float(((logits > 0) == (labels > 0)).all(-1).float().mean())
    if not regression:
        return float((logits.argmax(-1) == labels).float().mean())
    labels = labels.float()
    return 1 - float(
        (logits.flatten() - labels).square().sum() / (labels - labels.mean()).square().sum().clamp(min=1e-12)
    )


def try_memorize(inputs: Inputs, rate: float | None, show: bool) -> tuple[dict[str, Any] | None, str]:
    """`memorize` on the run's own examples and model. Returns the result, or None and what is missing."""
    if not inputs.can_memorize:
        return None, inputs.no_memorize
    try:
        if not inputs.fit_the_model:
            return None, "labels and token ids that fit the model"
        rows = pick_examples(inputs.labels, inputs.train["input_ids"])
        with own_random_state():
            model = inputs.make_model()
            keep = {*inspect.signature(model.forward).parameters, "label"}
            examples = [{key: value for key, value in inputs.train[i].items() if key in keep} for i in rows]
            found = memorize(model, examples, inputs.collator, rate, device=inputs.device, show=show)
    except Exception as error:  # the model's forward and the collator are the user's code
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return None, f"a model and a collator that take these examples ({why})"
    return {**found, "trained_before": inputs.trained_before}, ""


def pick_examples(labels: np.ndarray, inputs: Sequence[Sequence[int]], count: int = EXAMPLES) -> list[int]:
    """The first examples of each class in turn, without repeated inputs. A sound model can learn them by heart.

    Args:
        labels: `(n,)`, class ids (-100 does not count) or values; more than 32 different ones count as values. With several
            labels per example `(n, L)` of 0 and 1; the first label of an example counts as its class.
        inputs: token ids of each example.
        count: how many at most.
    """
    labels = np.asarray(labels)
    if labels.ndim == 2:
        labels = np.where(labels.any(1), labels.argmax(1), -1)
    values = np.unique(labels[labels != IGNORED_LABEL])
    classes = [np.flatnonzero(labels == value) for value in values] if len(values) <= 32 else [np.arange(len(labels))]
    chosen: list[int] = []
    seen: set[tuple[int, ...]] = set()
    queues = [iter(rows.tolist()) for rows in classes]
    while queues and len(chosen) < count:
        for queue in list(queues):
            row = next((row for row in queue if tuple(inputs[row]) not in seen), None)
            if row is None:
                queues.remove(queue)
            elif len(chosen) < count:
                seen.add(tuple(inputs[row]))
                chosen.append(row)
    return chosen


@contextmanager
def own_random_state() -> Iterator[None]:
    """Restore all random states afterwards, so that a live Trainer's training does not change."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
