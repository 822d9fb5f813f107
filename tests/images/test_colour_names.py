"""What colours pixels are called."""

import numpy as np
import pytest

from ovseg.errors import ShapeError
from ovseg.images.colour_names import COLOURS, colour_shares, lightness_chroma_hue


def shares(*rgb: int) -> dict[str, float]:
    """The colours that have a share of one pixel."""
    found = colour_shares(np.array([[rgb]], np.uint8))[:, 0, 0]
    return {name: round(float(share), 2) for name, share in zip(COLOURS, found, strict=True) if share > 0.005}


@pytest.mark.parametrize(
    ("name", "pixels"),
    [
        ("black", [(0, 0, 0), (40, 40, 45), (30, 25, 20)]),
        ("white", [(255, 255, 255), (230, 230, 235), (245, 240, 230)]),
        ("grey", [(128, 128, 128), (150, 150, 145)]),
        ("red", [(255, 0, 0), (128, 0, 0), (220, 20, 60)]),
        ("orange", [(255, 165, 0), (255, 140, 0)]),
        ("yellow", [(255, 255, 0), (255, 215, 0), (240, 230, 140)]),
        ("green", [(0, 255, 0), (0, 128, 0), (107, 142, 35), (46, 139, 87)]),
        ("blue", [(0, 0, 255), (0, 0, 128), (135, 206, 235), (70, 130, 180)]),
        ("purple", [(128, 0, 128), (75, 0, 130), (147, 112, 219)]),
        ("pink", [(255, 192, 203), (255, 105, 180)]),
        ("brown", [(139, 69, 19), (101, 67, 33), (210, 180, 140)]),
    ],
)
def test_pixels_are_called_what_people_call_them(name: str, pixels: list[tuple[int, int, int]]) -> None:
    assert [shares(*pixel) for pixel in pixels] == [{name: 1.0}] * len(pixels)


def test_between_two_colours_both_have_a_share() -> None:
    # a grey of OKLab's lightness 0.36, half way from black (0.30) to grey (0.42), has 0.36³ of the light: value 61
    assert shares(61, 61, 61) == {"black": pytest.approx(0.5, abs=0.02), "grey": pytest.approx(0.5, abs=0.02)}
    # dark pink is red towards red and purple towards purple, light red is pink
    assert set(shares(130, 0, 60)) == {"red", "purple"}
    assert set(shares(240, 128, 128)) == {"red", "pink"}


def test_shares_add_to_one_for_every_pixel() -> None:
    steps = np.arange(0, 256, 17, dtype=np.uint8)
    pixels = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(64, 64, 3)
    found = colour_shares(pixels)
    assert found.shape == (11, 64, 64) and found.dtype == np.float32
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)
    assert found.min() >= -1e-6


def test_lightness_chroma_and_hue_are_those_of_the_standard() -> None:
    # CSS Color 4: red is oklch(62.8% 0.2577 29.23), lime (86.64% 0.2948 142.5), blue (45.2% 0.3132 264.05)
    pixels = np.array([[(255, 0, 0), (0, 255, 0), (0, 0, 255)]], np.uint8)
    light, chroma, hue = lightness_chroma_hue(pixels)
    np.testing.assert_allclose(light[0], [0.628, 0.8664, 0.452], atol=1e-3)
    np.testing.assert_allclose(chroma[0], [0.2577, 0.2948, 0.3132], atol=1e-3)
    np.testing.assert_allclose(hue[0], [29.23, 142.5, 264.05], atol=0.1)


def test_pixels_that_are_not_rgb_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"\(H, W, 3\), got \(4, 4\)"):
        colour_shares(np.zeros((4, 4), np.uint8))
