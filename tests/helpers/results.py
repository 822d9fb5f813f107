"""Small results whose every pixel is known, and their files in other formats."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import binary_dilation, binary_erosion
from skimage.measure import points_in_poly

from ovseg.result import Segment, SegmentationResult
from ovseg.result.formats import Options, Place, written

WILD = ('a, "b"', "two\nlines", "<script>alert('x')</script>", "it's & more", "../up/and\\down", "=1+1", "Ü 猫")


def drawn(rows: Sequence[str], *labels: str, things: Sequence[str] = (), score: float = 0.5) -> SegmentationResult:
    """A result of rows of letters: ``a`` for the first label and so on, a full stop for none.

    Capitals are of an object too: one object for each label among ``things``, whose pixels are its capitals.
    """
    letters = np.array([list(row) for row in rows])
    numbers = np.array([[-1 if letter == "." else ord(letter.lower()) - 97 for letter in row] for row in rows])
    objects = [
        Segment.of_mask(mask, label, 0.25 * (1 + place), corner=(0, 0), size=letters.shape)
        for place, label in enumerate(labels)
        if label in things and (mask := letters == chr(65 + place)).any()
    ]
    return SegmentationResult(
        numbers.astype(np.int32),
        labels,
        np.full(letters.shape, score, np.float32),
        dict.fromkeys(labels, 0.75),
        instances=tuple(sorted(objects, key=lambda each: -each.score)) if things else None,
        things=tuple(things),
        provenance={"source": "photo.png"},
    )


def place_of(out: Path, name: str = "photo", *, below: str = "", size: tuple[int, int] = (6, 8)) -> Place:
    """Of a photo that lies in ``photos`` beside ``out``; it is made where it is not there."""
    photo = out.parent / "photos" / below / f"{name}.png"
    if not photo.exists():
        photo.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size[::-1]).save(photo)
    return Place(out, below, name, photo, str(photo))


def write(
    out: Path, format: str, *results: SegmentationResult, tolerance: float = 0, places: Sequence[Place] = ()
) -> list[str]:
    """Write the results, and return what was told; they are called photo, photo1 and so on without places."""
    told: list[str] = []
    named = places or [
        place_of(out, f"photo{number or ''}", size=result.size) for number, result in enumerate(results)
    ]
    with written([format], out, options=Options(tolerance, told.append)) as add:
        for result, place in zip(results, named, strict=True):
            add(result, place)
    return told


def nearly(found: np.ndarray, mask: np.ndarray) -> bool:
    """Whether two masks differ at most by the pixels next to an outline."""
    around = np.ones((3, 3))
    return bool(found[binary_erosion(mask, around)].all() and not found[~binary_dilation(mask, around)].any())


def filled(ring: Any, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool, the pixels whose centres lie inside a ring of x and y in pixels, by the even-odd rule."""
    rows, columns = np.indices(size).reshape(2, -1) + 0.5
    return points_in_poly(np.stack([columns, rows], 1), np.asarray(ring)).reshape(size)
