"""The sentences, remedies and flags of the checks' findings. The numbers in them come from the checks.

A text is a template for `str.format`, or a function of the values. The values are the check's figures, `more`, each
fault's own, and `kinds`, the kinds of its faults. Lists are shown by their first six items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..verdicts.constants import IGNORED_LABEL
from .finding import LIKELIHOODS, Checked, Finding


Text = str | Callable[[Mapping[str, Any]], str]

STABLE_RECIPE = "--recipe mosbach2021"
DATA, MODEL = "--task_name, or --train_file with --validation_file", "--model_name_or_path (the pretrained model)"
RECORD = "a record (steps.rec of StabilityCallback)"


@dataclass(frozen=True)
class Words:
    """The texts of a check.

    Args:
        faults: kind of fault -> what is wrong.
        in_order: said if there is no fault.
        remedy, recipe: what to do about the faults, and the flags for it.
        needs: what the check needs to look; empty if it needs no more than a run has.
    """

    faults: Mapping[str, Text]
    in_order: Text
    remedy: Text
    recipe: Text = ""
    needs: str = ""


def finding_of(checked: Checked) -> Finding:
    """A check's result in words: as likely as its likeliest fault, `unlikely` without one."""
    words = WORDS[checked.name]
    values = {**checked.figures, **checked.more, "kinds": [fault.kind for fault in checked.faults]}
    if not checked.faults:
        return Finding(checked.name, "unlikely", _say(words.in_order, values), checked.figures)
    likelihood = min((fault.likelihood for fault in checked.faults), key=LIKELIHOODS.index)
    sentences = [_say(words.faults[fault.kind], {**values, **fault.values}) for fault in checked.faults]
    remedy, recipe = _say(words.remedy, values), _say(words.recipe, values)
    return Finding(checked.name, likelihood, "; ".join(sentences), checked.figures, remedy, recipe)


def _say(text: Text, values: Mapping[str, Any]) -> str:
    if callable(text):
        return text(values)
    shown = {key: _listed(value) if isinstance(value, (list, tuple)) else value for key, value in values.items()}
    return text.format(**shown)


def _listed(names: Sequence[str], most: int = 6) -> str:
    shown = ", ".join(map(str, names[:most]))
    return shown if len(names) <= most else f"{shown} ... ({len(names)})"


# ---- sentences that depend on what is known -------------------------------------------------------------------------


def _constant_score(values: Mapping[str, Any]) -> str:
    name = "class {constant}" if values["constant_name"] is None else "'{constant_name}'"
    return f"always {name} scores an accuracy of {{constant_accuracy:.3f}} on dev".format(**values)


def _truncated(values: Mapping[str, Any]) -> str:
    tokens = values["max_seq_length"]
    length = "the maximum length" if tokens is None else f"{tokens} tokens"
    return f"{values['truncated_share']:.0%} of the training examples are longer than {length} and lose their ends"


def _tokenizer_fits(values: Mapping[str, Any]) -> str:
    size, unknown = values["tokenizer_size"], values["unknown_share"]
    text = "the tokenizer fits the model" + ("" if size is None else f": {size} tokens")
    return text + ("" if unknown is None else f", {unknown:.1%} of the data's tokens unknown")


def _only_the_head_is_new(values: Mapping[str, Any]) -> str:
    head = ", ".join(values["head"])
    text = f"only the head is new ({head})" if head else "no weight is new, the head included"
    return text + ("; the pooler too, which the pretrained files lack" if values["pooler"] else "")


def _train_the_frozen(values: Mapping[str, Any]) -> str:
    if not values["adapters"]:
        return "Set requires_grad of all parameters to True before the Trainer is made."
    names = values["to_save"]
    named = f"modules_to_save={names}" if names and all(map(str.isidentifier, names)) else "modules_to_save"
    return (
        f"Train these weights beside the adapters: {named} in PEFT's config (task_type='SEQ_CLS' does it for a "
        "classifier; trainable_token_indices for new tokens)."
    )


def _dtype(values: Mapping[str, Any]) -> str:
    return f"the weights themselves are {values['dtype'].removeprefix('torch.')}"


def _skipped(values: Mapping[str, Any]) -> str:
    where = "logged gradient norms" if values["logged"] else "update steps"
    return f"{values['skipped']} of {values['of']} {where} are NaN or Inf"


def _none_skipped(values: Mapping[str, Any]) -> str:
    if values["skipped"]:
        return f"{_skipped(values)}, all of them at the start: fp16's loss scale being found"
    return f"none: {_skipped(values)}"


def _nonfinite_evidence(values: Mapping[str, Any]) -> str:
    count = values["nonfinite"]
    text = f"NaN or Inf in {', '.join(values['where'])}{_first_at(values)}"
    return text + ("" if count is None else f" ({count} training losses)")


def _nonfinite_losses(values: Mapping[str, Any]) -> str:
    return f"{values['nonfinite']} of {values['of']} training losses are NaN or Inf{_first_at(values)}"


def _first_at(values: Mapping[str, Any]) -> str:
    first = values["first_step"]
    return "" if first is None else f", the first at step {first}"


def _all_finite(values: Mapping[str, Any]) -> str:
    if values["source"] == "in the record":
        return "every training loss is finite"
    text = "no logged loss is NaN or Inf"
    hidden = " (which says little: logging_nan_inf_filter, on by default, hides them)"
    return text + (hidden if values["filtered"] else "")


def _rate(values: Mapping[str, Any]) -> str:
    text = "peak learning rate {peak:.2g}"
    if not values["bias_correction"]:
        text += (
            "; without bias correction steps are as large as with it at up to {effective_peak:.2g} (step {at_step})"
        )
    elif values["assumed"]:
        text += " (bias correction taken to be on)"
    if values["adapters"]:
        text += ", of {adapters} adapters, which take higher rates than a whole model; the paper has no bound for them"
        if "reference" in values:
            text += " (LoRA's authors: {reference[0]:.0e} to {reference[1]:.0e})"
    else:
        text += ": {ratio:.2g} times the paper's {paper_rate:.0e}"
        if values["hidden_size"]:
            text += ", scaled from {paper_width} to {hidden_size} units ({reference:.2g})"
    return text.format(**values) + (f"; {values['note']}" if values["note"] else "")


RATE_REMEDIES = {
    "small": "Raise the rate: at this one the weights hardly move.",
    "large": "A third of the rate, bias correction on, 10% warmup.",
    "small for adapters": "Raise the rate: at a whole model's, adapters hardly learn.",
    "large for adapters": "A third of the rate, 10% warmup.",
}


def _rate_recipe(values: Mapping[str, Any]) -> str:
    (kind,) = values["kinds"]
    if kind == "small":
        return f"--learning_rate {values['reference']:.2g}"
    return f"{STABLE_RECIPE} --learning_rate {values['lower_rate']:.2g}" if kind == "large" else ""


def _vanished(values: Mapping[str, Any]) -> str:
    layers = values["layers"]
    which = f"{len(layers)} layers, {layers[0]} to {layers[-1]}," if len(layers) > 1 else layers[0]
    return f"gradients of {which} vanished from step {values['first_step']} on"


def _train_loss(values: Mapping[str, Any]) -> str:
    return f"training loss {values['train_loss']:.2g}, the best constant's {values['constant_loss']:.2g}"


def _train_and_dev(values: Mapping[str, Any]) -> str:
    text = _train_loss(values)
    return f"the run learned ({text})" if values["learned"] else f"the training set itself was not learned ({text})"


def _by_heart(values: Mapping[str, Any]) -> str:
    score = "R2 {score:.2f} on {examples} training examples"
    if not values["regression"]:
        score = "{score:.0%} of {examples} training examples right"
    return f"{score} after {{steps}} update steps at a constant {{rate:.2g}}, dropout off".format(**values)


def _not_by_heart(values: Mapping[str, Any]) -> str:
    text, trained = f"the model cannot memorise: {_by_heart(values)}", values.get("trained_before", 0)
    if trained:
        text += f"; it began with weights that had been trained for {trained} steps"
    if values["adapters"]:
        text += f"; {values['adapters']} adapters may be too few weights for it"
    return f"{text}. A bug is likelier than instability"


def _remedy_of_labels(values: Mapping[str, Any]) -> str:
    if values["kinds"] == ["unreadable"]:
        return "Mend the file at the place named, and see how your own code read it: perhaps with other labels."
    return (
        "Map the classes to 0 ... K-1 in the same order in train, dev and the model's id2label, and look at ten "
        "examples with their labels. Use a labelled development set."
    )


# ---- all texts ------------------------------------------------------------------------------------------------------

WORDS: dict[str, Words] = {
    "memorize": Words(
        faults={"not learned": _not_by_heart},
        in_order=lambda values: (
            f"the model can memorise: {_by_heart(values)}. Labels, tokenizer and weights do work together: instability is "
            "possible"
        ),
        remedy="Look for the bug: labels that do not belong to their texts, contradictory or empty examples, another "
        "model's tokenizer, frozen or new weights.",
        needs=f"--memorize (trains on 32 examples), with {MODEL} and data",
    ),
    "labels": Words(
        faults={
            "unreadable": "the data cannot be read as they are: {error}",
            "ignored": f"all {{split}} labels are {IGNORED_LABEL}, which counts nowhere",
            "hidden": "all {split} labels are -1: hidden, as a test set's are",
            "no class id": "{outside} of {size} {split} labels are not a class id (ids {ids})",
            "no class of the model": "{outside} of {size} {split} labels are not one of the model's {num_labels} classes "
            "(ids {ids})",
            "one class": "all train labels are of one class",
            "new in dev": "dev has classes that train has not (ids {ids})",
            "dev in another order": "train and dev give the classes in another order: {train} against {dev}",
            "dev by other names": "train and dev give the classes by other names: {train} against {dev}",
            "model in another order": "the model's id2label gives the classes in another order: {model}; the data's: {train}",
            "model of another task": "the model's id2label names other classes (a head of another task?): {model}; the "
            "data's: {train}",
        },
        in_order="ids, classes and names agree",
        remedy=_remedy_of_labels,
        needs=DATA,
    ),
    "tokenizer": Words(
        faults={
            "id too large": "the data hold token id {largest_id}, the model knows 0 to {last_row}",
            "too many tokens": "the tokenizer has {tokenizer_size} tokens, the model embeds {embedding_rows} only",
            "too few tokens": "the tokenizer has {tokenizer_size} tokens, the model embeds {embedding_rows}: another's?",
            "special token": "{token} is token {found} to the tokenizer, {expected} to the model",
            "another class": "a {tokenizer_class} for a model that goes with a {expected_class}",
            "unknown tokens": "{unknown_share:.0%} of the data's tokens are unknown to the tokenizer",
        },
        in_order=_tokenizer_fits,
        remedy="Load tokenizer and model from the same place (AutoTokenizer.from_pretrained of the model's own name), "
        "and decode a batch of input_ids to see what the model reads.",
        recipe="leave out --tokenizer_name",
        needs=f"{MODEL} and {DATA}",
    ),
    "new weights": Words(
        faults={
            "new encoder": "{number} weights of the encoder are not in the pretrained files and were drawn anew ({first} ...)"
        },
        in_order=_only_the_head_is_new,
        remedy="Load the files into the class they were saved from: compare the names in the files with the model's "
        "(from_pretrained(..., output_loading_info=True)).",
        needs=MODEL,
    ),
    "frozen weights": Words(
        faults={
            "all": "every weight is frozen: nothing can be learned",
            "new head": "the head is frozen, and was drawn at random ({parts})",
            "new pooler": "the pooler is frozen, and was drawn at random ({parts})",
            "unknown head": "the head is frozen ({parts}); whether it was drawn at random is not known",
            "loaded head": "the head is frozen ({parts}), with the values that were loaded",
            "new tokens": "the embeddings are frozen, and the data hold tokens that were added to the tokenizer: they "
            "cannot be learned",
            "share": "{share:.0%} of the weights are frozen ({layers})",
        },
        in_order=lambda values: (
            "every weight is trained" if values["all_trained"] else "adapters are trained, the rest is frozen"
        ),
        remedy=_train_the_frozen,
    ),
    "layers": Words(
        faults={
            "no encoder": "the encoder is not in the record of gradients: it was frozen",
            "absent": "{absent} are not in the record of gradients: they were frozen",
            "zero": "{zero} had a gradient of exactly 0 at every step: cut off, or not used",
        },
        in_order="all {number} layers of the record had gradients",
        remedy="Train all layers: requires_grad True, and no detach() between them and the loss.",
        needs=RECORD,
    ),
    "weights' precision": Words(
        faults={"half": lambda values: f"{_dtype(values)}: a step of 1e-5 of a weight is lost in rounding"},
        in_order=_dtype,
        remedy="Keep the weights in float32 (from_pretrained(..., dtype=torch.float32)), and use mixed precision if any.",
        recipe="--bf16",
        needs=MODEL,
    ),
    "NaN": Words(
        faults={
            "in the evidence": _nonfinite_evidence,
            "in the record": _nonfinite_losses,
            "in the log": "{nonfinite} of {of} logged losses are NaN or Inf",
        },
        in_order=_all_finite,
        remedy="A smaller rate, bf16 instead of fp16, clipping at 1.0; log with --logging_nan_inf_filter false to see it.",
        recipe=f"{STABLE_RECIPE} --logging_nan_inf_filter false",
        needs=f"{RECORD}, or a trainer_state.json",
    ),
    "skipped steps": Words(
        faults={
            "no scaler": lambda values: (
                f"{_skipped(values)}, and there is no loss scaler to skip them: the weights are damaged"
            ),
            "many": lambda values: (
                f"{_skipped(values)}: with fp16 such steps are skipped, and the run was shorter than it says"
            ),
            "some": lambda values: f"{_skipped(values)}, beyond the first ones in which fp16's loss scale is found",
        },
        in_order=_none_skipped,
        remedy="Use bf16 or full precision, and a smaller rate.",
        recipe="--bf16 (or no --fp16)",
        needs="a record (steps.rec), or a trainer_state.json",
    ),
    "train and dev": Words(
        faults={
            "dev not learned": lambda values: (
                f"the training set was learned ({_train_loss(values)}), the development set was not"
            )
        },
        in_order=_train_and_dev,
        remedy="Compare train and dev: label order, preprocessing, source; score some training examples through the "
        "evaluation's own code. No recipe mends this.",
        needs="a record (steps.rec), or a trainer_state.json with data",
    ),
    "vanished gradients": Words(
        faults={
            "lasting": lambda values: f"{_vanished(values)} and did not come back: instability, early in training",
            "healed": lambda values: f"{_vanished(values)}, and were back by step {values['healed_step']}",
        },
        in_order="no layer's gradient vanished",
        remedy="Smaller steps at the start: a lower rate, bias correction, warmup; and more update steps.",
        recipe=STABLE_RECIPE,
        needs="a record (steps.rec) of a run that has not fitted its data",
    ),
    "early warning": Words(
        faults={"alarm": "the early warning was raised at step {step} of {total_steps} (risk {risk:.2f})"},
        in_order="",  # without an alarm there is no finding
        remedy="Instability shows early: a run with these settings can be stopped there, and begun anew with others.",
        recipe=f"{STABLE_RECIPE}, or --on_alarm stop",
    ),
    "learning rate": Words(
        faults=dict.fromkeys(RATE_REMEDIES, _rate),
        in_order=_rate,
        remedy=lambda values: RATE_REMEDIES[values["kinds"][0]],
        recipe=_rate_recipe,
        needs="--learning_rate, with an AdamW",
    ),
    "update steps": Words(
        faults={"few": "{total_steps} update steps, fewer than {few}"},
        in_order="{total_steps} update steps",
        remedy="Train longer: the paper's baseline trains for 20 epochs; 1000 examples with the full data's number of "
        "steps were nearly as stable as the full data.",
        recipe=f"{STABLE_RECIPE}, or --max_steps 2000",
        needs="a trainer_state.json",
    ),
    "warmup": Words(
        faults={
            "none": "no warmup",
            "short": "{warmup_steps} of {total_steps} update steps are warmup ({share:.0%})",
        },
        in_order="{warmup_steps} of {total_steps} update steps are warmup ({share:.0%})",
        remedy="Raise the rate over the first 10% of the update steps.",
        recipe="--warmup_steps 0.1",
        needs="--warmup_steps",
    ),
    "class shares": Words(
        faults={
            "one class dominates": lambda values: (
                "one class dominates ({train_majority:.0%} of train, {dev_majority:.0%} of dev): ".format(**values)
                + _constant_score(values)
            ),
            "train and dev differ": lambda values: (
                f"the classes' shares differ by up to {values['largest_difference']:.0%} between train and dev; "
                + _constant_score(values)
            ),
        },
        in_order=lambda values: (
            "majority {train_majority:.0%} of train, {dev_majority:.0%} of dev; ".format(**values)
            + _constant_score(values)
        ),
        remedy="Draw train and dev from the same source; where one class dominates, judge by Matthews correlation or "
        "F1, not by accuracy, and have more examples of the others.",
        needs=f"{DATA} (classes, no regression)",
    ),
    "truncation": Words(
        faults={"long": _truncated},
        in_order=_truncated,
        remedy="Give the model more of each example, or put what decides the label first.",
        recipe="--max_seq_length 256, or as much as the model's positions allow",
        needs=f"{MODEL} and {DATA}",
    ),
    "ended early": Words(
        faults={
            "unfinished": "{step} of {total_steps} update steps are there: what comes after is not seen (an early checkpoint, "
            "early stopping, or a killed run)"
        },
        in_order="{step} of {total_steps} update steps are there",
        remedy="Give the run's last state; a run that was stopped has not had the small rates of its end.",
        needs="a trainer_state.json",
    ),
}
"""By the check's name."""
