"""Masks of everything: a grid of points, and which masks are kept."""

import pytest
import torch

from ovseg.images.geometry import ImageGeometry
from ovseg.sam import SamEmbedding, automatic_masks, to_image
from ovseg.sam.grid import grid_points, keep_masks
from ovseg.sam.protocol import check_image


def test_points_lie_at_the_centres_of_equal_cells():
    assert grid_points(4, 8, side=2) == [[2.0, 1.0], [6.0, 1.0], [2.0, 3.0], [6.0, 3.0]]


def test_masks_of_sam2_are_kept_by_quality_stability_and_place():
    logits = torch.full((6, 8, 12), -5.0)
    logits[0, :4, :6] = 5  # the best
    logits[1, :4, :5] = 5  # nearly its box, and worse: 12 of 15 sides
    logits[2, 4:, 6:] = 5  # elsewhere
    logits[3, 4:, :6] = 5  # bad
    logits[4, 4:, :6] = 0.5  # unstable: above 0, not above 1
    scores = torch.tensor([0.9, 0.8, 0.7, 0.4, 0.95, 0.99])  # the last mask is empty
    kept = keep_masks(logits, scores, quality=0.4, stability=0.4, overlap=0.7)
    assert kept.tolist() == [0, 2]
    assert keep_masks(logits, scores, quality=0.4, stability=0.4, overlap=0.9).tolist() == [0, 1, 2]
    assert keep_masks(logits[5:], scores[5:], quality=0, stability=0, overlap=1).tolist() == []


class StubSam:
    """Answers each point with a mask of its own quarter of a 4 × 8 photo, and two worse ones."""

    def __init__(self, quality=0.95):
        self.quality, self.asked = quality, []

    def encode(self, image):
        size = tuple(check_image(image).shape[:2])
        return SamEmbedding(ImageGeometry(size, size, (8, 8)), None)

    def masks(self, embedding, *, points, multimask):
        self.asked.append(len(points))
        masks = torch.full((len(points), 3, 8, 8), 5.0)  # in the padding too, which no filter may see
        masks[..., :4, :] = -5
        for number, (x, y) in enumerate(points.tolist()):
            masks[number, 1, 2 * int(y // 2) : 2 * int(y // 2) + 2, 4 * int(x // 4) : 4 * int(x // 4) + 4] = 5
        return masks, torch.tensor([0.1, self.quality, 0.2]).expand(len(points), 3)


def test_every_quarter_is_found_once_whatever_the_number_of_points():
    image = torch.zeros(4, 8, 3, dtype=torch.uint8)
    for side, chunks in ((2, [4]), (10, [64, 36])):
        network = StubSam()
        found = automatic_masks(network, network.encode(image), points_per_side=side)
        assert network.asked == chunks
        masks = torch.stack(list(to_image(found.embedding, found.logits)))
        assert masks.shape == (4, 4, 8) and (masks.sum(0) == 1).all()
        assert found.quality.tolist() == pytest.approx([0.95] * 4)


def test_bad_masks_leave_nothing():
    image = torch.zeros(4, 8, 3, dtype=torch.uint8)
    network = StubSam(0.88)
    found = automatic_masks(network, network.encode(image), points_per_side=2)
    assert len(found.logits) == len(found.quality) == 0 and list(to_image(found.embedding, found.logits)) == []
