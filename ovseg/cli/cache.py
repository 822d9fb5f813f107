"""``ovseg cache``: how much is kept between runs, and a way to let go of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ovseg.cli.output import echo

_Folder = Annotated[Path | None, typer.Option(help="Another cache than the usual one.")]
_HELP = """Text vectors that are kept between runs, so that known words cost nothing.

Example: ovseg cache info
"""


def register(app: typer.Typer) -> None:
    """Add the group of commands to ``app``."""
    group = typer.Typer(no_args_is_help=True, help=_HELP)
    for function in (info, clear):
        group.command()(function)
    app.add_typer(group, name="cache")


def info(
    folder: _Folder = None, as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False
) -> None:
    """Say where the cache is, how much it holds, and how much it may hold.

    Example: ovseg cache info --json
    """
    from ovseg.pipeline.text_cache import DEFAULT_FOLDER, TextCache

    cache = TextCache(folder or DEFAULT_FOLDER)
    state = cache.state()
    if as_json:
        facts = {"folder": str(state.folder), "entries": state.entries, "bytes": state.size, "limit": cache.limit}
        echo(json.dumps(facts))
    else:
        echo(
            f"{state.folder}: {state.entries} word lists, {_megabytes(state.size)} of at most "
            f"{_megabytes(cache.limit)}; those used least recently go first"
        )


def clear(folder: _Folder = None) -> None:
    """Remove everything that is kept; it is made again when it is needed.

    Example: ovseg cache clear
    """
    from ovseg.pipeline.text_cache import DEFAULT_FOLDER, TextCache

    before = TextCache(folder or DEFAULT_FOLDER).clear()
    echo(f"removed {before.entries} word lists, {_megabytes(before.size)}, from {before.folder}")


def _megabytes(size: int) -> str:
    return f"{size / 2**20:.1f} MB"
