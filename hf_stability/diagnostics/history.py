"""The evaluations in a Trainer's log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .judging import headline


def evaluations_of(log_history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The metrics at each evaluated update step, with `step` and `epoch`. Several evaluation sets share one entry."""
    by_step: dict[int, dict[str, Any]] = {}
    for entry in log_history:
        if any(key.startswith("eval_") for key in entry) and "step" in entry:
            by_step.setdefault(entry["step"], {}).update(entry)
    return list(by_step.values())


def best_evaluation(
    evaluations: Sequence[dict[str, Any]],
    wanted: str | None,
    first_set: str | None = None,
    smaller_is_better: bool = False,
) -> dict[str, Any]:
    """The evaluation with the best headline metric, the earliest of ties. Empty if no evaluation has the metric.

    Args:
        evaluations: as `evaluations_of` returns them.
        wanted: the headline metric's name, with or without `eval_`.
        first_set: with several evaluation sets, the name of the set that counts.
        smaller_is_better: whether smaller values of the wanted metric are better.
    """
    wanted = (wanted or "").removeprefix("eval_")
    sign = -1 if smaller_is_better and wanted and not wanted.endswith("loss") else 1
    scored = []
    for metrics in evaluations:
        own = metrics
        if first_set is not None:
            prefix = f"eval_{first_set}_"
            own = {f"eval_{k.removeprefix(prefix)}": v for k, v in metrics.items() if k.startswith(prefix)}
        _, score = headline(own, wanted)
        if score is not None:
            scored.append((sign * score, -metrics["step"], metrics))
    return max(scored, key=lambda item: item[:2])[2] if scored else {}
