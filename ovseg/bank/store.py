"""A bank's files: the manifest, shards of rows that are whole or absent, and the lock against two writers."""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from ovseg.errors import DatasetError, OutputError
from ovseg.files import atomic_path, sha256_of, sha256_of_ends
from ovseg.files import read_json as read_object
from ovseg.identity import check_model, unsealed
from ovseg.images.fingerprint import BYTES

FORMAT = 3
MANIFEST = "manifest.json"
_COLUMNS = {
    "path": pa.string(),
    "height": pa.int32(),
    "width": pa.int32(),
    "bytes": pa.int64(),
    "stamp": pa.string(),
    "sha256": pa.string(),
    "dhash": pa.uint64(),
    "fingerprint": pa.binary(BYTES),
    "status": pa.string(),
    "reason": pa.string(),
}
_QUICK = 32_000_000  # bytes that are read whole when a bank is opened: 0.2 s here; of the rest the ends
WIDTHS = {"vectors": "dimensions", "keys": "key_dimensions"}  # columns of vectors, and of their lengths
SCHEMA = pa.schema(list(_COLUMNS.items()))


@dataclass(frozen=True)
class Row:
    """One image of a bank.

    Attributes:
        path: key by which ``sources.read_key`` finds it.
        height, width: upright size in pixels; 0 when it could not be read.
        bytes: of the encoded file.
        stamp: of the file on disk, by which it is known again unread; see ``identity.FileMark``.
        sha256: of the encoded file.
        dhash: 64-bit difference hash of the picture.
        fingerprint: of the picture; see ``images.fingerprint``.
        status: "ok" or "bad".
        reason: why it is bad; of a good one, what was decided about its values (``images.load.Picture.note``).
        vectors: (V, D) float32 unit; the image first, then its regions; None when it is bad.
        keys: (V − 1, S) float32 unit, of the regions by a second encoder; None in banks without.
    """

    path: str
    height: int = 0
    width: int = 0
    bytes: int = 0
    stamp: str = ""
    sha256: str = ""
    dhash: int = 0
    fingerprint: builtins.bytes = b"\0" * BYTES
    status: str = "ok"
    reason: str = ""
    vectors: NDArray[np.float32] | None = field(default=None, compare=False)
    keys: NDArray[np.float32] | None = field(default=None, compare=False)


def write_shard(path: Path, rows: Sequence[Row]) -> None:
    """Rows and their vectors in one parquet file, whole or not at all."""
    table = pa.Table.from_pydict({name: [getattr(row, name) for row in rows] for name in _COLUMNS}, schema=SCHEMA)
    for name, sizes in WIDTHS.items():
        found = [getattr(row, name) for row in rows]
        if name == "vectors" or any(each is not None for each in found):
            flat = [None if each is None else each.ravel() for each in found]
            table = table.append_column(name, pa.array(flat, pa.list_(pa.float32())))
            widths = [0 if each is None else each.shape[1] for each in found]
            table = table.append_column(sizes, pa.array(widths, pa.int32()))
    with atomic_path(path) as temporary:
        write_table(table, temporary, compression="zstd")


def write_table(table: pa.Table, path: Path, **options: Any) -> None:
    """A parquet file whose pages have checksums, which ``read_table`` checks."""
    pq.write_table(table, path, write_page_checksum=True, **options)


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A parquet file of a bank.

    Raises:
        DatasetError: it is missing or damaged.
    """
    try:
        return pq.read_table(path, columns=columns, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(
            f"'{path.name}' of the bank '{_root(path)}' is missing or damaged; copy the bank again, "
            "or build it again"
        ) from error


def shard_vectors(path: Path, *, name: str = "vectors") -> list[NDArray[np.float32] | None]:
    """Per row of a shard its (V, D) vectors, or what else ``WIDTHS`` names; None where there are none."""
    if name not in pq.read_schema(path).names:
        return [None] * pq.read_metadata(path).num_rows
    table = read_table(path, [name, WIDTHS[name]])
    return [
        None if not value.is_valid else np.asarray(value.values, np.float32).reshape(-1, width.as_py())
        for value, width in zip(table[name], table[WIDTHS[name]], strict=True)
    ]


def shard_widths(path: Path, *, name: str = "vectors") -> list[int]:
    """Per row of a shard the length of its vectors, 0 where there are none; empty for a shard without such."""
    column = WIDTHS[name]
    if column not in pq.read_schema(path).names:
        return []
    widths: list[int] = read_table(path, [column])[column].to_pylist()
    return widths


def shard_keys(path: Path) -> list[str]:
    """The key of every row of a shard, in order."""
    keys: list[str] = read_table(path, ["path"])["path"].to_pylist()
    return keys


def shard_paths(root: Path) -> list[Path]:
    """All shard files, in order, whether or not the manifest knows them."""
    return sorted((root / "shards").glob("[0-9]*.parquet"))  # not the hidden, half-written ones


def next_shard(root: Path) -> Path:
    """The file of the shard that follows the last one."""
    known = shard_paths(root)
    number = int(known[-1].stem) + 1 if known else 0
    return root / "shards" / f"{number:06d}.parquet"


def read_manifest(root: Path) -> dict[str, Any]:
    """The manifest of the bank at ``root``.

    Raises:
        DatasetError: there is no bank, it is unfinished, or of an unknown format.
    """
    path = root / MANIFEST
    if not path.is_file():
        begun = f"a build began in '{root}' and did not finish; run it again, it goes on where it stopped"
        raise DatasetError(
            begun
            if shard_paths(root)
            else f"no bank at '{root}'; make one with 'ovseg bank build FOLDER --out BANK'"
        )
    manifest = read_json(path)
    if manifest.get("format") != FORMAT:
        raise DatasetError(
            f"'{path}' must have format {FORMAT}, got {manifest.get('format')}; build the bank again"
        )
    return _whole(manifest, path)


def read_note(path: Path) -> dict[str, Any]:
    """What a build that is under way noted.

    Raises:
        DatasetError: the file is missing, damaged or changed.
    """
    return _whole(read_json(path), path)


def _whole(values: dict[str, Any], path: Path) -> dict[str, Any]:
    whole = unsealed(values)
    if whole is None:
        raise DatasetError(f"'{path}' has changed since it was written; copy it again, or build the bank again")
    return whole


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a bank, or of a folder of pseudo-labels.

    Raises:
        DatasetError: the file is missing or damaged.
    """
    advice = "it is missing or damaged: make it again"
    return read_object(path, what="file", advice=advice, error=DatasetError)


def describe_file(path: Path) -> dict[str, Any]:
    """Size and checksums, of all bytes and of the ends, for the manifest."""
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path), "ends": sha256_of_ends(path)}


def check_files(root: Path, manifest: dict[str, Any], *, deep: bool = False) -> None:
    """Refuse a bank with a file that is missing, cut short, or changed.

    The table of the images and the owners of regions are always read whole; of the other files, small ones first,
    32 MB, and with ``deep`` all. A larger one is known by its size, its first and its last 64 kB.

    Raises:
        DatasetError: names the file and says what to do.
    """
    _check_sizes(root, manifest)
    left = float("inf") if deep else _QUICK
    small_first = sorted(manifest["files"].items(), key=lambda item: (not _is_small(item[0]), item[1]["bytes"]))
    for name, known in small_first:
        path = root / name
        left -= known["bytes"]
        if left >= 0 or _is_small(name):
            same = sha256_of(path) == known["sha256"]
        else:
            same = sha256_of_ends(path) == known["ends"]
        if not same:
            raise changed_file(root, name)


def changed_file(root: Path, name: str) -> DatasetError:
    """What is said of a file whose bytes are not those that the manifest knows."""
    again = "copy it again, or build the bank anew in another folder"
    if not name.startswith("shards/"):
        again = f"copy it again, or run 'ovseg bank build SOURCE --out {root}', which makes it anew from the shards"
    return DatasetError(f"'{name}' of the bank '{root}' has changed since it was built; {again}")


def _is_small(name: str) -> bool:
    """Whether a file is small beside the vectors: the table, and whose each region is."""
    return ("/" not in name and not name.endswith((".faiss", ".lists", ".npy"))) or name.endswith("-owner.npy")


def _check_sizes(root: Path, manifest: dict[str, Any]) -> None:
    for name, known in manifest["files"].items():
        path = root / name
        if not path.is_file():
            raise DatasetError(f"the bank '{root}' misses '{name}'; copy the whole folder, or build it again")
        size = path.stat().st_size
        if size != known["bytes"]:
            raise DatasetError(
                f"'{name}' of the bank '{root}' must have {known['bytes']} bytes, got {size}: it is cut short or "
                "changed; copy it again, or build the bank again"
            )


def check_encoder(manifest: dict[str, Any], info: Mapping[str, str], *, root: Path) -> None:
    """Refuse to use a bank with another model, other weights or other settings of them than it was built with.

    Raises:
        SpaceError: says both and what to do.
    """
    built = f"the bank '{root}' was built"
    check_model(manifest["encoder"], info, what=built, again="build the bank again with this one")


@contextmanager
def writing(root: Path, *, what: str = "bank") -> Iterator[None]:
    """Hold the lock of a folder; it is released by the operating system even after ``kill -9``.

    Args:
        root: the folder, which is made.
        what: is written there, for the error.

    Raises:
        OutputError: another process writes, or the folder cannot be made.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / ".lock", blocking=False)
        lock.acquire()
    except Timeout as error:
        raise OutputError(f"another process is writing the {what} '{root}'; wait until it has finished") from error
    except OSError as error:
        raise OutputError(f"cannot write the {what} '{root}': {error.strerror}; choose another folder") from error
    try:
        yield
    finally:
        lock.release()


def _root(path: Path) -> Path:
    return path.parent.parent if path.parent.name == "shards" else path.parent
