"""Files that ``ovseg segment`` writes besides a result's own, by ``--format``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ovseg.cli.jobs import Job
    from ovseg.result import SegmentationResult


class Format(StrEnum):
    """What can be asked for: ``png`` a folder of masks for each image, ``coco`` one file for all of them."""

    PNG = "png"
    COCO = "coco"


Write = Callable[["Job", "SegmentationResult"], None]


@contextmanager
def written(formats: Collection[Format], out: Path) -> Iterator[Write]:
    """A function to call with each image and its result; what covers all of them is written at the end."""
    from ovseg.files import write_json
    from ovseg.result.coco import CocoDataset
    from ovseg.result.storage import COCO_FILE

    dataset = CocoDataset()

    def write(job: Job, result: SegmentationResult) -> None:
        if Format.PNG in formats:
            result.save_masks(job.masks)
        if Format.COCO in formats:
            dataset.add(result)

    yield write
    if Format.COCO in formats:
        write_json(out / COCO_FILE, dataset.to_dict())
