"""The objects of a folder's photos with their vectors: found once, kept line by line, known by content."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ovseg.bank.store import writing
from ovseg.discovery.proposers import object_vectors, propose, way_mark
from ovseg.discovery.stuff import stuff_regions
from ovseg.errors import ConfigError, ImageError, ShapeError
from ovseg.identity import FileMark, claim
from ovseg.images.load import read_image
from ovseg.images.sources import Item, iterate, key_exists, mark_key, still_marked
from ovseg.journal import Journal, keep_lines, read_journal
from ovseg.prefetch import prefetch
from ovseg.result.segments import Segment

if TYPE_CHECKING:
    from ovseg.pipeline.encoded import EncodedImage
    from ovseg.pipeline.segmenter import Segmenter

Vectors = NDArray[np.float32]
Progress = Callable[[int], None]

_AHEAD = 4  # photos decoded before their turn
_AGAIN = "give the same, choose another folder, or delete this one"


@dataclass(frozen=True)
class Described:
    """Segments of a photo with what they look like.

    Attributes:
        segments: n of them.
        vectors: (n, D) float32 unit, one of each; in the model's joint space.
    """

    segments: tuple[Segment, ...]
    vectors: Vectors

    @classmethod
    def none(cls) -> Described:
        """No segments."""
        return cls((), np.zeros((0, 0), np.float32))

    @classmethod
    def of(cls, listed: list[dict[str, Any]], packed: str) -> Described:
        """What ``listed`` and ``packed`` gave.

        Raises:
            TypeError, ValueError: it is no such thing.
        """
        segments = tuple(Segment(**each) for each in listed)
        if not segments:
            return cls.none()
        flat = np.frombuffer(base64.b64decode(packed, validate=True), "<f2").astype(np.float32)
        vectors = flat.reshape(len(segments), -1)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)  # half precision bends them a little
        return cls(segments, vectors / np.maximum(lengths, 1e-9))

    def listed(self) -> list[dict[str, Any]]:
        """The segments as JSON."""
        return [asdict(segment) for segment in self.segments]

    def packed(self) -> str:
        """The vectors in half precision, in base64."""
        return base64.b64encode(self.vectors.astype("<f2").tobytes()).decode("ascii")


@dataclass(frozen=True)
class PhotoObjects:
    """A photo with its objects, and with the stuff around them where that was looked for.

    Attributes:
        path: key by which the photo can be read again.
        mark: what it is known by, ``FileMark.to_dict``.
        objects: its objects, the surest first.
        stuff: regions that no object covers; None where nobody asked.
    """

    path: str
    mark: dict[str, Any]
    objects: Described
    stuff: Described | None = None

    def parts(self, *, stuff: bool) -> Described:
        """Its regions of stuff, or else its objects."""
        return (self.stuff or Described.none()) if stuff else self.objects

    def to_line(self) -> dict[str, Any]:
        """As a journal holds it; vectors in half precision."""
        line: dict[str, Any] = {"path": self.path, "image": self.mark}
        line |= {"objects": self.objects.listed(), "vectors": self.objects.packed()}
        if self.stuff is not None:
            line |= {"stuff": self.stuff.listed(), "stuff_vectors": self.stuff.packed()}
        return line

    @classmethod
    def of_line(cls, line: dict[str, Any]) -> PhotoObjects:
        """What ``to_line`` wrote.

        Raises:
            KeyError, TypeError, ValueError: it is no such line.
        """
        objects = Described.of(line["objects"], line["vectors"])
        stuff = Described.of(line["stuff"], line["stuff_vectors"]) if "stuff" in line else None
        return cls(line["path"], line["image"], objects, stuff)


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
    stuff: bool = False,
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
        stuff: whether to look for regions that no object covers, too; photos of an earlier run without are looked
            at again.
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
        lines = keep_lines(path, lambda line: _holds(line) and (not stuff or "stuff" in line))
        done = {line["path"]: line for line in lines}
        known = {line["image"]["sha256"]: line for line in lines}
        with Journal(path) as journal:
            look = partial(_line, segmenter=segmenter, by=by, stuff=stuff)
            for line in _lines((item for item in items if item.key not in done), known, look):
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
    items: Iterator[Item], known: dict[str, dict[str, Any]], look: Callable[..., dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """The line of each photo, in order; ``path`` and ``error`` for one that cannot be read."""
    for item, mark, pixels in prefetch(_decode, items, ahead=_AHEAD):
        if isinstance(pixels, ImageError):
            yield {"path": item.key, "error": " ".join(str(pixels).split())}
        elif mark.sha256 in known:
            yield {**known[mark.sha256], "path": item.key, "image": mark.to_dict()}
        else:
            yield look(item.key, mark, pixels)


def _line(
    key: str, mark: FileMark, pixels: NDArray[np.uint8], *, segmenter: Segmenter, by: str, stuff: bool
) -> dict[str, Any]:
    try:
        encoded = segmenter.encode(pixels)
    except (ImageError, ShapeError) as error:  # of a form that this model cannot take
        return {"path": key, "error": " ".join(str(error).split())}
    segments = propose(segmenter, encoded, by=by)
    around = _described(encoded, stuff_regions(encoded, segments)) if stuff else None
    return PhotoObjects(key, mark.to_dict(), _described(encoded, segments), around).to_line()


@torch.inference_mode()
def _described(encoded: EncodedImage, segments: tuple[Segment, ...]) -> Described:
    return Described(segments, object_vectors(encoded, segments).numpy())


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
