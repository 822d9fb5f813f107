from __future__ import annotations

import pytest
import torch

from ovseg.encoders.spec import DenseFeatures
from ovseg.errors import ShapeError, SpaceError
from ovseg.heads.base import IdentityHead
from ovseg.pipeline.logits import best_query, class_logits
from ovseg.pipeline.queries import QueryBank
from ovseg.vocabulary.labels import Vocabulary


def bank(queries: torch.Tensor, owner: list[int], *, space: str = "toy", scale: float = 2.0) -> QueryBank:
    vocabulary = Vocabulary.of([f"label {index}" for index in range(max(owner) + 1)])
    return QueryBank.of_vectors(queries, owner, vocabulary, space=space, logit_scale=scale)


def match(maps: DenseFeatures, queries: QueryBank, *, smoothing: float | None = None) -> torch.Tensor:
    return class_logits(IdentityHead("toy"), maps, queries, smoothing=smoothing).values


def features(seed: int = 0) -> DenseFeatures:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(1, 4, 3, 5, generator=generator)
    structure = torch.nn.functional.normalize(torch.randn(1, 6, 3, 5, generator=generator), dim=1)
    return DenseFeatures(values, "toy", 16, structure=structure)


def test_matching_equals_a_loop_over_cells() -> None:
    maps, queries = features(), torch.randn(3, 4)
    logits = match(maps, bank(queries, [0, 1, 1]))
    for row in range(3):
        for column in range(5):
            cell = maps.values[0, :, row, column]
            dots = [2.0 * float(cell @ query) for query in queries]
            expected = [dots[0], max(dots[1], dots[2])]
            assert logits[:, row, column].tolist() == pytest.approx(expected, abs=1e-5)


def test_smoothing_averages_squares_of_cells_by_affinity() -> None:
    maps, queries = features(), torch.randn(2, 4)
    plain = match(maps, bank(queries, [0, 1]))
    smooth = match(maps, bank(queries, [0, 1]), smoothing=0.3)
    squares = [
        [(r, c) for r in rows for c in columns] for rows in ((0, 1), (2,)) for columns in ((0, 1), (2, 3), (4,))
    ]
    structure = maps.structure[0]
    for row in range(3):
        for column in range(5):
            means = [sum(structure[:, r, c] for r, c in square) / len(square) for square in squares]
            shares = torch.stack([structure[:, row, column] @ mean for mean in means]).div(0.3).softmax(0)
            values = [sum(plain[:, r, c] for r, c in square) / len(square) for square in squares]
            expected = sum(share * value for share, value in zip(shares, values, strict=True))
            torch.testing.assert_close(smooth[:, row, column], expected, atol=1e-5, rtol=0)


def test_permuting_labels_permutes_logits() -> None:
    maps, queries = features(), torch.randn(4, 4)
    order = [2, 0, 3, 1]
    torch.testing.assert_close(
        match(maps, bank(queries[order], [0, 1, 2, 3])), match(maps, bank(queries, [0, 1, 2, 3]))[order]
    )


def test_the_best_query_of_each_class_counts() -> None:
    logits = torch.tensor([[1.0], [5.0], [3.0], [-2.0]])
    assert best_query(logits, torch.tensor([0, 0, 1, 2]), classes=3).tolist() == [[5.0], [3.0], [-2.0]]


def test_features_of_another_space_are_refused() -> None:
    with pytest.raises(SpaceError, match="features are in 'toy' but the text bank is in 'clip'"):
        match(features(), bank(torch.randn(1, 4), [0], space="clip"))


def test_a_batch_is_refused() -> None:
    maps = DenseFeatures(torch.zeros(2, 4, 3, 5), "toy", 16)
    with pytest.raises(ShapeError, match="must be of one image"):
        match(maps, bank(torch.randn(1, 4), [0]))
