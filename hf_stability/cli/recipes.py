"""`hf-stability recipes`: the packaged recipes, a line each."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Sequence

from ..errors import InputError
from ..recipe import describe_recipe, recipe_names
from .program import PROG


WIDTH = 160
"""Columns of a line, where the terminal does not say how many it has."""

EXAMPLES = """
examples:
  hf-stability recipes
  # all of a recipe's values, and where each comes from
  hf-stability --task_name demo_pair --recipe mosbach2021 --dry_run
  # a recipe with another on top of it
  hf-stability --task_name demo_pair --recipe devlin2019+mixout --dry_run
"""


def main(argv: Sequence[str]) -> int:
    """Print each recipe's name and what it is."""

    class Parser(argparse.ArgumentParser):
        def error(self, message):
            raise InputError(message)

    Parser(
        prog=f"{PROG} recipes",
        description="The packaged recipes, a line each. Their files say the rest: paper, values, sources.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args(argv)
    names = recipe_names()
    width = max(map(len, names)) + 2
    room = shutil.get_terminal_size((WIDTH, 0)).columns - width
    for name in names:
        print(name.ljust(width) + textwrap.shorten(describe_recipe(name), room, placeholder=" ..."))
    return 0
