"""PicoDet-S, a COCO detector, read as dense class evidence at strides 8, 16 and 32.

Source: Yu et al., PP-PicoDet, arXiv 2111.00902 (PaddleDetection, Apache-2.0). Boxes: ``detector.py``.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ovseg.encoders.embedded.blocks import ChannelGate, ConvAct
from ovseg.pooled import Pooled

NECK = 96
CLASSES = 80
_swish = partial(functional.hardswish, inplace=True)


class PicoDetMaps(NamedTuple):
    """What the detector sees at strides 8, 16 and 32.

    Attributes:
        features: per level, (B, 96, h, w).
        classes: per level, class probabilities (B, 80, h, w) in [0, 1].
        deepest: at stride 32, what enters the neck and what leaves it, each (B, 96, h, w): what a fourth level is
            made from.
    """

    features: tuple[Tensor, Tensor, Tensor]
    classes: tuple[Tensor, Tensor, Tensor]
    deepest: tuple[Tensor, Tensor]


def depthwise_pair(inputs: int, outputs: int, *, kernel: int = 5, stride: int = 1) -> nn.Sequential:
    """A convolution of each channel by itself, then one across channels."""
    return nn.Sequential(
        ConvAct(inputs, inputs, kernel=kernel, stride=stride, depthwise=True, activation=_swish),
        ConvAct(inputs, outputs, activation=_swish),
    )


class _Gated(nn.Module):
    """The two last stages of the backbone: depthwise convolution, channel gate, pointwise convolution."""

    def __init__(self, inputs: int, *, stride: int) -> None:
        super().__init__()
        self.depthwise = ConvAct(inputs, inputs, kernel=5, stride=stride, depthwise=True, activation=_swish)
        self.gate = ChannelGate(inputs, reduced=inputs // 4, gate=functional.hardsigmoid)
        self.widen = ConvAct(inputs, 384, activation=_swish)

    def forward(self, maps: Tensor) -> Tensor:
        return self.widen(self.gate(self.depthwise(maps)))  # type: ignore[no-any-return]


class ClassHead(nn.Module):
    """Class scores of one level: sqrt(sigmoid(class) · sigmoid(objectness))."""

    def __init__(self) -> None:
        super().__init__()
        self.towers = nn.Sequential(depthwise_pair(NECK, NECK), depthwise_pair(NECK, NECK))
        self.pooled = Pooled()
        self.gate = ConvAct(NECK, NECK, activation=torch.sigmoid)
        self.mix = ConvAct(NECK, NECK, activation=_swish)
        self.classes = nn.Conv2d(NECK, CLASSES, 1)
        self.object_near = ConvAct(NECK, 1, kernel=5, activation=_swish)
        self.object = ConvAct(1, 1, activation=torch.sigmoid)

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 96, h, w) of the neck to features (B, 96, h, w) and class probabilities (B, 80, h, w)."""
        shared = self.towers(maps)
        features = self.mix(shared * self.gate(self.pooled(shared)))
        objectness = self.object(self.object_near(shared))
        return features, (self.classes(features).sigmoid() * objectness).sqrt()


class PicoDet(nn.Module):
    """Backbone, path-aggregation neck and class heads of PicoDet-S (416 px, COCO's 80 things)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvAct(3, 16, kernel=3, stride=2, activation=_swish)
        self.stage3 = nn.Sequential(
            depthwise_pair(16, 24, kernel=3),
            depthwise_pair(24, 48, kernel=3, stride=2),
            depthwise_pair(48, 48, kernel=3),
            depthwise_pair(48, 96, kernel=3, stride=2),
            depthwise_pair(96, 96, kernel=3),
        )
        self.stage4 = nn.Sequential(
            depthwise_pair(96, 192, kernel=3, stride=2), *(depthwise_pair(192, 192) for _ in range(5))
        )
        self.stage5 = nn.Sequential(_Gated(192, stride=2), _Gated(384, stride=1))
        self.lateral = nn.ModuleList(ConvAct(size, NECK, activation=_swish) for size in (96, 192, 384))
        self.top_down = nn.ModuleList(self._fuse() for _ in range(2))
        self.down4 = depthwise_pair(NECK, NECK, stride=2)
        self.bottom_up4 = self._fuse()
        self.down5 = depthwise_pair(NECK, NECK, stride=2)
        self.bottom_up5 = self._fuse()
        self.heads = nn.ModuleList(ClassHead() for _ in range(3))

    @staticmethod
    def _fuse() -> nn.Sequential:
        return nn.Sequential(depthwise_pair(2 * NECK, 2 * NECK), depthwise_pair(2 * NECK, NECK))

    def forward(self, pixels: Tensor) -> PicoDetMaps:
        """Dense evidence of ``pixels`` (B, 3, H, W), ImageNet-normalised RGB; H and W multiples of 32."""
        stage3 = self.stage3(self.stem(pixels))
        stage4 = self.stage4(stage3)
        stage5 = self.stage5(stage4)
        side3, side4, side5 = (
            lateral(maps) for lateral, maps in zip(self.lateral, (stage3, stage4, stage5), strict=True)
        )
        inner4 = self.top_down[0](torch.cat([_double(side5), side4], 1))
        level3 = self.top_down[1](torch.cat([_double(inner4), side3], 1))
        level4 = self.bottom_up4(torch.cat([self.down4(level3), inner4], 1))
        level5 = self.bottom_up5(torch.cat([self.down5(level4), side5], 1))
        pairs = [head(maps) for head, maps in zip(self.heads, (level3, level4, level5), strict=True)]
        features, classes = zip(*pairs, strict=True)
        return PicoDetMaps(features, classes, (side5, level5))


def _double(maps: Tensor) -> Tensor:
    return functional.interpolate(maps, scale_factor=2.0, mode="nearest")
