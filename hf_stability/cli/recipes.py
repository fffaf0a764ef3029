"""`hf-stability recipes`: the packaged recipes, a line each."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence

from ..recipe import describe_recipe, recipe_names
from .parser import PlainParser, Texts, parse


TEXTS = Texts(
    "hf-stability recipes",
    """The packaged recipes, a line each. Their files say the rest: paper, values, sources.""",
    """
examples:
  hf-stability recipes
  # all of a recipe's values, and where each comes from
  hf-stability --task_name demo_pair --recipe mosbach2021 --dry_run
  # a recipe with another on top of it
  hf-stability --task_name demo_pair --recipe devlin2019+mixout --dry_run
""",
)

WIDTH = 120
"""Columns of a line, where the terminal does not say how many it has."""


def main(argv: Sequence[str]) -> int:
    """Print each recipe's name and what it is."""
    parse(PlainParser("recipes", TEXTS), argv)
    names = recipe_names()
    width = max(map(len, names)) + 2
    room = shutil.get_terminal_size((WIDTH, 0)).columns - width
    for name in names:
        print(name.ljust(width) + textwrap.shorten(describe_recipe(name), room, placeholder=" ..."))
    return 0
