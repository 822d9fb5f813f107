"""Everyday contrast phrases, less those that mean what the labels mean; and the names of the background itself."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

from ovseg.assets import find_asset
from ovseg.config import Config, load_config
from ovseg.vocabulary.spellings import phrase_for_encoder


class _Background(Config):
    names: tuple[str, ...]
    phrases: tuple[str, ...]
    groups: dict[str, tuple[str, ...]]
    related: dict[str, tuple[str, ...]]

    def rivals(self, phrase: str) -> list[str]:
        """The labels that drop ``phrase``; groups are spelled out."""
        return [word for entry in self.related.get(phrase, ()) for word in self.groups.get(entry, (entry,))]


@functools.cache
def _background() -> _Background:
    return load_config(_Background, find_asset("prompts/vocabularies", "background"))


def names_background(name: str) -> bool:
    """Whether a name stands for what is none of the labels.

    >>> names_background("__background__"), names_background("BG"), names_background("background wall")
    (True, True, False)
    """
    return " ".join(re.findall(r"[^\W_]+", name.casefold())) in _background().names


def unrelated_background(phrases: Iterable[str]) -> tuple[str, ...]:
    """The common background phrases that mean nothing of what ``phrases`` mean."""
    wanted = _meanings(phrases)
    table = _background()
    return tuple(
        phrase for phrase in table.phrases if not wanted & (_meanings([phrase]) | _meanings(table.rivals(phrase)))
    )


def _meanings(phrases: Iterable[str]) -> set[str]:
    """The phrases and the words that say what they are, in every form that could be their singular.

    Of one or two words the last one says it ("brick wall" is a wall, "wall clock" is none); of more, any.
    """
    meanings: set[str] = set()
    for phrase in phrases:
        words = phrase_for_encoder(phrase).casefold().split()
        telling = words[-1:] if len(words) <= 2 else words
        meanings |= singulars(" ".join(words)).union(*map(singulars, telling))
    return meanings


def singulars(word: str) -> set[str]:
    """The word and what it may be the plural of: simple rules, generous on purpose."""
    irregular = {"men": "man", "children": "child", "leaves": "leaf", "shelves": "shelf", "mice": "mouse"}
    forms = {word}
    for plural, singular in irregular.items():
        if word.endswith(plural):
            forms.add(word.removesuffix(plural) + singular)
    if len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
        forms.add(word[:-1])
    if word.endswith("ies"):
        forms.add(word[:-3] + "y")
    if word.endswith(("ches", "shes", "ses", "xes", "oes")):
        forms.add(word[:-2])
    return forms
