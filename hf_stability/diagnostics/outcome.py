"""The end of a training: facts for the verdict, the verdict, the final scores."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..verdicts.verdict import NO_FINAL, Verdict
from .early_warning import Alarm
from .judging import RunFacts, headline
from .trainers_evaluation import writes_texts


logger = logging.getLogger(__name__)


@dataclass
class Outcome:
    """The result of a training, for the sinks.

    Args:
        verdict: on the run.
        final: `final/<metric>` and `final/failed`, see `final_scores`.
        step: the last update step.
        alarm: of the early warning, or None.
        record: as `read_steps` returns it; None if there is no reliable record.
        finished: False for a run that was ended early and may continue later.
        pictures: tag -> PNG. A sink that draws a picture adds it for the sinks after it.
    """

    verdict: Verdict
    final: Mapping[str, float]
    step: int
    alarm: Alarm | None = None
    record: Mapping[str, Any] | None = None
    finished: bool = True
    pictures: dict[str, bytes] = field(default_factory=dict)


def facts_of(
    model: Any,
    args: Any,
    trainer: Any,
    *,
    metric: str | None = None,
    baseline: float | str | None = None,
    compute_metrics: Callable | None = None,
    **more: Any,
) -> RunFacts:
    """The facts that a verdict needs, besides the record and the evaluation.

    Args:
        model: without the wrappers of distributed training.
        args: the training arguments.
        trainer: the Trainer; None if it is not known.
        metric, baseline, compute_metrics: the user's values, see `StabilityCallback`.
        more: other fields of `RunFacts`.
    """
    config = getattr(model, "config", None)
    if baseline == "compute_metrics" and args.batch_eval_metrics:
        logger.warning(
            "baseline='compute_metrics' is ignored, because with batch_eval_metrics that function keeps data between calls. The "
            "baseline comes from the labels; baseline=NUMBER sets your own"
        )
        baseline = None
    return RunFacts(
        metric=metric,
        greater_is_better=args.greater_is_better,
        metric_for_best_model=args.metric_for_best_model,
        problem_type=getattr(config, "problem_type", None),
        num_labels=getattr(config, "num_labels", 0) or 0,
        label_names=getattr(config, "id2label", None),
        causal=type(model).__name__.endswith(("ForCausalLM", "LMHeadModel")),
        generates=writes_texts(model),
        baseline=baseline,
        compute_metrics=compute_metrics or getattr(trainer, "compute_metrics", None),
        eval_dataset=getattr(trainer, "eval_dataset", None),
        **more,
    )


def final_scores(verdict: Verdict, metrics: Mapping[str, Any], wanted: str | None = None) -> dict[str, float]:
    """`final/<metric>` has the headline metric. `final/failed` is 1 for a failed or diverged run, else 0.

    A run that was stopped has no `final/failed`. Neither has a run with the verdict `unknown`.

    Args:
        verdict: on the run.
        metrics: from the evaluation that decides the verdict.
        wanted: the headline metric; None for the default choice, see `headline`.
    """
    metric, score = headline(metrics, wanted)
    final = {} if score is None else {f"final/{metric}": score}
    if verdict.status not in NO_FINAL:
        final["final/failed"] = float(verdict.status != "ok")
    return final
