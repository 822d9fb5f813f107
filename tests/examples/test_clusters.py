from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.shots import scores_of
from torch.nn import functional

from ovseg.errors import ShapeError
from ovseg.examples.clusters import agglomerate, cluster_odds, score_clusters
from ovseg.examples.matching import Reference, candidates
from ovseg.examples.shot import Lesson, Shot, View


def maps(seed: int, grid: tuple[int, int] = (4, 5), channels: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(channels, *grid, generator=generator), dim=0)


def slow_clusters(cells: np.ndarray, alike: float) -> set[frozenset[int]]:
    """The two clusters of the highest mean cosine are joined, again and again."""
    clusters = [[number] for number in range(len(cells))]
    while len(clusters) > 1:
        pairs = [(a, b) for a in range(len(clusters)) for b in range(a)]
        means = [float((cells[clusters[a]] @ cells[clusters[b]].T).mean()) for a, b in pairs]
        best = int(np.argmax(means))
        if means[best] < alike:
            break
        a, b = pairs[best]
        clusters[b] += clusters.pop(a)
    return {frozenset(each) for each in clusters}


@pytest.mark.parametrize("alike", [0.2, 0.6, -1.0])
def test_clusters_are_those_of_a_slow_loop(alike: float) -> None:
    features = maps(0)
    owner = agglomerate(features, alike=alike).flatten()
    found = {frozenset((owner == number).nonzero()[:, 0].tolist()) for number in owner.unique()}
    assert found == slow_clusters(features.flatten(1).T.double().numpy(), alike)
    assert sorted(owner.unique().tolist()) == list(range(int(owner.max()) + 1))


def test_fine_grids_are_pooled_first() -> None:
    small = maps(0, (2, 3))
    large = small.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, :3, :5]
    pooled = agglomerate(small, alike=0.3).repeat_interleave(2, 0).repeat_interleave(2, 1)[:3, :5]
    assert torch.equal(agglomerate(large, alike=0.3, most=6), pooled)
    assert agglomerate(maps(0, (1, 1))).tolist() == [[0]]


def test_scores_are_those_of_a_slow_loop() -> None:
    cells, owner = maps(1).flatten(1).T, torch.arange(20) % 4
    shown = maps(2).flatten(1).T
    reference = Reference.of(shown, torch.arange(20) < 9)
    matched = candidates(cells, [reference])
    prototype = shown[:9].double().mean(0)
    prototype = prototype / prototype.norm()
    groups = [cells[owner == number].double() for number in range(4)]
    means = [group.mean(0) / group.mean(0).norm() for group in groups]
    share = [float(matched[owner == number].double().mean()) for number in range(4)]
    seed = max((n for n in range(4) if share[n]), key=lambda n: float(means[n] @ prototype))
    share[seed] = 1
    by_hand = [float((groups[n] @ prototype).mean()) * float(means[n] @ means[seed]) * share[n] for n in range(4)]
    assert score_clusters(cells, owner, [reference]).tolist() == pytest.approx(by_hand, abs=1e-6)


def test_nothing_is_found_where_nothing_matches() -> None:
    looks = torch.eye(3)
    reference = Reference.of(looks[:2], torch.tensor([True, False]))
    assert score_clusters(looks[[1, 1, 2]], torch.tensor([0, 0, 1]), [reference]).tolist() == [0, 0]


def test_a_cluster_is_taken_as_a_whole_for_each_label() -> None:
    looks = torch.eye(3)
    seen = View(
        looks[torch.tensor([[0, 0, 1], [0, 2, 1]])].permute(2, 0, 1), torch.zeros(2, 2, 3), torch.zeros(3, 2, 3)
    )
    shots = [Shot(seen, label, (seen.features[label] > 0).float()) for label in (0, 1)]
    odds = scores_of(cluster_odds(), Lesson(shots, torch.tensor([0, 1]), torch.tensor([True, True])))(seen)
    by_hand = torch.tensor([[[16.0, 16, -4], [16, -4, -4]], [[-4, -4, 16], [-4, -4, 16]]])
    torch.testing.assert_close(odds, by_hand)


def test_maps_of_another_form_are_refused() -> None:
    with pytest.raises(ShapeError, match="structure"):
        agglomerate(torch.zeros(4, 5))
