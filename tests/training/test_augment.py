from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ovseg.training.augment import Augmentation, change, make_view, mix, mosaic, nearest
from ovseg.training.data import Labelled, MaskData, open_source

STILL = Augmentation(flip=0, crop=1, scale=1, photometric=0, mosaic=0, mix=0)


def labelled(height: int = 80, width: int = 120, seed: int = 0) -> Labelled:
    """An image whose red is ten times its label, so that labels can be checked against pixels."""
    truth = np.repeat(
        np.repeat(np.random.default_rng(seed).integers(0, 20, (8, 12)), height // 8, 0), width // 12, 1
    )
    image = np.stack([truth * 10] * 3, -1).astype(np.uint8)
    return Labelled(image, truth.astype(np.int32), (truth * 10).astype(np.uint8))


def agreement(view: Labelled) -> float:
    """Share of pixels whose colour is that of their label; borders blend when an image is resized."""
    assert view.image.shape == (*view.truth.shape, 3) and view.image.dtype == np.uint8
    if view.confidence is not None:
        assert np.array_equal(view.confidence, view.truth * 10)
    return float((np.abs(view.image[..., 0].astype(int) - view.truth * 10) <= 5).mean())


@pytest.mark.parametrize("changed", [{"flip": 1.0}, {"crop": 0.5}, {"scale": 1.5}, {"flip": 0.5, "crop": 0.7}])
def test_labels_follow_their_pixels(changed: dict[str, float]) -> None:
    augmentation = STILL.model_copy(update=changed)
    for seed in range(5):
        assert agreement(change(labelled(), augmentation, np.random.default_rng(seed))) > 0.8


def test_nothing_changes_without_augmentation() -> None:
    view = change(labelled(), STILL, np.random.default_rng(0))
    assert np.array_equal(view.truth, labelled().truth) and np.array_equal(view.image, labelled().image)


def test_a_flip_is_a_mirror() -> None:
    view = change(labelled(), STILL.model_copy(update={"flip": 1.0}), np.random.default_rng(0))
    assert np.array_equal(view.truth, labelled().truth[:, ::-1])


def test_a_mosaic_holds_four_images_with_their_labels() -> None:
    tiles = [labelled(seed=seed) for seed in range(4)]
    view = mosaic(tiles)
    assert view.truth.shape == (80, 120) and agreement(view) > 0.3
    for number, (row, column) in enumerate(((0, 0), (0, 60), (40, 0), (40, 60))):
        tile = view.truth[row : row + 40, column : column + 60]
        assert np.array_equal(tile, nearest(tiles[number].truth, (40, 60)))


def test_mixed_patches_keep_the_labels_of_where_they_came_from() -> None:
    first, second = labelled(seed=0), labelled(seed=1)
    view = mix(first, second, np.random.default_rng(0))
    assert agreement(view) == 1.0
    from_second = (view.truth != first.truth).reshape(4, 20, 4, 30).any((1, 3))
    assert 2 <= from_second.sum() <= 14
    patch = np.repeat(np.repeat(from_second, 20, 0), 30, 1)
    assert np.array_equal(view.truth[patch], second.truth[patch])


def test_a_view_is_the_same_whenever_it_is_made(folder: Path) -> None:
    source = open_source(MaskData(protocol="folder", path=str(folder)))
    augmentation = Augmentation()
    for view in range(4):
        one = make_view(source, 1, view, augmentation=augmentation, seed=3)
        other = make_view(source, 1, view, augmentation=augmentation, seed=3)
        assert np.array_equal(one.image, other.image) and np.array_equal(one.truth, other.truth)
    assert np.array_equal(make_view(source, 1, 0, augmentation=augmentation, seed=3).image, source.load(1).image)
