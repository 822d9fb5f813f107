"""Building a bank: images decoded ahead of the encoder, rows on disk shard by shard, then the index."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ovseg.bank import store
from ovseg.bank.index import Kind, VectorIndex
from ovseg.errors import ImageError, OvsegError
from ovseg.files import atomic_path, write_json
from ovseg.images.load import load_image
from ovseg.images.sources import Item, iterate
from ovseg.regions.clusters import cluster_cells

if TYPE_CHECKING:
    from ovseg.encoders.spec import DenseFeatures
    from ovseg.pipeline.encoded import EncodedImage
    from ovseg.pipeline.segmenter import Segmenter

Progress = Callable[[int], None]
_AHEAD = 4


@dataclass(frozen=True)
class BankOptions:
    """How a bank is built.

    Attributes:
        kind: of the index; "auto" chooses by size.
        recall: recall@10 that the index is tuned to.
        regions: region vectors per image besides the image's own, at most; 0 for none.
        shard_size: images written at once; a killed build loses at most this many.
    """

    kind: Kind = "auto"
    recall: float = 0.95
    regions: int = 8
    shard_size: int = 64


@dataclass(frozen=True)
class Decoded:
    """An image on its way to the encoder, or why it is none."""

    row: store.Row
    pixels: NDArray[np.uint8] | None


def append_images(
    root: Path, source: str | Path, segmenter: Segmenter, *, options: BankOptions, progress: Progress | None = None
) -> None:
    """Encode what is not yet in the bank and write it as new shards; the caller holds the lock.

    Args:
        root: the bank's folder.
        source: see ``sources.iterate``.
        segmenter: encodes.
        options: shard size and regions.
        progress: called with the number of images that a step has done.
    """
    done = known_paths(root)
    fresh = (item for item in iterate(source) if item.key not in done)
    rows: list[store.Row] = []
    for row in _rows(fresh, segmenter, done, regions=options.regions):
        rows.append(row)
        if progress is not None:
            progress(1)
        if len(rows) == options.shard_size:
            store.write_shard(store.next_shard(root), rows)
            rows = []
    if rows:
        store.write_shard(store.next_shard(root), rows)


def _rows(items: Iterator[Item], segmenter: Segmenter, done: set[str], *, regions: int) -> Iterator[store.Row]:
    """The rows of all items whose keys are not ``done``, in order; keys are added to ``done``.

    Three things run side by side: the next images are decoded, one is encoded, and the one before it becomes
    vectors.
    """
    with ThreadPoolExecutor(1) as pool:
        before: Future[store.Row] | None = None
        for decoded in _decoded_ahead(items):
            if decoded.row.path in done:
                continue
            done.add(decoded.row.path)
            encoded = _encode(decoded, segmenter)
            following = pool.submit(_described, decoded.row, encoded, regions=regions)
            if before is not None:
                yield before.result()
            before = following
        if before is not None:
            yield before.result()


def known_paths(root: Path) -> set[str]:
    """Paths of all images that are in shards and have not been removed."""
    removed = _removed_rows(root)
    paths = (
        name for path in store.shard_paths(root) for name in store.read_table(path, ["path"])["path"].to_pylist()
    )
    return {name for number, name in enumerate(paths) if number not in removed}


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
    removed = _removed_rows(root) if removed is None else removed
    generation = _generation(root) + 1
    names = {kind: f"{kind}-{generation:04d}" for kind in ("images", "regions")}
    table, counts, dimensions = _collect(root, removed)
    with atomic_path(root / f"{names['images']}.parquet") as temporary:
        pq.write_table(table, temporary)
    reports: dict[str, Any] = {}
    for kind, name in names.items():
        total = counts[kind]
        if kind == "images" or total:
            vectors = _write_vectors(root, name, kind=kind, removed=removed, shape=(total, dimensions))
            index = VectorIndex.build(vectors, kind=options.kind, recall=options.recall)
            index.save(root / f"{name}.faiss")
            reports[kind] = index.report.to_dict()
    keep = [root / f"{names['images']}.parquet", *store.shard_paths(root)]
    keep += [root / f"{names[kind]}{suffix}" for kind in reports for suffix in (".npy", ".faiss")]
    if "regions" in reports:
        keep.append(root / f"{names['regions']}-owner.npy")
    manifest = {
        "format": store.FORMAT,
        "generation": generation,
        "encoder": encoder,
        "space": space,
        "dimensions": dimensions,
        "images": counts["images"],
        "bad": table.num_rows - counts["images"],
        **stored_options(options),
        "removed": sorted(removed),
        "index": reports,
        "files": {str(path.relative_to(root)): store.describe_file(path) for path in keep},
    }
    write_json(root / store.MANIFEST, manifest)
    _drop_older(root, generation)


def stored_options(options: BankOptions) -> dict[str, Any]:
    """The options as a manifest, and the note of a build that is under way, hold them."""
    rest = {"kind": options.kind, "recall": options.recall, "shard_size": options.shard_size}
    return {"regions": options.regions, "options": rest}


def read_options(stored: dict[str, Any]) -> BankOptions:
    """The options of a manifest or a note."""
    return BankOptions(regions=stored["regions"], **stored["options"])


def image_vector(encoded: EncodedImage) -> NDArray[np.float32]:
    """(D,) float32: unit mean of the joint features over all cells."""
    mean = encoded.features.values[0].float().flatten(1).mean(1)
    vector: NDArray[np.float32] = functional.normalize(mean, dim=0).cpu().numpy()
    return vector


def region_vectors(encoded: EncodedImage, count: int) -> NDArray[np.float32]:
    """(R, D) float32: unit means of the joint features over clusters of similar cells, R at most ``count``.

    Clusters are of the structure features, or of the joint features where there are none.
    """
    vectors: NDArray[np.float32] = describe_regions(encoded.features, count)[1].numpy()
    return vectors


def describe_regions(features: DenseFeatures, count: int) -> tuple[Tensor, Tensor]:
    """(h·w,) int64 the region of each cell, and (R, D) float32 ``region_vectors``, both on the CPU."""
    maps = features.values if features.structure is None else features.structure
    owner = cluster_cells(functional.normalize(maps[0].float(), dim=0).cpu(), count=count).flatten()
    members = functional.one_hot(owner).float()  # (h·w, R)
    means = members.T @ features.values[0].float().flatten(1).T.cpu()
    return owner, functional.normalize(means, dim=1)


def difference_hash(pixels: NDArray[np.uint8]) -> int:
    """64 bits: whether each cell of a 9×8 grey thumbnail is brighter than its right neighbour."""
    small = np.asarray(Image.fromarray(pixels).convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    bits = (small[:, :-1] > small[:, 1:]).ravel()
    return int(np.packbits(bits).view(">u8")[0])


def _decoded_ahead(items: Iterator[Item]) -> Iterator[Decoded]:
    """Decode in a thread, a few images ahead of the caller."""
    with ThreadPoolExecutor(1) as pool:
        waiting: list[Future[Decoded]] = [pool.submit(_decode, item) for item in itertools.islice(items, _AHEAD)]
        while waiting:
            done = waiting.pop(0).result()
            waiting += [pool.submit(_decode, item) for item in itertools.islice(items, 1)]
            yield done


def _decode(item: Item) -> Decoded:
    content = b""
    key = item.key.encode("utf-8", "backslashreplace").decode()  # a table holds Unicode only
    try:
        if key != item.key:
            raise ImageError("the file name is not UTF-8; rename the file")
        content = item.read()
        if not content:
            raise ImageError("the file is empty (0 bytes); fetch it again")
        pixels = load_image(content)
    except ImageError as error:
        reason = " ".join(str(error).split())
        row = store.Row(key, bytes=len(content), status="bad", reason=reason)
        return Decoded(row, None)
    digest = hashlib.sha256(content).hexdigest()
    height, width = pixels.shape[:2]
    row = store.Row(key, height, width, len(content), digest, difference_hash(pixels))
    return Decoded(row, pixels)


def _encode(decoded: Decoded, segmenter: Segmenter) -> EncodedImage | OvsegError | None:
    """The encoded image, why it could not be encoded, or None without pixels."""
    if decoded.pixels is None:
        return None
    try:
        return segmenter.encode(decoded.pixels)
    except OvsegError as error:
        return error


def _described(row: store.Row, encoded: EncodedImage | OvsegError | None, *, regions: int) -> store.Row:
    """The row with the vectors of its image, or with the reason why there are none."""
    if encoded is None:
        return row
    if isinstance(encoded, OvsegError):
        return replace(row, status="bad", reason=" ".join(str(encoded).split()))
    vectors = image_vector(encoded)[None]
    if regions:
        vectors = np.concatenate([vectors, region_vectors(encoded, regions)])
    return replace(row, vectors=vectors)


def _collect(root: Path, removed: set[int]) -> tuple[pa.Table, dict[str, int], int]:
    """The table of all rows that count, good ones first, and how many vectors they have."""
    tables, lengths = [], []
    for path in store.shard_paths(root):
        table = store.read_table(path)
        lengths += [len(value.values) if value.is_valid else 0 for value in table["vectors"]]
        tables.append(table.drop_columns(["vectors", "dimensions"]))
    table = pa.concat_tables(tables) if tables else store.SCHEMA.empty_table()
    kept = [number for number in range(table.num_rows) if number not in removed]
    good = [number for number in kept if lengths[number]]
    bad = [number for number in kept if not lengths[number]]
    dimensions = _dimensions(root)
    total = sum(lengths[number] for number in good) // max(dimensions, 1)
    return table.take(good + bad), {"images": len(good), "regions": total - len(good)}, dimensions


def _dimensions(root: Path) -> int:
    """D, as the first good row of any shard has it; 0 without one."""
    for path in store.shard_paths(root):
        for dimensions in store.read_table(path, ["dimensions"])["dimensions"].to_pylist():
            if dimensions:
                return int(dimensions)
    return 0


def _write_vectors(
    root: Path, name: str, *, kind: str, removed: set[int], shape: tuple[int, int]
) -> NDArray[np.float32]:
    """Write ``name.npy`` (for regions also their owners) shard by shard; comes back memory-mapped."""
    total, dimensions = shape
    with atomic_path(root / f"{name}.npy") as temporary:
        vectors = np.lib.format.open_memmap(temporary, "w+", np.float32, shape) if total else None
        _reserve(temporary)
        if vectors is None:
            np.save(temporary, np.zeros(shape, np.float32))
        owners = _fill(root, vectors, kind=kind, removed=removed, dimensions=dimensions)
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


def _fill(root: Path, vectors: Any, *, kind: str, removed: set[int], dimensions: int) -> NDArray[np.int64]:
    """Copy the vectors of the rows that count into ``vectors``; whose each is comes back."""
    number, image = -1, 0
    owners: list[int] = []
    for path in store.shard_paths(root):
        for rows in store.shard_vectors(path, max(dimensions, 1)):
            number += 1
            if rows is None or number in removed:
                continue
            wanted = rows[:1] if kind == "images" else rows[1:]
            if vectors is not None:
                vectors[len(owners) : len(owners) + len(wanted)] = wanted
            owners += [image] * len(wanted)
            image += 1
    return np.asarray(owners, np.int64)


def _removed_rows(root: Path) -> set[int]:
    return set(store.read_manifest(root)["removed"]) if (root / store.MANIFEST).is_file() else set()


def _generation(root: Path) -> int:
    return int(store.read_manifest(root)["generation"]) if (root / store.MANIFEST).is_file() else 0


def _drop_older(root: Path, generation: int) -> None:
    """Files of earlier generations and halves left by a kill; one that is still open elsewhere stays."""
    halves = [*root.glob(".images-*"), *root.glob(".regions-*"), *(root / "shards").glob(".*.parquet")]
    for path in [*root.glob("images-*"), *root.glob("regions-*"), *halves]:
        if path in halves or path.stem.split("-")[1] != f"{generation:04d}":
            with suppress(OSError):
                path.unlink()
