"""ResCLIP's second pass: what a first prediction says about which patches should attend to one another."""

from __future__ import annotations

import numpy as np
import torch
from skimage.measure import label as connected
from torch import Tensor
from torch.nn import functional

from ovseg.attention.block import Attended, LastBlock
from ovseg.attention.self_attention import key_logits, mixed_with_middle, neighbourhood
from ovseg.tensors import check_shape


def resclip(
    block: LastBlock,
    *,
    share: float = 0.7,
    gain: float = 2.0,
    mix: float = 0.5,
    strength: float = 2.0,
    sigma: float = 5.0,
    first: float = 5,
    last: float = 8,
) -> Attended:
    """``resclip_rcs`` whose logits are gain·((1 − share)·k·kᵀ/√d + share·S) + ω in a second pass.

    S is ``feedback`` of the labels that the first pass gave; without labels this is the first pass.

    Args:
        block: the last block of a tower.
        share: of S in the logits; the paper takes 0.6 to 0.7, by data set.
        gain: factor on both; the paper takes 1.8 to 2.2.
        mix, strength, first, last: see ``resclip_rcs``.
        sigma: standard deviation of NACLIP's neighbourhood, in patches, and of the smoothing of S.

    Raises:
        ModelError: the block is not part of a tower.

    Source: Yang et al., ResCLIP, CVPR 2025, semantic feedback refinement.
    """
    logits = key_logits(block)
    if block.labels is not None:
        said = torch.stack([feedback(labels, sigma=sigma) for labels in block.labels])
        padded = functional.pad(said, (block.prefix, 0, block.prefix, 0))[:, None]
        logits = gain * torch.lerp(logits, padded.to(logits).expand_as(logits), share)
    own = (logits + neighbourhood(block.grid, block.prefix, sigma=sigma).to(logits)).softmax(-1)
    return mixed_with_middle(block, own, mix=mix, strength=strength, first=first, last=last)


def feedback(labels: Tensor, *, sigma: float) -> Tensor:
    """How much patches should attend to one another, as they have one label or not.

    Patches of one label have 1, or exp(−distance / the largest distance of the grid) where no path of neighbours of
    that label joins them (distances: the more of rows and columns between them); others have 0. Each row is then
    smoothed along the patches, rows first, by a Gaussian and brought to a sum of 1; all are divided by the largest.

    Args:
        labels: (h, w) integers.
        sigma: standard deviation of the Gaussian, in patches.

    Returns:
        (h·w, h·w) float32 in [0, 1], on the device of ``labels``.
    """
    check_shape("labels", labels, "h w")
    rows, columns = labels.shape
    numbers, flat = labels.cpu(), labels.flatten().cpu()
    nothing = int(flat.min()) - 1  # no patch is left out
    parts = torch.from_numpy(np.asarray(connected(numbers.numpy(), background=nothing, connectivity=2))).flatten()
    y, x = torch.arange(rows).repeat_interleave(columns), torch.arange(columns).repeat(rows)
    steps = torch.maximum((y[:, None] - y).abs(), (x[:, None] - x).abs())
    damped = torch.exp(-steps / max(rows - 1, columns - 1, 1))
    alike = torch.where(parts[:, None] == parts, torch.ones(()), damped) * (flat[:, None] == flat)
    smooth = functional.conv1d(alike[:, None], _gaussian(sigma, most=len(flat)), padding="same")[:, 0]
    smooth = smooth / smooth.sum(1, keepdim=True)
    return (smooth / smooth.max()).to(labels.device)


def _gaussian(sigma: float, *, most: int) -> Tensor:
    """(1, 1, n) weights that add to 1, over three standard deviations to each side; n is odd, at most most + 1."""
    reach = min(int(6 * sigma + 1), most) // 2
    places = torch.arange(-reach, reach + 1, dtype=torch.float32)
    weights = torch.exp(-(places**2) / (2 * sigma**2))
    return (weights / weights.sum())[None, None]


def patch_labels(labels: Tensor, grid: tuple[int, int]) -> Tensor:
    """The most frequent label of each patch: (B, H, W) integers to (B, h, w); of equals the smallest.

    H and W are multiples of h and w.
    """
    (height, width), (rows, columns) = labels.shape[-2:], grid
    cells = labels.view(len(labels), rows, height // rows, columns, width // columns)
    return cells.transpose(2, 3).flatten(3).mode(-1).values
