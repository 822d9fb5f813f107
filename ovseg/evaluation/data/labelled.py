"""Folders that a labelling tool wrote: LabelMe, CVAT, Label Studio and COCO's JSON, read without conversion."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovseg.errors import DatasetError
from ovseg.evaluation.data.annotations import read_annotations
from ovseg.evaluation.data.classes import read_classes
from ovseg.evaluation.data.examples import Dataset
from ovseg.evaluation.data.files import FileDataset, FilePair, existing
from ovseg.evaluation.data.masks import read_image
from ovseg.evaluation.data.objects import VOID, open_objects
from ovseg.evaluation.data.protocol import Layout, Protocol, load_protocol, with_classes
from ovseg.evaluation.data.regions import Drawing, painted
from ovseg.evaluation.data.tools import json_of, read_cvat, read_label_studio, read_labelme
from ovseg.files import sha256_of

_DIGITS = 24  # of a checksum
_IGNORED = "__ignore__"  # LabelMe's label of what does not count
_UPLOADED = re.compile(r"^[0-9a-f]{8}-")  # what Label Studio puts before the name of a file
_ONE_FILE: dict[str, Callable[[Path], list[Drawing | None]]] = {
    "cvat": read_cvat,
    "label studio": read_label_studio,
}


@dataclass
class LabelledFiles(FileDataset):
    """Photos with regions that people drew; what no region covers is the background, or does not count.

    Attributes:
        drawings: of each of ``pairs``; None where its own file is read when it is needed.
        numbers: id of each label.
        ground: id of what no region covers.
        notes: what should be known of the annotations.
    """

    drawings: tuple[Drawing | None, ...] = ()
    numbers: dict[str, int] = field(default_factory=dict)
    ground: int = VOID
    notes: list[str] = field(default_factory=list)

    def ids(self, index: int) -> NDArray[np.int32]:
        """(H, W) int32 ids of the regions of the photo at ``index``.

        Raises:
            DatasetError: the file cannot be read, or a region is wrong; it is named.
        """
        path = self.pairs[index].mask
        drawing = self.drawings[index] or read_labelme(path)
        if drawing.size == (0, 0):
            height, width = read_image(self.pairs[index].image).shape[:2]
            drawing = replace(drawing, size=(height, width))
        return painted(drawing, self.numbers, ground=self.ground, path=path)

    def files(self, index: int) -> tuple[Path, ...]:
        """The photo at ``index``, and its file where it has one of its own; else ``fingerprint`` is the file's."""
        pair = self.pairs[index]
        return (pair.image,) if self.drawings[index] is not None else (pair.image, pair.mask)


def open_labelled(protocol: Protocol, data: Path, *, labels: str = "all") -> Dataset | None:
    """The photos and regions under ``data``, by whichever tool they are; None where there is no file of any.

    Raises:
        DatasetError: a file is cut off, there are files of several tools, or a photo is missing.
    """
    kinds = {path: kind for path in _candidates(protocol, data) if (kind := kind_of(path))}
    if len(kinds) > 1:
        listed = ", ".join(f"'{path}' ({kind})" for path, kind in kinds.items())
        raise DatasetError(f"expected one file of annotations in '{data}', got {listed}; leave the one to be read")
    for path, kind in kinds.items():
        if kind in {"panoptic", "instances"}:
            return _open_coco(path, kind, data, labels=labels)
        drawings = _ONE_FILE[kind](path)
        some = [(path, drawing) for drawing in drawings if drawing is not None]
        dataset = _opened(protocol, data, some, one_file=path, labels=labels)
        if len(some) < len(drawings):
            undone = len(drawings) - len(some)
            dataset.notes.append(
                f"{undone} of {len(drawings)} photos in '{path}' are not labelled yet, and left out"
            )
        return dataset
    own = [path for path in sorted(data.rglob("*.json")) if kind_of(path) == "labelme"]
    found = [(path, read_labelme(path)) for path in own]
    return _opened(protocol, data, found, one_file=None, labels=labels) if found else None


def kind_of(path: Path) -> str:
    """What a file is by its content: "cvat", "label studio", "labelme", "panoptic", "instances", or nothing of it.

    Raises:
        DatasetError: it is cut off.
    """
    if path.suffix == ".xml":
        with open(path, "rb") as stream:
            return "cvat" if b"<annotations>" in stream.read(4096) else ""
    content = json_of(path)
    if isinstance(content, list):
        return "label studio" if content and isinstance(content[0], dict) and "data" in content[0] else ""
    if not isinstance(content, dict):
        return ""
    if "shapes" in content and "imagePath" in content:
        return "labelme"
    if {"images", "annotations", "categories"} <= set(content):
        rows = content["annotations"]
        return "panoptic" if isinstance(rows, list) and rows and "segments_info" in rows[0] else "instances"
    return ""


def _candidates(protocol: Protocol, data: Path) -> Iterator[Path]:
    """Files that may hold the annotations of all photos."""
    for folder in (data, data / "annotations", data / "images"):
        for path in sorted([*folder.glob("*.json"), *folder.glob("*.xml")]):
            if path.name not in protocol.classes_from and (path.suffix == ".xml" or kind_of(path) != "labelme"):
                yield path


def _open_coco(path: Path, kind: str, data: Path, *, labels: str) -> Dataset:
    """As the protocols of objects read it, wherever photos and pictures lie."""
    protocol = load_protocol(kind)
    found = read_annotations(path, kind=protocol.objects or "instances")
    first = found.images[0] if found.images else None
    beside = path.parent.relative_to(data).as_posix()
    above = [f"{'../' * up}{{name}}.*" for up in (1, 2, 3)]  # a path from the folder where the file was made
    images = ["images/{name}.*", "{name}.*", f"{beside}/{{name}}.*", *above]
    masks = ["{name}.png", f"{path.stem}/{{name}}.png", f"annotations/{path.stem}/{{name}}.png", "masks/{name}.png"]
    layout = Layout(
        images=_first_there(data, images, first.name if first else ""),
        masks=_first_there(data, masks, first.picture) if first and first.picture else "",
        annotations=path.relative_to(data).as_posix(),
    )
    return open_objects(protocol.model_copy(update={"layouts": (layout,)}), data, labels=labels)


def _first_there(data: Path, patterns: Sequence[str], name: str) -> str:
    return next((pattern for pattern in patterns if existing(data, pattern, name).is_file()), patterns[0])


def _opened(
    protocol: Protocol, data: Path, found: list[tuple[Path, Drawing]], *, one_file: Path | None, labels: str
) -> LabelledFiles:
    protocol = _with_labels(protocol, data, [drawing for _, drawing in found])
    numbers = {entry.name: entry.ids[0] for entry in protocol.classes}
    place = protocol.background_index
    ground = protocol.ignore[0] if place is None else protocol.classes[place].ids[0]
    pairs = [_pair(path, drawing, data) for path, drawing in found]
    order = sorted(range(len(pairs)), key=lambda place: pairs[place].name)
    _refuse_twice([pairs[place] for place in order])
    return LabelledFiles(
        protocol,
        tuple(pairs[place] for place in order),
        Layout(images="{name}.*"),
        protocol.lookup(labels),
        None if one_file is None else sha256_of(one_file)[:_DIGITS],
        tuple(None if one_file is None else found[place][1] for place in order),
        numbers | {_IGNORED: protocol.ignore[0]},
        ground,
        _notes(drawing for _, drawing in found),
    )


def _notes(drawings: Iterable[Drawing]) -> list[str]:
    left_out = sum(drawing.left_out for drawing in drawings)
    return [f"{left_out} points and lines of the annotations cover nothing, and are left out"] * bool(left_out)


def _with_labels(protocol: Protocol, data: Path, drawings: list[Drawing]) -> Protocol:
    """The protocol with the classes of the folder's own list, or else with all labels that were drawn, in order."""
    if any((data / name).is_file() for name in protocol.classes_from):
        return read_classes(protocol, data)
    names = sorted({region.label for drawing in drawings for region in drawing.regions} - {_IGNORED})
    if not names:
        raise DatasetError(f"the files in '{data}' have no region; label some photos first")
    entries: list[dict[str, Any]] = [{"name": name, "ids": (number,)} for number, name in enumerate(names)]
    return with_classes(protocol, entries, ignore=(VOID,), source=f"the labels in '{data}'")


def _pair(path: Path, drawing: Drawing, data: Path) -> FilePair:
    """The photo of a drawing: where its file says, or anywhere below the folder by the end of its path."""
    stated = PurePosixPath(drawing.photo)
    ends = [PurePosixPath(*stated.parts[start:]) for start in range(len(stated.parts))]
    ends.append(PurePosixPath(_UPLOADED.sub("", stated.name)))
    places = [path.parent / stated, *(base / end for end in ends for base in (data, data / "images"))]
    photo = next((place for place in places if place.is_file()), None)
    if photo is None:
        raise DatasetError(f"the photo '{drawing.photo}' of '{path}' is missing; put it into '{data / 'images'}'")
    inside = photo.resolve().is_relative_to(data.resolve())
    name = photo.resolve().relative_to(data.resolve()) if inside else PurePosixPath(photo.name)
    return FilePair(name.with_suffix("").as_posix(), photo, path)


def _refuse_twice(pairs: list[FilePair]) -> None:
    for one, other in pairwise(pairs):
        if one.name == other.name:
            raise DatasetError(f"'{one.image}' is labelled in '{one.mask}' and '{other.mask}'; leave one of them")
