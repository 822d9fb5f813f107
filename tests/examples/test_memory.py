"""How much is held of many shots: the bytes of what is kept, and how many pictures there are at a time."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ovseg.examples import METHODS, Shot, View, teach
from ovseg.examples.matching import Reference
from ovseg.examples.shot import LazyShots, Lesson, cells_of, some_cells_of

CHANNELS, GRID = 64, (10, 12)
CELLS = GRID[0] * GRID[1]
PACKED = CELLS * (CHANNELS + 4 + 1) + 4 * CHANNELS  # of a shot: codes, a step and a side for each cell, the mean


@dataclass
class Made(LazyShots):
    """Shots of labels in turn, made when they are looked at; counts the pictures that are there at a time."""

    of: list[int]
    alive: weakref.WeakSet[Any] = field(default_factory=weakref.WeakSet)
    most: int = 0
    looks: int = 0

    @property
    def labels(self) -> list[int]:
        return self.of

    def __len__(self) -> int:
        return len(self.of)

    def __getitem__(self, place: Any) -> Any:
        generator = torch.Generator().manual_seed(place)
        features = functional.normalize(torch.randn(CHANNELS, *GRID, generator=generator), dim=0)
        share = (features[0] > 0.1).float()
        view = View(features, torch.randn(4, *GRID, generator=generator), torch.zeros(3, *GRID))
        self.alive.add(features)
        self.most, self.looks = max(self.most, len(self.alive)), self.looks + 1
        return Shot(view, self.of[place], share)


def tensors(kept: Any) -> Iterator[Tensor]:
    """Every tensor in something that is made of dataclasses, lists and tuples."""
    if isinstance(kept, Tensor):
        yield kept
    elif isinstance(kept, list | tuple):
        for each in kept:
            yield from tensors(each)
    elif is_dataclass(kept):
        for each in fields(kept):
            yield from tensors(getattr(kept, each.name))


def size_of(kept: Any) -> int:
    """Bytes of all storages, each once: a view of a larger tensor counts as all of it."""
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors(kept)}
    return sum(storages.values())


def taught(method: str, of: list[int]) -> tuple[Any, Made]:
    count, shots = max(of) + 1, Made(of)
    named = torch.zeros(count, dtype=torch.bool)
    return teach(Lesson(shots, torch.arange(count), named), method=method, fusion="sight"), shots


@pytest.mark.parametrize("method", METHODS)
def test_what_is_kept_of_many_shots_is_small(method: str) -> None:
    """Sixty shots of three labels. Matching keeps all cells, a byte a channel; the rest keeps what it learned."""
    of = [place % 3 for place in range(60)]
    sight, shots = taught(method, of)
    vector = 4 * (CHANNELS + 8)
    kept = {
        "insid3": 60 * PACKED,
        "density": 60 * PACKED + 3 * (2 * 400 + CHANNELS) * vector,
        "kmeans": 3 * 13 * vector,
        "mean": 3 * vector,
    }
    assert size_of(sight) <= kept.get(method, 3 * vector) + 300
    assert shots.most <= 21, "the shots of one label, and the first of the next"


@pytest.mark.parametrize("method", METHODS)
def test_of_many_shots_of_one_label_few_are_there_at_a_time(method: str) -> None:
    _, shots = taught(method, [0] * 45)
    assert shots.most <= 21


def test_a_label_that_is_matched_is_looked_at_once() -> None:
    _, shots = taught("auto", [0, 1, 0, 1])
    assert shots.looks == 4


def test_packed_cells_have_nearly_the_cosines_of_cells() -> None:
    """Each channel is off by half a step at most, a step being a 127th of the largest."""
    shot = Made([0])[0]
    cells, inside = shot.view.features.flatten(1).T, shot.inside.flatten()
    generator = torch.Generator().manual_seed(9)
    other = functional.normalize(torch.randn(50, CHANNELS, generator=generator), dim=1)
    reference = Reference.of(cells, inside)
    assert reference.codes.dtype == torch.int8
    torch.testing.assert_close(reference.cosines(other), other @ cells.T, atol=4e-3, rtol=0)
    torch.testing.assert_close(reference.mean, cells[inside].mean(0))


def test_some_cells_are_evenly_taken_over_all_shots() -> None:
    shots = [Made([0, 0, 0])[place] for place in range(3)]
    every = cells_of(shots, inside=True)
    places = torch.linspace(0, len(every) - 1, 25).round().long()
    torch.testing.assert_close(some_cells_of(shots, 25, inside=True), every[places])
    torch.testing.assert_close(some_cells_of(shots, 10_000, inside=True), every)
