"""Known causes of a failed run, one a check: pure functions of plain values, each of which returns a [`Finding`].

A check returns None where it cannot look. How likely a cause is follows fixed rules. Where a bound is the paper's
(Mosbach, Andriushchenko & Klakow, ICLR 2021), or was seen on the bundled demo, it says so; the others are judgement,
and none was fitted to a collection of real runs.

| value | what |
| --- | --- |
| `train_labels`, `dev_labels` | `(n,)` class ids; -100 does not count |
| `train_names`, `dev_names`, `model_names` | the classes by id: the data's, and those of an earlier fine-tuning |
| `num_labels` | outputs of the model |
| `truncated_share`, `max_seq_length` | share of the training examples that lost tokens; tokens |
| `tokenizer_size`, `embedding_rows`, `largest_id`, `unknown_share` | tokens, rows, token id; share of the tokens |
| `tokenizer_ids`, `config_ids` | `pad`, `cls`, `sep` -> token id |
| `tokenizer_class`, `expected_class` | classes: the tokenizer's, and the one that goes with the model's type |
| `missing_weights`, `base_prefix` | weights that the pretrained files lack, and what the encoder's names begin with |
| `trainable`, `frozen` | numbers of parameters by layer |
| `adapters` | kind of the adapters that are trained, as PEFT calls it (`LORA`, `IA3` ...) |
| `frozen_parts` | modules of the head, pooler and embeddings that are frozen -> `new`, `loaded`, `kept`, `new tokens`, `unknown` |
| `weights_dtype`, `precision` | `torch.float32` ...; `no`, `bf16` or `fp16` (mixed precision) |
| `steps`, `losses`, `grad_norms`, `layers`, `layer_norms` | the record: `(T,)`, `(T,)`, `(T,)`, L names, `(T, L)` |
| `logged_losses`, `logged_norms`, `nan_filter` | the Trainer's log; whether `logging_nan_inf_filter` was on |
| `step`, `total_steps`, `warmup_steps` | update steps |
| `rate_steps`, `rates` | update steps and the learning rate at each, the encoder's |
| `rate_note` | what is to be known of these rates: which parameter group's they are |
| `corrected_rates` | the rates at which bias correction would make the same steps, see `methods/adamw.py` |
| `optimizer`, `bias_correction` | of the training arguments |
| `hidden_size` | units of the model |
| `status`, `evidence`, `alarm` | of the verdict; of the early warning |
| `memorized` | what [`memorize`] returned |
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import InputError
from ..verdicts.constants import IGNORED_LABEL


LIKELIHOODS = ("likely", "possible", "unlikely")

BUGS = (
    "labels", "tokenizer", "new weights", "frozen weights", "layers", "weights' precision", "train and dev",
    "memorize",
)  # fmt: skip
"""Findings that no recipe mends."""

PAPER_RATE, PAPER_WIDTH = 2e-5, 1024  # Mosbach et al. 2021, section 6; units of their models, all of them large
RATE_LIKELY, RATE_POSSIBLE = 4.0, 1.5
"""The effective peak rate, in multiples of the paper's, from which on it is a likely and a possible cause. The paper's
devlin2019 on RTE stands at 4.6; on the demo 0 of 10 runs failed at 3.9, 4 of 10 at 4.9, 9 of 10 at 5.9."""
RATE_SMALL, RATE_TINY = 0.1, 0.02

LORA_RATES = 2e-4, 5e-4  # Hu et al. 2021, table 9: RoBERTa base and large on GLUE
LORA_FACTOR = 10  # rates that are further from these are a possible cause: judgement

FEW_STEPS, VERY_FEW_STEPS = 1000, 100  # update steps; section 4.2 of the paper: 1000 examples x 3 epochs are unstable
SHORT_WARMUP = 0.05
MAJORITY, SHIFT, LARGE_SHIFT = 0.9, 0.1, 0.3
TRUNCATED, MUCH_TRUNCATED = 0.05, 0.5
UNKNOWN, MUCH_UNKNOWN = 0.05, 0.2
SKIPPED = 0.05

STABLE_RECIPE = "--recipe mosbach2021"
DATA, MODEL = "--task_name, or --train_file with --validation_file", "--model_name_or_path (the pretrained model)"


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Args:
        name: the check's.
        likelihood: how likely this made the run fail: one of `LIKELIHOODS`; `unlikely` where all is in order.
        sentence: what was found.
        figures: the numbers behind it.
        remedy: what to do about it; empty where all is in order.
        recipe: the recipe or flags to use; empty where none would help.
    """

    name: str
    likelihood: str
    sentence: str
    figures: dict[str, Any] = field(default_factory=dict)
    remedy: str = ""
    recipe: str = ""

    def __post_init__(self):
        if self.likelihood not in LIKELIHOODS:
            raise InputError(f"likelihood {self.likelihood!r} is none of {', '.join(LIKELIHOODS)}")


# ---- the data -------------------------------------------------------------------------------------------------------


def check_labels(
    train_labels: np.ndarray | None = None,
    dev_labels: np.ndarray | None = None,
    num_labels: int | None = None,
    train_names: Sequence[str] | None = None,
    dev_names: Sequence[str] | None = None,
    model_names: Sequence[str] | None = None,
) -> Finding | None:
    """Label mapping: ids outside of the model's, hidden labels, other class names in dev or in an earlier task."""
    if train_labels is None and dev_labels is None:
        return None
    problems: list[tuple[str, str]] = []
    figures: dict[str, Any] = {"num_labels": num_labels}
    seen = {}
    for split, labels in (("train", train_labels), ("dev", dev_labels)):
        if labels is None:
            continue
        counted = np.asarray(labels)[np.asarray(labels) != IGNORED_LABEL]
        seen[split] = set(np.unique(counted).tolist())
        figures[f"{split}_ids"] = sorted(seen[split])[:20]
        top = math.inf if num_labels is None else num_labels
        outside = counted[(counted < 0) | (counted >= top)]
        if counted.size == 0:
            problems.append(("likely", f"all {split} labels are {IGNORED_LABEL}, which counts nowhere"))
        elif (counted == -1).all():
            problems.append(("likely", f"all {split} labels are -1: hidden, as a test set's are"))
        elif outside.size:
            ids = ", ".join(map(str, np.unique(outside)[:5]))
            bound = "a class id" if num_labels is None else f"one of the model's {num_labels} classes"
            problems.append(("likely", f"{outside.size} of {counted.size} {split} labels are not {bound} (ids {ids})"))
        elif split == "train" and len(seen[split]) == 1:
            problems.append(("likely", "all train labels are of one class"))
    new = sorted(seen["dev"] - seen["train"]) if len(seen) == 2 else []
    if new and min(new) >= 0:
        problems.append(("likely", f"dev has classes that train has not (ids {', '.join(map(str, new[:5]))})"))
    problems += _name_problems(train_names, dev_names, model_names, num_labels)
    return _finding(
        "labels",
        problems,
        "ids, classes and names agree",
        figures,
        "Map the classes to 0 ... K-1 in the same order in train, dev and the model's id2label, and look at ten "
        "examples with their labels. Use a labelled development set.",
    )


def _name_problems(train, dev, model, num_labels) -> list[tuple[str, str]]:
    problems = []
    train, dev, model = ([str(n) for n in names] if names else None for names in (train, dev, model))
    if train and dev and train != dev:
        how = "in another order" if sorted(train) == sorted(dev) else "by other names"
        problems.append(("likely", f"train and dev give the classes {how}: {_names(train)} against {_names(dev)}"))
    if train and model and train != model and len(model) == (num_labels or len(train)):
        same = sorted(name.lower() for name in train) == sorted(name.lower() for name in model)
        what = "gives the classes in another order" if same else "names other classes (a head of another task?)"
        problems.append(("possible", f"the model's id2label {what}: {_names(model)}; the data's: {_names(train)}"))
    return problems


def check_class_shares(
    train_labels: np.ndarray | None = None,
    dev_labels: np.ndarray | None = None,
    train_names: Sequence[str] | None = None,
) -> Finding | None:
    """Class priors: one class that dominates, and train and dev that differ (chi-square test at .001)."""
    if train_labels is None or dev_labels is None:
        return None
    train, dev = (np.asarray(part)[np.asarray(part) >= 0] for part in (train_labels, dev_labels))
    if not train.size or not dev.size:
        return None
    classes = int(max(train.max(), dev.max())) + 1
    counts = np.stack([np.bincount(part, minlength=classes) for part in (train, dev)])
    shares = counts / counts.sum(-1, keepdims=True)
    majority, constant = shares.max(-1), int(shares[1].argmax())
    shift = float(np.abs(shares[0] - shares[1]).max())
    p = _chi_square_p(counts)
    name = f"'{train_names[constant]}'" if train_names and constant < len(train_names) else f"class {constant}"
    score = f"always {name} scores an accuracy of {majority[1]:.3f} on dev"
    problems = []
    if majority.max() >= MAJORITY:
        problems.append(
            ("possible", f"one class dominates ({majority[0]:.0%} of train, {majority[1]:.0%} of dev): {score}")
        )
    if shift >= SHIFT and p < 0.001:
        level = "likely" if shift >= LARGE_SHIFT else "possible"
        problems.append((level, f"the classes' shares differ by up to {shift:.0%} between train and dev; {score}"))
    return _finding(
        "class shares",
        problems,
        f"majority {majority[0]:.0%} of train, {majority[1]:.0%} of dev; {score}",
        {
            "train_shares": shares[0].tolist(),
            "dev_shares": shares[1].tolist(),
            "constant_accuracy": float(majority[1]),
            "largest_difference": shift,
            "p": p,
        },
        "Draw train and dev from the same source; where one class dominates, judge by Matthews correlation or F1, not "
        "by accuracy, and have more examples of the others.",
    )


def _chi_square_p(counts: np.ndarray) -> float:
    from scipy.stats import chi2_contingency

    counts = counts[:, counts.sum(0) > 0]
    return float(chi2_contingency(counts).pvalue) if counts.shape[1] > 1 else 1.0


def check_truncation(truncated_share: float | None = None, max_seq_length: int | None = None) -> Finding | None:
    """Examples that are longer than what the model is shown."""
    if truncated_share is None:
        return None
    length = "the maximum length" if max_seq_length is None else f"{max_seq_length} tokens"
    text = f"{truncated_share:.0%} of the training examples are longer than {length} and lose their ends"
    level = "likely" if truncated_share >= MUCH_TRUNCATED else "possible"
    return _finding(
        "truncation",
        [(level, text)] if truncated_share >= TRUNCATED else [],
        text,
        {"truncated_share": float(truncated_share), "max_seq_length": max_seq_length},
        "Give the model more of each example, or put what decides the label first.",
        "--max_seq_length 256, or as much as the model's positions allow",
    )


# ---- the tokenizer and the model ------------------------------------------------------------------------------------


def check_tokenizer(
    tokenizer_size: int | None = None,
    embedding_rows: int | None = None,
    largest_id: int | None = None,
    unknown_share: float | None = None,
    tokenizer_ids: Mapping[str, int | None] | None = None,
    config_ids: Mapping[str, int | None] | None = None,
    tokenizer_class: type | None = None,
    expected_class: type | None = None,
) -> Finding | None:
    """A tokenizer that is not the model's: its size, special ids and class, and unknown tokens in the data."""
    if tokenizer_size is None and largest_id is None and unknown_share is None:
        return None
    problems: list[tuple[str, str]] = []
    if largest_id is not None and embedding_rows is not None and largest_id >= embedding_rows:
        problems.append(("likely", f"the data hold token id {largest_id}, the model knows 0 to {embedding_rows - 1}"))
    elif tokenizer_size is not None and embedding_rows is not None:
        sizes = f"the tokenizer has {tokenizer_size} tokens, the model embeds {embedding_rows}"
        if tokenizer_size > embedding_rows:
            problems.append(("likely", f"{sizes} only"))
        elif embedding_rows - tokenizer_size > max(256, 0.02 * embedding_rows):  # less is padding of the matrix
            problems.append(("possible", f"{sizes}: another's?"))
    for name, expected in (config_ids or {}).items():
        found = (tokenizer_ids or {}).get(name)
        if found is not None and expected is not None and found != expected:
            problems.append(("likely", f"{name} is token {found} to the tokenizer, {expected} to the model"))
    class_names = [None if one is None else one.__name__ for one in (tokenizer_class, expected_class)]
    if None not in class_names and not _same_kind(tokenizer_class, expected_class):
        problems.append(("possible", f"a {class_names[0]} for a model that goes with a {class_names[1]}"))
    if unknown_share is not None and unknown_share >= UNKNOWN:
        level = "likely" if unknown_share >= MUCH_UNKNOWN else "possible"
        problems.append((level, f"{unknown_share:.0%} of the data's tokens are unknown to the tokenizer"))
    known = "" if unknown_share is None else f", {unknown_share:.1%} of the data's tokens unknown"
    size = "" if tokenizer_size is None else f": {tokenizer_size} tokens"
    return _finding(
        "tokenizer",
        problems,
        f"the tokenizer fits the model{size}{known}",
        {
            "tokenizer_size": tokenizer_size,
            "embedding_rows": embedding_rows,
            "largest_id": largest_id,
            "unknown_share": unknown_share,
            "tokenizer_ids": dict(tokenizer_ids or {}),
            "config_ids": dict(config_ids or {}),
            "tokenizer_class": class_names[0],
            "expected_class": class_names[1],
        },
        "Load tokenizer and model from the same place (AutoTokenizer.from_pretrained of the model's own name), and "
        "decode a batch of input_ids to see what the model reads.",
        "leave out --tokenizer_name",
    )


def _same_kind(one: type, other: type) -> bool:
    """Whether either is the other, a special case of it, or its fast twin."""
    twins = one.__name__.removesuffix("Fast") == other.__name__.removesuffix("Fast")
    return twins or issubclass(one, other) or issubclass(other, one)


def check_new_weights(missing_weights: Sequence[str] | None = None, base_prefix: str = "") -> Finding | None:
    """Weights that from_pretrained drew anew: the head's are meant to be, the encoder's are a bug."""
    if missing_weights is None:
        return None
    inside = sorted(name for name in missing_weights if base_prefix and name.startswith(f"{base_prefix}."))
    pooler = [name for name in inside if ".pooler." in name]
    encoder = [name for name in inside if name not in pooler]
    problems = []
    if encoder:
        text = f"{len(encoder)} weights of the encoder are not in the pretrained files and were drawn anew"
        problems.append(("likely", f"{text} ({encoder[0]} ...)"))
    head = [name for name in missing_weights if name not in inside]
    in_order = f"only the head is new ({', '.join(sorted(head))})" if head else "no weight is new, the head included"
    if pooler and not encoder:
        in_order += "; the pooler too, which the pretrained files lack"
    return _finding(
        "new weights",
        problems,
        in_order,
        {"encoder": encoder, "pooler": pooler, "head": sorted(head)},
        "Load the files into the class they were saved from: compare the names in the files with the model's "
        "(from_pretrained(..., output_loading_info=True)).",
    )


def check_frozen(
    trainable: Mapping[str, int] | None = None,
    frozen: Mapping[str, int] | None = None,
    adapters: str | None = None,
    frozen_parts: Mapping[str, str] | None = None,
    missing_weights: Sequence[str] | None = None,
) -> Finding | None:
    """Weights that are not trained (`requires_grad` False): above all those that were drawn at random."""
    if frozen_parts is None and (trainable is None or frozen is None):
        return None
    trainable, frozen = trainable or {}, frozen or {}
    share = sum(frozen.values()) / max(1, sum(trainable.values()) + sum(frozen.values()))
    layers = [name for name in frozen if name not in trainable]
    if frozen_parts is None:  # a head is new, as far as nobody knows more
        frozen_parts = {"classifier": "new"} if "classifier" in layers else {}
    parts = {name: _origin(name, origin, missing_weights) for name, origin in frozen_parts.items()}
    problems = []
    if frozen and not sum(trainable.values()):
        problems.append(("likely", "every weight is frozen: nothing can be learned"))
    else:
        problems += _frozen_part_problems(parts, bool(adapters))
        others = [name for name in layers if name != "classifier"]
        if not adapters and (others or (frozen and not problems)):  # adapters: the encoder is meant to stay
            text = f"{share:.0%} of the weights are frozen ({_names(others or list(frozen))})"
            problems.append(("likely" if share > 0.5 else "possible", text))
    remedy = "Set requires_grad of all parameters to True before the Trainer is made."
    if adapters:
        names = sorted({_module_to_save(name) for name, origin in parts.items() if origin in ("new", "unknown")})
        named = f"modules_to_save={names}" if names and all(map(str.isidentifier, names)) else "modules_to_save"
        remedy = (
            f"Train these weights beside the adapters: {named} in PEFT's config (task_type='SEQ_CLS' does it for a "
            "classifier; trainable_token_indices for new tokens)."
        )
    return _finding(
        "frozen weights",
        problems,
        "adapters are trained, the rest is frozen"
        if adapters and (frozen or not trainable)
        else "every weight is trained",
        {"frozen_share": share if trainable or frozen else None, "frozen_layers": layers, "frozen_parts": parts},
        remedy,
    )


def _module_to_save(part: str) -> str:
    """What PEFT's config calls a frozen part: `pooler` of `bert.pooler.dense`, `classifier` of `classifier.out_proj`."""
    names = part.split(".")
    return "pooler" if "pooler" in names else names[0]


def _origin(part: str, origin: str, missing_weights: Sequence[str] | None) -> str:
    """Where a frozen part's values come from: what the pretrained files lack was drawn anew."""
    return "new" if any(name.startswith(f"{part}.") for name in missing_weights or ()) else origin


def _frozen_part_problems(parts: Mapping[str, str], adapters: bool) -> list[tuple[str, str]]:
    """The faults of frozen parts, by where their values come from."""

    def of(origin: str) -> list[str]:
        return [name for name, its in parts.items() if its == origin]

    problems = []
    poolers = [name for name in of("new") if "pooler" in name.split(".")]
    head = [name for name in of("new") if name not in poolers]
    if head:
        problems.append(("likely", f"the head is frozen, and was drawn at random ({_names(head)})"))
    if poolers:
        problems.append(("likely", f"the pooler is frozen, and was drawn at random ({_names(poolers)})"))
    if of("unknown"):
        text = f"the head is frozen ({_names(of('unknown'))}); whether it was drawn at random is not known"
        problems.append(("possible", text))
    if of("loaded") and not adapters:
        problems.append(("possible", f"the head is frozen ({_names(of('loaded'))}), with the values that were loaded"))
    if of("new tokens"):
        text = "the embeddings are frozen, and the data hold tokens that were added to the tokenizer: they cannot be learned"
        problems.append(("possible", text))
    return problems


def check_layers(layers: Sequence[str] | None = None, layer_norms: np.ndarray | None = None) -> Finding | None:
    """Layers that the record shows never got a gradient: none at all, or exactly 0 at every step."""
    if layers is None or layer_norms is None or not len(layer_norms) or not np.isfinite(layer_norms).any():
        return None
    norms = np.asarray(layer_norms)
    zero = [name for i, name in enumerate(layers) if name != "pooler" and (norms[:, i] == 0).all()]
    numbers = [int(name.removeprefix("layer_")) for name in layers if name.startswith("layer_")]
    absent = [f"layer_{i:02d}" for i in range(max(numbers, default=0)) if i not in numbers]
    problems = []
    if not set(layers) - {"pooler", "classifier"}:
        problems.append(("likely", "the encoder is not in the record of gradients: it was frozen"))
    elif absent:
        problems.append(("likely", f"{_names(absent)} are not in the record of gradients: they were frozen"))
    if zero:
        problems.append(("likely", f"{_names(zero)} had a gradient of exactly 0 at every step: cut off, or not used"))
    return _finding(
        "layers",
        problems,
        f"all {len(layers)} layers of the record had gradients",
        {"absent": absent, "zero": zero},
        "Train all layers: requires_grad True, and no detach() between them and the loss.",
    )


def check_dtype(weights_dtype: str | None = None) -> Finding | None:
    """Weights that are themselves in half precision: AdamW's small steps are lost on them."""
    if weights_dtype is None:
        return None
    half = weights_dtype in ("torch.float16", "torch.bfloat16")
    text = f"the weights themselves are {weights_dtype.removeprefix('torch.')}"
    return _finding(
        "weights' precision",
        [("likely", f"{text}: a step of 1e-5 of a weight is lost in rounding")] if half else [],
        text,
        {"dtype": weights_dtype},
        "Keep the weights in float32 (from_pretrained(..., dtype=torch.float32)), and use mixed precision if any.",
        "--bf16",
    )


# ---- the training ---------------------------------------------------------------------------------------------------


def check_skipped_steps(
    grad_norms: np.ndarray | None = None,
    losses: np.ndarray | None = None,
    logged_norms: Sequence[float] | None = None,
    precision: str | None = None,
) -> Finding | None:
    """Steps with a NaN or Inf gradient and a finite loss: fp16's loss scaler skips them."""
    if grad_norms is not None and np.isfinite(grad_norms).any():
        bad = ~np.isfinite(grad_norms) & (True if losses is None else np.isfinite(losses))
        number, total, where = int(bad.sum()), len(grad_norms), "update steps"
        at_start = number > 0 and bool(bad[:number].all())
    elif logged_norms is not None and len(logged_norms):
        bad = ~np.isfinite(np.asarray(logged_norms, float))
        number, total, where, at_start = int(bad.sum()), len(logged_norms), "logged gradient norms", False
    else:
        return None
    text = f"{number} of {total} {where} are NaN or Inf"
    problems = []
    if number and precision in ("no", "bf16"):
        problems.append(("likely", f"{text}, and there is no loss scaler to skip them: the weights are damaged"))
    elif number / total > SKIPPED:
        problems.append(("likely", f"{text}: with fp16 such steps are skipped, and the run was shorter than it says"))
    elif number and not at_start:
        problems.append(("possible", f"{text}, beyond the first ones in which fp16's loss scale is found"))
    return _finding(
        "skipped steps",
        problems,
        f"{text}, all of them at the start: fp16's loss scale being found" if number else f"none: {text}",
        {"skipped": number, "of": total, "precision": precision},
        "Use bf16 or full precision, and a smaller rate.",
        "--bf16 (or no --fp16)",
    )


def check_finite(
    losses: np.ndarray | None = None,
    steps: np.ndarray | None = None,
    logged_losses: Sequence[float] | None = None,
    nan_filter: bool | None = None,
    evidence: Mapping[str, Any] | None = None,
) -> Finding | None:
    """NaN or Inf: in the verdict's evidence, else in the record's training loss, else in the log, from which the Trainer
    hides it."""
    if evidence is not None and "nonfinite" in evidence:
        first = evidence.get("first_nonfinite_step")
        text = f"NaN or Inf in {', '.join(evidence['nonfinite'])}"
        text += "" if first is None else f", the first at step {first}"
        count = evidence.get("nonfinite_losses")
        text += "" if count is None else f" ({count} training losses)"
        figures = {"where": list(evidence["nonfinite"]), "first_step": first, "nonfinite": count}
        found, in_order = True, ""
    elif losses is not None and len(losses):
        bad = ~np.isfinite(losses)
        first = int(np.asarray(steps)[bad.argmax()]) if bad.any() and steps is not None else None
        text = f"{int(bad.sum())} of {len(losses)} training losses are NaN or Inf"
        text += "" if first is None else f", the first at step {first}"
        figures = {"nonfinite": int(bad.sum()), "of": len(losses), "first_step": first}
        found, in_order = bool(bad.any()), "every training loss is finite"
    elif logged_losses is not None and len(logged_losses):
        values = np.asarray(logged_losses, float)
        bad = ~np.isfinite(values)
        found, text = bool(bad.any()), f"{int(bad.sum())} of {len(values)} logged losses are NaN or Inf"
        figures = {"nonfinite": int(bad.sum()), "of": len(values)}
        in_order = "no logged loss is NaN or Inf"
        if nan_filter is not False:
            in_order += " (which says little: logging_nan_inf_filter, on by default, hides them)"
    else:
        return None
    return _finding(
        "NaN",
        [("likely", text)] if found else [],
        in_order,
        figures,
        "A smaller rate, bf16 instead of fp16, clipping at 1.0; log with --logging_nan_inf_filter false to see it.",
        f"{STABLE_RECIPE} --logging_nan_inf_filter false",
    )


def check_ended_early(step: int | None = None, total_steps: int | None = None) -> Finding | None:
    """A state or record that stops before the end of training."""
    if not step or not total_steps:
        return None
    text = f"{step} of {total_steps} update steps are there"
    return _finding(
        "ended early",
        [("possible", f"{text}: what comes after is not seen (an early checkpoint, early stopping, or a killed run)")]
        if step < total_steps
        else [],
        text,
        {"step": step, "total_steps": total_steps},
        "Give the run's last state; a run that was stopped has not had the small rates of its end.",
    )


def check_update_steps(total_steps: int | None = None) -> Finding | None:
    """Few update steps: fewer than 1000 are few for a small data set (Mosbach et al. 2021, section 4.2)."""
    if not total_steps:
        return None
    text = f"{total_steps} update steps"
    problems = []
    if total_steps < FEW_STEPS:
        level = "likely" if total_steps < VERY_FEW_STEPS else "possible"
        problems.append((level, f"{text}, fewer than {FEW_STEPS}"))
    return _finding(
        "update steps",
        problems,
        text,
        {"total_steps": total_steps},
        "Train longer: the paper's baseline trains for 20 epochs; 1000 examples with the full data's number of steps "
        "were nearly as stable as the full data.",
        f"{STABLE_RECIPE}, or --max_steps 2000",
    )


def check_warmup(warmup_steps: int | None = None, total_steps: int | None = None) -> Finding | None:
    """No warmup, or a short one: Adam's first steps are its least certain."""
    if warmup_steps is None or not total_steps:
        return None
    share = warmup_steps / total_steps
    text = f"{warmup_steps} of {total_steps} update steps are warmup"
    return _finding(
        "warmup",
        [("possible", "no warmup" if not warmup_steps else f"{text} ({share:.0%})")] if share < SHORT_WARMUP else [],
        f"{text} ({share:.0%})",
        {"warmup_steps": warmup_steps, "share": share},
        "Raise the rate over the first 10% of the update steps.",
        "--warmup_steps 0.1",
    )


def check_rate(
    rates: np.ndarray | None = None,
    corrected_rates: np.ndarray | None = None,
    rate_steps: np.ndarray | None = None,
    bias_correction: bool | None = None,
    hidden_size: int | None = None,
    optimizer: str | None = None,
    adapters: str | None = None,
    rate_note: str | None = None,
) -> Finding | None:
    """The effective peak rate: the rate at which AdamW with bias correction would make as large a step.

    It is held against the paper's 2e-5 for models of 1024 units; for another width that rate times 1024 / units, a
    rule of thumb (good rates of Adam fall about as one over the width: Yang & Hu 2021). Adapters take rates that are 10
    to 100 times higher, and the paper says nothing about them: LoRA's is held against its authors', and is never more
    than a possible cause; of other adapters the rate is only said.
    """
    if rates is None or not len(rates) or not np.nanmax(rates) > 0:
        return None
    if optimizer is not None and "adam" not in optimizer:
        return None
    steps, corrected = np.asarray(rate_steps), bias_correction is not False
    as_corrected = np.asarray(rates if corrected_rates is None else corrected_rates, float)
    at = int(np.nanargmax(as_corrected))
    peak, effective = float(np.nanmax(rates)), float(as_corrected[at])
    reference = PAPER_RATE * PAPER_WIDTH / (hidden_size or PAPER_WIDTH)
    ratio = effective / reference
    text = f"peak learning rate {peak:.2g}"
    if not corrected:
        text += f"; without bias correction steps are as large as with it at up to {effective:.2g} (step {steps[at]})"
    elif bias_correction is None:
        text += " (bias correction taken to be on)"
    if adapters:
        return _adapter_rate(text, peak, effective, int(steps[at]), corrected, adapters, rate_note)
    scaled = "" if not hidden_size else f", scaled from {PAPER_WIDTH} to {hidden_size} units ({reference:.2g})"
    text += f": {ratio:.2g} times the paper's {PAPER_RATE:.0e}{scaled}" + (f"; {rate_note}" if rate_note else "")
    figures = {
        "peak": peak,
        "effective_peak": effective,
        "at_step": int(steps[at]),
        "reference": reference,
        "ratio": ratio,
        "bias_correction": corrected,
    }
    if ratio < RATE_SMALL:
        level = "likely" if ratio < RATE_TINY else "possible"
        remedy, flags = "Raise the rate: at this one the weights hardly move.", f"--learning_rate {reference:.2g}"
        return Finding("learning rate", level, text, figures, remedy, flags)
    level = "likely" if ratio >= RATE_LIKELY else "possible"
    return _finding(
        "learning rate",
        [(level, text)] if ratio >= RATE_POSSIBLE else [],
        text,
        figures,
        "A third of the rate, bias correction on, 10% warmup.",
        f"{STABLE_RECIPE} --learning_rate {min(peak / 3, reference):.2g}",
    )


def _adapter_rate(
    text: str, peak: float, effective: float, step: int, corrected: bool, adapters: str, note: str | None
) -> Finding:
    """[`check_rate`] of a training of adapters."""
    low, high = LORA_RATES
    figures = {"peak": peak, "effective_peak": effective, "at_step": step, "bias_correction": corrected}
    text += f", of {adapters} adapters, which take higher rates than a whole model; the paper has no bound for them"
    remedy = ""
    if adapters == "LORA":
        figures["reference"] = [low, high]
        text += f" (LoRA's authors: {low:.0e} to {high:.0e})"
        if effective > LORA_FACTOR * high:
            remedy = "A third of the rate, 10% warmup."
        elif effective < low / LORA_FACTOR:
            remedy = "Raise the rate: at a whole model's, adapters hardly learn."
    text += f"; {note}" if note else ""
    return _finding("learning rate", [("possible", text)] if remedy else [], text, figures, remedy)


# ---- the record's verdict -------------------------------------------------------------------------------------------


def check_gradients(evidence: Mapping[str, Any] | None = None) -> Finding | None:
    """Vanished gradients, from the verdict's evidence: the paper's sign of a failed optimisation (section 5.1)."""
    if evidence is None or "gradients" not in evidence:
        return None
    gradients = evidence["gradients"] or {}
    problems = []
    if gradients:
        layers, first = gradients["layers"], gradients["first_step"]
        which = f"{len(layers)} layers, {layers[0]} to {layers[-1]}," if len(layers) > 1 else layers[0]
        text = f"gradients of {which} vanished from step {first} on"
        if gradients["lasting"]:
            problems.append(("likely", f"{text} and did not come back: instability, early in training"))
        else:
            problems.append(("possible", f"{text}, and were back by step {gradients['healed_step']}"))
    return _finding(
        "vanished gradients",
        problems,
        "no layer's gradient vanished",
        dict(gradients),
        "Smaller steps at the start: a lower rate, bias correction, warmup; and more update steps.",
        STABLE_RECIPE,
    )


def check_generalisation(status: str | None = None, evidence: Mapping[str, Any] | None = None) -> Finding | None:
    """A run that learned its training set and yet stands at the constant on dev: no failed optimisation."""
    if status is None or evidence is None or "optimisation" not in evidence:
        return None
    loss, constant = evidence["train_loss"], evidence["constant_loss"]
    text = f"training loss {loss:.2g}, the best constant's {constant:.2g}"
    learned = evidence["optimisation"] in ("learned", "fitted")
    problems = []
    if status == "failed" and learned:
        problems.append(("likely", f"the training set was learned ({text}), the development set was not"))
    in_order = f"the training set itself was not learned ({text})" if not learned else f"the run learned ({text})"
    return _finding(
        "train and dev",
        problems,
        in_order,
        {"train_loss": loss, "constant_loss": constant},
        "Compare train and dev: label order, preprocessing, source; score some training examples through the "
        "evaluation's own code. No recipe mends this.",
    )


def check_alarm(alarm: Mapping[str, Any] | None = None, status: str | None = None) -> Finding | None:
    """The early warning's alarm, where it was raised."""
    if alarm is None:
        return None
    level = "possible" if status == "ok" else "likely"
    text = f"the early warning was raised at step {alarm['step']} of {alarm['total_steps']} (risk {alarm['risk']:.2f})"
    remedy = "Instability shows early: a run with these settings can be stopped there, and begun anew with others."
    return Finding("early warning", level, text, dict(alarm), remedy, f"{STABLE_RECIPE}, or --on_alarm stop")


def check_memorized(memorized: Mapping[str, Any] | None = None, adapters: str | None = None) -> Finding | None:
    """The result of [`memorize`]: a model that cannot learn 32 examples by heart has a bug, or too few weights for it."""
    if memorized is None:
        return None
    n, done, rate = memorized["examples"], memorized["steps"], memorized["rate"]
    right = f"{memorized['score']:.0%} of {n} training examples right" if not memorized["regression"] else (
        f"R2 {memorized['score']:.2f} on {n} training examples"
    )  # fmt: skip
    text = f"{right} after {done} update steps at a constant {rate:.2g}, dropout off"
    problems = []
    if not memorized["learned"]:
        trained = memorized.get("trained_before", 0)
        if trained:
            text += f"; it began with weights that had been trained for {trained} steps"
        if adapters:
            text += f"; {adapters} adapters may be too few weights for it"
        level = "possible" if trained or adapters else "likely"
        problems.append((level, f"the model cannot memorise: {text}. A bug is likelier than instability"))
    return _finding(
        "memorize",
        problems,
        f"the model can memorise: {text}. Labels, tokenizer and weights do work together: instability is possible",
        dict(memorized),
        "Look for the bug: labels that do not belong to their texts, contradictory or empty examples, another model's "
        "tokenizer, frozen or new weights.",
    )


CHECKS: dict[str, tuple[Callable[..., Finding | None], str]] = {
    "memorize": (check_memorized, f"--memorize (trains on 32 examples), with {MODEL} and data"),
    "labels": (check_labels, DATA),
    "tokenizer": (check_tokenizer, f"{MODEL} and {DATA}"),
    "new weights": (check_new_weights, MODEL),
    "frozen weights": (check_frozen, ""),
    "layers": (check_layers, "a record (steps.rec of StabilityCallback)"),
    "weights' precision": (check_dtype, MODEL),
    "NaN": (check_finite, "a record (steps.rec of StabilityCallback), or a trainer_state.json"),
    "skipped steps": (check_skipped_steps, "a record (steps.rec), or a trainer_state.json"),
    "train and dev": (check_generalisation, "a record (steps.rec), or a trainer_state.json with data"),
    "vanished gradients": (check_gradients, "a record (steps.rec) of a run that has not fitted its data"),
    "early warning": (check_alarm, ""),
    "learning rate": (check_rate, "--learning_rate, with an AdamW"),
    "update steps": (check_update_steps, "a trainer_state.json"),
    "warmup": (check_warmup, "--warmup_steps"),
    "class shares": (check_class_shares, f"{DATA} (classes, no regression)"),
    "truncation": (check_truncation, f"{MODEL} and {DATA}"),
    "ended early": (check_ended_early, "a trainer_state.json"),
}
"""By name, in the order in which equally likely ones are said: the check, and what it needs."""


def run_checks(values: Mapping[str, Any]) -> tuple[list[Finding], dict[str, str]]:
    """Every check on the values of the module's table, as far as they are known.

    Returns:
        the findings, the likeliest first; by name the checks that could not look, and what they need.
    """
    findings, missing = [], {}
    for name, (check, needs) in CHECKS.items():
        known = {key: values[key] for key in inspect.signature(check).parameters if values.get(key) is not None}
        found = check(**known)
        if found is not None:
            findings.append(found)
        elif needs:
            missing[name] = needs
    looked = {finding.name for finding in findings}
    findings.sort(key=lambda finding: LIKELIHOODS.index(finding.likelihood))
    return findings, {name: needs for name, needs in missing.items() if name not in looked}


def _finding(name, problems, in_order, figures, remedy, recipe="") -> Finding:
    """One finding of all problems that a check found, as likely as the likeliest; `in_order` where there is none."""
    if not problems:
        return Finding(name, "unlikely", in_order, figures)
    likelihood = min((level for level, _ in problems), key=LIKELIHOODS.index)
    return Finding(name, likelihood, "; ".join(text for _, text in problems), figures, remedy, recipe)


def _names(names: Sequence[str], most: int = 6) -> str:
    shown = ", ".join(map(str, names[:most]))
    return shown if len(names) <= most else f"{shown} ... ({len(names)})"
