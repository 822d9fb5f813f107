"""Seams for what comes: each shows that something of another kind fits in without a change to the package."""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import toy
from helpers.towers import build_network
from torch import Tensor
from torch.nn import functional

from ovseg.bank.search import region_vector
from ovseg.encoders.openclip_vit import OpenClipViT
from ovseg.encoders.spec import DenseFeatures
from ovseg.errors import ShapeError
from ovseg.heads.base import SCORES, IdentityHead, Phrases
from ovseg.images.geometry import Box, ImageGeometry, Size
from ovseg.pipeline.encoded import EncodedImage
from ovseg.pipeline.logits import ClassLogits
from ovseg.pipeline.modifiers import Modifier
from ovseg.pipeline.queries import QueryBank
from ovseg.pipeline.segmenter import Segmenter
from ovseg.pipeline.upsample import find_winners
from ovseg.result import SegmentationResult
from ovseg.result.segments import Segment, components
from ovseg.vocabulary import Vocabulary


def test_a_region_of_a_reference_photo_is_a_query(segmenter: Segmenter, photos: Path) -> None:
    """The red square of one photo finds the red square of another, without a word for it."""
    reference = segmenter.encode(next(photos.glob("00-*")))
    rows, columns = np.nonzero(segmenter.segment(reference, ["red"], background=["grey"]).mask("red"))
    box = (int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1)
    shown = torch.from_numpy(region_vector(reference, box))
    words = segmenter.queries(["grey"])
    mixed = QueryBank.of_vectors(
        torch.stack([shown, words.embeddings[0]]),
        [0, 1],
        Vocabulary.of(["this one"]),
        space=words.space,
        logit_scale=words.logit_scale,
    )
    photo = next(photos.glob("11-*"))  # black and red
    found = segmenter.segment(photo, mixed)
    assert found.labels == ("this one",)
    spoken = segmenter.segment(photo, ["red"], background=["grey"])
    assert (found.mask("this one") == spoken.mask("red")).mean() > 0.97


@dataclass(frozen=True)
class Ring:
    """A panorama: the map goes once around, each row shifted by so many cells as its number."""

    original: Size

    def shrunk(self, size: Size) -> Ring:
        return Ring(size)

    def sample(self, maps: Tensor, rows: slice, *, stride: int) -> Tensor:
        height, width = self.original
        h, w = maps.shape[-2:]
        y = torch.arange(height)[rows] * h // height
        x = torch.arange(width) * w // width
        return maps[..., y[:, None], (x[None] + y[:, None]) % w]

    def block(self, box: Box, *, stride: int) -> tuple[slice, slice]:
        return slice(None), slice(None)


@pytest.mark.parametrize("classes", [1, 5])
def test_a_map_need_not_lie_on_the_image_row_by_row_and_column_by_column(classes: int) -> None:
    maps = torch.rand(classes, 4, 6, generator=torch.Generator().manual_seed(0))
    winners = find_winners(maps, Ring((12, 30)), stride=1)
    for y in range(12):
        for x in range(30):
            values = maps[:, y * 4 // 12, (x * 6 // 30 + y * 4 // 12) % 6]
            best = values.sort(descending=True)
            assert int(winners.index[y, x]) == int(best.indices[0])
            assert float(winners.best[y, x]) == float(best.values[0])
            assert float(winners.second[y, x]) == (float(best.values[1]) if classes > 1 else 0)


def test_a_panorama_is_segmented_like_any_image(segmenter: Segmenter, photos: Path) -> None:
    encoded = segmenter.encode(next(photos.glob("00-*")))
    ring = replace(encoded, geometry=Ring((72, 96)))
    for refine in (False, True):
        result = segmenter.segment(ring, ["red", "green"], background=["grey"], refine=refine)
        assert result.size == (72, 96)
        assert 0 < result.area("red") < 0.5


def test_tokens_may_be_merged_between_blocks_if_they_are_put_back() -> None:
    tower = OpenClipViT(build_network("openclip"))
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    whole = tower.prefix(pixels).values

    def run(number: int, values: Tensor) -> Tensor:
        return tower.run_block(tower.blocks[number], values, None)

    def halve_and_double(number: int, values: Tensor) -> Tensor:
        """Every second patch after the first block; each twice again after the second."""
        values = run(number, values)
        patches = values[:, 1:]
        changed = patches[:, ::2] if number == 0 else patches.repeat_interleave(2, dim=1)
        return torch.cat([values[:, :1], changed], 1)

    tower.walk = lambda tower, tokens: halve_and_double
    merged = tower.prefix(pixels).values
    assert merged.shape == whole.shape and not torch.allclose(merged, whole)
    assert torch.equal(merged[:, 1::2], merged[:, 2::2])
    tower.walk = lambda tower, tokens: lambda number, values: run(number, values)[:, :3]
    with pytest.raises(ShapeError, match="the last block must get 17 tokens, got 3"):
        tower.prefix(pixels)


class Masks(IdentityHead):
    """A model that answers with a mask for each phrase, at a resolution of its own."""

    def fuse(self, pixels: DenseFeatures, phrases: Phrases) -> DenseFeatures:
        coarse = torch.einsum("bchw,qc->bqhw", pixels.values, phrases.values)
        fine = functional.interpolate(coarse, scale_factor=2, mode="bilinear")
        return DenseFeatures(20 * fine, SCORES, pixels.stride // 2)


def test_a_model_that_answers_with_masks_is_a_segmenter(segmenter: Segmenter, photos: Path) -> None:
    model = replace(segmenter.model, head=Masks(segmenter.model.head.space))
    masks = Segmenter(model, device=torch.device("cpu"))
    photo = next(photos.glob("00-*"))
    encoded, queries = masks.encode(photo), masks.queries(["red", "green"], background=["grey"])
    logits = masks.logits(encoded, queries)
    assert logits.stride == 4 and logits.grid == (2 * encoded.features.grid[0], 2 * encoded.features.grid[1])
    result = masks.segment(photo, ["red", "green"], background=["grey"])
    plain = segmenter.segment(photo, ["red", "green"], background=["grey"])
    assert result.area("red") == pytest.approx(plain.area("red"), abs=0.02)


@dataclass(frozen=True)
class Kinds(Modifier):
    """A hierarchy: a label is as likely as the likeliest of its kinds."""

    kinds: Mapping[str, tuple[str, ...]]

    @property
    def info(self) -> Mapping[str, str]:
        return {"kinds": str(sorted(self.kinds.items()))}

    def __call__(self, logits: ClassLogits, encoded: EncodedImage) -> ClassLogits:
        labels = logits.queries.vocabulary.labels
        values = logits.values.clone()
        for label, kinds in self.kinds.items():
            rows = [labels.index(kind) for kind in kinds]
            values[labels.index(label)] = logits.values[rows].amax(0) + math.log(2)
        return replace(logits, values=values)


def test_a_hierarchy_of_labels_is_a_modifier(segmenter: Segmenter, photos: Path) -> None:
    labels, photo = ["warm", "red", "yellow", "blue"], next(photos.glob("00-*"))
    known = segmenter.with_modifiers(Kinds({"warm": ("red", "yellow")}))
    plain = segmenter.segment(photo, labels, background=["grey"])
    told = known.segment(photo, labels, background=["grey"])
    assert plain.area("red") > 0.04 and told.area("red") == 0
    assert told.mask("warm")[plain.mask("red")].mean() > 0.7  # what was red is warm; borders are shared anew
    assert not told.mask("warm")[~plain.mask("red")].any()
    assert known.identity(labels) != segmenter.identity(labels)


@pytest.mark.slow
def test_an_encoder_is_exported_as_a_function_from_tensor_to_tensors(mini: Segmenter) -> None:
    encoder = mini.model.image
    assert isinstance(encoder, torch.nn.Module)
    first, other = (torch.randn(1, 3, 64, size, generator=torch.Generator().manual_seed(size)) for size in (64, 96))
    with torch.no_grad():
        values, structure, boxes = torch.export.export(encoder, (first,)).module()(first)
        dense = encoder.dense(first)
        torch.testing.assert_close(values, dense.values)
        torch.testing.assert_close(structure, dense.structure)
        torch.testing.assert_close(boxes, dense.boxes)
    assert encoder.dense(other).values.shape[-1] == 6


def test_a_result_holds_objects_that_overlap_or_touch(tmp_path: Path) -> None:
    index_map = np.full((6, 9), -1, np.int32)
    index_map[1:4, 1:7] = 0
    score_map = np.full((6, 9), 0.5, np.float32)
    plain = SegmentationResult(index_map, ("cat",), score_map, {"cat": 1.0})
    assert [each.box for each in components(plain, ["cat"])] == [(1, 1, 7, 4)]
    halves = [np.zeros((6, 9), bool) for _ in range(2)]
    halves[0][1:4, 1:5] = halves[1][1:4, 3:7] = True  # two cats, one before the other
    segments = tuple(Segment.of_pixels(*np.nonzero(half), "cat", score_map) for half in halves)
    result = replace(plain, things=("cat",), instances=segments)
    result.save(tmp_path)
    loaded = SegmentationResult.load(tmp_path)
    assert loaded.instances == segments
    for segment, half in zip(loaded.instances or (), halves, strict=True):
        assert np.array_equal(segment.mask(), half)
    boxes = [annotation["bbox"] for annotation in loaded.to_coco()["annotations"]]
    assert boxes == [[1, 1, 4, 3], [3, 1, 4, 3]]
    with pytest.raises(ShapeError, match=r"instances must be of \(6, 9\) pixels"):
        replace(
            plain,
            things=("cat",),
            instances=(Segment("cat", 1.0, (0, 0, 1, 1), 1, {"size": [2, 2], "counts": "13"}),),
        )


def test_threads_of_a_server_share_a_segmenter_and_its_cache(tmp_path: Path, photos: Path) -> None:
    model = toy.make_segmenter().model
    shared = Segmenter(model, device=torch.device("cpu"), cache=tmp_path)
    encoded = shared.encode(next(photos.glob("00-*")))
    wanted = [["red", f"thing {number % 12}"] for number in range(60)]
    alone = {tuple(labels): shared.segment(encoded, labels).index_map for labels in wanted}
    fresh = Segmenter(model, device=torch.device("cpu"), cache=tmp_path / "other")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda labels: fresh.segment(encoded, labels).index_map, wanted))
    for labels, index_map in zip(wanted, found, strict=True):
        assert np.array_equal(index_map, alone[tuple(labels)])


def test_the_geometry_of_a_resized_image_says_which_cells_a_box_touches() -> None:
    geometry = ImageGeometry((60, 90), (32, 48), (32, 64))
    assert geometry.block((0, 0, 60, 90), stride=16) == (slice(0, 2), slice(0, 3))
    assert geometry.block((0, 0, 1, 1), stride=16) == (slice(0, 1), slice(0, 1))
    assert geometry.block((29, 30, 31, 61), stride=16) == (slice(0, 2), slice(1, 3))
    # 480 · (512 / 480) / 16 is 32.000000000000004 in floats: one cell too many
    assert ImageGeometry((480, 480), (512, 512), (512, 512)).block((0, 0, 480, 480), stride=16)[0] == slice(0, 32)
