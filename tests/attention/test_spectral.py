"""CASS against a float64 version with whole decompositions and every way to pair the heads."""

from itertools import permutations

import numpy as np
import pytest
import torch
from helpers.blocks import FINE, GRID

from ovseg.attention import RECIPES, LastBlock
from ovseg.attention.self_attention import neighbourhood
from ovseg.attention.spectral import low_rank, match_heads, to_range
from ovseg.errors import ModelError

HEADS, CLOSE = 3, {"atol": 2e-5, "rtol": 1e-4}


def wide_block(prefix: int) -> LastBlock:
    """Three heads of 4, with keys of another encoder that are no unit vectors."""
    draw = torch.Generator().manual_seed(3)
    count = prefix + GRID[0] * GRID[1]
    q, k, v = (torch.randn(2, HEADS, count, 4, generator=draw) for _ in range(3))
    scales = torch.tensor([1.0, 2.0, 0.3]).repeat_interleave(4)[:, None, None]
    structure = torch.randn(2, 12, *FINE, generator=draw) * scales + torch.linspace(0, 2, 12)[:, None, None]
    return LastBlock(q, k, v, prefix, GRID, structure=structure)


def stretched(source, target):
    share = (source - source.min()) / (source.max() - source.min())
    return share * (target.max() - target.min()) + target.min()


def shares(graph, count):
    values = np.sort(np.linalg.eigvalsh(graph))[::-1][:count]
    return values / np.abs(values).sum()


def slow_cass(keys, values, structure, *, rank, eigenvalues, strength, contrast):
    """One image: keys, values (heads, M, d), structure (S, h', w'); (heads, M, d)."""
    resized = torch.nn.functional.interpolate(structure[None].double(), size=GRID, mode="bilinear")[0]
    theirs = stretched(resized.view(HEADS, 4, -1).transpose(1, 2).numpy(), keys)
    own_graphs = [k @ k.T / 2 for k in keys]  # √4
    their_graphs = [k @ k.T / 2 for k in theirs]
    distance = np.array(
        [[np.abs(shares(a, eigenvalues) - shares(b, eigenvalues)).sum() for b in their_graphs] for a in own_graphs]
    )
    best = max(sum(distance[i, j] for i, j in enumerate(way)) for way in permutations(range(HEADS)))
    spectra = [torch.tensor(np.array([shares(g, eigenvalues) for g in gs])) for gs in (own_graphs, their_graphs)]
    pairs = match_heads(*spectra)[0].tolist()  # several ways are as good
    assert sum(distance[i, j] for i, j in enumerate(pairs)) == pytest.approx(best, abs=1e-4)
    out = []
    for own, other in enumerate(pairs):
        left, singular, right = np.linalg.svd(their_graphs[other])
        kept = singular[:rank]
        low, high = (1 - contrast) * kept.min(), (1 + contrast) * kept.max()
        widened = (kept - kept.min()) / (kept.max() - kept.min()) * (high - low) + low
        shared = left[:, :rank] @ np.diag(widened) @ right[:rank]
        np.fill_diagonal(shared, 0)
        weight = strength * distance[own, other]
        joined = (weight * stretched(shared, own_graphs[own]) + own_graphs[own]) / (weight + 1)
        joined = joined + neighbourhood(GRID, 0, sigma=5.0).double().numpy()
        rows = np.exp(joined - joined.max(1, keepdims=True))
        out.append(rows / rows.sum(1, keepdims=True) @ values[own])
    return torch.tensor(np.array(out))


@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize("options", [{}, {"rank": 3, "eigenvalues": 2, "strength": 4.0, "contrast": 0.0}])
def test_cass_equals_the_slow_version(prefix, options):
    block = wide_block(prefix)
    attended = RECIPES["cass"].run(block, {"rank": 4, **options})
    assert (attended.prefix, attended.grid, attended.branches) == (0, GRID, ())
    settings = {"rank": 4, "eigenvalues": 20, "strength": 10.0, "contrast": 0.5, **options}
    for image in range(2):
        keys, values = (part[image, :, prefix:].double().numpy() for part in (block.k, block.v))
        slow = slow_cass(keys, values, block.structure[image], **settings)
        torch.testing.assert_close(attended.values[image].double(), slow, **CLOSE)


def test_heads_are_paired_so_that_their_spectra_differ_most():
    own = torch.tensor([[1.0, 0.0], [0.5, 0.5]]).double()
    theirs = torch.tensor([[0.5, 0.5], [1.0, 0.0]]).double()
    pairs, distances = match_heads(own, theirs)
    assert pairs.tolist() == [0, 1] and distances.tolist() == [1.0, 1.0]
    pairs, distances = match_heads(own, own)
    assert pairs.tolist() == [1, 0] and distances.tolist() == [1.0, 1.0]


def test_a_graph_of_full_rank_and_no_contrast_is_itself_without_its_diagonal():
    keys = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    graph = keys @ keys.transpose(1, 2) * 0.5
    graph.diagonal(dim1=1, dim2=2).zero_()
    torch.testing.assert_close(low_rank(keys, rank=9, scale=0.5, contrast=0.0), graph, atol=1e-5, rtol=1e-5)


def test_a_range_is_taken_over_all_but_the_leading_axes():
    source, target = torch.tensor([[0.0, 1.0, 2.0], [5.0, 5.0, 6.0]]), torch.tensor([[-1.0, 1.0], [0.0, 10.0]])
    assert to_range(source, target).tolist() == [[-1.0, 0.0, 1.0], [0.0, 0.0, 10.0]]


def test_equal_cells_give_finite_weights():
    block = wide_block(1)
    flat = LastBlock(block.q, torch.ones_like(block.k), block.v, 1, GRID, structure=torch.ones(2, 12, *FINE))
    assert RECIPES["cass"].run(flat, {}).values.isfinite().all()


def test_structure_that_does_not_divide_into_the_heads_is_refused():
    block = wide_block(1)
    odd = LastBlock(block.q, block.k, block.v, 1, GRID, structure=block.structure[:, :7])
    with pytest.raises(ModelError, match="divide into 3 heads, got 7"):
        RECIPES["cass"].run(odd, {})
    with pytest.raises(ModelError, match="needs a structure encoder"):
        RECIPES["cass"].run(LastBlock(block.q, block.k, block.v, 1, GRID), {})
