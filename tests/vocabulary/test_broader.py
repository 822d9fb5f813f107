"""Broader words beside everyday ones."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.toy import make_segmenter

from ovseg.errors import ConfigError
from ovseg.evaluation.data.protocol import load_protocol
from ovseg.vocabulary.broader import broadened, broader_word
from ovseg.vocabulary.labels import Concept, Vocabulary


def test_a_word_is_asked_by_its_broader_word_as_well() -> None:
    found = broadened(Vocabulary.of(["Women", "kitten", "sky", "red van"], background=["person", "wall"]))
    assert found.labels == ("Women", "kitten", "sky", "red van")
    assert found.phrases == (("Women", "person"), ("kitten", "cat"), ("sky",), ("red van",))
    assert found.background == ("wall",)
    assert broader_word("person") is None and broader_word("vans") == "truck"


def test_labels_that_share_a_broader_word_are_told_apart() -> None:
    assert broadened(Vocabulary.of(["man", "woman"])).phrases == (("man", "man person"), ("woman", "woman person"))
    assert broadened(Vocabulary.of(["person", "man"])).phrases == (("person",), ("man", "man person"))
    twice = Vocabulary.of([Concept("cat", synonyms=["kitty"]), "kitty"])
    assert broadened(twice).phrases == twice.phrases


def test_a_label_without_a_name_is_asked_by_no_other_word_and_others_as_if_it_were_not_there() -> None:
    nameless = replace(Vocabulary.of(["man", "woman"], background=["wall"]), nameless=("man",))
    assert broadened(nameless).phrases == (("man",), ("woman", "person"))
    picture = np.zeros((32, 32, 3), np.uint8)
    shown = Concept("man", images=[picture], masks=[np.ones((32, 32))], use_name=False)
    plain = make_segmenter()
    config = plain.config.model_copy(update={"broader": "everyday"})
    segmenter = type(plain)(replace(plain.model, config=config), device=plain.device)
    for background in (None, "auto", ["wall"]):
        for named, phrases in ((False, ("man",)), (True, ("man", "person"))):
            asked = [replace(shown, use_name=named), "red"]
            assert segmenter.queries(asked, background=background).vocabulary.phrases[0] == phrases
    assert segmenter.identity([shown]) != segmenter.identity([replace(shown, use_name=True)])


def test_words_of_papers_stay_as_they_are() -> None:
    raw = replace(Vocabulary.of(["man", "sky"]), raw=True)
    assert broadened(raw) is raw


def test_a_table_that_is_none_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="everyday"):
        broadened(Vocabulary.of(["man"]), table="everday")


@pytest.mark.parametrize("name", ["coco-panoptic-133", "camvid11", "facade8", "clothing", "voc20", "voc20-on-coco"])
def test_the_names_that_mini_is_measured_by_are_asked_as_before(name: str) -> None:
    assert not [entry.name for entry in load_protocol(name).classes if broader_word(entry.name) is not None]


def test_what_a_model_adds_is_part_of_what_a_result_is_known_by() -> None:
    plain = make_segmenter()
    config = plain.config.model_copy(update={"broader": "everyday"})
    model = type(plain.model)(**{**vars(plain.model), "config": config})
    other = type(plain)(model, device=plain.device)
    assert other.identity(["man"])["asked"] != plain.identity(["man"])["asked"]
    assert other.identity(["red"])["asked"] == plain.identity(["red"])["asked"]
    assert [phrase for phrase in other.queries(["man"]).vocabulary.phrases[0]] == ["man", "person"]
