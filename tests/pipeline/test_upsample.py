from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from ovseg.errors import ShapeError
from ovseg.images.geometry import ImageGeometry, interpolation_matrix
from ovseg.images.resize import restore
from ovseg.pipeline import upsample as paint
from ovseg.pipeline.upsample import find_winners


def geometry(height: int, width: int, grid: tuple[int, int], stride: int) -> ImageGeometry:
    size = (grid[0] * stride, grid[1] * stride)
    return ImageGeometry((height, width), size, size)


@pytest.mark.parametrize("pieces", ["_pieces", "_whole"])
@pytest.mark.parametrize("classes", [1, 2, 7, 60, 300])
@pytest.mark.parametrize(("size", "grid"), [((37, 91), (5, 12)), ((1, 1), (1, 1)), ((300, 40), (19, 3))])
def test_winners_equal_interpolating_every_class(
    monkeypatch: pytest.MonkeyPatch, classes: int, size: tuple[int, int], grid: tuple[int, int], pieces: str
) -> None:
    monkeypatch.setattr(paint, "_pieces", getattr(paint, pieces))  # what an accelerator takes, too
    torch.manual_seed(0)
    maps = torch.rand(classes, *grid).softmax(0)
    record = geometry(*size, grid, 16)
    everything = restore(maps[None], record, stride=16)[0]
    found = find_winners(maps, record, stride=16)
    first = everything.amax(0)
    torch.testing.assert_close(found.best, first, atol=1e-6, rtol=0)
    chosen = everything.gather(0, found.index.long()[None])[0]
    torch.testing.assert_close(chosen, first, atol=1e-6, rtol=0)
    if classes > 1:
        torch.testing.assert_close(found.second, everything.topk(2, dim=0).values[1], atol=1e-6, rtol=0)
    else:
        assert (found.second == 0).all()


def test_candidates_are_few_when_the_maps_are_confident() -> None:
    maps = torch.zeros(500, 9, 9)
    maps[3] = 1.0
    maps[4] = 0.5
    assert paint._candidates(maps).tolist() == [3, 4]


def test_blocks_do_not_show_in_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = torch.rand(5, 23, 31, generator=torch.Generator().manual_seed(1))
    record = geometry(200, 310, (23, 31), 8)
    whole = find_winners(maps, record, stride=8)
    monkeypatch.setattr(paint, "_BLOCK_CELLS", 3)
    monkeypatch.setattr(paint, "_BLOCK_VALUES", 100)
    small = find_winners(maps, record, stride=8)
    assert torch.equal(whole.index, small.index)
    torch.testing.assert_close(whole.second, small.second)


def test_padding_does_not_reach_the_image() -> None:
    maps = torch.zeros(2, 2, 4)
    maps[1, :, 2:] = 9.0  # class 1 only in the padding
    maps[0, :, :2] = 1.0
    record = ImageGeometry((32, 32), (32, 32), (32, 64))
    index = find_winners(maps, record, stride=16).index
    assert (index[:, :24] == 0).all()


def test_interpolation_matrix_by_hand() -> None:
    matrix = interpolation_matrix(4, 2, cells_per_pixel=0.5, device=torch.device("cpu"))
    assert matrix.tolist() == [[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]
    expected = functional.interpolate(torch.tensor([[[2.0, 6.0]]]), size=4, mode="linear")[0, 0]
    torch.testing.assert_close(matrix @ torch.tensor([2.0, 6.0]), expected)


def test_maps_of_another_rank_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"maps must be \(K, h, w\), got \(4, 4\)"):
        find_winners(torch.zeros(4, 4), geometry(4, 4, (4, 4), 1), stride=1)
