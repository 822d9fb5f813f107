"""Images as learning sees them: unit maps on one grid, and where text, a person or a mask say the concept is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ovseg.concepts.evidence import Features, feature_maps
from ovseg.concepts.options import LearnOptions
from ovseg.concepts.steer import Decision, Steering
from ovseg.errors import DatasetError, ImageError
from ovseg.pipeline.cells import cell_shares
from ovseg.pipeline.logits import class_logits
from ovseg.pipeline.places import Picture
from ovseg.regions.clusters import cluster_cells
from ovseg.vocabulary.labels import Concept

if TYPE_CHECKING:
    from ovseg.bank.bank import ImageBank
    from ovseg.pipeline.encoded import EncodedImage
    from ovseg.pipeline.segmenter import Segmenter


@dataclass(frozen=True)
class Seen:
    """Images on one grid: (k, C, h, w) unit maps, (k, h, w) probability by text and region, and their keys.

    The last ``given`` of them are pictures of the concept, whose probability is their mask.
    """

    maps: Tensor
    text: Tensor
    paths: tuple[str, ...]
    given: int = 0

    @property
    def retrieved(self) -> int:
        """How many are images of the bank; they come first."""
        return len(self.paths) - self.given


class Looker:
    """Encodes images of a bank, and pictures, for learning; what stands for the rest is encoded once."""

    def __init__(self, bank: ImageBank, segmenter: Segmenter, options: LearnOptions) -> None:
        self.bank, self.segmenter, self.options = bank, segmenter, options
        self._features: Features | None = None
        self._rest: dict[int, Tensor] = {}

    @property
    def features(self) -> Features:
        """Which maps are compared."""
        if self._features is None:
            chosen = self.options.features
            if chosen == "auto":
                has = self.segmenter.encode(np.zeros((64, 64, 3), np.uint8)).features.structure is not None
                chosen = "structure" if has else "joint"
            self._features = "structure" if chosen == "structure" else "joint"
        return self._features

    def see(self, rows: Sequence[int], concept: Concept, steering: Steering) -> Seen:
        """Encode images densely; those that cannot be read any more are passed over."""
        queries = self.segmenter.queries([concept], background="auto")
        maps, text, paths = [], [], []
        for row in rows:
            try:
                encoded = self.segmenter.encode(self.bank.image(row))
            except ImageError:
                continue
            # The plain text: modifiers, such as concepts learned before, must not judge what is being learned.
            logits = class_logits(
                self.segmenter.model.head, encoded.features, queries, smoothing=self.segmenter.config.smoothing
            ).values
            maps.append(self._on_grid(encoded))
            probability = _resized(encoded.unpadded(logits.softmax(0)[:1]), self.options.grid)[0].cpu()
            text.append(over_regions(probability, maps[-1], parts=self.options.parts))
            paths.append(self.bank.paths[row])
            self._steer(text[-1], maps[-1], steering, paths[-1])
        if len(maps) < 2:
            raise DatasetError(
                f"learning '{concept.label}' needs 2 images that can be read, got {len(maps)} of {len(rows)}; "
                "were they moved? Build the bank again"
            )
        return Seen(torch.stack(maps), torch.stack(text), tuple(paths))

    def _steer(self, text: Tensor, maps: Tensor, steering: Steering, path: str) -> None:
        """Make the probability certain, in place, around what was accepted or rejected in an image."""
        said = steering.places(path)
        for each in said:
            mark_alike(text, maps, each.cell(self.options.grid), float(each.verdict == "accepted"))
        self.strike(text, said)

    def strike(self, text: Tensor, said: Sequence[Decision]) -> None:
        """Make the cells that were rejected impossible, in place: they may be like one that was accepted."""
        for each in said:
            if each.verdict == "rejected":
                text[each.cell(self.options.grid)] = 0

    def with_pictures(self, seen: Seen, pictures: Sequence[Picture]) -> tuple[Seen, list[Tensor]]:
        """Pictures that show a concept beside the retrieved images, and the maps of those that do not."""
        maps, text, paths, negatives = list(seen.maps), list(seen.text), list(seen.paths), []
        for picture in pictures:
            pixels = picture.pixels
            if picture.kind == "none":
                rows, columns = picture.window((pixels.shape[0], pixels.shape[1]))
                (encoded,) = self.segmenter.encode_batch([np.ascontiguousarray(pixels[rows, columns])])
                negatives.append(self._on_grid(encoded))
                continue
            (encoded,) = self.segmenter.encode_batch([pixels])
            mask = picture.mask_in(encoded, sam=self.segmenter.config.objects.best.masks)
            share = _resized(cell_shares(torch.from_numpy(mask)[None].float(), encoded), self.options.grid)[0]
            maps.append(self._on_grid(encoded))
            # of a thing smaller than a cell, the cells that show most of it
            text.append((share >= min(0.5, float(share.max()))).float())
            paths.append(_name_of(picture))
        together = (torch.stack(maps), torch.stack(text), tuple(paths))
        return Seen(*together, given=len(paths) - len(seen.paths)), negatives

    def maps_of(self, rows: Sequence[int]) -> list[Tensor]:
        """(C, h, w) maps of those images of the bank that can be read."""
        for row in rows:
            if row not in self._rest:
                try:
                    self._rest[row] = self._on_grid(self.segmenter.encode(self.bank.image(row)))
                except ImageError:
                    continue
        return [self._rest[row] for row in rows if row in self._rest]

    def rows_of(self, paths: Sequence[str]) -> list[int]:
        """Rows of the images that the bank still has."""
        places = {path: row for row, path in enumerate(self.bank.paths)}
        return [places[path] for path in paths if path in places]

    def _on_grid(self, encoded: EncodedImage) -> Tensor:
        maps = encoded.unpadded(feature_maps(encoded.features, self.features))
        return functional.normalize(_resized(maps, self.options.grid), dim=0).cpu()


def over_regions(probability: Tensor, maps: Tensor, *, parts: int) -> Tensor:
    """Each cell's mean over the region that it lies in.

    Args:
        probability: (h, w).
        maps: (C, h, w) unit; cells that are alike make a region.
        parts: regions, at most.

    Returns:
        (h, w).
    """
    owner = cluster_cells(maps, count=parts)
    sums = torch.bincount(owner.flatten(), weights=probability.flatten().float())
    return (sums / torch.bincount(owner.flatten()))[owner]


def _name_of(picture: Picture) -> str:
    """What a picture that was given is called in the file: its path, so that it can be drawn, or what it is."""
    source = picture.source
    return str(Path(source).resolve()) if isinstance(source, str | os.PathLike) else picture.where


def mark_alike(text: Tensor, maps: Tensor, cell: tuple[int, int], value: float) -> None:
    """Set the probability (h, w) of the cells that are like one cell, in place.

    Alike is what has a cosine with it that is nearer to 1 than to the mean over the cells of the (C, h, w) unit
    maps: all of a thing, where clusters of cells would part it.
    """
    cosine = torch.einsum("c,chw->hw", maps[:, cell[0], cell[1]], maps)
    text[cosine >= (1 + cosine.mean()) / 2] = value


def _resized(maps: Tensor, side: int) -> Tensor:
    """(C, h, w) to (C, side, side): averaged when smaller, bilinear when larger."""
    return functional.interpolate(
        maps[None].float(), size=(side, side), mode="bilinear", align_corners=False, antialias=True
    )[0]
