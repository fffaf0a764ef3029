"""`--until`: how often does a study stop with a false decision, how many seeds does it need, how far off are its estimates?

    nice python benchmarks/until.py measure   # to until/results.csv; one minute on one core
    python benchmarks/until.py report         # the tables of docs/until.md

Studies are made up, so that the truth is known. They have at most 20 seeds per recipe, and look after 5, 10, 15 and 20, as is the
default. They are tested with the package's own code: the level, both tests, and the rule to stop when every pair of recipes is
decided. Each row has 4000 studies, so that the standard error of a rate of 0.05 is 0.003.

Failed shares: each run fails with a given chance. Scores: those of runs that do not fail are normal with a std of 0.015. Failed
runs lie 0.37 below. Runs of the same seed are independent, so that pairs neither help nor harm.

| column | meaning |
| --- | --- |
| `decides` | what `--until` compares |
| `setting` | failed shares, or how far the means are apart, recipe by recipe |
| `n` | number of recipes |
| `false` | share of studies with a false decision at any look, about any pair of equal recipes |
| `found` | share of studies in which every pair of different recipes is decided the right way, at the look where the study ends |
| `found_fixed` | the same for one look at 20 seeds, at 0.05 with Holm's correction over the pairs |
| `seeds` | mean number of seeds per recipe |
| `early` | share of studies that stop before 20 seeds |
| `truth` | true difference between the last recipe and the first |
| `estimate` | its mean estimate over all studies |
| `estimate_early` | its mean estimate over the studies that stop early; empty below 40 of them |
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, installed or not
from benchmarks.csv_rows import read_rows, write_rows
from hf_stability.statistics import fisher_exact_p, holm, pocock_level
from hf_stability.statistics.permutation import TIED, signs
from hf_stability.study.policies.until import ALPHA, default_looks
from hf_stability.utils.files import write_text
from hf_stability.utils.text import markdown_table


RESULTS = Path(__file__).parent / "until" / "results.csv"
PAGE = Path(__file__).parents[1] / "docs" / "until.md"
MARKS = "<!-- until.py: begin -->", "<!-- until.py: end -->"
STUDIES, SEEDS, FEWEST, PERMUTATIONS = 4000, 20, 40, 9999
LOOKS = default_looks(SEEDS)
STD, FALL = 0.015, 0.37
COLUMNS = (
    "decides", "setting", "n", "false", "found", "found_fixed", "seeds", "early", "truth", "estimate", "estimate_early",
    "studies",
)  # fmt: skip

SHARES = (
    (0.0, 0.0), (0.1, 0.1), (0.3, 0.3), (0.5, 0.5), (0.1, 0.1, 0.1), (0.3, 0.3, 0.3), (0.5, 0.5, 0.5), (0.05, 0.05, 0.5),
    (0.05, 0.3), (0.05, 0.5), (0.2, 0.5), (0.05, 0.9), (0.0, 0.3, 0.9),
)  # fmt: skip
"""Failed shares of the recipes."""

Score = tuple[float, float]
SCORES: dict[str, tuple[Score, ...]] = {
    "the same": ((0, 0), (0, 0)),
    "the same, three recipes": ((0, 0), (0, 0), (0, 0)),
    "20% fail, 20% fail": ((0, 0.2), (0, 0.2)),
    "50% fail, 50% fail": ((0, 0.5), (0, 0.5)),
    "two the same, one 2 std above": ((0, 0), (0, 0), (2, 0)),
    "0.5 std apart": ((0, 0), (0.5, 0)),
    "1 std apart": ((0, 0), (1, 0)),
    "2 std apart": ((0, 0), (2, 0)),
    "50% fail, 5% fail": ((0, 0.5), (0, 0.05)),
    "30% fail, none fails": ((0, 0.3), (0, 0)),
}
"""Recipes as (mean of the runs that do not fail, in std; failed share)."""

Test = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From two recipes' runs so far, (studies, seeds) each, to p, (studies,)."""


# ---- made studies ---------------------------------------------------------------------------------------------------


def made_shares(shares: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    """Whether each run failed, (recipes, studies, seeds), 0 or 1."""
    return (rng.random((len(shares), STUDIES, SEEDS)) < np.reshape(shares, (-1, 1, 1))).astype(float)


def made_scores(recipes: Sequence[Score], rng: np.random.Generator) -> np.ndarray:
    """Scores, (recipes, studies, seeds)."""
    ahead, fails = (np.reshape(values, (-1, 1, 1)) for values in zip(*recipes, strict=True))
    size = (len(recipes), STUDIES, SEEDS)
    failed = rng.random(size) < fails
    return 0.87 + STD * (ahead + rng.standard_normal(size)) - FALL * failed


@cache
def fisher_table(n: int) -> np.ndarray:
    """p of Fisher's test for all pairs of counts of n runs, (n + 1, n + 1)."""
    half = np.array([[fisher_exact_p(a, n, b, n) if a <= b else 0.0 for b in range(n + 1)] for a in range(n + 1)])
    return np.maximum(half, half.T)  # the test is the same for b and a


def shares_p(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """p of Fisher's test of each study."""
    return fisher_table(a.shape[1])[a.sum(1).astype(int), b.sum(1).astype(int)]


def scores_p(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """p of the permutation test within seeds of each study: as `mean_difference`, a few hundred studies at a time."""
    ways = signs(a.shape[1], PERMUTATIONS, 0)
    found = [np.empty(0)]
    for start in range(0, len(a), 200):
        sums = np.abs(ways @ (a - b)[start : start + 200].T)  # (ways, studies)
        found.append((sums >= sums[0] * (1 - TIED)).mean(0))
    return np.concatenate(found)


# ---- the rows -------------------------------------------------------------------------------------------------------


@cache
def level_of(looks: tuple[int, ...], pairs: int) -> float:
    """Level of each look."""
    return pocock_level(looks, ALPHA / pairs)


def measured(decides: str, setting: str, runs: np.ndarray, truths: Sequence[float], test: Test) -> dict:
    """A row.

    Args:
        decides, setting: names.
        runs: (recipes, studies, seeds), whether each run failed, or its score.
        truths: each recipe's true failed share or mean.
        test: gives p.
    """
    pairs = list(combinations(range(len(runs)), 2))
    equal = np.array([truths[a] == truths[b] for a, b in pairs])
    level = level_of(tuple(LOOKS), len(pairs))
    goes_on = np.ones(STUDIES, dtype=bool)
    false, found = np.zeros(STUDIES, dtype=bool), np.zeros(STUDIES, dtype=bool)
    ended, estimate = np.full(STUDIES, SEEDS), np.empty(STUDIES)
    for look in LOOKS:
        p, right = _tested(runs[:, goes_on, :look], pairs, truths, test)
        decided = p <= level
        false[goes_on] |= (decided & equal[:, None]).any(0)
        last = decided.all(0) | (look == SEEDS)
        now = np.flatnonzero(goes_on)[last]
        found[now] = (decided & right)[~equal][:, last].all(0)
        ended[now] = look
        estimate[now] = runs[-1, now, :look].mean(1) - runs[0, now, :look].mean(1)
        goes_on[now] = False
    p, right = _tested(runs, pairs, truths, test)
    adjusted = np.array([holm(own) for own in p.T]).T
    fixed = ((adjusted <= ALPHA) & right)[~equal].all(0)
    early = ended < SEEDS
    values = {
        "false": false.mean() if equal.any() else "",
        "found": found.mean() if not equal.all() else "",
        "found_fixed": fixed.mean() if not equal.all() else "",
        "seeds": ended.mean(),
        "early": early.mean(),
        "truth": truths[-1] - truths[0],
        "estimate": estimate.mean(),
        "estimate_early": estimate[early].mean() if early.sum() >= FEWEST else "",
    }
    text = {key: value if value == "" else f"{value:.4f}" for key, value in values.items()}
    return {"decides": decides, "setting": setting, "n": len(runs), **text, "studies": STUDIES}


def _tested(
    runs: np.ndarray, pairs: Sequence[tuple[int, int]], truths: Sequence[float], test: Test
) -> tuple[np.ndarray, np.ndarray]:
    """p, and whether the difference has the sign of the true one: (pairs, studies) each."""
    p = np.array([test(runs[a], runs[b]) for a, b in pairs])
    signs = [np.sign(runs[a].mean(1) - runs[b].mean(1)) == np.sign(truths[a] - truths[b]) for a, b in pairs]
    return p, np.array(signs)


def rows() -> Iterator[dict]:
    """All rows of `measure`."""
    for k, shares in enumerate(SHARES):
        runs = made_shares(shares, np.random.default_rng([k, 1]))
        name = ", ".join(f"{share:g}" for share in shares)
        yield measured("failed_share", name, runs, shares, shares_p)
    for k, (name, recipes) in enumerate(SCORES.items()):
        runs = made_scores(recipes, np.random.default_rng([k, 2]))
        yield measured("score", name, runs, [STD * ahead - FALL * fails for ahead, fails in recipes], scores_p)


@cache
def results() -> tuple[dict, ...]:
    """The committed rows."""
    return read_rows(RESULTS, "seeds")


# ---- the page -------------------------------------------------------------------------------------------------------


def tables() -> list[str]:
    """The tables of the page, with their headings."""
    text = []
    for decides, head, decimals in (("failed_share", "By failed shares", 2), ("score", "By mean scores", 4)):
        own = [row for row in results() if row["decides"] == decides]
        same = [[row["setting"], _number(row["false"], 3), f"{row['seeds']:.1f}"] for row in own if row["false"]]
        different = [
            [
                row["setting"],
                *(_number(row[key], 2) for key in ("found", "found_fixed")),
                f"{row['seeds']:.1f}",
                *(_number(row[key], decimals) for key in ("truth", "estimate", "estimate_early")),
            ]
            for row in own
            if row["found"]
        ]
        kind = "failed shares" if decides == "failed_share" else "recipes"
        header = [kind, "found", "found by one look at 20", "seeds used", "true difference"]
        text += [
            f"### {head}",
            markdown_table([kind, "studies with a false decision", "seeds used"], same),
            markdown_table([*header, "mean estimate", "mean estimate of studies that stop early"], different),
        ]
    return text


def _number(text: str, decimals: int) -> str:
    return f"{float(text):.{decimals}f}" if text else "-"


def page_text(page: str) -> str:
    """The page with its tables made anew."""
    before, after = page.partition(MARKS[0])[0], page.partition(MARKS[1])[2]
    content = "\n\n".join(tables())
    return f"{before}{MARKS[0]}\n\n{content}\n\n{MARKS[1]}{after}"


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("measure", "report"))
    if parser.parse_args().part == "measure":
        write_rows(RESULTS, COLUMNS, rows())
    else:
        write_text(PAGE, page_text(PAGE.read_text(encoding="utf-8")))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
