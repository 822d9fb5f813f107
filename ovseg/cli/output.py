"""What a command prints: text from users is harmless on a terminal."""

from __future__ import annotations

import typer

from ovseg.escape import for_terminal


def echo(text: object, *, err: bool = False) -> None:
    """Print ``text`` and a line break; control characters in it are written out, line breaks and tabulators stay.

    Args:
        text: what to print.
        err: on standard error.
    """
    typer.echo(for_terminal(text), err=err)
