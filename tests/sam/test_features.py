"""The embedding of a SAM as a map."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from ovseg.errors import ModelError
from ovseg.images.geometry import ImageGeometry
from ovseg.sam.features import embedding_map, sam_map
from ovseg.sam.protocol import SamEmbedding

GEOMETRY = ImageGeometry((30, 60), (32, 64), (64, 64))


def test_cells_row_by_row_become_a_map_without_the_padding() -> None:
    cells = torch.arange(32.0).view(16, 2)  # 4 × 4 cells
    found = embedding_map(SamEmbedding(GEOMETRY, cells))
    assert found.shape == (1, 2, 2, 4)
    assert found[0, 0].tolist() == [[0, 2, 4, 6], [8, 10, 12, 14]]
    maps = cells.T.reshape(1, 2, 4, 4)
    torch.testing.assert_close(embedding_map(SamEmbedding(GEOMETRY, maps)), found)


def test_a_photo_is_encoded_by_the_network() -> None:
    network = SimpleNamespace(encode=lambda image: SamEmbedding(GEOMETRY, torch.ones(16, 2)))
    assert sam_map(network, torch.zeros(30, 60, 3, dtype=torch.uint8)).shape == (1, 2, 2, 4)  # type: ignore[arg-type]


def test_an_embedding_of_several_maps_is_refused() -> None:
    with pytest.raises(ModelError, match="use 'mobile-sam'"):
        embedding_map(SamEmbedding(GEOMETRY, [torch.ones(1, 2, 4, 4)]))
