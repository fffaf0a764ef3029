"""`hf-stability compare`: recipes of one or several studies, on equal terms."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import InputError
from .plain_parser import PlainParser, Texts, parse


TEXTS = Texts(
    "hf-stability compare FOLDER [FOLDER ...] [--rope 0.01]",
    """Recipes of one or several studies side by side: failed shares and means with their intervals, tests of each pair, and
whether the terms were equal: data, pretrained model, update steps, evaluations, seeds. Trains and writes nothing.""",
    """
examples:
  # two studies of the same task
  hf-stability compare results/rte_devlin results/rte_mosbach
  # two of the recipes of one study
  hf-stability compare rte/runs/devlin2019 rte/runs/mosbach2021
  # Markdown for a file
  hf-stability compare results/a results/b > comparison.md

Recipes on different data are refused. For a page with figures: hf-stability report.
""",
)


def main(argv: Sequence[str]) -> int:
    """Print the comparison."""
    known = PlainParser("compare", TEXTS)
    known.add_argument("folders", nargs="*", help="Studies' folders, or STUDY/runs/RECIPE for one recipe.")
    known.add_argument(
        "--rope",
        type=float,
        help="Region of practical equivalence: means that differ by less count as equal. In the metric's unit. Default: 0.01.",
    )
    given = parse(known, argv)
    if not given.get("folders"):
        raise InputError("compare: give two recipes or more; see hf-stability compare --help")
    from ..study.report.page.compare import comparison  # scipy is imported later, when it is used
    from ..study.report.page.contents import ROPE

    print(comparison(given["folders"], given.get("rope", ROPE)))
    return 0
