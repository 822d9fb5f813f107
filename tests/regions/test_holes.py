"""Holes in a label map."""

import numpy as np
import pytest
import torch

from ovseg.errors import ShapeError
from ovseg.regions.holes import fill_holes


def drawn(*rows: str) -> torch.Tensor:
    """A map of one character a pixel: a dot for none."""
    return torch.tensor([[-1 if one == "." else int(one) for one in row] for row in rows], dtype=torch.int32)


def test_what_one_label_surrounds_is_filled_and_nothing_else() -> None:
    given = drawn(
        "0000000.",
        "0.000000",
        "00000000",
        "11110000",
        "1.111111",
        "111.0011",
        "11111111",
    )
    # the part between 1 and 0 touches both; that in the corner touches the border of the image
    expected = drawn(
        "0000000.",
        "00000000",
        "00000000",
        "11110000",
        "11111111",
        "111.0011",
        "11111111",
    )
    assert fill_holes(given, share=0.1).tolist() == expected.tolist()


def test_a_hole_of_more_than_its_share_stays_open() -> None:
    ring = drawn("00000", "0...0", "0...0", "00000")  # 14 pixels around 6
    assert fill_holes(ring, share=0.4).tolist() == ring.tolist()
    assert fill_holes(ring, share=0.43).eq(0).all()


def test_diagonal_neighbours_are_no_way_out_and_dtypes_stay() -> None:
    given = drawn("000.", "0.00", "0000")  # the hole touches the corner's pixel only by a corner
    assert fill_holes(given, share=0.5)[1, 1] == 0
    assert fill_holes(given, share=0.5).dtype == torch.int32


def by_flooding(index: list[list[int]], share: float) -> list[list[int]]:
    """The same pixel by pixel: every part without label is flooded, and what it meets is noted."""
    height, width = len(index), len(index[0])
    areas = {label: sum(row.count(label) for row in index) for row in index for label in row}
    filled, seen = [list(row) for row in index], set()
    for start in ((y, x) for y in range(height) for x in range(width) if index[y][x] < 0):
        part, met, todo = [], set(), [start]
        while todo:
            y, x = todo.pop()
            if not (0 <= y < height and 0 <= x < width):
                met.add("border")
            elif index[y][x] >= 0:
                met.add(index[y][x])
            elif (y, x) not in seen:
                seen.add((y, x))
                part.append((y, x))
                todo += [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        if part and len(met) == 1 and "border" not in met and len(part) <= share * areas[min(met)]:
            for y, x in part:
                filled[y][x] = min(met)
    return filled


def test_any_map_is_filled_as_by_flooding() -> None:
    rng = np.random.default_rng(0)
    changed = 0
    for _ in range(400):
        size, none, labels = rng.integers(1, 14, 2), rng.random() / 2, rng.integers(1, 4)
        drawn = np.where(rng.random(size) < none, -1, rng.integers(0, labels, size))
        share = float(rng.choice([0, 0.02, 0.1, 0.5, 1]))
        expected = by_flooding(drawn.tolist(), share)
        assert fill_holes(torch.from_numpy(drawn), share=share).tolist() == expected
        changed += expected != drawn.tolist()
    assert changed > 50


@pytest.mark.parametrize("value", [-1, 0])
def test_maps_of_one_kind_stay_as_they_are(value: int) -> None:
    index = torch.full((4, 5), value, dtype=torch.int32)
    assert torch.equal(fill_holes(index, share=1.0), index)


def test_maps_of_another_form_are_refused() -> None:
    with pytest.raises(ShapeError, match="index"):
        fill_holes(torch.zeros(2, 3, 4), share=0.1)
