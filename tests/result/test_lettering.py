import pytest
from PIL import ImageFont

from ovseg.result import lettering
from ovseg.result.lettering import choose_font, drawable, has_letter

SMALL = ImageFont.load_default(size=20)


def test_ascii_is_drawn_in_pillows_own_font_as_it_is() -> None:
    text = "".join(map(chr, range(32, 127)))
    assert drawable(text, SMALL) == text
    assert choose_font([text], size=20).getname() == SMALL.getname()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("café", "cafe"), ("für", "fur"), ("niño", "nino"), ("Łódź", "Lodz"), ("smørrebrød", "smorrebrod"),
        ("straße", "strasse"), ("猫", "\\u732b"), ("🐱", "\\U0001f431"), ("cafe\u0301", "cafe"), ("ĳ", "ij"),
    ],
)  # fmt: skip
def test_a_letter_that_the_font_lacks_is_plain_or_escaped_but_never_a_box(text: str, expected: str) -> None:
    assert drawable(text, SMALL) == expected
    assert all(has_letter(SMALL, letter) for letter in drawable(text, SMALL))


def test_a_font_of_the_machine_draws_accents_as_they_are() -> None:
    font = choose_font(["café", "für", "niño"], size=20)
    if font.getname() == SMALL.getname():
        pytest.skip("this machine has none of the fonts")
    assert drawable("café für niño Łódź", font) == "café für niño Łódź"
    assert all(has_letter(font, letter) for letter in drawable("猫 قطة 🐱", font))


def test_without_fonts_on_the_machine_pillows_own_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lettering, "_SYSTEM_FONTS", ("no-such-font.ttf",))
    assert choose_font(["café"], size=20).getname() == SMALL.getname()
