"""What a model says about windows, and labels for every pixel of a block of what many windows said together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ovseg.errors import ConfigError
from ovseg.images.geometry import ImageGeometry
from ovseg.images.tiles import Tile
from ovseg.large.grid import Grid, Scores
from ovseg.large.kept import KeptScores
from ovseg.large.scene import Scene
from ovseg.models.config import ModelConfig
from ovseg.models.sections import RefineConfig
from ovseg.pipeline.decide import presence_of, refined_winners, unsure, with_one_rival
from ovseg.pipeline.encoded import EncodedImage
from ovseg.pipeline.objects import ObjectSearch, wanted_objects
from ovseg.pipeline.queries import QueryBank
from ovseg.pipeline.segmenter import Segmenter
from ovseg.pipeline.upsample import find_winners
from ovseg.result import Segment

Find: TypeAlias = Callable[[EncodedImage], tuple[Segment, ...]]

_MARGIN = 4  # a block is decided with a quarter of its side around it, which reaches as far as refinement does


def grid_of(segmenter: Segmenter, size: tuple[int, int], *, scale: float) -> Grid:
    """The grid of a picture of this size (H, W); see ``Grid.of``."""
    photo, spec = segmenter.config.input, segmenter.model.image.spec
    sides = photo.short_side, photo.max_long_side
    return Grid.of(size, scale=scale, sides=sides, stride=spec.stride, granularity=spec.granularity)


def for_windows(segmenter: Segmenter, grid: Grid) -> Segmenter:
    """The model at the size that makes one cell of the grid of one of its own, without what differs by window.

    Sharing scores out over all cells that look alike (``smoothing``), and taking a label for absent that has no box
    in a window (``boxes``), make of one cell something else in every window that holds it.

    Raises:
        ConfigError: its rules look at the picture as a whole.
    """
    _check_rules(segmenter.config)
    return _at_its_size(segmenter, grid, smoothing=None, boxes=None)


def _at_its_size(segmenter: Segmenter, grid: Grid, **rules: None) -> Segmenter:
    """The model with other ``rules``, at the size that makes one cell of the grid of one of its own."""
    model = replace(segmenter.model, config=segmenter.config.model_copy(update=rules))
    ours = Segmenter(model, device=segmenter.device, benchmark=segmenter.benchmark, modifiers=segmenter.added)
    stride, window = segmenter.model.image.spec.stride, grid.windows[0]
    sides = sorted((window.height * stride, window.width * stride))
    return ours.with_input(short_side=sides[0], max_long_side=sides[1])


def _check_rules(config: ModelConfig) -> None:
    ruled = {
        "redraw": config.redraw is not None,
        "correction": config.correction is not None,
        "background.area": bool(config.background.area),
        "background.objectness": bool(config.background.objectness),
        "scoring.at: pixels": config.scoring.at == "pixels",
    }
    for name, there in ruled.items():
        if there:
            raise ConfigError(
                f"expected a model whose rules look at cells alone, but '{config.name}' has '{name}', which needs "
                "the picture as a whole; use another model for pictures that are read by windows, such as mini"
            )


@torch.inference_mode()
def window_answers(
    segmenter: Segmenter,
    queries: QueryBank,
    pictures: Sequence[npt.NDArray[np.uint8]],
    cells: tuple[int, int],
    find: Find,
) -> list[tuple[npt.NDArray[np.float16], tuple[Segment, ...]]]:
    """Of each window probabilities (K, h, w) float16 of the classes on its cells, and its objects.

    Args:
        segmenter: what ``for_windows`` gave.
        queries: of K classes.
        pictures: (H, W, 3) uint8, each a window.
        cells: (h, w) of a window.
        find: gives the objects; see ``objects_by``.
    """
    found = []
    for encoded in segmenter.encode_batch(pictures):
        logits = segmenter.logits(encoded, queries)
        maps = logits.probabilities(logits.values)[None]
        on_cells = encoded.geometry.shrunk(cells).sample(maps, slice(0, cells[0]), stride=logits.stride)
        found.append((on_cells[0].half().cpu().numpy(), find(encoded)))
    return found


def objects_by(
    segmenter: Segmenter,
    queries: QueryBank,
    grid: Grid,
    search: ObjectSearch,
    *,
    background: bool,
    refine: bool | None,
) -> Find:
    """A function that finds the objects of a window as if it were a photo, its boxes included.

    Scores are not shared out over cells that look alike: a window shows more of these, and of other things.

    Args:
        segmenter: the model, as it is for photos.
        queries: of the labels.
        grid: whose windows are shown.
        search: which objects; none are found where none are asked for.
        background, refine: see ``Segmenter.decide``.
    """
    ours = _at_its_size(segmenter, grid, smoothing=None)

    @torch.inference_mode()
    def find(encoded: EncodedImage) -> tuple[Segment, ...]:
        if not search.wanted:
            return ()
        logits = ours.logits(encoded, queries)
        decided = cache(partial(ours.decide, logits, encoded, background=background, refine=refine))
        return wanted_objects(ours.model, search, encoded, logits, decided) or ()

    return find


@dataclass(frozen=True)
class BlockLabels:
    """The labels of a block: (H, W) each.

    Attributes:
        index: int32, −1 for none of the labels.
        score: float32 in [0, 1], of the winner.
        image: (H, W, 3) uint8.
    """

    index: npt.NDArray[np.int32]
    score: npt.NDArray[np.float32]
    image: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Labelling:
    """Labels for every pixel by what all windows said; what is decided nowhere depends on where windows begin.

    Attributes:
        segmenter: the model.
        scene: the picture.
        grid: its cells and windows.
        kept: the scores of all windows.
        labels: number L of labels; further classes are none of them.
        background: whether a pixel may be none of the labels.
        refine: whether borders are pulled to edges of the picture.
        min_score: pixels with a lower score are none of the labels.
        presence: (L,) in [0, 1], of each label in the picture as a whole.
    """

    segmenter: Segmenter
    scene: Scene
    grid: Grid
    kept: KeptScores
    labels: int
    background: bool
    refine: bool
    min_score: float
    presence: npt.NDArray[np.float32]

    def block(self, number: int) -> BlockLabels | None:
        """The labels of one of the grid's blocks within the picture; None where it has no data."""
        grid, inner = self.grid, self.grid.blocks[number]
        outer = grid.around(inner, max(1, grid.block // _MARGIN))
        scores, weights = grid.joined(outer, self.kept.scores)
        place = grid.pixels(outer)
        image, valid = self.scene.read(place)
        own = self._own(inner, outer)
        if scores is None or not valid[own].any():
            return None
        index, best = self._decided(scores, image)
        reached = np.kron(weights > 0, np.ones((grid.cell, grid.cell), bool))
        index[~(valid & reached)] = -1
        best[index < 0] = 0
        return BlockLabels(index[own], best[own], image[own])

    def _own(self, inner: Tile, outer: Tile) -> tuple[slice, slice]:
        """Rows and columns of a block's own pixels in those around it, without what reaches past the picture."""
        inside, around = self.grid.pixels(inner), self.grid.pixels(outer)
        bottom = min(inside.top + inside.height, self.grid.size[0])
        right = min(inside.left + inside.width, self.grid.size[1])
        return (
            slice(inside.top - around.top, bottom - around.top),
            slice(inside.left - around.left, right - around.left),
        )

    @torch.inference_mode()
    def _decided(
        self, scores: Scores, image: npt.NDArray[np.uint8]
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        config = self.segmenter.config
        maps = torch.from_numpy(scores).to(self.segmenter.device)
        if self.background:
            absent = torch.from_numpy(self.presence < config.background.presence).to(maps.device)
            maps[: self.labels] = maps[: self.labels].masked_fill(absent[:, None, None], 0)
        maps = with_one_rival(maps, self.labels)
        size = (image.shape[0], image.shape[1])
        geometry, stride = ImageGeometry(size, size, size), self.grid.cell
        if self.refine:
            winners = refined_winners(image, maps, geometry, stride=stride, settings=self._refinement(size))
        else:
            winners = find_winners(maps, geometry, stride=stride)
        index = winners.index
        if self.background:
            index = torch.where(unsure(winners, config.background) | (index >= self.labels), -1, index)
        index = torch.where(winners.best < self.min_score, -1, index)
        return index.cpu().numpy(), winners.best.clamp(0, 1).cpu().numpy()

    def _refinement(self, size: tuple[int, int]) -> RefineConfig:
        """The model's own, with the picture shrunk as much as a photo of the size of a block would be."""
        settings = self.segmenter.config.refine
        photo = self.grid.block * self.grid.cell
        return settings.model_copy(update={"long_side": max(1, round(settings.long_side * max(size) / photo))})


def presence(segmenter: Segmenter, grid: Grid, kept: KeptScores, labels: int) -> npt.NDArray[np.float32]:
    """(L,) float32 presence of each label in the whole picture: by the best cell of all windows together."""
    best: Tensor = torch.zeros(labels)
    for block in grid.blocks:
        scores, _ = grid.joined(block, kept.scores)
        if scores is not None:
            best = torch.maximum(best, torch.from_numpy(scores[:labels]).flatten(1).amax(1))
    found: npt.NDArray[np.float32] = presence_of(best, segmenter.config.background).numpy()
    return found
