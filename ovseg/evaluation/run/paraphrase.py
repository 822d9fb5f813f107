"""The same words said otherwise: articles, plurals, frames around them; the meaning stays."""

from __future__ import annotations

from collections.abc import Callable

from ovseg.config import choose

# fmt: off
UNCOUNTABLE = {
    "accessories", "background", "broccoli", "cardboard", "clothes", "dirt", "fog", "food", "fruit",
    "glass", "grass", "gravel", "ground", "hair", "metal", "moss", "mud", "pants", "paper", "pavement",
    "plastic", "sand", "scissors", "shorts", "skis", "skin", "sky", "snow", "stairs", "straw", "swimwear",
    "terrain", "tights", "traffic", "vegetation", "water", "wood",
}
# fmt: on
IRREGULAR = {"person": "people", "mouse": "mice", "sheep": "sheep", "knife": "knives", "shelf": "shelves"}
SIBILANTS = ("s", "x", "z", "ch", "sh")


def with_article(phrase: str) -> str:
    """``"cat"`` as ``"a cat"``, ``"sky"`` as ``"the sky"``."""
    if _uncountable(phrase):
        return f"the {phrase}"
    return f"{'an' if phrase[:1].lower() in 'aeiou' else 'a'} {phrase}"


def plural(phrase: str) -> str:
    """``"traffic light"`` as ``"traffic lights"``; words without a plural stay."""
    if _uncountable(phrase):
        return phrase
    head, _, last = phrase.rpartition(" ")
    return f"{head} {_plural_word(last)}".strip()


REWRITINGS: dict[str, Callable[[str], str]] = {
    "article": with_article,
    "plural": plural,
    "photo": lambda phrase: f"a photo of {with_article(phrase)}",
    "many": lambda phrase: f"some {plural(phrase)}",
    "capitals": lambda phrase: phrase.title(),
    "scene": lambda phrase: f"there is {with_article(phrase)} in the scene",
}


def rewriting(name: str) -> Callable[[str], str]:
    """The function from phrase to phrase called ``name``.

    Raises:
        ConfigError: there is none of that name.
    """
    return choose("paraphrase", name, REWRITINGS)


def _uncountable(phrase: str) -> bool:
    return phrase.lower().rpartition(" ")[2] in UNCOUNTABLE


def _plural_word(word: str) -> str:
    if word.lower() in IRREGULAR:
        return IRREGULAR[word.lower()]
    if word.endswith(SIBILANTS):
        return word + "es"
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return word[:-1] + "ies"
    return word + "s"
