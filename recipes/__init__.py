"""Recipes as package data: setup.cfg installs this folder as `hf_stability.recipes`."""
