from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from ovseg.encoders.spec import DenseFeatures, EncoderSpec
from ovseg.errors import ConfigError, ShapeError
from ovseg.models.sections import InputConfig
from ovseg.pipeline.encode import encode_apart, encode_image, encode_windows, plan_input

STRIDE = 4


class Encoder:
    """Unit features that depend on the whole window, so that every window sees its cells differently."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, ...]] = []
        self.mix = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))

    def __call__(self, pixels: torch.Tensor) -> DenseFeatures:
        self.batches.append(tuple(pixels.shape))
        cells = functional.avg_pool2d(pixels, STRIDE) + pixels.mean((2, 3), keepdim=True)
        values = functional.normalize(torch.einsum("dc,bchw->bdhw", self.mix, cells), dim=1)
        return DenseFeatures(values, "toy", STRIDE, structure=functional.normalize(cells, dim=1))


def image(height: int, width: int) -> torch.Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_splicing_equals_a_slow_loop() -> None:
    pixels = image(24, 40)
    spliced = encode_windows(Encoder(), pixels, window=16, overlap=8, multiple=8)
    total, count = torch.zeros(5, 6, 10), torch.zeros(6, 10)
    for top in (0, 8):
        for left in (0, 8, 16, 24):
            values = Encoder()(pixels[:, :, top : top + 16, left : left + 16]).values[0]
            for row in range(4):
                for column in range(4):
                    total[:, top // 4 + row, left // 4 + column] += values[:, row, column]
                    count[top // 4 + row, left // 4 + column] += 1
    torch.testing.assert_close(spliced.values[0], total / count)
    torch.testing.assert_close(spliced.structure.norm(dim=1), torch.ones(1, 6, 10))


def test_scores_of_spliced_features_are_the_mean_of_the_windows_scores() -> None:
    pixels, query = image(16, 24), torch.randn(5)
    spliced = encode_windows(Encoder(), pixels, window=16, overlap=8, multiple=4)
    left, right = (
        torch.einsum("c,chw->hw", query, Encoder()(pixels[..., start : start + 16]).values[0]) for start in (0, 8)
    )
    scores = torch.einsum("c,chw->hw", query, spliced.values[0])
    torch.testing.assert_close(scores[:, 2:4], (left[:, 2:] + right[:, :2]) / 2)
    torch.testing.assert_close(scores[:, :2], left[:, :2])


def test_the_feature_splice_has_unit_length_and_the_same_direction() -> None:
    options = {"window": 16, "overlap": 8, "multiple": 4}
    scores = encode_windows(Encoder(), image(16, 40), **options)
    features = encode_windows(Encoder(), image(16, 40), **options, splice="features")
    torch.testing.assert_close(features.values, functional.normalize(scores.values, dim=1))


def test_the_vector_of_an_image_in_windows_is_the_mean_of_the_windows() -> None:
    def encode(pixels: torch.Tensor) -> DenseFeatures:
        dense = Encoder()(pixels)
        return replace(dense, whole=dense.values[:, :, 0, 0])

    pixels = image(16, 24)
    left, right = (encode(pixels[..., start : start + 16]).whole for start in (0, 8))
    options = {"window": 16, "overlap": 8}
    assert left is not None and right is not None
    spliced = encode_windows(encode, pixels, **options, multiple=4)
    torch.testing.assert_close(spliced.whole, (left + right) / 2)
    assert encode_windows(Encoder(), pixels, **options, multiple=4).whole is None


def test_windows_that_stay_apart_share_the_mean_of_their_vectors() -> None:
    seen: list[torch.Tensor] = []

    def encode(pixels: torch.Tensor) -> DenseFeatures:
        dense = Encoder()(pixels)
        seen.append(dense.values[:, :, 0, 0])
        return replace(dense, whole=seen[-1])

    photo = np.random.default_rng(0).integers(0, 256, (16, 40, 3), dtype=np.uint8)
    config = InputConfig(short_side=16, max_long_side=64, window=16, overlap=8, splice="pixels")
    features, _ = encode_apart(encode, photo, EncoderSpec("toy", "toy", STRIDE, 5), config)
    assert features.whole is not None and features.whole.shape == (1, 5)
    torch.testing.assert_close(features.whole[0], torch.cat(seen).mean(0))


def test_an_image_within_a_window_runs_whole() -> None:
    encoder = Encoder()
    whole = encode_windows(encoder, image(8, 16), window=16, overlap=8, multiple=4)
    assert encoder.batches == [(1, 3, 8, 16)]
    assert torch.equal(whole.values, Encoder()(image(8, 16)).values)


def test_windows_run_in_bounded_batches_of_one_size() -> None:
    encoder = Encoder()
    encode_windows(encoder, image(40, 64), window=16, overlap=8, multiple=4)
    assert {shape[1:] for shape in encoder.batches} == {(3, 16, 16)}
    assert [shape[0] for shape in encoder.batches] == [8, 8, 8, 4]


def test_windows_keep_to_multiples() -> None:
    encoder = Encoder()
    spliced = encode_windows(encoder, image(24, 48), window=22, overlap=3, multiple=8)
    assert {shape[2:] for shape in encoder.batches} == {(16, 16)}
    assert spliced.grid == (6, 12)


def test_sides_off_the_multiple_are_refused() -> None:
    with pytest.raises(ShapeError, match="multiples of 8, got 20 x 48"):
        encode_windows(Encoder(), image(20, 48), window=16, overlap=0, multiple=8)


@pytest.mark.parametrize(
    ("original", "size", "window"),
    [
        ((480, 640), (512, 672), None),
        ((200, 560), (448, 1280), None),  # not a strip: the long side decides
        ((3000, 200), (7680, 512), 1280),
        ((20, 8000), (32, 10240), 1280),  # enlarged a little, held to eight windows
        ((20, 200), (64, 800), 1280),  # enlarged four times
        ((1, 1), (512, 512), None),
    ],
)
def test_sizes_and_windows(original: tuple[int, int], size: tuple[int, int], window: int | None) -> None:
    config = InputConfig(short_side=512, max_long_side=1280)
    found = plan_input(original, config, multiple=32)
    assert found == (size, window)


def test_the_window_of_the_model_file_is_kept() -> None:
    config = InputConfig(short_side=336, max_long_side=2048, window=224)
    assert plan_input((480, 640), config, multiple=16) == ((336, 448), 224)
    assert plan_input((100, 4000), config, multiple=16)[1] == 224


SPEC = EncoderSpec("toy", "toy", STRIDE, 5, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), multiple=8)
APART = InputConfig(short_side=18, max_long_side=64, window=16, overlap=6, splice="pixels")


def photo(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def test_maps_of_windows_are_enlarged_and_averaged_in_pixels() -> None:
    picture = photo(18, 27)  # stays as it is
    features, geometry = encode_image(Encoder(), picture, SPEC, APART)
    assert geometry.original == (18, 27) and features.values.shape == (1, 5, 6 * 4, 4)
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None] / 255
    total, count = torch.zeros(5, 18, 27), torch.zeros(18, 27)
    for top in (0, 2):  # the second window is shifted back to end at the border
        for left in (0, 10, 11):
            values = Encoder()(pixels[:, :, top : top + 16, left : left + 16]).values
            large = functional.interpolate(values, size=(16, 16), mode="bilinear", align_corners=False)[0]
            total[:, top : top + 16, left : left + 16] += large
            count[top : top + 16, left : left + 16] += 1
    assert len(geometry.tiles) == 6
    found = geometry.sample(features.values, slice(0, 18), stride=STRIDE)[0]
    torch.testing.assert_close(found, total / count, atol=1e-5, rtol=1e-5)


def test_windows_of_an_odd_size_are_padded_around_and_sizes_are_exact() -> None:
    encoder = Encoder()
    features, geometry = encode_image(
        encoder, photo(36, 50), SPEC, APART.model_copy(update={"window": None, "resampling": "opencv"})
    )
    assert geometry.resized == (18, 25) and encoder.batches == [(1, 3, 24, 32)]
    assert geometry.sample(features.values, slice(3, 5), stride=STRIDE).shape == (1, 5, 2, 50)


def test_regions_are_found_once_on_the_whole_image_and_cut_as_the_windows_are() -> None:
    picture, asked, given = photo(36, 54), [], []

    def regions(image: np.ndarray) -> torch.Tensor:
        asked.append(image.shape)
        return torch.arange(36 * 54).view(36, 54)

    def encode(pixels: torch.Tensor, maps: torch.Tensor) -> DenseFeatures:
        given.append(maps)
        return Encoder()(pixels)

    encode_image(encode, picture, SPEC, APART, regions=regions)
    assert asked == [(36, 54, 3)]
    windows = torch.cat(given)
    assert windows.shape == (6, 16, 16)
    # pixel (2, 10) of the resized image, half as large, takes pixel (4, 20) of the map
    assert windows[4, 0, 0] == 4 * 54 + 20


def test_cells_of_windows_have_no_place_for_a_bank() -> None:
    _, geometry = encode_image(Encoder(), photo(18, 27), SPEC, APART)
    with pytest.raises(ConfigError, match="expected features on one grid of cells"):
        geometry.block((0, 0, 4, 4), stride=STRIDE)
    assert APART.on_one_grid.splice == "scores" and InputConfig().on_one_grid == InputConfig()
