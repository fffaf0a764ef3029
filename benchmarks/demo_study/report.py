"""What the demo's studies gave: tables and a figure, from the folders that run.py left. See PROTOCOL.md, "Analysis".

    python benchmarks/demo_study/report.py --output_dir studies

It writes choose.md, confirm.md, runs.csv and rates.png/.svg to results/ beside this file.
"""

from __future__ import annotations

import argparse
import csv
import io
from pathlib import Path

import numpy as np
import run as study  # run.py beside this file; it also puts the clone on the path

from hf_stability.callback import write_text
from hf_stability.diagnostics.step_record import read_steps
from hf_stability.methods.adamw import effective_step_factor
from hf_stability.study.records import RunRecord
from hf_stability.study.statistics import fisher_exact_p, wilson_interval
from hf_stability.study.study import read_runs
from hf_stability.study.summary import RUN_COLUMNS, markdown_table, summarize, to_markdown


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
    return run.status in ("failed", "diverged")


def by_arm(runs: list[RunRecord]) -> dict[str, list[RunRecord]]:
    """Runs of each arm, in the order of seeds."""
    arms: dict[str, list[RunRecord]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        arms.setdefault(run.recipe, []).append(run)
    return arms


def holm(p_values: list[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the given order."""
    order = np.argsort(p_values)
    adjusted = np.maximum.accumulate([(len(order) - rank) * p_values[i] for rank, i in enumerate(order)])
    result = np.empty(len(order))
    result[order] = np.minimum(adjusted, 1.0)
    return result.tolist()


def sign_flip_p(differences: np.ndarray) -> float:
    """Permutation test of a mean difference of 0, pairs exchanged at random, two-sided; exact up to 13 pairs."""
    from scipy.stats import permutation_test

    result = permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=RESAMPLES, rng=np.random.default_rng(0)
    )
    return float(result.pvalue)


def mean_interval(differences: np.ndarray) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean, 95%."""
    from scipy.stats import bootstrap

    if np.ptp(differences) == 0:
        return float(differences[0]), float(differences[0])
    result = bootstrap(
        (differences,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(0)
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def label_entropy(folder: Path) -> float:
    """Entropy (nats) of the training labels that a run has seen: the train loss of the best constant."""
    counts = np.nansum(read_steps(folder / "steps.rec")["labels"], axis=0)
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def summed_rate(folder: Path, corrected: bool) -> float:
    """Sum over the update steps of learning rate x factor(t): the length of the way, as far as the rate decides it."""
    record = read_steps(folder / "steps.rec")
    return float((record["learning_rate"] * effective_step_factor(record["step"], bias_correction=corrected)).sum())


def share(count: int, n: int) -> str:
    low, high = wilson_interval(count, n)
    return f"{count} of {n} ({float(low):.2f}-{float(high):.2f})"


def choice_text(runs: list[RunRecord]) -> str:
    """The grid, and what the protocol's rules pick from it."""
    arms, rows = by_arm(runs), []
    best: dict[str, tuple[float, float]] = {}
    shares = {}
    for recipe in study.RECIPES:
        for rate in study.GRID:
            own = arms.get(study.arm_name(recipe, rate), [])
            first = [run.last for run in own if run.seed in range(1000, 1004)]
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
    names = [name for name in study.confirm_arms(study.RATE, study.BEST_RATES) if name in arms]
    counts = {name: (sum(map(failed, arms[name])), len(arms[name])) for name in names}
    a, b = counts["devlin2019"], counts["mosbach2021"]
    window = 0.3 <= a[0] / a[1] <= 0.7
    lines = [
        "# The confirmatory run",
        f"Second half of the development set, learning rate {study.RATE:g} where the arm has none of its own; see PROTOCOL.md.",
        f"1. Primary: devlin2019 failed {share(*a)}, mosbach2021 {share(*b)}; Fisher's exact p = {fisher_exact_p(*a, *b):.2g}.",
        f"2. Window (.3 to .7 of the devlin2019 runs fail): {'met' if window else 'not met'}, {a[0] / a[1]:.2f}.",
        f"3. {gap_sentence(runs, folder)}",
        "4. Bias correction or a lower rate?",
        markdown_table(*contrast_table(arms, counts)),
        "Differences are first minus second, paired by seed; p is Holm's over the five, of Fisher's exact test for the failed "
        "runs and of a permutation test (sign flips) for the means; the interval is a bootstrap over seeds.",
        "5. All arms:",
        to_markdown(summarize([run for name in names for run in arms[name]])),
        "Accuracies by seed:",
        markdown_table(
            ["arm", "accuracy at the end of training, seed by seed; * failed"],
            [[name, " ".join(f"{run.last:.3f}" + "*" * failed(run) for run in arms[name])] for name in names],
        ),
    ]
    return "\n\n".join(lines) + "\n"


def gap_sentence(runs: list[RunRecord], folder: Path) -> str:
    ratios = [(run.train_loss / label_entropy(folder / "runs" / run.name), failed(run)) for run in runs]
    low_failed = sum(ratio < GAP for ratio, is_failed in ratios if is_failed)
    high_ok = sum(ratio >= GAP for ratio, is_failed in ratios if not is_failed)
    number = sum(is_failed for _, is_failed in ratios)
    verdict = "two modes" if low_failed == high_ok == 0 else "no clean gap"
    return (
        f"Two modes or slow training? Of {number} failed runs (all arms) {low_failed} have a train loss below {GAP} of the "
        f"label entropy, of {len(ratios) - number} others {high_ok} have one of that or above: {verdict}."
    )


def contrast_table(arms: dict[str, list[RunRecord]], counts: dict) -> tuple[list[str], list[list[str]]]:
    present = [(a, b) for a, b in CONTRASTS if a in arms and b in arms]
    fisher = holm([fisher_exact_p(*counts[a], *counts[b]) for a, b in present])
    differences = []
    for a, b in present:
        second = {run.seed: run.last for run in arms[b]}
        differences.append(np.array([run.last - second[run.seed] for run in arms[a] if run.seed in second]))
    signs = holm([sign_flip_p(values) for values in differences])
    rows = []
    for (a, b), p_failed, values, p_mean in zip(present, fisher, differences, signs, strict=True):
        low, high = mean_interval(values)
        failures = f"{counts[a][0]} of {counts[a][1]}, {counts[b][0]} of {counts[b][1]}"
        rows.append(
            [
                f"{a} - {b}",
                failures,
                f"{p_failed:.3f}",
                f"{values.mean():+.3f} ({low:+.3f} to {high:+.3f})",
                f"{p_mean:.4f}",
            ]
        )
    return ["contrast", "failed", "p", "accuracy: mean difference (95%)", "p"], rows


def draw_rates(choose: list[RunRecord], confirm: list[RunRecord], folder: Path) -> None:
    """Scores against the nominal rate and against the summed effective rate; an arm is a mean with its runs behind it."""
    from matplotlib.figure import Figure

    groups = {}
    for part, runs in (("choose", choose), ("confirm", confirm)):
        for name, own in by_arm(runs).items():
            values = study.arm_values(part, name)
            if values["recipe"] == "transformers_default":
                continue  # another batch size and no warmup: no arm of this question
            run_folder = folder / part / "runs" / own[0].name
            corrected = values["recipe"] == "mosbach2021" or bool(values.get("lr_bias_correction"))
            # With lr_bias_correction the recorded rate has the factor in it already.
            total = summed_rate(run_folder, values["recipe"] == "mosbach2021")
            epochs = values.get("num_train_epochs", 20 if values["recipe"] == "mosbach2021" else 3)
            groups[part, name] = values["learning_rate"], total, corrected, epochs, [run.last for run in own]

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    colors, markers = {False: "#D55E00", True: "#0072B2"}, {3: "o", 20: "s"}
    labelled = set()
    for (part, _), (rate, total, corrected, epochs, scores) in groups.items():
        label = f"correction {'on' if corrected else 'off'}, {epochs} epochs"
        for ax, x in zip(axes, (rate, total), strict=True):
            style = {"color": colors[corrected], "marker": markers[epochs]}
            ax.plot([x] * len(scores), scores, linestyle="none", markersize=3, alpha=0.25, **style)
            hollow = {"markerfacecolor": "white"} if part == "choose" else {}
            ax.plot(x, np.mean(scores), linestyle="none", markersize=9, markeredgewidth=1.5, **style, **hollow,
                    label=None if label in labelled or ax is axes[0] or part == "choose" else label)  # fmt: skip
        if part == "confirm":
            labelled.add(label)
    constant = next(run.baseline for run in confirm)
    for ax, text in zip(
        axes, ("nominal peak learning rate", "summed effective rate, sum of lr(t) factor(t)"), strict=True
    ):
        ax.axhline(constant, color="0.4", linestyle="--", linewidth=1)
        ax.set_xscale("log")
        ax.set_xlabel(text)
        ax.grid(True, which="both", alpha=0.2)
    axes[0].set_ylabel("accuracy on the development set, end of training")
    axes[0].text(
        0.02, constant + 0.005, f"constant {constant:.3f}", transform=axes[0].get_yaxis_transform(), fontsize=8
    )
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.suptitle(
        "Large marks: an arm's mean, filled: confirmatory run (seeds 1-20), hollow: choice of the rate", fontsize=10
    )
    for ending in ("png", "svg"):
        figure.savefig(RESULTS / f"rates.{ending}", dpi=150, metadata={"Date": None} if ending == "svg" else None)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("results/demo_study"), help="folder of the studies")
    folder = parser.parse_args().output_dir
    RESULTS.mkdir(exist_ok=True)
    choose, confirm = read_runs(folder / "choose"), read_runs(folder / "confirm")
    write_text(RESULTS / "choose.md", choice_text(choose))
    if confirm:
        write_text(RESULTS / "confirm.md", confirm_text(confirm, folder / "confirm"))
        draw_rates(choose, confirm, folder)
    table = io.StringIO()
    writer = csv.DictWriter(table, ["part", *RUN_COLUMNS], extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for part, runs in (("choose", choose), ("confirm", confirm)):
        writer.writerows({"part": part, **run.to_dict()} for run in runs)
    write_text(RESULTS / "runs.csv", table.getvalue())
    print(*(path for path in sorted(RESULTS.iterdir())), sep="\n")


if __name__ == "__main__":
    main()
