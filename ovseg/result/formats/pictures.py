"""A folder of pictures for each photo: masks of its labels, or its objects cut out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ovseg.result.formats.base import Add, Format, Options


@contextmanager
def _masks(out: Path, options: Options) -> Iterator[Add]:
    yield lambda result, place: _ignore(result.save_masks(place.folder / f"{place.name}_masks"))


@contextmanager
def _crops(out: Path, options: Options) -> Iterator[Add]:
    yield lambda result, place: _ignore(result.save_crops(place.folder / f"{place.name}_crops"))


def _ignore(paths: list[Path]) -> None:
    """What was written is known by the place."""


PNG = Format("png", "NAME_masks/LABEL.png", "", "objects and scores: a mask has all that a label covers", _masks)
CROPS = Format("crops", "NAME_crops/001_LABEL.png", "", "what is no object", _crops, needs_photo=True)
