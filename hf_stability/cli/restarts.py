"""`hf-stability restarts`: what restarts would have been worth in a finished study."""

from __future__ import annotations

from collections.abc import Sequence

from ..study.report import restarts_page
from .parser import Texts, folder_parser, parse, study_folder


TEXTS = Texts(
    "hf-stability restarts STUDY_FOLDER [--budget RUNS] [--recipe R ...]",
    """What would restarts have been worth? From the finished runs of a study: the expected score of the best of n
runs, and at an equal budget what it brings to start more runs, look at them early and finish only the best.
Nothing is trained. Writes restarts.md and figures/restarts.png into the study's folder.""",
    """
examples:
  # a study in which one half of the development set selects and the other reports, evaluated every 10% of 468 steps
  hf-stability --model_name_or_path bert-large-uncased --task_name rte --recipe devlin2019 --seeds 25 \\
      --output_dir rte --validation_half both --eval_strategy steps --eval_steps 47
  hf-stability restarts rte --budget 10

How to read it: "started 20, looked at 20%, finished 7: budget 9.60, gain +0.012 (0.006)" says: 20 runs, 13 of them
stopped after a fifth of training, cost as much as 9.6 whole runs, and end 0.012 higher than the best of 9.6 whole
ones. The row with the largest gain was chosen by that gain; on other seeds it will be smaller. Crashed runs are left
out and counted, diverged ones count, and a recipe with runs that an alarm stopped is refused. To run such a policy on
new seeds and save the compute: hf-stability --restarts T --look_at F --finish P (see hf-stability --help).
""",
)


def main(argv: Sequence[str]) -> int:
    """Write `restarts.md`, and print it."""
    known = folder_parser("restarts", TEXTS)
    known.add_argument("--budget", type=float, help="Of the table of early stopping, in runs. Default: 10, or all.")
    given = parse(known, argv)
    folder = study_folder("restarts", given)
    print(restarts_page.write_restarts(folder, given.get("recipe"), given.get("budget")))
    print(f"{folder}: restarts.md; restarts.png in figures/, and as .svg")
    return 0
