"""PAMR against the code that NACLIP and SCLIP release."""

from __future__ import annotations

import pytest
from helpers.golden import Case

from ovseg.refine import released_pamr


@pytest.mark.parametrize(
    ("entry", "maps", "options"),
    [
        ("dilations_8_16", "maps", {}),
        ("dilations_1_2_4_8", "maps", {"dilations": (1, 2, 4, 8)}),
        ("one_iteration_8", "maps", {"dilations": (8,), "iterations": 1}),
        ("small_maps", "maps_small", {}),
    ],
)
def test_pamr_of_the_released_code(entry: str, maps: str, options: dict[str, object]) -> None:
    case = Case("pamr")
    case.close(released_pamr(case["input.image"], case[f"input.{maps}"], **options), case[f"expected.{entry}"])


def test_pamr_where_part_of_the_image_is_flat() -> None:
    case = Case("pamr")
    image = case["input.image"].clone()
    image[..., : image.shape[2] // 2, : image.shape[3] // 2] = 0.25
    case.close(released_pamr(image, case["input.maps"][:, :1]), case["expected.partly_flat"])
