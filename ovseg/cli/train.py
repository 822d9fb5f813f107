"""``ovseg train``: run a training recipe, or go on with one that was interrupted."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ovseg.cli.output import echo
from ovseg.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("train")(train)


def train(
    config: Annotated[
        str | None, typer.Argument(help="A YAML file, or the name of one in configs/training.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value that replaces one of the file; may be repeated."),
    ] = None,
    list_recipes: Annotated[bool, typer.Option("--list", help="Show the training files.")] = False,
) -> None:
    """Train a small head on frozen encoders. A run that was interrupted goes on where it stopped.

    Example: ovseg train configs/training/mini.yaml --set schedule.steps=400 --set out=runs/long
    """
    from ovseg.assets import asset_names, find_asset

    if list_recipes or config is None:
        echo("\n".join(asset_names("configs/training")))
        return
    from ovseg.training import load_training
    from ovseg.training import train as run

    resolved = load_training(find_asset("configs/training", config), overrides=_overrides(settings or []))
    out = run(resolved, progress=True)
    echo(out)


def _overrides(settings: list[str]) -> dict[str, Any]:
    import yaml

    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set expects key=value, got '{setting}'; for example schedule.steps=400")
        try:
            values[key] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ConfigError(f"--set expects a value in YAML, got '{setting[:80]}': {error}") from error
    return values
