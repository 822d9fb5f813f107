"""Broader words beside everyday ones, for models whose text encoder has read of things and not seen them."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import replace

from ovseg.assets import find_asset
from ovseg.config import Config, choose, load_config
from ovseg.vocabulary.background import singulars
from ovseg.vocabulary.labels import Vocabulary
from ovseg.vocabulary.spellings import phrase_for_encoder


class _Broader(Config):
    everyday: dict[str, tuple[str, ...]]


@functools.cache
def _tables() -> dict[str, dict[str, str]]:
    """By name of a table, the broader word of each word in it."""
    lists = load_config(_Broader, find_asset("prompts/vocabularies", "broader"))
    everyday = {word: broader for broader, words in lists.everyday.items() for word in words}
    return {"everyday": everyday}


def broader_word(label: str, *, table: str = "everyday") -> str | None:
    """The broader word of a label; None where the table has none.

    >>> broader_word("Women"), broader_word("vans"), broader_word("person")
    ('person', 'truck', None)

    Raises:
        ConfigError: there is no such table.
    """
    words = choose("table of broader words", table, _tables())
    found = singulars(phrase_for_encoder(label).casefold()) & words.keys()
    return words[min(found)] if found else None


def broadened(vocabulary: Vocabulary, *, table: str = "everyday") -> Vocabulary:
    """The vocabulary with a broader word as a further phrase of each label that has one.

    Where another label is that word or has the same, both words in one phrase ("man person") tell the labels apart.
    A label that shares one of its own phrases with another stays as it is, and so does one without a name. A phrase
    of the background that equals a broader word is dropped.

    >>> broadened(Vocabulary.of(["kitten", "sky"])).phrases
    (('kitten', 'cat'), ('sky',))
    >>> broadened(Vocabulary.of(["man", "woman"])).phrases
    (('man', 'man person'), ('woman', 'woman person'))
    """
    if vocabulary.raw:
        return vocabulary
    broader = [
        None if label in vocabulary.nameless else broader_word(label, table=table) for label in vocabulary.labels
    ]
    taken = Counter(word for word in broader if word is not None)
    taken.update(phrase.casefold() for group in vocabulary.phrases for phrase in group)
    phrases = []
    for label, group, word in zip(vocabulary.labels, vocabulary.phrases, broader, strict=True):
        if word is None or word in group or any(taken[phrase.casefold()] > 1 for phrase in group):
            phrases.append(group)
        else:
            phrases.append((*group, word if taken[word] == 1 else f"{label} {word}"))
    background = tuple(phrase for phrase in vocabulary.background if phrase not in broader)
    return replace(vocabulary, phrases=tuple(phrases), background=background)
