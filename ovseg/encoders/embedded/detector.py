"""PicoDet-S as a detector: the boxes that go with the class evidence, from a fourth level and a box branch.

Source: Yu et al., PP-PicoDet, arXiv 2111.00902. A box is four distances, each the mean of a distribution over 0…7
strides: Li et al., Generalized Focal Loss, NeurIPS 2020, equations 3 to 5.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ovseg.encoders.embedded.picodet import NECK, ClassHead, PicoDetMaps, depthwise_pair

STRIDES = (8, 16, 32, 64)
_BINS = 8


class BoxBranch(nn.Module):
    """A fourth level at stride 64, and a box for each cell of all four levels."""

    def __init__(self) -> None:
        super().__init__()
        self.down_in = depthwise_pair(NECK, NECK, stride=2)
        self.down_out = depthwise_pair(NECK, NECK, stride=2)
        self.head = ClassHead()
        self.boxes = nn.ModuleList(nn.Conv2d(NECK, 4 * _BINS, 1) for _ in STRIDES)

    def forward(self, maps: PicoDetMaps) -> tuple[Tensor, Tensor]:
        """What ``PicoDet`` saw of one batch, to boxes.

        Returns:
            (B, n, 4) x0, y0, x1, y1 in pixels of the network's input, and (B, n, 80) class probabilities in [0, 1];
            n cells of all levels, the finest first, rows first.
        """
        entering, leaving = maps.deepest
        features, classes = self.head(self.down_in(entering) + self.down_out(leaving))
        levels = zip((*maps.features, features), self.boxes, STRIDES, strict=True)
        boxes = [_boxes(branch(level), stride) for level, branch, stride in levels]
        evidence = [level.flatten(2).transpose(1, 2) for level in (*maps.classes, classes)]
        return torch.cat(boxes, 1), torch.cat(evidence, 1)


def _boxes(maps: Tensor, stride: int) -> Tensor:
    """(B, 4 · bins, h, w) logits of distances, in strides, to (B, h · w, 4) boxes in pixels."""
    rows, columns = maps.shape[-2:]
    logits = maps.permute(0, 2, 3, 1).reshape(len(maps), rows * columns, 4, _BINS)
    distances = logits.softmax(-1) @ torch.arange(_BINS, dtype=maps.dtype, device=maps.device)
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    centres = torch.stack([x, y], -1).flatten(0, 1).to(maps) + 0.5
    return torch.cat([centres - distances[..., :2], centres + distances[..., 2:]], -1) * stride
