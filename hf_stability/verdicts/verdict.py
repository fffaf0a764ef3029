"""Verdicts on a finished run: did it fail, did it diverge, and what is the evidence?

Everything here is a pure function of numbers that were recorded elsewhere. The definition is from Mosbach, Andriushchenko &
Klakow (ICLR 2021, arXiv 2006.04884). A run has failed if its accuracy on the development set, at the end of training, is at
or below the majority-class baseline: the accuracy of the best constant prediction.

- Accuracy decides even if the headline metric is F1 or Matthews correlation. On MRPC an accuracy of 0.78 is above the
  majority-class baseline (0.684), while the F1 of the same run can be below its baseline (0.812, always "positive").
- For a regression the rule becomes R2 <= 0: no better than always predicting the mean.
- With several labels per example, micro-F1 decides. Its baseline is that of the best constant set: the same labels for every
  example.
- There is one exception, for unbalanced classes. A run is `ok` if its accuracy equals the majority-class baseline, within
  sampling noise, and its F1 or Matthews correlation is clearly above its own baseline. The evidence then keeps the result
  of the paper's rule.

A verdict rests on an evaluation. A run without an evaluation is `unknown`, neither `ok` nor `failed`. All other evidence
describes the run and never decides: one predicted class, sampling noise, vanished gradients, the final train loss.

Shapes: `n` evaluation examples, `K` classes, `T` recorded update steps, `L` layers; `...` are leading axes, for example
seeds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from ..errors import InputError
from ..utils.files import finite, plain
from .constants import at_or_below, first_output
from .evidence import (
    accuracy_evidence,
    check_steps,
    explains_variance,
    finite_outputs,
    headline_evidence,
    headline_relation,
    label_set_evidence,
    labels_of_one_class,
    loss_evidence,
    nonfinite_evidence,
    regression_evidence,
    train_class_evidence,
)
from .sentence import ended_early_sentence, pruned_sentence, verdict_sentence
from .vanished import check_norms, vanished_gradients


SCHEMA = "hf_stability.verdict/1"

STATUSES = ("ok", "failed", "diverged", "unknown", "stopped", "stopped early", "crashed", "waiting")
"""The statuses. `judge` gives the first four. `stopped`: an alarm or a hyperparameter search ended the run. `stopped early`: a
policy ended it, because others looked better. `waiting`: the policy cannot choose yet. `crashed`: an exception ended it."""

NOT_OK = ("failed", "diverged")
"""Statuses that count as failed."""

CENSORED = ("stopped", "stopped early")
"""Runs that were ended early. Their end is unknown, so they are censored: they count neither as ok nor as failed."""

NO_FINAL = (*CENSORED, "unknown")
"""Statuses that do not show whether a run failed."""

BASES = ("eval_accuracy", "eval_micro_f1", "eval_r2", "baseline", "training_only")
"""The bases of a verdict, strongest first. On the last one a run is `unknown` or `diverged`."""


@dataclass(frozen=True)
class Verdict:
    """The result of a run: a status, with its evidence.

    Args:
        status: one of `STATUSES`.
        sentence: status and evidence in one readable sentence.
        evidence: the numbers behind it, as plain Python values for JSON. `judge` lists the keys.
        basis: one of `BASES`: the part of the evidence that decided the status.
        schema: `hf_stability.verdict/` and the version. Its first number changes if old readers cannot read the new form.
    """

    status: str
    sentence: str
    evidence: dict[str, Any] = field(default_factory=dict)
    basis: str = "training_only"
    schema: str = SCHEMA

    def __post_init__(self) -> None:
        for name, value, known in (("status", self.status, STATUSES), ("basis", self.basis, BASES)):
            if value not in known:
                raise InputError(f"verdict {name} {value!r}: must be one of {', '.join(known)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Verdict:
        """The inverse of `to_dict`. Unknown keys are left out: a later minor version may have added them.

        Raises:
            InputError: another major version of the schema, or a missing key.
        """
        schema = record.get("schema")
        if not re.fullmatch(re.escape(SCHEMA) + r"(\.\d+)*", str(schema)):
            raise InputError(
                f"verdict schema {schema!r}: this version reads only {SCHEMA!r}. Read it with the version that wrote it"
            )
        missing = [key for key in ("status", "sentence", "evidence", "basis") if key not in record]
        if missing:
            raise InputError(f"verdict record without {', '.join(missing)}: is this a verdict.json?")
        return cls(**{key: record[key] for key in ("status", "sentence", "evidence", "basis", "schema")})


def judge(
    *,
    eval_labels: np.ndarray | None = None,
    eval_predictions: Any = None,
    num_labels: int | None = None,
    regression: bool = False,
    several: bool = False,
    score: float | None = None,
    baseline: float | None = None,
    metric: str | None = None,
    smaller_is_better: bool = False,
    examples: int | None = None,
    headline_lead: Mapping[str, Any] | None = None,
    steps: np.ndarray | None = None,
    losses: np.ndarray | None = None,
    layer_norms: np.ndarray | None = None,
    layers: Sequence[str] | None = None,
    warmup_steps: int | None = None,
    total_steps: int | None = None,
    train_label_counts: np.ndarray | None = None,
    train_predicted_counts: np.ndarray | None = None,
    constant_loss: float | None = None,
    weights_finite: bool | None = None,
    trained: Mapping[str, Any] | None = None,
    label_names: Sequence[str] | None = None,
    unit: str = "examples",
    half_precision: str = "",
    alpha: float = 0.05,
    one_class_at: float = 0.99,
    stuck_at: float = 0.95,
    learned_at: float = 0.8,
    fitted_at: float = 0.5,
) -> Verdict:
    """The verdict on a finished run, from its recorded numbers.

    `diverged` comes first. A run diverged if NaN or Inf came up in one of these:

    - a train loss, if the gradient norms of its step are not finite either, or are not known. The loss alone does not
      count: it is NaN for a batch without labels.
    - the evaluation outputs. An output of -Inf beside a finite output of the same example does not count: it is a masked
      class.
    - the weights.
    - the gradient norms at the end. A norm does not count if it overflows while the loss is finite, with finite norms
      later: the loss scaler of fp16 skips such a step and halves its scale, several times in a row as training begins. If
      only the very last recorded norm overflowed, finite evaluation outputs or weights clear the run. A layer without any
      finite norm, beside layers that have some, counts as frozen.

    `failed` is decided by the first basis that the run has:

    - `eval_accuracy`: the accuracy of the evaluation predictions is at or below the majority-class baseline, and the
      headline metric does not clear the run (`headline_lead`). Whole examples are compared, without rounding.
    - `eval_micro_f1`: with several labels per example, the micro-F1 is at or below that of the best constant set of labels.
    - `eval_r2`: for a regression, R2 <= 0.
    - `baseline`: `score` is no better than `baseline`. Both are in the headline metric. NaN counts as 0.

    `unknown`: the only basis is the training (`training_only`), or all evaluation labels are of one class (all examples have
    the same labels), so that a constant prediction is right everywhere. The sentence tells what the training looked like.

    The rest of the evidence does not decide:

    - the exact McNemar test against the constant prediction. If p >= `alpha`, an `ok` run is within sampling noise. If
      several constants are equally good, the one with the largest p counts. For micro-F1 it is a bootstrap.
    - one predicted class.
    - failed optimisation, or failed generalisation.
    - vanished gradients. They do not count in warmup, if the warmup is unknown, or if the run has fitted its data: then
      gradients vanish because the loss is small. For an `ok` run they count only if its fit is known.

    Args:
        eval_labels: (n,), class ids (`IGNORED_LABEL` does not count) or values.
        eval_predictions: the run's last outputs on them: logits (n, K), class ids (n,), values (n,) or (n, 1). A tuple
            counts by its first element.
        num_labels: K; default: the highest class seen, plus 1.
        regression: whether labels are values.
        several: whether an example has several labels. Then `eval_labels` are (n, L) of 0 and 1, and `eval_predictions` such
            answers or logits; a logit above 0 gives the label.
        score: the headline metric's last value.
        baseline: the best score of a constant prediction in this metric.
        metric: its name.
        smaller_is_better: whether a smaller score is better.
        examples: n, if `score` and `baseline` are shares of n examples and there are no predictions.
        headline_lead: for an F1 or Matthews correlation: `metric`, `score`, `baseline`, and `low`, `high`, the 95% interval
            of their difference over the examples.
        steps: (T,), update steps of `losses` and `layer_norms`; default 1..T.
        losses: (T,), the raw train loss of each update step. The Trainer's log cannot replace it: it has averages, and
            `logging_nan_inf_filter` hides NaN and Inf in it.
        layer_norms: (T, L), gradient norms, see `vanished_gradients`.
        layers: the L names of the layers.
        warmup_steps: update steps of warmup.
        total_steps: update steps of the whole training; default: the last of `steps`.
        train_label_counts: (K,), number of train labels of each class. Their entropy is the baseline's loss.
        train_predicted_counts: (K,), number of predictions of each class in the last part of training.
        constant_loss: the baseline's train loss, if it is not the label entropy. For a regression by mean squared error it
            is the variance of the train labels.
        weights_finite: whether all weights were finite at the end.
        trained: the trained parts, if some weights were frozen: `layers` at the start, `adapters` (their kind or None), `share` of
            the weights; `since` and `until`, the first or last update step of layers that were unfrozen or frozen later. With
            adapters, gradients do not count as vanished.
        label_names: K names for the sentence.
        unit: what each label is of, for the sentence: `examples` or `tokens`.
        half_precision: a sentence on weights in half precision, which comes first in the verdict; empty for none.
        alpha: level of McNemar's test.
        one_class_at: a run predicts one class if the share of that class is at least this.
        stuck_at: a failed run is a failed optimisation if its train loss (the mean over the last 10% of the recorded steps)
            is at least this fraction of the baseline's loss.
        learned_at: a failed run is a failed generalisation if its train loss is below this fraction of it.
        fitted_at: a run has fitted its data if its train loss is below this fraction of it.

    Returns:
        the verdict. Its evidence has the keys that are known for this run:

            - on classes: `examples`, `unit` (if it is not `examples`), `accuracy`, `constant_accuracy`, `constant_class`, `mcnemar_p`, `within_noise`,
              `predicted_class`, `predicted_share`, `one_class`;
            - on several labels: `examples`, `labels`, `micro_f1`, `constant_micro_f1`, `constant_labels` (ids), `lead` (95%
              interval of the difference), `within_noise`, `one_answer`;
            - on values: `examples`, `r2`, `one_value`;
            - on the headline metric: `metric`, `score`, `baseline`;
            - on the training: `train_loss`, `constant_loss`, `optimisation` (`stuck`, `between`, `learned`, `fitted`),
              `train_predicted_class`, `train_predicted_share`, `train_one_class`, `failure` (`failed optimisation`,
              `failed generalisation`);
            - on the gradients: `gradients` (see `vanished_gradients`). It is None if none vanished, and absent if they do not
              count;
            - on frozen weights: `trained`;
            - on NaN and Inf: `nonfinite`, `first_nonfinite_step`, `nonfinite_losses`, `overflowed_norms`.

    Raises:
        InputError: there is nothing to judge by, or shapes do not fit.
    """
    if (eval_labels is None) != (eval_predictions is None):
        raise InputError("eval_labels and eval_predictions belong together: give both or neither")
    if (layer_norms is None) != (layers is None):
        raise InputError("layer_norms and layers belong together: give both or neither")
    losses = None if losses is None or not np.size(losses) else np.asarray(losses, dtype=float)
    layer_norms = None if layer_norms is None or not np.size(layer_norms) else np.asarray(layer_norms, dtype=float)
    steps = check_steps(steps, losses, layer_norms)
    if steps is not None and layer_norms is not None and layers is not None:
        check_norms(steps, layer_norms, layers)
    if total_steps is None and steps is not None:
        total_steps = int(steps[-1])

    basis = _basis(eval_predictions, regression, several, score, baseline)
    if basis == "training_only" and all(
        x is None for x in (losses, layer_norms, train_predicted_counts, weights_finite)
    ):
        raise InputError(
            "nothing to judge by: give eval_predictions with eval_labels, or score with baseline, or numbers of the "
            "training (losses, layer_norms, train_predicted_counts, weights_finite)"
        )

    outputs = None if eval_predictions is None else first_output(eval_predictions)
    outputs_finite = None if outputs is None else finite_outputs(outputs)
    evidence = nonfinite_evidence(steps, losses, layer_norms, weights_finite, outputs_finite)
    if outputs is None or eval_labels is None or not outputs_finite:
        pass
    elif regression:
        evidence |= regression_evidence(outputs, eval_labels)
    elif several:
        evidence |= label_set_evidence(outputs, eval_labels, alpha)
    else:
        evidence |= accuracy_evidence(outputs, eval_labels, num_labels, alpha, one_class_at)
        evidence |= {} if unit == "examples" else {"unit": unit}
    evidence |= headline_evidence(score, baseline, metric, smaller_is_better, examples)
    if half_precision:
        evidence["half_precision"] = half_precision
    if trained:
        evidence["trained"] = dict(trained)
    if "nonfinite" not in evidence:
        evidence |= loss_evidence(losses, train_label_counts, constant_loss, stuck_at, learned_at, fitted_at)
    evidence |= train_class_evidence(train_predicted_counts, train_label_counts, one_class_at)

    looked, gradients = layer_norms is not None and warmup_steps is not None, None
    if steps is not None and layer_norms is not None and layers is not None:
        if warmup_steps is not None and total_steps is not None:
            gradients = vanished_gradients(steps, layer_norms, layers, warmup_steps, total_steps)
    if headline_lead is not None and _is_cleared(basis, evidence, headline_lead):
        evidence |= {"paper_rule": "failed", "headline_lead": dict(headline_lead)}
    status = _status(basis, evidence)
    if looked and _gradients_count(status, basis, evidence):
        evidence["gradients"] = gradients
    if status == "failed" and evidence.get("optimisation") == "stuck":
        evidence["failure"] = "failed optimisation"
    elif status == "failed" and basis != "training_only" and evidence.get("optimisation") in ("learned", "fitted"):
        evidence["failure"] = "failed generalisation"

    sentence = verdict_sentence(status, basis, evidence, label_names, total_steps, regression)
    return Verdict(status, sentence, finite(plain(evidence)), basis)


def judge_seeds(num_seeds: int, **evidence: Any) -> list[Verdict]:
    """`judge` on `S` runs, from arrays with a leading seed axis. The result is that of a loop over the seeds.

    | keyword of `judge` | one per seed | the same for all |
    | --- | --- | --- |
    | `eval_predictions` | `(S, n, K)`, `(S, n)`, `(S, n, 1)`; a tuple counts by its first element | |
    | `losses`, `layer_norms` | `(S, T)` and `(S, T, L)`, or a list of `S` if runs differ in length | |
    | `train_predicted_counts` | `(S, K)` | |
    | `score`, `weights_finite` | `(S,)` | |
    | `eval_labels` | `(S, n)` | `(n,)`; `(n, L)` with `several` |
    | `steps` | `(S, T)`, or a list of `S` | `(T,)` |
    | `train_label_counts` | `(S, K)` | `(K,)` |
    | `baseline`, `constant_loss`, `warmup_steps`, `total_steps` | `(S,)` | a number |
    | everything else | | as in `judge` |

    Args:
        num_seeds: S, at least 1.
        evidence: keywords of `judge`.

    Raises:
        InputError: an array does not have `S` seeds; and as `judge`.
    """
    if num_seeds < 1:
        raise InputError(f"num_seeds {num_seeds}: must be at least 1")
    seeds: list[dict[str, Any]] = [{} for _ in range(num_seeds)]
    for name, value in evidence.items():
        if name == "eval_predictions" and isinstance(value, tuple):
            value = value[0]
        alike = 2 if name == "eval_labels" and evidence.get("several") else _SHARED_AXES.get(name, math.inf)
        axes = 1 + np.ndim(value[0]) if isinstance(value, list) and value else np.ndim(value)
        shared = value is None or axes <= alike
        if not shared and (axes == 0 or len(value) != num_seeds):
            raise InputError(f"{name} of shape {np.shape(value)}: need {num_seeds} seeds on its first axis")
        for seed, given in enumerate(seeds):
            part = value if shared else value[seed]
            given[name] = part.item() if isinstance(part, np.generic) else part
    return [judge(**given) for given in seeds]


# A value with at most this many axes is the same for all seeds; -1: always one per seed.
_SHARED_AXES = {
    **dict.fromkeys(("eval_predictions", "losses", "layer_norms", "train_predicted_counts"), -1),
    **dict.fromkeys(("score", "weights_finite"), -1),
    **dict.fromkeys(("eval_labels", "steps", "train_label_counts"), 1),
    **dict.fromkeys(("baseline", "constant_loss", "warmup_steps", "total_steps"), 0),
}


def ended_early(verdict: Verdict, step: int, total_steps: int) -> Verdict:
    """The verdict of a run that was ended early, after `step` of `total_steps` update steps.

    Its status is `stopped early` (censored). A run that had diverged by then stays `diverged`, because it would not heal.
    """
    if verdict.status == "diverged":
        return verdict
    return replace(verdict, status="stopped early", sentence=ended_early_sentence(verdict.sentence, step, total_steps))


def pruned(verdict: Verdict, step: int, total_steps: int) -> Verdict:
    """The verdict of a trial that a hyperparameter search ended after `step` of `total_steps` update steps.

    Its status is `stopped` (censored). A trial that had diverged by then stays `diverged`.
    """
    if verdict.status == "diverged":
        return verdict
    return replace(verdict, status="stopped", sentence=pruned_sentence(verdict.sentence, step, total_steps))


def _basis(eval_predictions: Any, regression: bool, several: bool, score: float | None, baseline: float | None) -> str:
    if eval_predictions is not None:
        return "eval_r2" if regression else "eval_micro_f1" if several else "eval_accuracy"
    return "training_only" if score is None or baseline is None else "baseline"


def _status(basis: str, evidence: dict) -> str:
    if "nonfinite" in evidence:
        return "diverged"
    if basis == "training_only" or labels_of_one_class(evidence):
        return "unknown"
    if basis == "eval_accuracy":
        # exact, as both are fractions of the same n
        failed = evidence["accuracy"] <= evidence["constant_accuracy"] and "paper_rule" not in evidence
    elif basis == "eval_micro_f1":
        failed = at_or_below(evidence["micro_f1"], evidence["constant_micro_f1"])
    elif basis == "eval_r2":
        failed = not explains_variance(evidence)
    else:
        if evidence.get("examples") and evidence["baseline"] == 1:
            return "unknown"
        failed = headline_relation(basis, evidence) != "better"
    return "failed" if failed else "ok"


def _is_cleared(basis: str, evidence: dict, lead: Mapping[str, Any]) -> bool:
    """Whether the headline metric is clearly above its baseline, while the accuracy only equals the majority-class baseline."""
    if basis != "eval_accuracy" or "accuracy" not in evidence or evidence["accuracy"] > evidence["constant_accuracy"]:
        return False
    return (evidence["accuracy"] == evidence["constant_accuracy"] or evidence["within_noise"]) and lead["low"] > 0


def _gradients_count(status: str, basis: str, evidence: dict) -> bool:
    """Whether vanished gradients are evidence. They are not if the run has fitted its data, or may have."""
    if evidence.get("trained", {}).get("adapters"):  # the bounds are from runs that train the whole weights
        return False
    if "optimisation" in evidence:
        return evidence["optimisation"] != "fitted"
    return status in ("failed", "unknown")
