from __future__ import annotations

import numpy as np
import pytest
import torch

from ovseg.errors import ConfigError
from ovseg.examples.positions import position_basis, without_positions
from ovseg.examples.shot import View
from ovseg.pipeline.segmenter import Segmenter
from ovseg.vocabulary.labels import Concept


def view(features: torch.Tensor) -> View:
    unit = torch.nn.functional.normalize(features, dim=0)
    return View(unit, torch.zeros(1, *features.shape[1:]), torch.zeros(3, *features.shape[1:]))


def test_cells_that_differ_by_place_alone_become_alike() -> None:
    """Content lies in the first two channels, place in the others; a black picture has one content."""
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, 5), torch.linspace(-1, 1, 7), indexing="ij")
    place = torch.stack([rows, columns])
    black = torch.cat([torch.ones(2, 5, 7), place])
    basis = position_basis(black, 3)
    content = torch.zeros(2, 5, 7)
    content[0, :, :3], content[1, :, 3:] = 1, 1  # two things, left and right
    before = view(torch.cat([content, 2 * place]))
    after = without_positions(before, basis)
    flat = after.features.flatten(1)
    np.testing.assert_allclose((basis.T @ flat).numpy(), 0, atol=1e-6)
    np.testing.assert_allclose(flat.norm(dim=0).numpy(), 1, atol=1e-6)
    left, right = after.features[:, :, :3].flatten(1), after.features[:, :, 3:].flatten(1)
    assert (left.T @ left).min() > 0.9 > (before.features[:, :, :3].flatten(1).T @ before.features[:, 0, 0]).min()
    assert (left.T @ right).max() < (left.T @ left).min()
    assert after.likeness is before.features  # clusters are those of the features as they were


def test_the_basis_is_that_of_a_singular_value_decomposition_in_double_precision() -> None:
    features = torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(0))
    cells = features.double().flatten(1).T.numpy()
    cells /= np.linalg.norm(cells, axis=1, keepdims=True)
    values, vectors = np.linalg.eigh(np.cov(cells.T))
    expected = vectors[:, np.argsort(values)[::-1][:2]]
    found = position_basis(features, 2).numpy()
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-5)  # signs are free
    assert position_basis(features[:, :1, :2], 4).shape == (6, 1)  # two cells differ in one direction


def test_more_directions_than_channels_are_refused() -> None:
    with pytest.raises(ConfigError, match="must be less than the 6 channels of the features, got 6"):
        position_basis(torch.zeros(6, 3, 4), 6)


def test_pictures_are_compared_without_places(segmenter: Segmenter, photos) -> None:
    shown = next(photos.glob("00-*"))
    label = Concept("thing", images=[shown], boxes=[(0, 0, 30, 60)], use_name=False)
    plain = segmenter.with_examples(method="mean", cut_out=False)
    freed = plain.with_examples(positions=2)
    one, other = (each.segment(shown, [label, "blue"], keep_scores=True).scores for each in (plain, freed))
    assert one is not None and other is not None and not np.array_equal(one, other)
    with pytest.raises(ConfigError, match="less than the 7 channels"):
        plain.with_examples(positions=7).segment(shown, [label])
