"""Inverted lists on disk: an index built part by part in bounded memory, and searched without being loaded."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from ovseg.bank import store
from ovseg.bank.rows import Vectors, blocks
from ovseg.errors import DatasetError, OutputError
from ovseg.files import atomic_path, write_json
from ovseg.identity import sealed

PART = 1 << 20  # rows whose codes are in memory at once
_NOTE = "parts.json"
_ROW_BYTES = 8  # of the number of a row, beside its code
swig: Any = faiss  # has more than its type stubs say


class Room:
    """A folder for what an index is made of on its way; a build that was killed goes on with what is whole there.

    A file is named by a digest of all that it is made from, so that other vectors or settings find none of theirs.

    Args:
        root: the folder, which is made.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        try:
            self._known = store.read_note(root / _NOTE)
        except DatasetError:  # none yet, or a damaged one: everything is made again
            self._known = {}

    def file(self, name: str, make: Callable[[], Any]) -> tuple[Path, str]:
        """The index file ``name``, made by ``make`` unless it is there as it was written, and its SHA-256."""
        path = self.root / name
        known = self._known.get(name)
        if known is None or not path.is_file() or store.describe_file(path) != known:
            write_index(make(), path)
            known = self._known[name] = store.describe_file(path)
            write_json(self.root / _NOTE, sealed(self._known))
        return path, str(known["sha256"])


def write_index(index: Any, path: str | Path) -> None:
    """Write an index file, whole or not at all.

    Raises:
        OutputError: the folder cannot be written to, or the disk is full.
    """
    with atomic_path(path) as temporary:
        try:
            faiss.write_index(index, str(temporary))
        except RuntimeError as error:
            reason = str(error).splitlines()[-1]
            raise OutputError(f"cannot write '{path}': {reason}; is the disk full?") from error


def build_lists(vectors: Vectors, sample: Vectors, train: Callable[[], Any], *, settings: str, room: Path) -> Any:
    """An index over ``vectors`` whose lists lie in a file in ``room`` until ``save_lists`` moves it.

    The codes of each ``PART`` of the rows become a file; the lists of all are then joined without being loaded.

    Args:
        vectors: (N, D) float32, in memory or memory-mapped.
        sample: (n, D) float32.
        train: gives an IVF index without vectors, trained on ``sample``.
        settings: what ``train`` depends on besides.
        room: folder of a ``Room``.

    Raises:
        OutputError: the disk is full.
    """
    work = Room(room)
    trained, begun = work.file(f"trained-{_digest(settings, [sample])}.faiss", train)
    parts = []
    for start in range(0, len(vectors), PART):
        name = f"part-{_digest(f'{begun} {start}', blocks(vectors, start, start + PART))}.faiss"
        parts.append(work.file(name, lambda start=start: _part(trained, vectors, start))[0])  # type: ignore[misc]
    return _joined(trained, parts, room / "joined.lists")


def save_lists(index: Any, path: str | Path) -> None:
    """Write what ``build_lists`` made: the index to ``path``, its lists beside it, in ``lists_of(path)``.

    Raises:
        OutputError: the folder cannot be written to, or the disk is full.
    """
    lists = _lists(index)
    try:
        with open(lists.filename, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(lists.filename, lists_of(path))
    except OSError as error:
        raise OutputError(f"cannot write '{path}': {error.strerror}; choose a folder you may write to") from error
    lists.filename = str(lists_of(path))
    write_index(index, path)


def open_lists(path: str | Path) -> Any:
    """The index that ``save_lists`` wrote, wherever its two files lie now; the lists are mapped, not read.

    Raises:
        DatasetError: the lists are missing, or not as long as the index says.
        RuntimeError: the index is missing or damaged, as FAISS says it.
    """
    # Without the lists, whose file is named in the index by its place when it was built: the bank may have moved.
    index = faiss.read_index(str(path), faiss.IO_FLAG_SKIP_IVF_DATA | faiss.IO_FLAG_READ_ONLY)
    lists, file = _lists(index), lists_of(path)
    size = file.stat().st_size if file.is_file() else 0
    if size != lists.totsize:  # a read behind the end of a mapped file would kill the process
        raise DatasetError(
            f"the lists '{file}' must have {lists.totsize} bytes, got {size}; copy both files again, or build the "
            "bank again, its vectors are kept"
        )
    lists.filename, lists.prefetch_nthread = str(file), 0  # threads cost more to start than they save in reading
    lists.do_mmap()
    return index


def lists_of(path: str | Path) -> Path:
    """Where the lists of the index file ``path`` lie."""
    return Path(path).with_suffix(".lists")


def _part(trained: Path, vectors: Vectors, start: int) -> Any:
    """The trained index with the codes of the rows of one part."""
    index = faiss.read_index(str(trained))
    row = start
    for block in blocks(vectors, start, start + PART):
        index.add_with_ids(np.ascontiguousarray(block), np.arange(row, row + len(block)))
        row += len(block)
    return index


def _joined(trained: Path, parts: Sequence[Path], file: Path) -> Any:
    """The trained index with the lists of all parts, in order, in ``file``.

    As ``faiss.contrib.ondisk.merge_ondisk``, which keeps the parts mapped as long as the process lives.
    """
    index: Any = faiss.read_index(str(trained))
    opened: list[Any] = [
        faiss.read_index(str(part), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY) for part in parts
    ]
    pointers = swig.InvertedListsPtrVector()
    for part in opened:
        pointers.push_back(_inverted(part).invlists)
    inverted = _inverted(index)
    _check_room(file.parent, sum(part.ntotal for part in opened) * (inverted.code_size + _ROW_BYTES))
    lists = swig.OnDiskInvertedLists(inverted.nlist, inverted.code_size, str(file))
    index.ntotal = inverted.ntotal = lists.merge_from_multiple(pointers.data(), pointers.size(), False, False)
    inverted.replace_invlists(lists, True)
    lists.this.disown()
    return index


def _check_room(folder: Path, needed: int) -> None:
    """Refuse to begin a mapped file that the disk cannot hold: a write to it would kill the process."""
    if (free := shutil.disk_usage(folder).free) < needed:
        raise OutputError(f"the lists need {needed} bytes in '{folder}', got {free} that are free; make room")


def _inverted(index: Any) -> Any:
    """The part of an index that has lists, where it first pads vectors."""
    return faiss.extract_index_ivf(index)


def _lists(index: Any) -> Any:
    return faiss.downcast_InvertedLists(_inverted(index).invlists)


def _digest(settings: str, pieces: Iterable[Vectors]) -> str:
    total = hashlib.sha256(settings.encode())
    for piece in pieces:
        total.update(np.ascontiguousarray(piece).data)
    return total.hexdigest()[:24]
