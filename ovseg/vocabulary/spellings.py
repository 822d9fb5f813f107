"""The spellings of data sets in plain English."""

from __future__ import annotations

import functools
import re

from ovseg.assets import find_asset
from ovseg.config import Config, load_config


def phrase_for_encoder(phrase: str) -> str:
    """The phrase in plain English, as a text encoder has seen it, from the spellings of data sets.

    >>> phrase_for_encoder("wall-other-merged"), phrase_for_encoder("floor-wood")
    ('wall', 'wood floor')
    >>> phrase_for_encoder("t-shirt"), phrase_for_encoder("traffic_light")
    ('t-shirt', 'traffic light')
    """
    spellings = _spellings()
    # A single letter keeps its hyphen: t-shirt, x-ray.
    words = re.split(r"[_\s]+|(?<=\w\w)-+", phrase.strip())
    words = [word for word in words if word]
    hyphenated = "-" in phrase and not re.search(r"\s", phrase.strip())
    if hyphenated:
        while len(words) > 1 and words[-1].casefold() in spellings.suffixes:
            words.pop()
        if len(words) > 1 and words[0].casefold() in spellings.head_first:
            words = [*words[1:], words[0]]
    return " ".join(spellings.compounds.get(word.casefold(), word) for word in words) or phrase


class _Spellings(Config):
    suffixes: tuple[str, ...]
    head_first: tuple[str, ...]
    compounds: dict[str, str]


@functools.cache
def _spellings() -> _Spellings:
    return load_config(_Spellings, find_asset("prompts/vocabularies", "spellings"))
