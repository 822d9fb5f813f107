"""COCO's two formats, of a folder of photos."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ovseg.result.coco import CocoDataset
from ovseg.result.formats.base import Add, Format, Options, Place
from ovseg.result.formats.spool import rows, write_lists
from ovseg.result.panoptic import PanopticDataset
from ovseg.result.storage import COCO_FILE, PANOPTIC_FILE

if TYPE_CHECKING:
    from ovseg.result.core import SegmentationResult


@contextmanager
def _coco(out: Path, options: Options) -> Iterator[Add]:
    with rows(out) as images, rows(out) as annotations:
        dataset = CocoDataset(images=images, annotations=annotations)
        yield lambda result, place: dataset.add(result)
        write_lists(
            out / COCO_FILE, {"images": images, "annotations": annotations, "categories": dataset.categories}
        )


@contextmanager
def _panoptic(out: Path, options: Options) -> Iterator[Add]:
    with rows(out) as images, rows(out) as annotations:
        dataset = PanopticDataset(images=images, annotations=annotations)

        def add(result: SegmentationResult, place: Place) -> None:
            name = f"{place.name}_panoptic.png"
            dataset.add(result, place.folder / name, file_name=f"{place.path}_panoptic.png")

        yield add
        write_lists(
            out / PANOPTIC_FILE, {"images": images, "annotations": annotations, "categories": dataset.categories}
        )


COCO = Format("coco", "", COCO_FILE, "", _coco, by_object=True)
PANOPTIC = Format(
    "panoptic",
    "NAME_panoptic.png",
    PANOPTIC_FILE,
    "overlapping objects: a pixel belongs to the surest",
    _panoptic,
    by_object=True,
)
