"""What is counted by default."""

import pytest

from ovseg.errors import VocabularyError
from ovseg.vocabulary.labels import Concept, Vocabulary
from ovseg.vocabulary.things import is_thing


@pytest.mark.parametrize(
    "label", ["car", "Red Cars", "wall clock", "cracked insulator", "traffic_light", "ice cream"]
)
def test_things(label: str) -> None:
    assert is_thing(label)


@pytest.mark.parametrize(
    "label", ["sky", "brick walls", "wall-brick", "sky-other-merged", "Wet Road", "floor-wood"]
)
def test_stuff(label: str) -> None:
    assert not is_thing(label)


def test_a_concept_says_otherwise() -> None:
    vocabulary = Vocabulary.of([Concept("sky", thing=True), "car", Concept("truck", thing=False), "road"])
    assert vocabulary.things == ("sky", "car")
    assert Vocabulary.of(vocabulary, background=["x"]).things == ("sky", "car")


def test_a_vocabulary_made_by_hand_leaves_it_to_the_list_and_has_one_entry_a_label() -> None:
    parts = {"labels": ("car", "sky"), "phrases": (("car",), ("sky",)), "contrasts": ((), ()), "background": ()}
    assert Vocabulary(**parts, weights=(1.0, 1.0)).things == ("car",)
    with pytest.raises(
        VocabularyError, match="weights and thing must have one entry for each of 2 labels, got 2, 2, 2, 1"
    ):
        Vocabulary(**parts, weights=(1.0, 1.0), thing=(True,))
