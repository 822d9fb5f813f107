"""Whether an image bank holds the images that are evaluated, or near-copies of them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from ovseg.evaluation.data.examples import Dataset

if TYPE_CHECKING:
    from ovseg.bank import ImageBank


def find_leaks(bank: ImageBank | str | Path, dataset: Dataset, indices: Sequence[int]) -> dict[str, Any]:
    """Bank images that are (nearly) evaluated images, by the bank's own check, for the manifest.

    Args:
        bank: an open bank, or its folder.
        dataset: what is evaluated.
        indices: which of its examples.

    Returns:
        ``bank`` (its folder), ``bank_images`` (how many it holds), ``count`` (of its images that are copies),
        ``images`` (names of the evaluated images they copy), and ``pairs``: ``image``, ``bank_image``,
        ``cosine`` in [-1, 1], and ``exact``, whether the files are equal byte for byte.

    Raises:
        DatasetError: there is no bank, or a file of it is missing or damaged.
    """
    from ovseg.bank import ImageBank

    opened = bank if isinstance(bank, ImageBank) else ImageBank.open(bank)
    with tempfile.TemporaryDirectory() as folder:
        names = _files(dataset, indices, Path(folder))
        listed = Path(folder) / "evaluated.txt"
        listed.write_text("\n".join(names) + "\n", encoding="utf-8")
        found = opened.verify(listed)
    pairs = [
        {"image": name, "bank_image": pair.second, "cosine": round(pair.cosine, 4), "exact": pair.exact}
        for pair in found
        for name in names[pair.first]
    ]
    return {
        "bank": str(opened.root),
        "bank_images": len(opened),
        "count": len({pair.second for pair in found}),
        "images": sorted({str(pair["image"]) for pair in pairs}),
        "pairs": pairs,
    }


def _files(dataset: Dataset, indices: Sequence[int], folder: Path) -> dict[str, list[str]]:
    """Names of the examples by the path of each file they show; what has no file is written into ``folder``."""
    names: dict[str, list[str]] = {}
    for index in indices:
        paths = dataset.image_files(index)
        if not paths:
            path = folder / f"{index:08d}.png"
            Image.fromarray(dataset.load(index).image).save(path)
            paths = (path,)
        for path in paths:
            names.setdefault(str(path.resolve()), []).append(dataset.names[index])
    return names
