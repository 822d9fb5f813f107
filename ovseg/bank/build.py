"""Building a bank: images decoded ahead of the encoder, rows on disk shard by shard, then the index."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ovseg.bank import store
from ovseg.bank.index import VectorIndex
from ovseg.bank.known import KnownRows, Moved, removed_rows, superseded
from ovseg.bank.options import BankOptions, check_options, read_options, stored_options
from ovseg.bank.rows import give_back
from ovseg.bank.vectors import describe_regions, difference_hash, image_vector, region_keys
from ovseg.errors import ImageError, OvsegError
from ovseg.files import atomic_path, sha256_of_bytes, write_json
from ovseg.identity import FileMark, sealed
from ovseg.images.fingerprint import fingerprint
from ovseg.images.load import read_image
from ovseg.images.reading import Reading
from ovseg.images.sources import Item, still_marked
from ovseg.pipeline.memory import Asked, bounded
from ovseg.pipeline.side_by_side import side_by_side
from ovseg.prefetch import prefetch

if TYPE_CHECKING:
    from ovseg.pipeline.encoded import EncodedImage
    from ovseg.pipeline.segmenter import Segmenter

Progress = Callable[[int], None]
Elsewhere = Callable[
    [Iterable[Item], BankOptions], Iterable[store.Row]
]  # rows, in order, as ``make_rows`` gives them
_KINDS = ("images", "regions", "keys")  # of vectors
_PARTS = "parts"  # folder of what indices on disk are made of, until the bank is finished
_AHEAD = 4  # images decoded before their turn
_FLUSH_SECONDS = 5.0  # a killed build loses at most so much


@dataclass(frozen=True)
class Decoded:
    """An image on its way to the encoder, or why it is none."""

    row: store.Row
    pixels: NDArray[np.uint8] | None


def append_images(
    root: Path,
    items: Iterable[Item],
    segmenter: Segmenter,
    *,
    options: BankOptions,
    progress: Progress | None = None,
    elsewhere: Elsewhere | None = None,
) -> None:
    """Encode what is not in the bank as it is now, and write it as new shards; the caller holds the lock.

    An image whose bytes have changed gets a new row, and one that was moved a row with its old vectors; ``finish``
    then lets go of the old rows.

    Args:
        root: the bank's folder.
        items: as ``sources.iterate`` gives them.
        segmenter: encodes.
        options: shard size and regions.
        progress: called with the number of images that a step has done.
        elsewhere: makes the rows in place of ``segmenter``.
    """
    rows: list[store.Row] = []
    # A shard is written when it is full or five seconds old: few images that take long must not be lost either.
    written = time.monotonic()
    known = KnownRows(root)
    fresh = _fresh(items, known.marks)
    for row in make_rows(fresh, segmenter, options, known) if elsewhere is None else elsewhere(fresh, options):
        rows.append(row)
        if progress is not None:
            progress(1)
        if len(rows) >= options.shard_size or time.monotonic() - written > _FLUSH_SECONDS:
            store.write_shard(store.next_shard(root), rows)
            rows, written = [], time.monotonic()
    if rows:
        store.write_shard(store.next_shard(root), rows)


def _fresh(items: Iterable[Item], known: dict[str, FileMark]) -> Iterator[Item]:
    """The items whose bytes are not those that the bank knows, each key once."""
    seen: set[str] = set()
    for item in items:
        key = _table_key(item)
        if key not in seen and not (key in known and _unchanged(item, known[key])):
            yield item
        seen.add(key)


def _unchanged(item: Item, mark: FileMark) -> bool:
    if _table_key(item) != item.key:
        return True  # a name that no table can hold stays as bad as it was
    if item.stored is not None and item.stored.is_marked(mark):
        return True
    if item.content is not None:
        return sha256_of_bytes(item.content) == mark.sha256
    return still_marked(item.key, mark)


def make_rows(
    items: Iterable[Item], segmenter: Segmenter, options: BankOptions, known: KnownRows | None = None
) -> Iterator[store.Row]:
    """The rows of all items, in order; images that were moved have the vectors that are ``known``.

    A processor takes several images side by side. With an accelerator the next images are decoded, one is encoded,
    and the one before it becomes vectors. Where memory is bounded one follows the other, and one that does not fit
    is a bad image.
    """
    reading = bounded(options.reading, segmenter.memory, Asked(labels=0))

    def decode(item: Item) -> Decoded:
        return _decode(item, reading)

    def encode(decoded: Decoded) -> _Encoded:
        return decoded.row, (known and known.moved(decoded.row)) or _encode(decoded, segmenter)

    def describe(encoded: _Encoded) -> store.Row:
        return _described(*encoded, options)

    def make(item: Item) -> store.Row:
        return describe(encode(decode(item)))

    if segmenter.side_by_side:
        yield from side_by_side(make, items)
    elif segmenter.memory is not None:
        yield from map(make, items)
    else:
        yield from prefetch(describe, map(encode, prefetch(decode, items, ahead=_AHEAD)))


def finish(
    root: Path, *, encoder: dict[str, str], space: str, options: BankOptions, removed: set[int] | None = None
) -> None:
    """Make table, vectors and index from the shards, and then the manifest that makes them the bank.

    A crash at any point leaves the earlier bank as it was: the new files have names of their own.

    Args:
        root: the bank's folder.
        encoder: ``Segmenter.info``.
        space: embedding space of the vectors.
        options: kind and recall of the index.
        removed: numbers of rows, over all shards, that do not count; None keeps those of the manifest.
    """
    removed = removed_rows(root) if removed is None else removed
    removed = removed | superseded(root, removed)
    generation = _generation(root) + 1
    kinds = ("images", "regions", "keys") if options.keys == "structure" else ("images", "regions")
    names = {kind: f"{kind}-{generation:04d}" for kind in kinds}
    shards = _whole_shards(root)
    table, counts = _collect(root, removed)
    with atomic_path(root / f"{names['images']}.parquet") as temporary:
        store.write_table(table, temporary)
    reports: dict[str, Any] = {}
    for kind, name in names.items():
        total = counts[kind]
        if kind == "images" or total:
            vectors = _write_vectors(root, name, kind=kind, removed=removed, total=total)
            room = root / _PARTS / kind
            index = VectorIndex.build(vectors, kind=options.kind, recall=options.recall, room=room)
            index.save(root / f"{name}.faiss")
            reports[kind] = index.report.to_dict()
    # The manifest lists every file with its checksum; it is written last, so what it lists is whole.
    keep = [root / f"{names['images']}.parquet"]
    keep += [root / f"{names[kind]}{suffix}" for kind in reports for suffix in (".npy", ".faiss")]
    keep += [root / f"{names[kind]}.lists" for kind, report in reports.items() if report["kind"] == "disk"]
    if "regions" in reports:
        keep.append(root / f"{names['regions']}-owner.npy")
    manifest = {
        "format": store.FORMAT,
        "generation": generation,
        "encoder": encoder,
        "space": space,
        "dimensions": _dimensions(root),
        "images": counts["images"],
        "bad": table.num_rows - counts["images"],
        **stored_options(options),
        "removed": sorted(removed),
        "index": reports,
        "files": shards | {str(path.relative_to(root)): store.describe_file(path) for path in keep},
    }
    write_json(root / store.MANIFEST, sealed(manifest))
    _drop_older(root, generation)


def _whole_shards(root: Path) -> dict[str, dict[str, Any]]:
    """All shards by name, described for the manifest; one that is not as the last manifest knows it is refused.

    A new manifest would otherwise vouch for a byte that changed in between.
    """
    known = store.read_manifest(root)["files"] if (root / store.MANIFEST).is_file() else {}
    shards = {f"shards/{path.name}": store.describe_file(path) for path in store.shard_paths(root)}
    for name, described in known.items():
        if name.startswith("shards/") and shards.get(name) != described:
            raise store.changed_file(root, name)
    return shards


def claim(root: Path, info: dict[str, str], options: BankOptions | None) -> BankOptions:
    """Note encoder and options before the first shard; a bank goes on with those that it was begun with.

    Raises:
        SpaceError: it was begun with another encoder.
        ConfigError: it was begun with other options.
    """
    note = root / "build.json"
    begun: dict[str, Any] | None = None
    if (root / store.MANIFEST).is_file():
        begun = store.read_manifest(root)
    elif note.is_file() and store.shard_paths(root):
        begun = store.read_note(note)
    if begun is not None:
        store.check_encoder(begun, info, root=root)
        before = read_options(begun)
        options = options or before
        check_options(before, options, root=root)
    options = options or BankOptions()
    write_json(note, sealed({"encoder": info, **stored_options(options)}))
    return options


_Encoded: TypeAlias = "tuple[store.Row, EncodedImage | Moved | OvsegError | None]"


def _decode(item: Item, reading: Reading) -> Decoded:
    content, mark = b"", FileMark(0, "", "")
    try:
        if _table_key(item) != item.key:
            raise ImageError("the file name is not UTF-8; rename the file")
        content = item.read()
        mark = item.mark(content)
        if not content:
            raise ImageError("the file is empty (0 bytes); fetch it again")
        picture = read_image(content, reading, name=f"'{item.key}'")
    except ImageError as error:
        reason = " ".join(str(error).split())
        row = store.Row(
            _table_key(item), bytes=mark.size, stamp=mark.stamp, sha256=mark.sha256, status="bad", reason=reason
        )
        return Decoded(row, None)
    height, width = picture.pixels.shape[:2]
    row = store.Row(
        item.key,
        height,
        width,
        mark.size,
        mark.stamp,
        mark.sha256,
        difference_hash(picture.pixels),
        fingerprint(picture.pixels).tobytes(),
        reason=picture.note,
    )
    return Decoded(row, picture.pixels)


def _table_key(item: Item) -> str:
    """The key as a table holds it: Unicode only."""
    return item.key.encode("utf-8", "backslashreplace").decode()


def _encode(decoded: Decoded, segmenter: Segmenter) -> EncodedImage | OvsegError | None:
    """The encoded image, why it could not be encoded, or None without pixels."""
    if decoded.pixels is None:
        return None
    try:
        (encoded,) = segmenter.encode_batch([decoded.pixels])
    except OvsegError as error:
        return error
    return encoded


def _described(
    row: store.Row, encoded: EncodedImage | Moved | OvsegError | None, options: BankOptions
) -> store.Row:
    """The row with the vectors of its image, or with the reason why there are none."""
    if encoded is None:
        return row
    if isinstance(encoded, Moved):
        return replace(row, vectors=encoded.vectors, keys=encoded.keys)
    if isinstance(encoded, OvsegError):
        return replace(row, status="bad", reason=" ".join(str(encoded).split()))
    vectors, keys = image_vector(encoded)[None], None
    if options.regions:
        owner, means = describe_regions(encoded.features, options.regions)
        vectors = np.concatenate([vectors, means.numpy()])
        keys = region_keys(encoded.features, owner).numpy() if options.keys == "structure" else None
    return replace(row, vectors=vectors, keys=keys)


def _collect(root: Path, removed: set[int]) -> tuple[pa.Table, dict[str, int]]:
    """The table of all rows that count, good ones first, and how many vectors they have."""
    tables, lengths = [], []
    for path in store.shard_paths(root):
        table = store.read_table(path, [*store.SCHEMA.names, "vectors"])
        lengths += [len(value.values) if value.is_valid else 0 for value in table["vectors"]]
        tables.append(table.select(store.SCHEMA.names))
    table = pa.concat_tables(tables) if tables else store.SCHEMA.empty_table()
    kept = [number for number in range(table.num_rows) if number not in removed]
    good = [number for number in kept if lengths[number]]
    bad = [number for number in kept if not lengths[number]]
    total = sum(lengths[number] for number in good) // max(_dimensions(root), 1)
    regions = total - len(good)
    return table.take(good + bad), {"images": len(good), "regions": regions, "keys": regions}


def _dimensions(root: Path, *, name: str = "vectors") -> int:
    """D, as the first good row of any shard has it; 0 without one."""
    for path in store.shard_paths(root):
        for width in store.shard_widths(path, name=name):
            if width:
                return width
    return 0


def _write_vectors(root: Path, name: str, *, kind: str, removed: set[int], total: int) -> NDArray[np.float32]:
    """Write ``name.npy`` (for regions also their owners) shard by shard; comes back memory-mapped."""
    shape = (total, _dimensions(root, name="keys" if kind == "keys" else "vectors"))
    with atomic_path(root / f"{name}.npy") as temporary:
        vectors = np.lib.format.open_memmap(temporary, "w+", np.float32, shape) if total else None
        _reserve(temporary)
        if vectors is None:
            np.save(temporary, np.zeros(shape, np.float32))
        owners = _fill(root, vectors, kind=kind, removed=removed)
        if vectors is not None:
            vectors.flush()
    if kind == "regions":
        with atomic_path(root / f"{name}-owner.npy") as temporary:
            np.save(temporary, owners)
    return open_vectors(root / f"{name}.npy")


def _reserve(path: Path) -> None:
    """Take the file's space on disk now: a full disk is then an error, not a signal in the middle of a write."""
    if hasattr(os, "posix_fallocate") and path.stat().st_size:
        with path.open("r+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)


def open_vectors(path: Path) -> NDArray[np.float32]:
    """(N, D) float32 of a vector file, memory-mapped unless it is empty."""
    stored: NDArray[np.float32] = np.load(path)[:0] if path.stat().st_size <= 128 else np.load(path, mmap_mode="r")
    return stored


def _fill(root: Path, vectors: Any, *, kind: str, removed: set[int]) -> NDArray[np.int64]:
    """Copy the vectors of the rows that count into ``vectors``; whose each is comes back."""
    number, image = -1, 0
    owners: list[int] = []
    for path in store.shard_paths(root):
        for rows in store.shard_vectors(path, name="keys" if kind == "keys" else "vectors"):
            number += 1
            if rows is None or number in removed:
                continue
            wanted = {"images": rows[:1], "regions": rows[1:], "keys": rows}[kind]
            if vectors is not None:
                vectors[len(owners) : len(owners) + len(wanted)] = wanted
            owners += [image] * len(wanted)
            image += 1
        if vectors is not None:
            give_back(vectors)
    return np.asarray(owners, np.int64)


def _generation(root: Path) -> int:
    return int(store.read_manifest(root)["generation"]) if (root / store.MANIFEST).is_file() else 0


def _drop_older(root: Path, generation: int) -> None:
    """Files of earlier generations, parts, and halves left by a kill; one that is still open elsewhere stays."""
    shutil.rmtree(root / _PARTS, ignore_errors=True)
    halves = [path for kind in _KINDS for path in root.glob(f".{kind}-*")] + [*(root / "shards").glob(".*.parquet")]
    for path in [*(path for kind in _KINDS for path in root.glob(f"{kind}-*")), *halves]:
        if path in halves or path.stem.split("-")[1] != f"{generation:04d}":
            with suppress(OSError):
                path.unlink()
