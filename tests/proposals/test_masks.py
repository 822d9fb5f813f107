"""Masks of objects without names: what is cut out is the object, scores are what they say."""

import numpy as np
import pytest
import torch

from ovseg.errors import ShapeError
from ovseg.proposals.masks import (
    apartness,
    at_most_cells,
    box_masks,
    cut_masks,
    sam_masks,
    sharp_masks,
    sharp_partition,
)
from ovseg.proposals.proposal import Proposals
from ovseg.sam import load_sam


def scene(rows: slice, columns: slice, *, size: tuple[int, int] = (64, 96)) -> tuple[torch.Tensor, torch.Tensor]:
    """A red rectangle on grey, (H, W, 3) uint8, and (2, h, w) features of cells of 8 × 8 pixels that know it."""
    image = torch.full((*size, 3), 120, dtype=torch.uint8)
    image[rows, columns] = torch.tensor([220, 30, 30], dtype=torch.uint8)
    inside = (image[..., 0] == 220)[4::8, 4::8].float()
    return image, torch.stack([inside, 1 - inside])


def overlap(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one & other).sum() / (one | other).sum())


def test_a_cut_finds_the_object_and_says_how_unlike_the_rest_it_is() -> None:
    image, structure = scene(slice(16, 40), slice(24, 56))
    mask, score = next(cut_masks(image, structure))
    assert mask.shape == (64, 96) and overlap(mask, image[..., 0] == 220) > 0.9
    assert score == pytest.approx(0.5)  # half of 1 − cos 90°


def test_borders_follow_the_image_where_cells_are_coarse() -> None:
    image, _ = scene(slice(19, 43), slice(27, 59))  # 3 pixels beside the cells' borders
    coarse = torch.zeros(1, 8, 12)
    coarse[:, 2:5, 3:7] = 1
    plain = torch.nn.functional.interpolate(coarse[None], (64, 96))[0, 0] > 0.5
    (sharp,) = sharp_masks(image, coarse)
    truth = image[..., 0] == 220
    assert overlap(sharp, truth) > overlap(plain, truth) + 0.1


def test_a_partition_gives_each_pixel_one_number_and_follows_the_borders() -> None:
    """The rectangle ends in the middle of cells; by the cells alone its border would be off by four pixels."""
    image, _ = scene(slice(20, 44), slice(28, 60))
    owner = torch.zeros(8, 12, dtype=torch.int64)
    owner[2:5, 3:7], owner[7] = 1, 3  # 2 is nowhere
    numbers = sharp_partition(image, owner)
    assert (
        numbers.shape == (64, 96) and numbers.dtype == torch.int64 and set(numbers.unique().tolist()) == {0, 1, 3}
    )
    truth = image[..., 0] == 220
    plain = torch.nn.functional.interpolate(owner[None, None].float(), (64, 96), mode="nearest")[0, 0] == 1
    assert overlap(numbers == 1, truth) > overlap(plain, truth) + 0.1
    assert (numbers[60:] == 3).all() and not (numbers[:52] == 3).any()  # no edge in the image: within half a cell
    one = torch.zeros(2, 3, dtype=torch.int64)
    assert torch.equal(sharp_partition(image, one), torch.zeros(64, 96, dtype=torch.int64))
    with pytest.raises(ShapeError, match="owner must be"):
        sharp_partition(image, torch.zeros(4, dtype=torch.int64))


def test_of_no_maps_there_are_no_masks() -> None:
    assert list(sharp_masks(torch.zeros(8, 8, 3, dtype=torch.uint8), torch.zeros(0, 2, 2))) == []


def test_apartness_is_half_of_what_the_cosine_lacks_of_1() -> None:
    features = torch.tensor([[[1.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]]])
    assert apartness(features, torch.tensor([[True, True, False]])) == pytest.approx(0.5)
    assert apartness(features, torch.ones(1, 3, dtype=torch.bool)) == 0.0


def test_many_cells_are_averaged_and_few_are_left_alone() -> None:
    maps = torch.rand(3, 40, 60)
    assert at_most_cells(maps, 600).shape == (3, 20, 30)
    assert at_most_cells(maps, 2400) is maps


def test_a_detectors_box_is_cut_out_by_the_features_within_it() -> None:
    image, structure = scene(slice(16, 40), slice(24, 56))
    boxes = torch.tensor([[16.0, 8, 64, 48], [17, 8, 64, 48], [0, 0, 8, 8]])
    proposals = Proposals(boxes, torch.tensor([[0.2, 0.9], [0.8, 0.1], [0.1, 0.1]]))
    (found,) = box_masks(image, structure, proposals)  # the second is a copy, the third not sure
    mask, score = found
    assert score == pytest.approx(0.9) and overlap(mask, image[..., 0] == 220) > 0.9
    assert not mask[:8].any() and not mask[:, :16].any()


def test_a_box_as_large_as_the_image_is_taken_whole() -> None:
    image, structure = scene(slice(16, 40), slice(24, 56))
    proposals = Proposals(torch.tensor([[0.0, 0, 96, 64]]), torch.tensor([[0.9]]))
    ((mask, _),) = box_masks(image, structure, proposals)
    assert bool(mask.all())


def test_without_sure_boxes_there_are_no_masks() -> None:
    image, structure = scene(slice(16, 40), slice(24, 56))
    assert list(box_masks(image, structure, Proposals(torch.zeros(0, 4), torch.zeros(0, 3)))) == []


@pytest.mark.slow
def test_sam_masks_are_of_the_size_of_the_image_and_scored_by_sam() -> None:
    pixels = np.full((96, 128, 3), 40, np.uint8)
    pixels[24:72, 32:96] = (220, 200, 40)
    image = torch.from_numpy(pixels)
    network = load_sam()
    found = list(sam_masks(network, network.encode(image), points_per_side=2))
    assert found and all(mask.shape == (96, 128) and 0 <= score <= 1 for mask, score in found)
    assert max(overlap(mask, image[..., 0] == 220) for mask, _ in found) > 0.9


def test_images_and_features_of_another_form_are_refused() -> None:
    image, structure = scene(slice(16, 40), slice(24, 56))
    with pytest.raises(ShapeError, match="structure"):
        cut_masks(image, structure[0])
    with pytest.raises(ShapeError, match="image"):
        cut_masks(image[..., 0], structure)
