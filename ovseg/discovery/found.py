"""The objects of a folder's photos with their vectors: found once, kept line by line, known by content."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ovseg.bank.store import writing
from ovseg.discovery.proposers import object_vectors, propose, way_mark
from ovseg.errors import ConfigError, ImageError, ShapeError
from ovseg.identity import FileMark, claim
from ovseg.images.load import read_image
from ovseg.images.sources import Item, iterate, key_exists, mark_key, still_marked
from ovseg.journal import Journal, keep_lines, read_journal
from ovseg.prefetch import prefetch
from ovseg.result.segments import Segment

if TYPE_CHECKING:
    from ovseg.pipeline.segmenter import Segmenter

Vectors = NDArray[np.float32]
Progress = Callable[[int], None]

_AHEAD = 4  # photos decoded before their turn
_AGAIN = "give the same, choose another folder, or delete this one"


@dataclass(frozen=True)
class PhotoObjects:
    """A photo with its objects.

    Attributes:
        path: key by which the photo can be read again.
        mark: what it is known by, ``FileMark.to_dict``.
        segments: its objects, the surest first.
        vectors: (n, D) float32 unit, one of each; in the model's joint space.
    """

    path: str
    mark: dict[str, Any]
    segments: tuple[Segment, ...]
    vectors: Vectors

    def to_line(self) -> dict[str, Any]:
        """As a journal holds it; vectors in half precision."""
        packed = base64.b64encode(self.vectors.astype("<f2").tobytes()).decode("ascii")
        objects = [asdict(segment) for segment in self.segments]
        return {"path": self.path, "image": self.mark, "objects": objects, "vectors": packed}

    @classmethod
    def of_line(cls, line: dict[str, Any]) -> PhotoObjects:
        """What ``to_line`` wrote.

        Raises:
            KeyError, TypeError, ValueError: it is no such line.
        """
        segments = tuple(Segment(**each) for each in line["objects"])
        flat = np.frombuffer(base64.b64decode(line["vectors"], validate=True), "<f2").astype(np.float32)
        vectors = flat.reshape(len(segments), -1) if segments else np.zeros((0, 0), np.float32)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)  # half precision bends them a little
        return cls(line["path"], line["image"], segments, vectors / np.maximum(lengths, 1e-9))


@dataclass(frozen=True)
class FoundObjects:
    """The objects of all photos of a folder.

    Attributes:
        photos: in the order of the folder.
        bad: photos that could not be read, and why.
    """

    photos: tuple[PhotoObjects, ...]
    bad: tuple[tuple[str, str], ...] = ()


def find_objects(
    folder: str | Path,
    out: Path,
    *,
    segmenter: Segmenter,
    by: str = "normalized_cut",
    progress: Progress | None = None,
) -> FoundObjects:
    """The objects of every photo; a run that was interrupted, however, goes on where it stopped.

    ``out`` gets ``settings.json`` and ``objects.jsonl``, with a line for each photo that is on disk as soon as it
    is written. A photo is known by its bytes: one that has changed is done again, one that was moved or is there
    twice is not. Photos inside ``out`` are left out.

    Args:
        folder: or another source of ``images.sources.iterate``.
        out: where it is kept.
        segmenter: whose features are taken.
        by: as of ``propose``.
        progress: called with the number of photos that a step has done.

    Raises:
        ConfigError: ``out`` holds objects of other settings, or there is no such way.
        ImageError: there are no photos.
        ModelError: the model has no detector, or the weights of ``by`` are missing or of another network.
        OutputError: another process writes there, or the disk is full.
    """
    mark = way_mark(by)
    items = _outside(folder, out)
    with writing(out, what="discovery"):
        settings = {"by": by, "segmenter": segmenter.info, **({"weights": mark} if mark else {})}
        claim(out / "settings.json", settings, what="objects", advice=_AGAIN)
        path = out / "objects.jsonl"
        lines = keep_lines(path, _holds)
        done = {line["path"]: line for line in lines}
        known = {line["image"]["sha256"]: line for line in lines}
        with Journal(path) as journal:
            for line in _lines((item for item in items if item.key not in done), known, segmenter, by):
                if "error" not in line:
                    journal.append(line)
                    known[line["image"]["sha256"]] = line
                done[line["path"]] = line
                if progress is not None:
                    progress(1)
    return _gathered([done[item.key] for item in items], path)


def read_objects(out: Path, paths: list[str]) -> FoundObjects:
    """The objects of these photos, as ``find_objects`` kept them.

    Raises:
        ConfigError: the folder does not hold them.
    """
    path = out / "objects.jsonl"
    lines = {line.get("path"): line for line in read_journal(path)}
    if missing := [each for each in paths if each not in lines]:
        raise ConfigError(f"'{path}' does not hold the objects of '{missing[0]}'; run 'ovseg discover' again")
    return _gathered([lines[each] for each in paths], path)


def _outside(folder: str | Path, out: Path) -> list[Item]:
    """The photos that are no pictures of an earlier run."""
    ours = out.resolve()
    items = [item for item in iterate(folder) if ours not in Path(item.key).parents]
    if not items:
        raise ImageError(f"expected photos outside of '{out}', got only such as are its own; give another folder")
    return items


def _holds(line: dict[str, Any]) -> bool:
    """Whether a line is whole and its photo, if it is still there, the one that was looked at."""
    try:
        return still_marked(line["path"], FileMark(**line["image"])) or not key_exists(line["path"])
    except (KeyError, TypeError):
        return False


def _lines(
    items: Iterator[Item], known: dict[str, dict[str, Any]], segmenter: Segmenter, by: str
) -> Iterator[dict[str, Any]]:
    """The line of each photo, in order; ``path`` and ``error`` for one that cannot be read."""
    for item, mark, pixels in prefetch(_decode, items, ahead=_AHEAD):
        if isinstance(pixels, ImageError):
            yield {"path": item.key, "error": " ".join(str(pixels).split())}
        elif mark.sha256 in known:
            yield {**known[mark.sha256], "path": item.key, "image": mark.to_dict()}
        else:
            yield _line(item.key, mark, pixels, segmenter, by)


def _line(key: str, mark: FileMark, pixels: NDArray[np.uint8], segmenter: Segmenter, by: str) -> dict[str, Any]:
    try:
        encoded = segmenter.encode(pixels)
    except (ImageError, ShapeError) as error:  # of a form that this model cannot take
        return {"path": key, "error": " ".join(str(error).split())}
    segments = propose(segmenter, encoded, by=by)
    with torch.inference_mode():
        vectors = object_vectors(encoded, segments).numpy()
    return PhotoObjects(key, mark.to_dict(), segments, vectors).to_line()


def _decode(item: Item) -> tuple[Item, FileMark, NDArray[np.uint8] | ImageError]:
    try:
        content = item.read()
        return item, mark_key(item.key, content), read_image(content, name=f"'{item.key}'").pixels
    except ImageError as error:
        return item, FileMark(0, "", ""), error


def _gathered(lines: list[dict[str, Any]], path: Path) -> FoundObjects:
    photos, bad = [], []
    for line in lines:
        if "error" in line:
            bad.append((line["path"], line["error"]))
            continue
        try:
            photos.append(PhotoObjects.of_line(line))
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"'{path}' is damaged at '{line['path']}'; delete it to start anew") from error
    return FoundObjects(tuple(photos), tuple(bad))
