"""PP-LCNetV2-base, an ImageNet classifier, as a dense encoder at stride 16.

Source: Cui et al., PP-LCNet, arXiv 2109.15099, and its second version in PaddleClas (Apache-2.0). Run
densely: the last stride is 1 and the convolution after it is dilated by 2, so that the body keeps stride 16.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from ovseg.encoders.embedded.blocks import ChannelGate, ConvAct

_FINE = ((32, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1))  # inputs, outputs, stride
_CLASSIFIER_SCALE = 0.8  # the released network scales instead of dropping out


class LCNetMaps(NamedTuple):
    """What one forward pass yields; all (B, C, h, w) at the stride named."""

    fine: Tensor  # C=256, stride 8
    middle: Tensor  # C=512, stride 16
    body: Tensor  # C=1024, stride 16


class _Middle(nn.Module):
    """5×5 depthwise convolution, channel gate, and two pointwise convolutions through 256 channels."""

    def __init__(self, inputs: int, *, stride: int) -> None:
        super().__init__()
        self.depthwise = ConvAct(inputs, inputs, kernel=5, stride=stride, depthwise=True)
        self.gate = ChannelGate(inputs, reduced=inputs // 4)
        self.narrow = ConvAct(inputs, 256)
        self.widen = ConvAct(256, 512)

    def forward(self, maps: Tensor) -> Tensor:
        return self.widen(self.narrow(self.gate(self.depthwise(maps))))  # type: ignore[no-any-return]


class LCNetV2(nn.Module):
    """PP-LCNetV2-base. ``forward`` gives dense maps; ``classify`` gives ImageNet logits of pooled maps."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvAct(3, 32, kernel=3, stride=2)
        fine: list[nn.Module] = []
        for inputs, outputs, stride in _FINE:
            fine.append(ConvAct(inputs, inputs, kernel=3, stride=stride, depthwise=True))
            fine.append(ConvAct(inputs, outputs))
        self.fine = nn.Sequential(*fine)
        self.middle = nn.Sequential(_Middle(256, stride=2), *(_Middle(512, stride=1) for _ in range(5)))
        self.enter = nn.Sequential(ConvAct(512, 512, kernel=5, depthwise=True), ConvAct(512, 1024))
        self.body = nn.Sequential(ConvAct(1024, 1024, kernel=5, dilation=2, depthwise=True), ConvAct(1024, 1024))
        self.penultimate = ConvAct(1024, 1280)
        self.classifier = nn.Linear(1280, 1000)

    def forward(self, pixels: Tensor) -> LCNetMaps:
        """Dense maps of ``pixels`` (B, 3, H, W), ImageNet-normalised RGB; H and W multiples of 16."""
        fine = self.fine(self.stem(pixels))
        middle = self.middle(fine)
        entered = self.enter(middle)
        return LCNetMaps(fine, middle, entered + self.body(entered))

    def embed(self, body: Tensor) -> Tensor:
        """(B, 1024, h, w) body maps to (B, 1280, h, w), the inputs of the classifier."""
        return self.penultimate(body) * _CLASSIFIER_SCALE  # type: ignore[no-any-return]

    def classify(self, body: Tensor) -> Tensor:
        """ImageNet logits (B, 1000) of body maps (B, 1024, h, w)."""
        pooled = functional.adaptive_avg_pool2d(body, 1)
        return self.classifier(self.embed(pooled).flatten(1))  # type: ignore[no-any-return]

    def set_dense(self, dense: bool) -> LCNetV2:
        """Choose stride 16 (dense, the default) or the original stride 32; the weights are the same."""
        enter, body = self.enter[0], self.body[0]
        assert isinstance(enter, ConvAct) and isinstance(body, ConvAct)
        enter.conv.stride = (1, 1) if dense else (2, 2)
        body.conv.dilation = (2, 2) if dense else (1, 1)
        body.conv.padding = (4, 4) if dense else (2, 2)
        return self
