"""TensorBoard's view of a run: the curves of its record, and the layout of the Custom Scalars tab.

Charts on that tab have no log scale. A quantity with a value for each layer (norms, ratios, distances; none is negative) is
therefore written a second time as its logarithm: `log10_grad_norm/layer_00` beside `grad_norm/layer_00`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from ..verdicts.constants import label_entropy
from .plots import FLOOR


TOTAL = "grad_norm/total"
RISK = "alarm/risk"
ENTROPY = "label_entropy"
LOG10 = "log10_"
COUNTS = ("labels/", "predicted/")  # columns that are not drawn as curves

CHARTS: dict[str, dict[str, list[str]]] = {
    "gradients": {
        "gradient norms by layer (log10)": ["^log10_grad_norm/(?!total$).+$"],
        "gradient norm of the first layer (log10)": ["^log10_grad_norm/.*layer_00$"],
        "total gradient norm (log10)": ["^log10_grad_norm/total$"],
        "steps that hit max_grad_norm": ["^clipped$"],
        "clip factor": ["^clip_factor$"],
    },
    "training": {
        "loss, and the label entropy (best constant prediction)": ["^loss$", "^label_entropy$"],
        "alarm: risk of failing": ["^alarm/risk$"],
        "learning rate": ["^learning_rate$"],
        "step factor of bias correction": ["^step_factor$"],
    },
    "outputs": {
        "logit std over examples": ["^logit_std$"],
        "prediction entropy": ["^prediction_entropy$"],
        "share of the most predicted class": ["^one_class_share$"],
        "saturated share of the pooler": ["^pooler_saturation$"],
        "variance of [CLS] over examples": ["^cls_variance$"],
    },
    "weights": {
        "update ratio by layer (log10)": ["^log10_update_ratio/.+$"],
        "distance from the start by layer (log10)": ["^log10_distance/.+$"],
    },
}
"""Category -> title of a chart -> regular expressions of its tags. The same for every model, so that runs share charts."""


def curves(columns: Sequence[str], rows: np.ndarray, label_counts: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """The curves of a block of the record, by tag.

    Args:
        columns: of the record, `step` first.
        rows: `(steps, columns)`.
        label_counts: `(classes,)` examples of each class in the steps before. None for none.

    Returns:
        tag -> `(steps,)`. The tags are the columns without the counts of classes, and these:

        - `log10_<quantity>/<layer>`: -12 for 0; NaN and Inf are kept.
        - `label_entropy` of all examples so far (nats): the loss of the best constant prediction.
    """
    found = {_tag(column): rows[:, i] for i, column in enumerate(columns) if _is_curve(column)}
    found |= {LOG10 + tag: np.log10(np.maximum(values, FLOOR)) for tag, values in found.items() if _is_by_layer(tag)}
    labels = rows[:, [i for i, column in enumerate(columns) if column.startswith("labels/")]]
    counts = np.cumsum(np.nan_to_num(labels), axis=0) + (0 if label_counts is None else label_counts)
    if counts.size and (counts.sum(1) > 0).all():
        found[ENTROPY] = label_entropy(counts)
    return found


def custom_layout(columns: Iterable[str]) -> dict[str, dict[str, list]]:
    """The Custom Scalars tab of a run: all layers in one chart, and a chart for each diagnostic.

    TensorBoard draws all lines of a run in the run's colour and tells them apart by their marks. To compare many runs, use
    a chart with one line per run, for example the first layer's.

    Args:
        columns: of the record. Charts without a curve are left out. Curves that are in no chart get one, under `more`.

    Returns:
        category -> title -> `["Multiline", regular expressions]`, as `SummaryWriter.add_custom_scalars` takes it.
    """
    tags = [RISK, *(_tag(column) for column in columns if _is_curve(column))]
    tags = [LOG10 + tag if _is_by_layer(tag) else tag for tag in tags]
    left = [
        tag for tag in tags if not any(_shows(chart, tag) for charts in CHARTS.values() for chart in charts.values())
    ]
    layout = {
        category: {
            title: ["Multiline", chart] for title, chart in charts.items() if any(_shows(chart, t) for t in tags)
        }
        for category, charts in {**CHARTS, "more": dict(map(_own_chart, left))}.items()
    }
    return {category: charts for category, charts in layout.items() if charts}


def _is_curve(column: str) -> bool:
    return column != "step" and not column.startswith(COUNTS)


def _tag(column: str) -> str:
    return TOTAL if column == "grad_norm" else column


def _is_by_layer(tag: str) -> bool:
    return "/" in tag and tag != RISK


def _shows(chart: Iterable[str], tag: str) -> bool:
    return any(re.match(pattern, tag) for pattern in chart)


def _own_chart(tag: str) -> tuple[str, list[str]]:
    """Title and patterns of a chart for a tag that `CHARTS` does not have. All layers share one chart."""
    quantity, *layer = tag.split("/")
    if not layer:
        return tag.replace("_", " "), [f"^{re.escape(tag)}$"]
    return f"{quantity.removeprefix(LOG10).replace('_', ' ')} by layer (log10)", [f"^{re.escape(quantity)}/.+$"]
