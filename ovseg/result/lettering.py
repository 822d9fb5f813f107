"""Letters that a font can draw: never an empty box in a legend."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import TypeAlias

from PIL import ImageFont

Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Pillow's own font has ASCII and little more; these have the letters of most languages written in Latin letters.
_SYSTEM_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "arial.ttf", "Arial.ttf")
_UNASSIGNED = "\uffff"  # never a letter, so that its picture is the font's box
_PLAIN = str.maketrans(
    {
        "ß": "ss", "ẞ": "SS", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L",
        "đ": "d", "Đ": "D", "ð": "d", "Ð": "D", "þ": "th", "Þ": "Th", "ħ": "h", "Ħ": "H", "ı": "i", "ŋ": "ng",
        "–": "-", "—": "-", "‘": "'", "’": "'", "“": '"', "”": '"', "…": "...",
    }
)  # fmt: skip


def choose_font(texts: Iterable[str], *, size: int) -> Font:
    """Pillow's own font where it has all letters of ``texts``, or else the font of this machine that lacks fewest.

    Args:
        texts: what is to be drawn.
        size: of the font, in pixels.
    """
    letters = set("".join(texts))
    best = ImageFont.load_default(size=size)
    for name in _SYSTEM_FONTS:
        lacking = sum(not has_letter(best, letter) for letter in letters)
        if lacking == 0:
            break
        try:
            other = ImageFont.truetype(name, size=size)
        except OSError:  # not on this machine
            continue
        if sum(not has_letter(other, letter) for letter in letters) < lacking:
            best = other
    return best


def drawable(text: str, font: Font) -> str:
    """The text in letters that the font has: without accents where it lacks them, else escaped.

    >>> drawable("café 猫", ImageFont.load_default(size=20))
    'cafe \\\\u732b'
    """
    return "".join(letter if has_letter(font, letter) else _replaced(letter, font) for letter in text)


def shortened(text: str, font: Font, *, room: float) -> str:
    """As much of the text as ``room``, in pixels, holds; an ellipsis stands for the rest."""
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(f"{text}…") > room:
        text = text[:-1]
    return f"{text.rstrip()}…"


def _replaced(letter: str, font: Font) -> str:
    parts = unicodedata.normalize("NFKD", letter).translate(_PLAIN)
    plain = "".join(part for part in parts if not unicodedata.combining(part))
    if plain and all(has_letter(font, each) for each in plain):
        return plain
    return "" if unicodedata.combining(letter) else letter.encode("ascii", "backslashreplace").decode()


@lru_cache(maxsize=4096)
def has_letter(font: Font, letter: str) -> bool:
    """Whether a font draws a letter, and no box in its place."""
    if letter.isspace():
        return True
    drawn, box = font.getmask(letter), font.getmask(_UNASSIGNED)
    return (drawn.size, bytes(drawn)) != (box.size, bytes(box))
