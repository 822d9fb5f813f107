from __future__ import annotations

from pathlib import Path

import pytest

from ovseg.assets import asset_names, find_asset
from ovseg.errors import ConfigError
from ovseg.training import load_training
from ovseg.training.recipes import RECIPES
from ovseg.training.recipes.masks import MasksConfig


def test_settings_reach_into_lists(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("recipe: masks\nhead: {kind: adapter}\ndata:\n  - {protocol: folder, path: a}\n")
    config = load_training(path, overrides={"data.0.path": "b", "head.settings.hidden": 3})
    assert isinstance(config, MasksConfig) and str(config.data[0].path) == "b"  # type: ignore[union-attr]
    assert config.head.settings == {"hidden": 3}
    with pytest.raises(ConfigError, match=r"cannot set 'data\.3\.path': '3' is not a section"):
        load_training(path, overrides={"data.3.path": "b"})


def test_every_example_configuration_is_read() -> None:
    for name in asset_names("configs/training"):
        load_training(find_asset("configs/training", name))


def test_a_recipe_is_known_by_the_name_in_its_files() -> None:
    for name, recipe in RECIPES.items():
        assert recipe.config.model_fields["recipe"].default == name


def test_an_unknown_recipe_offers_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("recipe: mask\n")
    with pytest.raises(ConfigError, match=r"unknown recipe in '.*': 'mask'; did you mean 'masks'"):
        load_training(path)
