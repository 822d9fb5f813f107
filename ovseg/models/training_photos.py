"""What the photos of a model's training looked like: fingerprints beside its weights, by which copies are found."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ovseg.assets import asset_root
from ovseg.errors import ModelError
from ovseg.files import atomic_path, sha256_of_bytes

FILE = "training_photos.safetensors"


@dataclass(frozen=True)
class TrainingPhotos:
    """The photos that a model's own weights were trained on; those of networks that it took over are not known.

    Attributes:
        fingerprints: (N, 20) uint8; see ``images.fingerprint``.
        sources: name of each data set and how many photos of it there are, in order; together N.
        weights: SHA-256 of the weights that were trained on them.
    """

    fingerprints: NDArray[np.uint8]
    sources: tuple[tuple[str, int], ...]
    weights: str

    def __len__(self) -> int:
        return len(self.fingerprints)

    def name(self, row: int) -> str:
        """The photo of a row, such as "photo 12 of 'clothing'", counted from 1 as the data set lists them."""
        for source, count in self.sources:
            if row < count:
                return f"photo {row + 1} of '{source}'"
            row -= count
        raise IndexError(row)

    def save(self, path: str | Path) -> None:
        """Write one file of 20 bytes a photo.

        Raises:
            OutputError: the folder cannot be written to.
        """
        sums = {"sha256": sha256_of_bytes(self.fingerprints.tobytes()), "weights": self.weights}
        with atomic_path(path) as temporary:
            save_file({"fingerprints": self.fingerprints}, temporary, {**sums, "sources": json.dumps(self.sources)})

    @classmethod
    def load(cls, path: str | Path) -> TrainingPhotos:
        """The photos in a file that ``save`` wrote.

        Raises:
            ModelError: it is missing, damaged or changed.
        """
        try:
            with safe_open(path, framework="np") as file:
                found, metadata = file.get_tensor("fingerprints"), dict(file.metadata() or {})
            sources = tuple((str(name), int(count)) for name, count in json.loads(metadata["sources"]))
            whole = metadata["sha256"] == sha256_of_bytes(found.tobytes())
            if not whole or sum(count for _, count in sources) != len(found):
                raise ValueError("its checksum is another")
            return cls(found, sources, metadata["weights"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ModelError(f"'{path}' is missing or damaged ({error}); install ovseg again") from error

    @classmethod
    def of_model(cls, name: str) -> TrainingPhotos | None:
        """Those of an embedded model; None for a model whose training photos nobody wrote down."""
        path = asset_root("models") / name / FILE
        return cls.load(path) if path.is_file() else None
