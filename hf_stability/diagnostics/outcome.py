"""The end of a training: its facts, its verdict, its final scores."""

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
    """What the sinks get at the end of a training.

    Args:
        verdict: on the run.
        final: `final/<metric>`, `final/failed`: see [`final_scores`].
        step: the last update step.
        alarm: the early warning's; None without.
        record: as `read_steps` gives it; None where there is none that can be trusted.
        finished: False for a run that somebody ended early, which may go on.
        pictures: tag -> PNG. A sink that draws adds its picture, for the sinks after it.
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
    """What a verdict needs beside the record and the evaluation.

    Args:
        model: without the wrappers of distributed training.
        args: the training arguments.
        trainer: the Trainer; None where it is not known.
        metric, baseline, compute_metrics: the user's, see [`StabilityCallback`][hf_stability.StabilityCallback].
        more: fields of [`RunFacts`][hf_stability.diagnostics.judging.RunFacts].
    """
    config = getattr(model, "config", None)
    if baseline == "compute_metrics" and args.batch_eval_metrics:
        logger.warning("baseline='compute_metrics': not with batch_eval_metrics, whose function keeps what it sees")
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
    """`final/<metric>`, the headline metric; `final/failed`, 1 for a failed or diverged run, else 0.

    A run that was stopped, or whose verdict is unknown, has no `final/failed`.

    Args:
        verdict: on the run.
        metrics: of the evaluation that counts.
        wanted: the headline metric; None for the usual choice, see `headline`.
    """
    metric, score = headline(metrics, wanted)
    final = {} if score is None else {f"final/{metric}": score}
    if verdict.status not in NO_FINAL:
        final["final/failed"] = float(verdict.status != "ok")
    return final
