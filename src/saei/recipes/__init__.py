"""Ready configurations for known data sets and models, each value with its source."""

from saei.recipes.recipe import Recipe, choices, find, recipes

__all__ = ["Recipe", "choices", "find", "recipes"]
