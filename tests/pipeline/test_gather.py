"""Features gathered over regions and over cells that are alike, against loops."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.toy import make_segmenter
from pydantic import ValidationError

from ovseg.errors import ConfigError
from ovseg.models.sections import GatherConfig, InputConfig
from ovseg.pipeline.gather import Gathering
from ovseg.pipeline.segmenter import Segmenter
from ovseg.regions import RegionsConfig

RED, BLUE = (220, 30, 30), (30, 40, 220)


def picture() -> np.ndarray:
    """(60, 90, 3): red to the left, blue to the right, noisy; its cells of 8 pixels do not end at its sides."""
    pixels = np.empty((60, 90, 3), np.int16)
    pixels[:, :45], pixels[:, 45:] = RED, BLUE
    return (pixels + np.random.default_rng(0).integers(0, 30, pixels.shape)).clip(0, 255).astype(np.uint8)


def gathering_segmenter(gather, **changes) -> Segmenter:
    plain = make_segmenter()
    config = plain.config.model_copy(update={"gather": gather, **changes})
    return Segmenter(replace(plain.model, config=config), device=plain.device)


@pytest.mark.parametrize("source", ["linked", "felzenszwalb"])
def test_the_cells_of_a_region_share_their_mean(source):
    gather = GatherConfig(regions=RegionsConfig(source=source))
    before, after = (make_segmenter().encode(picture()), gathering_segmenter(gather).encode(picture()))
    old, new = (encoded.unpadded(encoded.features.values)[0] for encoded in (before, after))
    assert old.shape == new.shape == (7, 8, 12)
    known = {tuple(vector.tolist()) for vector in new.flatten(1).T}
    assert len(known) < 10 < len({tuple(vector.tolist()) for vector in old.flatten(1).T})
    for vector in known:
        members = (new == torch.tensor(vector)[:, None, None]).all(0)
        torch.testing.assert_close(old[:, members].mean(1), torch.tensor(vector))


def test_padding_is_left_alone():
    segmenter = make_segmenter()
    encoded = segmenter.encode(picture())
    geometry = replace(encoded.geometry, padded=(80, 112))
    values = torch.rand(1, 7, 10, 14)
    padded = replace(
        encoded, features=replace(encoded.features, values=values, structure=values), geometry=geometry
    )
    found = Gathering(GatherConfig(sharpness=10.0), unit=False)(padded).features.values
    assert torch.equal(found[..., 8:, :], values[..., 8:, :]) and torch.equal(found[..., 12:], values[..., 12:])
    assert not torch.isclose(found[..., :8, :12], values[..., :8, :12]).any()


@pytest.mark.parametrize("unit", [False, True])
def test_cells_that_are_alike_are_averaged_as_the_loops_say(unit):
    encoded = make_segmenter().encode(picture())
    found = Gathering(GatherConfig(sharpness=10.0), unit=unit)(encoded)
    vectors = encoded.unpadded(encoded.features.values)[0].flatten(1).T.double()
    units = [vector / vector.norm() for vector in vectors]
    cosines = [[float(one @ other) for other in units] for one in units]
    mean = sum(map(sum, cosines)) / len(units) ** 2
    for row, answer in zip(cosines, found.unpadded(found.features.values)[0].flatten(1).T, strict=True):
        weights = [math.exp(10 * (value - mean)) if value >= mean else 0.0 for value in row]
        slow = sum(weight * vector for weight, vector in zip(weights, vectors, strict=True)) / sum(weights)
        slow = slow / slow.norm() if unit else slow
        torch.testing.assert_close(answer.double(), slow, atol=1e-5, rtol=1e-5)


def test_features_of_windows_stay_of_unit_length_where_the_file_says_so():
    gather = GatherConfig(regions=RegionsConfig(source="normalized_cut"))
    sizes = InputConfig(short_side=64, max_long_side=128, window=48, overlap=16, splice="features")
    encoded = gathering_segmenter(gather, input=sizes).encode(picture())
    assert torch.allclose(encoded.features.values.norm(dim=1), torch.ones(1, *encoded.features.grid))


def test_a_model_that_gathers_is_known_by_it():
    gather = GatherConfig(sharpness=10.0)
    infos = [make_segmenter().info, gathering_segmenter(gather).info]
    infos.append(gathering_segmenter(GatherConfig(sharpness=5.0)).info)
    assert len({info["features"] for info in infos}) == 3


def test_wrong_sections_are_refused():
    for wrong in ({}, {"sharpness": 3.0, "regions": {"source": "slic"}}):
        with pytest.raises(ValidationError, match="expected one of 'regions', 'sharpness' and 'attention'"):
            GatherConfig.model_validate(wrong)
    config = make_segmenter().config
    values = config.model_dump() | {"gather": {"sharpness": 3.0}}
    values["input"]["splice"] = "pixels"
    with pytest.raises(ValidationError, match="gather needs cells on one grid"):
        type(config).model_validate(values)
    with pytest.raises(ConfigError, match="did you mean 'linked'"):
        gathering_segmenter(GatherConfig(regions=RegionsConfig(source="linkd")))
