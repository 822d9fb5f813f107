"""All formats by name, and writing in several at once."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ovseg.errors import OutputError, did_you_mean, require
from ovseg.result.formats import areas, cocos, cvat, geo, labelme, labelstudio, pictures, yolo
from ovseg.result.formats.base import Add, Format, Options, Place
from ovseg.result.storage import check_name

if TYPE_CHECKING:
    from ovseg.result.core import SegmentationResult

FORMATS: dict[str, Format] = {
    each.name: each
    for each in (
        pictures.PNG,
        pictures.CROPS,
        cocos.COCO,
        cocos.PANOPTIC,
        yolo.YOLO,
        labelme.LABELME,
        cvat.CVAT,
        labelstudio.LABELSTUDIO,
        geo.GEOJSON,
        geo.GEOTIFF,
        areas.AREAS,
    )
}
"""Every format by its name, in the order of the command line."""


@contextmanager
def written(names: Collection[str], out: Path, *, options: Options = Options()) -> Iterator[Add]:  # noqa: B008
    """A function to call with each result and its place; what covers all of them is written at the end.

    What a format cannot hold is told first, once for each. No result is kept.

    Args:
        names: of ``FORMATS``.
        out: the folder of all results.
        options: how, and who is told.

    Raises:
        OutputError: there is no such format, or the folder cannot be written to.
        MissingDependencyError: a format needs a package that is not installed.
    """
    chosen = [find(name) for name in FORMATS if name in names] + [find(name) for name in set(names) - set(FORMATS)]
    for each in chosen:
        if each.extra is not None:
            require(PACKAGES[each.extra], extra=each.extra)
        if each.cannot:
            options.tell(f"{each.name} cannot hold {each.cannot}")
    with ExitStack() as stack:
        adds = [stack.enter_context(each.open(out, options)) for each in chosen]
        wary = [each.name for each in chosen if each.by_object]

        def add(result: SegmentationResult, place: Place) -> None:
            if wary and (rest := _besides_objects(result)):
                options.tell(
                    f"what a label covers besides its objects is not in {', '.join(wary)}: {rest} of "
                    f"'{place.source}', for one; png has it, and so have they where no objects of it are asked for"
                )
                wary.clear()
            for each in adds:
                each(result, place)

        yield add


def _besides_objects(result: SegmentationResult) -> str:
    """A label that covers something besides its objects, and how much of the image; empty where there is none."""
    if result.things:
        free = result.instance_map == 0
        for label in result.things:
            if share := float((result.mask(label) & free).mean()):
                return f"'{label}' on {share:.1%}"
    return ""


def export(result: SegmentationResult, format: str, folder: Path, *, name: str, tolerance: float) -> list[str]:
    """See ``SegmentationResult.export``."""
    source = str(result.provenance.get("source", ""))
    photo = Path(source or "result")
    told: list[str] = []
    with written([find(format).name], folder, options=Options(tolerance, told.append)) as add:
        add(result, Place(folder, "", check_name(name or photo.stem), photo, source))
    return told


def find(name: str) -> Format:
    """The format of this name.

    Raises:
        OutputError: there is none.
    """
    if name not in FORMATS:
        raise OutputError(f"no format '{name}'{did_you_mean(name, FORMATS)} There are: {', '.join(FORMATS)}")
    return FORMATS[name]


PACKAGES = {"geo": "rasterio"}  # by extra, what it installs
