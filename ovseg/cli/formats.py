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
    """What can be asked for besides a result's own files.

    ``png`` is a folder of masks for each image, ``crops`` one of its objects cut out, ``coco`` one file for all
    images, ``panoptic`` a picture for each image and one file for all.
    """

    PNG = "png"
    CROPS = "crops"
    COCO = "coco"
    PANOPTIC = "panoptic"


class Quality(StrEnum):
    """How objects are found; the section ``objects`` of the model file says what each is."""

    FAST = "fast"
    BEST = "best"


Write = Callable[["Job", "SegmentationResult"], None]


@contextmanager
def written(formats: Collection[Format], out: Path) -> Iterator[Write]:
    """A function to call with each image and its result, which has its photo where crops are wanted.

    What covers all images is written at the end.
    """
    from ovseg.files import write_json
    from ovseg.result import CocoDataset, PanopticDataset
    from ovseg.result.storage import COCO_FILE, PANOPTIC_FILE

    dataset, panoptic = CocoDataset(), PanopticDataset()

    def write(job: Job, result: SegmentationResult) -> None:
        if Format.PNG in formats:
            result.save_masks(job.masks)
        if Format.CROPS in formats:
            result.save_crops(job.crops)
        if Format.COCO in formats:
            dataset.add(result)
        if Format.PANOPTIC in formats:
            panoptic.add(result, job.panoptic, file_name=job.panoptic.relative_to(out).as_posix())

    yield write
    if Format.COCO in formats:
        write_json(out / COCO_FILE, dataset.to_dict())
    if Format.PANOPTIC in formats:
        write_json(out / PANOPTIC_FILE, panoptic.to_dict())
