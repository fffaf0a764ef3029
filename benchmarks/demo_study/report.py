"""What the demo's studies gave: tables and a figure, from the folders that run.py left. See PROTOCOL.md, "Analysis".

    python benchmarks/demo_study/report.py --output_dir studies
    python benchmarks/demo_study/report.py --contrasts_from_csv    # that part of confirm.md again, from the committed runs.csv

It writes choose.md, confirm.md, runs.csv, rates.png/.svg and the study's own figures (scores.png and
score_against_train_loss.png of the three recipes, gradient_norms.png of devlin2019) to results/ beside this file.
"""

from __future__ import annotations

import argparse
import csv
import io
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import run as study  # run.py beside this file; it also puts the clone on the path

from benchmarks.interval_coverage import PAIRED, coverage_text
from hf_stability.diagnostics.step_record import read_steps
from hf_stability.methods.adamw import effective_step_factor
from hf_stability.study.folder import read_runs
from hf_stability.study.prepare import parse_seeds
from hf_stability.study.records import RunRecord
from hf_stability.study.report.figures import draw_figures
from hf_stability.study.report.statistics import fisher_exact_p, holm, t_interval, wilson_interval
from hf_stability.study.report.summary import summarize
from hf_stability.study.report.summary_page import RUN_COLUMNS, recipes_table, to_markdown
from hf_stability.utils.files import write_text
from hf_stability.utils.text import markdown_table
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
GAP = 0.95  # of the label entropy
RESAMPLES = 9999


def failed(run: RunRecord) -> bool:
    """A run that diverged has no accuracy worth the name, and counts as failed."""
    return run.status in NOT_OK


def check_complete(runs: list[RunRecord]) -> None:
    """Every arm of the confirmatory run with every seed, and nothing else; raises SystemExit where it is not so."""
    wanted = {
        (arm, seed)
        for arm in study.confirm_arms(study.RATE, study.BEST_RATES)
        for seed in parse_seeds(study.CONFIRM_SEEDS)
    }
    found = {(run.recipe, run.seed) for run in runs}
    if found != wanted:
        missing, more = sorted(wanted - found), sorted(found - wanted)
        raise SystemExit(f"part confirm is not the protocol's: missing {missing[:5]} ..., too many {more[:5]} ...")


def by_arm(runs: list[RunRecord]) -> dict[str, list[RunRecord]]:
    """Runs of each arm, in the order of seeds."""
    arms: dict[str, list[RunRecord]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        arms.setdefault(run.recipe, []).append(run)
    return arms


def sign_flip_p(differences: np.ndarray) -> float:
    """Permutation test of a mean difference of 0, pairs exchanged at random, two-sided; exact up to 13 pairs."""
    from scipy.stats import permutation_test

    result = permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=RESAMPLES, rng=np.random.default_rng(0)
    )
    return float(result.pvalue)


def constant_loss(folder: Path) -> float:
    """Entropy (nats) of the training labels that a run has seen: the train loss of the best constant."""
    return float(label_entropy(np.nansum(read_steps(folder / "steps.rec")["labels"], axis=0)))


def summed_rate(folder: Path, corrected: bool) -> float:
    """Sum over the update steps of learning rate x factor(t): the length of the way, as far as the rate decides it."""
    record = read_steps(folder / "steps.rec")
    return float((record["learning_rate"] * effective_step_factor(record["step"], bias_correction=corrected)).sum())


def p_text(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def share(count: int, n: int) -> str:
    low, high = wilson_interval(count, n)
    return f"{count} of {n} ({float(low):.2f}-{float(high):.2f})"


def choice_text(runs: list[RunRecord]) -> str:
    """The grid, and what the protocol's rules pick from it."""
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
    header = ["recipe", "learning rate", "failed", "accuracy: mean, seeds 1000-1003", "accuracy: median, the same"]
    nearest = min(shares, key=lambda rate: (round(abs(shares[rate] - 0.5), 9), rate))
    lines = [
        "# Choice of the rate",
        "First half of the development set; see PROTOCOL.md. `failed` is over all seeds that were run.",
        markdown_table(header, rows),
        f"The demo's rate: {nearest:g} (devlin2019's failed share is {shares[nearest]:.2f}).",
        "Each recipe's own best rate: " + ", ".join(f"{recipe} {rate:g}" for recipe, (_, rate) in best.items()) + ".",
    ]
    return "\n\n".join(lines) + "\n"


def confirm_text(runs: list[RunRecord], folder: Path) -> str:
    """The confirmatory run, in the order of the protocol's analysis."""
    arms = by_arm(runs)
    names = list(study.confirm_arms(study.RATE, study.BEST_RATES))
    counts = {name: (sum(map(failed, arms[name])), len(arms[name])) for name in names}
    a, b = counts["devlin2019"], counts["mosbach2021"]
    window = 0.3 <= a[0] / a[1] <= 0.7
    lines = [
        "# The confirmatory run",
        f"Second half of the development set, learning rate {study.RATE:g} where the arm has none of its own; see PROTOCOL.md.",
        f"1. Primary: devlin2019 failed {share(*a)}, mosbach2021 {share(*b)}; Fisher's exact p = {fisher_exact_p(*a, *b):.2g}.",
        f"2. Window (0.3 to 0.7 of the devlin2019 runs fail): {'met' if window else 'not met'}, {a[0] / a[1]:.2f}.",
        f"3. {gap_sentence(runs, folder)}",
        contrasts_text(arms),
        f"{AFTER_CONTRASTS}, spread included:",
        to_markdown(summarize([*arms["devlin2019"], *arms["mosbach2021"]])),
        "All arms (no comparisons but those of 1 and 4 were planned):",
        recipes_table(summarize([run for name in names for run in arms[name]])),
        "Accuracies by seed:",
        markdown_table(
            ["arm", "accuracy at the end of training, seed by seed; * failed"],
            [[name, " ".join(f"{run.last:.3f}" + "*" * failed(run) for run in arms[name])] for name in names],
        ),
    ]
    return "\n\n".join(lines) + "\n"


CONTRASTS_TITLE, AFTER_CONTRASTS = "4. Bias correction or a lower rate?", "5. The paper's comparison"


def contrasts_text(arms: dict[str, list[RunRecord]]) -> str:
    """PROTOCOL.md, "Analysis", 4."""
    n = min(len(arms[name]) for pair in CONTRASTS for name in pair)
    note = (
        "Differences are first minus second, paired by seed; p is Holm's over the five, of Fisher's exact test for the failed "
        f"runs and of a permutation test (sign flips) for the means. Each has its 95% t interval ({coverage_text(PAIRED, n)})."
    )
    return "\n\n".join([CONTRASTS_TITLE, markdown_table(*contrast_table(arms)), note])


def contrasts_from_csv() -> None:
    """Write that part of confirm.md again, from the committed runs."""
    with open(RESULTS / "runs.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["part"] == "confirm"]
    runs = [
        RunRecord("", row["recipe"], int(row["seed"]), "", row["status"], row["metric"], last=float(row["last"]))
        for row in rows
    ]
    text = (RESULTS / "confirm.md").read_text(encoding="utf-8")
    before, after = text.partition(CONTRASTS_TITLE)[0], text.partition(AFTER_CONTRASTS)[2]
    write_text(RESULTS / "confirm.md", f"{before}{contrasts_text(by_arm(runs))}\n\n{AFTER_CONTRASTS}{after}")


def gap_sentence(runs: list[RunRecord], folder: Path) -> str:
    """PROTOCOL.md, "Analysis", 3, over all arms."""
    known = [run for run in runs if run.train_loss is not None]
    ratios = {run.name: run.train_loss / constant_loss(folder / "runs" / run.name) for run in known}
    of_failed = [ratios[run.name] for run in known if failed(run)]
    of_others = [ratios[run.name] for run in known if not failed(run)]
    if not of_failed or not of_others:
        return f"Two modes or slow training? {len(of_failed)} runs failed, {len(of_others)} did not: nothing to part."
    low, high = sum(ratio < GAP for ratio in of_failed), sum(ratio >= GAP for ratio in of_others)
    unknown = f" Runs without a finite train loss: {len(runs) - len(known)}." if len(known) < len(runs) else ""
    return (
        f"Two modes or slow training? Over all arms, of {len(of_failed)} failed runs {low} have a train loss below {GAP} of "
        f"the label entropy (the lowest {min(of_failed):.3f}), of {len(of_others)} others {high} have one of that or above "
        f"(the highest {max(of_others):.3f}): {'two modes' if low == high == 0 else 'no clean gap'}.{unknown}"
    )


def contrast_table(arms: dict[str, list[RunRecord]]) -> tuple[list[str], list[list[str]]]:
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
    return ["contrast", "failed", "p of the failed", "accuracy: mean difference (95%)", "p of the mean"], rows


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
    """What the figure shows of an arm: its kind, part, epochs, peak rate, summed effective rate, scores `(runs,)`."""

    kind: str
    part: str
    epochs: int
    rate: float
    summed_rate: float
    scores: list[float]


def rate_arms(part: str, runs: list[RunRecord], folder: Path) -> list[Arm]:
    """The arms of a part that differ in correction, rate, warmup or epochs only (transformers_default has another batch)."""
    found = []
    for name, own in by_arm(runs).items():
        values = study.arm_values(part, name)
        if values["recipe"] == "transformers_default":
            continue
        corrected = values["recipe"] == "mosbach2021"
        kind = list(KINDS)[SPECIAL.get(name, int(corrected))]
        epochs = values.get("num_train_epochs", 20 if corrected else 3)
        # With lr_bias_correction the recorded rate has the factor in it already.
        total = summed_rate(folder / part / "runs" / own[0].name, corrected)
        found.append(Arm(kind, part, epochs, values["learning_rate"], total, [run.last for run in own]))
    return found


def draw_rates(arms: list[Arm], constant: float) -> None:
    """Scores against the nominal rate and against the summed effective rate, 3 and 20 epochs apart."""
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
                ax.axhline(constant, color="0.4", linestyle="--", linewidth=1, zorder=1)
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
        axes[0, 0].plot([], [], "--", color="0.4", label=f"best constant, second half ({constant:.3f})")
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
        for ending in ("png", "svg"):
            figure.savefig(RESULTS / f"rates.{ending}", dpi=150, metadata={"Date": None} if ending == "svg" else None)


def keep_figures(folder: Path, recipes: tuple[str, ...], names: tuple[str, ...]) -> None:
    """Draw a study's figures of these recipes, and keep the pictures of some of them in results/."""
    with tempfile.TemporaryDirectory() as drawn:
        for path in draw_figures(folder, recipes, into=drawn):
            if path.suffix == ".png" and path.stem in names:
                shutil.copyfile(path, RESULTS / path.name)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("results/demo_study"), help="folder of the studies")
    parser.add_argument("--contrasts_from_csv", action="store_true", help="only these, without the studies' folders")
    arguments = parser.parse_args()
    if arguments.contrasts_from_csv:
        return contrasts_from_csv()
    folder = arguments.output_dir
    RESULTS.mkdir(exist_ok=True)
    choose, confirm = read_runs(folder / "choose"), read_runs(folder / "confirm")
    if not choose:
        raise SystemExit(f"--output_dir {folder}: no runs of part choose; give the folder that run.py was given")
    write_text(RESULTS / "choose.md", choice_text(choose))
    if confirm:
        check_complete(confirm)
        write_text(RESULTS / "confirm.md", confirm_text(confirm, folder / "confirm"))
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
