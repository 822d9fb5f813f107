"""Overlap of boxes, and which of near copies stay."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from ovseg.proposals.boxes import box_area, box_overlap, distinct


def test_overlap_is_shared_area_over_joint_area() -> None:
    boxes = torch.tensor([[0.0, 0, 4, 2], [2, 0, 6, 2], [10, 10, 11, 11]])
    expected = torch.tensor([[1, 4 / 12, 0], [4 / 12, 1, 0], [0, 0, 1]])
    torch.testing.assert_close(box_overlap(boxes, boxes), expected)


def test_empty_and_inverted_boxes_overlap_with_nothing() -> None:
    boxes = torch.tensor([[1.0, 1, 1, 5], [4, 4, 2, 2], [0, 0, 9, 9]])
    assert box_area(boxes).tolist() == [0, 0, 81]
    assert box_overlap(boxes[:2], boxes[2:]).tolist() == [[0], [0]]


def slow_suppression(overlap: torch.Tensor, scores: torch.Tensor, most: float) -> list[int]:
    left = sorted(range(len(scores)), key=lambda n: (-float(scores[n]), n))
    kept: list[int] = []
    while left:
        first = left.pop(0)
        kept.append(first)
        left = [other for other in left if float(overlap[first, other]) <= most]
    return kept


@given(st.integers(0, 2**31), st.integers(0, 12))
def test_the_surest_of_near_copies_stays(seed: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * 4
    boxes = torch.cat([corners, corners + 1 + torch.rand(count, 2, generator=generator) * 4], 1)
    scores = (torch.rand(count, generator=generator) * 5).round()  # with equal ones
    overlap = box_overlap(boxes, boxes)
    assert distinct(overlap, scores, most_overlap=0.4).tolist() == slow_suppression(overlap, scores, 0.4)
