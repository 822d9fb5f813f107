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
    from ovseg.vocabulary.labels import Concept

    shown: dict[str, list[tuple[str, str, Any]]] = {}
    for text in examples:
        label, equals, rest = text.partition("=")
        if not equals or not label.strip() or not rest.strip():
            raise VocabularyError(f"--example must be {_FORM}, got '{text}'")
        shown.setdefault(label.strip(), []).append(_parse(rest.strip()))
    concepts: dict[str, Concept] = {}
    for label, found in shown.items():
        kinds = {kind for _, kind, _ in found}
        if len(kinds) > 1:
            raise VocabularyError(
                f"the examples of '{label}' must say in one way where it is, got {' and '.join(sorted(kinds))}; "
                "use a mask for each"
            )
        (kind,) = kinds
        places = {} if kind == "images alone" else {kind: [place for *_, place in found]}
        concepts[label] = Concept(label, images=[image for image, *_ in found], **places)  # type: ignore[arg-type]
    listed: list[str | Concept] = [concepts.get(label, label) for label in labels]
    return [*listed, *(concept for label, concept in concepts.items() if label not in labels)]


def _parse(rest: str) -> tuple[str, str, Any]:
    """Image, kind of place, and place."""
    if Path(rest).is_file():
        return rest, "images alone", None
    for count, kind in sorted(_KINDS.items(), reverse=True):
        image, *numbers = rest.rsplit(",", count)
        try:
            place = tuple(float(number) for number in numbers)
        except ValueError:
            continue
        if len(place) == count:
            return _existing(image), kind, place
    image, comma, mask = rest.rpartition(",")
    return (_existing(image), "masks", _existing(mask)) if comma else (_existing(rest), "images alone", None)


def _existing(path: str) -> str:
    from ovseg.errors import ImageError

    if not Path(path).is_file():
        raise ImageError(f"no file '{path}' for --example; it must be {_FORM}")
    return path
