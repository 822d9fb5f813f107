"""Whether an image bank, or a model's training, held the images that are evaluated, or near-copies of them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ovseg.bank.duplicates import find_copies
from ovseg.evaluation.data.examples import Dataset
from ovseg.images.fingerprint import fingerprint
from ovseg.images.load import load_image
from ovseg.models.training_photos import TrainingPhotos

if TYPE_CHECKING:
    from ovseg.bank import ImageBank


def find_leaks(
    bank: ImageBank | str | Path, dataset: Dataset, indices: Sequence[int], model: str = ""
) -> dict[str, Any]:
    """Bank images, and photos of the model's training, that are (nearly) evaluated images, for the manifest.

    Copies that were stored again, shrunk, made grey, mirrored or turned count; see ``bank.duplicates.find_pairs``.

    Args:
        bank: an open bank, or its folder.
        dataset: what is evaluated.
        indices: which of its examples.
        model: name of the model that is evaluated.

    Returns:
        ``bank`` (its folder), ``bank_images`` (how many it holds), ``count`` (of its images that are copies),
        ``images`` (names of the evaluated images they copy), and ``pairs``: ``image``, ``bank_image``,
        ``cosine`` in [-1, 1], ``exact``, whether the files are equal byte for byte, and ``change``, what was done
        to the evaluated image ("mirrored left to right"; empty for nothing that can be told). Where the training
        photos of the model are written down also ``training``: ``model``, ``photos`` (how many), and ``pairs`` of
        ``image``, ``photo`` and ``change``.

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
        trained = _trained_on(names, model)
    pairs = [
        {
            "image": name,
            "bank_image": pair.second,
            "cosine": round(pair.cosine, 4),
            "exact": pair.exact,
            "change": pair.change,
        }
        for pair in found
        for name in names[pair.first]
    ]
    return {
        "bank": str(opened.root),
        "bank_images": len(opened),
        "count": len({pair.second for pair in found}),
        "images": sorted({str(pair["image"]) for pair in pairs}),
        "pairs": pairs,
        **({} if trained is None else {"training": trained}),
    }


def _trained_on(names: dict[str, list[str]], model: str) -> dict[str, Any] | None:
    """Files that show a photo of the model's training; None where its photos are not written down."""
    photos = TrainingPhotos.of_model(model) if model else None
    if photos is None:
        return None
    looks = np.stack([fingerprint(load_image(path)) for path in names])
    copies = find_copies(looks, photos.fingerprints)
    shown = list(names.values())
    pairs = [
        {"image": name, "photo": photos.name(row), "change": change}
        for file, row, change in copies
        for name in shown[file]
    ]
    return {"model": model, "photos": len(photos), "pairs": pairs}


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
