"""Recipes: YAML files with the settings of a fine-tuning. Their values replace the defaults of the training arguments.

`schema` has the keys of a file and checks them. `load` finds and reads files. `compose` makes recipes from recipes (`a+b`,
`extends`, grids). `resolve` decides which value is in force and records where it came from.
"""

from ..utils.recipe_files import recipe_dir, recipe_names
from .load import describe_recipe, load_recipe, load_recipes
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
