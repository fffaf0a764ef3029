"""Made-up runs for the tests of verdicts: the paper's development sets, and gradient norms by hand."""

from __future__ import annotations

import math

import numpy as np
from sklearn.metrics import f1_score, matthews_corrcoef

from hf_stability.verdicts.vanished import vanished_gradients


RTE = np.array([0] * 146 + [1] * 131)
RTE_NAMES = ("entailment", "not_entailment")
MRPC = np.array([1] * 279 + [0] * 129)
LAYERS = ["embeddings", *(f"layer_{i:02d}" for i in range(12)), "pooler", "classifier"]
STEPS, WARMUP, TOTAL = np.arange(1, 189), 19, 188
LN2 = math.log(2)


def answers(labels, correct):
    """Predictions of two classes that are right on `correct` examples, chosen by a fixed shuffle."""
    order = np.random.default_rng(0).permutation(len(labels))
    out = 1 - labels
    out[order[:correct]] = labels[order[:correct]]
    return out


def trace(*points, steps=STEPS):
    """Norms by step: on a log scale, straight lines between the points (fraction of training, norm)."""
    fractions, norms = zip(*points, strict=True)
    return np.exp(np.interp(steps / steps[-1], fractions, np.log(norms)))


def norms_of(lower, upper=None, rng=None):
    """(T, L): embeddings and layers 00-09 follow `lower`, layers 10-11 and pooler are at 0.2, the classifier at 1."""
    norms = np.full((len(STEPS), len(LAYERS)), 0.2)
    norms[:, :11] = lower[:, None]
    norms[:, -1] = 1.0 if upper is None else upper
    return norms if rng is None else norms * np.exp(rng.normal(0, 0.3, norms.shape))


# medians of failed and successful runs at a small scale: one falls by two orders, the other rises again after warmup
FAILED = trace((0, 0.27), (0.18, 0.057), (0.35, 0.005), (1, 0.004))
GOOD = trace((0, 0.27), (0.05, 0.01), (0.14, 0.005), (0.2, 0.5), (1, 0.5))
HEALED = trace((0, 0.27), (0.2, 0.005), (0.5, 0.005), (0.6, 0.3), (1, 0.32))


def vanished(norms, steps=STEPS, layers=LAYERS, warmup=WARMUP, total=TOTAL, **bounds):
    """`vanished_gradients` of such norms."""
    return vanished_gradients(steps, norms, layers, warmup, total, **bounds)


def run(lower=FAILED, end=0.69, counts=(10, 10), **more):
    """Keywords of `judge` for a training with gradients `lower` and a loss that ends at `end`."""
    losses = np.linspace(0.7, end, 188)
    losses[-20:] = end
    return {
        "losses": losses,
        "layer_norms": norms_of(lower),
        "layers": LAYERS,
        "warmup_steps": WARMUP,
        "total_steps": TOTAL,
        "train_label_counts": counts,
        **more,
    }


def compute_glue(p):
    """GLUE's scores, as from a user's `compute_metrics`."""
    assert type(p).__name__ == "EvalPrediction"
    logits = p.predictions[0] if isinstance(p.predictions, tuple) else p.predictions
    classes = logits if logits.ndim == 1 else logits.argmax(-1)
    return {
        "accuracy": (classes == p.label_ids).mean(),
        "f1": f1_score(p.label_ids, classes),
        "matthews": matthews_corrcoef(p.label_ids, classes),
    }
