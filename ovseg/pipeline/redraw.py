"""The label map drawn anew by a SAM that is shown the connected parts of each class: the last step of Trident."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ovseg.images.resize import restore
from ovseg.models.sections import RedrawConfig
from ovseg.pipeline.encoded import EncodedImage
from ovseg.proposals.boxes import mask_box
from ovseg.result.segments import connected_parts
from ovseg.sam import PromptedSam, SamEmbedding, ask_sam
from ovseg.sam.protocol import of_image


@dataclass(frozen=True)
class Drawn:
    """What the masks of a SAM say about one class.

    Attributes:
        score: (H, W) SAM's probability times that of the class, of the best mask of a pixel; 0 outside every mask.
        likely: (H, W) probability of the class.
        failed: (H, W) bool, parts of the class for which SAM drew nothing that it is sure of.
    """

    score: Tensor
    likely: Tensor
    failed: Tensor


def redraw(
    index: Tensor, best: Tensor, probabilities: Tensor, encoded: EncodedImage, *, stride: float, rule: RedrawConfig
) -> tuple[Tensor, Tensor]:
    """The label map as a SAM draws it.

    A pixel inside masks takes the class of the highest score (``Drawn``), one outside keeps its class. So does one
    of a part that SAM was not sure of, where its own probability is higher than the score.

    Args:
        index: (H, W) int32 class at each pixel, −1 for none.
        best: (H, W) float32 probability of that class.
        probabilities: (K, h, w) of the classes on cells.
        encoded: the image.
        stride: pixels of the encoder's input per cell.
        rule: which parts are shown to which SAM.

    Returns:
        (H, W) int32 classes and (H, W) float32 their probabilities.

    Raises:
        ModelError: the weights of the SAM are missing.

    Source: Shi et al., Trident, ICCV 2025, section 3. On purpose: parts are cut from the whole map, not from one of
    half its size, and what is none of the classes is shown as no part.
    """
    network, embedding = ask_sam(encoded, rule.model)
    old, sure = index.cpu(), best.float().cpu()
    total, taken, likely = torch.zeros_like(sure), old.clone(), sure.clone()
    failed = torch.zeros_like(old, dtype=torch.bool)
    for number in sorted(set(torch.unique(old[sure >= rule.least]).tolist()) - {-1}):
        parts = list(_parts(((old == number) & (sure >= rule.least)).numpy(), smallest=rule.area))
        if not parts:
            continue
        of_class = restore(probabilities[number][None, None], encoded.geometry, stride=stride)[0, 0].cpu()
        drawn = _draw(parts, of_class, network, embedding, rule)
        better = drawn.score > total
        total = torch.where(better, drawn.score, total)
        taken = torch.where(better, torch.tensor(number, dtype=old.dtype), taken)
        likely = torch.where(better, drawn.likely, likely)
        failed |= drawn.failed
    kept = (total == 0) | (failed & (sure > total))
    return torch.where(kept, old, taken).to(index.device), torch.where(kept, sure, likely).to(best)


def _draw(
    parts: list[Tensor], likely: Tensor, network: PromptedSam, embedding: SamEmbedding, rule: RedrawConfig
) -> Drawn:
    """The masks that a SAM draws of (H, W) bool parts of a class, whose probabilities ``likely`` (H, W) are."""
    boxes, points = zip(*(_prompt(part, likely) for part in parts), strict=True)
    rough = None
    if network.reads_masks:
        framed = embedding.framed(likely[None])
        rough = torch.where(framed > rule.least, rule.hint * framed, 0.0).expand(len(parts), -1, -1)
    logits, quality = network.masks(embedding, boxes=torch.tensor(boxes), points=torch.tensor(points), rough=rough)
    valid = quality[:, 0] > rule.sure
    score = torch.zeros_like(likely)
    for mask in of_image(embedding, logits[valid, 0]):
        score = torch.maximum(score, torch.where(mask > 0, mask.sigmoid() * likely, 0.0))
    failed = torch.zeros_like(likely, dtype=torch.bool)
    for part, drawn in zip(parts, valid.tolist(), strict=True):
        if not drawn:
            failed |= part
    return Drawn(score, likely, failed)


def _parts(mask: npt.NDArray[np.bool_], *, smallest: int) -> Iterator[Tensor]:
    """(H, W) bool, the 8-connected parts of a mask that have at least ``smallest`` pixels."""
    parts, windows = connected_parts(mask)
    for number, (rows, columns) in enumerate(windows, start=1):
        inside = parts[rows, columns] == number
        if int(inside.sum()) >= smallest:
            whole = np.zeros(mask.shape, bool)
            whole[rows, columns] = inside
            yield torch.from_numpy(whole)


def _prompt(part: Tensor, likely: Tensor) -> tuple[list[float], list[float]]:
    """The box around a part (x0, y0, x1, y1), and the centre of its likeliest pixel (x, y)."""
    box = mask_box(part)
    assert box is not None  # a part has pixels
    down, across = divmod(int(likely.masked_fill(~part, -1).argmax()), part.shape[1])
    return list(map(float, box)), [across + 0.5, down + 0.5]
