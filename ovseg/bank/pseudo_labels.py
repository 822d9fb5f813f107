"""Pseudo-labels: a bank's images segmented into label maps that training reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ovseg.bank.bank import ImageBank
from ovseg.bank.store import read_json, writing
from ovseg.errors import DatasetError, ImageError, VocabularyError
from ovseg.files import atomic_path
from ovseg.identity import FileMark, claim, digest
from ovseg.images.load import read_image
from ovseg.images.reading import Reading
from ovseg.images.sources import mark_key, read_key, still_marked
from ovseg.journal import Journal, keep_lines, read_journal
from ovseg.pipeline.segmenter import Segmenter
from ovseg.pipeline.wording import Labels
from ovseg.storage import Shelf, put, results_in, room_for

if TYPE_CHECKING:
    from ovseg.result import SegmentationResult
    from ovseg.vocabulary.labels import Background

IGNORE = 255
_LINES = 32  # that a manifest in storage waits for at least, before it is put anew


@dataclass(frozen=True)
class PseudoLabelReport:
    """What a folder of pseudo-labels holds.

    Attributes:
        images: number of label maps.
        failed: images that could not be read.
        coverage: share of all pixels that have a label.
        balance: per label its share of the labelled pixels.
    """

    images: int
    failed: int
    coverage: float
    balance: dict[str, float]


@dataclass(frozen=True)
class Labeller:
    """What every image of a call is labelled with and where the files go."""

    out: str | Path
    segmenter: Segmenter
    labels: Labels | None
    background: Background
    confidence: float
    reading: Reading

    def label(self, key: str) -> dict[str, Any]:
        """Write the two files of an image; what the manifest says of it comes back."""
        try:
            content = read_key(key)
            mark = mark_key(key, content).to_dict()
            pixels = read_image(content, self.reading, name=f"'{key}'").pixels
            result = self.segmenter.segment(pixels, self.labels, background=self.background)
        except ImageError as error:
            return {"path": key, "error": " ".join(str(error).split())}
        maps = label_map(result, confidence=self.confidence)
        with room_for(self.out) as (root, shelf):
            line = write_maps(root, key, maps, result.score_map, labels=len(result.labels), mark=mark)
            if shelf is not None:
                shelf.put_rest()
        return line


def write_maps(
    root: Path,
    key: str,
    maps: NDArray[np.uint8],
    scores: NDArray[np.float32],
    *,
    labels: int,
    mark: dict[str, Any],
) -> dict[str, Any]:
    """Write the label map and the confidence of an image; what a manifest's line says of them comes back.

    Args:
        root: folder of the pseudo-labels.
        key: of the image.
        maps: (H, W) position of the label; 255 is ignore.
        scores: (H, W) in [0, 1].
        labels: how many there are.
        mark: what the image is known by, ``FileMark.to_dict``.

    Raises:
        OutputError: the folder cannot be written to.
    """
    name = f"{digest(key)}.png"  # by the image: its row in the bank may change
    _save_png(root / "labels" / name, maps)
    _save_png(root / "confidence" / name, (scores * 255).round().astype(np.uint8))
    counts = np.bincount(maps.ravel(), minlength=IGNORE + 1)[:labels]
    height, width = maps.shape
    line = {"path": key, "name": name, "height": height, "width": width}
    return {**line, "pixels": counts.tolist(), "image": mark}


def write_pseudo_labels(
    bank: ImageBank,
    out: str | Path,
    *,
    segmenter: Segmenter,
    labels: Labels | None = None,
    background: Background = "auto",
    confidence: float = 0.0,
    worker: tuple[int, int] = (0, 1),
    progress: Callable[[int], None] | None = None,
    elsewhere: Callable[[list[str]], Iterable[dict[str, Any]]] | None = None,
) -> PseudoLabelReport:
    """Label maps of all images of a bank; a run that was interrupted goes on where it stopped.

    ``out`` gets ``labels/NAME.png`` (8 bits; 255 is ignore), ``confidence/NAME.png`` (8 bits, 0 to 255 for 0 to 1),
    ``labels.json`` and one ``manifest-W.jsonl`` per worker, whose lines are written after their files. An image
    whose bytes are no longer those that were labelled is labelled again. In storage, where nothing can be appended
    to, the manifest is put anew now and then and at the end: a killed run does again what it had not yet put.

    Args:
        bank: the images.
        out: the folder, also in storage (``s3://bucket/pseudo``).
        segmenter: usually ``segmenter.with_concepts(concepts)``.
        labels: what to look for; None for all concepts of the segmenter.
        background: pixels of none of the labels are ignored; None labels every pixel.
        confidence: pixels whose score is under this are ignored.
        worker: number of this worker and of all; each does its share of the images.
        progress: called with the number of images that a step has done.
        elsewhere: labels the images of these keys in place of ``segmenter``, as ``Labeller.label`` does, in order.

    Raises:
        ConfigError: ``out`` holds pseudo-labels of other settings.
        VocabularyError: more than 255 labels.
        OutputError: another process is the same worker (in storage that is not noticed), or the disk is full.
        StorageError: storage cannot be reached, lets nobody in, or has no such bucket.

    Source: Shin et al., ReCo, NeurIPS 2022, section 3.3 (ReCo+).
    """
    number, count = worker
    settings = _settings(segmenter, labels, background=background, confidence=confidence)
    labeller = Labeller(out, segmenter, labels, background, confidence, bank.reading)
    with results_in(out) as (root, shelf), writing(root / f"worker-{number}", what="pseudo-labels"):
        claim_labels(root, settings, shelf)
        with _manifest(root / f"manifest-{number:03d}.jsonl", shelf) as (rows, append):
            done = {row["path"] for row in rows}
            keys = [key for key in bank.paths[number::count] if key not in done]
            for line in map(labeller.label, keys) if elsewhere is None else elsewhere(keys):
                append(line)
                if progress is not None:
                    progress(1)
    return report(out)


@contextmanager
def _manifest(
    path: Path, shelf: Shelf | None
) -> Iterator[tuple[list[dict[str, Any]], Callable[[dict[str, Any]], None]]]:
    """The lines of images that are done, and what appends one; in storage too, where the file is put anew.

    It is put when it has grown by a sixteenth, and at the end, if it is another than before.
    """
    known = path.read_bytes() if shelf is not None and shelf.bring(path) else b""
    rows = keep_lines(path, lambda row: "error" not in row and holds(row, path.parent, shelf))  # errors: again
    waiting, total = 0, len(rows)

    def keep() -> None:
        nonlocal known, waiting
        if shelf is not None and path.is_file() and (content := path.read_bytes()) != known:
            put(path, shelf.address_of(path))
            known, waiting = content, 0

    def append(row: dict[str, Any]) -> None:
        nonlocal waiting, total
        journal.append(row)
        waiting, total = waiting + 1, total + 1
        if waiting > max(_LINES, total // 16):
            keep()

    try:
        with Journal(path) as journal:
            yield rows, append
    finally:
        keep()


def report(root: str | Path) -> PseudoLabelReport:
    """Coverage and class balance of a folder of pseudo-labels, also in storage, from the lines of all workers."""
    stated, rows = read_pseudo_labels(root)
    names = stated["labels"]
    good = [row for row in rows if "error" not in row]
    pixels = np.sum([row["pixels"] for row in good], axis=0) if good else np.zeros(len(names))
    total = sum(row["height"] * row["width"] for row in good)
    labelled = max(float(pixels.sum()), 1.0)
    balance = {name: float(count) / labelled for name, count in zip(names, pixels, strict=True)}
    return PseudoLabelReport(len(good), len(rows) - len(good), float(pixels.sum()) / max(total, 1), balance)


def read_pseudo_labels(root: str | Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What a folder of pseudo-labels, also in storage, says: its settings, and the lines of all workers.

    Raises:
        DatasetError: a file is missing or damaged, or says something else.
        StorageError: storage cannot be reached, or lets nobody in.
    """
    with room_for(root) as (room, shelf):
        if shelf is not None:
            shelf.bring(room / "labels.json")
            shelf.bring_matching("manifest-*.jsonl")
        return _read(room)


def _read(root: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    stated = read_json(root / "labels.json")
    labels, synonyms = stated.get("labels"), stated.get("synonyms", {})
    lists = [labels, *synonyms.values()] if isinstance(synonyms, dict) else [None]
    if not all(isinstance(some, list) and all(isinstance(name, str) for name in some) for some in lists):
        raise DatasetError(f"'{root / 'labels.json'}' must list labels, and synonyms by label; make it again")
    rows = []
    for path in sorted(root.glob("manifest-*.jsonl")):
        for number, row in enumerate(read_journal(path), start=1):
            if not _is_line(row, labels=len(stated["labels"])):
                raise DatasetError(
                    f"line {number} of '{path}' is no line of pseudo-labels; delete the file, and run again"
                )
            rows.append(row)
    return stated, rows


def read_results(root: str | Path) -> Iterator[tuple[str, SegmentationResult]]:
    """The key of each labelled image of a folder of pseudo-labels, also in storage, and its labels as a result.

    Raises:
        DatasetError: a file is missing or damaged.
        StorageError: storage cannot be reached, or lets nobody in.
    """
    from ovseg.result import SegmentationResult

    stated, rows = read_pseudo_labels(root)
    labels = tuple(stated["labels"])
    for row in rows:
        if "error" in row:
            continue
        with room_for(root) as (room, shelf):
            ids, sure = (_load_png(path, shelf) for path in _maps_of(row, room))
        yield (
            row["path"],
            SegmentationResult(
                index_map=np.where(ids == IGNORE, -1, ids.astype(np.int32)),
                labels=labels,
                score_map=(sure / 255).astype(np.float32),
                presence={label: float(count > 0) for label, count in zip(labels, row["pixels"], strict=True)},
                provenance={"source": row["path"]},
            ),
        )


def _load_png(path: Path, shelf: Shelf | None) -> NDArray[np.uint8]:
    if shelf is not None:
        shelf.bring(path)
    try:
        with Image.open(path) as image:
            return np.asarray(image)
    except OSError as error:
        raise DatasetError(f"cannot read '{path}' ({error}); delete it, and run again") from error


def _is_line(row: dict[str, Any], *, labels: int) -> bool:
    if not isinstance(row.get("path"), str):
        return False
    pixels, mark = row.get("pixels"), row.get("image", {"sha256": ""})
    return "error" in row or (
        isinstance(row.get("name"), str)
        and isinstance(pixels, list)
        and len(pixels) == labels
        and all(type(count) is int and count >= 0 for count in (*pixels, row.get("height"), row.get("width")))
        and isinstance(mark, dict)
        and isinstance(mark.get("sha256"), str)
    )


def label_map(result: SegmentationResult, *, confidence: float) -> NDArray[np.uint8]:
    """(H, W) uint8: position of the label; 255 where there is none or its score is under ``confidence``."""
    keep = (result.index_map >= 0) & (result.score_map >= confidence)
    return np.where(keep, result.index_map, IGNORE).astype(np.uint8)


def _settings(
    segmenter: Segmenter, labels: Labels | None, *, background: Background, confidence: float
) -> dict[str, Any]:
    """What decides the label maps, as ``labels.json`` says it."""
    vocabulary = segmenter.queries(labels).vocabulary
    if len(vocabulary) > IGNORE:
        raise VocabularyError(f"pseudo-labels hold at most {IGNORE} labels, got {len(vocabulary)}; split them")
    settings: dict[str, Any] = {
        "labels": list(vocabulary.labels),
        "ignore": IGNORE,
        "confidence": confidence,
        "segmenter": segmenter.identity(labels, background=background),
    }
    synonyms = {group[0]: list(group[1:]) for group in vocabulary.phrases if len(group) > 1}
    if synonyms:
        settings["synonyms"] = synonyms  # a student is asked by them as well
    return settings


def claim_labels(root: Path, settings: dict[str, Any], shelf: Shelf | None = None) -> None:
    """Write the settings, or refuse a folder that has others; ``shelf`` is its place, if that is in storage."""
    path = root / "labels.json"
    there = shelf is not None and shelf.bring(path)
    claim(path, settings, what="pseudo-labels", advice="choose another folder")
    if shelf is not None and not there:
        put(path, shelf.address_of(path))


def holds(row: dict[str, Any], root: Path, shelf: Shelf | None = None) -> bool:
    """Whether the files of a line are there, and its image is the one that was labelled; ``shelf`` as above."""
    there = Path.is_file if shelf is None else shelf.has
    return all(map(there, _maps_of(row, root))) and still_marked(row["path"], FileMark(**row["image"]))


def _maps_of(row: dict[str, Any], root: Path) -> list[Path]:
    """The two files of a line."""
    return [root / folder / row["name"] for folder in ("labels", "confidence")]


def _save_png(path: Path, values: NDArray[np.uint8]) -> None:
    with atomic_path(path) as temporary:
        Image.fromarray(values).save(temporary)
