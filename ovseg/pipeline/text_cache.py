"""Text vectors kept on disk between runs: bounded, checked, and safe under several processes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ovseg.errors import ModelError, OutputError
from ovseg.files import sha256_of_bytes
from ovseg.identity import digest
from ovseg.weights import load_weights, save_weights

DEFAULT_FOLDER = Path.home() / ".cache" / "ovseg" / "text"
LIMIT = 256 * 2**20  # bytes: some 3,000 lists of a hundred words
_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class CacheState:
    """What lies in the folder of a cache.

    Attributes:
        folder: where.
        entries: number of word lists.
        size: bytes of all of them.
    """

    folder: Path
    entries: int
    size: int


class TextCache:
    """Text vectors on disk, keyed by everything that decides them.

    A hit costs one small file; the text encoder is not even loaded. Files are written beside and renamed, so two
    processes that miss at once both write the same whole file, and one that reads never sees half of one.

    Args:
        folder: where; None keeps nothing.
        limit: bytes of all entries, at most; those that were used least recently go first.
    """

    def __init__(self, folder: Path | None, *, limit: int = LIMIT) -> None:
        self.folder, self.limit = folder, limit

    def fetch(self, key: Mapping[str, Any], make: Callable[[], Tensor]) -> Tensor:
        """The tensor stored under ``key``, or ``make()``, which is then stored."""
        if self.folder is None:
            return make()
        path = self.folder / f"{digest(key)}{_SUFFIX}"
        stored = _read(path)
        if stored is not None:
            return stored
        vectors = make()
        try:
            save_weights({"vectors": vectors}, path, metadata={"sha256": _checksum(vectors)}, bits=32)
        except OutputError:
            self.folder = None  # a read-only home, or a full disk: go on without a cache
        else:
            self._shrink(keep=path)
        return vectors

    def state(self) -> CacheState:
        """How much is kept."""
        sizes = [found.stat().st_size for found in self._entries()]
        return CacheState(self.folder or Path(), len(sizes), sum(sizes))

    def clear(self) -> CacheState:
        """Remove every entry; what there was comes back."""
        before = self.state()
        for path in self._entries():
            path.unlink(missing_ok=True)
        return before

    def _entries(self) -> list[Path]:
        return [] if self.folder is None else sorted(self.folder.glob(f"[!.]*{_SUFFIX}"))

    def _shrink(self, *, keep: Path) -> None:
        """Remove the entries that were used least recently until all are within the limit; never ``keep``."""
        known = []
        for path in self._entries():
            with contextlib.suppress(OSError):  # another process removed it
                facts = path.stat()
                known.append((facts.st_mtime_ns, facts.st_size, path))
        total = sum(size for _, size, _ in known)
        for _, size, path in sorted(known):
            if total <= self.limit:
                return
            if path != keep:
                path.unlink(missing_ok=True)
                total -= size


def _read(path: Path) -> Tensor | None:
    """The tensor of an entry, marked as used now; None where there is none, or its bytes are not those written."""
    try:
        tensors, metadata = load_weights(path)
        vectors = tensors["vectors"]
        if metadata.get("sha256") != _checksum(vectors):
            raise ModelError(f"'{path}' is damaged; it is made again")
        os.utime(path)
    except (ModelError, KeyError, OSError):
        return None
    return vectors


def _checksum(vectors: Tensor) -> str:
    return sha256_of_bytes(vectors.detach().cpu().contiguous().numpy().tobytes())
