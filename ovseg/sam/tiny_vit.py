"""The image encoder of MobileSAM: TinyViT-5M with a neck, channels last, batch norms folded into the weights.

It computes what ``timm.models.tiny_vit`` computes (the test compares them), without importing timm: timm brings
torchvision and torch's compiler with it, 2.3 s before the first picture.

Source: Wu et al., TinyViT, ECCV 2022; Zhang et al., Faster Segment Anything (MobileSAM), 2023.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

CHANNELS = 256  # of the embedding
STRIP = 32  # rows of a bottleneck that are computed together
CELLS = 2048  # cells of a perceptron that are computed together


class Convolution(nn.Conv2d):
    """A convolution with bias that keeps the size, or halves it with ``stride`` 2."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, depthwise: bool = False, bias: bool = True
    ) -> None:
        groups = inputs if depthwise else 1
        super().__init__(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=bias)


class Bottleneck(nn.Module):
    """A wider, depthwise convolution between two of one cell, added to what came in.

    It goes by strips of rows: the wide maps of a whole frame (67 MB each) fit no cache, and take a third longer.
    """

    def __init__(self, channels: int, *, wider: int = 4) -> None:
        super().__init__()
        self.conv1 = Convolution(channels, wider * channels, 1)
        self.conv2 = Convolution(wider * channels, wider * channels, 3, depthwise=True)
        self.conv3 = Convolution(wider * channels, channels, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, h, w) to the same shape."""
        height = maps.shape[2]
        strips = [self._strip(maps, top, min(top + STRIP, height)) for top in range(0, height, STRIP)]
        return torch.cat(strips, dim=2)

    def _strip(self, maps: Tensor, top: int, bottom: int) -> Tensor:
        """Rows ``top`` to ``bottom`` of the result."""
        first, last = (
            max(top - 1, 0),
            min(bottom + 1, maps.shape[2]),
        )  # the kernel sees a row on each side
        wide = functional.gelu(self.conv1(maps[:, :, first:last]))
        wide = functional.pad(wide, (0, 0, first - top + 1, bottom + 1 - last))
        conv = self.conv2
        wide = functional.conv2d(wide, conv.weight, conv.bias, padding=(0, 1), groups=conv.groups)
        return functional.gelu(self.conv3(functional.gelu(wide)) + maps[:, :, top:bottom])


class Merging(nn.Module):
    """Cells joined two by two, or only mixed where ``stride`` is 1."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = Convolution(inputs, outputs, 1)
        self.conv2 = Convolution(outputs, outputs, 3, stride=stride, depthwise=True)
        self.conv3 = Convolution(outputs, outputs, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, inputs, h, w) to (B, outputs, h/stride, w/stride)."""
        merged: Tensor = self.conv3(functional.gelu(self.conv2(functional.gelu(self.conv1(maps)))))
        return merged


class WindowAttention(nn.Module):
    """Attention among the cells of a window, with a learned offset for every distance of two cells."""

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))
        rows, columns = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
        rows, columns = rows.flatten(), columns.flatten()
        apart = (rows[:, None] - rows).abs() * window + (columns[:, None] - columns).abs()
        self.apart: Tensor
        self.register_buffer("apart", apart, persistent=False)

    def forward(self, windows: Tensor) -> Tensor:
        """(n, window², C) to the same shape."""
        count, cells, channels = windows.shape
        shared = self.qkv(self.norm(windows)).view(count, cells, self.heads, -1).transpose(1, 2)
        query, key, value = shared.chunk(3, dim=-1)  # each (n, heads, window², C/heads)
        offsets = self.attention_biases[None, :, self.apart].to(query.dtype)  # with four axes torch fuses it all
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=offsets)
        projected: Tensor = self.proj(mixed.transpose(1, 2).reshape(count, cells, channels))
        return projected


class Perceptron(nn.Module):
    """Two linear layers on every cell, some cells at a time for the sake of the caches."""

    def __init__(self, channels: int, *, wider: int = 4) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, wider * channels)
        self.fc2 = nn.Linear(wider * channels, channels)

    def forward(self, cells: Tensor) -> Tensor:
        """(…, C) to the same shape."""
        parts = torch.split(cells.flatten(0, -2), CELLS)
        mixed = [self.fc2(functional.gelu(self.fc1(self.norm(part)))) for part in parts]
        return torch.cat(mixed).view(cells.shape)


class Block(nn.Module):
    """Attention in windows, a depthwise convolution, and linear layers."""

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.attn = WindowAttention(channels, heads, window)
        self.local_conv = Convolution(channels, channels, 3, depthwise=True)
        self.mlp = Perceptron(channels)

    def forward(self, cells: Tensor) -> Tensor:
        """(B, h, w, C) to the same shape."""
        cells = cells + self._attend(cells)
        cells = self.local_conv(cells.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        mixed: Tensor = self.mlp(cells)
        return cells + mixed

    def _attend(self, cells: Tensor) -> Tensor:
        batch, height, width, channels = cells.shape
        side = self.attn.window
        padded = functional.pad(cells, (0, 0, 0, -width % side, 0, -height % side))
        down, across = padded.shape[1] // side, padded.shape[2] // side
        windows = padded.view(batch, down, side, across, side, channels).transpose(2, 3)
        mixed: Tensor = self.attn(windows.reshape(-1, side * side, channels))
        whole = mixed.view(batch, down, across, side, side, channels).transpose(2, 3).reshape(padded.shape)
        return whole[:, :height, :width]


class Stage(nn.Module):
    """Merging, then blocks."""

    def __init__(self, inputs: int, outputs: int, depth: int, heads: int, window: int, *, stride: int) -> None:
        super().__init__()
        self.downsample = Merging(inputs, outputs, stride=stride)
        self.blocks = nn.Sequential(*(Block(outputs, heads, window) for _ in range(depth)))

    def forward(self, maps: Tensor) -> Tensor:
        """(B, inputs, h, w) to (B, outputs, h/stride, w/stride)."""
        mixed: Tensor = self.blocks(self.downsample(maps).permute(0, 2, 3, 1))
        return mixed.permute(0, 3, 1, 2)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of maps."""

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, h, w) to the same shape."""
        return super().forward(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ImageEncoder(nn.Module):
    """Pixels to an embedding of 256 channels at stride 16."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.Sequential(
            Convolution(3, 32, 3, stride=2), nn.GELU(), Convolution(32, 64, 3, stride=2)
        )
        self.stages = nn.Sequential(
            nn.Sequential(Bottleneck(64), Bottleneck(64)),
            Stage(64, 128, 2, 4, 7, stride=2),
            Stage(128, 160, 6, 5, 14, stride=2),
            Stage(160, 320, 2, 10, 7, stride=1),
        )
        self.neck = nn.Sequential(
            Convolution(320, CHANNELS, 1, bias=False),
            ChannelNorm(CHANNELS, eps=1e-6),
            Convolution(CHANNELS, CHANNELS, 3, bias=False),
            ChannelNorm(CHANNELS, eps=1e-6),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 256, H/16, W/16); the sides are multiples of 16."""
        maps: Tensor = self.neck(self.stages(self.patch_embed(pixels)))
        return maps
