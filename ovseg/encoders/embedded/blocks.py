"""Convolution blocks shared by the two embedded image networks; batch norms are folded into the weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ovseg.pooled import Pooled

Activation = Callable[[Tensor], Tensor]


class ConvAct(nn.Module):
    """A 2-D convolution with bias and "same" padding, then an activation.

    Args:
        inputs: input channels.
        outputs: output channels.
        kernel: odd side of the square kernel.
        stride: step in cells.
        dilation: spacing of the kernel's taps.
        depthwise: one filter per channel (``inputs == outputs``).
        activation: applied to the result, in place where it can; None for none.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        dilation: int = 1,
        depthwise: bool = False,
        activation: Activation | None = torch.relu_,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            inputs,
            outputs,
            kernel,
            stride=stride,
            padding=dilation * (kernel // 2),
            dilation=dilation,
            groups=inputs if depthwise else 1,
        )
        self.activation = activation

    def forward(self, maps: Tensor) -> Tensor:
        """(B, inputs, h, w) to (B, outputs, ceil(h/stride), ceil(w/stride))."""
        maps = self.conv(maps)
        return maps if self.activation is None else self.activation(maps)


class ChannelGate(nn.Module):
    """Squeeze and excitation: channels scaled by a function of their mean over the whole input.

    Source: Hu et al., Squeeze-and-Excitation Networks, CVPR 2018.
    """

    def __init__(self, channels: int, *, reduced: int, gate: Activation = torch.sigmoid) -> None:
        super().__init__()
        self.pooled = Pooled()
        self.squeeze = ConvAct(channels, reduced)
        self.excite = ConvAct(reduced, channels, activation=gate)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, h, w) to the same shape."""
        gate: Tensor = self.excite(self.squeeze(self.pooled(maps)))
        return maps * gate
