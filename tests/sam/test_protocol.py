"""Prompts, and masks of the photo's size."""

import pytest
import torch
from pycocotools import mask as coco_mask

from ovseg.errors import ShapeError
from ovseg.images.geometry import ImageGeometry
from ovseg.sam import SamEmbedding, to_image, to_rle
from ovseg.sam.protocol import check_prompts

BOX, POINT = torch.tensor([[10.0, 20.0, 30.0, 40.0]]), torch.tensor([[10.0, 20.0]])


def test_prompts_are_carried_from_the_photo_into_the_frame():
    geometry = ImageGeometry((480, 640), (768, 1024), (1024, 1024))
    prompts = check_prompts(BOX, POINT, None).in_frame(geometry)
    assert prompts.boxes.tolist() == [[16.0, 32.0, 48.0, 64.0]]
    assert prompts.points.tolist() == [[[16.0, 32.0]]] and prompts.labels.tolist() == [[1]]
    stretched = ImageGeometry((480, 640), (1024, 1024), (1024, 1024))
    assert check_prompts(BOX, None, None).in_frame(stretched).boxes[0, 1].item() == pytest.approx(20 * 1024 / 480)


def test_prompts_are_split_without_losing_one():
    prompts = check_prompts(None, torch.arange(10.0).view(5, 2), torch.tensor([1, 0, 1, 1, 0]))
    parts = list(prompts.split(2))
    assert [len(part) for part in parts] == [2, 2, 1]
    assert torch.cat([part.points for part in parts]).flatten().tolist() == list(range(10))
    assert torch.cat([part.labels for part in parts]).flatten().tolist() == [1, 0, 1, 1, 0]


@pytest.mark.parametrize(
    ("boxes", "points", "labels", "message"),
    [
        (None, None, None, "got neither"),
        (torch.zeros(3), None, None, "boxes must be"),
        (torch.tensor([[30.0, 20, 10, 40]]), None, None, "left, top, right, bottom"),
        (torch.tensor([[float("nan"), 0, 1, 1]]), None, None, "boxes must be finite"),
        (None, torch.zeros(2, 3), None, "points must be"),
        (BOX, torch.zeros(2, 2), None, "got 1 and 2"),
        (BOX, None, torch.ones(1), "which are missing"),
        (None, POINT, torch.tensor([2]), "0 or 1"),
        (None, POINT, torch.ones(3), "0 or 1 for each"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(boxes, points, labels, message):
    with pytest.raises(ShapeError, match=message):
        check_prompts(boxes, points, labels)


def test_masks_of_the_photo_leave_the_padding_out_and_come_one_by_one():
    geometry = ImageGeometry((6, 8), (12, 16), (16, 16))
    logits = torch.full((2, 4, 4), -4.0)
    logits[0, :, :2] = 4  # the left half of the frame, the padding too
    logits[1, 3] = 4  # the padding alone: rows 12 to 15 of 16
    embedding = SamEmbedding(geometry, None)
    masks = to_image(embedding, logits)
    first = next(masks)
    assert first.shape == (6, 8) and first.dtype == torch.bool
    assert first[:, :4].all() and not first[:, 4:].any()
    assert not next(masks).any() and next(masks, None) is None
    assert embedding.inside(logits).shape == (2, 3, 4)
    assert [int(coco_mask.area(rle)) for rle in to_rle(embedding, logits)] == [24, 0]
    with pytest.raises(ShapeError, match="logits must be"):
        next(to_image(embedding, logits[0]))


def test_a_stretched_photo_takes_its_masks_at_once():
    embedding = SamEmbedding(ImageGeometry((2, 4), (8, 8), (8, 8)), None, by_frame=False)
    (mask,) = to_image(embedding, torch.tensor([[[1.0, -1.0], [1.0, -1.0]]]))
    assert mask.tolist() == [[True, True, False, False]] * 2


def test_maps_of_the_photo_are_framed_without_touching_the_padding():
    embedding = SamEmbedding(ImageGeometry((6, 8), (12, 16), (16, 16)), None)
    maps = torch.zeros(1, 6, 8)
    maps[0, :, 4:] = 1
    assert embedding.framed(maps)[0].tolist() == [[0, 0, 1, 1]] * 3 + [[0] * 4]
