"""How often do the project's 95% intervals cover the true value? Measured on simulated runs with a known truth.

    nice python benchmarks/interval_coverage.py choose    # candidates on the settings that choose, to intervals/choice.csv
    nice python benchmarks/interval_coverage.py measure   # the same on other settings, to intervals/coverage.csv
    nice python benchmarks/interval_coverage.py others    # the project's other intervals, to intervals/others.csv
    python benchmarks/interval_coverage.py report         # intervals/results.md, from all three

Two statistics have candidates: the paired difference of two recipes' means, and a recipe's mean minus the best of k restarts
of a base. A data set is n runs of each recipe. A run has a quality. Its scores on the selecting half and on the reported half
add the noise of 500 examples. A failed run has 0.490 on both.

The rule was fixed before `measure` ran. The mean shortfall of a candidate is the mean of max(0, 0.95 - coverage) over the
settings of `choose`. Keep the candidates within 0.005 of the smallest shortfall (0.005 is the standard error of a coverage in
2000 data sets). Take the simplest of these, the first in METHODS. The settings of `measure` share no n and no k with those of
`choose`, and no distribution except normal scores. A first try of the candidates, before the rule, had some of them, with other
data sets.

The project's other intervals are measured without candidates: Wilson's (exact, no simulation), the median ratio of timings, the
AUC of the early warning, variance components of two-way seeds.

All data sets of a setting share the bootstrap draws, so that statistics of all draws are matrix products. A test compares the
intervals with those of hf_stability.study.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from scipy.stats import binom, norm
from scipy.stats import t as student


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, installed or not
from benchmarks.csv_rows import read_rows, write_rows
from benchmarks.early_detection import bootstrap
from benchmarks.timing import ratio_interval
from hf_stability.statistics import chance_among, expanded_ends, wilson_interval
from hf_stability.study.report.against_restarts import resample
from hf_stability.study.report.variance_components import bootstrap_components
from hf_stability.utils.files import write_text
from hf_stability.utils.text import markdown_table


HERE = Path(__file__).parent / "intervals"
DATA_SETS, DRAWS, TRUTH_RUNS = 2000, 2000, 2_000_000
LEVEL, NEAR = 0.95, 0.005
FAILED_SCORE = 0.49  # near the majority-class baseline
NOISE = 0.0106  # standard deviation of a score on 500 examples, the part that differs between runs
PAIRED, RESTARTS = "paired difference", "mean minus restarts"
TODAY = "percentile"  # the method before this benchmark
METHODS = (  # simplest first
    TODAY, "t", "expanded percentile", "smoothed percentile", "BCa", "studentised", "studentised, symmetric",
)  # fmt: skip
CHOSEN = {PAIRED: "t", RESTARTS: "expanded percentile"}
COLUMNS = ("interval", "method", "scores", "n", "budget", "coverage", "width", "data_sets")


@dataclass(frozen=True)
class Scores:
    """A distribution of scores.

    Args:
        name: name in the tables.
        quality: draws the qualities of ok runs, given a generator and a size.
        base_fails, other_fails: share of failed runs of the base and of the other recipe.
    """

    name: str
    quality: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
    base_fails: float = 0.0
    other_fails: float = 0.0


def normal(rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    """Qualities from N(0.87, 0.0106); with the noise, scores have a standard deviation of 0.015."""
    return rng.normal(0.87, 0.0106, size)


CHOICE = (
    Scores("normal", normal),
    Scores("skewed to the right", lambda rng, size: 0.86 + rng.gamma(1.0, 0.012, size)),
    Scores("base fails 30%", normal, 0.3),
    Scores("base fails 60%", normal, 0.6),
)
MEASURED = (
    Scores("normal", normal),
    Scores("skewed to the left", lambda rng, size: 0.885 - rng.gamma(1.0, 0.015, size)),
    Scores("heavy tails (t, 4 degrees of freedom)", lambda rng, size: 0.87 + 0.008 * rng.standard_t(4, size)),
    Scores("uniform, 0.55 to 0.95", lambda rng, size: rng.uniform(0.55, 0.95, size)),
    Scores("base fails 10%", normal, 0.1),
    Scores("base fails 50%", normal, 0.5),
    Scores("base fails 80%", normal, 0.8),
    Scores("base fails 50%, the other 20%", normal, 0.5, 0.2),
)
PARTS = {  # distributions, n, budgets
    "choice": (CHOICE, (8, 16), (1.25, 2.5, 6.0)),
    "coverage": (MEASURED, (5, 10, 20, 50), (1.5, 3.0, 6.67, 8.33)),
}


# ---- made runs and the truth ----------------------------------------------------------------------------------------


def made_runs(scores: Scores, rng: np.random.Generator, size: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """Reported scores of the other recipe, then selecting and reported scores of the base; each has shape `size`."""
    selecting, reported = _two_halves(scores.quality, scores.base_fails, rng, size)
    return _two_halves(normal, scores.other_fails, rng, size)[1] + 0.02, selecting, reported


def _two_halves(quality: Callable, fails: float, rng: np.random.Generator, size: tuple[int, ...]) -> list[np.ndarray]:
    values, failed = quality(rng, size), rng.random(size) < fails
    return [np.where(failed, FAILED_SCORE, values + rng.normal(0, NOISE, size)) for _ in range(2)]


@cache
def true_means(scores: Scores) -> tuple[float, float]:
    """True mean of the other recipe, then of the base."""
    other, _, reported = made_runs(scores, np.random.default_rng(1), (TRUTH_RUNS,))
    return float(other.mean()), float(reported.mean())


@cache
def true_best(scores: Scores, budget: float) -> float:
    """True expected reported score of the best of `budget` runs of the base."""
    _, selecting, reported = made_runs(scores, np.random.default_rng(1), (TRUTH_RUNS,))
    chance = chance_among(np.arange(TRUTH_RUNS + 1), budget, TRUTH_RUNS, replace=True)
    return float(np.diff(chance) @ reported[np.argsort(selecting, kind="stable")])


# ---- candidates, for many data sets at once -------------------------------------------------------------------------

Interval = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Drawn:
    """A statistic of D data sets, and of B bootstrap draws of each.

    Args:
        estimate: (D,).
        error: (D,), its standard error.
        plug_in: (D,), the true value of the draws: the mean over draws if the statistic has no bias.
        draws: (D, B), the statistic of each draw.
        errors: (D, B), the standard error of each draw.
        acceleration: (D,), for BCa.
        freedom: degrees of freedom of the t interval.
        lowest, highest: (D,), bounds of the statistic by the known scores.
    """

    estimate: np.ndarray
    error: np.ndarray
    plug_in: np.ndarray
    draws: np.ndarray
    errors: np.ndarray
    acceleration: np.ndarray
    freedom: int
    lowest: np.ndarray
    highest: np.ndarray


def candidates(drawn: Drawn) -> dict[str, Interval]:
    """Low and high ends of each candidate, each (D,)."""
    estimate, error = drawn.estimate, drawn.error
    centred = drawn.draws - drawn.draws.mean(1, keepdims=True)
    ends = np.array([(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    t = student.ppf(ends[1], drawn.freedom)
    found = {TODAY: _shifted(estimate, np.quantile(centred, ends, axis=1))}
    n = drawn.freedom + 1
    found["t"] = estimate - t * error, estimate + t * error
    found["expanded percentile"] = _shifted(estimate, np.quantile(centred, expanded_ends(n, LEVEL), axis=1))
    deviation, tiny = drawn.draws - drawn.plug_in[:, None], 1e-10
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = deviation / drawn.errors
    ratio = np.where(
        drawn.errors > tiny, ratio, np.where(np.abs(deviation) <= tiny, 0, np.copysign(np.inf, deviation))
    )
    low, high = np.quantile(ratio, ends, axis=1, method="nearest")
    bound = np.minimum(drawn.lowest, estimate), np.maximum(drawn.highest, estimate)
    with np.errstate(invalid="ignore"):
        whole = estimate - high * error, estimate - low * error
        found["studentised"] = np.fmax(whole[0], bound[0]), np.fmin(whole[1], bound[1])
        half = np.quantile(np.abs(ratio), LEVEL, axis=1, method="nearest") * error
    found["studentised, symmetric"] = np.fmax(estimate - half, bound[0]), np.fmin(estimate + half, bound[1])
    found["BCa"] = _bca(drawn, deviation, ends)
    smooth = np.random.default_rng(2).standard_normal(drawn.draws.shape[1]) * error[:, None] / np.sqrt(n)
    found["smoothed percentile"] = _shifted(estimate, np.quantile(centred + smooth, ends, axis=1))
    return {method: found[method] for method in METHODS}


def _shifted(estimate: np.ndarray, ends: np.ndarray) -> Interval:
    return estimate + ends[0], estimate + ends[1]


def _bca(drawn: Drawn, deviation: np.ndarray, ends: np.ndarray) -> Interval:
    """Bias-corrected and accelerated interval (Efron 1987, JASA 82, p. 171) from the deviations of the draws."""
    number = deviation.shape[1]
    below = (deviation < 0).mean(1) + 0.5 * (deviation == 0).mean(1)
    bias = norm.ppf(below.clip(1 / number, 1 - 1 / number))
    ordered = np.sort(deviation, axis=1)
    found = []
    for z in norm.ppf(ends):
        share = norm.cdf(bias + (bias + z) / (1 - drawn.acceleration * (bias + z)))
        place = (share * number).astype(int).clip(0, number - 1)
        found.append(drawn.estimate + ordered[np.arange(len(ordered)), place])
    return found[0], found[1]


def paired(scores: Scores, n: int, rng: np.random.Generator) -> Drawn:
    """The mean paired difference of D data sets of n runs."""
    other, _, reported = made_runs(scores, rng, (DATA_SETS, n))
    difference = other - reported
    return mean_drawn(difference, resample(n, DRAWS, np.random.default_rng(0)))


def mean_drawn(values: np.ndarray, times: np.ndarray) -> Drawn:
    """The mean of each row of `values` (D, n) and of each draw; `times` (B, n) is how often a draw has each run."""
    n = values.shape[1]
    mean = values.mean(1)
    centred = values - mean[:, None]
    moved = centred @ times.T / n
    variance = (centred**2 @ times.T / n - moved**2).clip(0) / (n - 1)
    acceleration = (centred**3).sum(1) / (6 * (centred**2).sum(1) ** 1.5 + 1e-300)
    error = centred.std(1, ddof=1) / np.sqrt(n)
    return Drawn(
        mean, error, mean, mean[:, None] + moved, np.sqrt(variance), acceleration, n - 1, values.min(1), values.max(1)
    )


def against_restarts(scores: Scores, n: int, budget: float, rng: np.random.Generator) -> Drawn:
    """The other recipe's mean minus the best of `budget` restarts of the base, for D data sets of n runs each."""
    return restarts_drawn(*made_runs(scores, rng, (DATA_SETS, n)), budget, *_resamples(n, DRAWS))


@cache
def _resamples(n: int, draws: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return resample(n, draws, generator), resample(n, draws, generator)


def restarts_drawn(
    other: np.ndarray, select: np.ndarray, report: np.ndarray, budget: float, own: np.ndarray, others: np.ndarray
) -> Drawn:
    """The statistic of hf_stability.study.report.against_restarts, for D rows of n runs.

    Runs with the same `select` must have the same `report`."""
    n = report.shape[1]
    ordered = np.take_along_axis(report, np.argsort(select, axis=1, kind="stable"), 1)
    level = ordered.mean(1)
    centred = ordered - level[:, None]  # a shift moves all statistics alike; small values round less
    whole = np.ones((1, n))
    best, best_draws = (centred @ _best_weights(times, budget).T for times in (whole, own))
    with_replacement = centred @ np.diff(chance_among(np.arange(n + 1), budget, n, replace=True))
    products = (centred[:, :, None] * centred[:, None, :]).reshape(len(centred), -1)
    variance, variances = ((products @ _variance_products(times, budget).T).clip(0) for times in (whole, own))
    left_out = centred @ _left_out_weights(whole, budget)[0].T  # (D, n)
    mean = mean_drawn(other, others)
    skew = ((left_out.mean(1, keepdims=True) - left_out) * (n - 1)) / n  # for the runs of the base
    moves = (other - other.mean(1, keepdims=True)) / other.shape[1]
    acceleration = ((moves**3).sum(1) - (skew**3).sum(1)) / (
        6 * ((moves**2).sum(1) + (skew**2).sum(1)) ** 1.5 + 1e-300
    )
    return Drawn(
        mean.estimate - best[:, 0] - level,
        np.sqrt(mean.error**2 + variance[:, 0]),
        mean.estimate - with_replacement - level,
        mean.draws - best_draws - level[:, None],
        np.sqrt(mean.errors**2 + variances),
        acceleration,
        n - 1,
        other.min(1) - report.max(1),
        other.max(1) - report.min(1),
    )


def _best_weights(times: np.ndarray, budget: float) -> np.ndarray:
    """(B, n): weights of the ordered runs. The weighted sum is the best of `budget`, without replacement."""
    n = times.shape[1]
    chance = chance_among(np.arange(n + 1), budget, n, replace=False)
    at_most = np.concatenate([np.zeros((len(times), 1)), times.cumsum(1)], 1).astype(int)
    return np.diff(chance[at_most])


def _left_out_weights(times: np.ndarray, budget: float) -> np.ndarray:
    """(B, n, n): the same with replacement, with one copy of a run (the second axis) left out."""
    n = times.shape[1]
    chance = chance_among(np.arange(n), budget, n - 1, replace=True)
    fewer = times.cumsum(1)[:, None, :] - (np.arange(n) >= np.arange(n)[:, None])
    fewer = np.concatenate([np.zeros((len(times), n, 1)), fewer], 2).clip(0, n - 1).astype(int)
    return np.diff(chance[fewer])


def _variance_products(times: np.ndarray, budget: float) -> np.ndarray:
    """(B, n * n): weights of the products of all pairs of runs. The weighted sum is the jackknife variance."""
    return _cached_products(times.tobytes(), times.shape, budget)


@cache
def _cached_products(content: bytes, shape: tuple[int, int], budget: float) -> np.ndarray:
    times = np.frombuffer(content).reshape(shape)
    n = shape[1]
    found = np.empty((len(times), n * n))
    for first in range(0, len(times), 200):
        part = times[first : first + 200]
        weights = _left_out_weights(part, budget)
        weights -= (part[:, :, None] * weights).sum(1, keepdims=True) / n
        weights *= np.sqrt((n - 1) / n * part)[:, :, None]
        found[first : first + 200] = np.matmul(weights.transpose(0, 2, 1), weights).reshape(len(part), -1)
    return found


# ---- the parts ------------------------------------------------------------------------------------------------------


def covered(interval: Interval, truth: float | np.ndarray) -> float:
    """Share of intervals that cover the true value."""
    return float(((interval[0] <= truth) & (truth <= interval[1])).mean())


def part_rows(part: str) -> Iterator[dict]:
    """A row per candidate and setting of a part."""
    distributions, numbers, budgets = PARTS[part]
    for n in numbers:
        for scores in distributions:
            seed = [len(part), n, distributions.index(scores)]
            other, base = true_means(scores)
            yield from _rows(PAIRED, scores, n, "", paired(scores, n, np.random.default_rng(seed)), other - base)
        for budget in budgets:
            for scores in distributions if budget <= n else ():
                seed = [len(part), n, distributions.index(scores), int(100 * budget)]
                drawn = against_restarts(scores, n, budget, np.random.default_rng(seed))
                yield from _rows(RESTARTS, scores, n, budget, drawn, true_means(scores)[0] - true_best(scores, budget))
            _cached_products.cache_clear()


def _rows(interval: str, scores: Scores, n: int, budget: float | str, drawn: Drawn, truth: float) -> Iterator[dict]:
    found = candidates(drawn)
    today = float(np.median(found[TODAY][1] - found[TODAY][0]))
    for method, ends in found.items():
        width = float(np.median(ends[1] - ends[0])) / today
        yield _row(interval, method, scores.name, n, budget, covered(ends, truth), f"{width:.3f}", len(ends[0]))


def _row(interval, method, scores, n, budget, coverage, width, data_sets) -> dict:
    values = interval, method, scores, n, budget, f"{coverage:.4f}", width, data_sets
    return dict(zip(COLUMNS, values, strict=True))


def other_rows() -> Iterator[dict]:
    """The rows of the intervals without candidates."""
    shares = np.arange(0.01, 0.995, 0.01)
    for n in (5, 10, 20, 50):
        counts = np.arange(n + 1)
        low, high = wilson_interval(counts, n)
        for p in shares:
            coverage = float(binom.pmf(counts, n, p)[(low <= p) & (p <= high)].sum())
            yield _row("failed share", "Wilson", f"{p:.2f} fail", n, "", coverage, "", "exact")
    rng = np.random.default_rng(3)
    for n in (10, 20, 30):
        for name, made in (
            ("normal", rng.normal(1, 0.03, (1000, n))),
            ("skewed to the right", np.exp(0.05 * rng.standard_exponential((1000, n)))),
        ):
            truth = 1.0 if name == "normal" else 2**0.05
            ends = np.array([ratio_interval({"a": row, "b": np.ones(n)}, "a", "b", n_boot=2000)[1:] for row in made])
            yield _row("median ratio of timings", TODAY, name, n, "", covered(tuple(ends.T), truth), "", 1000)
    for n, area in ((50, 0.8), (50, 0.95), (50, 0.99)):
        failed = np.arange(2 * n) < n
        values = rng.normal(0, 1, (200, 2 * n)) + np.where(failed, np.sqrt(2) * norm.ppf(area), 0)
        ends = np.array([np.quantile(bootstrap(row[None], failed)[0], [0.025, 0.975]) for row in values])
        yield _row("AUC of early warning", TODAY, f"normal, AUC {area}", n, "", covered(tuple(ends.T), area), "", 200)
    yield from two_way_rows()


SOURCES = "initialisation", "data order", "interaction", "dropout"


def two_way_rows(designs: int = 500, draws: int = 500) -> Iterator[dict]:
    """The rows of the variance components of crossed seeds, strong and weak ones."""
    rng = np.random.default_rng(4)
    failing = lambda size: (rng.binomial(1, 0.2, size) - 0.2) / 0.4  # noqa: E731 - variance 1, a fifth is low
    for shape in ((5, 5, 2), (5, 10, 3), (10, 10, 2)):
        for variances in ((0.25, 0.25, 0.2, 0.3), (0.3, 0.0, 0.0, 0.3)):
            for name, effect in (("normal effects", lambda size: rng.normal(size=size)), ("a fifth fails", failing)):
                i, j, r = shape
                sizes = (designs, i, 1, 1), (designs, 1, j, 1), (designs, i, j, 1), (designs, i, j, r)
                scores = 0.6 + sum(v**0.5 * effect(size) for v, size in zip(variances, sizes, strict=True))
                drawn = np.array([bootstrap_components(one, rng, draws) for one in scores])
                ends = np.quantile(drawn, [0.025, 0.975], axis=1)
                for k, source in enumerate(SOURCES):
                    n = shape[k] if k < 2 else i * j
                    what = f"{source} {variances[k]:g} of {sum(variances):g}, {name}, {i} x {j} x {r}"
                    hit = covered((ends[0][:, k], ends[1][:, k]), variances[k])
                    yield _row("variance component", TODAY, what, n, "", hit, "", designs)


def write(name: str, rows: Iterator[dict]) -> None:
    """Write a table of rows to HERE, as .csv."""
    write_rows(HERE / f"{name}.csv", COLUMNS, rows)


@cache
def read(name: str) -> tuple[dict, ...]:
    """The committed rows of a table."""
    return read_rows(HERE / f"{name}.csv", "coverage")


def choose(rows: tuple[dict, ...], interval: str) -> str:
    """The candidate that the rule picks."""
    table = candidates_table(rows, interval)
    least = min(shortfall for shortfall, _ in table.values())
    return next(method for method in METHODS if table[method][0] <= least + NEAR)


def candidates_table(rows: tuple[dict, ...], interval: str) -> dict[str, tuple[float, float]]:
    """By candidate: mean shortfall, and mean width relative to the method before."""
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row["interval"] == interval:
            found.setdefault(row["method"], []).append((max(0.0, LEVEL - row["coverage"]), float(row["width"])))
    return {method: tuple(np.mean(values, 0).tolist()) for method, values in found.items()}


def measured(interval: str, n: int, method: str = "") -> tuple[float, float, float]:
    """Lowest, median and highest coverage over the settings of `measure` at n; default: of the chosen method."""
    method = method or CHOSEN[interval]
    found = [
        row["coverage"]
        for row in read("coverage")
        if (row["interval"], row["method"], row["n"]) == (interval, method, n)
    ]
    if not found:
        raise SystemExit(f"{interval}, {method}: not measured at n = {n}; add it to PARTS and run `measure`.")
    return min(found), float(np.median(found)), max(found)


def coverage_text(interval: str, n: int) -> str:
    """The coverage for a table's label: `covers 0.87 to 0.97, median 0.94, in simulations at n = 20`."""
    low, median, high = (f"{value:.2f}" for value in measured(interval, n))
    return f"covers {low} to {high}, median {median}, in simulations at n = {n}"


# ---- the report -----------------------------------------------------------------------------------------------------


def to_markdown() -> str:
    """The text of results.md."""
    notes = [
        "`python benchmarks/interval_coverage.py report` made this page from choice.csv, coverage.csv and others.csv.",
        f"Coverage is the share of simulated data sets with a 95% interval that covers the true value. With {DATA_SETS} data sets "
        "its standard error is 0.005.",
        "An interval made from the runs cannot know of a kind of run that is not among them. If 10% of runs fail, 12% of data sets "
        "of 20 runs have no failed run, and 59% of data sets of 5 runs.",
        "With a budget near n the best of k depends on one or two runs. All methods then cover too little.",
    ]
    text = ["# How often the 95% intervals cover the true value", "\n".join(_item(note) for note in notes)]
    text += ["## The choice", textwrap.fill(" ".join(_rule().split()), 120)]
    for interval, chosen in CHOSEN.items():
        table = candidates_table(read("choice"), interval)
        rows = [[method, f"{short:.3f}", f"{width:.2f}"] for method, (short, width) in table.items()]
        text += [
            f"{interval.capitalize()}; chosen: {chosen}.",
            markdown_table(["method", "mean shortfall", "width / percentile's"], rows),
        ]
    text.append("## Measured on other settings")
    for interval, chosen in CHOSEN.items():
        text.append(f"### {interval}")
        numbers = PARTS["coverage"][1]
        rows = [
            [method, *("{} ({} to {})".format(*_median_first(interval, n, method)) for n in numbers)]
            for method in METHODS
        ]
        text += [
            "Median coverage over the settings (lowest to highest):",
            markdown_table(["method", *(f"n = {n}" for n in numbers)], rows),
        ]
        text += [
            f"All settings: coverage of {chosen} (of percentile, the method before):",
            _every_setting(interval, chosen),
        ]
    text += ["## The other intervals", _others()]
    return "\n\n".join(text) + "\n"


def _item(note: str) -> str:
    return textwrap.fill(f"- {note}", 120, subsequent_indent="  ")


def _rule() -> str:
    return __doc__.split("\n\n")[3]


def _median_first(interval: str, n: int, method: str) -> list[str]:
    low, median, high = measured(interval, n, method)
    return [f"{value:.2f}" for value in (median, low, high)]


def _every_setting(interval: str, chosen: str) -> str:
    cells: dict[tuple[str, str], dict[int, dict[str, float]]] = {}
    for row in read("coverage"):
        if row["interval"] == interval and row["method"] in (chosen, TODAY):
            cells.setdefault((row["scores"], row["budget"]), {}).setdefault(row["n"], {})[row["method"]] = row[
                "coverage"
            ]
    numbers = PARTS["coverage"][1]

    def cell(found: dict[str, float] | None) -> str:
        return f"{found[chosen]:.3f} ({found[TODAY]:.3f})" if found else ""

    rows = [[scores, budget, *(cell(by_n.get(n)) for n in numbers)] for (scores, budget), by_n in cells.items()]
    header = ["scores", "restarts", *(f"n = {n}" for n in numbers)]
    if not any(budget for _, budget in cells):
        rows, header = [[row[0], *row[2:]] for row in rows], [header[0], *header[2:]]
    return markdown_table(header, rows)


def _others() -> str:
    found: dict[tuple[str, str, int], list[float]] = {}
    for row in read("others"):
        interval = row["interval"]
        if interval == "variance component":
            interval += f", {'strong' if _is_strong(row['scores']) else 'small, interaction or dropout'}"
            interval += ", a fifth fails" if "a fifth fails" in row["scores"] else ", normal"
        found.setdefault((interval, row["method"], row["n"]), []).append(row["coverage"])
    rows = [
        [
            interval,
            method,
            str(n),
            str(len(values)),
            *(f"{v:.3f}" for v in (min(values), np.median(values), max(values))),
        ]
        for (interval, method, n), values in sorted(found.items())
    ]
    return markdown_table(["interval", "method", "n", "settings", "lowest", "median", "highest"], rows)


def _is_strong(scores: str) -> bool:
    """Whether a variance component is that of a kind of seed (initialisation, data order), and not 0."""
    return scores.startswith(SOURCES[:2]) and " 0 of" not in scores


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("choose", "measure", "others", "report"))
    part = parser.parse_args().part
    if part == "choose":
        write("choice", part_rows("choice"))
        for interval in CHOSEN:
            print(interval, candidates_table(read("choice"), interval), "chosen:", choose(read("choice"), interval))
    elif part == "measure":
        write("coverage", part_rows("coverage"))
    elif part == "others":
        write("others", other_rows())
    else:
        write_text(HERE / "results.md", to_markdown())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
