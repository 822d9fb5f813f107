"""``ovseg models``: the models that can be loaded, with size and licence; ``ovseg models fetch`` downloads one."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

import typer

from ovseg.cli.output import echo

_COLUMNS = ("name", "parameters", "megabytes", "license", "commercial", "gated", "local", "summary")
_HEADINGS = ("name", "params", "MB", "licence", "commercial", "gated", "here", "what it is and is good for")


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    group = typer.Typer(invoke_without_command=True, add_completion=False)
    group.callback(help=models.__doc__)(models)
    group.command("fetch")(fetch)
    app.add_typer(group, name="models")


def models(
    context: typer.Context,
    commercial_only: Annotated[
        bool, typer.Option("--commercial-only", help="Only licences that allow commercial use.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON list on stdout.")] = False,
) -> None:
    """List the models: what for, how large, under which licence, and whether they are on this machine.

    Example: ovseg models --commercial-only
    """
    if context.invoked_subcommand is not None:
        return
    import ovseg

    listed = [info for info in ovseg.list_models() if info.commercial or not commercial_only]
    if as_json:
        echo(json.dumps([{name: getattr(info, name) for name in _COLUMNS} for info in listed], indent=2))
    else:
        _print_table(listed)


def fetch(name: Annotated[str, typer.Argument(help="A name that ovseg models lists.")]) -> None:
    """Download and verify the weights of a model, so that it can be loaded without a network.

    Example: ovseg models fetch clip-b16-naclip-shared
    """
    from ovseg.models.config import read_model_config
    from ovseg.models.download import fetch as download

    paths = download(read_model_config(name))
    echo("\n".join(map(str, paths)) or f"the weights of '{name}' come with the package")


def _print_table(listed: list[Any]) -> None:
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for name, heading in zip(_COLUMNS, _HEADINGS, strict=True):
        number = name in {"parameters", "megabytes"}
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    for info in listed:
        table.add_row(*(_cell(name, getattr(info, name)) for name in _COLUMNS))
    wide = Console(width=1000)
    needed = Measurement.get(wide, wide.options, table).maximum
    Console(width=max(Console().width, needed)).print(table)  # a narrower terminal breaks lines; nothing is cut off


def _cell(column: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "-"
    if column == "license":
        return re.sub(r" *\([^)]*\)", "", value).replace(", ", " + ")  # whose is whose: in --json
    if column == "parameters":
        return f"{value:.0f} M"
    return f"{value:.0f}" if isinstance(value, float) else str(value)
