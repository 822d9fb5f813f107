"""Attention recipes: what the last block of a frozen ViT attends to, so that its patches can be read by words."""

from ovseg.attention.block import Attended, LastBlock
from ovseg.attention.registry import RECIPES, Recipe, RecipeConfig, find_recipe

__all__ = ["RECIPES", "Attended", "LastBlock", "Recipe", "RecipeConfig", "find_recipe"]
