"""Attention recipes: what the last block of a frozen ViT attends to."""

from ovseg.attention.block import Attended, LastBlock
from ovseg.attention.registry import RECIPES, Recipe, RecipeConfig, find_recipe

__all__ = ["RECIPES", "Attended", "LastBlock", "Recipe", "RecipeConfig", "find_recipe"]
