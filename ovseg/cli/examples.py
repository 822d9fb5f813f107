"""``--example LABEL=IMAGE[,MASK | ,X,Y | ,X0,Y0,X1,Y1]``: labels that are shown by pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ovseg.vocabulary.labels import Concept

_FORM = "LABEL=IMAGE, LABEL=IMAGE,MASK, LABEL=IMAGE,X,Y (a point) or LABEL=IMAGE,X0,Y0,X1,Y1 (a box)"
_KINDS = {2: "points", 4: "boxes"}


def with_examples(labels: list[str], examples: list[str]) -> list[str | Concept]:
    """The labels, those that have examples as concepts; labels that only an example names come last.

    Raises:
        VocabularyError: an example is not written as it must be, or those of a label say in several ways where
            it is.
        ImageError: a file is missing.
    """
    from ovseg.errors import VocabularyError
    from ovseg.vocabulary.shown_labels import Shown, join_shown

    shown: list[Shown] = []
    for text in examples:
        label, equals, rest = text.partition("=")
        if not equals or not label.strip() or not rest.strip():
            raise VocabularyError(f"--example must be {_FORM}, got '{text}'")
        shown.append(Shown(label.strip(), *_parse(rest.strip())))
    return join_shown(labels, shown)


def _parse(rest: str) -> tuple[str, str, Any]:
    """Image, kind of place, and place."""
    from ovseg.vocabulary.shown_labels import ALONE

    if Path(rest).is_file():
        return rest, ALONE, None
    for count, kind in sorted(_KINDS.items(), reverse=True):
        image, *numbers = rest.rsplit(",", count)
        try:
            place = tuple(float(number) for number in numbers)
        except ValueError:
            continue
        if len(place) == count:
            return _existing(image), kind, place
    image, comma, mask = rest.rpartition(",")
    return (_existing(image), "masks", _existing(mask)) if comma else (_existing(rest), ALONE, None)


def _existing(path: str) -> str:
    from ovseg.errors import ImageError

    if not Path(path).is_file():
        raise ImageError(f"no file '{path}' for --example; it must be {_FORM}")
    return path
