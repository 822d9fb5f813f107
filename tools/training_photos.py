"""Writes down what the photos that ``mini`` was trained on look like, 20 bytes each, beside its weights.

    .venv/bin/python tools/training_photos.py configs/training/mini.yaml

The photos are those that the training file names, in the order of the data sets. ``ovseg evaluate --bank`` looks
for copies of them among the images that it evaluates.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ovseg.assets import asset_root
from ovseg.config import load_config
from ovseg.files import sha256_of
from ovseg.images.fingerprint import fingerprint
from ovseg.images.load import load_image
from ovseg.models.training_photos import FILE, TrainingPhotos
from ovseg.training.data import open_masks, read_table
from ovseg.training.recipes.alignment import AlignmentConfig


def photos_of(config: AlignmentConfig) -> Iterator[tuple[str, list[Path]]]:
    """Per data set its name and the photos that are trained on."""
    for masks in config.masks:
        dataset = open_masks(masks)
        rows = range(0, len(dataset.names), masks.every)
        yield Path(masks.path).name, [dataset.image_files(row)[0] for row in rows]
    for named in config.named:
        folder = named.table.parent
        yield folder.name, [folder / file for file, _ in read_table(named.table, column="name")]


def main() -> None:
    """Makes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--out", type=Path, default=asset_root("models") / "mini" / FILE)
    arguments = parser.parse_args()
    config = load_config(AlignmentConfig, arguments.config)
    sources = list(photos_of(config))
    paths = [path for _, some in sources for path in some]
    with ThreadPoolExecutor() as pool:
        found = np.stack(list(pool.map(lambda path: fingerprint(load_image(path)), paths)))
    weights = asset_root("models") / "mini" / "alignment.safetensors"
    counts = tuple((name, len(some)) for name, some in sources)
    TrainingPhotos(found, counts, sha256_of(weights)).save(arguments.out)
    print(f"{arguments.out}: {len(found)} photos, {counts}, {arguments.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
