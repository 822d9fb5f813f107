"""A SAM that is shown where labels likely are; its masks sharpen what words and pictures say."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ovseg.pipeline.cells import cell_shares, on_grid, with_padding
from ovseg.pipeline.encoded import EncodedImage
from ovseg.proposals.boxes import mask_box
from ovseg.sam import PromptedSam, SamEmbedding, ask_sam
from ovseg.tensors import check_shape

_MOST = 6  # masks of a label
_SURE = 6.0  # log odds beyond which a cell counts no more
_STEPS = 2  # of refinement
_REACH = 0.04  # of the longer side: so near to a prompt, no other is tried
_SAY = 3.0  # what a mask adds to the log odds inside, and takes outside


@torch.inference_mode()
def drawn_by_sam(odds: Tensor, encoded: EncodedImage, *, model: str, stride: float) -> Tensor:
    """What the masks of a SAM say of labels, as log odds to be added.

    A label's likeliest place, if it is likelier there than not, is a point on it, its least likely place one off.
    Of the three masks that SAM draws, the one with the largest sum of log odds inside is the best; its box is shown
    beside the points, twice at most, for as long as that sum grows. Then the likeliest place outside of all masks
    is asked, six times at most. Masks whose sum is not over 0 do not count.

    Args:
        odds: (M, h, w) log odds of M labels against all other classes.
        encoded: the image.
        model: a name of ``ovseg.sam.load_sam``.
        stride: pixels of the encoder's input per cell of ``odds``.

    Returns:
        (M, h, w) from −3 outside of all masks of a label to 3 inside; 0 for labels without.

    Raises:
        ModelError: the weights of the SAM are missing.

    Source: after PerSAM (Zhang et al., ICLR 2024), its points and refinement by box, and GF-SAM (NeurIPS 2024),
    whose masks of many points are kept if the map bears them out. On purpose: the map is that of the model, not of
    SAM's features; SAM's attention and prompt tokens are left alone; rough masks are not fed back, as not every SAM
    reads them.
    """
    check_shape("odds", odds, "M h w")
    network, embedding = ask_sam(encoded, model)
    side = embedding.geometry.padded[0] // 4
    rows, columns = embedding.inside(torch.empty(side, side)).shape
    shrunk = encoded.geometry.shrunk((rows, columns))
    fine = shrunk.sample(odds[None].float(), slice(0, rows), stride=stride)[0].cpu()
    drawn = torch.stack([_Label(network, embedding, each.clamp(-_SURE, _SURE)).drawn() for each in fine])
    shown = cell_shares(drawn.float(), encoded)
    said = _SAY * (2 * shown - 1) * drawn.any(2).any(1)[:, None, None]
    return on_grid(with_padding(said, encoded), (odds.shape[1], odds.shape[2])).to(odds)


def odds_of(logits: Tensor, rows: Tensor) -> Tensor:
    """(M, h, w): logarithm of the odds of classes ``rows`` (M,) against all others, of (K, h, w) logits."""
    logs = logits.log_softmax(0)[rows.to(logits.device)]
    return logs - torch.log1p(-logs.exp().clamp(max=1 - 1e-6))


@dataclass(frozen=True)
class _Label:
    """The log odds (a, b) of one label, on the pixels of a SAM's masks."""

    network: PromptedSam
    embedding: SamEmbedding
    odds: Tensor

    def drawn(self) -> Tensor:
        """(a, b) bool, inside any of its masks."""
        left, drawn = self.odds.clone(), torch.zeros_like(self.odds, dtype=torch.bool)
        reach = round(_REACH * max(left.shape))
        for _ in range(_MOST):
            down, across = divmod(int(left.argmax()), left.shape[1])
            if float(left[down, across]) <= 0:
                break
            mask, gain = self._mask_at(down, across)
            if gain > 0:
                drawn |= mask
                left[mask] = -torch.inf
            left[max(0, down - reach) : down + reach + 1, max(0, across - reach) : across + reach + 1] = -torch.inf
        return drawn

    def _mask_at(self, down: int, across: int) -> tuple[Tensor, float]:
        """The mask of a place, and the sum of log odds inside."""
        off = divmod(int(self.odds.argmin()), self.odds.shape[1])
        points = [[(x + 0.5, y + 0.5) for y, x in ((down, across), off)]]
        asked = partial(
            self.network.masks,
            self.embedding,
            points=torch.tensor(points) * self._pixels,
            point_labels=torch.tensor([[1, 0]]),
        )
        mask, gain = self._best(asked(multimask=True)[0])
        for _ in range(_STEPS):
            box = mask_box(mask)
            if box is None:
                break
            boxes = torch.tensor([box]).float() * self._pixels.repeat(2)
            again, more = self._best(asked(boxes=boxes)[0])
            if more <= gain:
                break
            mask, gain = again, more
        return mask, gain

    def _best(self, logits: Tensor) -> tuple[Tensor, float]:
        masks = self.embedding.inside(logits[0]) > 0
        gains = (masks * self.odds).sum((1, 2))
        best = int(gains.argmax())
        return masks[best], float(gains[best])

    @property
    def _pixels(self) -> Tensor:
        """(2,) pixels of the photo across and down that one of the map stands for."""
        sizes = zip(self.embedding.geometry.original, self.odds.shape, strict=True)
        return torch.tensor([whole / small for whole, small in sizes]).flip(0)
