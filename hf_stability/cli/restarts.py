"""`hf-stability restarts`: the value that restarts would have had in a finished study."""

from __future__ import annotations

from collections.abc import Sequence

from ..study.report import restarts_page
from .plain_parser import Texts, folder_parser, parse, study_folder


TEXTS = Texts(
    "hf-stability restarts STUDY_FOLDER [--budget RUNS] [--recipe R ...]",
    """Would restarts have been worth it? Reads the finished runs of a study and trains nothing. Estimates the expected score
of the best of n runs. At equal cost, estimates the gain from starting more runs, comparing them early and finishing
only the best. Writes restarts.md and figures/restarts.png into the study's folder.""",
    """
examples:
  # a study to read: one half of the development set selects, the other reports; evaluation every 10% of 468 steps
  hf-stability --model_name_or_path bert-large-uncased --task_name rte --recipe devlin2019 --seeds 25 \\
      --output_dir rte --validation_half both --eval_strategy steps --eval_steps 47
  hf-stability restarts rte --budget 10

How to read it: "started 20, looked at 20%, finished 7: budget 9.60, gain +0.012 (0.006)" means: start 20 runs and stop
13 of them after a fifth of training. This costs as much as 9.6 whole runs. The best score is 0.012 higher than the best
of 9.6 whole runs (standard error 0.006). The largest gain in the table was selected, so expect less on other seeds.
Crashed runs are left out and counted. Diverged runs count. A recipe with runs that an alarm stopped is refused.
To run such a policy on new seeds: hf-stability --restarts 20 --look_at 0.2 --finish 7 (see hf-stability --help_all).
""",
)


def main(argv: Sequence[str]) -> int:
    """Write `restarts.md` and print it."""
    known = folder_parser("restarts", TEXTS)
    known.add_argument(
        "--budget",
        type=float,
        help="Cost of the policies in the table, in whole runs. Default: 10, or all runs if fewer.",
    )
    given = parse(known, argv)
    folder = study_folder("restarts", given)
    print(restarts_page.write_restarts(folder, given.get("recipe"), given.get("budget")))
    print(f"{folder}: written to restarts.md, figures/restarts.png and figures/restarts.svg")
    return 0
