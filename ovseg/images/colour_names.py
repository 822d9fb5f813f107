"""What pixels are called by eleven names of colours: fuzzy sets on OKLab's lightness, chroma and hue."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ovseg.errors import ShapeError

COLOURS = ("black", "white", "grey", "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
"""The basic colour terms of English, in the order of ``colour_shares``."""

# sRGB to cones and cones to OKLab: Ottosson, 2020; CSS Color Module Level 4, section 9
_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ],
    np.float32,
)
_TO_OKLAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ],
    np.float32,
)
_LEVELS = np.arange(256, dtype=np.float32) / 255
_LINEAR = np.where(_LEVELS <= 0.04045, _LEVELS / 12.92, ((_LEVELS + 0.055) / 1.055) ** 2.4).astype(np.float32)
# Where one hue becomes the next, in degrees; between the two numbers of a border both have a share.
_HUES = ("red", "orange", "yellow", "green", "blue", "purple", "pink")
_BORDERS = ((4, 16), (38, 50), (78, 92), (112, 124), (185, 210), (280, 294), (334, 350))


def colour_shares(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """How much of each colour a pixel is.

    A pixel is black, grey or white where it is dark or has little chroma, else what its hue says, and pink, brown
    or a neighbour where that hue is too light, dark or dull.

    Args:
        pixels: (H, W, 3) uint8 sRGB.

    Returns:
        (11, H, W) float32 in [0, 1], which add to 1 at every pixel, in the order of ``COLOURS``.

    Raises:
        ShapeError: the pixels are not (H, W, 3).

    Source: the eleven names, Berlin & Kay, Basic Color Terms, 1969, as named in images by van de Weijer et al.,
    IEEE TIP 2009; fuzzy sets that add to 1, Benavente et al., JOSA A 2008. The borders are this project's, by hand.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ShapeError(f"pixels must be (H, W, 3), got {pixels.shape}; convert the image to RGB")
    light, chroma, hue = lightness_chroma_hue(pixels)
    hues = _hue_shares(hue)
    vivid = _above(chroma, 0.02, 0.05) * _above(light, 0.15, 0.27)
    dark, pale = 1 - _above(light, 0.30, 0.42), _above(light, 0.72, 0.85)
    found = {"black": dark, "white": pale, "grey": 1 - dark - pale}
    found = {name: (1 - vivid) * share for name, share in found.items()}
    dull_red = (1 - _above(chroma, 0.10, 0.14)) * (1 - _above(light, 0.50, 0.60))
    pale_red = _above(light, 0.70, 0.78)
    true_orange = _above(light, 0.58, 0.70) * _above(chroma, 0.08, 0.13)
    olive = 1 - _above(light, 0.55, 0.68)
    greenish = _above(hue, 95, 110)
    deep_pink = 1 - _above(light, 0.52, 0.62)
    reddish = _above((hue + 180) % 360, 170, 185)
    chromatic = {
        "red": hues["red"] * (1 - dull_red) * (1 - pale_red) + hues["pink"] * deep_pink * reddish,
        "orange": hues["orange"] * true_orange,
        "yellow": hues["yellow"] * (1 - olive),
        "green": hues["green"] + hues["yellow"] * olive * greenish,
        "blue": hues["blue"],
        "purple": hues["purple"] + hues["pink"] * deep_pink * (1 - reddish),
        "pink": hues["pink"] * (1 - deep_pink) + hues["red"] * (1 - dull_red) * pale_red,
        "brown": hues["red"] * dull_red
        + hues["orange"] * (1 - true_orange)
        + hues["yellow"] * olive * (1 - greenish),
    }
    found |= {name: vivid * share for name, share in chromatic.items()}
    return np.stack([found[name] for name in COLOURS])


def lightness_chroma_hue(
    pixels: npt.NDArray[np.uint8],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """(H, W) each of (H, W, 3) uint8 sRGB in OKLab: lightness in [0, 1], chroma from 0, hue in degrees [0, 360)."""
    oklab = np.cbrt(_LINEAR[pixels] @ _TO_CONES.T) @ _TO_OKLAB.T
    light, a, b = np.moveaxis(oklab, -1, 0)
    return light, np.hypot(a, b), np.degrees(np.arctan2(b, a)) % 360


def _above(values: npt.NDArray[np.float32], low: float, high: float) -> npt.NDArray[np.float32]:
    """0 up to ``low``, 1 from ``high``, straight between."""
    share: npt.NDArray[np.float32] = np.clip((values - np.float32(low)) / np.float32(high - low), 0, 1)
    return share


def _hue_shares(hue: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
    """Of each hue from its border with the one before to its border with the next; the circle closes at pink."""
    past = [_above(hue, low, high) for low, high in _BORDERS]
    shares = {name: past[place] - past[place + 1] for place, name in enumerate(_HUES[:-1])}
    shares["pink"] = past[-1] + 1 - past[0]
    return shares
