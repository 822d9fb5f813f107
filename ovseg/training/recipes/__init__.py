"""What can be trained: one file and one line a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ovseg.config import choose, load_config, read_yaml
from ovseg.training.config import TrainingConfig
from ovseg.training.recipe import Recipe
from ovseg.training.recipes.alignment import ALIGNMENT
from ovseg.training.recipes.captions import CAPTIONS
from ovseg.training.recipes.maskqueries import MASKQUERIES
from ovseg.training.recipes.masks import MASKS
from ovseg.training.recipes.shots import SHOTS

RECIPES: dict[str, Recipe[Any]] = {
    "alignment": ALIGNMENT,
    "masks": MASKS,
    "captions": CAPTIONS,
    "maskqueries": MASKQUERIES,
    "shots": SHOTS,
}


def load_training(path: str | Path, *, overrides: dict[str, Any] | None = None) -> TrainingConfig:
    """The training file at ``path`` as the class of its recipe.

    Raises:
        ConfigError: the recipe or a key is unknown (the nearest is offered), or a value is ill-typed.
    """
    values = read_yaml(path)
    stated = values.get("recipe", "alignment") if isinstance(values, dict) else "alignment"
    recipe = str((overrides or {}).get("recipe", stated))
    config: TrainingConfig = load_config(
        choose(f"recipe in '{path}':", recipe, RECIPES).config, path, overrides=overrides
    )
    return config
