"""A verdict in words: the sentence and its clauses, from status, basis and evidence.

This file computes no figure. `headline_relation` and the other questions about the numbers are in `evidence`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from ..utils.text import apart, decimal, joined, loss_text, p_text
from .evidence import explains_variance, headline_relation, labels_of_one_class, loss_above_constant


NOTHING_RECORDED = "unknown: there is no evaluation to judge by and no record of the training."
BASELINE = "the majority-class baseline"
SET_BASELINE = "the best constant set of labels"
NOT_COUNTED = "not counted as failed, because its end is unknown"
TWO_DECIMALS_FROM = 0.1
"""A p-value of this or more gets two decimals instead of three."""


def verdict_sentence(
    status: str,
    basis: str,
    evidence: dict[str, Any],
    label_names: Sequence[str] | None = None,
    total_steps: int | None = None,
    regression: bool = False,
) -> str:
    """Status and evidence in one sentence.

    Args:
        status, basis, evidence: of a [`Verdict`][hf_stability.verdicts.verdict.Verdict].
        label_names: K names; default: `class 0` ...
        total_steps: update steps of the whole training.
        regression: whether labels are values.
    """
    head = status
    if status == "ok" and evidence.get("within_noise") and "paper_rule" not in evidence:
        head = f"ok, but within sampling noise of {SET_BASELINE if 'micro_f1' in evidence else BASELINE}"
    clauses = [
        evidence.get("half_precision", "").rstrip("."),
        _training_only_clause(status, basis, evidence),
        _nonfinite_clause(evidence, total_steps),
        _accuracy_clause(status, evidence, label_names),
        _label_set_clause(status, evidence, label_names),
        _lead_clause(evidence),
        _r2_clause(evidence),
        _headline_clause(status, basis, evidence),
        _one_class_clause(status, evidence, label_names),
        _loss_clause(status, evidence, regression),
        _gradient_clause(evidence),
        _trained_clause(evidence),
        _basis_clause(basis, evidence),
    ]
    return f"{head}: {'; '.join(clause for clause in clauses if clause)}."


def ended_early_sentence(until_then: str, step: int, total_steps: int) -> str:
    """For a run that was ended early. `until_then` is the sentence of its verdict so far."""
    return f"stopped early at step {step} of {total_steps}: {NOT_COUNTED}; verdict until then: {until_then}"


def pruned_sentence(until_then: str, step: int, total_steps: int) -> str:
    """For a trial that a hyperparameter search ended. `until_then` is the sentence of its verdict so far."""
    return f"stopped: pruned by the search at step {step} of {total_steps}: {NOT_COUNTED}; verdict until then: {until_then}"


# ---- clauses, in the order of the sentence; empty if there is nothing to say -----------------------------------------


def _nonfinite_clause(evidence: dict, total_steps: int | None) -> str:
    if "nonfinite" not in evidence:
        return ""
    text = f"NaN or Inf in the {joined(evidence['nonfinite'])}".replace("eval outputs", "evaluation outputs")
    if evidence["first_nonfinite_step"] is not None:
        text += f", first at step {evidence['first_nonfinite_step']} of {total_steps}"
    if "nonfinite_losses" in evidence:
        text += " (the Trainer's log does not show it: logging_nan_inf_filter hides it)"
    return text


def _accuracy_clause(status: str, evidence: dict, names: Sequence[str] | None) -> str:
    if "accuracy" not in evidence:
        return ""
    if labels_of_one_class(evidence):
        return f"all {evidence['examples']} evaluation labels are of one class, so accuracy cannot show a failure"
    accuracy, constant = _apart(evidence["accuracy"], evidence["constant_accuracy"])
    text = f"accuracy {accuracy} on {evidence['examples']} {evidence.get('unit', 'examples')}"
    p = p_text(evidence["mcnemar_p"], TWO_DECIMALS_FROM)
    if evidence["accuracy"] > evidence["constant_accuracy"]:
        if status == "ok" and evidence["within_noise"]:
            return f"{text}, baseline {constant} (exact McNemar test: {p})"
        return f"{text}, above {BASELINE} {constant} ({p})"
    always = f"always {_label(evidence['constant_class'], names)}"
    if evidence["accuracy"] == evidence["constant_accuracy"]:
        return f"{text} equals {BASELINE} ({constant}, {always})"
    test = "" if evidence["one_class"] else f"; exact McNemar test: {p}"
    return f"{text} is below {BASELINE} ({constant}, {always}{test})"


def _label_set_clause(status: str, evidence: dict, names: Sequence[str] | None) -> str:
    if "micro_f1" not in evidence:
        return ""
    if labels_of_one_class(evidence):
        return (
            f"all {evidence['examples']} evaluation examples have the same labels, so micro-F1 cannot show a failure"
        )
    score, constant = _apart(evidence["micro_f1"], evidence["constant_micro_f1"])
    text = f"micro-F1 {score} on {evidence['examples']} examples"
    low, high = evidence["lead"]
    interval = f"95% interval of the difference: {low:.3f} to {high:.3f}"
    if status == "ok":
        return f"{text}, {'baseline' if evidence['within_noise'] else f'above {SET_BASELINE}'} {constant} ({interval})"
    always = f"{constant}, always {joined(_label(label, names) for label in evidence['constant_labels'])}"
    if evidence["micro_f1"] == evidence["constant_micro_f1"]:
        text = f"{text} equals {SET_BASELINE} ({always})"
    else:
        text = f"{text} is below {SET_BASELINE} ({always})"
    return f"{text}; predicts the same labels for every example" if evidence["one_answer"] else text


def _lead_clause(evidence: dict) -> str:
    if "paper_rule" not in evidence:
        return ""
    lead = evidence["headline_lead"]
    score, baseline = _apart(lead["score"], lead["baseline"])
    return (
        f"but {lead['metric']} {score} is clearly above its baseline {baseline} (95% interval of the difference: "
        f"{lead['low']:.3f} to {lead['high']:.3f}), which happens with rare classes"
    )


def _r2_clause(evidence: dict) -> str:
    if "r2" not in evidence:
        return ""
    relation = "better" if explains_variance(evidence) else "no better"
    text = (
        f"R2 {_score(evidence['r2'])} on {evidence['examples']} examples, {relation} than always predicting the mean"
    )
    return text + ("; predicts one value for all examples" if evidence["one_value"] else "")


def _headline_clause(status: str, basis: str, evidence: dict) -> str:
    name = evidence.get("metric", "score")
    told = basis == "eval_accuracy" and name == "accuracy"
    told |= math.isclose(evidence.get("micro_f1", math.nan), evidence.get("score", 0.0), rel_tol=1e-6)
    if "score" not in evidence or told or evidence.get("headline_lead", {}).get("metric") == name:
        return ""
    if "baseline" not in evidence:
        return f"{name} {_score(evidence['score'])}"
    relation = headline_relation(basis, evidence)
    score, baseline = _apart(evidence["baseline" if relation == "same" else "score"], evidence["baseline"])
    better, worse = ("below", "above") if evidence.get("smaller_is_better") else ("above", "below")
    if relation == "better":
        return f"{name} {score}, {better} its baseline {baseline}"
    text = f"{name} {score} {'equals' if relation == 'same' else f'is {worse}'} its baseline {baseline}"
    return text + (", which alone is not a failure" if status == "ok" else "")


def _one_class_clause(status: str, evidence: dict, names: Sequence[str] | None) -> str:
    if status not in ("failed", "unknown") or "micro_f1" in evidence or labels_of_one_class(evidence):
        return ""
    evaluated = "one_class" in evidence
    kind, predicts = (
        ("", "predicts one class") if evaluated else ("train_", "predicted one class at the end of training")
    )
    if not evidence.get(f"{kind}one_class"):
        return ""
    share = evidence[f"{kind}predicted_share"]
    almost = "" if share == 1 else f" {100 * share:.1f}% of the time"
    return f"{predicts}{almost} ({_label(evidence[f'{kind}predicted_class'], names)})"


def _loss_clause(status: str, evidence: dict, regression: bool) -> str:
    if "optimisation" not in evidence or status == "ok":
        return ""
    loss, constant = loss_text(evidence["train_loss"]), loss_text(evidence["constant_loss"])
    reference = "the loss of always predicting the mean" if regression else "the label entropy"
    relation = {"stuck": "stayed at", "between": "is only a little below"}.get(
        evidence["optimisation"], "is clearly below"
    )
    if loss_above_constant(evidence):
        relation = "is above"
    kind = f": {evidence['failure']}" if "failure" in evidence else ""
    return f"train loss {loss} {relation} {reference} ({constant}){kind}"


def _gradient_clause(evidence: dict) -> str:
    gradients = evidence.get("gradients")
    if not gradients:
        return ""
    first, last = gradients["first_step"], gradients["last_step"]
    since = f"step {first}" if first == last else f"steps {first} to {last}"
    what = f"gradients of {layers_in_words(gradients['layers'])}"
    if gradients["lasting"]:
        return f"{what} vanished from {since} on"
    return f"{what} vanished from {since} on, and were back by step {gradients['healed_step']}"


def _trained_clause(evidence: dict) -> str:
    trained = evidence.get("trained")
    if not trained:
        return ""
    layers, since, until = trained["layers"], trained.get("since", {}), trained.get("until", {})
    inner = [name for name in layers if name not in ("pooler", "classifier")]
    text = layers_in_words(layers)
    if trained["adapters"]:
        text = joined([f"{trained['adapters']} adapters of {layers_in_words(inner)}", *layers[len(inner) :]])
    if not since and not until:
        return f"trained parts: {text} ({100 * trained['share']:.2g}% of the weights)"
    changes = [f"from step {step} on also {names}" for step, names in _by_step(since)]
    changes += [f"{names} only until step {step}" for step, names in _by_step(until)]
    return f"trained parts: {', '.join([text, *changes])}"


def _by_step(steps: dict[str, int]) -> list[tuple[int, str]]:
    """Layers in words by update step."""
    return [
        (at, layers_in_words([name for name, step in steps.items() if step == at])) for at in sorted({*steps.values()})
    ]


def _training_only_clause(status: str, basis: str, evidence: dict) -> str:
    if basis != "training_only" or status == "diverged":
        return ""
    text = "no evaluation gave predictions, and no metric has a known baseline"
    if evidence.get("optimisation") == "stuck" or evidence.get("train_one_class"):
        return text + "; the training looks like that of a failed run"
    return text


def _basis_clause(basis: str, evidence: dict) -> str:
    if basis != "baseline":
        return ""
    if "examples" in evidence:
        return "judged by the reported accuracy, counted in whole examples"
    return "judged by this score alone, without the predictions"


# ---- words for a class, layers, scores ------------------------------------------------------------------------------


def _label(label: int, names: Sequence[str] | None) -> str:
    return f"class {label}" if names is None or label >= len(names) else f"'{names[label]}'"


def layers_in_words(layers: Sequence[str]) -> str:
    """`embeddings, layer_00, layer_01, layer_02, pooler` -> `embeddings, layers 00-02 and pooler`."""
    runs: list[tuple[str, list[str]]] = []  # ("layer", ["00", "01", "02"]), ("pooler", [])
    for name in layers:
        match = re.fullmatch(r"(\w*layer)_(\d+)", name)
        if not match:
            runs.append((name, []))
        elif runs and runs[-1][0] == match[1] and int(runs[-1][1][-1]) + 1 == int(match[2]):
            runs[-1][1].append(match[2])
        else:
            runs.append((match[1], [match[2]]))
    words = []
    for kind, numbers in runs:
        kind = kind.replace("_layer", " layer") if numbers else kind
        words.append(f"{kind}s {numbers[0]}-{numbers[-1]}" if len(numbers) > 1 else " ".join([kind, *numbers]))
    return joined(words)


def _score(score: float) -> str:
    return decimal(score, minus_zero=True)


def _apart(score: float, baseline: float) -> list[str]:
    return apart(score, baseline, minus_zero=True)
