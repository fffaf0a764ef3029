"""Masked-LM perplexity with a fine-tuned model's top k layers put back to pretrained.

Mosbach et al. (ICLR 2021, section 4.1) ask whether failed runs have forgotten what pretraining taught. They put the top k layers
back, k = 0..L, and measure the perplexity on WikiText-2. The harm sits in the top layers, far more in failed runs. They take that
for a symptom: the training failed, and the top layers moved without use.

The layers alone do not give the pretrained model back. So there are two more steps: the embeddings, and the head. A fine-tuned
classifier has no masked-LM head. Its dense layer is the pretrained one from the beginning. Its output embeddings are tied to the
input embeddings, so they begin as the fine-tuned ones, and are put back last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError
from ..study.job import Job
from ..study.records import RunRecord
from ..study.report.plots import FAILED, OK
from ..tasks.demo.data import DEMO_TASKS, heldout_text
from ..utils.layers import parameters_with_layers
from .analysis import Analysis
from .finished_study import FinishedStudy
from .kept_models import missing_models, progress_bar, read_model, settings_of, with_models
from .masked_lm import (
    MaskedText,
    fine_tuned_weights,
    load_masked_lm,
    mask_tokens,
    masked_lm_loss,
    tokenized_blocks,
    tokenized_sentences,
    unshared,
    untied,
)


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


NOTHING, EMBEDDINGS, HEAD = "nothing", "embeddings", "head"


# ---- pure functions -------------------------------------------------------------------------------------------------


def replacement_steps(model: nn.Module) -> list[tuple[str, list[str]]]:
    """The steps in their order, as `(step, names of the parameters that it puts back)`. Each parameter is in one step.

    | step | puts back |
    | --- | --- |
    | `nothing` | - |
    | `top 1` ... `top L` | one more encoder layer, from the output to the input |
    | `embeddings` | the rest of the base model: the embeddings, and what belongs to no layer |
    | `head` | everything outside the base model |

    Args:
        model: a masked-LM model with weights of its own for each layer, see `masked_lm.unshared`.

    Raises:
        InputError: it has no layers, or two stacks of them.
    """
    groups: dict[str, list[str]] = {}
    for layer, name, _ in parameters_with_layers(model):
        groups.setdefault(layer, []).append(name)
    layers = sorted(layer for layer in groups if layer.removeprefix("shared_").startswith("layer_"))
    if not layers or any(layer.startswith("decoder_") for layer in groups):
        raise InputError(f"{type(model).__name__}: this analysis needs an encoder with one stack of layers")
    head = groups.pop("classifier", [])
    steps = [(NOTHING, list[str]())]
    steps += [(f"top {k}", groups.pop(layer)) for k, layer in enumerate(reversed(layers), 1)]
    return [*steps, (EMBEDDINGS, [name for names in groups.values() for name in names]), (HEAD, head)]


def replacement_curve(
    model: nn.Module,
    tuned: Mapping[str, Tensor],
    loss_of: Callable[[nn.Module], float],
    on_step: Callable[[], None] | None = None,
) -> list[tuple[str, float]]:
    """The loss of a fine-tuned model while it is put back to pretrained, step by step.

    The weights are written in place; there is one more copy of the pretrained ones. Afterwards the model is the pretrained one
    again, bit for bit, also after an error or Ctrl-C.

    Args:
        model: the pretrained masked-LM model.
        tuned: names and weights of the fine-tuned model, see `masked_lm.fine_tuned_weights`. The other parameters stay
            pretrained.
        loss_of: a function of the model.
        on_step: is called after each step.

    Returns:
        `(step, loss)` for each of `replacement_steps`.
    """
    parameters = dict(model.named_parameters())
    pretrained = {name: value.detach().clone() for name, value in parameters.items()}
    curve = []
    try:
        _write(parameters, tuned)
        for step, names in replacement_steps(model):
            _write(parameters, {name: pretrained[name] for name in names})
            curve.append((step, loss_of(model)))
            if on_step is not None:
                on_step()
    finally:
        _write(parameters, pretrained)
    return curve


@torch.no_grad()
def _write(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        parameters[name].copy_(value)


def half_way(losses: Sequence[float], pretrained: float) -> int | None:
    """The first step at which at least half of the harm is gone: of the loss above the pretrained model's.

    Returns:
        its number; None if the fine-tuned model's loss is not above the pretrained model's.
    """
    harm = losses[0] - pretrained
    if not harm > 0:
        return None
    return next(step for step, loss in enumerate(losses) if loss - pretrained <= harm / 2)


# ---- on a study's folder --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReplacementOptions:
    """The options of the analysis."""

    texts: int = field(
        default=500,
        metadata={"help": "Sentences of the demo's held-out text, or blocks of --text_file; 0: all of the file."},
    )
    text_file: str | None = field(
        default=None,
        metadata={
            "help": "A plain text, such as WikiText-2's test.txt. Without it, demo tasks have their held-out text."
        },
    )
    block_length: int = field(default=128, metadata={"help": "Tokens per block of --text_file."})
    mask_seed: int = field(default=0, metadata={"help": "Seed of the masked places."})
    batch_size: int = field(default=50, metadata={"help": "Sentences or blocks in memory at a time."})
    runs: int = field(default=10, metadata={"help": "At most this many failed and as many ok runs."})


class LayerReplacement(Analysis):
    """Masked-LM perplexity while layers are put back, failed runs against ok runs."""

    name = "layer-replacement"
    Options = ReplacementOptions

    def missing(self, study: FinishedStudy, options: ReplacementOptions) -> list[str]:
        check_options(options)
        needed = missing_models(study)
        if study.runs[0].task not in DEMO_TASKS and options.text_file is None:
            needed.append(
                f"The task {study.runs[0].task} has no text for perplexity: give --text_file, such as WikiText-2's test.txt."
            )
        return needed

    def numbers(self, study: FinishedStudy, options: ReplacementOptions) -> dict[str, Any]:
        chosen = [
            run
            for runs in (study.failed, study.ok)
            for run in sorted(with_models(study, runs), key=lambda run: (run.seed, run.recipe))[: options.runs]
        ]
        jobs = [settings_of(study, run) for run in chosen]
        check_no_stages(chosen, jobs)
        loaded = load_masked_lm(jobs[0].model, jobs[0].dtype)
        config, model = loaded.config, unshared(loaded)
        decoder = untied(model)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model.to(device)
        text = read_text(jobs[0], options)

        def loss_of(model: nn.Module) -> float:
            return masked_lm_loss(model, text, options.batch_size, device)

        pretrained = loss_of(model)
        rows: list[dict[str, Any]] = []
        runs: list[dict[str, Any]] = []
        with progress_bar(len(chosen) * len(replacement_steps(model)), "layers put back") as advance:
            for run, job in zip(chosen, jobs, strict=True):
                weights = dict(read_model(study.run_folder(run) / "model", job).named_parameters())
                tuned = fine_tuned_weights(model, weights, config, decoder)
                curve = replacement_curve(model, tuned, loss_of, on_step=advance)
                status = "ok" if run.status == "ok" else "failed"
                own = {"run": run.name, "recipe": run.recipe, "seed": run.seed, "status": status}
                rows += [{**own, "step": step, "loss": loss, "perplexity": perplexity(loss)} for step, loss in curve]
                runs.append({**own, "half_way": half_way([loss for _, loss in curve], pretrained)})
        return {
            "task": chosen[0].task,
            "metric": "masked-LM perplexity: exp of the mean loss over masked tokens",
            "text": options.text_file or "the demo's held-out text",
            "texts": len(text.inputs),
            "masked_tokens": text.masked,
            "vocabulary": config.vocab_size,
            "shared_layers": model is not loaded,
            "pretrained": {"loss": pretrained, "perplexity": perplexity(pretrained)},
            "steps": [step for step, _ in replacement_steps(model)],
            "tables": {"perplexity": rows, "runs": runs},
        }

    def sentences(self, numbers: Mapping[str, Any]) -> list[str]:
        steps, groups = numbers["steps"], curves(numbers)
        layers = len(steps) - 3
        told = [
            f"On {numbers['task']}: masked-LM perplexity on {numbers['text']}, n = {numbers['masked_tokens']} masked tokens. "
            f"The pretrained model has {short(numbers['pretrained']['perplexity'])}; {numbers['vocabulary']} would be chance."
        ]
        for status, found in groups.items():
            medians = np.median(found, axis=0)
            halves = [run["half_way"] for run in numbers["tables"]["runs"] if run["status"] == status]
            known = sorted(half for half in halves if half is not None)
            told.append(
                f"The {len(found)} {status} runs have a median of {short(medians[0])} with nothing put back (from {short(found[:, 0].min())} to "
                f"{short(found[:, 0].max())}), {short(medians[layers])} with all {layers} layers, {short(medians[layers + 1])} with the embeddings too."
            )
            if known:
                told.append(
                    f"In {len(known)} of these {len(found)} runs the loss is above the pretrained model's; half of that is gone after "
                    f"{steps[known[0]]} to {steps[known[-1]]}."
                )
        return told

    def draw(self, numbers: Mapping[str, Any]) -> Figure:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 4.4), layout="constrained")
        title = f"{numbers['task']}: masked-LM perplexity, n = {numbers['masked_tokens']} masked tokens"
        figure.suptitle(title, x=0.01, ha="left", fontsize="medium")
        plot_replacement(figure.subplots(), numbers["steps"], curves(numbers), numbers["pretrained"]["perplexity"])
        return figure


ANALYSIS = LayerReplacement()


def curves(numbers: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Status -> the perplexities of its runs, `(runs, steps)`."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in numbers["tables"]["perplexity"]:
        value = math.inf if row["perplexity"] is None else row["perplexity"]
        found.setdefault(row["status"], {}).setdefault(row["run"], []).append(value)
    return {status: np.array(list(runs.values())) for status, runs in found.items()}


def plot_replacement(
    ax: Axes, steps: Sequence[str], curves: Mapping[str, np.ndarray], pretrained: float | None = None
) -> Axes:
    """A line per run over the steps, on a logarithmic scale.

    Args:
        ax: where to draw.
        steps: names of the steps.
        curves: status (`failed`, `ok`) -> perplexities, `(runs, steps)`.
        pretrained: the pretrained model's perplexity, if known.
    """
    styles = {"failed": (FAILED, "--", "X"), "ok": (OK, "-", "o")}
    for status, values in curves.items():
        color, line, mark = styles[status]
        for number, own in enumerate(values):
            label = f"{status} (n = {len(values)})" if number == 0 else None
            ax.plot(range(len(steps)), own, line, color=color, marker=mark, markersize=4, linewidth=1, label=label)
    if pretrained is not None:
        ax.axhline(pretrained, color="black", linestyle=":", linewidth=1, label="pretrained")
    ax.set_yscale("log")
    ax.set_xticks(range(len(steps)), [step.removeprefix("top ") for step in steps], rotation=45, ha="right")
    ax.set_xlabel("put back to pretrained: the top k layers, then embeddings, then head")
    ax.set_ylabel("perplexity")
    ax.legend(fontsize="small")
    return ax


def perplexity(loss: float) -> float:
    """exp of a loss in nats; Inf where that is too large."""
    return math.exp(loss) if loss < 700 else math.inf


def short(value: float) -> str:
    """A perplexity with three digits, or more from 1000 on: `11.8`, `2753`."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def check_options(options: ReplacementOptions) -> None:
    """Refuse numbers that give no text or no runs."""
    for name, least in {"texts": 0, "block_length": 3, "mask_seed": 0, "batch_size": 1, "runs": 1}.items():
        if getattr(options, name) < least:
            raise InputError(f"--{name} {getattr(options, name)}: give {least} or more")
    if options.texts == 0 and options.text_file is None:
        raise InputError("--texts 0: the held-out text has no end; give a number, or a --text_file")
    if options.text_file is not None and not Path(options.text_file).is_file():
        raise InputError(f"--text_file {options.text_file}: no such file; give a plain text")


def check_no_stages(runs: Sequence[RunRecord], jobs: Sequence[Job]) -> None:
    """Refuse runs that began from a stage's encoder."""
    for run, job in zip(runs, jobs, strict=True):
        if job.stages:
            raise InputError(
                f"{run.name}: it began from a stage's encoder, which has no masked-LM head; choose recipes without stages by --recipe"
            )


def read_text(job: Job, options: ReplacementOptions) -> MaskedText:
    """The text of the options, with the run's tokenizer, masked.

    Raises:
        InputError: the tokenizer has no mask token, or the file cannot be read.
    """
    from ..study.pretrained import load_tokenizer

    tokenizer = load_tokenizer(job.tokenizer or job.model)
    if tokenizer.mask_token_id is None:
        raise InputError(
            f"{job.tokenizer or job.model}: this tokenizer has no mask token, so there is no masked-LM perplexity"
        )
    length = min(options.block_length, tokenizer.model_max_length)
    if options.text_file is None:
        blocks = tokenized_sentences(heldout_text(options.texts), tokenizer, length)
    else:
        try:
            lines = Path(options.text_file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--text_file {options.text_file}: cannot be read ({error}); give UTF-8 text") from None
        blocks = tokenized_blocks(lines, tokenizer, length, options.texts)
    special = set(tokenizer.all_special_ids)
    return mask_tokens(blocks, tokenizer.mask_token_id, tokenizer.pad_token_id or 0, special, seed=options.mask_seed)
