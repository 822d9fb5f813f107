"""The files of a picture that was read by windows, written block by block."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ovseg.files import atomic_paths, to_json
from ovseg.images.tiles import Tile
from ovseg.large.labelling import BlockLabels, Labelling
from ovseg.large.objects import Painter, SceneObject
from ovseg.large.outlines import window_of, write_outlines
from ovseg.large.overview import Overview
from ovseg.large.result import LargeResult, counted
from ovseg.large.scene import Scene
from ovseg.progress import Advance
from ovseg.result import LabelSummary
from ovseg.result.formats.geo import Reference, open_index, open_tiff, reference_of
from ovseg.result.storage import index_values

_TILE = 256  # pixels a side of the pieces in which the GeoTIFFs are stored
_FAST = 1  # of zlib


class Objects(NamedTuple):
    """The objects, the surest first, and the labels of which they were looked for."""

    found: list[SceneObject]
    things: tuple[str, ...]

    @property
    def instances(self) -> tuple[SceneObject, ...] | None:
        """None where none were looked for."""
        return tuple(self.found) if self.things else None


@dataclass(frozen=True)
class Files:
    """The files of a result, and the folder of what is kept until it is whole."""

    index: Path
    overlay: Path
    outlines: Path | None
    objects: Path | None
    record: Path
    kept: Path

    @classmethod
    def of(cls, out: Path, name: str, *, outlines: bool, objects: bool) -> Files:
        """The files that begin with ``name`` in a folder, with or without those of outlines and objects."""
        return cls(
            out / f"{name}_labels.tif",
            out / f"{name}_overlay.png",
            out / f"{name}.geojson" if outlines else None,
            out / f"{name}_objects.tif" if objects else None,
            out / f"{name}.json",
            out / f"{name}_windows",
        )

    @property
    def all(self) -> list[Path]:
        """All of a whole result, the record last."""
        every = (self.index, self.overlay, self.outlines, self.objects, self.record)
        return [each for each in every if each is not None]


def write_result(
    files: Files,
    labelling: Labelling,
    labels: Sequence[str],
    objects: Objects,
    made: dict[str, Any],
    tolerance: float,
    advance: Advance,
) -> LargeResult:
    """All files of the result, whole or not at all."""
    scene, sums = labelling.scene, _Sums(len(labels))
    overview = Overview(scene.size)
    with atomic_paths(files.all) as temporaries:
        paths = dict(zip(files.all, temporaries, strict=True))
        with ExitStack() as stack:
            writers = _Writers.opened(stack, files, paths, labels, scene)
            painter = Painter(objects.found, side=labelling.grid.block * labelling.grid.cell)
            for number, block in enumerate(labelling.grid.blocks):
                place = _inside(labelling.grid.pixels(block), scene.size)
                found, numbers = labelling.block(number), painter.painted(place)
                if found is not None:
                    overview.add(place, found, numbers)
                    sums.add(found)
                writers.write(place, None if found is None else found.index, numbers)
                advance()
        overview.overlay(labels, objects.instances).save(paths[files.overlay], compress_level=_FAST)
        if files.outlines is not None:
            located = reference_of(scene.file)
            with open(paths[files.outlines], "w", encoding="utf-8", errors="backslashreplace") as stream:
                write_outlines(
                    stream,
                    paths[files.index],
                    labels,
                    reference=located if isinstance(located, Reference) else None,
                    tolerance=tolerance,
                    objects=objects.found,
                    things=objects.things,
                    scratch=files.kept,
                )
        rows = sums.rows(labels, labelling.presence, scene.size)
        result = LargeResult(
            scene.size,
            counted(rows, objects.things, objects.instances),
            files.index,
            files.overlay,
            files.record,
            files.outlines,
            json.loads(json.dumps(made)),
            objects.instances,
            objects.things,
            files.objects,
        )
        paths[files.record].write_text(to_json(result.describe()), "utf-8", "backslashreplace")
    return result


@dataclass(frozen=True)
class _Writers:
    """The open GeoTIFFs of labels and, where they were looked for, of objects."""

    index: Any
    objects: Any | None
    labels: int

    @classmethod
    def opened(
        cls, stack: ExitStack, files: Files, paths: Mapping[Path, Path], labels: Sequence[str], scene: Scene
    ) -> _Writers:
        """Files at ``paths``, which say how they lie on the earth as the picture does."""
        where = {"crs": scene.file.crs, "transform": scene.file.transform}
        stored = {"tiled": True, "blockxsize": _TILE, "blockysize": _TILE, "bigtiff": "if_safer"} | where
        index = stack.enter_context(open_index(paths[files.index], labels, size=scene.size, **stored))
        if files.objects is None:
            return cls(index, None, len(labels))
        opened = open_tiff(paths[files.objects], size=scene.size, dtype=np.uint32, nodata=0, **stored)
        objects = stack.enter_context(opened)
        objects.set_band_description(1, "object")
        return cls(index, objects, len(labels))

    def write(self, place: Tile, index: npt.NDArray[np.int32] | None, numbers: npt.NDArray[np.int32]) -> None:
        """A block: (H, W) positions in the labels, −1 for none, or None where it has no data; and of objects."""
        found = np.full((place.height, place.width), -1, np.int32) if index is None else index
        self.index.write(index_values(found, labels=self.labels)[0], 1, window=window_of(place))
        if self.objects is not None:
            self.objects.write(numbers.astype(np.uint32), 1, window=window_of(place))


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
    ) -> list[LabelSummary]:
        """The table of the whole picture."""
        areas = self._pixels[1:] / (size[0] * size[1])
        means = np.clip(self._scores[1:] / np.maximum(self._pixels[1:], 1), 0, 1)
        columns = (each.tolist() for each in (areas, means, presence))
        return [LabelSummary(*row) for row in zip(labels, *columns, strict=True)]


def _inside(place: Tile, size: tuple[int, int]) -> Tile:
    """The part of a tile of pixels that lies in the picture."""
    return Tile(
        place.top, place.left, min(place.height, size[0] - place.top), min(place.width, size[1] - place.left)
    )
