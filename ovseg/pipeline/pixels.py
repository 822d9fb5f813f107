"""Labels decided pixel by pixel, from cosines that are enlarged first: the order of the papers' released code.

Softmax of enlarged values is not the enlarged softmax, so every row of logits must be computed at every pixel. That
is done for a band of the image's rows at a time, so that memory does not grow with the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from ovseg.images.geometry import Geometry, Size
from ovseg.images.resize import Plain, prepare
from ovseg.pipeline.logits import ClassLogits
from ovseg.pipeline.upsample import Winners, row_bands

_BAND_VALUES = 60_000_000  # logits of a band with its margins, 240 MB in float32
_AT_ONCE = 16  # rows of logits that are refined together


@dataclass(frozen=True)
class BandRefinement:
    """Refinement of maps (1, R, H, W) on an image (1, 3, H, W), of a band of the image at a time.

    Attributes:
        image: (1, 3, H, W) float, what the maps are refined on.
        refine: from image and maps to refined maps, each by itself.
        reach: pixels from which a pixel takes values; a band is refined with so many rows above and below it.
    """

    image: Tensor
    refine: Callable[[Tensor, Tensor], Tensor]
    reach: int


def decide_pixels(
    logits: ClassLogits,
    geometry: Geometry,
    *,
    refinement: BandRefinement | None = None,
    dropped: Tensor | None = None,
    most: int | None = None,
) -> Winners:
    """The two most probable classes of every pixel; of equals, what is none of the labels, then the first label.

    Args:
        logits: on cells; enlarged, refined, and then made probabilities (``ClassLogits.probabilities``).
        geometry: how the cells lie on the image.
        refinement: of the enlarged logits; None for none.
        dropped: (K,) bool, classes whose probability is 0 everywhere.
        most: values of a band, if fewer than by default.
    """
    classes, labels = logits.queries.classes, logits.labels
    # In released code the background is class 0. Its phrases and a label may be one word, and so equals.
    order = torch.cat([torch.arange(labels, classes), torch.arange(labels)]).to(logits.values.device)
    bands = []
    for _, probabilities in _bands(logits, geometry, refinement, most):
        if dropped is not None:
            probabilities[dropped] = 0
        ordered = probabilities[order]
        first = ordered.argmax(0)
        best = ordered.gather(0, first[None])[0]
        second = ordered.scatter_(0, first[None], 0).amax(0)
        bands.append((order[first].to(torch.int32), best, second))
    return Winners(*(torch.cat(part) for part in zip(*bands, strict=True)))


def label_scores(
    logits: ClassLogits, geometry: Geometry, *, refinement: BandRefinement | None = None, most: int | None = None
) -> npt.NDArray[np.float16]:
    """(L, H, W) probability of every label at every pixel; ``most`` as of ``decide_pixels``."""
    bands = _bands(logits, geometry, refinement, most)
    return _gathered(((rows, part[: logits.labels]) for rows, part in bands), logits.labels, geometry)


def enlarged(
    maps: Tensor, geometry: Geometry, *, stride: float, most: int | None = None
) -> npt.NDArray[np.float16]:
    """Maps (L, h, w) of cells at the pixels of the image, (L, H, W); ``most`` as of ``decide_pixels``."""
    rows = _rows(geometry, len(maps), most)
    bands = ((some, geometry.sample(maps[None], some, stride=stride)[0]) for some in rows)
    return _gathered(bands, len(maps), geometry)


def _gathered(bands: Iterable[tuple[slice, Tensor]], count: int, geometry: Geometry) -> npt.NDArray[np.float16]:
    """(count, H, W) from bands (count, rows, W), each let go of once it is copied."""
    whole = np.empty((count, *geometry.original), np.float16)
    for rows, part in bands:
        whole[:, rows] = part.half().cpu().numpy()
    return whole


def _rows(geometry: Geometry, count: int, most: int | None) -> Iterator[slice]:
    """Bands of the image, from the top down, whose ``count`` maps have a bounded number of values."""
    height, width = geometry.original
    return row_bands(slice(0, height), count * width, most=min(most or _BAND_VALUES, _BAND_VALUES))


def _bands(
    logits: ClassLogits, geometry: Geometry, refinement: BandRefinement | None, most: int | None
) -> Iterator[tuple[slice, Tensor]]:
    """Bands of the image and (K, rows, W) their probabilities."""
    for rows in _rows(geometry, len(logits.values), most):
        if refinement is None:
            maps = geometry.sample(logits.values[None], rows, stride=logits.stride)[0]
        else:
            maps = _refined(logits, geometry, refinement, rows)
        yield rows, logits.probabilities(maps)


def _refined(logits: ClassLogits, geometry: Geometry, refinement: BandRefinement, rows: slice) -> Tensor:
    """(R, rows, W) refined logits: what is further away than the reach cannot change them."""
    wider = slice(max(0, rows.start - refinement.reach), min(geometry.original[0], rows.stop + refinement.reach))
    inner = slice(rows.start - wider.start, rows.stop - wider.start)
    image = refinement.image[:, :, wider]
    done = []
    for some in torch.split(logits.values, _AT_ONCE):
        maps = geometry.sample(some[None], wider, stride=logits.stride)
        done.append(refinement.refine(image, maps)[0, :, inner])
    return torch.cat(done)


def network_image(image: npt.NDArray[np.uint8], size: Size, *, interpolation: str) -> Tensor:
    """The image as resized for the network, brought back to its own size: what released code refines on.

    Args:
        image: (H, W, 3) uint8.
        size: (h, w) that the network saw.
        interpolation: how it was resized.

    Returns:
        (1, 3, H, W) float32 in [0, 1].
    """
    pixels, _ = prepare(image, Plain(interpolation), size=size)
    return functional.interpolate(pixels, size=image.shape[:2], mode="bilinear", align_corners=False)
