"""Verdicts on a finished run: did it fail, did it diverge, and what is the evidence?

Everything here is a pure function of numbers that were recorded elsewhere. The definition is that of Mosbach,
Andriushchenko & Klakow (ICLR 2021, arXiv 2006.04884): a run has FAILED if its accuracy on the development set at the end
of training is at or below that of the best constant predictor (the majority classifier).

- The rule is on accuracy even where the headline metric is F1 or Matthews correlation. On MRPC an accuracy of 0.78 beats
  the majority's 0.684, while its F1 can be below always-positive's 0.812.
- For regression the same rule reads R2 <= 0: no better than always answering the mean.
- One exception, for unbalanced classes. A run is `ok` if its accuracy equals the majority class's, within sampling noise,
  and its headline F1 or Matthews correlation is clearly above its own baseline. The evidence keeps what the paper's rule
  says.

A verdict rests on an evaluation, or it is `unknown`: a run that was not evaluated is neither `ok` nor `failed`. Everything
else is evidence and never decides: one predicted class, sampling noise, vanished gradients, where the train loss ended.

Shapes: `n` eval examples, `K` classes, `T` recorded update steps, `L` layers; `...` are leading axes, for example
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
from .constants import first_output
from .evidence import (
    accuracy_evidence,
    check_steps,
    explains_variance,
    finite_outputs,
    headline_evidence,
    headline_relation,
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
"""The statuses. `judge` gives the first four. The others come from what stopped or lost the run: its alarm, a crash, or a
policy that finishes other runs or cannot choose yet."""

NOT_OK = ("failed", "diverged")
"""Statuses that count as failed."""

CENSORED = ("stopped", "stopped early")
"""Runs that were ended early: nobody knows how they would have ended."""

NO_FINAL = (*CENSORED, "unknown")
"""Statuses that leave open whether a run failed."""

BASES = ("eval_accuracy", "eval_r2", "baseline", "training_only")
"""The bases of a verdict, the firmest first; on the last one a run is `unknown` or `diverged`."""


@dataclass(frozen=True)
class Verdict:
    """What became of a run.

    Args:
        status: one of `STATUSES`.
        sentence: status and evidence in one readable sentence.
        evidence: the numbers behind it, plain Python values that JSON can hold (see `judge`).
        basis: one of `BASES`: what the status rests on.
        schema: `hf_stability.verdict/` and the version; the number before a point changes when old readers break.
    """

    status: str
    sentence: str
    evidence: dict[str, Any] = field(default_factory=dict)
    basis: str = "training_only"
    schema: str = SCHEMA

    def __post_init__(self) -> None:
        for name, value, known in (("status", self.status, STATUSES), ("basis", self.basis, BASES)):
            if value not in known:
                raise InputError(f"verdict {name} {value!r} is none of {', '.join(known)}")

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
                f"verdict schema {schema!r} cannot be read here, only {SCHEMA!r}: written by another version?"
            )
        missing = [key for key in ("status", "sentence", "evidence", "basis") if key not in record]
        if missing:
            raise InputError(f"verdict record lacks {', '.join(missing)}")
        return cls(**{key: record[key] for key in ("status", "sentence", "evidence", "basis", "schema")})


def judge(
    *,
    eval_labels: np.ndarray | None = None,
    eval_predictions: Any = None,
    num_labels: int | None = None,
    regression: bool = False,
    eval_constant: np.ndarray | None = None,
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
    label_names: Sequence[str] | None = None,
    half_precision: str = "",
    alpha: float = 0.05,
    one_class_at: float = 0.99,
    stuck_at: float = 0.95,
    learned_at: float = 0.8,
    fitted_at: float = 0.5,
) -> Verdict:
    """The verdict on a finished run, from whatever of it was recorded.

    `diverged` comes before all else. It takes NaN or Inf in one of these:
    - a train loss, if the gradient norms of its step are not finite either, or unknown. A loss alone is no divergence: a
      batch without labels has such a loss.
    - the eval outputs. An output of -Inf beside a finite one of the same example does not count: it is a masked class.
    - the weights.
    - the gradient norms at the end. A norm that overflows while the loss is finite, with finite norms later, does not
      count: the loss scaler of fp16 skips such a step and halves its scale (several in a row as training begins). If only
      the very last recorded norm overflowed, finite eval outputs or weights clear it. A layer without a single finite norm,
      beside others that have some, counts as frozen.

    `failed` is decided by the first basis that there is:
    - `eval_accuracy`: accuracy of the eval predictions <= the best constant's (counted in examples, no rounding), and the
      headline metric does not clear the run (`headline_lead`).
    - `eval_r2`: for regression, R2 <= 0.
    - `baseline`: `score` is no better than `baseline`, both in the headline metric, NaN for 0; see
      [`at_or_below`][hf_stability.verdicts.constants.at_or_below].

    `unknown`: there is no basis but the training (`training_only`), or all eval labels are of one class, so that every
    right answer is the majority class's too. The sentence says what training looked like.

    Evidence beside these: the exact McNemar test against the constant (an `ok` may be within sampling noise, p >= `alpha`;
    of several best constants the one with the greatest p counts); one predicted class; failed optimisation against failed
    generalisation; vanished gradients. Gradients do not count for a run that has fitted its data (they vanish for the good
    reason), in warmup, or while warmup is unknown, nor for an `ok` run if its fit is unknown.

    Args:
        eval_labels: (n,), class ids (`IGNORED_LABEL` does not count) or values.
        eval_predictions: the run's last outputs on them: logits (n, K), class ids (n,), values (n,) or (n, 1). A tuple
            counts by its first element.
        num_labels: K; default: the highest class seen, plus 1.
        regression: whether labels are values.
        eval_constant: (n,), the best constant predictor's answers, where it is not one class for all examples. With several
            labels per example each label has its own majority.
        score, baseline, metric: the headline metric's last value, the best constant's, and its name.
        smaller_is_better: whether a smaller score is a better one.
        examples: n, where `score` and `baseline` are shares of n examples and there are no predictions.
        headline_lead: for an F1 or Matthews correlation: `metric`, `score`, `baseline`, and `low`, `high`, the 95% interval
            of their difference over the examples.
        steps: (T,), update steps of `losses` and `layer_norms`; default 1..T.
        losses: (T,), the raw train loss of each update step. The Trainer's log is no substitute: it is averaged, and
            `logging_nan_inf_filter` hides NaN and Inf in it.
        layer_norms, layers: (T, L) gradient norms and the L names, as in `vanished_gradients`.
        warmup_steps, total_steps: update steps; `total_steps` defaults to the last of `steps`.
        train_label_counts: (K,), classes of the train labels. Their entropy is the loss of the best constant.
        train_predicted_counts: (K,), classes predicted in the last part of training.
        constant_loss: the train loss of the best constant, where it is not the label entropy: the variance of the
            train labels for a regression by mean squared error.
        weights_finite: whether all weights were finite at the end.
        label_names: K names for the sentence.
        half_precision: a sentence on weights in half precision, put first; empty for none.
        alpha: level of the test.
        one_class_at: share of one class from which on a run predicts one class.
        stuck_at, learned_at, fitted_at: fractions of the best constant's loss, for the mean train loss of the last 10% of
            the recorded steps. At or above the first: failed optimisation. A failed run below the second: failed
            generalisation. Below the third: the run has fitted its data.

    Returns:
        the verdict; its evidence holds, where known, `examples`, `accuracy`, `constant_accuracy`, `constant_class`,
        `mcnemar_p`, `within_noise`, `predicted_class`, `predicted_share`, `one_class`, `r2`, `one_value`, `metric`,
        `score`, `baseline`, `train_loss`, `constant_loss`, `optimisation` (`stuck`, `between`, `learned`, `fitted`),
        `train_predicted_class`, `train_predicted_share`, `train_one_class`, `gradients` (as `vanished_gradients`),
        `nonfinite`, `first_nonfinite_step`, `nonfinite_losses`, `overflowed_norms`, `failure`
        (`failed optimisation`, `failed generalisation`). `gradients` is None if none had vanished, absent if they do
        not count.

    Raises:
        InputError: there is nothing to judge by, or shapes do not fit.
    """
    if (eval_labels is None) != (eval_predictions is None):
        raise InputError("eval_labels and eval_predictions go together: give both or neither")
    if (layer_norms is None) != (layers is None):
        raise InputError("layer_norms and layers go together: give both or neither")
    losses = None if losses is None or not np.size(losses) else np.asarray(losses, dtype=float)
    layer_norms = None if layer_norms is None or not np.size(layer_norms) else np.asarray(layer_norms, dtype=float)
    steps = check_steps(steps, losses, layer_norms)
    if steps is not None and layer_norms is not None and layers is not None:
        check_norms(steps, layer_norms, layers)
    if total_steps is None and steps is not None:
        total_steps = int(steps[-1])

    basis = _basis(eval_predictions, regression, score, baseline)
    if basis == "training_only" and all(
        x is None for x in (losses, layer_norms, train_predicted_counts, weights_finite)
    ):
        raise InputError(
            "nothing to judge by: need eval predictions with labels, or a score with its baseline, or records of "
            "training (losses, gradient norms, predicted classes)"
        )

    outputs = None if eval_predictions is None else first_output(eval_predictions)
    outputs_finite = None if outputs is None else finite_outputs(outputs)
    evidence = nonfinite_evidence(steps, losses, layer_norms, weights_finite, outputs_finite)
    if outputs is None or eval_labels is None or not outputs_finite:
        pass
    elif regression:
        evidence |= regression_evidence(outputs, eval_labels)
    else:
        evidence |= accuracy_evidence(outputs, eval_labels, num_labels, eval_constant, alpha, one_class_at)
    evidence |= headline_evidence(score, baseline, metric, smaller_is_better, examples)
    if half_precision:
        evidence["half_precision"] = half_precision
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
    """[`judge`] on `S` runs, from arrays with a leading seed axis: the same as a loop over the seeds.

    | keyword of `judge` | one per seed | the same for all |
    | --- | --- | --- |
    | `eval_predictions` | `(S, n, K)`, `(S, n)`, `(S, n, 1)`; a tuple counts by its first element | |
    | `losses`, `layer_norms` | `(S, T)` and `(S, T, L)`, or a list of `S` where runs differ in length | |
    | `train_predicted_counts` | `(S, K)` | |
    | `score`, `weights_finite` | `(S,)` | |
    | `eval_labels` | `(S, n)` | `(n,)` |
    | `steps` | `(S, T)`, or a list of `S` | `(T,)` |
    | `train_label_counts` | `(S, K)` | `(K,)` |
    | `baseline`, `constant_loss`, `warmup_steps`, `total_steps` | `(S,)` | a number |
    | everything else | | as in `judge` |

    Args:
        num_seeds: S, at least 1.
        evidence: keywords of `judge`.

    Raises:
        InputError: something is not of `S` seeds; and as `judge`.
    """
    if num_seeds < 1:
        raise InputError(f"num_seeds {num_seeds}: give 1 or more")
    seeds: list[dict[str, Any]] = [{} for _ in range(num_seeds)]
    for name, value in evidence.items():
        if name == "eval_predictions" and isinstance(value, tuple):
            value = value[0]
        axes = 1 + np.ndim(value[0]) if isinstance(value, list) and value else np.ndim(value)
        shared = value is None or axes <= _SHARED_AXES.get(name, math.inf)
        if not shared and (axes == 0 or len(value) != num_seeds):
            raise InputError(f"{name} of shape {np.shape(value)}: need {num_seeds} seeds on its first axis")
        for seed, given in enumerate(seeds):
            part = value if shared else value[seed]
            given[name] = part.item() if isinstance(part, np.generic) else part
    return [judge(**given) for given in seeds]


# With at most so many axes a value is the same for all seeds; -1: always one per seed.
_SHARED_AXES = {
    **dict.fromkeys(("eval_predictions", "losses", "layer_norms", "train_predicted_counts"), -1),
    **dict.fromkeys(("score", "weights_finite"), -1),
    **dict.fromkeys(("eval_labels", "steps", "train_label_counts"), 1),
    **dict.fromkeys(("baseline", "constant_loss", "warmup_steps", "total_steps"), 0),
}


def ended_early(verdict: Verdict, step: int, total_steps: int) -> Verdict:
    """The verdict of a run that a policy ended after `step` of `total_steps` update steps, because others looked better.

    It is `stopped early` (censored). A run that had diverged by then stays `diverged`: it would not have healed.
    """
    if verdict.status == "diverged":
        return verdict
    return replace(verdict, status="stopped early", sentence=ended_early_sentence(verdict.sentence, step, total_steps))


def pruned(verdict: Verdict, step: int, total_steps: int) -> Verdict:
    """The verdict of a trial that a hyperparameter search ended after `step` of `total_steps` update steps.

    It is `stopped` (censored). A trial that had diverged by then stays `diverged`.
    """
    if verdict.status == "diverged":
        return verdict
    return replace(verdict, status="stopped", sentence=pruned_sentence(verdict.sentence, step, total_steps))


def _basis(eval_predictions: Any, regression: bool, score: float | None, baseline: float | None) -> str:
    if eval_predictions is not None:
        return "eval_r2" if regression else "eval_accuracy"
    return "training_only" if score is None or baseline is None else "baseline"


def _status(basis: str, evidence: dict) -> str:
    if "nonfinite" in evidence:
        return "diverged"
    if basis == "training_only" or labels_of_one_class(evidence):
        return "unknown"
    if basis == "eval_accuracy":
        # Two fractions of the same n: exact.
        failed = evidence["accuracy"] <= evidence["constant_accuracy"] and "paper_rule" not in evidence
    elif basis == "eval_r2":
        failed = not explains_variance(evidence)
    else:
        if evidence.get("examples") and evidence["baseline"] == 1:
            return "unknown"
        failed = headline_relation(basis, evidence) != "better"
    return "failed" if failed else "ok"


def _is_cleared(basis: str, evidence: dict, lead: Mapping[str, Any]) -> bool:
    """Whether the headline metric is clearly above its baseline, while the accuracy only equals the majority class's."""
    if basis != "eval_accuracy" or "accuracy" not in evidence or evidence["accuracy"] > evidence["constant_accuracy"]:
        return False
    equal = evidence["accuracy"] == evidence["constant_accuracy"] or evidence["within_noise"]
    # With several labels per example, never answering has an accuracy that good runs need not reach.
    return (equal or "several_labels" in evidence) and lead["low"] > 0


def _gradients_count(status: str, basis: str, evidence: dict) -> bool:
    """Not for a run that has fitted its data, or may have: its gradients vanish for the good reason."""
    if "optimisation" in evidence:
        return evidence["optimisation"] != "fitted"
    return status in ("failed", "unknown")
