"""Photos made worse on purpose: ten corruptions at five severities, the same for the same seed.

Source: the kinds and the five severities are those of Hendrycks and Dietterich, Benchmarking neural network
robustness to common corruptions, ICLR 2019; the formulas and strengths here are our own.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import convolve1d, gaussian_filter

from ovseg.config import choose
from ovseg.errors import ConfigError, ShapeError

Picture = NDArray[np.floating[Any]]  # (H, W, 3) in [0, 1]
SEVERITIES = (1, 2, 3, 4, 5)


def gaussian_noise(image: Picture, strength: float, generator: np.random.Generator) -> Picture:
    """Sensor noise of standard deviation ``strength``."""
    return image + generator.normal(0, strength, image.shape).astype(np.float32)


def shot_noise(image: Picture, strength: float, generator: np.random.Generator) -> Picture:
    """Few photons: Poisson counts with 1 / ``strength`` photons at white."""
    return (generator.poisson(image / strength) * strength).astype(np.float32)


def blur(image: Picture, strength: float, generator: np.random.Generator) -> Picture:
    """Out of focus: a Gaussian of ``strength`` thousandths of the diagonal."""
    sigma = strength / 1000 * float(np.hypot(*image.shape[:2]))
    return np.asarray(gaussian_filter(image, (sigma, sigma, 0)))


def motion(image: Picture, strength: float, generator: np.random.Generator) -> Picture:
    """A camera that moves sideways by ``strength`` hundredths of the width."""
    length = max(3, round(strength / 100 * image.shape[1]) | 1)
    return np.asarray(convolve1d(image, np.full(length, 1 / length, np.float32), axis=1, mode="nearest"))


def fog(image: Picture, strength: float, generator: np.random.Generator) -> Picture:
    """A pale, uneven veil that takes ``strength`` of the light."""
    veil = strength * (0.6 + 0.4 * _clouds(image.shape[0], image.shape[1], generator))[..., None]
    return np.asarray(image * (1 - veil) + 0.85 * veil)


def snow(image: Picture, strength: float, generator: np.random.Generator) -> Picture:
    """Flakes over a share ``strength`` of the pixels, slightly smeared, and a brighter scene."""
    flakes = (generator.random(image.shape[:2]) < strength / 4).astype(np.float32)
    flakes = np.asarray(gaussian_filter(flakes, (1.5, 0.8))) * 3
    grey = image.mean(-1, keepdims=True)
    paler = (1 - strength / 2) * image + strength / 2 * np.maximum(image, 0.4 + 0.6 * grey)
    return np.asarray(paler + np.clip(flakes, 0, 1)[..., None])


def night(image: Picture, strength: float, generator: np.random.Generator) -> Picture:
    """Dark, bluish and noisy: a share ``strength`` of the light is gone."""
    darker = image ** (1 + strength) * (1 - 0.85 * strength) * np.array([0.85, 0.9, 1.1], np.float32)
    return np.asarray(darker + generator.normal(0, 0.02 + 0.04 * strength, image.shape).astype(np.float32))


def brightness(image: Picture, strength: float, generator: np.random.Generator) -> Picture:
    """Overexposed by ``strength``."""
    return image + np.float32(strength)


def contrast(image: Picture, strength: float, generator: np.random.Generator) -> Picture:
    """Contrast lowered by the share ``strength``."""
    middle = image.mean((0, 1), keepdims=True)
    return np.asarray((image - middle) * (1 - strength) + middle)


def jpeg(image: Picture, strength: float, generator: np.random.Generator) -> Picture:
    """Stored as JPEG of quality ``strength``."""
    stream = io.BytesIO()
    _to_bytes(image).save(stream, "JPEG", quality=int(strength))
    return np.asarray(Image.open(stream), np.float32) / 255


Corruption = Callable[[Picture, float, np.random.Generator], Picture]
CORRUPTIONS: dict[str, tuple[Corruption, tuple[float, ...]]] = {
    "noise": (gaussian_noise, (0.04, 0.08, 0.12, 0.18, 0.26)),
    "shot-noise": (shot_noise, (0.02, 0.04, 0.08, 0.16, 0.3)),
    "blur": (blur, (1.0, 2.0, 3.5, 5.5, 8.0)),
    "motion": (motion, (1.0, 2.0, 3.5, 5.0, 7.0)),
    "fog": (fog, (0.2, 0.35, 0.5, 0.65, 0.8)),
    "snow": (snow, (0.1, 0.2, 0.3, 0.45, 0.6)),
    "night": (night, (0.3, 0.45, 0.6, 0.75, 0.9)),
    "brightness": (brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": (contrast, (0.3, 0.45, 0.6, 0.75, 0.88)),
    "jpeg": (jpeg, (30, 20, 14, 9, 5)),
}


def corrupt(image: NDArray[np.uint8], corruption: str, *, seed: int = 0) -> NDArray[np.uint8]:
    """``image`` after ``corruption``, such as ``"fog:3"`` (name and severity 1 to 5); same size and type.

    Args:
        image: (H, W, 3) uint8 RGB.
        corruption: name and severity.
        seed: same seed, same result.

    Raises:
        ConfigError: the name or the severity is unknown.
        ShapeError: ``image`` is not (H, W, 3) uint8.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ShapeError(f"image must be (H, W, 3) uint8, got {image.shape} {image.dtype}")
    name, _, severity = corruption.partition(":")
    change, strengths = choose("corruption", name, CORRUPTIONS)
    if severity not in {str(level) for level in SEVERITIES}:
        raise ConfigError(f"severity must be 1 to 5, got '{severity}'; write '{name}:3'")
    generator = np.random.default_rng(seed)
    worse = change(image.astype(np.float32) / 255, strengths[int(severity) - 1], generator)
    return np.asarray(_to_bytes(worse))


def _to_bytes(image: Picture) -> Image.Image:
    return Image.fromarray((np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8))


def _clouds(height: int, width: int, generator: np.random.Generator) -> NDArray[np.float32]:
    """(H, W) smooth noise in [0, 1]: random grids of 4, 8 and 16 cells, enlarged and added."""
    total = np.zeros((height, width), np.float32)
    for cells in (4, 8, 16):
        grid = Image.fromarray(generator.random((cells, cells)).astype(np.float32))
        total += np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC)) * (4 / cells)
    low, high = total.min(), total.max()
    return np.asarray((total - low) / max(float(high - low), 1e-6))
