"""The metrics of GLUE, as a script for `evaluate.load`.

`evaluate` copies it into Hugging Face's modules cache and runs it there. So it imports nothing from this package. Each import
has its line, because the scanner of `evaluate` misreads `import a, b`.
"""

import warnings
from typing import Any

import datasets
import evaluate
import numpy as np
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef


DESCRIPTION = """Accuracy, F1 and Matthews correlation; with the configuration `regression`, Pearson and Spearman correlation; with
`multi_label`, micro-F1 and macro-F1. Greater is better for all. An undefined metric (constant predictions or labels) is 0.
"""


def _correlation(function: Any, predictions: Any, references: Any) -> float:
    """A scipy `function` of two arrays of shape (num_examples,); 0.0 if undefined (NaN or an error)."""
    if len(predictions) < 2 or not np.isfinite(predictions).all():
        return 0.0
    if np.ptp(predictions) == 0 or np.ptp(references) == 0:
        return 0.0
    value = float(function(predictions, references)[0])
    return value if np.isfinite(value) else 0.0


def _measure(name: str, predictions: Any, references: Any) -> float:
    """One metric as a float. F1 is that of class 1, as in GLUE. A name with `and` means the mean of two."""
    if name == "accuracy":
        return float(accuracy_score(references, predictions))
    if name == "f1":
        return float(f1_score(references, predictions, zero_division=0.0))
    if name in ("f1_micro", "f1_macro"):
        return float(f1_score(references, predictions, average=name[3:], zero_division=0.0))
    if name == "acc_and_f1":
        return (_measure("accuracy", predictions, references) + _measure("f1", predictions, references)) / 2
    if name == "matthews_correlation":
        value = float(matthews_corrcoef(references, predictions))
        return value if np.isfinite(value) else 0.0
    if name == "pearson":
        return _correlation(stats.pearsonr, predictions, references)
    if name == "spearman":
        return _correlation(stats.spearmanr, predictions, references)
    if name == "pearson_and_spearman":
        return (_measure("pearson", predictions, references) + _measure("spearman", predictions, references)) / 2
    raise ValueError(f"unknown metric {name!r}")


class GlueMetric(evaluate.Metric):
    """`compute(predictions=, references=, metrics=)`: two arrays of shape (num_examples,), and the names of metrics.

    Configurations: `classification` (int class ids), `regression` (floats), `multi_label` (arrays of 0 and 1, of shape
    (num_examples, num_labels)).
    """

    def _info(self) -> Any:
        value = datasets.Value("float64" if self.config_name == "regression" else "int64")
        feature = datasets.Sequence(value) if self.config_name == "multi_label" else value
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description="",
            # No `format="numpy"`: with it, `datasets` rounds floats to 32 bits.
            features=datasets.Features({"predictions": feature, "references": feature}),
        )

    def _compute(self, predictions: Any, references: Any, metrics: Any) -> dict[str, float]:
        predictions = np.asarray(predictions)
        references = np.asarray(references)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # constant predictions are expected and count as 0
            with np.errstate(all="ignore"):
                return {name: _measure(name, predictions, references) for name in metrics}
