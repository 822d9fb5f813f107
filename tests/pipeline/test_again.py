"""A second pass by the labels of the first: which labels the encoder is given, and what becomes of its features."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.towers import model_config
from helpers.toy import COLOURS, SPACE, ToyEncoder, ToyText, make_segmenter
from pydantic import ValidationError

from ovseg.errors import ConfigError
from ovseg.heads.base import IdentityHead
from ovseg.models.config import ModelConfig
from ovseg.models.model import Model
from ovseg.models.sections import AgainConfig, InputConfig, RefineConfig
from ovseg.pipeline.segmenter import Segmenter

LABELS = ["red", "blue"]
CPU = torch.device("cpu")


class SecondLook(ToyEncoder):
    """A toy encoder that shows, in a second pass, the colour of label 1 − n where it is told label n."""

    def __init__(self):
        super().__init__()
        self.given, self.kept, self.resumed = [], [], []

    def dense_resumable(self, pixels):
        self.kept.append(pixels)
        return self.dense(pixels), len(self.kept)

    def dense_labelled(self, pixels, labels, entering=None):
        self.given.append((pixels, labels))
        if entering is not None:  # what was kept belongs to these windows
            assert torch.equal(self.kept[entering - 1], pixels)
            self.resumed.append(entering)
        dense = self.dense(pixels)
        cells = labels[:, 4::8, 4::8]
        told = torch.full_like(cells, 6)  # no colour
        told[cells == 0], told[cells == 1] = 2, 0  # channels of blue and red
        values = torch.nn.functional.one_hot(told, 7).permute(0, 3, 1, 2).float()
        return replace(dense, values=values, structure=None)


def picture():
    """(64, 96, 3): red to the left, blue to the right, grey below."""
    pixels = np.full((64, 96, 3), 128, np.uint8)
    pixels[:48, :48], pixels[:48, 48:] = COLOURS["red"], COLOURS["blue"]
    return pixels


def segmenter_of(encoder, *, least=0.25, **changes):
    # the model file's own check wants a recipe that reads labels, which the toy has not
    refine = RefineConfig(method="pamr", options={"iterations": 1, "dilations": [1]})
    again = AgainConfig(least=least)
    config = make_segmenter().config.model_copy(update={"again": again, "refine": refine, **changes})
    model = Model(config, encoder, ToyText, IdentityHead(SPACE), {"image": "toy"})
    return Segmenter(model, device=CPU)


SIZES = {
    "whole": InputConfig(short_side=64, max_long_side=96),
    "scores": InputConfig(short_side=64, max_long_side=96, window=48, overlap=16),
    "features": InputConfig(short_side=64, max_long_side=96, window=48, overlap=16, splice="features"),
    "pixels": InputConfig(short_side=64, max_long_side=96, window=48, overlap=16, splice="pixels"),
}


@pytest.mark.parametrize("splice", SIZES)
def test_the_second_pass_is_given_the_labels_of_the_first_and_decides(splice):
    encoder = SecondLook()
    segmenter = segmenter_of(encoder, least=0.6, input=SIZES[splice])
    first = segmenter.model.config.model_copy(update={"again": None})
    once = Segmenter(replace(segmenter.model, config=first), device=CPU).segment(picture(), LABELS, background=None)
    found = segmenter.segment(picture(), LABELS, background=None)
    assert (once.index_map[8:40, 8:40] == 0).all() and (once.index_map[8:40, 56:88] == 1).all()
    assert (found.index_map[8:40, 8:40] == 1).all() and (found.index_map[8:40, 56:88] == 0).all()
    for pixels, labels in encoder.given:
        assert labels.shape == (len(pixels), *pixels.shape[2:])
        red, blue = (pixels[:, channel] > 0.8 for channel in (0, 2))
        for colour, number in ((red, 0), (blue, 1)):
            inside = torch.nn.functional.avg_pool2d(colour.float(), 17, 1, 8) == 1  # not near an edge
            assert (labels[inside] == number).all()
    assert encoder.resumed == list(range(len(encoder.kept) - len(encoder.given) + 1, len(encoder.kept) + 1))
    given = torch.cat([labels.flatten() for _, labels in encoder.given])
    assert {-1, 0, 1} <= set(given.tolist())  # what is unsure has no label


def test_the_labels_are_those_of_the_vocabulary_and_are_asked_for_once_each():
    encoder = SecondLook()
    segmenter = segmenter_of(encoder)
    encoded = segmenter.encode(picture())
    for labels in (["red", "blue"], ["blue", "red"], ["red"]):
        segmenter.segment(encoded, labels, background=None)
    first, second, third = (labels for _, labels in encoder.given)
    assert torch.equal(first[first >= 0], 1 - second[second >= 0]) and set(third.unique().tolist()) <= {-1, 0}


def test_a_model_that_looks_again_is_known_by_it():
    infos = [segmenter_of(SecondLook(), least=least).info["settings"] for least in (0.1, 0.2)]
    assert len({*infos, make_segmenter().info["settings"]}) == 3


def resclip(**changes):
    recipe = {"name": "resclip"}
    config = model_config("tiny", encoder={"kind": "openclip", "name": "ViT-B-16", "recipe": recipe})
    return ModelConfig.model_validate(config.model_dump() | {"again": {}} | changes)


def test_wrong_sections_are_refused():
    assert resclip().again == AgainConfig()
    other = resclip().encoder.model_dump() | {"recipe": {"name": "naclip"}}
    with pytest.raises(ValidationError, match=r"needs a recipe that reads labels \(resclip\), got 'naclip'"):
        resclip(encoder=other)
    with pytest.raises(ConfigError, match="needs an encoder that reads labels, got ToyEncoder"):
        segmenter_of(ToyEncoder())
