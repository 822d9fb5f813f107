"""Labels of which some are shown by pictures, as users write them: one picture after the other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ovseg.errors import VocabularyError
from ovseg.vocabulary.labels import Concept

ALONE = "images alone"


class Shown(NamedTuple):
    """One picture of a label.

    Attributes:
        label: what it shows.
        image: anything that ``segment`` takes.
        kind: how the place is said: ``"masks"``, ``"boxes"``, ``"points"``, or ``ALONE`` for no place.
        place: the mask, box or point.
    """

    label: str
    image: Any
    kind: str = ALONE
    place: Any = None


def join_shown(labels: Sequence[str], shown: Iterable[Shown]) -> list[str | Concept]:
    """The labels, those with pictures as concepts; labels that only a picture names come last.

    Raises:
        VocabularyError: the pictures of a label say in several ways where it is, or a label cannot be used.
    """
    by_label: dict[str, list[Shown]] = {}
    for each in shown:
        by_label.setdefault(each.label, []).append(each)
    concepts = {label: _concept(label, found) for label, found in by_label.items()}
    listed: list[str | Concept] = [concepts.get(label, label) for label in labels]
    return [*listed, *(concept for label, concept in concepts.items() if label not in labels)]


def _concept(label: str, found: Sequence[Shown]) -> Concept:
    kinds = {each.kind for each in found}
    if len(kinds) > 1:
        raise VocabularyError(
            f"the examples of '{label}' must say in one way where it is, got {' and '.join(sorted(kinds))}; "
            "use a mask for each"
        )
    places: dict[str, Any] = {kind: tuple(each.place for each in found) for kind in kinds - {ALONE}}
    return Concept(label, images=tuple(each.image for each in found), **places)
