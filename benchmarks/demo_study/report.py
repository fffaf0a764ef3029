"""The results of the demo's studies: tables and figures, from the folders that run.py left. See PROTOCOL.md, "Analysis".

    python benchmarks/demo_study/report.py --output_dir studies
    python benchmarks/demo_study/report.py --from_csv    # make choose.md and confirm.md again from the committed runs.csv

Writes choose.md, confirm.md, runs.csv, rates.png/.svg and figures of the study to results/ beside this file: scores.png and
score_against_train_loss.png of the three recipes, gradient_norms.png of devlin2019.
"""

from __future__ import annotations

import argparse
import csv
import io
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import run as study  # run.py beside this file; it also puts the clone on the path

from benchmarks.interval_coverage import PAIRED, coverage_text
from hf_stability.diagnostics.step_record import read_steps
from hf_stability.methods.adamw import effective_step_factor
from hf_stability.statistics import brown_forsythe, fisher_exact_p, holm, t_interval, wilson_interval
from hf_stability.study.folder import read_runs
from hf_stability.study.prepare import parse_seeds
from hf_stability.study.records import RunRecord
from hf_stability.study.report.figures import draw_figures
from hf_stability.study.report.summary import summarize
from hf_stability.study.report.summary_page import RUN_COLUMNS, failed_text
from hf_stability.tasks.demo.data import demo_splits
from hf_stability.utils.files import write_text
from hf_stability.utils.text import decimal, markdown_table
from hf_stability.verdicts.constants import label_entropy
from hf_stability.verdicts.verdict import NOT_OK


RESULTS = Path(__file__).parent / "results"
CONTRASTS = (  # PROTOCOL.md, "Analysis", 4
    ("on_3", "devlin2019"),
    ("off_3_mean_factor", "on_3"),
    ("off_3_factor", "on_3"),
    ("off_3_long_warmup", "devlin2019"),
    ("off_20", "mosbach2021"),
)
GAP = 0.95  # share of the label entropy
RESAMPLES = 9999
SCORES = {"mean": "mean", "std": "std", "std of runs that did not fail": "std_ok", "median": "median", "max": "max"}
"""Columns of the accuracies -> key of the figure in a summary."""


def failed(run: RunRecord) -> bool:
    """Whether a run failed or diverged."""
    return run.status in NOT_OK


def check_complete(runs: list[RunRecord]) -> None:
    """Raise SystemExit unless the confirmatory run has all arms with all seeds, and no others."""
    wanted = {
        (arm, seed)
        for arm in study.confirm_arms(study.RATE, study.BEST_RATES)
        for seed in parse_seeds(study.CONFIRM_SEEDS)
    }
    found = {(run.recipe, run.seed) for run in runs}
    if found != wanted:
        missing, more = sorted(wanted - found), sorted(found - wanted)
        raise SystemExit(
            f"part confirm is not that of the protocol: missing {missing[:5]} ..., too many {more[:5]} ...; run `run.py confirm` again."
        )


def by_arm(runs: list[RunRecord]) -> dict[str, list[RunRecord]]:
    """By arm, its runs in the order of seeds."""
    arms: dict[str, list[RunRecord]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        arms.setdefault(run.recipe, []).append(run)
    return arms


def sign_flip_p(differences: np.ndarray) -> float:
    """p of a permutation test for a mean difference of 0: random sign flips, two-sided; exact up to 13 pairs."""
    from scipy.stats import permutation_test

    result = permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=RESAMPLES, rng=np.random.default_rng(0)
    )
    return float(result.pvalue)


def constant_loss(folder: Path) -> float:
    """Entropy (nats) of the training labels that a run has seen: the train loss of the best constant prediction."""
    return float(label_entropy(np.nansum(read_steps(folder / "steps.rec")["labels"], axis=0)))


def training_entropy() -> float:
    """Entropy (nats) of the task's training labels; that of `constant_loss` for runs of whole epochs."""
    return float(label_entropy(np.bincount([row["label"] for row in demo_splits(study.TASK)["train"]])))


def summed_rate(folder: Path, corrected: bool) -> float:
    """Sum over the update steps of learning rate x factor(t), the part of the distance that the learning rate decides."""
    record = read_steps(folder / "steps.rec")
    return float((record["learning_rate"] * effective_step_factor(record["step"], bias_correction=corrected)).sum())


def p_text(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def share(count: int, n: int) -> str:
    low, high = wilson_interval(count, n)
    return f"{count} of {n} ({float(low):.2f}-{float(high):.2f})"


def choice_text(runs: list[RunRecord]) -> str:
    """The grid, and the choice by the rules of the protocol."""
    arms, rows = by_arm(runs), []
    best: dict[str, tuple[float, float]] = {}
    shares, common_seeds = {}, parse_seeds(study.CHOICE_SEEDS)
    for recipe in study.RECIPES:
        for rate in study.GRID:
            own = arms.get(study.arm_name(recipe, rate), [])
            first = [run.last for run in own if run.seed in common_seeds]
            if not own:
                continue
            count, mean = sum(map(failed, own)), float(np.mean(first))
            rows.append([recipe, f"{rate:g}", share(count, len(own)), f"{mean:.3f}", f"{np.median(first):.3f}"])
            if recipe not in best or mean > best[recipe][0]:
                best[recipe] = mean, rate
            if recipe == "devlin2019":
                shares[rate] = count / len(own)
    header = [
        "recipe",
        "learning rate",
        "failed (95% interval)",
        "mean accuracy, seeds 1000-1003",
        "median, the same seeds",
    ]
    nearest = min(shares, key=lambda rate: (round(abs(shares[rate] - 0.5), 9), rate))
    lines = [
        "# Choice of the learning rate",
        "First half of the development set; see PROTOCOL.md. `failed` counts all seeds that were run.",
        markdown_table(header, rows),
        f"The demo's learning rate: {nearest:g} (failed share of devlin2019: {shares[nearest]:.2f}).",
        "The best learning rate of each recipe: "
        + ", ".join(f"{recipe} {rate:g}" for recipe, (_, rate) in best.items())
        + ".",
    ]
    return "\n\n".join(lines) + "\n"


def confirm_text(runs: list[RunRecord], entropy_of: Callable[[RunRecord], float]) -> str:
    """The results of the confirmatory run, in the order of the protocol's analysis.

    Args:
        runs: all its runs.
        entropy_of: the label entropy (nats) of a run.
    """
    arms = by_arm(runs)
    names = list(study.confirm_arms(study.RATE, study.BEST_RATES))
    counts = {name: (sum(map(failed, arms[name])), len(arms[name])) for name in names}
    a, b = counts["devlin2019"], counts["mosbach2021"]
    window = 0.3 <= a[0] / a[1] <= 0.7
    scores = {name: np.array([run.last for run in arms[name]]) for name in ("devlin2019", "mosbach2021")}
    spread, stds = brown_forsythe(*scores.values()), [f"{values.std(ddof=1):.3f}" for values in scores.values()]
    lines = [
        "# The confirmatory run",
        f"Second half of the development set. The learning rate is {study.RATE:g}, unless the arm has its own; see PROTOCOL.md.",
        f"1. Primary: devlin2019 failed {share(*a)}, mosbach2021 {share(*b)}; Fisher's exact p = {fisher_exact_p(*a, *b):.2g}.",
        f"2. Window (0.3 to 0.7 of the devlin2019 runs fail): {'met' if window else 'not met'}, {a[0] / a[1]:.2f}.",
        f"3. {gap_sentence(runs, entropy_of)}",
        contrasts_text(arms),
        "5. The paper's comparison, spread included:",
        arms_table([*arms["devlin2019"], *arms["mosbach2021"]]),
        f"The std of devlin2019 is {stds[0]}, that of mosbach2021 {stds[1]}. Brown-Forsythe: F(1, {sum(spread.n) - 2}) = "
        f"{spread.f:.2f}, p {'< 0.001' if spread.p < 0.001 else f'= {spread.p:.3f}'}. This is Levene's test about the median, for "
        "comparison with the paper's Levene test.",
        "## All arms",
        "Only the comparisons of 1 and 4 were planned. Accuracy at the end of training; std with ddof = 1. The std of runs that did "
        "not fail is comparable only where no run failed.",
        arms_table([run for name in names for run in arms[name]]),
        "## Accuracies by seed",
        markdown_table(
            ["arm", "accuracy at the end of training, seed by seed; * failed"],
            [[name, " ".join(f"{run.last:.3f}" + "*" * failed(run) for run in arms[name])] for name in names],
        ),
    ]
    return "\n\n".join(lines) + "\n"


def arms_table(runs: Sequence[RunRecord]) -> str:
    """A row per arm: failed runs and accuracies."""
    rows = [
        [
            figures["recipe"],
            str(figures["runs"]),
            failed_text(figures),
            *(decimal(figures[key]) for key in SCORES.values()),
        ]
        for figures in summarize(runs)["recipes"]
    ]
    return markdown_table(["arm", "runs", "failed = share (95% interval)", *SCORES], rows)


def contrasts_text(arms: dict[str, list[RunRecord]]) -> str:
    """The contrasts of PROTOCOL.md, "Analysis", 4."""
    n = min(len(arms[name]) for pair in CONTRASTS for name in pair)
    note = (
        f"Differences are first minus second, paired by seed. Their intervals are t intervals ({coverage_text(PAIRED, n)}). Each p "
        "is corrected by Holm over the five contrasts. It is from Fisher's exact test for the failed runs, and from a permutation "
        "test (sign flips) for the means."
    )
    return "\n\n".join(["4. Bias correction or a lower learning rate?", markdown_table(*contrast_table(arms)), note])


def runs_from_csv() -> dict[str, list[RunRecord]]:
    """By part, the runs in the committed runs.csv."""
    parts: dict[str, list[RunRecord]] = {"choose": [], "confirm": []}
    with open(RESULTS / "runs.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            loss = float(row["train_loss"]) if row["train_loss"] else None
            run = RunRecord(
                "",
                row["recipe"],
                int(row["seed"]),
                "",
                row["status"],
                row["metric"],
                last=float(row["last"]),
                train_loss=loss,
            )
            parts[row["part"]].append(run)
    return parts


def gap_sentence(runs: list[RunRecord], entropy_of: Callable[[RunRecord], float]) -> str:
    """The answer to PROTOCOL.md, "Analysis", 3, over all arms."""
    known = [run for run in runs if run.train_loss is not None]
    ratios = [(failed(run), run.train_loss / entropy_of(run)) for run in known]
    of_failed, of_others = ([ratio for is_failed, ratio in ratios if is_failed is wanted] for wanted in (True, False))
    if not of_failed or not of_others:
        return f"Two modes or slow training? {len(of_failed)} runs failed, {len(of_others)} did not: there is nothing to separate."
    low, high = sum(ratio < GAP for ratio in of_failed), sum(ratio >= GAP for ratio in of_others)
    unknown = f" Runs without a finite train loss: {len(runs) - len(known)}." if len(known) < len(runs) else ""
    return (
        f"Two modes or slow training? {'Two modes' if low == high == 0 else 'No clean gap'}, over all arms. "
        f"{low} of {len(of_failed)} failed runs have a train loss below {GAP} of the label entropy (lowest: {min(of_failed):.3f}). "
        f"{high} of {len(of_others)} others have at least that (highest: {max(of_others):.3f}).{unknown}"
    )


def contrast_table(arms: dict[str, list[RunRecord]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the contrasts."""
    counts = {name: (sum(map(failed, own)), len(own)) for name, own in arms.items()}
    fisher = holm([fisher_exact_p(*counts[a], *counts[b]) for a, b in CONTRASTS])
    scores = {name: np.array([run.last for run in own]) for name, own in arms.items()}  # in the order of seeds
    differences = [scores[a] - scores[b] for a, b in CONTRASTS]
    signs = holm([sign_flip_p(values) for values in differences])
    rows = []
    for (a, b), p_failed, values, p_mean in zip(CONTRASTS, fisher, differences, signs, strict=True):
        low, high = map(float, t_interval(values))
        failures = f"{counts[a][0]} of {counts[a][1]}, {counts[b][0]} of {counts[b][1]}"
        rows.append(
            [
                f"{a} - {b}",
                failures,
                p_text(p_failed),
                f"{values.mean():+.3f} ({low:+.3f} to {high:+.3f})",
                p_text(p_mean),
            ]
        )
    return ["contrast", "failed", "p of failed", "mean difference of accuracy (95% interval)", "p of mean"], rows


KINDS = {  # kind of an arm -> its mark
    "off": {"marker": "o", "color": "#D55E00"},
    "on": {"marker": "s", "color": "#0072B2"},
    "off, rate x mean factor": {"marker": "^", "color": "#009E73"},
    "off, rate x factor(t)": {"marker": "D", "color": "#CC79A7"},
    "off, 20 epochs' warmup steps": {"marker": "v", "color": "#E69F00"},
}
SPECIAL = {"off_3_mean_factor": 2, "off_3_factor": 3, "off_3_long_warmup": 4}


@dataclass(frozen=True)
class Arm:
    """An arm in the figure: kind, part, epochs, peak learning rate, summed effective rate, scores `(runs,)`."""

    kind: str
    part: str
    epochs: int
    rate: float
    summed_rate: float
    scores: list[float]


def rate_arms(part: str, runs: list[RunRecord], folder: Path) -> list[Arm]:
    """The arms of a part without transformers_default, which has another batch size. The others differ in correction, learning
    rate, warmup or epochs only."""
    found = []
    for name, own in by_arm(runs).items():
        values = study.arm_values(part, name)
        if values["recipe"] == "transformers_default":
            continue
        corrected = values["recipe"] == "mosbach2021"
        kind = list(KINDS)[SPECIAL.get(name, int(corrected))]
        epochs = values.get("num_train_epochs", 20 if corrected else 3)
        # With lr_bias_correction the recorded learning rate already has the factor.
        total = summed_rate(folder / part / "runs" / own[0].name, corrected)
        found.append(Arm(kind, part, epochs, values["learning_rate"], total, [run.last for run in own]))
    return found


def draw_rates(arms: list[Arm], baseline: float) -> None:
    """Draw scores against the nominal and the summed effective learning rate; a row each for 3 and 20 epochs."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"font.size": 9, "svg.hashsalt": "hf_stability"})
        figure = Figure(figsize=(9, 7), layout="constrained")
        axes = figure.subplots(2, 2, sharey=True, sharex="col")
        for row, epochs in zip(axes, (3, 20), strict=True):
            for arm in (arm for arm in arms if arm.epochs == epochs):
                for ax, x in zip(row, (arm.rate, arm.summed_rate), strict=True):
                    face = "white" if arm.part == "choose" else KINDS[arm.kind]["color"]
                    ax.plot(
                        [x] * len(arm.scores), arm.scores, linestyle="none", markersize=3, alpha=0.3, **KINDS[arm.kind]
                    )
                    ax.plot(
                        x, np.mean(arm.scores), linestyle="none", markersize=9, markeredgewidth=1.5, markerfacecolor=face,
                        **KINDS[arm.kind],
                    )  # fmt: skip
            for ax in row:
                ax.axhline(baseline, color="0.4", linestyle="--", linewidth=1, zorder=1)
                ax.set_xscale("log")
                ax.xaxis.set_minor_formatter("")
                ax.grid(True, which="both", alpha=0.2)
                ax.set_title(f"{epochs} epochs", loc="left", fontweight="bold")
            row[0].set_ylabel("accuracy on the development set,\nend of training")
        axes[1, 0].set_xlabel("nominal (peak) learning rate")
        axes[1, 1].set_xlabel("summed effective rate, sum of lr(t) factor(t)")
        for kind, style in KINDS.items():
            axes[0, 0].plot([], [], linestyle="none", markersize=8, label=f"correction {kind}", **style)
        axes[0, 0].plot(
            [], [], "o", color="0.3", markerfacecolor="white", markersize=8, label="hollow: choice of the rate"
        )
        axes[0, 0].plot([], [], "--", color="0.4", label=f"majority-class baseline, second half ({baseline:.3f})")
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
        for ending in ("png", "svg"):
            figure.savefig(RESULTS / f"rates.{ending}", dpi=150, metadata={"Date": None} if ending == "svg" else None)


def keep_figures(folder: Path, recipes: tuple[str, ...], names: tuple[str, ...]) -> None:
    """Draw a study's figures of these recipes, and keep those with these names in results/."""
    with tempfile.TemporaryDirectory() as drawn:
        for path in draw_figures(folder, recipes, into=drawn, only=names):
            if path.suffix == ".png":
                shutil.copyfile(path, RESULTS / path.name)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("results/demo_study"), help="folder of the studies")
    parser.add_argument(
        "--from_csv",
        "--contrasts_from_csv",
        action="store_true",
        help="read the committed runs.csv, not the studies' folders",
    )  # the second name is that of PROTOCOL.md
    arguments = parser.parse_args()
    if arguments.from_csv:
        parts, entropy = runs_from_csv(), training_entropy()
        write_text(RESULTS / "choose.md", choice_text(parts["choose"]))
        write_text(RESULTS / "confirm.md", confirm_text(parts["confirm"], lambda run: entropy))
        return
    folder = arguments.output_dir
    RESULTS.mkdir(exist_ok=True)
    choose, confirm = read_runs(folder / "choose"), read_runs(folder / "confirm")
    if not choose:
        raise SystemExit(f"--output_dir {folder}: no runs of part choose; give the same folder as to run.py.")
    write_text(RESULTS / "choose.md", choice_text(choose))
    if confirm:
        check_complete(confirm)
        write_text(
            RESULTS / "confirm.md",
            confirm_text(confirm, lambda run: constant_loss(folder / "confirm/runs" / run.name)),
        )
        draw_rates([*rate_arms("choose", choose, folder), *rate_arms("confirm", confirm, folder)], confirm[0].baseline)
        keep_figures(folder / "confirm", study.RECIPES, ("scores", "score_against_train_loss"))
        keep_figures(folder / "confirm", ("devlin2019",), ("gradient_norms",))
    table = io.StringIO()
    writer = csv.DictWriter(table, ["part", *RUN_COLUMNS], extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for part, runs in (("choose", choose), ("confirm", confirm)):
        writer.writerows({"part": part, **run.to_dict()} for run in runs)
    write_text(RESULTS / "runs.csv", table.getvalue())
    print(*(path for path in sorted(RESULTS.iterdir())), sep="\n")


if __name__ == "__main__":
    main()
