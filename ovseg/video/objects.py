"""Objects that keep their numbers from frame to frame."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ovseg.images.resize import restore
from ovseg.pipeline.cells import cell_shares, with_padding
from ovseg.pipeline.encoded import EncodedImage
from ovseg.result.segments import Segment
from ovseg.video.options import VideoOptions

_INSIDE = 0.5  # share from which a pixel belongs to a carried object
_LEAST = 0.25  # and from which it does where the label map says that its label is there

Numbered = Mapping[int, Segment]


@dataclass(frozen=True)
class _Track:
    """What is known of an object besides where it is."""

    label: str
    score: float
    missed: int = 0  # key frames in a row


class Tracks:
    """Gives numbers to objects, from 1, and decides which object of a key frame is one that is known."""

    def __init__(self, options: VideoOptions) -> None:
        self.options = options
        self.known: dict[int, _Track] = {}
        self.last = 0

    def forget(self) -> None:
        """End all objects; their numbers are not given again."""
        self.known.clear()

    def state(self) -> str:
        """All of it as text."""
        return json.dumps(
            {"last": self.last, "known": {number: asdict(track) for number, track in self.known.items()}}
        )

    def restore(self, text: str) -> None:
        """Go on from what ``state`` gave.

        Raises:
            KeyError, ValueError: it is something else.
        """
        kept = json.loads(text)
        self.last = int(kept["last"])
        self.known = {int(number): _Track(**track) for number, track in kept["known"].items()}

    def seen(
        self, shares: Mapping[int, Tensor], index: Tensor, labels: Sequence[str], encoded: EncodedImage
    ) -> Numbered:
        """The carried objects at the pixels of a frame, those that have any.

        A pixel belongs to the object that has the largest share of it, if that is over one half, or over a quarter
        where the label map shows the object's label: its outlines follow the edges of the picture.

        Args:
            shares: (h, w) in [0, 1] of each object by its number.
            index: (H, W) int32, the label map.
            labels: of the label map.
            encoded: the frame.
        """
        shown = {number: share for number, share in shares.items() if number in self.known}
        best = torch.zeros(index.shape)
        owner = torch.zeros(index.shape, dtype=torch.int32)
        index = index.cpu()
        for number, share in shown.items():
            values = restore(share[None, None], encoded.geometry, stride=encoded.features.stride)[0, 0].cpu()
            inside = (values >= _INSIDE) | ((values >= _LEAST) & (index == labels.index(self.known[number].label)))
            first = inside & (values > best)
            best, owner = torch.where(first, values, best), owner.masked_fill(first, number)
        owners = owner.numpy()
        found: dict[int, Segment] = {}
        for number in shown:
            mask = owners == number
            if mask.any():
                track = self.known[number]
                found[number] = Segment.of_mask(mask, track.label, track.score, corner=(0, 0), size=mask.shape)
        return found

    def renew(self, carried: Numbered, found: Sequence[Segment]) -> Numbered:
        """The objects of a key frame by number: those found there, and those carried that it missed.

        An object that was found takes the number of the carried object of its label that it overlaps most, as the
        sum over all pairs is largest; others get new numbers. A carried object that is missed is kept as it was
        carried, until it is missed on more than ``options.patience`` key frames in a row.
        """
        pairs = _pairs(carried, found, least=self.options.overlap)
        now: dict[int, Segment] = {}
        for place, each in enumerate(found):
            number = pairs.get(place)
            if number is None:
                number = self.last = self.last + 1
            self.known[number] = _Track(each.label, each.score)
            now[number] = each
        for number, track in list(self.known.items()):
            if number in now:
                continue
            if number in carried and track.missed < self.options.patience:
                self.known[number] = replace(track, missed=track.missed + 1)
                now[number] = carried[number]
            else:
                del self.known[number]
        return now


def _pairs(carried: Numbered, found: Sequence[Segment], *, least: float) -> dict[int, int]:
    """By place of a found object, the number of the carried one that it is (Hungarian method)."""
    if not carried or not found:
        return {}
    from pycocotools import mask as masks
    from scipy.optimize import linear_sum_assignment

    numbers = list(carried)
    overlap = np.asarray(
        masks.iou([each.rle for each in found], [carried[number].rle for number in numbers], [0] * len(numbers))
    )
    alike = np.array([[each.label == carried[number].label for number in numbers] for each in found])
    overlap = np.where(alike & (overlap >= least), overlap, 0)
    rows, columns = linear_sum_assignment(-overlap)
    return {int(row): numbers[column] for row, column in zip(rows, columns, strict=True) if overlap[row, column]}


def shares_of(objects: Numbered, encoded: EncodedImage) -> dict[int, Tensor]:
    """(h, w) in [0, 1] of each object: how much of each cell it covers."""
    return {
        number: with_padding(cell_shares(torch.from_numpy(each.mask())[None].float(), encoded), encoded)[0].to(
            encoded.device
        )
        for number, each in objects.items()
    }
