"""Recipes: YAML files whose values become defaults of the arguments."""

from .load import load_recipe, load_recipes, recipe_names


__all__ = ["load_recipe", "load_recipes", "recipe_names"]
