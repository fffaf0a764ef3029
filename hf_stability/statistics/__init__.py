"""Statistics of runs: pure functions. They take arrays and return numbers; they know no run and no folder.

| file | what |
| --- | --- |
| `agreement` | what differs between runs on single examples: disagreement, kappa, divergence, hard examples, ensemble |
"""

from .agreement import (
    HardExamples,
    class_errors,
    class_failures,
    ensemble,
    fleiss_kappa,
    hard_examples,
    jensen_shannon,
    pairwise_disagreement,
    softmax,
    vote_counts,
)


__all__ = [
    "HardExamples",
    "class_errors",
    "class_failures",
    "ensemble",
    "fleiss_kappa",
    "hard_examples",
    "jensen_shannon",
    "pairwise_disagreement",
    "softmax",
    "vote_counts",
]
