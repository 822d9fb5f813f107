"""``ovseg models``: the models that can be loaded, with size and licence."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

_COLUMNS = ("name", "task", "parameters", "megabytes", "license", "commercial", "gated", "local")


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(models)


def models(
    commercial_only: Annotated[
        bool, typer.Option("--commercial-only", help="Only licences that allow commercial use.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON list on stdout.")] = False,
) -> None:
    """List the models: what for, how large, under which licence, and whether they are on this machine.

    Example: ovseg models --commercial-only
    """
    import ovseg

    listed = [info for info in ovseg.list_models() if info.commercial or not commercial_only]
    if as_json:
        typer.echo(json.dumps([{name: getattr(info, name) for name in _COLUMNS} for info in listed], indent=2))
    else:
        _print_table(listed)


def _print_table(listed: list[Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "task", box=None, header_style="bold")
    for heading in ("parameters", "megabytes"):
        table.add_column(heading, justify="right")
    for heading in ("license", "commercial", "gated", "local"):
        table.add_column(heading)
    for info in listed:
        table.add_row(*(_cell(getattr(info, name)) for name in _COLUMNS))
    Console().print(table)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "-"
    if isinstance(value, int) and value >= 1_000_000:
        return f"{value / 1e6:.0f} M"
    return f"{value:.0f}" if isinstance(value, float) else str(value)
