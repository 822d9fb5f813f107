"""PicoDet-S as a detector: the boxes that go with the class evidence, from a fourth level and a box branch.

Source: Yu et al., PP-PicoDet, arXiv 2111.00902. A box is four distances, each the mean of a distribution over 0…7
strides: Li et al., Generalized Focal Loss, NeurIPS 2020, equations 3 to 5.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ovseg.encoders.embedded.picodet import NECK, ClassHead, PicoDet, PicoDetMaps, depthwise_pair
from ovseg.encoders.spec import EncoderSpec
from ovseg.images.resize import prepare, working_size
from ovseg.proposals.proposal import Proposals
from ovseg.weights import fill_module, freeze

STRIDES = (8, 16, 32, 64)
SHORT_SIDES = (416, 544)  # of the photo, in pixels; the network was trained at 416
_BINS = 8
_MULTIPLE = 32
_PREPROCESSING = EncoderSpec("picodet-s", "picodet-s", _MULTIPLE, NECK)


class BoxBranch(nn.Module):
    """A fourth level at stride 64, and a box for each cell of all four levels."""

    def __init__(self) -> None:
        super().__init__()
        self.down_in = depthwise_pair(NECK, NECK, stride=2)
        self.down_out = depthwise_pair(NECK, NECK, stride=2)
        self.head = ClassHead()
        self.boxes = nn.ModuleList(nn.Conv2d(NECK, 4 * _BINS, 1) for _ in STRIDES)

    @classmethod
    def load(cls, path: str | Path) -> BoxBranch:
        """The frozen branch with the weights of a safetensors file.

        Raises:
            ModelError: the file is missing, damaged or of another network.
        """
        branch = freeze(fill_module(cls(), path))
        return branch.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def forward(self, maps: PicoDetMaps) -> tuple[Tensor, Tensor]:
        """What ``PicoDet`` saw of one batch, to boxes.

        Returns:
            (B, n, 4) float32 x0, y0, x1, y1 in pixels of the network's input, and (B, n, 80) class probabilities in
            [0, 1]; n cells of all levels, the finest first, rows first.
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
    logits = maps.float().flatten(2).transpose(1, 2).reshape(maps.shape[0], -1, 4, _BINS)
    distances = logits.softmax(-1) @ torch.arange(_BINS, dtype=torch.float32, device=maps.device)
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    centres = torch.stack([x, y], -1).flatten(0, 1).to(distances) + 0.5
    return torch.cat([centres - distances[..., :2], centres + distances[..., 2:]], -1) * stride


class PicoDetector(nn.Module):
    """PicoDet with its boxes, on whole photos at two sizes: large objects are found best small, small ones large.

    Args:
        network: the frozen network, shared with the encoder.
        branch: its box branch.
    """

    def __init__(self, network: PicoDet, branch: BoxBranch) -> None:
        super().__init__()
        self.network, self.branch = network, branch

    @torch.inference_mode()
    def propose(self, image: npt.NDArray[np.uint8], *, closer: bool = True) -> Proposals:
        """See ``ovseg.proposals.proposal.Detector``; classes are COCO's 80 things."""
        found = [self._look(image, short_side) for short_side in (SHORT_SIDES if closer else SHORT_SIDES[:1])]
        return Proposals(*(torch.cat([getattr(each, name) for each in found]) for name in ("boxes", "classes")))

    def _look(self, image: npt.NDArray[np.uint8], short_side: int) -> Proposals:
        """What shows anything in the photo, brought to that size."""
        height, width = image.shape[:2]
        size = working_size((height, width), short_side=short_side, max_long_side=2 * short_side, stride=_MULTIPLE)
        weight = next(self.branch.parameters())
        pixels, _ = prepare(image, _PREPROCESSING, size=size)
        pixels = pixels.to(weight).contiguous(memory_format=torch.channels_last)
        boxes, classes = self.branch(self.network(pixels))
        return Proposals.placed(boxes[0], classes[0], seen=size, size=(height, width))
