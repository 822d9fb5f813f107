"""The command line: ``ovseg COMMAND``; every command has ``--help`` with an example.

A command is a module of this package with a function ``register(app)``; only typer is imported at its top, so
that help answers at once. Adding a command is adding its module's name to ``COMMANDS``.
"""

from __future__ import annotations

import importlib
import io
import sys
from typing import Annotated

import typer

from ovseg._version import __version__
from ovseg.errors import OvsegError
from ovseg.escape import one_line

COMMANDS = (
    "segment",
    "select",
    "video",
    "models",
    "export",
    "evaluate",
    "train",
    "bank",
    "concept",
    "pseudo-label",
    "suggest",
    "discover",
    "serve",
    "doctor",
    "cache",
)

USAGE_ERROR = 2
INTERRUPTED = 130


def build_app() -> typer.Typer:
    """The application with all its commands."""
    app = typer.Typer(
        name="ovseg",
        help="Segment any photo by words.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    app.callback()(_describe)  # keeps command names required, however few commands there are
    for name in COMMANDS:
        importlib.import_module(f"ovseg.cli.{name.replace('-', '_')}").register(app)
    return app


def main() -> None:
    """Run the command line and leave the process: 0 all done, 1 some images failed, 2 a user's error."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name need not fit the terminal's encoding
    try:
        build_app()()
    except OvsegError as error:
        _leave(f"error: {one_line(' '.join(str(error).splitlines()))}", USAGE_ERROR)
    except KeyboardInterrupt:
        _leave("interrupted", INTERRUPTED)
    except SystemExit as leaving:
        if leaving.code == INTERRUPTED:  # typer's way to pass on Ctrl-C
            _leave("interrupted", INTERRUPTED)
        raise


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ovseg {__version__}")
        raise typer.Exit


def _describe(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Segment any photo by words."""


def _leave(message: str, code: int) -> None:
    typer.echo(message, err=True)
    sys.exit(code)
