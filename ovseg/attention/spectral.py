"""The recipe CASS: the heads of CLIP joined with heads of DINO whose attention graphs have another spectrum."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from ovseg.attention.block import Attended, LastBlock
from ovseg.attention.self_attention import neighbourhood
from ovseg.errors import ModelError

_TINY = 1e-12


def cass(
    block: LastBlock,
    *,
    sigma: float = 5.0,
    rank: int = 10,
    eigenvalues: int = 20,
    strength: float = 10.0,
    contrast: float = 0.5,
) -> Attended:
    """softmax((strength·w·G + A)/(strength·w + 1) + ω)·v between patches.

    A = k·kᵀ/√d is the graph of a head of the tower, and G that of the head of the structure encoder it is matched
    with: of low rank, without its diagonal, and brought to the range of A. Heads are matched one to one so that the
    sum of w, the distance of their spectra, is largest: what the other encoder adds is then what the head lacks. ω
    is NACLIP's neighbourhood.

    Args:
        block: the last block, with the keys of a structure encoder, at their lengths.
        sigma: standard deviation of the neighbourhood, in patches.
        rank: of the graph of the structure encoder.
        eigenvalues: how many make a spectrum.
        strength: weight of the structure encoder.
        contrast: how far the range of the kept singular values is widened, as a share of its ends; the released
            code takes 0 for VOC-20 and Cityscapes.

    Raises:
        ModelError: there are no structure features, or they do not divide into the tower's heads.

    Source: Kim et al., CASS, CVPR 2025. As in the released code, the rank is fixed: its search for the rank that
    holds 95 % of the energy compares with the energy of the first 10 and so ends there. Unlike it, a head gets the
    very head it was matched with: the code exchanges the two numbers of a pair.
    """
    keys, values = block.k[:, :, block.prefix :].float(), block.v[:, :, block.prefix :]
    scale = keys.shape[-1] ** -0.5
    theirs = to_range(_structure_keys(block), keys)
    own = keys @ keys.transpose(2, 3) * scale  # (B, heads, M, M)
    near = neighbourhood(block.grid, 0, sigma=sigma).to(own)
    spectra = [_spectrum(each, int(eigenvalues)) for each in (keys, theirs)]
    weights = []
    for image, graphs in enumerate(own):
        heads, distances = match_heads(spectra[0][image], spectra[1][image])
        shared = low_rank(theirs[image][heads.to(own.device)], rank=int(rank), scale=scale, contrast=contrast)
        share = (strength * distances).to(own)[:, None, None]
        joined = (share * to_range(shared, graphs, within=1) + graphs) / (share + 1)
        weights.append((joined + near).softmax(-1))
    return Attended(torch.stack(weights).to(values.dtype) @ values, 0, block.grid)


def _structure_keys(block: LastBlock) -> Tensor:
    """(B, heads, M, e) keys of the structure encoder on the grid of the block, in as many heads as it has."""
    structure, heads = block.needed_structure(), block.k.shape[1]
    if structure.shape[1] % heads:
        raise ModelError(
            f"expected structure features whose channels divide into {heads} heads, got {structure.shape[1]}; "
            "choose a structure encoder as wide as the tower"
        )
    resized = functional.interpolate(structure.float(), size=block.grid, mode="bilinear", align_corners=False)
    return resized.view(resized.shape[0], heads, -1, block.grid[0] * block.grid[1]).transpose(2, 3)


def to_range(source: Tensor, target: Tensor, *, within: int = 1) -> Tensor:
    """``source`` stretched so that its least and largest values are those of ``target``.

    Args:
        source, target: with the same leading axes.
        within: how many leading axes are looked at apart; the rest share one range.
    """
    low, high = (_over(source, within, largest=largest) for largest in (False, True))
    least, most = (_over(target, within, largest=largest) for largest in (False, True))
    return (source - low) / (high - low).clamp_min(_TINY) * (most - least) + least


def _over(values: Tensor, within: int, *, largest: bool) -> Tensor:
    axes = tuple(range(within, values.ndim))
    return values.amax(axes, keepdim=True) if largest else values.amin(axes, keepdim=True)


def _spectrum(keys: Tensor, count: int) -> Tensor:
    """(B, heads, count) the largest eigenvalues of k·kᵀ, descending, 0 where there are no more, as shares of 1.

    k·kᵀ and kᵀ·k share all that are not 0, and the latter is small.
    """
    values = torch.linalg.eigvalsh((keys.transpose(2, 3) @ keys).double().cpu()).clamp_min(0).flip(-1)
    kept: Tensor = functional.pad(values[..., :count], (0, max(0, count - values.shape[-1])))
    return functional.normalize(kept, p=1, dim=-1)


def match_heads(own: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of heads whose spectra are furthest apart, in sum over all pairs.

    Args:
        own: (heads, n) spectra, each adding to 1.
        theirs: (heads, n) of the other encoder.

    Returns:
        (heads,) int64 their head for each own one, and (heads,) float64 the distance of its spectrum, the sum of
        absolute differences, in [0, 2].
    """
    distances = (own[:, None] - theirs[None]).abs().sum(-1)
    # Many ways to pair heads are equally far; without rounding the last digits of a device would choose one.
    _, heads = linear_sum_assignment(distances.round(decimals=5).numpy(), maximize=True)
    pairs = torch.from_numpy(heads)
    return pairs, distances.gather(1, pairs[:, None])[:, 0]


def low_rank(keys: Tensor, *, rank: int, scale: float, contrast: float) -> Tensor:
    """scale·k·kᵀ of its largest singular values, their range widened, with 0 on the diagonal.

    Args:
        keys: (heads, M, e).
        rank: how many singular values are kept.
        scale: factor on the graph.
        contrast: the least value is multiplied by 1 − contrast, the largest by 1 + contrast, others in between.

    Returns:
        (heads, M, M).
    """
    values, vectors = torch.linalg.eigh((keys.transpose(1, 2) @ keys).double().cpu())
    kept = min(rank, *keys.shape[1:])
    values, vectors = (each[..., -kept:].to(keys) for each in (values, vectors))
    sides = keys @ vectors / values.clamp_min(_TINY).sqrt()[:, None]  # (heads, M, kept) singular vectors
    singular = values * scale
    low, high = singular.amin(-1, keepdim=True), singular.amax(-1, keepdim=True)
    place = (singular - low) / (high - low).clamp_min(_TINY)
    widened = place * ((1 + contrast) * high - (1 - contrast) * low) + (1 - contrast) * low
    graph: Tensor = sides * widened[:, None] @ sides.transpose(1, 2)
    graph.diagonal(dim1=1, dim2=2).zero_()
    return graph
