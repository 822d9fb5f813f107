from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers.shots import scores_of
from torch.nn import functional

from ovseg.examples.density import Whitening, affinity, best_width, density_ratio, log_density, smoothed
from ovseg.examples.shot import Lesson, Shot, View


def view(seed: int, grid: tuple[int, int] = (4, 5), channels: int = 6) -> View:
    generator = torch.Generator().manual_seed(seed)
    features = functional.normalize(torch.randn(channels, *grid, generator=generator), dim=0)
    return View(features, torch.zeros(1, *grid), torch.rand(3, *grid, generator=generator))


def shot(seed: int) -> Shot:
    seen = view(seed)
    return Shot(seen, 0, (seen.features[0] > 0.1).float())


def lesson(*shots: Shot) -> Lesson:
    return Lesson(shots, torch.tensor([0]), torch.tensor([True]))


def whitened(groups: list[np.ndarray], cells: np.ndarray) -> np.ndarray:
    """Σ^(−1/2) as stated, by its eigenvectors in full."""
    centred = np.concatenate([group - group.mean(0) for group in groups])
    covariance = centred.T @ centred / len(centred)
    ball = np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    values, vectors = np.linalg.eigh(0.05 * covariance + 0.95 * ball)
    white = cells @ (vectors / np.sqrt(values)) @ vectors.T
    return white / np.linalg.norm(white, axis=1, keepdims=True)


def cells_of(seen: View) -> np.ndarray:
    return seen.features.flatten(1).T.double().numpy()


def ratio(cell: np.ndarray, inside: np.ndarray, outside: np.ndarray, width: float) -> float:
    def density(anchors: np.ndarray) -> float:
        return sum(math.exp((float(cell @ anchor) - 1) / width) for anchor in anchors) / len(anchors)

    return math.log(density(inside)) - math.log(density(outside))


def slow_smoothing(values: list[float], seen: View) -> list[float]:
    cells, colours = cells_of(seen), seen.colours.flatten(1).T.double().numpy()
    columns = seen.grid[1]
    scaled = np.array(values) / (np.std(values, ddof=1) + 1e-6)
    pull = np.zeros((len(values), len(values)))
    for a in range(len(values)):
        for b in range(len(values)):
            far = math.dist(divmod(a, columns), divmod(b, columns)) > 16
            if a != b and not far:
                pull[a, b] = math.exp(cells[a] @ cells[b] / 0.2) * math.exp(
                    -((colours[a] - colours[b]) ** 2).sum() / 0.05
                )
                pull[a, b] *= math.exp(-((scaled[a] - scaled[b]) ** 2))
        pull[a] /= pull[a].sum()
    found = np.array(values)
    for _ in range(10):
        found = 0.3 * np.array(values) + 0.7 * pull @ found
    return [float(each) for each in found]


def test_the_whole_method_is_that_of_a_slow_loop() -> None:
    shots, seen = [shot(0), shot(1)], view(7)
    masks = [each.inside.flatten().numpy() for each in shots]
    cells = [cells_of(each.view) for each in shots]
    every, shown = np.concatenate(cells), np.concatenate(masks)
    groups = [every[shown], every[~shown]]
    inside, outside = (whitened(groups, group) for group in groups)
    width = best_width(torch.from_numpy(inside), torch.from_numpy(outside))
    targets = whitened(groups, cells_of(seen))
    smooth = slow_smoothing([ratio(each, inside, outside, width) for each in targets], seen)

    references = [whitened(groups, each) for each in cells]
    means = [each[mask].mean(0) for each, mask in zip(references, masks, strict=True)]
    reach = round(4 * float(np.mean([mask.mean() for mask in masks])))
    gate = np.zeros(seen.grid, bool)
    for place, target in enumerate(targets):
        votes = sum(
            mask[np.argsort(-each @ target)[:3]].sum() >= 2 for each, mask in zip(references, masks, strict=True)
        )
        if target @ (means[0] + means[1]) > 0 and votes >= 1:
            row, column = divmod(place, 5)
            gate[max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1] = True
    expected = [value if kept else min(value, -6) for value, kept in zip(smooth, gate.ravel(), strict=True)]
    found = scores_of(density_ratio(), lesson(*shots))(seen)
    assert found.shape == (1, 4, 5)
    assert found.flatten().tolist() == pytest.approx(expected, abs=1e-3)
    assert gate.any()


def test_the_gate_keeps_out_what_matches_other_cells_of_the_shot() -> None:
    """Half of the shot is one thing, half another; of the target, only the first kind is let in, without reach."""
    looks = torch.eye(4)
    features = looks[torch.tensor([[0, 1, 1, 1, 1, 1, 1, 1, 1, 1]])].permute(2, 0, 1)
    seen = View(features, torch.zeros(1, 1, 10), torch.zeros(3, 1, 10))
    share = torch.zeros(1, 10)
    share[0, 0] = 1
    target = View(features.flip(2), seen.text, seen.colours)
    scores = scores_of(density_ratio(), lesson(Shot(seen, 0, share)))(target)[0, 0]
    assert (scores[:-1] <= -6).all()


@pytest.mark.parametrize("channels", [6, 40])
def test_whitening_is_the_root_of_the_shrunk_covariance_within_classes(channels: int) -> None:
    groups = [view(seed, channels=channels).features.flatten(1).T for seed in (0, 1)]
    cells = view(2, channels=channels).features.flatten(1).T
    expected = whitened([group.double().numpy() for group in groups], cells.double().numpy())
    np.testing.assert_allclose(Whitening.of(groups)(cells).numpy(), expected, atol=1e-5)


def test_cells_of_one_kind_need_no_whitening() -> None:
    same = functional.normalize(torch.ones(5, 3), dim=1)
    cells = view(0, channels=3).features.flatten(1).T
    torch.testing.assert_close(Whitening.of([same])(cells), cells)


def test_the_width_parts_shots_best_without_themselves() -> None:
    inside, outside = (view(seed).features.flatten(1).T for seed in (0, 1))
    margins = {}
    for width in (0.05, 0.1, 0.2, 0.5, 1.0):
        without = [
            [ratio(a, np.delete(own, n, 0), other, width) for n, a in enumerate(own)]
            for own, other in (
                (inside.double().numpy(), outside.double().numpy()),
                (outside.double().numpy(), inside.double().numpy()),
            )
        ]
        margins[width] = sum(float(np.mean(each)) for each in without)
    assert best_width(inside, outside) == max(margins, key=lambda width: margins[width])
    assert best_width(inside[:1], outside) == 0.1


def test_density_by_hand() -> None:
    cosines = torch.tensor([[1.0, 0.5]])
    assert float(log_density(cosines, 0.5)) == pytest.approx(math.log((1 + math.exp(-1)) / 2))
    assert log_density(torch.zeros(2, 0), 0.5).tolist() == [0, 0]


def test_smoothing_is_that_of_a_slow_loop_and_does_not_reach_far() -> None:
    seen = view(3, grid=(2, 19))
    values = view(4, grid=(2, 19)).features[0].flatten()
    found = smoothed(values, affinity(seen))
    assert found.tolist() == pytest.approx(slow_smoothing(values.double().tolist(), seen), abs=1e-4)
    assert float(affinity(seen)[0, 17]) == 0 < float(affinity(seen)[0, 16])


def test_a_label_that_fills_its_picture_has_no_others() -> None:
    seen = view(0)
    scores = scores_of(density_ratio(), lesson(Shot(seen, 0, torch.ones(4, 5))))(seen)
    assert bool(scores.isfinite().all())
