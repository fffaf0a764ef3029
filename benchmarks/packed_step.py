"""Does `--step packed` change the distribution of scores, or the failed share? See packed_step/PROTOCOL.md.

    python benchmarks/packed_step.py --output_dir packed_runs    # 160 runs on the demo; the same command goes on
    python benchmarks/packed_step.py --report                    # packed_step/results.md, once all runs are there

Without dropout both steps compute the same function; tests/packed shows that. With dropout they draw it in another order, so the
runs of one seed differ, and only distributions can be compared.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any


os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, installed or not
import numpy as np
from scipy.stats import ks_2samp

from hf_stability import run_study
from hf_stability.packed.support import HF, PACKED, STEPS
from hf_stability.statistics.comparison import holm
from hf_stability.statistics.shares import fisher_exact_p
from hf_stability.study.folder import read_runs
from hf_stability.utils.files import write_text
from hf_stability.utils.text import markdown_table
from hf_stability.verdicts.verdict import NOT_OK


# ---- the settings: all are in PROTOCOL.md, and none is changed after a look at the runs ---------------------------------

RATES = (4e-5, 2.5e-4)
SEEDS = range(9001, 9041)

HERE = Path(__file__).parent / "packed_step"


def folder_of(output_dir: Path, rate: float, step: str) -> Path:
    """An arm's folder."""
    return output_dir / f"{rate:g}" / step


def run(output_dir: Path, workers: int | None) -> None:
    """The missing runs of all arms."""
    for rate in RATES:
        for step in STEPS:
            settings: dict[str, Any] = {"learning_rate": rate, "step": step, "seeds": list(SEEDS), "workers": workers}
            folder = folder_of(output_dir, rate, step)
            run_study(task_name="demo_pair", recipes="devlin2019", output_dir=folder, **settings)


def report(output_dir: Path) -> str:
    """The table of results.

    Raises:
        SystemExit: an arm is not finished. Nothing is looked at before.
    """
    rows, p_values = [], []
    for rate in RATES:
        runs = {step: read_runs(folder_of(output_dir, rate, step)) for step in STEPS}
        if any(sorted(run.seed for run in arm) != list(SEEDS) for arm in runs.values()):
            raise SystemExit(f"{output_dir}: not all runs at {rate:g} are there. Run the rest first.")
        failed = {step: sum(run.status in NOT_OK for run in arm) for step, arm in runs.items()}
        scores = {step: [run.last for run in arm] for step, arm in runs.items()}
        p_values.append(fisher_exact_p(failed[HF], len(SEEDS), failed[PACKED], len(SEEDS)))
        p_values.append(float(ks_2samp(scores[HF], scores[PACKED]).pvalue))
        for step in STEPS:
            moments = f"{np.mean(scores[step]):.3f}", f"{np.std(scores[step], ddof=1):.3f}"
            rows.append([f"{rate:g}", step, f"{failed[step]} of {len(SEEDS)}", *moments])
    tests = [
        f"{rate:g}, {test}" for rate in RATES for test in ("failed shares (Fisher)", "scores (Kolmogorov-Smirnov)")
    ]
    adjusted = [[test, f"{p:.3f}", f"{q:.3f}"] for test, p, q in zip(tests, p_values, holm(p_values), strict=True)]
    arms = markdown_table(["rate", "step", "failed", "mean score", "std"], rows)
    return f"{arms}\n\n{markdown_table(['test', 'p', 'p (Holm, 4 tests)'], adjusted)}\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("packed_runs"))
    parser.add_argument("--workers", type=int)
    parser.add_argument("--report", action="store_true", help="write packed_step/results.md from finished runs")
    options = parser.parse_args()
    if options.report:
        write_text(HERE / "results.md", report(options.output_dir))
    else:
        run(options.output_dir, options.workers)
