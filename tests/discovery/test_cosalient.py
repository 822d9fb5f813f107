"""What photos have in common: weights by hand, and the square that all have."""

from pathlib import Path

import pytest
import torch
from helpers.toy import paint

from ovseg.discovery import cosaliency
from ovseg.discovery.cosalient import region_weights
from ovseg.errors import ImageError, ShapeError
from ovseg.images.load import load_image
from ovseg.pipeline.segmenter import Segmenter


def test_a_region_weighs_its_mean_best_match_in_the_others() -> None:
    x, y = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    both = torch.stack([x, y])
    weights = region_weights([both, x[None], torch.tensor([[0.6, 0.8]])])
    torch.testing.assert_close(weights[0], torch.tensor([(1 + 0.6) / 2, (0 + 0.8) / 2]))
    torch.testing.assert_close(weights[1], torch.tensor([(1 + 0.6) / 2]))
    torch.testing.assert_close(weights[2], torch.tensor([(0.8 + 0.6) / 2]))
    with pytest.raises(ShapeError, match="at least two images"):
        region_weights([both])


def test_the_square_that_only_one_photo_has_is_not_in_common(tmp_path: Path, segmenter: Segmenter) -> None:
    photos = [paint(tmp_path, f"{other}.png", ["red", other], seed=2) for other in ("green", "blue", "yellow")]
    for photo, found in zip(photos, cosaliency(photos, segmenter=segmenter, regions=3), strict=True):
        pixels = load_image(photo).astype(int)
        assert found.weights.shape == found.mask.shape == pixels.shape[:2]
        red = (pixels[..., 0] > 200) & (pixels[..., 1] < 60)
        own = abs(pixels - 120).max(2) > 60
        assert found.weights[red].mean() > found.weights[own & ~red].mean() + 0.1
        assert found.mask[red].mean() > 0.8 and found.mask[own & ~red].mean() < 0.2


def test_one_image_is_refused(tmp_path: Path, segmenter: Segmenter) -> None:
    photo = paint(tmp_path, "a.png", ["red"], seed=2)
    for images in ([photo], str(photo)):
        with pytest.raises(ImageError, match="at least two images"):
            cosaliency(images, segmenter=segmenter)
