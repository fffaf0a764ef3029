"""Two recipes with the same seeds, or with different numbers of runs: which interval and which test of their failed shares?

    nice python benchmarks/statistics_pairs.py measure   # intervals/statistics_pairs.csv
    python benchmarks/statistics_pairs.py report         # intervals/statistics_pairs.md, and the tables of docs/statistics.md
    python benchmarks/statistics_pairs.py seeds          # do the failures in recipes_study/runs.csv go by the seed?

Same seeds: a run of either recipe fails if its own normal number is below a limit. The two numbers of a seed have the correlation 0,
0.5 or 0.9. All counts have a known probability then, so coverage, size and power are sums over all of them, without simulation.
Different numbers of runs: the distributions are those of `statistics_coverage.py`. Failed shares are exact again, means are simulated.

`seeds` takes the pairs of recipes in one part of the study that both have failed runs and others. phi is the correlation of their
failures over the seeds. The test shuffles the seeds of each recipe by itself; its statistic is the mean phi of all pairs.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy.stats import binom, multinomial, multivariate_normal, norm


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, installed or not
from benchmarks import statistics_coverage as simulation
from benchmarks.csv_rows import read_rows, write_rows
from hf_stability.statistics import (
    fisher_exact_p,
    mcnemar_p,
    mean_difference,
    paired_share_difference_interval,
    share_difference_interval,
)
from hf_stability.utils.files import write_text
from hf_stability.utils.text import markdown_table


HERE, PAGE = simulation.HERE, simulation.PAGE
RUNS = Path(__file__).parent / "recipes_study" / "runs.csv"
MARKS = "<!-- statistics_pairs.py: begin -->", "<!-- statistics_pairs.py: end -->"
ALPHA = 0.05
CORRELATIONS = (0.0, 0.5, 0.9)
UNEQUAL = ((10, 20), (20, 10), (5, 50), (50, 5))
COLUMNS = ("what", "figure", "method", "scores", "correlation", "n", "n_b", "share", "width", "data_sets")
SAME_SEEDS, SHARES, MEANS = "failed shares, the same seeds", "failed shares", "means"
PAIRED, INDEPENDENT = "Newcombe, paired", "Newcombe, independent runs"
MCNEMAR, MID_P, FISHER = "McNemar's exact test", "McNemar's mid-p test", "Fisher's exact test"
PERMUTED = "permutations of Welch's t"


# ---- the same seeds -------------------------------------------------------------------------------------------------


def chances(a: float, b: float, correlation: float) -> np.ndarray:
    """Probability that both fail, only A, only B, neither: (4,).

    Args:
        a: true failed share of A.
        b: of B.
        correlation: of the two normal numbers of a seed, in [0, 1).
    """
    limits, covariance = norm.ppf([a, b]), [[1, correlation], [correlation, 1]]
    both = a * b if correlation == 0 else float(multivariate_normal.cdf(limits, cov=covariance))
    return np.array([both, a - both, b - both, 1 - a - b + both])


@cache
def tables(n: int) -> np.ndarray:
    """All counts of n seeds, (4, ways): both failed, only A, only B, neither."""
    first = np.array([(e, f, g) for e in range(n + 1) for f in range(n + 1 - e) for g in range(n + 1 - e - f)]).T
    return np.concatenate([first, n - first.sum(0, keepdims=True)])


@cache
def rejections(n: int) -> dict[str, np.ndarray]:
    """Which of `tables` each test rejects, (ways,)."""
    e, f, g, _ = tables(n)
    by_counts = np.array([[fisher_exact_p(i, n, j, n) for j in range(n + 1)] for i in range(n + 1)])
    exact = np.array([[mcnemar_p(i, j) for j in range(n + 1)] for i in range(n + 1)])
    point = binom.pmf(f, f + g, 0.5)
    mid = exact[f, g] - np.where(
        f == g, point / 2, point
    )  # Fagerland et al. 2013, BMC Medical Research Methodology 13:91
    found = {MCNEMAR: exact[f, g], MID_P: mid, FISHER: by_counts[e + f, e + g]}
    return {name: p <= ALPHA for name, p in found.items()}


@cache
def intervals(n: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The intervals for all of `tables`, (ways,) each."""
    e, f, g, h = tables(n)
    return {
        PAIRED: paired_share_difference_interval(e, f, g, h),
        INDEPENDENT: share_difference_interval(e + f, n, e + g, n),
    }


def same_seeds_rows() -> Iterator[dict]:
    """Coverage, mean width, size and power where both recipes have the same seeds."""
    for n in simulation.NUMBERS:
        for a, b in simulation.SHARE_PAIRS:
            for correlation in CORRELATIONS:
                chance = multinomial.pmf(tables(n).T, n, chances(a, b, correlation))
                name = f"{a:g} and {b:g} fail"
                for method, (low, high) in intervals(n).items():
                    hit, width = chance[holds(low, high, a - b)].sum(), chance @ (high - low)
                    yield row("coverage", SAME_SEEDS, method, name, (n, n), hit, correlation, width)
                what = "size" if a == b else "power"
                for method, rejected in rejections(n).items():
                    yield row(what, SAME_SEEDS, method, name, (n, n), chance[rejected].sum(), correlation)


def holds(low: np.ndarray, high: np.ndarray, truth: float) -> np.ndarray:
    """Which intervals have the true value. A difference of two shares such as 0.5 - 0.2 is rounded."""
    return (low <= truth + 1e-12) & (truth - 1e-12 <= high)


def row(what, figure, method, scores, n, share, correlation="", width="", data_sets: object = "exact") -> dict:
    """A row of the table; n is (n_a, n_b)."""
    width = f"{width:.4g}" if width != "" else ""
    values = (what, figure, method, scores, correlation, *n, f"{share:.4f}", width, data_sets)
    return dict(zip(COLUMNS, values, strict=True))


# ---- different numbers of runs --------------------------------------------------------------------------------------


def unequal_share_rows() -> Iterator[dict]:
    """Failed shares of independent runs: exact."""
    for n_a, n_b in UNEQUAL:
        i, j = np.arange(n_a + 1)[:, None], np.arange(n_b + 1)
        low, high = share_difference_interval(i, n_a, j, n_b)
        rejected = np.array([[fisher_exact_p(k, n_a, m, n_b) <= ALPHA for m in j.tolist()] for k in range(n_a + 1)])
        for a, b in simulation.SHARE_PAIRS:
            chance, name = binom.pmf(i, n_a, a) * binom.pmf(j, n_b, b), f"{a:g} and {b:g} fail"
            hit, width = chance[holds(low, high, a - b)].sum(), (chance * (high - low)).sum()
            yield row("coverage", SHARES, INDEPENDENT, name, (n_a, n_b), hit, width=width)
            yield row("size" if a == b else "power", SHARES, FISHER, name, (n_a, n_b), chance[rejected].sum())


def unequal_mean_rows() -> Iterator[dict]:
    """Means of independent runs: simulated, as `statistics_coverage.mean_rows`."""
    for n_a, n_b in UNEQUAL:
        for k, (name, (a, b)) in enumerate(simulation.PAIRS.items()):
            same = name in simulation.SAME_MEAN
            truth = 0.0 if same else simulation.true_values(a)[0] - simulation.true_values(b)[0]
            rng, sets = np.random.default_rng([n_a, n_b, k, 8]), simulation.DATA_SETS
            drawn = a.draw(rng, (sets, n_a)), b.draw(rng, (sets, n_b))
            found = [mean_difference(*rows, False, simulation.PERMUTATIONS) for rows in zip(*drawn, strict=True)]
            low, high = (np.array([getattr(one, end) for one in found]) for end in ("low", "high"))
            hit, width = holds(low, high, truth).mean(), np.median(high - low)
            yield row("coverage", MEANS, "Welch's t", name, (n_a, n_b), hit, width=width, data_sets=sets)
            rejected = np.mean([one.p <= ALPHA for one in found])
            what = "size" if same else "power"
            yield row(what, MEANS, PERMUTED, name, (n_a, n_b), rejected, data_sets=sets)


# ---- failures by seed in the recipes' study -------------------------------------------------------------------------


def failures() -> dict[str, np.ndarray]:
    """By part of the study: (recipes, seeds), 1 for a failed run. Only recipes that have failed runs and others."""
    found: dict[str, dict[str, dict[int, int]]] = {}
    with open(RUNS, newline="", encoding="utf-8") as file:
        for run in csv.DictReader(file):
            own = found.setdefault(run["part"], {}).setdefault(run["recipe"], {})
            own[int(run["seed"])] = int(run["failed"])
    parts = {}
    for part, recipes in found.items():
        arrays = [np.array([own[seed] for seed in sorted(own)]) for own in recipes.values()]
        varying = [array for array in arrays if 0 < array.sum() < len(array)]
        if len(varying) > 1:
            parts[part] = np.stack(varying)
    return parts


def phis(failed: np.ndarray) -> np.ndarray:
    """phi of each pair of recipes, (pairs,); `failed` is (recipes, seeds)."""
    matrix = np.corrcoef(failed)
    return np.array([matrix[i, j] for i, j in combinations(range(len(failed)), 2)])


def seeds_text(shuffles: int = 9999) -> str:
    """Mean phi by part and over all pairs, with the test."""
    parts, rng = failures(), np.random.default_rng(0)
    shuffled = [
        [float(phis(np.stack([rng.permutation(own) for own in failed])).sum()) for failed in parts.values()]
        for _ in range(shuffles)
    ]
    sums = np.array([[float(phis(failed).sum()) for failed in parts.values()], *shuffled])  # (1 + shuffles, parts)
    pairs = np.array([len(phis(failed)) for failed in parts.values()])
    lines = [
        _line(name, len(failed), int(count), sums[:, k] / count)
        for k, ((name, failed), count) in enumerate(zip(parts.items(), pairs, strict=True))
    ]
    recipes = sum(map(len, parts.values()))
    return "\n".join([*lines, _line("all parts", recipes, int(pairs.sum()), sums.sum(1) / pairs.sum())])


def _line(name: str, recipes: int, pairs: int, means: np.ndarray) -> str:
    p = float((np.abs(means) >= np.abs(means[0]) - 1e-12).mean())
    return f"{name}: {recipes} recipes, {pairs} pairs, mean phi {means[0]:+.3f}, p = {p:.4f}"


# ---- the report -----------------------------------------------------------------------------------------------------


@cache
def read() -> tuple[dict, ...]:
    """The committed rows."""
    return read_rows(HERE / "statistics_pairs.csv", "share")


def _rows(what: str, figure: str) -> list[dict]:
    return [row for row in read() if (row["what"], row["figure"]) == (what, figure)]


def ranges(rows: Iterable[dict], keys: tuple[str, ...], columns: dict[str, tuple[int, int]]) -> str:
    """The lowest and the highest share of all settings, by `keys` and numbers of runs."""
    cells: dict[tuple[str, ...], dict[tuple[int, int], list[float]]] = {}
    for row in rows:
        own = cells.setdefault(tuple(row[key] for key in keys), {})
        own.setdefault((row["n"], int(row["n_b"])), []).append(row["share"])
    body = [[*key, *(simulation._range(own[n]) for n in columns.values())] for key, own in cells.items()]
    return markdown_table([*keys, *columns], body)


def same_seeds_tables() -> list[str]:
    """Coverage, width, size and power, the same seeds."""
    columns = {f"n = {n}": (n, n) for n in simulation.NUMBERS}
    keys = ("method", "correlation")
    return [
        "### Failed shares with the same seeds",
        simulation._filled(
            "Coverage of the 95% interval of the difference: the lowest and the highest of six pairs of shares. Exact, a sum over all "
            "counts. Correlation: of the normal numbers that decide whether the two runs of a seed fail."
        ),
        ranges(_rows("coverage", SAME_SEEDS), keys, columns),
        "Mean width of the paired interval, relative to the other one:",
        width_table(),
        "Share of studies with p <= 0.05 although the shares are the same:",
        ranges(_rows("size", SAME_SEEDS), keys, columns),
        "Power with 20 seeds:",
        power_table(20),
    ]


def width_table() -> str:
    """Range of the ratio of the mean widths over the pairs of shares, by correlation."""
    widths = {
        (row["method"], row["scores"], row["correlation"], row["n"]): float(row["width"])
        for row in _rows("coverage", SAME_SEEDS)
    }
    body = []
    for correlation in map(str, CORRELATIONS):
        found = [
            [
                own / widths[(INDEPENDENT, *place)]
                for (method, *place), own in widths.items()
                if method == PAIRED and place[1:] == [correlation, n]
            ]
            for n in simulation.NUMBERS
        ]
        body.append([correlation, *map(simulation._range, found)])
    return markdown_table(["correlation", *(f"n = {n}" for n in simulation.NUMBERS)], body)


def power_table(n: int) -> str:
    """Power of each test with n seeds."""
    cells: dict[tuple[str, str], list[str]] = {}
    for row in _rows("power", SAME_SEEDS):
        if row["n"] == n:
            cells.setdefault((row["scores"], row["correlation"]), []).append(f"{row['share']:.3f}")
    return markdown_table(
        ["scores", "correlation", MCNEMAR, MID_P, FISHER], [[*key, *own] for key, own in cells.items()]
    )


def unequal_tables() -> list[str]:
    """Coverage and size, different numbers of runs."""
    columns = {f"{n_a} and {n_b}": (n_a, n_b) for n_a, n_b in UNEQUAL}
    coverage = [*_rows("coverage", SHARES), *_rows("coverage", MEANS)]
    sizes = [*_rows("size", SHARES), *_rows("size", MEANS)]
    kinds = [{**row, "scores": _kind(row)} for row in [*coverage, *sizes]]
    return [
        "### Different numbers of runs",
        simulation._filled(
            "Coverage of the 95% intervals of a difference, A's runs first. Where one recipe fails more often, it is A or B. "
            f"Means: {simulation.DATA_SETS} made-up data sets."
        ),
        ranges(kinds[: len(coverage)], ("figure", "method", "scores"), columns),
        "Share of studies with p <= 0.05 although there is no difference:",
        ranges(kinds[len(coverage) :], ("figure", "method", "scores"), columns),
    ]


def _kind(row: dict) -> str:
    if row["figure"] == SHARES:
        return "all shares"
    return "some runs fail" if "% fail" in row["scores"] else "no run fails"


def to_markdown() -> str:
    """The text of statistics_pairs.md: every setting."""
    text = [
        "# Failed shares with the same seeds, and different numbers of runs",
        simulation._filled(
            "`python benchmarks/statistics_pairs.py report` made this page from statistics_pairs.csv. The settings are described at the "
            "top of that script."
        ),
    ]
    for figure, names in (
        (SAME_SEEDS, ("scores", "correlation", "method")),
        (SHARES, ("scores", "method")),
        (MEANS, ("scores", "method")),
    ):
        for what in ("coverage", "size", "power"):
            cells: dict[tuple[str, ...], dict[str, str]] = {}
            for row in _rows(what, figure):
                n = f"n = {row['n']}" if figure == SAME_SEEDS else f"{row['n']} and {row['n_b']}"
                cells.setdefault(tuple(row[name] for name in names), {})[n] = f"{row['share']:.3f}"
            columns = list(next(iter(cells.values())))
            body = [[*key, *(own[n] for n in columns)] for key, own in cells.items()]
            text += [f"## {figure.capitalize()}: {what}", markdown_table([*names, *columns], body)]
    return "\n\n".join(text) + "\n"


def page_text(page: str) -> str:
    """The page with its tables made anew."""
    before, after = page.partition(MARKS[0])[0], page.partition(MARKS[1])[2]
    content = "\n\n".join([*same_seeds_tables(), *unequal_tables()])
    return f"{before}{MARKS[0]}\n\n{content}\n\n{MARKS[1]}{after}"


def measured_rows() -> Iterator[dict]:
    """All rows of `measure`."""
    yield from same_seeds_rows()
    yield from unequal_share_rows()
    yield from unequal_mean_rows()


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("measure", "report", "seeds"))
    part = parser.parse_args().part
    if part == "measure":
        write_rows(HERE / "statistics_pairs.csv", COLUMNS, measured_rows())
    elif part == "seeds":
        print(seeds_text())
    else:
        write_text(HERE / "statistics_pairs.md", to_markdown())
        write_text(PAGE, page_text(PAGE.read_text(encoding="utf-8")))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
