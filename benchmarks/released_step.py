"""The update step of the authors' released code next to torch's. See released_step/PROTOCOL.md.

python benchmarks/released_step.py demo --output_dir studies
python benchmarks/released_step.py report --output_dir studies
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, installed or not
from hf_stability import cli


TASK = "demo_pair"
RECIPES = ("mosbach2021", "mosbach2021_released")
SEEDS = range(7001, 7021)


def demo(folder: Path, more: list[str]) -> int:
    """Run both recipes, one seed after the other, so that seeds are paired wherever it is interrupted; the exit code."""
    for seed in SEEDS:
        where = ["--task_name", TASK, "--validation_half", "second", "--output_dir", str(folder)]
        code = cli.main([*where, "--recipe", *RECIPES, "--seeds", f"{seed}-{seed}", "--workers", "0", *more])
        if code:
            return code
    return 0


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["demo"])
    parser.add_argument("--output_dir", type=Path, default=Path("results/released_step"), help="folder of the study")
    arguments = parser.parse_args()
    return demo(arguments.output_dir, [])


if __name__ == "__main__":
    raise SystemExit(main())
