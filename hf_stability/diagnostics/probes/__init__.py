"""Probes: more numbers for each update step.

Each diagnostic has its own file. The file has the number as a function, then its class.

| name | columns | meaning |
| --- | --- | --- |
| `clipping` | `clip_factor` | factor by which clipping scales the gradient |
| `update_ratio` | `update_ratio/<layer>` | size of the update relative to the weights |
| `step_factor` | `step_factor` | factor by which bias correction scales Adam's step |
| `pooler_saturation` | `pooler_saturation` | share of the pooler's tanh outputs beyond 0.99 |
| `prediction_entropy` | `prediction_entropy`, `one_class_share` | how sure, and how one-sided, the predictions are |
| `distance` | `distance/<layer>` | distance of the weights from the start of training |
| `cls_variance` | `cls_variance` | how much the [CLS] states of different inputs differ |

A number that does not exist or is not known is NaN. The functions take an optional leading axis `...` of seeds.
To add a diagnostic, write a file and a test, and add a line to `PROBES`.

The code of Mosbach et al. (ICLR 2021) logs norms before and after clipping, saturation and entropy, too:
github.com/uds-lsv/bert-stable-fine-tuning, examples/bert_stable_fine_tuning, run_finetuning.py and utils.py.
"""

from __future__ import annotations

from collections.abc import Iterable

from ...errors import InputError, nearest
from .base import Probe
from .clipping import Clipping
from .cls_variance import ClsVariance
from .distance import Distance
from .pooler_saturation import PoolerSaturation
from .prediction_entropy import PredictionEntropy
from .step_factor import StepFactor
from .update_ratio import UpdateRatio


PROBES: dict[str, type[Probe]] = {
    probe.name: probe
    for probe in (
        Clipping,
        UpdateRatio,
        StepFactor,
        PoolerSaturation,
        PredictionEntropy,
        Distance,
        ClsVariance,
    )
}


def make_probes(names: str | Iterable[str]) -> list[Probe]:
    """A probe for each name, in that order and without repeats.

    Args:
        names: names of diagnostics, or `"all"` for all of them.

    Raises:
        InputError: there is no diagnostic with this name.
    """
    names = [names] if isinstance(names, str) else list(names)
    known = ["all", *PROBES]
    unknown = [f"{name!r}{nearest(name, known)}" for name in names if name not in known]
    if unknown:
        raise InputError(f"diagnostics: there is no {', no '.join(unknown)}. Give any of {', '.join(known)}.")
    return [PROBES[name]() for name in (PROBES if "all" in names else dict.fromkeys(names))]
