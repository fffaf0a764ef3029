"""Recipes: YAML files whose values become defaults of the arguments.

`schema` says what a file may hold, `load` finds and reads files, `compose` makes recipes from recipes (`a+b`, grids),
`resolve` says which values are in force and where each came from.
"""

from .load import describe_recipe, load_recipe, load_recipes, recipe_dir, recipe_names
from .resolve import Resolved
from .schema import Recipe, Stage


__all__ = [
    "Recipe",
    "Resolved",
    "Stage",
    "describe_recipe",
    "load_recipe",
    "load_recipes",
    "recipe_dir",
    "recipe_names",
]
