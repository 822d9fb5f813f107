"""Segmenting a picture that is too large to be decoded at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ovseg.errors import ConfigError
from ovseg.identity import FileMark
from ovseg.images.reading import Reading
from ovseg.large.grid import Grid
from ovseg.large.joining import join
from ovseg.large.kept import KeptScores
from ovseg.large.labelling import Find, Labelling, for_windows, grid_of, objects_by, presence, window_answers
from ovseg.large.objects import objects_seen
from ovseg.large.result import LargeResult
from ovseg.large.scene import Scene, open_scene
from ovseg.large.whole import with_one_view
from ovseg.large.writing import Files, Objects, write_result
from ovseg.pipeline.objects import NO_OBJECTS, ObjectSearch, Quality
from ovseg.pipeline.queries import QueryBank
from ovseg.pipeline.segmenter import Segmenter
from ovseg.pipeline.wording import Labels
from ovseg.prefetch import chunks
from ovseg.progress import Advance, progress_bar
from ovseg.result.formats.base import TOLERANCE
from ovseg.result.formats.geo import PIXELS, Reference, reference_of
from ovseg.result.storage import check_count, check_name, check_place
from ovseg.vocabulary.labels import Background

SCALE = 0.5  # pixels of the network's input for each pixel of the picture
_SCALES = (0.125, 4.0)
_AT_ONCE = 4  # windows that an accelerator gets together
_VIEWED = 5  # windows a side, at most, that say what the picture is like as a whole


def segment_large(
    segmenter: Segmenter,
    path: str | Path,
    labels: Labels | None = None,
    *,
    out: str | Path,
    name: str = "",
    scale: float = SCALE,
    background: Background = "auto",
    refine: bool | None = None,
    min_score: float = 0,
    instances: bool | Sequence[str] = False,
    quality: Quality | None = None,
    outlines: bool = False,
    tolerance: float = TOLERANCE,
    value_range: Sequence[float] | None = None,
    bands: Sequence[int] | None = None,
    provenance: Mapping[str, Any] | None = None,
    show_progress: bool = False,
    tell: Callable[[str], None] = lambda sentence: None,
) -> LargeResult:
    """Which of ``labels`` each pixel of a picture of any size shows, written to files as it is found.

    The picture is read by windows that overlap. What the model says of a window counts the less the nearer its
    border is, and whether a label is there at all is decided by all windows together, so that there are no seams.
    Objects are found in each window as in a photo; ``joining.join`` says how those that several windows saw become
    one. Memory does not grow with the picture, but for the objects and outlines that it has. A run that was killed
    goes on after the windows that are done, if picture, model and settings are the same.

    Args:
        segmenter: of a model whose rules look at cells alone, such as ``mini``.
        path: a TIFF file, or another that GDAL reads.
        labels: see ``Segmenter.segment``.
        out: folder for ``NAME_labels.tif`` (GeoTIFF of positions in the labels, none of them where the picture has
            no data; its CRS and transform are those of the picture), ``NAME_overlay.png`` and ``NAME.json``; with
            ``instances`` also ``NAME_objects.tif``, 32-bit numbers of the objects, 0 for none.
        name: what the files begin with; empty takes that of the picture.
        scale: pixels of the network's input for each pixel of the picture, from 0.125 to 4: smaller sees larger
            things, and is faster.
        background: see ``Segmenter.segment``.
        refine: see ``Segmenter.segment``.
        min_score: pixels whose label has a lower score, in [0, 1], become none of the labels; objects with a lower
            score are dropped.
        instances: also find the objects of the labels that are things (True), or of these labels.
        quality: see ``Segmenter.segment``; objects do not correct the label map, whatever it is.
        outlines: also write ``NAME.geojson``, a feature for each object and for each connected part of the other
            labels, in longitude and latitude (WGS84) where the picture says how it lies on the earth.
        tolerance: pixels that an outline may be off.
        value_range: the values that are black and white; None asks the file, once for all windows.
        bands: which are red, green and blue, or the one that is grey, counted from 1; None asks the file.
        provenance: plain values to be added to those of the result.
        show_progress: whether a bar is shown on standard error.
        tell: called with a sentence about what was decided about the file.

    Raises:
        MissingDependencyError: rasterio is not installed (``pip install 'ovseg[geo]'``).
        ImageError: the picture cannot be read.
        ConfigError: the scale is out of range, the model's rules look at pictures as a whole, there is no such
            quality, or no objects are asked for.
        ModelError: weights are missing.
        VocabularyError: a label cannot be used, or none is a thing whose objects could be found.
        OutputError: the files cannot be written, or are those of another picture.
    """
    if not _SCALES[0] <= scale <= _SCALES[1]:
        raise ConfigError(f"scale must be from {_SCALES[0]:g} to {_SCALES[1]:g}, got {scale:g}")
    if quality is not None and not instances:
        raise ConfigError(
            f"quality says how objects are found, got {quality!r} and none asked for; give instances=True"
        )
    path, reading = Path(path), Reading.of(value_range, bands)
    queries = segmenter.queries(labels, background=background)
    check_count(queries.labels)
    search = ObjectSearch.of(queries.vocabulary, instances=instances, quality=quality) if instances else NO_OBJECTS
    files = Files.of(Path(out), check_name(name or path.stem), outlines=outlines, objects=search.wanted)
    with ExitStack() as stack:
        scene = stack.enter_context(open_scene(path, reading))
        grid = grid_of(segmenter, scene.size, scale=scale)
        asked = segmenter.identity(labels, background=background, refine=refine)
        made = {
            **segmenter.info,
            "source": str(path),
            "windows": {"pixels": grid.window * grid.cell, "overlap": grid.overlap * grid.cell, "cell": grid.cell},
            **({"read": scene.note} if scene.note else {}),
            **search.described,
            **(provenance or {}),
        }
        check_place(files.all, {"image": None, "provenance": made})
        for sentence in filter(None, [scene.note, _unplaced(scene) if outlines else ""]):
            tell(f"'{path}': {sentence}")
        settings: dict[str, Any] = {"asked": asked, "reading": reading.described(), **search.described}
        settings["image"] = FileMark.of(path).sha256
        shape = (queries.classes, grid.windows[0].height, grid.windows[0].width)
        settings["grid"] = str(grid)
        kept = stack.enter_context(KeptScores(files.kept, settings=settings, shape=shape))
        tell(f"'{path}' is read {_windows_of(grid)}")
        if len(kept):
            are = "is" if len(kept) == 1 else "are"
            tell(f"{len(kept)} of {len(grid.windows)} windows {are} done by an earlier run")
        bar = progress_bar(path.name, total=len(grid.windows) + len(grid.blocks), shown=show_progress)
        with bar as advance:
            if len(kept) < len(grid.windows):
                windows = with_one_view(for_windows(segmenter, grid), _views(scene, grid))
                find = objects_by(
                    segmenter, queries, grid, search, background=background is not None, refine=refine
                )
                _ask(windows, queries, find, scene, grid, kept, advance)
            labelling = Labelling(
                segmenter,
                scene,
                grid,
                kept,
                queries.labels,
                background is not None,
                segmenter.config.refine.default if refine is None else refine,
                min_score,
                presence(segmenter, grid, kept, queries.labels),
            )
            seen = (kept.objects(number) for number in range(len(grid.windows)))
            found = [each for each in join(seen, grid) if each.score >= min_score]
            objects = Objects(found, search.reported)
            result = write_result(files, labelling, queries.vocabulary.labels, objects, made, tolerance, advance)
        kept.remove()
    return result


def _windows_of(grid: Grid) -> str:
    side, shared = (length * grid.cell for length in (grid.window, grid.overlap))
    if len(grid.windows) == 1:
        return f"at once, as it is no larger than a window of {side} pixels"
    return f"by {len(grid.windows)} windows of {side} pixels, which share {shared} or more"


def _unplaced(scene: Scene) -> str:
    """Why outlines cannot be placed on the earth; empty where they can."""
    found = reference_of(scene.file)
    return "" if isinstance(found, Reference) else f"{found}: coordinates in GeoJSON are {PIXELS}"


def _views(scene: Scene, grid: Grid) -> Iterator[npt.NDArray[np.uint8]]:
    """The windows of the grid's views that have data."""
    for view in grid.views(_VIEWED):
        pixels, valid = scene.read(grid.pixels(view))
        if valid.any():
            yield pixels


def _ask(
    segmenter: Segmenter,
    queries: QueryBank,
    find: Find,
    scene: Scene,
    grid: Grid,
    kept: KeptScores,
    advance: Advance,
) -> None:
    """Keep what the model says of every window that is not done."""
    todo = [number for number in range(len(grid.windows)) if number not in kept]
    advance(len(grid.windows) - len(todo))
    # As with photos: a processor gains nothing from a batch.
    at_once = 1 if segmenter.device.type == "cpu" else _AT_ONCE
    for some in chunks(todo, at_once):
        read = [(number, *scene.read(grid.pixels(grid.windows[number]))) for number in some]
        shown = [(number, pixels, valid) for number, pixels, valid in read if valid.any()]
        pictures = [pixels for _, pixels, _ in shown]
        answers = window_answers(segmenter, queries, pictures, kept.shape[1:], find) if shown else []
        found = {number: (answer, valid) for (number, _, valid), answer in zip(shown, answers, strict=True)}
        for number in some:
            if number in found:
                (scores, segments), valid = found[number]
                place = grid.pixels(grid.windows[number])
                kept.add(number, scores, objects_seen(segments, place, valid, size=scene.size))
            else:
                kept.add(number, None)
            advance()
