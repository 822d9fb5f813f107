"""Files that ``ovseg segment`` writes besides a result's own, by ``--format``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from ovseg.cli.jobs import Job
    from ovseg.large import LargeResult
    from ovseg.result import SegmentationResult


class Format(StrEnum):
    """The names of ``ovseg.result.formats.FORMATS``, which says what each is; here nothing needs to be loaded."""

    PNG = "png"
    CROPS = "crops"
    COCO = "coco"
    PANOPTIC = "panoptic"
    YOLO = "yolo"
    LABELME = "labelme"
    CVAT = "cvat"
    LABELSTUDIO = "labelstudio"
    GEOJSON = "geojson"
    GEOTIFF = "geotiff"
    AREAS = "areas"


class Quality(StrEnum):
    """How objects are found; the section ``objects`` of the model file says what each is."""

    FAST = "fast"
    BEST = "best"


def check_storable(formats: Collection[Format], address: str) -> None:
    """Refuse formats whose files cannot be kept in storage.

    Raises:
        OutputError: names the first.
    """
    from ovseg.errors import OutputError

    if Format.YOLO in formats:
        raise OutputError(
            f"--format yolo makes its folder anew, which storage cannot do whole, got --out '{address}'; give a "
            "local folder, or another format"
        )


Write = Callable[["Job", "SegmentationResult | LargeResult"], None]


@contextmanager
def written(
    formats: Collection[Format], out: Path, *, tolerance: float, tell: Callable[[str], None]
) -> Iterator[Write]:
    """A function to call with each image and its result, which has its photo where crops are wanted.

    Args:
        formats: which ones.
        out: the folder of all results.
        tolerance: pixels that an outline may be off.
        tell: called with what a format cannot hold, before it is written.
    """
    from ovseg.large import LargeResult
    from ovseg.result.formats import Options
    from ovseg.result.formats import written as written_in

    chosen, options = set(formats), Options(tolerance, tell)
    tables = chosen & {Format.AREAS}
    with (
        written_in(chosen - tables, out, options=options) as add,
        written_in(tables, out, options=options) as add_rows,
    ):

        def write(job: Job, result: SegmentationResult | LargeResult) -> None:
            if not isinstance(result, LargeResult):  # those have their files already
                add(result, job.place(out))
            add_rows(cast("SegmentationResult", result), job.place(out))  # a table asks for size and rows alone

        yield write
