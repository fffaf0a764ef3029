"""Pretrain a small model on the demo's text. This command made the bundled models.

    python -m hf_stability.tasks.demo.pretrain --architecture bert --output_dir /tmp/bert

It trains random initial weights on masked language modelling and, if the architecture has one, on a task on sentence pairs.
The text is generated while it is used (`data.pretraining_pairs`), so no example is repeated by design. It takes about 20
minutes on one CPU core. With the same machine and versions, the same command gives the same weights. Others round differently.

If a run was killed, the same command continues from its last checkpoint. The text and masks of a step depend only on the
seed and the step, and there is no dropout. So the weights are bitwise those of an uninterrupted run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import transformers
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from hf_stability.errors import InputError
from hf_stability.tasks.demo.data import HELDOUT_SEED, pretraining_pairs
from hf_stability.tasks.demo.model import ARCHITECTURES, build_model, build_tokenizer
from hf_stability.version import __version__


MASKED_SHARE = 0.15  # share of the words: 80% of them become [MASK], 10% another word, 10% stay (Devlin et al. 2019)
WARMUP_SHARE = 0.1  # share of the update steps: linear warmup, then linear decay to 0
BETAS, EPSILON, WEIGHT_DECAY, MAX_GRAD_NORM = (0.9, 0.98), 1e-6, 0.01, 1.0
BATCHES_PER_CHUNK = 16  # batches are cut from chunks of this many, sorted by length: less padding
HELDOUT_PAIRS = 1024
IGNORED = -100  # the label that torch's cross entropy ignores


@lru_cache(maxsize=2)
def _chunk(seed: int, index: int, batch_size: int, related: bool) -> tuple[tuple[dict, ...], ...]:
    """The batches of one chunk: pairs of similar length together, the batches in random order."""
    pairs = pretraining_pairs(f"{seed}-{index}", batch_size * BATCHES_PER_CHUNK, related)
    pairs.sort(key=lambda pair: len((pair["text_a"] + " " + pair["text_b"]).split()))
    batches = [tuple(pairs[start : start + batch_size]) for start in range(0, len(pairs), batch_size)]
    random.Random(f"order-{seed}-{index}").shuffle(batches)
    return tuple(batches)


def text_batch(seed: int, step: int, batch_size: int, architecture: str = "bert") -> tuple[dict, ...]:
    """The pairs of update step `step` (from 0)."""
    related = ARCHITECTURES[architecture].pair_task != "same"
    return _chunk(seed, step // BATCHES_PER_CHUNK, batch_size, related)[step % BATCHES_PER_CHUNK]


def model_inputs(
    pairs: tuple[dict, ...] | list[dict],
    tokenizer: PreTrainedTokenizerFast,
    architecture: str,
    generator: torch.Generator,
) -> dict[str, torch.Tensor]:
    """Mask a batch of pairs.

    Returns the model's keyword arguments. `input_ids`, `attention_mask`, `labels` and perhaps `token_type_ids` have shape
    `(pairs, tokens)`, padded to the longest pair. The pair label, if there is one, has shape `(pairs,)`.
    """
    family = ARCHITECTURES[architecture]
    first, second = [pair["text_a"] for pair in pairs], [pair["text_b"] for pair in pairs]
    pair_labels = torch.tensor([pair["label"] for pair in pairs])
    if family.pair_task == "order":
        pair_labels = torch.randint(2, (len(pairs),), generator=generator)
        turned = [(b, a) if swap else (a, b) for a, b, swap in zip(first, second, pair_labels.tolist(), strict=True)]
        first, second = [a for a, _ in turned], [b for _, b in turned]

    inputs = dict(tokenizer(first, second, padding="longest", return_tensors="pt"))
    ids = inputs["input_ids"]
    is_word = ids >= len(family.special_tokens)
    masked = is_word & (torch.rand(ids.shape, generator=generator) < MASKED_SHARE)
    fate = torch.rand(ids.shape, generator=generator)
    random_words = torch.randint(len(family.special_tokens), len(tokenizer), ids.shape, generator=generator)
    inputs["labels"] = ids.masked_fill(~masked, IGNORED)
    inputs["input_ids"] = torch.where(masked & (fate >= 0.9), random_words, ids).masked_fill(
        masked & (fate < 0.8), tokenizer.mask_token_id
    )
    if family.pair_label:
        inputs[family.pair_label] = pair_labels
    return inputs


def learning_rate_at(step: int, steps: int, peak: float) -> float:
    """Learning rate of update step `step` (from 0) of `steps`: a linear rise during warmup, then linear decay to 0."""
    warmup = max(1, int(WARMUP_SHARE * steps))
    return peak * min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))


def build_optimizer(model: torch.nn.Module, learning_rate: float) -> torch.optim.AdamW:
    """Plain torch AdamW; no weight decay on biases and layer norms (the parameters with one dimension)."""
    parameters = list(model.parameters())
    groups = [
        {"params": [value for value in parameters if value.dim() > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [value for value in parameters if value.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=BETAS, eps=EPSILON)


@torch.no_grad()
def evaluate(model: transformers.PreTrainedModel, tokenizer: PreTrainedTokenizerFast, architecture: str) -> dict:
    """Masked-LM and pair accuracy (shares) and losses (nats) on `HELDOUT_PAIRS` held-out pairs.

    `masked_lm_baseline` is the accuracy of always guessing the most frequent of the masked words.
    """
    family = ARCHITECTURES[architecture]
    model.eval()
    pairs = pretraining_pairs(HELDOUT_SEED, HELDOUT_PAIRS, related=family.pair_task != "same")
    generator = torch.Generator().manual_seed(0)
    masked_logits, masked_labels, pair_logits, pair_labels = [], [], [], []
    for start in range(0, len(pairs), 128):
        inputs = model_inputs(pairs[start : start + 128], tokenizer, architecture, generator)
        labels = inputs.pop("labels")
        if family.pair_label:
            pair_labels.append(inputs.pop(family.pair_label))
        outputs = model(**inputs)
        word_logits = outputs.logits if family.pair_label is None else outputs.prediction_logits
        masked_logits.append(word_logits[labels != IGNORED])
        masked_labels.append(labels[labels != IGNORED])
        if family.pair_label:
            # BERT's head is named after the next sentence, ALBERT's after their order.
            head = "seq_relationship_logits" if family.pair_task == "same" else "sop_logits"
            pair_logits.append(outputs[head])

    def loss_and_accuracy(logits: list[torch.Tensor], labels: list[torch.Tensor]) -> tuple[float, float]:
        scores, truth = torch.cat(logits), torch.cat(labels)
        loss = torch.nn.functional.cross_entropy(scores, truth).item()
        return round(loss, 4), round((scores.argmax(-1) == truth).float().mean().item(), 4)

    figures: dict = {}
    figures["masked_lm_loss"], figures["masked_lm_accuracy"] = loss_and_accuracy(masked_logits, masked_labels)
    most_frequent = torch.cat(masked_labels).bincount().max().item()
    figures["masked_lm_baseline"] = round(most_frequent / sum(map(len, masked_labels)), 4)
    if family.pair_label:
        figures["pair_loss"], figures["pair_accuracy"] = loss_and_accuracy(pair_logits, pair_labels)
    return figures


def write_atomically(state: dict, path: Path) -> None:
    """`torch.save`, but a killed process leaves either the old file or the whole new one."""
    temporary = path.with_name(path.name + ".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def pretrain(
    architecture: str,
    output_dir: str | Path,
    *,
    seed: int = 0,
    steps: int = 9000,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    checkpoint_every: int = 300,
    checkpoint: str | Path | None = None,
    **config_overrides: Any,
) -> dict:
    """Pretrain a model, or continue an interrupted run, and save it for `from_pretrained`.

    Args:
        architecture: a key of `ARCHITECTURES`.
        output_dir: folder for the model, its tokenizer and `pretraining.json`.
        seed: seed of the initial weights, the text and the masks.
        steps: number of update steps.
        batch_size: sentence pairs per update step.
        learning_rate: the peak.
        checkpoint_every: update steps between two checkpoints.
        checkpoint: file of the checkpoint; it is removed at the end. Default: `checkpoint.pt` in `output_dir`.
        config_overrides: other sizes of the model.

    Returns the content of `pretraining.json`: the settings, the figures of `evaluate`, minutes, versions.
    """
    if architecture not in ARCHITECTURES:
        raise InputError(
            f"--architecture {architecture!r}: no such architecture; give one of {', '.join(ARCHITECTURES)}"
        )
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    checkpoint = Path(checkpoint) if checkpoint else output_dir / "checkpoint.pt"
    settings = {
        "architecture": architecture,
        "seed": seed,
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        **config_overrides,
    }

    torch.manual_seed(seed)
    tokenizer = build_tokenizer(architecture)
    model = build_model(architecture, tokenizer, **config_overrides)
    optimizer = build_optimizer(model, learning_rate)
    first_step, seconds_before = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        if state["settings"] != settings:
            raise InputError(
                f"{checkpoint} belongs to a run with other settings ({state['settings']}, now {settings}): "
                "give the same settings to continue it, or delete the file to start anew"
            )
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first_step, seconds_before = state["step"], state["seconds"]

    started = time.monotonic()
    model.train()
    bar = tqdm(
        range(first_step, steps), initial=first_step, total=steps, unit="step", desc=f"pretraining {architecture}"
    )
    for step in bar:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)  # any factor far above the number of steps
        inputs = model_inputs(text_batch(seed, step, batch_size, architecture), tokenizer, architecture, generator)
        loss = model(**inputs).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, steps, learning_rate)
        optimizer.step()
        done = step + 1
        if done % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
        if done % checkpoint_every == 0 and done < steps:
            seconds = seconds_before + time.monotonic() - started
            state = {"settings": settings, "step": done, "seconds": seconds}
            write_atomically({**state, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, checkpoint)
    minutes = (seconds_before + time.monotonic() - started) / 60

    report = {
        **settings,
        "parameters": sum(value.numel() for value in model.parameters()),
        **evaluate(model, tokenizer, architecture),
        "heldout_pairs": HELDOUT_PAIRS,
        "minutes": round(minutes, 1),
        "threads": torch.get_num_threads(),
        "versions": {
            "hf_stability": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    for name, value in ARCHITECTURES[architecture].fine_tuning.items():
        setattr(model.config, name, value)
    model.save_pretrained(output_dir)
    tokenizer.save_pretrained(output_dir)
    (output_dir / "pretraining.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    checkpoint.unlink(missing_ok=True)
    return report


def main(argv: list[str] | None = None) -> None:
    """The command; see `--help`."""
    parser = argparse.ArgumentParser(
        prog="python -m hf_stability.tasks.demo.pretrain",
        description=(
            "Pretrain the demo's small model (12 layers, hidden size 64) from scratch on generated text: masked words, and "
            "for BERT and ALBERT sentence pairs. The defaults made the bundled BERT, in about 20 minutes on one CPU core. "
            "If the command is killed, give it again: it continues from its last checkpoint."
        ),
        epilog=(
            "A trial of one minute: --architecture bert --steps 200 --output_dir /tmp/bert-trial. To fine-tune the model: "
            "AutoModelForSequenceClassification.from_pretrained(OUTPUT_DIR)."
        ),
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--architecture", choices=list(ARCHITECTURES), default="bert", help="family of the model")
    parser.add_argument(
        "--output_dir", required=True, help="folder for model.safetensors, config, tokenizer and pretraining.json"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the initial weights, the text and the masks")
    parser.add_argument(
        "--steps",
        type=int,
        default=9000,
        help="update steps; a tenth is warmup. With fewer than about 3000, fine-tuning fails",
    )
    parser.add_argument("--batch_size", type=int, default=64, help="sentence pairs per update step")
    parser.add_argument("--learning_rate", type=float, default=1e-3, help="peak learning rate, at the end of warmup")
    parser.add_argument("--checkpoint_every", type=int, default=300, help="update steps between two checkpoints")
    parser.add_argument(
        "--checkpoint", default=None, help="file of the checkpoint (default: checkpoint.pt in the output folder)"
    )
    arguments = vars(parser.parse_args(argv))
    # One thread: sums are added in a fixed order, and a model this small gains nothing from a second.
    torch.set_num_threads(1)
    try:
        report = pretrain(**arguments)
    except InputError as error:
        parser.error(str(error))
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
