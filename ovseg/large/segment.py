"""Segmenting a picture that is too large to be decoded at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ovseg.errors import ConfigError
from ovseg.files import atomic_paths, to_json
from ovseg.identity import FileMark
from ovseg.images.reading import Reading
from ovseg.images.tiles import Tile
from ovseg.large.grid import Grid
from ovseg.large.kept import KeptScores
from ovseg.large.labelling import BlockLabels, Labelling, for_windows, grid_of, presence, window_scores
from ovseg.large.outlines import write_outlines
from ovseg.large.overview import Overview
from ovseg.large.result import LargeResult
from ovseg.large.scene import Scene, open_scene
from ovseg.large.whole import with_one_view
from ovseg.pipeline.queries import QueryBank
from ovseg.pipeline.segmenter import Labels, Segmenter
from ovseg.prefetch import chunks
from ovseg.progress import Advance, progress_bar
from ovseg.result import LabelSummary
from ovseg.result.formats.base import TOLERANCE
from ovseg.result.formats.geo import PIXELS, Reference, open_index, reference_of
from ovseg.result.storage import check_count, check_name, check_place, index_values
from ovseg.vocabulary.labels import Background

SCALE = 0.5  # pixels of the network's input for each pixel of the picture
_SCALES = (0.125, 4.0)
_AT_ONCE = 4  # windows that an accelerator gets together
_TILE = 256  # pixels a side of the pieces in which the GeoTIFF is stored
_FAST = 1  # of zlib
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
    Memory does not grow with the picture, but for what outlines and the overview need. A run that was killed goes
    on after the windows that are done, if picture, model and settings are the same.

    Args:
        segmenter: of a model whose rules look at cells alone, such as ``mini``.
        path: a TIFF file, or another that GDAL reads.
        labels: see ``Segmenter.segment``.
        out: folder for ``NAME_labels.tif`` (GeoTIFF of positions in the labels, none of them where the picture has
            no data; its CRS and transform are those of the picture), ``NAME_overlay.png`` and ``NAME.json``.
        name: what the files begin with; empty takes that of the picture.
        scale: pixels of the network's input for each pixel of the picture, from 0.125 to 4: smaller sees larger
            things, and is faster.
        background: see ``Segmenter.segment``.
        refine: see ``Segmenter.segment``.
        min_score: pixels whose label has a lower score, in [0, 1], become none of the labels.
        outlines: also write ``NAME.geojson``, a feature for each connected part of a label, in longitude and
            latitude (WGS84) where the picture says how it lies on the earth.
        tolerance: pixels that an outline may be off.
        value_range: the values that are black and white; None asks the file, once for all windows.
        bands: which are red, green and blue, or the one that is grey, counted from 1; None asks the file.
        provenance: plain values to be added to those of the result.
        show_progress: whether a bar is shown on standard error.
        tell: called with a sentence about what was decided about the file.

    Raises:
        MissingDependencyError: rasterio is not installed (``pip install 'ovseg[geo]'``).
        ImageError: the picture cannot be read.
        ConfigError: the scale is out of range, or the model's rules look at pictures as a whole.
        VocabularyError: a label cannot be used.
        OutputError: the files cannot be written, or are those of another picture.
    """
    if not _SCALES[0] <= scale <= _SCALES[1]:
        raise ConfigError(f"scale must be from {_SCALES[0]:g} to {_SCALES[1]:g}, got {scale:g}")
    path, files = Path(path), _Files.of(Path(out), check_name(name or Path(path).stem), outlines=outlines)
    reading = Reading.of(value_range, bands)
    queries = segmenter.queries(labels, background=background)
    check_count(queries.labels)
    with ExitStack() as stack:
        scene = stack.enter_context(open_scene(path, reading))
        grid = grid_of(segmenter, scene.size, scale=scale)
        asked = segmenter.identity(labels, background=background, refine=refine)
        made = {
            **segmenter.info,
            "source": str(path),
            "windows": {"pixels": grid.window * grid.cell, "overlap": grid.overlap * grid.cell, "cell": grid.cell},
            **({"read": scene.note} if scene.note else {}),
            **(provenance or {}),
        }
        check_place(files.all, {"image": None, "provenance": made})
        for sentence in filter(None, [scene.note, _unplaced(scene) if outlines else ""]):
            tell(f"'{path}': {sentence}")
        settings = {"asked": asked, "reading": reading.described(), "image": FileMark.of(path).sha256}
        shape = (queries.classes, grid.windows[0].height, grid.windows[0].width)
        settings["grid"] = str(grid)
        kept = stack.enter_context(KeptScores(files.kept, settings=settings, shape=shape))
        side, shared = (length * grid.cell for length in (grid.window, grid.overlap))
        tell(f"'{path}' is read by {len(grid.windows)} windows of {side} pixels, which share {shared} or more")
        if len(kept):
            tell(f"{len(kept)} of {len(grid.windows)} windows are done by an earlier run")
        bar = progress_bar(path.name, total=len(grid.windows) + len(grid.blocks), shown=show_progress)
        with bar as advance:
            if len(kept) < len(grid.windows):
                windows = with_one_view(for_windows(segmenter, grid), _views(scene, grid))
                _ask(windows, queries, scene, grid, kept, advance)
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
            result = _write(files, labelling, queries.vocabulary.labels, made, tolerance, advance)
        kept.remove()
    return result


@dataclass(frozen=True)
class _Files:
    """The files of a result, and the folder of what is kept until it is whole."""

    index: Path
    overlay: Path
    outlines: Path | None
    record: Path
    kept: Path

    @classmethod
    def of(cls, out: Path, name: str, *, outlines: bool) -> _Files:
        index, overlay, found, record = (
            out / f"{name}{ending}" for ending in ("_labels.tif", "_overlay.png", ".geojson", ".json")
        )
        return cls(index, overlay, found if outlines else None, record, out / f"{name}_windows")

    @property
    def all(self) -> list[Path]:
        """All of a whole result, the record last."""
        return [each for each in (self.index, self.overlay, self.outlines, self.record) if each is not None]


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
    segmenter: Segmenter, queries: QueryBank, scene: Scene, grid: Grid, kept: KeptScores, advance: Advance
) -> None:
    """Keep what the model says of every window that is not done."""
    todo = [number for number in range(len(grid.windows)) if number not in kept]
    advance(len(grid.windows) - len(todo))
    # As with photos: a processor gains nothing from a batch.
    at_once = 1 if segmenter.device.type == "cpu" else _AT_ONCE
    for some in chunks(todo, at_once):
        read = [(number, *scene.read(grid.pixels(grid.windows[number]))) for number in some]
        shown = {number: pixels for number, pixels, valid in read if valid.any()}
        found = window_scores(segmenter, queries, list(shown.values()), kept.shape[1:]) if shown else []
        scores = dict(zip(shown, found, strict=True))
        for number in some:
            kept.add(number, scores.get(number))
            advance()


def _write(
    files: _Files,
    labelling: Labelling,
    labels: Sequence[str],
    made: dict[str, Any],
    tolerance: float,
    advance: Advance,
) -> LargeResult:
    """All files of the result, whole or not at all."""
    scene, sums = labelling.scene, _Sums(len(labels))
    overview = Overview(scene.size)
    with atomic_paths(files.all) as temporaries:
        index, overlay, *between, record = temporaries
        where = {"crs": scene.file.crs, "transform": scene.file.transform}
        stored = {"tiled": True, "blockxsize": _TILE, "blockysize": _TILE, "bigtiff": "if_safer"}
        with open_index(index, labels, size=scene.size, **where, **stored) as file:
            for number, block in enumerate(labelling.grid.blocks):
                place = _inside(labelling.grid.pixels(block), scene.size)
                found = labelling.block(number)
                if found is not None:
                    overview.add(place, found)
                    sums.add(found)
                index_map = np.full((place.height, place.width), -1, np.int32) if found is None else found.index
                file.write(index_values(index_map, labels=len(labels))[0], 1, window=_window(place))
                advance()
        overview.overlay(labels).save(overlay, compress_level=_FAST)
        for path in between:
            located = reference_of(scene.file)
            placed = located if isinstance(located, Reference) else None
            with open(path, "w", encoding="utf-8", errors="backslashreplace") as stream:
                write_outlines(stream, index, labels, reference=placed, tolerance=tolerance)
        rows = sums.rows(labels, labelling.presence, scene.size)
        result = LargeResult(
            scene.size, rows, files.index, files.overlay, files.record, files.outlines, json.loads(json.dumps(made))
        )
        record.write_text(to_json(result.describe()), "utf-8", "backslashreplace")
    return result


class _Sums:
    """Pixels and scores of each label, added up over blocks."""

    def __init__(self, labels: int) -> None:
        self._pixels = np.zeros(labels + 1)
        self._scores = np.zeros(labels + 1)

    def add(self, block: BlockLabels) -> None:
        """Count the labels of a block."""
        slots = (block.index + 1).ravel()  # 0 is none
        self._pixels += np.bincount(slots, minlength=len(self._pixels))
        self._scores += np.bincount(slots, weights=block.score.ravel(), minlength=len(self._pixels))

    def rows(
        self, labels: Sequence[str], presence: npt.NDArray[np.float32], size: tuple[int, int]
    ) -> tuple[LabelSummary, ...]:
        """The table of the whole picture."""
        areas = self._pixels[1:] / (size[0] * size[1])
        means = np.clip(self._scores[1:] / np.maximum(self._pixels[1:], 1), 0, 1)
        columns = (each.tolist() for each in (areas, means, presence))
        return tuple(LabelSummary(*row) for row in zip(labels, *columns, strict=True))


def _inside(place: Tile, size: tuple[int, int]) -> Tile:
    """The part of a tile of pixels that lies in the picture."""
    return Tile(
        place.top, place.left, min(place.height, size[0] - place.top), min(place.width, size[1] - place.left)
    )


def _window(place: Tile) -> Any:
    from rasterio.windows import Window

    return Window(place.left, place.top, place.width, place.height)
