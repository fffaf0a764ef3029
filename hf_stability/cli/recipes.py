"""`hf-stability recipes`: the packaged recipes, one line each."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence

from ..recipe import describe_recipe, recipe_names
from ..recipe.load import is_add_on
from .plain_parser import PlainParser, Texts, parse


TEXTS = Texts(
    "hf-stability recipes",
    """List the packaged recipes, one line each. A recipe's file has the paper and the source of each value; docs/recipes.md
explains how to combine recipes and how to write your own.""",
    """
examples:
  hf-stability recipes
  # all values of a recipe, and where each comes from
  hf-stability --task_name demo_pair --recipe mosbach2021 --dry_run
  # a recipe with a method added to it
  hf-stability --task_name demo_pair --recipe mosbach2021+mixout --dry_run
""",
)

WIDTH = 120
"""Characters per line where the terminal's width is unknown."""

WHOLE = "Whole recipes. Take mosbach2021; run others beside it to compare."
ADDED = "Methods to add to a whole recipe with +, as in mosbach2021+mixout:"


def main(argv: Sequence[str]) -> int:
    """Print each recipe's name and description: whole recipes first, then methods to add."""
    parse(PlainParser("recipes", TEXTS), argv)
    names = recipe_names()
    width = max(map(len, names)) + 2
    room = shutil.get_terminal_size((WIDTH, 0)).columns - width - 2
    added = {name for name in names if is_add_on(name)}
    for title, wanted in ((WHOLE, False), (ADDED, True)):
        print(title)
        for name in names:
            if (name in added) == wanted:
                print(f"  {name.ljust(width)}" + textwrap.shorten(describe_recipe(name), room, placeholder=" ..."))
    return 0
