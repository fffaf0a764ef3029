"""How often an alarm of the early warning is right: counts of runs, and the share that follows from them.

    share = p R / (p R + (1 - p) F)

R is the share of the failed runs that raise such an alarm, F that of the other runs, and p the share of runs that fail. R and F
are means over the settings. "Such" is: the first alarm came in the same part of training.

The counts are of 400 runs of the bundled models: `bert`, `roberta` and `albert` of `benchmarks/early_warning/PROTOCOL.md`. The rule
was fitted on these runs. Each setting's alarms have the threshold of the other two settings. `benchmarks/better_alarm.py fit` makes the
counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple


BANDS = (0.3, 0.5, 1.0)
"""Ends of the parts of training, as shares of it."""


class Counts(NamedTuple):
    """The runs of a setting, and those with a first alarm in each part of training.

    Args:
        failed: failed runs.
        others: runs that did not fail.
        failed_alarmed: of the failed runs, those alarmed in each part.
        others_alarmed: of the others, those alarmed in each part.
    """

    failed: int
    others: int
    failed_alarmed: tuple[int, ...]
    others_alarmed: tuple[int, ...]


HELD_OUT = {
    "bert": Counts(50, 50, (11, 28, 1), (0, 0, 0)),
    "roberta": Counts(67, 53, (16, 28, 1), (0, 3, 0)),
    "albert": Counts(52, 128, (21, 17, 2), (4, 2, 3)),
}


def share_of_right_alarms(progress: float, failing: float, counts: Mapping[str, Counts] | None = None) -> float:
    """The share of alarms that are right; NaN if no run of the table had such an alarm.

    Args:
        progress: share of training at the first alarm.
        failing: share of the setting's runs that fail.
        counts: by setting; default: `HELD_OUT`.
    """
    known = list((HELD_OUT if counts is None else counts).values())
    part = next(i for i, end in enumerate(BANDS) if progress <= end + 1e-9)
    right = failing * sum(own.failed_alarmed[part] / own.failed for own in known)
    wrong = (1 - failing) * sum(own.others_alarmed[part] / own.others for own in known)
    return right / (right + wrong) if right + wrong else math.nan
