"""Text vectors kept on disk between runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from ovseg.errors import ModelError, OutputError
from ovseg.weights import load_weights, save_weights


class TextCache:
    """Text vectors on disk, keyed by everything that decides them; safe under several processes.

    A hit costs one small file; the text encoder is not even loaded. Files are written beside and renamed,
    so two processes that miss at once both write the same whole file.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def fetch(self, key: dict[str, object], make: Callable[[], Tensor]) -> Tensor:
        """The tensor stored under ``key``, or ``make()``, which is then stored."""
        if self.folder is None:
            return make()
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
        path = self.folder / f"{digest}.safetensors"
        if path.is_file():
            try:
                return load_weights(path)[0]["vectors"]
            except (ModelError, KeyError):
                path.unlink(missing_ok=True)
        vectors = make()
        try:
            save_weights({"vectors": vectors}, path, bits=32)
        except OutputError:
            self.folder = None  # a read-only home: go on without a cache
        return vectors
