"""Colours in front of nouns."""

from dataclasses import replace

import pytest

from ovseg.assets import find_asset
from ovseg.config import read_yaml
from ovseg.images.colour_names import COLOURS
from ovseg.vocabulary.coloured import Coloured, coloured, with_nouns
from ovseg.vocabulary.labels import Vocabulary

TABLE = read_yaml(find_asset("prompts/vocabularies", "colours"))


@pytest.mark.parametrize(
    ("phrase", "colours", "noun"),
    [
        ("red car", ("red",), "car"),
        ("Green  Apple", ("green",), "apple"),
        ("navy_shirt", ("blue",), "shirt"),
        ("gray t-shirt", ("grey",), "t-shirt"),
        ("dark blue sports cars", ("blue",), "sports cars"),
        ("black and white cow", ("black", "white"), "cow"),
        ("yellow, red or green pepper", ("yellow", "red", "green"), "pepper"),
        ("orange cat", ("orange",), "cat"),
        ("the red car", ("red",), "car"),
    ],
)
def test_a_colour_before_a_noun_is_what_the_noun_has(phrase: str, colours: tuple[str, ...], noun: str) -> None:
    assert coloured(phrase) == Coloured(colours, noun)


@pytest.mark.parametrize(
    "phrase", ["orange", "dark red", "red and white", "car", "dark car", "blackboard", "car red"]
)
def test_a_colour_alone_or_elsewhere_is_no_attribute(phrase: str) -> None:
    assert coloured(phrase) is None


@pytest.mark.parametrize(
    "phrase",
    [
        "red panda",
        "Red Pandas",
        "red wine glass",
        "green beans",
        "orange juice",
        "the golden retriever",
        "red-haired man",
        "black woman",
        "white people",
        "brown person",
    ],
)
def test_names_that_begin_with_a_colour_say_none(phrase: str) -> None:
    assert coloured(phrase) is None


def test_singular_and_plural_name_one_thing() -> None:
    cars = Coloured(("red",), "cars")
    assert cars.same_thing("car") and cars.same_thing("Cars") and not cars.same_thing("cart")


def test_the_table_knows_every_colour_and_only_names_that_begin_with_one() -> None:
    assert tuple(TABLE["colours"]) == COLOURS
    words = [word for group in TABLE["colours"].values() for word in group]
    assert len(words) == len(set(words)) and all(name.split()[0] in words for name in TABLE["names"])
    assert TABLE["names"] == sorted(set(TABLE["names"]))


def test_a_label_with_a_colour_is_asked_by_its_noun_as_well() -> None:
    found = with_nouns(Vocabulary.of(["red car", "blue car", "red panda", "sky"]))
    assert found.labels == ("red car", "blue car", "red panda", "sky")
    assert found.phrases == (("red car", "car"), ("blue car", "car"), ("red panda",), ("sky",))
    # by the noun's broader word, too, which then is no background
    van = with_nouns(Vocabulary.of(["white van", "sky"], background=["truck", "wall"]), broader="everyday")
    assert van.phrases == (("white van", "van", "truck"), ("sky",)) and van.background == ("wall",)
    # what is another label's phrase stays its own
    assert with_nouns(Vocabulary.of(["red car", "Car"])).phrases == (("red car",), ("Car",))


def test_words_without_a_colour_and_words_of_papers_stay_as_they_are() -> None:
    plain = Vocabulary.of(["car", "sky", "red panda"])
    assert with_nouns(plain) is plain
    raw = replace(Vocabulary.of(["red car"]), raw=True)
    assert with_nouns(raw) is raw


def test_a_label_without_a_name_is_asked_by_no_noun() -> None:
    words = Vocabulary.of(["red car", "blue sky"])
    found = with_nouns(replace(words, nameless=("red car",)))
    assert found.phrases == (("red car",), ("blue sky", "sky"))
