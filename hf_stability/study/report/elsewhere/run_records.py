"""Runs made elsewhere: the choice of their headline metric, their verdicts, and their run records. See `elsewhere`."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ....diagnostics.metrics import CLASSIFICATION, family, smaller_is_better
from ....errors import InputError, nearest
from ....utils.files import finite
from ....utils.text import decimal, joined
from ....verdicts.verdict import CENSORED, judge
from ...records import UNJUDGED, RunRecord


logger = logging.getLogger(__name__)

ZERO_BASELINE = ("matthews", "correlation", "r2")
"""Families of metrics with a baseline of 0 on all data."""

KEPT = ("diverged", "crashed", "waiting", "unknown", *CENSORED)
"""Statuses that no baseline changes."""


@dataclass(frozen=True)
class Found:
    """A run before its verdict.

    Args:
        place: where it was found, for messages.
        recipe, metric: names.
        seed, score: None if not known.
        status, sentence: its own verdict; empty if it has none.
        baseline: its own.
        labels: number of classes, if known.
        note: what to add to a sentence that is made here.
        fields: more fields of the record.
    """

    place: str
    recipe: str
    seed: int | None
    metric: str
    score: float | None
    status: str = ""
    sentence: str = ""
    baseline: float | None = None
    labels: int | None = None
    note: str = ""
    fields: dict[str, Any] = field(default_factory=dict)


# ---- the headline metric --------------------------------------------------------------------------------------------


def choose_metric(
    source: str, names: Mapping[str, Sequence[str]], metric: str | None = None, selecting: str | None = None
) -> str:
    """The headline metric of runs: the wanted one, else the only one that all have, else the one that selected checkpoints.

    Args:
        source: what was read, for messages.
        names: place -> the metrics there, without `eval_`; at least one place.
        metric: the wanted one, with or without `eval_`.
        selecting: the metric that selected checkpoints, if known.

    Raises:
        InputError: there is none, there are several, or smaller is better for it.
    """
    if metric is not None:
        metric = metric.removeprefix("eval_")
        if smaller_is_better(metric):
            raise InputError(f"--metric {metric}: {SMALLER}{_others(names)}")
        for place, own in names.items():
            if metric not in own:
                raise InputError(
                    f"--metric {metric}: {place} has none{nearest(metric, own)}; its metrics: {joined(own) or 'none'}"
                )
        return metric
    first = next(iter(names.values()))
    common = [name for name in first if all(name in own for own in names.values())]
    candidates = [name for name in common if not smaller_is_better(name)]
    if len(candidates) == 1:
        return candidates[0]
    if selecting in candidates:
        return str(selecting)
    if candidates:
        raise InputError(
            f"{source}: several metrics ({', '.join(candidates)}); choose the headline metric, for example --metric "
            f"{candidates[0]}"
        )
    if common and all(set(own) == set(first) for own in names.values()):
        raise InputError(f"{source}: the only metric is {joined(common)}: {SMALLER}; give scores such as the accuracy")
    a, b = next(((a, b) for a in names for b in names if set(names[a]) != set(names[b])), (source, source))
    raise InputError(
        f"{source}: no metric that all runs have: {a} has {joined(names[a])}, {b} has {joined(names[b])}; give runs with "
        "one metric"
    )


SMALLER = "smaller is better for it, but a report needs a headline metric for which larger is better"


def _others(names: Mapping[str, Sequence[str]]) -> str:
    better = [name for name in next(iter(names.values())) if not smaller_is_better(name)]
    return f"; give one of {', '.join(better)}" if better else "; give scores such as the accuracy"


# ---- verdicts -------------------------------------------------------------------------------------------------------


def to_records(found: Sequence[Found], baseline: float | None) -> list[RunRecord]:
    """The records, each with its verdict. Unknown seeds are numbered -1, -2 and so on."""
    _check_baseline(found, baseline)
    places: dict[tuple[str, int], str] = {}
    records, unknown = [], 0
    for run in found:
        if run.seed is None:
            unknown += 1
        seed = -unknown if run.seed is None else run.seed
        other = places.setdefault((run.recipe, seed), run.place)
        if other != run.place:
            raise InputError(
                f"{run.place}: a second run of {run.recipe} with seed {seed}, after {other}; keep one of them, or give them "
                "other recipes (--runs 'NAME=PATTERN', or the column recipe)"
            )
        status, base, sentence = _verdict(run, baseline)
        values = {"baseline": base, "last": run.score, **run.fields}
        if status in CENSORED or status == "crashed":  # these values describe the end of training
            values |= dict.fromkeys(("last", "best", "accuracy", "train_loss"))
        record = RunRecord(
            run.place, run.recipe, seed, values.pop("task", ""), status, run.metric, sentence=sentence, **values
        )
        records.append(RunRecord(**finite(record.to_dict())))
    return records


def _verdict(run: Found, baseline: float | None) -> tuple[str, float | None, str]:
    """Status, baseline and sentence. A given baseline decides; without one, the run's own verdict, then its own baseline."""
    base = run.baseline if baseline is None else baseline
    if base is None and family(run.metric) in ZERO_BASELINE:
        base = 0.0
    if run.status in KEPT or (baseline is None and run.status in ("ok", "failed")):
        return run.status, base, run.sentence or f"{run.status}: as recorded in {run.place}."
    if run.score is None or (base is None and math.isnan(run.score)):
        status = "failed" if run.status == "failed" else "unknown"
        return status, base, run.sentence or f"{status}: no score is known."
    text = f"{run.metric} {decimal(run.score)}"
    if base is not None:
        verdict = judge(score=_as_precise(run.score, base), baseline=base, metric=run.metric)
        return verdict.status, base, f"{verdict.sentence.removesuffix('.')}{run.note}."
    if family(run.metric) == "accuracy" and run.labels is not None and run.score <= 1 / run.labels:
        reason = f"at or below 1/{run.labels}, and the most frequent of {run.labels} classes has at least this share"
        return "failed", None, f"failed: {text} is {reason}{run.note}."
    return UNJUDGED, None, f"{UNJUDGED}: {text}; no baseline is known, so whether it failed is unknown{run.note}."


def _as_precise(score: float, baseline: float) -> float:
    """The score, or the baseline itself if one of them is rounded to 3 or 4 decimals and they agree so far."""
    for decimals in (3, 4):
        if round(score, decimals) == round(baseline, decimals) and round(score, decimals) in (score, baseline):
            return baseline
    return score


def _check_baseline(found: Sequence[Found], baseline: float | None) -> None:
    """Refuse a baseline in another unit than the scores; warn of one with too few decimals."""
    if baseline is None:
        return
    if not math.isfinite(baseline):
        raise InputError(f"--baseline {baseline}: need a finite number, for example 0.5271")
    scored = [(run.score, run) for run in found if run.score is not None]
    if scored and family(found[0].metric) in CLASSIFICATION:
        highest, run = max(scored, key=lambda item: item[0])
        if (0 < baseline < 1) and highest > 1:
            raise InputError(
                f"--baseline {baseline:g}: {run.place} has the {run.metric} {highest:g}, a percentage; give the baseline as "
                f"one too: --baseline {100 * baseline:g}"
            )
        if baseline > 1 and highest <= 1:
            raise InputError(
                f"--baseline {baseline:g}: the scores are shares, at most {highest:g}; give the baseline as one too: "
                f"--baseline {baseline / 100:g}"
            )
    near = [score for score, _ in scored if score > baseline == round(baseline, 2) == round(score, 2)]
    if near:
        logger.warning(
            f"--baseline {baseline:g}: {len(near)} of {len(scored)} runs are above it by less than 0.005, and count as ok. If "
            "it is rounded, give four decimals"
        )
