"""Phrases that say a colour of a thing: "red car" is a car, and red."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, replace

from ovseg.assets import find_asset
from ovseg.config import Config, load_config
from ovseg.vocabulary.background import singulars
from ovseg.vocabulary.broader import broader_word
from ovseg.vocabulary.labels import Vocabulary

_JOINING = ("and", "or")
_ARTICLES = ("a", "an", "the")


@dataclass(frozen=True)
class Coloured:
    """What a phrase says of colour.

    Attributes:
        colours: basic colours, of ``ovseg.images.colour_names.COLOURS``; of several, a thing has any.
        noun: the rest of the phrase, in small letters.
    """

    colours: tuple[str, ...]
    noun: str

    def same_thing(self, phrase: str) -> bool:
        """Whether a noun, or a phrase without a colour, names this noun, in singular or plural."""
        return bool(singulars(self.noun) & singulars(phrase.casefold()))


class _Colours(Config):
    colours: dict[str, tuple[str, ...]]
    shades: tuple[str, ...]
    names: tuple[str, ...]


@functools.cache
def _tables() -> tuple[dict[str, str], frozenset[str], frozenset[str]]:
    lists = load_config(_Colours, find_asset("prompts/vocabularies", "colours"))
    basic = {word: colour for colour, words in lists.colours.items() for word in words}
    return basic, frozenset(lists.shades), frozenset(lists.names)


def coloured(phrase: str) -> Coloured | None:
    """The colours that a phrase begins with, and what has them; None where it says none.

    A colour alone is a thing of that name ("orange"), names of ``prompts/vocabularies/colours.yaml`` are no colours
    of things ("red panda"), and people are not called by the colours of their pixels.

    >>> coloured("dark blue cars"), coloured("black and white cow").colours
    (Coloured(colours=('blue',), noun='cars'), ('black', 'white'))
    >>> coloured("orange"), coloured("red panda"), coloured("red-haired woman"), coloured("blackboard")
    (None, None, None, None)
    """
    basic, shades, names = _tables()
    words = re.findall(r"[^\s_,]+", phrase.casefold())
    words = words[1:] if words[:1] and words[0] in _ARTICLES else words
    if any(singulars(" ".join(words[:count])) & names for count in range(2, len(words) + 1)):
        return None
    place, found = 0, []
    while place < len(words):
        if words[place] in basic:
            found.append(basic[words[place]])
        elif words[place] not in shades and not (found and words[place] in _JOINING):
            break
        place += 1
    if not found or place == len(words):
        return None
    if "person" in {*singulars(words[-1]), broader_word(words[-1])}:
        return None
    return Coloured(tuple(dict.fromkeys(found)), " ".join(words[place:]))


def with_nouns(vocabulary: Vocabulary, *, broader: str | None = None) -> Vocabulary:
    """The vocabulary with the noun as a further phrase of each label that begins with a colour.

    So is the noun's broader word, of a table ``broader`` of ``broadened``. Another label's phrase is nobody else's:
    beside "car", "red car" is asked by its own words alone.

    >>> with_nouns(Vocabulary.of(["red car", "blue car", "sky"])).phrases
    (('red car', 'car'), ('blue car', 'car'), ('sky',))
    >>> with_nouns(Vocabulary.of(["red car", "car"])).phrases
    (('red car',), ('car',))
    """
    if vocabulary.raw:
        return vocabulary
    taken = {phrase.casefold() for group in vocabulary.phrases for phrase in group}
    further = [
        tuple(word for word in _without_colour(label, table=broader) if word not in taken)
        if label not in vocabulary.nameless
        else ()
        for label in vocabulary.labels
    ]
    if not any(further):
        return vocabulary
    phrases = tuple((*group, *words) for group, words in zip(vocabulary.phrases, further, strict=True))
    asked = {word for words in further for word in words}
    background = tuple(phrase for phrase in vocabulary.background if phrase.casefold() not in asked)
    return replace(vocabulary, phrases=phrases, background=background)


def _without_colour(label: str, *, table: str | None) -> list[str]:
    """The noun of a label that begins with a colour, and its broader word; nothing for other labels."""
    said = coloured(label)
    if said is None:
        return []
    broader = None if table is None else broader_word(said.noun, table=table)
    return [said.noun] if broader is None else [said.noun, broader]
