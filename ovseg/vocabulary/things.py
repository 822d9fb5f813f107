"""Which labels are things, with objects to count, and which are stuff, with only an area."""

from __future__ import annotations

import functools

from ovseg.assets import find_asset
from ovseg.config import Config, load_config
from ovseg.vocabulary.background import singulars
from ovseg.vocabulary.spellings import phrase_for_encoder


class _Things(Config):
    stuff: tuple[str, ...]
    things: tuple[str, ...]


@functools.cache
def _lists() -> tuple[frozenset[str], frozenset[str]]:
    lists = load_config(_Things, find_asset("prompts/vocabularies", "things"))
    return frozenset(lists.stuff), frozenset(lists.things)


def is_thing(label: str) -> bool:
    """Whether a label is a thing by default; ``prompts/vocabularies/things.yaml`` says what is not.

    >>> is_thing("red car"), is_thing("brick wall"), is_thing("traffic lights"), is_thing("wall clock")
    (True, False, True, True)
    """
    stuff, things = _lists()
    phrase = phrase_for_encoder(label).casefold()
    if singulars(phrase) & things:
        return True
    return not (singulars(phrase) | singulars(phrase.split()[-1])) & stuff
