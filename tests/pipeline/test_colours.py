"""Colours that labels name, in the pixels of the thing."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.toy import COLOURS, make_segmenter
from torch import Tensor

from ovseg.config import parse_config
from ovseg.errors import ConfigError
from ovseg.models.config import ModelConfig, read_model_config
from ovseg.models.sections import ColoursConfig
from ovseg.pipeline.colours import ColourEvidence, Thing, around, named_cells, things_of
from ovseg.pipeline.logits import ClassLogits
from ovseg.pipeline.segmenter import Segmenter
from ovseg.vocabulary.labels import Concept, Vocabulary

RULE = ColoursConfig(gain=6.0, enough=0.4, reach=1.5)


def knowing(rule: ColoursConfig | None = RULE) -> Segmenter:
    """The toy segmenter with a section ``colours``."""
    plain = make_segmenter()
    return Segmenter(
        replace(plain.model, config=plain.config.model_copy(update={"colours": rule})), device=torch.device("cpu")
    )


def halves(left: str, right: str) -> np.ndarray:
    """64 × 128 pixels, 8 × 16 cells of the toy, of one colour on the left and of another on the right."""
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[:, :64], pixels[:, 64:] = COLOURS[left], COLOURS[right]
    return pixels


def test_cells_know_what_share_of_them_has_a_colour() -> None:
    pixels = halves("red", "blue")
    pixels[:, 68:72] = COLOURS["red"]  # half of a column of cells
    encoded = knowing().encode(pixels)
    red, blue, green = named_cells(encoded, ["red", "blue", "green"])
    expected = torch.cat([torch.ones(8), torch.tensor([0.5]), torch.zeros(7)]).expand(8, 16)
    torch.testing.assert_close(red, expected)
    torch.testing.assert_close(blue, 1 - expected)
    assert not bool(green.any())


def test_means_of_the_cells_around_are_those_of_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    values, weights = torch.rand(2, 5, 7, generator=generator)
    found = around(values, weights, reach=1.0)
    for row in range(5):
        for column in range(7):
            top = bottom = 0.0
            for other in range(5):
                for place in range(7):
                    if max(abs(other - row), abs(place - column)) <= 4:  # four deviations
                        near = math.exp(-((other - row) ** 2 + (place - column) ** 2) / 2)
                        top += near * float(weights[other, place] * values[other, place])
                        bottom += near * float(weights[other, place])
            assert float(found[row, column]) == pytest.approx(top / bottom, abs=1e-5)
    torch.testing.assert_close(around(values, weights, reach=0), values)
    assert not bool(around(values, torch.zeros(5, 7), reach=1.0).any())


def blank_logits(segmenter: Segmenter, labels: list[str], values: Tensor) -> ClassLogits:
    """Logits (K, h, w) of these labels."""
    return ClassLogits(values, 8, segmenter.queries(labels))


def test_a_class_loses_as_the_share_of_its_colour_falls() -> None:
    """With no cells around: shares of 1, a quarter and 0, of which 0.4 were enough."""
    segmenter = knowing()
    pixels = halves("red", "blue")
    pixels[:, 72:74] = COLOURS["red"]  # a quarter of the tenth column of cells
    encoded = segmenter.encode(pixels)
    evidence = ColourEvidence(RULE.model_copy(update={"reach": 0}), (Thing((0,), (("red",),)),))
    before = blank_logits(segmenter, ["red mug"], torch.zeros(2, 8, 16))
    added = evidence(before, encoded).values - before.values
    # 6 · (1 − 0.25 / 0.4) is 2.25
    expected = torch.tensor([0.0] * 8 + [-6.0, -2.25] + [-6.0] * 6).expand(8, 16)
    torch.testing.assert_close(added, torch.stack([expected, torch.zeros(8, 16)]))


def test_classes_of_one_noun_take_the_better_words_and_colour_decides() -> None:
    segmenter = knowing()
    encoded = segmenter.encode(halves("red", "blue"))
    words = torch.tensor([1.0, 4.0, 2.0, 3.0])[:, None, None].expand(4, 8, 16)
    before = blank_logits(segmenter, ["red mug", "blue mugs", "mug", "sky"], words)
    things = things_of(before.queries.vocabulary)
    assert things == (Thing((0, 1, 2), (("red",), ("blue",), ())),)
    evidence = ColourEvidence(RULE.model_copy(update={"reach": 0}), things)
    after = evidence(before, encoded).values
    torch.testing.assert_close(after[:, 0, 0], torch.tensor([4.0, -2.0, -2.0, 3.0]))
    torch.testing.assert_close(after[:, 0, 15], torch.tensor([-2.0, 4.0, -2.0, 3.0]))


def test_the_noun_beside_a_colour_is_the_things_of_other_colours() -> None:
    segmenter = knowing()
    encoded = segmenter.encode(halves("red", "blue"))
    before = blank_logits(segmenter, ["mug", "red mug"], torch.zeros(2, 8, 16))
    (modifier,) = before.queries.modifiers
    winner = modifier(before, encoded).values.argmax(0)
    assert winner[0, 0] == 1 and winner[0, 15] == 0


def test_dark_parts_of_a_thing_count_as_the_thing() -> None:
    """A black stripe between red cells that are the mug gains what they say; what is no mug says nothing."""
    segmenter = knowing()
    pixels = halves("red", "blue")
    pixels[:, 24:32] = COLOURS["black"]
    encoded = segmenter.encode(pixels)
    words = torch.zeros(2, 8, 16)
    words[0], words[0, :, 8:] = 5.0, -5.0
    before = blank_logits(segmenter, ["red mug"], words)
    (modifier,) = before.queries.modifiers
    torch.testing.assert_close(modifier(before, encoded).values[0, :, 3], words[0, :, 3])


def test_what_a_label_is_not_may_have_a_colour_too() -> None:
    found = things_of(Vocabulary.of([Concept("red car", not_=["blue cars"])], background=["wall"]))
    assert found == (Thing((0, 2), (("red",), ("blue",))),)
    assert things_of(replace(Vocabulary.of(["red car"]), raw=True)) == ()


def test_labels_tell_two_things_apart_by_their_colours() -> None:
    """The toy knows no mug: by words alone both halves are both."""
    image = halves("yellow", "white")
    labels = ["yellow mug", "white mug"]
    found = knowing().segment(image, labels, background=None)
    assert found["yellow mug"][:, :56].all() and found["white mug"][:, 72:].all()


def test_a_label_without_a_name_has_no_colour() -> None:
    words = Vocabulary.of(["red mug", "blue mug"])
    assert things_of(words) == (Thing((0, 1), (("red",), ("blue",))),)
    assert things_of(replace(words, nameless=("red mug",))) == (Thing((1,), (("blue",),)),)


def test_labels_without_colours_are_answered_as_before() -> None:
    image = halves("red", "blue")
    labels = ["red", "orange", "blue jay", "mug"]
    plain, other = make_segmenter(), knowing()
    encoded = plain.encode(image)
    assert other.queries(labels, background="auto").modifiers == ()
    before, after = (each.segment(encoded, labels, keep_scores=True) for each in (plain, other))
    np.testing.assert_array_equal(after.index_map, before.index_map)
    np.testing.assert_array_equal(after.scores, before.scores)
    assert other.identity(labels)["asked"] == plain.identity(labels)["asked"]


def test_the_section_is_part_of_what_results_are_known_by() -> None:
    plain, other, stronger = knowing(None), knowing(), knowing(ColoursConfig(gain=7))
    assert plain.info == make_segmenter().info
    assert len({each.info["settings"] for each in (plain, other, stronger)}) == 3
    labels = ["red mug", "mug"]  # no phrase is added here, and still the answer differs
    assert other.identity(labels)["asked"] != plain.identity(labels)["asked"]


def test_mini_looks_for_colours_and_towers_that_have_seen_them_do_not() -> None:
    assert read_model_config("mini").colours == ColoursConfig()
    assert read_model_config("clip-b16-sclip-shared").colours is None


@pytest.mark.parametrize(
    ("values", "message"),
    [({"gain": -1}, "gain"), ({"enough": 0}, "enough"), ({"reach": -1}, "reach"), ({"gian": 2}, "gain")],
)
def test_a_section_that_cannot_be_is_refused(values: dict[str, float], message: str) -> None:
    config = make_segmenter().config.model_dump()
    with pytest.raises(ConfigError, match=message):
        parse_config(ModelConfig, {**config, "colours": values}, source="a model file")
