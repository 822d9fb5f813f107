"""The image bank: a folder of vectors over unlabeled images that can be searched by words and pictures."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ovseg.bank import build, store
from ovseg.bank.build import Progress
from ovseg.bank.duplicates import Fingerprints, Pair, find_pairs
from ovseg.bank.index import Kind, VectorIndex, check_kind
from ovseg.bank.options import BankOptions, check_keys, read_options
from ovseg.bank.search import Retrieved, query_vector
from ovseg.bank.support import RegionSupport
from ovseg.errors import DatasetError, ShapeError
from ovseg.files import atomic_path
from ovseg.identity import FileMark
from ovseg.images.fingerprint import BYTES
from ovseg.images.load import read_image
from ovseg.images.reading import Reading
from ovseg.images.sources import Item, is_file_key, iterate, key_exists, read_key, still_marked

if TYPE_CHECKING:
    from ovseg.pipeline.segmenter import Segmenter


class ImageBank:
    """Unlabeled images as vectors in a model's joint space; made by ``build``, ``open`` or ``merge``.

    A bank is a folder. Every change writes new files and then the manifest, so that a crash leaves the bank
    as it was; a second writer is refused, readers are not disturbed.
    """

    def __init__(self, root: Path, manifest: dict[str, Any], *, segmenter: Segmenter | None = None) -> None:
        self.root = root
        self.manifest = manifest
        self._segmenter = segmenter
        generation = manifest["generation"]
        self._names = {kind: f"{kind}-{generation:04d}" for kind in ("images", "regions", "keys")}
        self.table: pa.Table = store.read_table(root / f"{self._names['images']}.parquet")
        self.index = self._open_index("images")

    def __len__(self) -> int:
        return int(self.manifest["images"])

    def __repr__(self) -> str:
        return f"ImageBank('{self.root}': {len(self)} images, model {self.manifest['encoder']['model']})"

    @classmethod
    def build(
        cls,
        source: str | Path,
        *,
        out: str | Path,
        model: str = "mini",
        segmenter: Segmenter | None = None,
        options: BankOptions | None = None,
        progress: Progress | None = None,
        elsewhere: build.Elsewhere | None = None,
    ) -> ImageBank:
        """A bank of the images of ``source``; a build that was interrupted goes on where it stopped.

        Args:
            source: folder, glob, ``.txt`` list, ``.tar`` shards, or ``hf://name:split``.
            out: the bank's folder.
            model: name of the model that encodes.
            segmenter: a loaded model, in place of ``model``.
            options: index, regions, shard size; None takes those that the bank was begun with, or the defaults.
            progress: called with the number of images that a step has done.
            elsewhere: makes the rows of images in order, as on other machines; None encodes here.

        Raises:
            ImageError: ``source`` has no images. Single bad images are recorded and skipped.
            SpaceError: ``out`` is a bank of another model.
            ConfigError: ``out`` is a bank, or the beginning of one, with other ``options``; or they ask for keys of
                a second encoder, and the model has none.
            OutputError: another process writes to ``out``, or the disk is full.
        """
        root = Path(out)
        segmenter = segmenter or _load(model)
        with store.writing(root):
            options = build.claim(root, segmenter.info, options)
            check_keys(segmenter, options)
            build.append_images(
                root, iterate(source), segmenter, options=options, progress=progress, elsewhere=elsewhere
            )
            build.finish(root, encoder=segmenter.info, space=segmenter.model.head.space, options=options)
        return cls.open(root, segmenter=segmenter)

    @classmethod
    def open(cls, path: str | Path, *, segmenter: Segmenter | None = None, verify: bool = False) -> ImageBank:
        """The bank at ``path``; vectors and index are memory-mapped.

        The checksums of the table and of what is small are checked, 32 MB in all; a larger file has its size, its
        first and its last bytes compared.

        Args:
            path: the bank's folder.
            segmenter: the model it was built with; None loads it when a search first needs it.
            verify: check every byte of every file.

        Raises:
            DatasetError: no bank, an unfinished one, or a file that is missing, cut short or changed.
            SpaceError: the bank was built with another model than ``segmenter``.
        """
        root = Path(path)
        manifest = store.read_manifest(root)
        if segmenter is not None:
            store.check_encoder(manifest, segmenter.info, root=root)
        store.check_files(root, manifest, deep=verify)
        return cls(root, manifest, segmenter=segmenter)

    @classmethod
    def merge(cls, banks: Sequence[str | Path], *, out: str | Path) -> ImageBank:
        """A new bank with the images of several, in order; a path that comes twice counts once.

        Raises:
            DatasetError: no banks, ``out`` is a bank already, a bank is damaged, or their keys are of two kinds.
            SpaceError: the banks were built with different models.
        """
        opened = [cls.open(path, verify=True) for path in banks]  # what is copied is vouched for anew
        root = Path(out)
        if not opened or store.shard_paths(root):
            raise DatasetError(
                f"merge needs banks and a new folder, got {len(opened)} banks and '{root}'; choose another"
            )
        first = opened[0].manifest
        for bank in opened[1:]:
            store.check_encoder(first, bank.manifest["encoder"], root=opened[0].root)
        by = sorted({read_options(bank.manifest).keys for bank in opened})
        if len(by) > 1:
            raise DatasetError(f"merge needs banks with keys of one kind, got {' and '.join(by)}; build one again")
        with store.writing(root):
            removed = _copy_shards(opened, root)
            most = max(bank.manifest["regions"] for bank in opened)
            options = replace(read_options(first), regions=most)
            build.finish(root, encoder=first["encoder"], space=first["space"], options=options, removed=removed)
        return cls.open(root)

    def add(self, source: str | Path, *, progress: Progress | None = None) -> ImageBank:
        """The bank with the images of ``source`` besides its own; those it has are not encoded again.

        Raises:
            ImageError, OutputError: see ``build``.
        """
        return type(self).build(source, out=self.root, segmenter=self.segmenter, progress=progress)

    def remove(self, paths: Iterable[str | Path]) -> ImageBank:
        """The bank without the images at ``paths``; bad images can be removed too, and then added again.

        Raises:
            DatasetError: a path is not in the bank.
        """
        wanted = {self._key(path) for path in paths}
        return self._without(lambda key: key in wanted, expected=wanted)

    def refresh(self, *, progress: Progress | None = None) -> ImageBank:
        """The bank without images that are gone, and with new vectors of those whose bytes have changed.

        Args:
            progress: called with the number of images that a step has done.
        """
        kept = self._without(lambda key: not key_exists(key))
        with store.writing(self.root):
            options = read_options(kept.manifest)
            known = [*kept.paths, *(path for path, _ in kept.bad_images())]
            items = (Item(path) for path in known)
            build.append_images(self.root, items, kept.segmenter, options=options, progress=progress)
            kept._finish()
        return type(self).open(self.root, segmenter=self._segmenter)

    def reindex(self, kind: Kind, *, recall: float | None = None) -> ImageBank:
        """The bank with another index over the same vectors; no image is encoded again.

        Args:
            kind: one of ``index.KINDS``; a "disk" that was killed goes on where it stopped.
            recall: recall@10 that the index is tuned to; None keeps that of the bank.

        Raises:
            ConfigError: there is no such kind.
            DatasetError, OutputError: see ``open`` and ``build``.
        """
        check_kind(kind)
        with store.writing(self.root):
            before = read_options(store.read_manifest(self.root))
            self._finish(options=replace(before, kind=kind, recall=before.recall if recall is None else recall))
        return type(self).open(self.root, segmenter=self._segmenter)

    def changed_images(self) -> list[str]:
        """Paths of images that are gone, or whose bytes are not those that the vectors were made of."""
        rows = self.table.select(["path", "bytes", "stamp", "sha256"])[: len(self)].to_pylist()
        marks = ((row["path"], FileMark(row["bytes"], row["stamp"], row["sha256"])) for row in rows)
        return [path for path, mark in marks if not still_marked(path, mark)]

    def _without(self, drop: Callable[[str], bool], *, expected: Collection[str] = ()) -> ImageBank:
        """The bank less the images whose keys ``drop`` says so of; the ``expected`` ones must be among them."""
        with store.writing(self.root):
            removed = set(store.read_manifest(self.root)["removed"])
            keys = (key for shard in store.shard_paths(self.root) for key in store.shard_keys(shard))
            gone = {number: key for number, key in enumerate(keys) if number not in removed and drop(key)}
            if missing := set(expected) - set(gone.values()):
                raise DatasetError(
                    f"'{min(missing)}' is not in the bank '{self.root}'; bank.paths lists its images"
                )
            self._finish(removed | set(gone))
        return type(self).open(self.root, segmenter=self._segmenter)

    def _finish(self, removed: set[int] | None = None, options: BankOptions | None = None) -> None:
        manifest = store.read_manifest(self.root)
        encoder, space = manifest["encoder"], manifest["space"]
        options = options or read_options(manifest)
        build.finish(self.root, encoder=encoder, space=space, options=options, removed=removed)

    @property
    def segmenter(self) -> Segmenter:
        """The model that the bank was built with, loaded when it is first needed.

        Raises:
            SpaceError: this machine's weights of that name are others than the bank's.
        """
        if self._segmenter is None:
            segmenter = _load(self.manifest["encoder"]["model"])
            store.check_encoder(self.manifest, segmenter.info, root=self.root)
            self._segmenter = segmenter
        return self._segmenter

    @cached_property
    def paths(self) -> list[str]:
        """N keys of the searchable images, in the order of their rows."""
        paths: list[str] = self.table["path"][: len(self)].to_pylist()
        return paths

    @property
    def vectors(self) -> NDArray[np.float32]:
        """(N, D) float32 unit vectors, memory-mapped."""
        return self.index.vectors

    @cached_property
    def regions(self) -> tuple[VectorIndex, NDArray[np.int64]]:
        """The index of region vectors, and the image row that each belongs to.

        Raises:
            DatasetError: the bank was built without regions.
        """
        if "regions" not in self.manifest["index"]:
            raise DatasetError(f"the bank '{self.root}' has no regions; build it with BankOptions(regions=8)")
        owners: NDArray[np.int64] = np.load(self.root / f"{self._names['regions']}-owner.npy")
        return self._open_index("regions"), owners

    def search(self, query: Any, k: int = 50, *, negative: Any = None, regions: bool = False) -> Retrieved:
        """The k images nearest to a query.

        Args:
            query: words, or the path or address of an image; a ``Concept``, whose label is words, whatever it looks
                like; a ``pathlib.Path``, PIL image or array; a ``Region``; a list or a weighted mapping.
            k: how many; a smaller bank gives all it has.
            negative: a query to keep away from.
            regions: rank images by their best region instead of by the whole picture.

        Raises:
            ShapeError: ``k`` is below 1.
            ImageError: a text looks like a path and names no file.
            DatasetError: ``regions`` of a bank without them.
        """
        if k < 1:
            raise ShapeError(f"k must be at least 1, got {k}")
        if not len(self):
            return self._retrieved(np.zeros((1, 0), np.float32), np.zeros((1, 0), np.int64))
        vector = query_vector(query, self.segmenter, negative=negative)[None]
        if regions:
            return self._search_regions(vector, k)
        return self._retrieved(*self.index.search(vector, k))

    def support(self, *, neighbours: int = 20, share: float = 0.5, regions: int = 12) -> RegionSupport:
        """A modifier that mixes an image's logits with those of the bank's regions that look like its own.

        What looks alike is told by the keys of the model's second encoder, where the bank was built with them.
        ``segmenter.with_modifiers(bank.support())`` segments with it; the segmenter must be the bank's model.

        Args:
            neighbours: regions of the bank that support one region.
            share: of the support in the logits, in [0, 1].
            regions: regions per image, at most.

        Raises:
            DatasetError: the bank was built without regions.
        """
        index, _ = self.regions
        kept = self.manifest["files"][f"{self._names['regions']}.npy"]["sha256"][:16]
        head, smoothing = self.segmenter.model.head, self.segmenter.config.smoothing
        keys = None
        if "keys" in self.manifest["index"]:
            kept += "+" + self.manifest["files"][f"{self._names['keys']}.npy"]["sha256"][:16]
            keys = self._open_index("keys")
        return RegionSupport(index, kept, head, smoothing, keys, neighbours, share, regions)

    def image(self, row: int) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 of a row.

        Raises:
            ImageError: the file is gone or has changed into something else.
        """
        return read_image(read_key(self.paths[row]), self.reading, name=f"'{self.paths[row]}'").pixels

    @property
    def reading(self) -> Reading:
        """What was said about the values of the images when the bank was built."""
        return read_options(self.manifest).reading

    def notes(self) -> list[tuple[str, str]]:
        """Path of each image about whose values or bands something was decided, and what."""
        rows = self.table.slice(0, len(self)).select(["path", "reason"]).to_pylist()
        return [(row["path"], row["reason"]) for row in rows if row["reason"]]

    def bad_images(self) -> list[tuple[str, str]]:
        """Path and reason of every image that could not be used."""
        rows = self.table.slice(len(self)).select(["path", "reason"]).to_pylist()
        return [(row["path"], row["reason"]) for row in rows]

    def duplicates(self) -> list[Pair]:
        """Copies and near-copies within the bank; see ``duplicates.find_pairs``."""
        own = self._fingerprints()
        return find_pairs(own, own, self.index, same=True) if len(self) else []

    def verify(self, against: str | Path | None = None) -> list[Pair]:
        """Check every file's checksum; and list bank images that are (nearly) images of a test set, also mirrored,
        turned, or grey ones.

        Args:
            against: any source of images; each pair names the test image first.

        Raises:
            DatasetError: a file has changed, is missing or cut short.
        """
        import tempfile

        store.check_files(self.root, self.manifest, deep=True)
        if against is None or not len(self):
            return []
        with tempfile.TemporaryDirectory() as folder:
            options = BankOptions(value_range=self.reading.value_range, bands=self.reading.bands)
            other = type(self).build(against, out=folder, segmenter=self.segmenter, options=options)
            return find_pairs(other._fingerprints(), self._fingerprints(), self.index, same=False)

    def _fingerprints(self) -> Fingerprints:
        count = len(self)
        hashes = self.table["dhash"][:count].to_numpy().astype(np.uint64)
        looks = np.frombuffer(b"".join(self.table["fingerprint"][:count].to_pylist()), np.uint8)
        sums = self.table["sha256"][:count].to_pylist()
        return Fingerprints(self.paths, sums, hashes, self.vectors, looks.reshape(-1, BYTES))

    def _search_regions(self, vector: NDArray[np.float32], k: int) -> Retrieved:
        index, owners = self.regions
        per_image = max(int(self.manifest["regions"]), 1)
        cosine, rows = index.search(vector, k * per_image)
        found = rows[0][rows[0] >= 0]
        _, first = np.unique(owners[found], return_index=True)  # the first of an image is its best
        order = np.sort(first)[:k]
        return self._retrieved(cosine[:, order], owners[found][order][None])

    def _retrieved(self, cosine: NDArray[np.float32], rows: NDArray[np.int64]) -> Retrieved:
        found = (rows >= 0).all(0)  # a list index may come back with fewer
        cosine, rows = cosine[:, found], rows[:, found]
        column = self.table["path"]  # a list of all paths takes seconds and a gigabyte where there are many
        paths = tuple(tuple(column[int(row)].as_py() for row in line) for line in rows)
        return Retrieved(rows, cosine, paths, self.reading)

    def _open_index(self, kind: str) -> VectorIndex:
        name = self._names[kind]
        vectors = build.open_vectors(self.root / f"{name}.npy")
        return VectorIndex.open(self.root / f"{name}.faiss", vectors=vectors, report=self.manifest["index"][kind])

    def _key(self, path: str | Path) -> str:
        text = str(path)
        return str(Path(text).resolve()) if is_file_key(text) else text


def _load(model: str) -> Segmenter:
    from ovseg.pipeline.opening import load

    return load(model)


def _copy_shards(banks: Sequence[ImageBank], root: Path) -> set[int]:
    """Copy all shards under new numbers; rows that do not count come back: removed ones and repeated paths."""
    removed: set[int] = set()
    seen: set[str] = set()
    offset = 0
    for bank in banks:
        known = [path for path in store.shard_paths(bank.root) if f"shards/{path.name}" in bank.manifest["files"]]
        keys = [key for shard in known for key in store.shard_keys(shard)]
        gone = set(bank.manifest["removed"])
        for number, key in enumerate(keys):
            if number in gone or key in seen:
                removed.add(offset + number)
            seen.add(key)
        for shard in known:
            with atomic_path(store.next_shard(root)) as temporary:
                shutil.copyfile(shard, temporary)
        offset += len(keys)
    return removed
