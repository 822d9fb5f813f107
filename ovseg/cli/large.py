"""Images of ``ovseg segment`` that are read by windows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ovseg.cli.formats import Format

if TYPE_CHECKING:
    from ovseg.cli.jobs import Job
    from ovseg.cli.segment_run import Run
    from ovseg.errors import ImageError
    from ovseg.large import LargeResult

MANY_PIXELS = 36_000_000  # above which a TIFF file is read by windows
FORMATS = frozenset({Format.GEOTIFF, Format.GEOJSON, Format.AREAS})  # that pictures read by windows have


def is_large(run: Run, job: Job) -> bool:
    """Whether an image is read by windows: where that is asked for, or it is a TIFF file of so many pixels."""
    from ovseg.large.scene import pixels_of_tiff

    return run.scale is not None or (job.copy is None and pixels_of_tiff(job.image) > MANY_PIXELS)


def large_outcomes(
    run: Run, jobs: list[Job], *, overwrite: bool, show_progress: bool, tell: Callable[[str], None]
) -> Iterator[tuple[Job, LargeResult | ImageError, bool]]:
    """Per job, in order: its result or why there is none, and whether it was made now."""
    from ovseg.errors import ImageError, OutputError

    for job in jobs:
        try:
            if job.copy is not None:
                job.copy.fetch()
            yield job, *_outcome(run, job, overwrite=overwrite, show_progress=show_progress, tell=tell)
        except ImageError as error:
            yield job, error, True
        except OutputError as error:
            yield job, ImageError(str(error)), True


def _outcome(
    run: Run, job: Job, *, overwrite: bool, show_progress: bool, tell: Callable[[str], None]
) -> tuple[LargeResult, bool]:
    from ovseg.cli.jobs import check_place, is_done, made_by
    from ovseg.identity import FileMark
    from ovseg.large import LargeResult, segment_large
    from ovseg.large.segment import SCALE

    _refuse(run, job)
    scale, outlines = run.scale or SCALE, Format.GEOJSON in run.formats
    identity = run.identity() | {"scale": f"{scale:g}", "outlines": f"{run.tolerance:g}" if outlines else "none"}
    if not overwrite and is_done(job, identity):
        return LargeResult.load(job.record), False
    check_place(job, overwrite=overwrite)
    mark = FileMark.of(job.image)
    result = segment_large(
        run.segmenter,
        job.image,
        run.labels or None,
        out=job.folder,
        name=job.name,
        scale=scale,
        background=run.background,
        refine=run.refine,
        min_score=run.changes.get("min_score", 0),
        instances=run.changes.get("instances", False),
        quality=run.changes.get("quality"),
        outlines=outlines,
        tolerance=run.tolerance,
        value_range=run.reading.value_range,
        bands=run.reading.bands,
        provenance={"source": job.source, **made_by(identity, mark)},
        show_progress=show_progress,
        tell=tell,
    )
    return result, True


def _instead(run: Run) -> str:
    """Where the numbers of objects are that a format was to hold."""
    if Format.PANOPTIC not in run.formats:
        return ""
    return "; --instances writes the number of the object at each pixel to NAME_objects.tif"


def _refuse(run: Run, job: Job) -> None:
    """Refuse what needs all pixels of an image at once.

    Raises:
        ImageError: names it.
    """
    from ovseg.errors import ImageError

    asked = ["--min-area"] if run.changes.get("min_area") else []
    asked += (
        ["--quality without --instances"] if run.changes.keys() & {"quality", "instances"} == {"quality"} else []
    )
    if job.shelf is not None:
        raise ImageError(
            f"'{job.source}' is read by windows, which needs a local folder for --out, got '{job.shelf.address}'"
        )
    asked += [f"--format {each.value}" for each in Format if each in run.formats - FORMATS]
    if asked:
        raise ImageError(
            f"'{job.source}' is read by windows, which gives {', '.join(sorted(each.value for each in FORMATS))}, "
            f"got {', '.join(asked)}; leave that out, or give a smaller image{_instead(run)}"
        )
