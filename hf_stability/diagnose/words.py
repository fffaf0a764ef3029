"""The sentences, remedies and flags of the checks' findings. The numbers in them come from the checks.

A text is a template for `str.format`, or a function of the values. The values are the check's figures, `more`, each
fault's own, and `kinds`, the kinds of its faults. A list is shown by its first six items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..diagnostics import settings
from ..diagnostics.precision import WAY_OUT, rounding_sentences
from ..utils.text import rate_text
from ..verdicts.constants import IGNORED_LABEL
from .finding import LIKELIHOODS, Checked, Finding
from .rate_words import RATE_REMEDIES, STABLE_RECIPE, rate_flags, rate_sentence


Text = str | Callable[[Mapping[str, Any]], str]

DATA, MODEL = "--task_name, or --train_file with --validation_file", "--model_name_or_path (the pretrained model)"
RECORD = "a record (steps.rec of StabilityCallback)"


@dataclass(frozen=True)
class Words:
    """The texts of a check.

    Args:
        faults: kind of fault -> what is wrong, in whole sentences.
        in_order: the sentence for a check without a fault.
        remedy, recipe: what to do about the faults, and the flags for it.
        needs: what the check needs to look; empty if every run has it.
    """

    faults: Mapping[str, Text]
    in_order: Text
    remedy: Text
    recipe: Text = ""
    needs: str = ""


def finding_of(checked: Checked) -> Finding:
    """A check's result in words: as likely as its likeliest fault, `unlikely` without one."""
    words = WORDS[checked.name]
    kinds = [fault.kind for fault in checked.faults]
    values = {**checked.figures, **checked.more, "kinds": kinds}
    if not checked.faults:
        return Finding(checked.name, "unlikely", _say(words.in_order, values), checked.figures)
    likelihood = min((fault.likelihood for fault in checked.faults), key=LIKELIHOODS.index)
    sentences = [_say(words.faults[fault.kind], {**values, **fault.values}) for fault in checked.faults]
    remedy, recipe = _say(words.remedy, values), _say(words.recipe, values)
    return Finding(checked.name, likelihood, " ".join(sentences), checked.figures, remedy, recipe, tuple(kinds))


def _say(text: Text, values: Mapping[str, Any]) -> str:
    if callable(text):
        return text(values)
    shown = {key: _listed(value) if isinstance(value, (list, tuple)) else value for key, value in values.items()}
    return text.format(**shown)


def _listed(names: Sequence[str], most: int = 6) -> str:
    shown = ", ".join(map(str, names[:most]))
    return shown if len(names) <= most else f"{shown} ... ({len(names)})"


# ---- sentences that depend on what is known -------------------------------------------------------------------------


def _majority_baseline(values: Mapping[str, Any]) -> str:
    name = "class {constant}" if values["constant_name"] is None else "'{constant_name}'"
    return f"The majority-class baseline on dev, always {name}, has an accuracy of {{constant_accuracy:.3f}}.".format(
        **values
    )


def _class_shares(values: Mapping[str, Any]) -> str:
    return (
        f"The largest class has {values['train_majority']:.0%} of train and {values['dev_majority']:.0%} of dev. "
        f"{_majority_baseline(values)}"
    )


def _truncated(values: Mapping[str, Any]) -> str:
    tokens = values["max_seq_length"]
    length = "the maximum length" if tokens is None else f"{tokens} tokens"
    return f"{values['truncated_share']:.0%} of the training examples are longer than {length} and lose their ends."


def _tokenizer_fits(values: Mapping[str, Any]) -> str:
    size, unknown = values["tokenizer_size"], values["unknown_share"]
    known = ([] if size is None else [f"{size} tokens"]) + (
        [] if unknown is None else [f"{unknown:.1%} of the data's tokens are unknown"]
    )
    return "The tokenizer fits the model" + (f": {', '.join(known)}." if known else ".")


def _only_the_head_is_new(values: Mapping[str, Any]) -> str:
    head = ", ".join(values["head"])
    text = f"Only the head is new ({head})." if head else "No weight is new, not even the head."
    return text + (" The pooler is new too: the pretrained files have none." if values["pooler"] else "")


def _train_the_frozen(values: Mapping[str, Any]) -> str:
    if not values["adapters"]:
        return "Set requires_grad of all parameters to True before you make the Trainer."
    if values["kinds"] == ["adapted head"]:
        return settings.save_the_head([name for name, origin in values["frozen_parts"].items() if origin == "adapted"])
    names = values["to_save"]
    named = f"modules_to_save={names}" if names and all(map(str.isidentifier, names)) else "modules_to_save"
    return (
        f"Train these weights beside the adapters: set {named} in PEFT's config. For a classifier, task_type='SEQ_CLS' "
        "does it. For new tokens, set trainable_token_indices."
    )


def _dtype(values: Mapping[str, Any]) -> str:
    return f"The weights themselves are {values['dtype'].removeprefix('torch.')}."


def _skipped(values: Mapping[str, Any]) -> str:
    where = "logged gradient norms" if values["logged"] else "update steps"
    return f"{values['skipped']} of {values['of']} {where} are NaN or Inf"


def _none_skipped(values: Mapping[str, Any]) -> str:
    if values["skipped"]:
        return f"{_skipped(values)}, all of them at the start. This is normal: fp16 is finding its loss scale."
    return f"No step was skipped: {_skipped(values)}."


def _nonfinite_evidence(values: Mapping[str, Any]) -> str:
    count = values["nonfinite"]
    text = f"There is NaN or Inf in {', '.join(values['where'])}{_first_at(values)}"
    return text + ("." if count is None else f" ({count} training losses).")


def _nonfinite_losses(values: Mapping[str, Any]) -> str:
    return f"{values['nonfinite']} of {values['of']} training losses are NaN or Inf{_first_at(values)}."


def _first_at(values: Mapping[str, Any]) -> str:
    first = values["first_step"]
    return "" if first is None else f", first at step {first}"


def _all_finite(values: Mapping[str, Any]) -> str:
    if values["source"] == "in the record":
        return "Every training loss is finite."
    hidden = " This tells little: logging_nan_inf_filter, on by default, hides them." if values["filtered"] else ""
    return f"No logged loss is NaN or Inf.{hidden}"


def _stuck(values: Mapping[str, Any]) -> str:
    text = (
        "The evaluation loss stays at {loss:.2g} from step {from_step} to step {to_step}. This is ln {classes}: the loss of a "
        "model that ignores its input, if {classes} classes are equally frequent."
    )
    text += " The number of classes is not known; it is inferred from the loss." if values["inferred"] else ""
    return text.format(**values)


def _vanished(values: Mapping[str, Any]) -> str:
    layers = values["layers"]
    which = f"{len(layers)} layers, {layers[0]} to {layers[-1]}," if len(layers) > 1 else layers[0]
    return f"The gradients of {which} vanished from step {values['first_step']} on"


def _train_loss(values: Mapping[str, Any]) -> str:
    return f"training loss {values['train_loss']:.2g}, best constant prediction {values['constant_loss']:.2g}"


def _train_and_dev(values: Mapping[str, Any]) -> str:
    text = _train_loss(values)
    return f"The run learned ({text})." if values["learned"] else f"The training set itself was not learned ({text})."


def _by_heart(values: Mapping[str, Any]) -> str:
    score = "R2 is {score:.2f} on {examples} training examples"
    if not values["regression"]:
        score = "{score:.0%} of {examples} training examples are right"
    rate = rate_text(values["rate"])
    return f"{score} after {{steps}} update steps at a constant rate of {rate}, without dropout.".format(**values)


def _not_by_heart(values: Mapping[str, Any]) -> str:
    text, trained = f"The model cannot memorize: {_by_heart(values)}", values.get("trained_before", 0)
    if trained:
        text += f" It began with weights that had been trained for {trained} steps."
    if values["adapters"]:
        text += f" {values['adapters']} adapters may have too few weights for it."
    return f"{text} A bug is likelier than instability."


def _remedy_of_labels(values: Mapping[str, Any]) -> str:
    if values["kinds"] == ["unreadable"]:
        return "Correct the file at this place. Then check how your own code read it: perhaps with other labels."
    return (
        "Map the classes to 0 ... K-1 in the same order in train, dev and the model's id2label. Look at ten examples with "
        "their labels. Use a labelled development set."
    )


# ---- all texts ------------------------------------------------------------------------------------------------------

WORDS: dict[str, Words] = {
    "memorize": Words(
        faults={"not learned": _not_by_heart},
        in_order=lambda values: (
            f"The model can memorize: {_by_heart(values)} So labels, tokenizer and weights work together, and instability "
            "is possible."
        ),
        remedy="Look for the bug: labels that do not belong to their texts, contradictory or empty examples, another "
        "model's tokenizer, frozen or new weights.",
        needs=f"--memorize (trains on 32 examples), with {MODEL} and data",
    ),
    "labels": Words(
        faults={
            "unreadable": "The data cannot be read as they are: {error}.",
            "ignored": f"All {{split}} labels are {IGNORED_LABEL}, which the loss and the score ignore.",
            "hidden": "All {split} labels are -1: hidden, as in a test set.",
            "no class id": "{outside} of {size} {split} labels are not a class id (ids {ids}).",
            "no class of the model": "{outside} of {size} {split} labels are not one of the model's {num_labels} classes "
            "(ids {ids}).",
            "one class": "All train labels are of one class.",
            "new in dev": "Some classes of dev do not occur in train (ids {ids}).",
            "dev in another order": "Train and dev list the classes in different orders: {train} against {dev}.",
            "dev by other names": "Train and dev have different class names: {train} against {dev}.",
            "model in another order": "The model's id2label lists the classes in another order: {model}. The data have: "
            "{train}.",
            "model of another task": "The model's id2label names other classes: {model}. The data have: {train}. Is its head "
            "from another task?",
        },
        in_order="Ids, classes and names agree.",
        remedy=_remedy_of_labels,
        needs=DATA,
    ),
    "tokenizer": Words(
        faults={
            "id too large": "The data contain token id {largest_id}, but the model has only ids 0 to {last_row}.",
            "too many tokens": "The tokenizer has {tokenizer_size} tokens, but the model embeds only {embedding_rows}.",
            "too few tokens": "The tokenizer has {tokenizer_size} tokens, but the model embeds {embedding_rows}. Is it another "
            "model's tokenizer?",
            "special token": "{token} is token {found} in the tokenizer, but {expected} in the model.",
            "another class": "The tokenizer is a {tokenizer_class}, but this model goes with a {expected_class}.",
            "unknown tokens": "{unknown_share:.0%} of the data's tokens are unknown to the tokenizer, so the model cannot read them.",
        },
        in_order=_tokenizer_fits,
        remedy="Load tokenizer and model from the same place: AutoTokenizer.from_pretrained with the model's own name. "
        "Decode a batch of input_ids to see what the model reads.",
        recipe="leave out --tokenizer_name",
        needs=f"{MODEL} and {DATA}",
    ),
    "new weights": Words(
        faults={
            "new encoder": "{number} weights of the encoder are not in the pretrained files and were drawn at random "
            "({first} ...). This part of the pretraining is lost."
        },
        in_order=_only_the_head_is_new,
        remedy="Load the files into the model class that saved them. Compare the names in the files with the model's: "
        "from_pretrained(..., output_loading_info=True).",
        needs=MODEL,
    ),
    "frozen weights": Words(
        faults={
            "all": "Every weight is frozen, so the model cannot learn.",
            "new head": "The head is frozen, and it was drawn at random ({parts}).",
            "new pooler": "The pooler is frozen, and it was drawn at random ({parts}).",
            "adapted head": lambda values: settings.lost_head_sentence(values["parts"]),
            "unknown head": "The head is frozen ({parts}). It is not known whether it was drawn at random.",
            "loaded head": "The head is frozen ({parts}), with its loaded values.",
            "new tokens": "The embeddings are frozen, but the data contain tokens that were added to the tokenizer. The model "
            "cannot learn them.",
            "share": "{share:.0%} of the weights are frozen ({layers}).",
        },
        in_order=lambda values: (
            "Every weight is trained." if values["all_trained"] else "The adapters are trained, the rest is frozen."
        ),
        remedy=_train_the_frozen,
    ),
    "layers": Words(
        faults={
            "no encoder": "The encoder is missing from the record of gradients, so it was frozen.",
            "absent": "{absent}: missing from the record of gradients, so frozen.",
            "zero": "{zero}: the gradient was exactly 0 at every step, so cut off or not used.",
        },
        in_order="All {number} layers of the record had gradients.",
        remedy="Train all layers: set requires_grad to True, and put no detach() between them and the loss.",
        needs=RECORD,
    ),
    "weights' precision": Words(
        faults={"half": lambda values: f"{_dtype(values)} {rounding_sentences([values['dtype']])}"},
        in_order=_dtype,
        remedy=WAY_OUT,
        recipe="--bf16",
        needs=MODEL,
    ),
    "NaN": Words(
        faults={
            "in the evidence": _nonfinite_evidence,
            "in the record": _nonfinite_losses,
            "in the log": "{nonfinite} of {of} logged losses are NaN or Inf.",
        },
        in_order=_all_finite,
        remedy="Use a smaller learning rate, bf16 instead of fp16, and clipping at 1.0. Set --logging_nan_inf_filter false, "
        "so that the log shows NaN and Inf.",
        recipe=f"{STABLE_RECIPE} --logging_nan_inf_filter false",
        needs=f"{RECORD}, or a trainer_state.json",
    ),
    "skipped steps": Words(
        faults={
            "no scaler": lambda values: (
                f"{_skipped(values)}, and this precision has no loss scaler to skip them. The weights are damaged."
            ),
            "many": lambda values: (
                f"{_skipped(values)}. With fp16 such steps are skipped, so the run had fewer real steps than it counts."
            ),
            "some": lambda values: f"{_skipped(values)}, and not only at the start, where fp16 finds its loss scale.",
        },
        in_order=_none_skipped,
        remedy="Use bf16 or full precision, and a smaller learning rate.",
        recipe="--bf16 instead of --fp16",
        needs="a record (steps.rec), or a trainer_state.json",
    ),
    "train and dev": Words(
        faults={
            "dev not learned": lambda values: (
                f"The training set was learned ({_train_loss(values)}), but the development set was not. The optimisation "
                "worked."
            )
        },
        in_order=_train_and_dev,
        remedy="Compare train and dev: label order, preprocessing, source. Score some training examples with the "
        "evaluation's own code. No recipe helps here.",
        needs="a record (steps.rec), or a trainer_state.json with data",
    ),
    "vanished gradients": Words(
        faults={
            "lasting": lambda values: (
                f"{_vanished(values)} and did not come back. This is the paper's sign of instability early in training."
            ),
            "healed": lambda values: f"{_vanished(values)} and were back by step {values['healed_step']}.",
        },
        in_order="No layer's gradient vanished.",
        remedy="Make smaller steps at the start: a lower learning rate, bias correction, warmup. Train for more update steps.",
        recipe=STABLE_RECIPE,
        needs="a record (steps.rec) of a run that has not fitted its data",
    ),
    "stuck loss": Words(
        faults={"at ln K": _stuck},
        in_order="The evaluation loss ends at {loss:.2g} and does not stay at the loss of equally frequent classes.",
        remedy="Make smaller steps at the start: a lower learning rate, bias correction, warmup. If it fails with every seed, "
        "look for a bug: --memorize, with model and data.",
        recipe=STABLE_RECIPE,
    ),
    "early warning": Words(
        faults={
            "alarm": "The early warning raised an alarm at step {step} of {total_steps}, with an estimated risk of failure of "
            "{risk:.2f}."
        },
        in_order="",  # without an alarm there is no finding
        remedy="Change the settings, or let the alarm stop such runs early.",
        recipe=f"{STABLE_RECIPE}, or --on_alarm stop",
    ),
    "learning rate": Words(
        faults=dict.fromkeys(RATE_REMEDIES, rate_sentence),
        in_order=rate_sentence,
        remedy=lambda values: RATE_REMEDIES[values["kinds"][0]](values),
        recipe=rate_flags,
        needs="--learning_rate, with an AdamW",
    ),
    "update steps": Words(
        faults={"few": settings.FEW_STEPS_TEXT},
        in_order="The run has {total_steps} update steps.",
        remedy=f"{settings.TRAIN_LONGER} With the full data's number of steps, 1000 examples were nearly as stable as the full data.",
        recipe=f"{STABLE_RECIPE}, or --max_steps 2000",
        needs="a trainer_state.json",
    ),
    "warmup": Words(
        faults={
            "none": "There is no warmup. Adam's estimates are least accurate in the first steps.",
            "short": "Warmup is {warmup_steps} of {total_steps} update steps ({share:.0%}), which is short.",
            "uncorrected": settings.UNCORRECTED_WARMUP_TEXT,
        },
        in_order="Warmup is {warmup_steps} of {total_steps} update steps ({share:.0%}).",
        remedy=lambda values: settings.warmup_remedy(values["kinds"])[0],
        recipe=lambda values: settings.warmup_remedy(values["kinds"])[1],
        needs="--warmup_steps",
    ),
    "class shares": Words(
        faults={
            "one class dominates": lambda values: (
                f"One class dominates, so accuracy tells little. {_class_shares(values)}"
            ),
            "train and dev differ": lambda values: (
                f"The classes' shares differ by up to {values['largest_difference']:.0%} between train and dev. "
                f"{_majority_baseline(values)}"
            ),
        },
        in_order=_class_shares,
        remedy="Draw train and dev from the same source. If one class dominates, judge by Matthews correlation or F1 "
        "instead of accuracy, and collect more examples of the others.",
        needs=f"{DATA} (classes, no regression)",
    ),
    "truncation": Words(
        faults={"long": _truncated},
        in_order=_truncated,
        remedy="Give the model more of each example, or put the deciding part first.",
        recipe="--max_seq_length 256, or as much as the model's positions allow",
        needs=f"{MODEL} and {DATA}",
    ),
    "ended early": Words(
        faults={
            "unfinished": "The files end at step {step} of {total_steps}, so the rest of training is not seen. It is an early "
            "checkpoint, early stopping, or a killed run."
        },
        in_order="The files reach step {step} of {total_steps}.",
        remedy="Give the run's last state. A stopped run lacks the small learning rates of the end.",
        needs="a trainer_state.json",
    ),
}
"""By the check's name."""
