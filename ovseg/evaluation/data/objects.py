"""Data sets of objects and of panoptic segments in COCO's formats."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ovseg.errors import DatasetError
from ovseg.evaluation.data.annotations import (
    AnnotatedImage,
    Annotations,
    Kind,
    annotated_twice,
    checked_rle,
    read_annotations,
)
from ovseg.evaluation.data.examples import Example
from ovseg.evaluation.data.files import FileDataset, FilePair, existing
from ovseg.evaluation.data.protocol import IDS, Layout, Protocol, load_protocol, with_classes
from ovseg.evaluation.metrics.objects import TrueObjects
from ovseg.evaluation.metrics.panoptic import Segments
from ovseg.files import sha256_of
from ovseg.result.panoptic import picture_to_ids
from ovseg.result.segments import paint_over

VOID = IDS - 1  # stands in a map of category ids for pixels that no segment or object has
_DIGITS = 24  # of a checksum


@dataclass
class ObjectDataset(FileDataset):
    """Images with objects or panoptic segments; each image's truth is also a map of classes.

    A segment that the annotations list, and others cover in the picture, is in the truth without a pixel. A pixel
    of the map of classes that no segment or object has, or a crowd of objects, does not count; where objects
    overlap, the smaller one is seen.

    Attributes:
        images: what the annotations say of each of ``pairs``.
    """

    images: tuple[AnnotatedImage, ...] = ()

    def files(self, index: int) -> tuple[Path, ...]:
        """The image file at ``index`` and its panoptic picture, if any; ``fingerprint`` is the annotations'."""
        pair = self.pairs[index]
        return (pair.image, pair.mask) if self.protocol.objects == "panoptic" else (pair.image,)

    def load(self, index: int) -> Example:
        """Decode the image and its segments or objects at ``index``.

        Raises:
            DatasetError: a file or a mask cannot be read, or picture, annotations and image do not fit each other.
        """
        ids, objects = self._decode(index)
        example = self.joined(index, ids)
        return Example(example.name, example.image, example.truth, objects=objects)

    def ids(self, index: int) -> NDArray[np.int32]:
        """(H, W) int32 category ids, ``VOID`` for none."""
        return self._decode(index)[0]

    @cached_property
    def notes(self) -> list[str]:
        """What should be known of the annotations."""
        return annotated_twice(self.images) if self.protocol.objects == "instances" else []

    def _decode(self, index: int) -> tuple[NDArray[np.int32], Segments | TrueObjects]:
        if self.protocol.objects == "panoptic":
            return self._segments(index)
        return self._objects(index)

    def _segments(self, index: int) -> tuple[NDArray[np.int32], Segments]:
        image, path = self.images[index], self.pairs[index].mask
        picture = read_panoptic(path)
        stated = {int(row["id"]): row for row in image.rows}
        shown, numbers = np.unique(picture, return_inverse=True)
        _check_ids({*shown.tolist()} - {0}, {*stated}, path)
        kept = [
            row for row in image.rows if self.lookup[row["category_id"]] >= 0
        ]  # else none of the labels asked for
        place_of = {int(row["id"]): place for place, row in enumerate(kept, start=1)}
        number_of = np.asarray([place_of.get(number, 0) for number in shown.tolist()], np.int32)
        category_of = np.asarray([stated[number]["category_id"] if number else VOID for number in shown.tolist()])
        classes = tuple(int(self.lookup[row["category_id"]]) for row in kept)
        crowd = tuple(bool(row.get("iscrowd", 0)) for row in kept)
        numbers = numbers.reshape(picture.shape)
        return category_of.astype(np.int32)[numbers], Segments(number_of[numbers], classes, crowd)

    def _objects(self, index: int) -> tuple[NDArray[np.int32], TrueObjects]:
        image = self.images[index]
        rles = [rle_of(row, image) for row in image.rows]
        by_size = sorted(zip(image.rows, rles, strict=True), key=lambda pair: -_area(*pair))
        order = sorted(by_size, key=lambda pair: not pair[0].get("iscrowd", 0))  # crowds lie below
        values = [VOID if row.get("iscrowd", 0) else row["category_id"] for row, _ in order]
        ids = paint_over([rle for _, rle in order], values, image.size, ground=VOID)
        kept = [pair for pair in zip(image.rows, rles, strict=True) if self.lookup[pair[0]["category_id"]] >= 0]
        return ids, TrueObjects(
            classes=tuple(int(self.lookup[row["category_id"]]) for row, _ in kept),
            rles=tuple(rle for _, rle in kept),
            areas=tuple(_area(row, rle) for row, rle in kept),
            crowd=tuple(bool(row.get("iscrowd", 0)) for row, _ in kept),
            judged=None if image.judged is None else self._indices(image.judged),
            partial=self._indices(image.partial),
        )

    def _indices(self, categories: frozenset[int]) -> frozenset[int]:
        return frozenset(int(self.lookup[category]) for category in categories)


def open_objects(protocol: Protocol, data: Path, *, labels: str = "all") -> ObjectDataset:
    """The images and annotations under ``data``; see ``open_dataset``.

    Raises:
        DatasetError: they are not laid out as the protocol says, a file is missing, or see ``read_annotations``.
        ConfigError: the classes do not fit the protocol's.
    """
    assert protocol.objects is not None
    files = find_annotated(protocol, data, kind=protocol.objects)
    protocol = _with_categories(protocol, files.found, files.path)
    lookup = protocol.lookup(labels)
    return ObjectDataset(protocol, files.pairs, files.layout, lookup, files.fingerprint, files.found.images)


@dataclass(frozen=True)
class AnnotatedFiles:
    """The annotations at ``path`` and the files that they name, in order of ``found.images``."""

    layout: Layout
    path: Path
    found: Annotations
    pairs: tuple[FilePair, ...]

    @property
    def fingerprint(self) -> str:
        """What the annotations are known by."""
        return sha256_of(self.path)[:_DIGITS]


def find_annotated(protocol: Protocol, data: Path, *, kind: Kind) -> AnnotatedFiles:
    """The annotations under ``data`` and the images that they list; raises as ``open_objects`` does."""
    layouts = _layouts(protocol, data)
    path = data / layouts[0].annotations.replace("{split}", protocol.split)
    found = read_annotations(path, kind=kind)
    if not found.images:
        raise DatasetError(f"'{path}' lists no image; {protocol.layout_help}")
    first = found.images[0]
    holding = (layout for layout in layouts if _image_file(first, layout, protocol, data).is_file())
    layout = next(holding, layouts[0])
    pairs = tuple(_pair(image, layout, protocol, data, path) for image in found.images)
    return AnnotatedFiles(layout, path, found, pairs)


def read_panoptic(path: Path) -> NDArray[np.int32]:
    """(H, W) int32 segment numbers of COCO's panoptic picture; 0 is void.

    Raises:
        DatasetError: the file is missing or damaged, or has not three channels.
    """
    try:
        with Image.open(path) as opened:
            picture = np.asarray(opened)
    except Exception as error:  # Pillow's parsers raise almost anything on damaged files
        raise DatasetError(f"cannot read the panoptic picture '{path}': {error}; fetch the file again") from error
    if picture.ndim != 3 or picture.dtype != np.uint8:
        raise DatasetError(f"'{path}' must be a panoptic picture in colours, got one channel; is it a mask of ids?")
    return picture_to_ids(picture)


def rle_of(row: dict[str, Any], image: AnnotatedImage) -> dict[str, Any]:
    """The mask of one of an image's objects; see ``checked_rle``."""
    return checked_rle(row.get("segmentation"), image.size, what=f"object {row['id']} of '{image.name}'")


def _check_ids(shown: set[int], stated: set[int], path: Path) -> None:
    unknown = sorted(shown - stated)
    if unknown:
        raise DatasetError(
            f"the panoptic picture '{path}' holds {len(unknown)} segments that its annotations do not list: "
            f"{', '.join(map(str, unknown[:5]))}; fetch pictures and annotations of one version"
        )


def _area(row: dict[str, Any], rle: dict[str, Any]) -> float:
    from pycocotools import mask as masks

    return float(row["area"] if "area" in row else masks.area(rle))


def _layouts(protocol: Protocol, data: Path) -> list[Layout]:
    """Those whose annotations are the first that are there; they differ in where the images lie."""
    if not data.is_dir():
        raise DatasetError(f"no folder '{data}' for the data of '{protocol.name}'; {protocol.layout_help}")
    for layout in protocol.layouts:
        if (data / layout.annotations.replace("{split}", protocol.split)).is_file():
            return [other for other in protocol.layouts if other.annotations == layout.annotations]
    raise DatasetError(f"'{data}' is not laid out as '{protocol.name}' needs; {protocol.layout_help}")


def _pair(image: AnnotatedImage, layout: Layout, protocol: Protocol, data: Path, annotations: Path) -> FilePair:
    file = _image_file(image, layout, protocol, data)
    picture = annotations
    if image.picture:
        picture = existing(data, layout.masks.replace("{split}", protocol.split), image.picture)
    for kind, path in (("image", file), ("panoptic picture", picture)):
        if not path.is_file():
            raise DatasetError(f"the {kind} '{path}' of '{annotations}' is missing; {protocol.layout_help}")
    return FilePair(image.name, file, picture)


def _image_file(image: AnnotatedImage, layout: Layout, protocol: Protocol, data: Path) -> Path:
    filled = {"{split}": protocol.split, "{id}": image.key, "{group}": image.key.partition("_")[0]}
    pattern = layout.images
    for slot, value in filled.items():
        pattern = pattern.replace(slot, value)
    return existing(data, pattern, image.name)


def _with_categories(protocol: Protocol, found: Annotations, path: Path) -> Protocol:
    """The protocol with the categories of the annotations; their words may be those of another protocol."""
    entries: list[dict[str, Any]] = [
        {"name": each.name, "ids": (each.id,), "thing": each.thing} for each in found.categories
    ]
    if protocol.words_of:
        name, _, labels = protocol.words_of.partition(":")
        lender = load_protocol(name)
        words = [lender.classes[index] for index in lender.candidates(labels or "all")]
        if len(words) != len(entries):
            raise DatasetError(
                f"'{path}' must have the {len(words)} categories of '{protocol.name}', got {len(entries)}; for "
                f"others use the protocol '{protocol.objects}'"
            )
        for entry, word in zip(entries, words, strict=True):
            entry.update(word.model_dump(include={"name", "prompt", "synonyms"}))
    groups: dict[str, list[str]] = {}
    for category, entry in zip(found.categories, entries, strict=True):
        kinds = ("things" if category.thing else "stuff", category.frequency)
        for kind in filter(None, kinds):
            groups.setdefault(kind, []).append(entry["name"])
    subsets = {kind: tuple(names) for kind, names in groups.items() if len(names) < len(entries)}
    protocol = protocol.model_copy(update={"subsets": subsets | protocol.subsets})
    return with_classes(protocol, entries, ignore=(VOID,), source=f"'{path}'")
