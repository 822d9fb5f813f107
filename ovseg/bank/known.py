"""The rows that a bank's shards hold already: which are known, which were moved, which no longer count."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovseg.bank import store
from ovseg.identity import FileMark
from ovseg.images.sources import key_exists


class KnownRows:
    """What the shards hold when images are added; removed rows aside.

    Attributes:
        marks: by path, what the file of the image was known by.
    """

    def __init__(self, root: Path) -> None:
        removed = removed_rows(root)
        self._rows = [row for row in described_rows(root) if row["number"] not in removed]
        self.marks = {row["path"]: FileMark(row["bytes"], row["stamp"], row["sha256"]) for row in self._rows}

    @cached_property
    def _good(self) -> dict[str, list[dict[str, Any]]]:
        """By content, the rows of good images."""
        found: dict[str, list[dict[str, Any]]] = {}
        for row in self._rows:
            if row["status"] == "ok":
                found.setdefault(row["sha256"], []).append(row)
        return found

    def moved(self, row: store.Row) -> Moved | None:
        """The vectors of an image that the bank knows from a place where it is no longer; None for any other."""
        alike = self._good.get(row.sha256, []) if row.status == "ok" else []
        found = next((each for each in alike if not key_exists(each["path"])), None)
        if found is None:
            return None
        vectors, keys = (store.shard_vectors(found["shard"], name=name)[found["place"]] for name in store.WIDTHS)
        return None if vectors is None else Moved(vectors, keys)


@dataclass(frozen=True)
class Moved:
    """Vectors (V, D) and keys (V − 1, S), float32, that were made when the image lay elsewhere."""

    vectors: NDArray[np.float32]
    keys: NDArray[np.float32] | None


def described_rows(root: Path) -> Iterator[dict[str, Any]]:
    """Every row of every shard: where it lies, and what its image is known by."""
    columns, number = ["path", "bytes", "stamp", "sha256", "status"], 0
    for shard in store.shard_paths(root):
        for place, row in enumerate(store.read_table(shard, columns).to_pylist()):
            yield {**row, "number": number, "shard": shard, "place": place}
            number += 1


def superseded(root: Path, removed: set[int]) -> set[int]:
    """Numbers of rows that a later one stands for: of the same path, or of the same image that was moved."""
    paths: set[str] = set()
    contents: set[str] = set()
    gone: set[int] = set()
    for row in reversed([row for row in described_rows(root) if row["number"] not in removed]):
        moved = row["status"] == "ok" and row["sha256"] in contents and not key_exists(row["path"])
        if row["path"] in paths or moved:
            gone.add(row["number"])
        paths.add(row["path"])
        contents.add(row["sha256"])
    return gone


def removed_rows(root: Path) -> set[int]:
    """Numbers of rows, over all shards, that the manifest says do not count."""
    return set(store.read_manifest(root)["removed"]) if (root / store.MANIFEST).is_file() else set()
