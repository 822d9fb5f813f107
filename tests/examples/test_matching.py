from __future__ import annotations

import torch
from torch.nn import functional

from ovseg.examples.matching import Reference, candidates, references_of, shot_mean
from ovseg.examples.shot import Shot, View


def unit(count: int, seed: int, channels: int = 4) -> torch.Tensor:
    return functional.normalize(torch.randn(count, channels, generator=torch.Generator().manual_seed(seed)), dim=1)


def references(shots: int) -> list[Reference]:
    return [Reference.of(unit(9, seed), torch.arange(9) < 3 + seed) for seed in range(shots)]


def test_candidates_are_those_of_a_slow_loop() -> None:
    """Over 0 to the mean, and more than half of the nearest in at least half of the shots are inside."""
    cells = unit(40, 9)
    for shots in (1, 2, 3):
        for nearest in (1, 3):
            given, shown = references(shots), [unit(9, seed).double() for seed in range(shots)]
            mean = torch.stack([shown[n][each.inside].mean(0) for n, each in enumerate(given)]).mean(0)
            found = []
            for cell in cells.double():
                votes = 0
                for each, known in zip(given, shown, strict=True):
                    order = (known @ cell).argsort(descending=True).tolist()[:nearest]
                    votes += sum(bool(each.inside[n]) for n in order) > nearest / 2
                found.append(float(cell @ mean) > 0 and votes >= shots / 2)
            assert candidates(cells, given, nearest=nearest).tolist() == found
            assert any(found) and not all(found)


def test_where_nothing_is_like_the_mean_the_best_tenth_is_asked() -> None:
    cells = torch.tensor([[-1.0, 0.0]]).repeat(20, 1)
    cells[4] = torch.tensor([-0.6, 0.8])
    given = [Reference.of(torch.tensor([[1.0, 0.0]]), torch.tensor([True]))]
    assert candidates(cells, given).nonzero().flatten().tolist() == [4]


def test_every_shot_counts_the_same_in_the_mean() -> None:
    one = Reference.of(torch.eye(2)[[0, 0, 0]], torch.ones(3, dtype=torch.bool))
    other = Reference.of(torch.eye(2)[[1]], torch.ones(1, dtype=torch.bool))
    torch.testing.assert_close(shot_mean([one, other]), torch.full((2,), 0.5**0.5))


def test_pictures_of_what_a_label_is_not_are_no_references() -> None:
    seen = View(unit(6, 0).T.reshape(4, 2, 3), torch.zeros(1, 2, 3), torch.zeros(3, 2, 3))
    share = torch.zeros(2, 3)
    share[1, 2] = 1
    (found,) = references_of([Shot(seen, 0, share), Shot(seen, 0, torch.zeros(2, 3))])
    assert found.inside.tolist() == [False] * 5 + [True]
    torch.testing.assert_close(found.mean, seen.features[:, 1, 2])
