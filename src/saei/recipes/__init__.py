"""Ready configurations for known data sets and models, each value with whose it is."""

from saei.recipes.recipe import Recipe, find, recipes

__all__ = ["Recipe", "find", "recipes"]
