"""From cosines to labels, window by window, at sizes and in the order of the released code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.golden import Case

from ovseg.attention.structured import resize_numbers
from ovseg.encoders.spec import DenseFeatures
from ovseg.images.geometry import ImageGeometry
from ovseg.images.resize import exact_size
from ovseg.images.tiles import Tile
from ovseg.models.config import ModelConfig, read_model_config
from ovseg.models.sections import CorrectionConfig
from ovseg.pipeline.decide import DecisionRules
from ovseg.pipeline.encoded import EncodedImage
from ovseg.pipeline.logits import ClassLogits
from ovseg.pipeline.pixels import BandRefinement
from ovseg.pipeline.queries import QueryBank
from ovseg.pipeline.windows import WindowGeometry, cut, padded_size, place_windows
from ovseg.regions.vote import majority_label, paint_by_area
from ovseg.vocabulary.labels import Vocabulary


def test_sizes_of_the_resized_image() -> None:
    for row in Case("resize_sizes")["table"].tolist():
        (height, width), wanted = row[:2], row[2:]
        for place, short in enumerate((336, 448, 560)):
            size = exact_size((height, width), short_side=short, max_long_side=2048)
            assert size == tuple(wanted[2 * place : 2 * place + 2])


def test_windows_are_enlarged_before_they_are_averaged() -> None:
    case = Case("windows")
    size, original = tuple(case.facts["image"]), tuple(case.facts["original_size"])
    window, stride = case.facts["window"], case.facts["stride"]
    cells = case["input.window_cosines"]
    tiles = place_windows(size, window=window, stride=stride)
    tops, lefts = case.facts["window_tops"], case.facts["window_lefts"]
    assert [(tile.top, tile.left) for tile in tiles] == [(top, left) for top in tops for left in lefts]
    maps = cells.transpose(0, 1).flatten(1, 2)[None]  # windows one below the other
    grid = (cells.shape[2], cells.shape[3])
    for height_width, entry in ((size, "full"), (original, "original")):
        geometry = WindowGeometry(height_width, size, tuple(tiles), (window, window), grid)
        found = geometry.sample(maps, slice(0, height_width[0]), stride=16)[0]
        case.close(found, case[f"expected.{entry}"])
        part = geometry.sample(maps, slice(7, 20), stride=16)[0]
        torch.testing.assert_close(part, found[:, 7:20])


def test_the_padding_of_a_small_image_is_around_it() -> None:
    case = Case("windows")
    cells, expected = case["input.padded_cosines"], case["expected.padded"]
    size = (expected.shape[1], expected.shape[2])
    (tile,) = place_windows(size, window=None, stride=1)
    patch = case.facts["window"] // case["input.window_cosines"].shape[-1]
    padded = padded_size(tile, patch)
    left, top, right, bottom = case.facts["padding_left_top_right_bottom"]
    assert padded == (size[0] + top + bottom, size[1] + left + right)
    ones = cut(torch.ones(*size), tile, padded)
    assert ones.nonzero()[0].tolist() == [top, left] and ones.sum() == size[0] * size[1]
    geometry = WindowGeometry(size, size, (tile,), padded, (cells.shape[2], cells.shape[3]))
    case.close(geometry.sample(cells, slice(0, size[0]), stride=patch)[0], expected)


def rules(**sections: Any) -> DecisionRules:
    """The rules of a -paper file with the settings of a run."""
    values = read_model_config("clip-b16-sclip-paper").model_dump() | {"datasets": {}, "correction": None}
    for name, section in sections.items():
        values[name] = section
    return DecisionRules(ModelConfig.model_validate(values))


def asked(case: Case, *, owners: str, scale: float, whole: bool) -> tuple[ClassLogits, EncodedImage]:
    """Logits of the case's cosines: classes 1 and above are labels, class 0 is what is none of them."""
    cosines, owner = case["input.cosines"], case[f"input.{owners}"]
    labels = int(owner.max())
    class_of_row = torch.where(owner == 0, labels, owner - 1)
    size, original = tuple(case.facts["network_image"]), tuple(case.facts["original_size"])
    if whole:
        geometry: Any = ImageGeometry(original, size, size)
    else:
        geometry = WindowGeometry(original, size, (Tile(0, 0, *size),), size, (cosines.shape[1], cosines.shape[2]))
    vocabulary = Vocabulary.of([f"label {number}" for number in range(labels)])
    queries = QueryBank.of_vectors(
        torch.zeros(len(owner), 1), class_of_row.tolist(), vocabulary, space="golden", logit_scale=scale
    )
    logits = ClassLogits(cosines * scale, case.facts["patch"], queries, class_of_row=class_of_row)
    image = np.zeros((*original, 3), np.uint8)
    return logits, EncodedImage(image, DenseFeatures(cosines[None], "golden", case.facts["patch"]), geometry)


@pytest.mark.parametrize("run", list(Case("scoring").facts["runs"]))
def test_labels_of_each_method(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("scoring")
    settings, corrclip = case.facts["runs"][run], run.startswith("corrclip")
    refine = run.startswith("naclip_pamr")
    logits, encoded = asked(
        case,
        owners="class_of_phrase_corrclip" if corrclip else "class_of_phrase",
        scale=settings["logit_scale"],
        whole=run == "sclip_whole",
    )
    decider = rules(
        background={"threshold": settings["threshold"], "area": settings.get("area_threshold") or 0.0},
        scoring={"over": "phrases", "at": "pixels"},
        refine={"method": "pamr-released", "options": case.facts["pamr"]},
    )
    network = torch.nn.functional.interpolate(
        case["input.image"], size=encoded.geometry.original, mode="bilinear", align_corners=False
    )
    plain = decider._band_refinement(encoded, refine=True)
    assert plain is not None
    given = BandRefinement(network, plain.refine, plain.reach) if refine else None
    monkeypatch.setattr(decider, "_band_refinement", lambda _, refine: given)
    if corrclip:
        regions = case["input.regions_corrclip"].long()
        if run == "corrclip_all_segmented":
            regions = torch.where(regions == 0, 1, regions)
        correction = CorrectionConfig(source="slic", spare_lowest=True)
        decider.config = decider.config.model_copy(update={"correction": correction})
        decider._regions = lambda image, structure: (regions - int((regions == 0).any())).int()
    found = decider.decide(logits, encoded, background=True, refine=refine).index.long() + 1
    decided = case.tensors.get(f"expected.decided_{run}", torch.ones_like(found)).bool()
    expected = case[f"expected.labels_{run}"].long()
    assert decided.float().mean() > 0.9
    assert torch.equal(found[decided], expected[decided])


@pytest.mark.parametrize(("run", "entry"), [("sclip", "class_probabilities_sclip"), ("naclip_pamr", None)])
def test_probabilities_of_classes(run: str, entry: str | None) -> None:
    case = Case("scoring")
    logits, encoded = asked(
        case, owners="class_of_phrase", scale=case.facts["runs"][run]["logit_scale"], whole=False
    )
    decider = rules(scoring={"over": "phrases", "at": "pixels"})
    if entry is not None:
        found = torch.from_numpy(decider.scores(logits, encoded, refine=False)).float()
        torch.testing.assert_close(found, case[f"expected.{entry}"][1:], atol=1e-3, rtol=1e-3)  # kept in float16
    upsampled = encoded.geometry.sample(logits.values[None], slice(0, encoded.geometry.original[0]), stride=16)[0]
    first = (case["input.class_of_phrase"] == 2).nonzero()[0, 0]
    theirs = case["expected.upsampled_cosines"]
    scale = case.facts["runs"][run]["logit_scale"]
    torch.testing.assert_close(upsampled[[0, int(first)]] / scale, theirs, atol=1e-5, rtol=1e-5)


def test_masks_are_painted_once_resized_and_cut_into_windows() -> None:
    case = Case("corrclip_paint")
    masks = case["input.masks"].bool()
    painted = paint_by_area(masks)
    assert torch.equal(painted + 1, case["expected.painted"].int())
    everything = torch.cat([masks, torch.ones_like(masks[:1])])
    assert torch.equal(paint_by_area(everything) + 1, case["expected.painted_with_full_mask"].int())
    network = case["expected.network_map"]
    resized = resize_numbers(painted, (network.shape[0], network.shape[1]))
    assert torch.equal(resized + 1, network.int())
    constants = case.facts["hyper_parameters"]
    size = (network.shape[0], network.shape[1])
    tiles = place_windows(size, window=constants["window"], stride=constants["stride"])
    padded = padded_size(tiles[0], constants["pad_to_multiple_of"])
    outside = constants["padding_region_id"] - 1
    windows = torch.stack([cut(resized, tile, padded, fill=outside) for tile in tiles])
    assert torch.equal(windows + 1, case["expected.window_maps"].int())
    inside = torch.stack([cut(torch.ones_like(resized), tile, padded) for tile in tiles])
    assert torch.equal(inside, case["expected.window_inside"].int())
    corrected = majority_label(case["input.labels"].int(), painted)
    assert torch.equal(corrected, case["expected.corrected"].int())
