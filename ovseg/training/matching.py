"""Masks against masks: points instead of pixels, which query answers for which object, and what that costs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ovseg.errors import ShapeError
from ovseg.tensors import check_shape

CLASS, MASK, DICE = 2.0, 5.0, 5.0  # weights of the three costs, and of the three losses (Mask2Former, section 4)
_OVERSAMPLE, _UNSURE = 3, 0.75  # see ``unsure_points``


def at_points(maps: Tensor, points: Tensor) -> Tensor:
    """(n, h, w) maps at (p, 2) or (n, p, 2) places x, y in [0, 1], bilinear between centres: (n, p)."""
    check_shape("maps", maps, "n h w")
    places = points.expand(len(maps), -1, -1) * 2 - 1
    found = functional.grid_sample(
        maps[:, None].float(), places[:, None].to(maps.device).float(), padding_mode="border", align_corners=False
    )
    return found[:, 0, 0]


def random_points(count: int, generator: torch.Generator) -> Tensor:
    """(count, 2) places in [0, 1)."""
    return torch.rand(count, 2, generator=generator)


def unsure_points(masks: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(n, count, 2) places: of three times as many, three quarters where the (n, h, w) logits are nearest 0; the
    rest anywhere.

    Source: Kirillov et al., PointRend, CVPR 2020, section 4.1.
    """
    drawn = torch.rand(len(masks), _OVERSAMPLE * count, 2, generator=generator).to(masks.device)
    unsure = round(_UNSURE * count)
    doubt = -at_points(masks.detach(), drawn).abs()
    chosen = doubt.topk(unsure, dim=1).indices[:, :, None].expand(-1, -1, 2)
    anywhere = torch.rand(len(masks), count - unsure, 2, generator=generator).to(masks.device)
    return torch.cat([drawn.gather(1, chosen), anywhere], 1)


def mask_costs(masks: Tensor, truth: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """What it costs each query to answer for each object, at shared points.

    Args:
        masks: (n, p) logits.
        truth: (m, p) in [0, 1].
        known: (p,) in [0, 1], weight of each point.

    Returns:
        (n, m) mean binary cross-entropy, and (n, m) 1 − dice.
    """
    inside = functional.softplus(-masks) * known  # −log p
    outside = functional.softplus(masks) * known
    entropy = (inside @ truth.T + outside @ (1 - truth).T) / known.sum().clamp_min(1e-6)
    chance, wanted = masks.sigmoid() * known, truth * known
    shared = 2 * chance @ wanted.T
    dice = 1 - (shared + 1) / (chance.sum(1)[:, None] + wanted.sum(1)[None] + 1)
    return entropy, dice


@torch.no_grad()
def match(logits: Tensor, masks: Tensor, classes: Tensor, truth: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """The one-to-one choice of queries for objects that costs the least.

    Args:
        logits: (n, N + 1) of names and, last, of nothing.
        masks: (n, p) logits at points.
        classes: (m,) the name of each object.
        truth: (m, p) masks of the objects at the points.
        known: (p,) weight of each point.

    Returns:
        Positions of queries and of their objects, min(n, m) of each.

    Raises:
        ShapeError: a class is no name, or a cost is not finite.

    Source: Cheng et al., MaskFormer, NeurIPS 2021, section 3.2.
    """
    from scipy.optimize import linear_sum_assignment

    if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < logits.shape[1] - 1:
        raise ShapeError(f"classes must be in [0, {logits.shape[1] - 1}), got {classes.tolist()}")
    entropy, dice = mask_costs(masks, truth, known)
    cost = MASK * entropy + DICE * dice - CLASS * logits.softmax(-1)[:, classes]
    if not bool(cost.isfinite().all()):
        raise ShapeError("queries can only be matched where all masks and logits are finite numbers")
    rows, columns = linear_sum_assignment(cost.cpu().double().numpy())
    return torch.as_tensor(rows, device=masks.device), torch.as_tensor(columns, device=masks.device)


def mask_losses(masks: Tensor, truth: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy and 1 − dice of pairs at points, the mean over the pairs; 0 without any.

    Args:
        masks: (m, p) logits.
        truth: (m, p) in [0, 1].
        known: (m, p) in [0, 1], weight of each point.
    """
    if not len(masks):
        return masks.sum(), masks.sum()
    cost = functional.binary_cross_entropy_with_logits(masks, truth, reduction="none") * known
    entropy = cost.sum(1) / known.sum(1).clamp_min(1e-6)
    chance, wanted = masks.sigmoid() * known, truth * known
    dice = 1 - (2 * (chance * wanted).sum(1) + 1) / (chance.sum(1) + wanted.sum(1) + 1)
    return entropy.mean(), dice.mean()
