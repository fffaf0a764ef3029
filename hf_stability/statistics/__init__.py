"""Statistics over seeds: pure functions of arrays of scores and counts of failed runs.

| file | figures |
| --- | --- |
| `shares` | failed shares: intervals, differences, Fisher's and McNemar's exact tests |
| `spread` | standard deviations: an interval, tests of equal spread |
| `scores` | one recipe's scores: mean, lowest decile, interquartile mean, expected maximum |
| `comparison` | two recipes: difference of means, probability of superiority, practical equivalence, noise floor, Holm |
| `agreement` | what differs between runs on single examples: disagreement, kappa, divergence, hard examples, ensemble |
| `power` | seeds needed for a difference |
| `sequential` | several looks at a growing study: the level of each |
| `checks`, `permutation` | helpers: checks of the input, random permutations |

Scores of one recipe are `(runs,)`. Where a function also takes several tasks, they are `(runs, tasks)`. Tests are two-sided.
Random draws have a `seed` with a fixed default. scipy is imported where it is used, because its import takes most of a second.
The page `docs/statistics.md` says which figure answers which question. `benchmarks/statistics_coverage.py` measures how often
each interval covers the true value.
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
from .checks import ROUNDING, check_confidence
from .comparison import Difference, equivalence, holm, mean_difference, noise_floor, probability_of_superiority
from .power import MOST_SEEDS, means_found, seeds_for_means, seeds_for_shares, shares_found
from .scores import chance_among, expanded_ends, expected_maximum, interquartile_mean, lowest_decile, t_interval
from .sequential import pocock_level
from .shares import (
    audited_failed_share,
    fisher_exact_p,
    mcnemar_p,
    paired_share_difference_interval,
    share_difference_interval,
    wilson_interval,
)
from .spread import SpreadTest, brown_forsythe, levene, spread_permutation_p, standard_deviation, std_interval


__all__ = [
    "MOST_SEEDS",
    "ROUNDING",
    "Difference",
    "HardExamples",
    "SpreadTest",
    "audited_failed_share",
    "brown_forsythe",
    "chance_among",
    "check_confidence",
    "class_errors",
    "class_failures",
    "ensemble",
    "equivalence",
    "expanded_ends",
    "expected_maximum",
    "fisher_exact_p",
    "fleiss_kappa",
    "hard_examples",
    "holm",
    "interquartile_mean",
    "jensen_shannon",
    "levene",
    "lowest_decile",
    "mcnemar_p",
    "mean_difference",
    "means_found",
    "noise_floor",
    "paired_share_difference_interval",
    "pairwise_disagreement",
    "pocock_level",
    "probability_of_superiority",
    "seeds_for_means",
    "seeds_for_shares",
    "share_difference_interval",
    "shares_found",
    "softmax",
    "spread_permutation_p",
    "standard_deviation",
    "std_interval",
    "t_interval",
    "vote_counts",
    "wilson_interval",
]
