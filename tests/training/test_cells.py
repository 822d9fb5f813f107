from __future__ import annotations

import torch

from ovseg.training.cells import cell_classes, principal_axes


def test_a_cell_has_the_class_that_covers_enough_of_it() -> None:
    truth = torch.full((4, 8), -1)
    truth[:, :3], truth[:, 4:6], truth[:, 6:] = 2, 0, 1
    assert cell_classes(truth, (1, 2), classes=3, coverage=0.55).tolist() == [2, -1]
    assert cell_classes(truth, (1, 2), classes=3, coverage=0.5).tolist()[0] == 2
    assert cell_classes(torch.full((4, 8), -1), (1, 2), classes=3, coverage=0.5).tolist() == [-1, -1]


def test_principal_axes_are_the_directions_of_largest_variance() -> None:
    draw = torch.Generator().manual_seed(0)
    directions, _ = torch.linalg.qr(torch.randn(5, 5, generator=draw, dtype=torch.float64))
    spread = torch.tensor([9.0, 1.0, 4.0, 0.1, 0.01], dtype=torch.float64)
    features = torch.randn(4000, 5, generator=draw, dtype=torch.float64) * spread @ directions.T + 3
    mean, axes = principal_axes(features, count=2)
    torch.testing.assert_close(mean, features.mean(0))
    expected = directions[:, [0, 2]]
    torch.testing.assert_close((axes.T @ expected).abs(), torch.eye(2, dtype=torch.float64), atol=0.05, rtol=0)
