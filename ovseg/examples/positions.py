"""What features say of places alone, taken out before pictures are compared."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from ovseg.errors import ConfigError
from ovseg.examples.shot import View


def position_basis(features: Tensor, count: int) -> Tensor:
    """The directions in which the cells of a picture that shows nothing differ most: they differ by place alone.

    Args:
        features: (C, h, w) of a black picture.
        count: directions at most; there are no more than cells less one.

    Returns:
        (C, n) float32, orthonormal columns.

    Raises:
        ConfigError: so many directions would leave nothing of C channels.

    Source: INSID3 (CVPR 2026), positional debiasing; its code takes a black picture where the paper says noise.
    """
    channels = len(features)
    if count >= channels:
        raise ConfigError(
            f"examples.positions must be less than the {channels} channels of the features, got {count}; lower it"
        )
    cells = functional.normalize(features.float().flatten(1), dim=0).T  # (h·w, C)
    cells = cells - cells.mean(0)
    count = min(count, len(cells) - 1)
    directions: Tensor = torch.linalg.svd(cells, full_matrices=False).Vh
    return directions[:count].T.contiguous()


def without_positions(view: View, basis: Tensor) -> View:
    """The picture with these directions projected out of its features, which have unit length again.

    Which cells belong together is still told by the features as they were.
    """
    basis = basis.to(view.features)
    flat = view.features.flatten(1)
    left = functional.normalize(flat - basis @ (basis.T @ flat), dim=0)
    return replace(view, features=left.view_as(view.features), structure=view.likeness)
