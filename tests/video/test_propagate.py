"""Carrying: against a loop over cells in float64, and what must hold by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from ovseg.errors import ShapeError
from ovseg.video import propagate
from ovseg.video.propagate import carry


def unit(*shape: int, seed: int) -> torch.Tensor:
    noise = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return functional.normalize(noise, dim=-3)


def slowly(
    keys: torch.Tensor,
    context: torch.Tensor,
    maps: torch.Tensor,
    radius: int,
    top: int,
    temperature: float,
    nearness: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Cell by cell, from the words of the paper."""
    _, rows, columns = keys.shape
    carried, match = np.zeros((maps.shape[1], rows, columns)), np.zeros((rows, columns))
    for row in range(rows):
        for column in range(columns):
            near = [
                (
                    cosine - nearness * ((y - row) ** 2 + (x - column) ** 2) / max(radius, 1) ** 2,
                    cosine,
                    maps[frame, :, y, x].numpy(),
                )
                for frame in range(len(context))
                for y in range(rows)
                for x in range(columns)
                if abs(y - row) <= radius and abs(x - column) <= radius
                for cosine in [float(keys[:, row, column] @ context[frame, :, y, x])]
            ]
            best = sorted(near, key=lambda pair: -pair[0])[:top]
            weights = np.exp(np.array([score for score, _, _ in best]) / temperature)
            carried[:, row, column] = (
                sum(w * value for w, (_, _, value) in zip(weights, best, strict=True)) / weights.sum()
            )
            match[row, column] = best[0][1]
    return carried, match


@pytest.mark.parametrize(
    ("radius", "top", "band", "nearness"), [(1, 5, 1, 0), (2, 3, 10**6, 0), (12, 5, 200, 0.5), (0, 4, 10**6, 0.1)]
)
def test_carrying_equals_a_loop_over_cells(
    radius: int, top: int, band: int, nearness: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(propagate, "_BAND_VALUES", band)
    keys, context = unit(6, 5, 4, seed=0), unit(3, 6, 5, 4, seed=1)
    maps = torch.rand(3, 2, 5, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = carry(keys, context, maps, radius=radius, top=top, temperature=0.1, nearness=nearness)
    carried, match = slowly(keys, context, maps, radius, top, 0.1, nearness)
    np.testing.assert_allclose(found.maps.numpy(), carried, atol=1e-12)
    np.testing.assert_allclose(found.match.numpy(), match, atol=1e-12)


def test_a_frame_that_moved_takes_its_labels_along() -> None:
    frame = unit(16, 6, 8, seed=3)
    maps = torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    moved = frame.roll(2, dims=2)
    found = carry(moved, frame[None], maps, radius=2, top=1, temperature=0.1)
    assert torch.equal(found.maps[:, :, 2:], maps[0, :, :, :-2])
    torch.testing.assert_close(found.match[:, 2:], torch.ones(6, 6, dtype=torch.float64))
    assert float(found.match[:, :2].max()) < 1  # what came in from the left was not there before


def test_two_matches_by_hand() -> None:
    keys = torch.tensor([1.0, 0.0]).view(2, 1, 1)
    context = torch.tensor([[1.0, 0.0], [0.8, 0.6]]).view(2, 2, 1, 1)
    maps = torch.tensor([1.0, 0.0]).view(2, 1, 1, 1)
    found = carry(keys, context, maps, radius=0, top=5, temperature=0.1)
    weight = np.exp(10.0) / (np.exp(10.0) + np.exp(8.0))  # cosines 1 and .8 over a temperature of .1
    assert found.maps.item() == pytest.approx(weight, abs=1e-6)


def test_maps_of_another_grid_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"maps must be \(n=2, K, h=3, w=3\)"):
        carry(
            unit(4, 3, 3, seed=0), unit(2, 4, 3, 3, seed=1), torch.rand(2, 1, 3, 2), radius=1, top=1, temperature=1
        )
