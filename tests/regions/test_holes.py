"""Holes in a label map."""

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


@pytest.mark.parametrize("value", [-1, 0])
def test_maps_of_one_kind_stay_as_they_are(value: int) -> None:
    index = torch.full((4, 5), value, dtype=torch.int32)
    assert torch.equal(fill_holes(index, share=1.0), index)


def test_maps_of_another_form_are_refused() -> None:
    with pytest.raises(ShapeError, match="index"):
        fill_holes(torch.zeros(2, 3, 4), share=0.1)
