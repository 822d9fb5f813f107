"""A picture for every label or object of a result, in a folder of their own."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ovseg.errors import OutputError
from ovseg.files import atomic_path, read_json, to_json

if TYPE_CHECKING:
    from ovseg.result.core import SegmentationResult

TABLE = "labels.json"
_MAX_STEM = 100  # letters of a label that a file's name keeps


def save_masks(result: SegmentationResult, folder: Path) -> list[Path]:
    """See ``SegmentationResult.save_masks``."""
    pictures = (Image.fromarray(result.mask(label).astype(np.uint8) * 255) for label in result.labels)
    return _save_pictures(folder, file_names(result.labels), result.labels, pictures)


def save_crops(result: SegmentationResult, folder: Path, *, padding: int) -> list[Path]:
    """See ``SegmentationResult.save_crops``."""
    labels = [each.label for each in result.instances or ()]
    stems = dict(zip(result.labels, file_names(result.labels), strict=True))
    names = [f"{number:03d}_{stems[label]}" for number, label in enumerate(labels, start=1)]
    return _save_pictures(folder, names, labels, result.crops(padding=padding))


def _save_pictures(
    folder: Path, names: Sequence[str], labels: Sequence[str], pictures: Iterable[Image.Image]
) -> list[Path]:
    """Write the pictures and, last, the table of their labels; what an earlier result left there is removed."""
    before = _files_before(folder)
    paths = [folder / name for name in names]
    with atomic_path(folder / TABLE) as table:
        for path, picture in zip(paths, pictures, strict=True):
            with atomic_path(path) as temporary:
                picture.save(temporary, format="PNG")
        for name in before - set(names):
            (folder / name).unlink(missing_ok=True)
        table.write_text(to_json(dict(zip(names, labels, strict=True))), "utf-8", "backslashreplace")
    return paths


def file_names(labels: Sequence[str]) -> list[str]:
    """A name of a file for each label: its letters and digits, and its number where these are another's too.

    >>> file_names(["traffic light", "cat", "Cat"])
    ['traffic_light.png', 'cat.png', 'Cat_2.png']
    """
    names: list[str] = []
    taken: set[str] = set()
    for number, label in enumerate(labels):
        stem = re.sub(r"[^\w-]+", "_", unicodedata.normalize("NFC", label))[:_MAX_STEM].strip("_") or "label"
        stem = stem if _length(stem) <= _MAX_STEM * 2 else "label"  # a script whose letters take many bytes
        while stem.casefold() in taken:
            stem = f"{stem}_{number}"
        taken.add(stem.casefold())
        names.append(f"{stem}.png")
    return names


def _length(stem: str) -> int:
    return len(stem.encode("utf-8", "surrogatepass"))


def _files_before(folder: Path) -> set[str]:
    """The files that an earlier result left in the folder.

    Raises:
        OutputError: there is something in it that no result left.
    """
    if not folder.is_dir() or not any(folder.iterdir()):
        return set()
    try:
        names = read_json(folder / TABLE, what="table", advice="choose another folder", error=OutputError)
    except OutputError as error:
        raise OutputError(
            f"expected an empty folder, or one with pictures of a result, got '{folder}', which has other files; "
            "choose another folder"
        ) from error
    return {name for name in names if Path(name).name == name and name.endswith(".png")}
