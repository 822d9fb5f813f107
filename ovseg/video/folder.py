"""A segmented clip on disk: a label map for each frame, tables, and a film; a killed run goes on."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ovseg.errors import ModelError, OutputError, OvsegError
from ovseg.files import atomic_path, read_json, write_json
from ovseg.identity import digest, mark_files, still_marked
from ovseg.images.find import find_images
from ovseg.journal import Journal, keep_lines
from ovseg.pipeline.segmenter import Segmenter
from ovseg.result.overlay import draw_frame, palette
from ovseg.result.segments import Segment, paint
from ovseg.result.storage import check_count, index_image, index_values, same_file
from ovseg.result.tables import COLUMNS, table_rows
from ovseg.video.options import VideoOptions
from ovseg.video.reading import Clip, Frame
from ovseg.video.request import Request
from ovseg.video.track import Tracker, VideoFrame
from ovseg.video.writing import film
from ovseg.weights import load_weights, save_weights

MASKS, OBJECTS = "masks", "objects"
RECORD, FRAMES, OBJECT_TABLE, FILM = "video.json", "frames.csv", "objects.csv", "overlay.mp4"
_JOURNAL, _STATE = ".frames.jsonl", ".state.safetensors"
_SAVED = 20  # frames after which what is remembered is saved; a killed run loses fewer
_FRAME_COLUMNS = ("frame", "seconds", "key", "match", *COLUMNS)
_OBJECT_COLUMNS = ("frame", "seconds", "id", "label", "score", "x0", "y0", "x1", "y1", "pixels")


@dataclass(frozen=True)
class WrittenClip:
    """A clip that is done.

    Attributes:
        folder: where its files are.
        record: what ``video.json`` says: clip, labels, frames, key frames, areas, objects, notes.
        fresh: whether any of it was made now.
    """

    folder: Path
    record: dict[str, Any]
    fresh: bool


def write_video(
    clip: Clip,
    request: Request,
    *,
    segmenter: Segmenter,
    options: VideoOptions,
    folder: Path,
    overwrite: bool = False,
    advance: Callable[[VideoFrame], Any] = lambda _: None,
) -> WrittenClip:
    """Segment a clip into a folder: ``masks/000000.png`` and so on, ``frames.csv``, ``overlay.mp4`` and a record.

    With objects also ``objects/000000.png``, the number of the object at each pixel (16 bits, 0 for none), and
    ``objects.csv``. A run that was killed goes on where it stopped, with the same result; what was made of the same
    clip with other settings is made anew.

    Args:
        clip: a file or a folder of frames.
        request: what is looked for.
        segmenter: that answers.
        options: how labels are carried.
        folder: made if need be.
        overwrite: begin anew, also over what is no result of this clip.
        advance: called after each frame.

    Raises:
        OutputError: the folder has files that are no result of this clip, or cannot be written to.
        OvsegError: as ``segment_video``.
    """
    run = _Run(clip, request, segmenter, options, folder)
    done = None if overwrite else run.found()
    if done is not None:
        return WrittenClip(folder, done, False)
    for each in run.frames(anew=overwrite):
        advance(each)
    return WrittenClip(folder, run.finish(), True)


@dataclass
class _Run:
    clip: Clip
    request: Request
    segmenter: Segmenter
    options: VideoOptions
    folder: Path

    def __post_init__(self) -> None:
        self.by = {**self.request.identity(self.segmenter), "carried": digest(self.options.described)}
        source = Path(str(self.clip.source))
        self.files = find_images(str(source)) if source.is_dir() else [source]
        self.labels: tuple[str, ...] = ()
        self.things: tuple[str, ...] = ()

    def found(self) -> dict[str, Any] | None:
        """The record of the clip, where it is done; None where there is something to do.

        Raises:
            OutputError: the folder belongs to something else.
        """
        path = self.folder / RECORD
        if not path.exists():
            if (self.folder / MASKS).exists() or (self.folder / FILM).exists():
                raise OutputError(
                    f"'{self.folder}' has files without a record of who made them; choose another --out, or "
                    "--overwrite"
                )
            return None
        record = self._record()
        source = str(record.get("clip", ""))
        if not same_file(source, str(self.clip.source)):
            whose = f"the result of '{source}'" if source else "no result of a clip"
            raise OutputError(
                f"'{self.folder}' is {whose} and is not replaced by that of '{self.clip.source}'; choose another "
                "--out, or --overwrite"
            )
        whole = all((self.folder / name).is_file() for name in (FRAMES, FILM))
        masks = len(list((self.folder / MASKS).glob("*.png"))) if whole else 0
        return (
            record
            if record.get("done") and whole and masks == record.get("frames") and self._same(record)
            else None
        )

    def frames(self, *, anew: bool) -> Iterator[VideoFrame]:
        """Segment what is not done, and write each frame."""
        start = 0
        frames = self.clip.frames()
        first = next(frames)
        tracker = Tracker(self.segmenter, self.request.asked(self.segmenter, lambda: first.pixels), self.options)
        tracker.check(first)
        self.labels, self.things = tracker.labels, tracker.asked.search.reported
        check_count(len(self.labels))
        if not anew and self._same(self._record()):
            start = self._resume(tracker)
        if start == 0:
            self._begin()
        keep_lines(self.folder / _JOURNAL, lambda row: int(row["frame"]) < start)
        with Journal(self.folder / _JOURNAL) as journal:
            for frame in _chained(first, frames):
                if frame.number < start:
                    continue
                seen = tracker.step(frame)
                self._write(seen)
                journal.append(_row(seen))
                if (frame.number + 1) % _SAVED == 0:
                    tensors, facts = tracker.state()
                    facts["next"] = str(frame.number + 1)
                    save_weights(tensors, self.folder / _STATE, metadata=facts, bits=32)
                yield seen

    def finish(self) -> dict[str, Any]:
        """Write the tables, the film and the record of a clip whose frames are all written."""
        rows = keep_lines(self.folder / _JOURNAL, lambda row: True)
        self._tables(rows)
        self._film(rows)
        (self.folder / _STATE).unlink(missing_ok=True)
        record = (
            self._described() | _summary(rows, self.labels, self.things) | {"notes": self.clip.notes, "done": True}
        )
        write_json(self.folder / RECORD, record)
        return record

    def _begin(self) -> None:
        """An empty folder with the record of what will be in it."""
        for name in (MASKS, OBJECTS):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for name in (FRAMES, OBJECT_TABLE, FILM, _JOURNAL, _STATE):
            (self.folder / name).unlink(missing_ok=True)
        write_json(self.folder / RECORD, self._described() | {"done": False})

    def _resume(self, tracker: Tracker) -> int:
        """The number of frames that need not be made again."""
        try:
            tensors, facts = load_weights(self.folder / _STATE)
            number = int(facts["next"])
            tracker.restore(tensors, facts)
        except (ModelError, KeyError, ValueError):
            return 0
        whole = all(self._mask(each).is_file() for each in range(number))
        rows = {row["frame"] for row in keep_lines(self.folder / _JOURNAL, lambda row: True)}
        return number if whole and rows.issuperset(range(number)) else 0

    def _described(self) -> dict[str, Any]:
        return {
            "clip": str(self.clip.source),
            "labels": list(self.labels),
            "made": {"by": self.by, "clip": self._marks},
        }

    @cached_property
    def _marks(self) -> list[dict[str, Any]]:
        """What the clip is known by; taken once, as its bytes may be many."""
        return mark_files(self.files)

    def _record(self) -> dict[str, Any]:
        try:
            return read_json(self.folder / RECORD, what="record", advice="it is made again")
        except OvsegError:
            return {}

    def _same(self, record: dict[str, Any]) -> bool:
        made = record.get("made", {})
        return made.get("by") == self.by and still_marked(self.files, made.get("clip", ()))

    def _mask(self, number: int) -> Path:
        return self.folder / MASKS / f"{number:06d}.png"

    def _write(self, seen: VideoFrame) -> None:
        with atomic_path(self._mask(seen.number)) as path:
            index_image(seen.result.index_map, palette(len(seen.result.labels))).save(path)
        if seen.result.instances is None:
            return
        numbers = np.array([0, *seen.ids], np.uint16)[seen.result.instance_map]
        with atomic_path(self.folder / OBJECTS / f"{seen.number:06d}.png") as path:
            Image.fromarray(numbers).save(path)

    def _tables(self, rows: Sequence[dict[str, Any]]) -> None:
        _write_table(
            self.folder / FRAMES,
            _FRAME_COLUMNS,
            (
                {**_time(row), "key": int(row["key"]), "match": row["match"], **label}
                for row in rows
                for label in row["table"]
            ),
        )
        if self.things:
            found = ({**_time(row), **_object(each)} for row in rows for each in row["objects"] or ())
            _write_table(self.folder / OBJECT_TABLE, _OBJECT_COLUMNS, found)

    def _film(self, rows: Sequence[dict[str, Any]]) -> None:
        """The overlay, from the clip and what was written of it."""
        with film(self.folder / FILM) as add:
            for frame, row in zip(self.clip.frames(), rows, strict=False):
                add(self._overlay(frame, row), frame.seconds)

    def _overlay(self, frame: Frame, row: dict[str, Any]) -> Any:
        with Image.open(self._mask(frame.number)) as image:
            stored = np.array(image).astype(np.int32)
        _, none = index_values(stored[:1, :1], labels=len(self.labels))
        index_map = np.where(stored == none, -1, stored).astype(np.int32)
        objects = None if row["objects"] is None else [_segment(each) for each in row["objects"]]
        size = (index_map.shape[0], index_map.shape[1])
        return np.array(
            draw_frame(
                index_map,
                self.labels,
                image=frame.pixels,
                instances=objects or (),
                instance_map=None if objects is None else paint(objects, size),
                ids=[each["id"] for each in row["objects"] or ()],
            )
        )


def _chained(first: Frame, rest: Iterator[Frame]) -> Iterator[Frame]:
    yield first
    yield from rest


def _row(seen: VideoFrame) -> dict[str, Any]:
    """A frame's line in the journal."""
    found = seen.result.instances
    return {
        "frame": seen.number,
        "seconds": seen.seconds,
        "key": seen.key,
        "match": seen.match,
        "table": list(table_rows(seen.result)),
        "objects": None
        if found is None
        else [{"id": number, **asdict(each)} for number, each in zip(seen.ids, found, strict=True)],
    }


def _segment(row: dict[str, Any]) -> Segment:
    return Segment(**{name: value for name, value in row.items() if name != "id"})


def _time(row: dict[str, Any]) -> dict[str, Any]:
    return {"frame": row["frame"], "seconds": round(row["seconds"], 6)}


def _object(row: dict[str, Any]) -> dict[str, Any]:
    box = dict(zip(("x0", "y0", "x1", "y1"), row["box"], strict=True))
    return {"id": row["id"], "label": row["label"], "score": row["score"], **box, "pixels": row["area"]}


def _write_table(path: Path, columns: Sequence[str], rows: Iterator[dict[str, Any]]) -> None:
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", encoding="utf-8", errors="backslashreplace", newline="") as stream,
    ):
        table = csv.DictWriter(stream, columns, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def _summary(rows: Sequence[dict[str, Any]], labels: Sequence[str], things: Sequence[str]) -> dict[str, Any]:
    """What the record says of all frames together."""
    areas = {label: [each["table"][place]["area"] for each in rows] for place, label in enumerate(labels)}
    objects = {(each["id"], each["label"]) for row in rows for each in row["objects"] or ()}
    return {
        "frames": len(rows),
        "seconds": rows[-1]["seconds"] if rows else 0.0,
        "key_frames": sum(row["key"] for row in rows),
        "areas": {label: sum(shares) / max(1, len(shares)) for label, shares in areas.items()},
        "objects": {label: sum(name == label for _, name in objects) for label in things} if things else None,
    }
