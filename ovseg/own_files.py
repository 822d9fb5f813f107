"""Weights and vectors that no hub holds: the user lays them where a model file finds them."""

from __future__ import annotations

from pathlib import Path

from ovseg.errors import ModelError

OWN_FILES = Path.home() / ".cache" / "ovseg" / "files"


def has_own(name: str) -> bool:
    """Whether the file is here."""
    return any(place.is_file() for place in _places(name))


def find_own(name: str, place: Path | None = None, *, what: str, source: str = "") -> Path:
    """The file at the path ``name``, or of that name in a folder or in ``OWN_FILES``.

    Args:
        name: path, as a model file states it.
        place: folder that is looked into first.
        what: what the file holds, for the message.
        source: where it may be had, for the message.

    Raises:
        ModelError: there is none; says where to lay it.
    """
    for path in (*([] if place is None else [place / name]), *_places(name)):
        if path.is_file():
            return path
    raise ModelError(
        f"expected {what} in the file '{name}', which is on no hub{f' ({source})' if source else ''}, got no such "
        f"file; lay it into '{OWN_FILES}', or write its path into a model file of your own"
    )


def _places(name: str) -> tuple[Path, ...]:
    return (Path(name), OWN_FILES / name)
