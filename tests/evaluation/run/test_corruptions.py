from __future__ import annotations

import numpy as np
import pytest

from ovseg.errors import ConfigError, ShapeError
from ovseg.evaluation.run.corruptions import CORRUPTIONS, corrupt
from ovseg.evaluation.run.paraphrase import REWRITINGS, plural, rewriting, with_article


@pytest.fixture
def picture() -> np.ndarray:
    blocks = np.random.default_rng(0).integers(20, 230, (40, 60, 3))
    return np.kron(blocks, np.ones((5, 5, 1))).astype(np.uint8)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_corruption_grows_with_severity_and_repeats_with_the_seed(name: str, picture: np.ndarray) -> None:
    worse = [corrupt(picture, f"{name}:{severity}", seed=3) for severity in (1, 3, 5)]
    change = [np.abs(image.astype(int) - picture).mean() for image in worse]
    assert 0 < change[0] < change[1] < change[2]
    assert all(image.shape == picture.shape and image.dtype == np.uint8 for image in worse)
    np.testing.assert_array_equal(worse[1], corrupt(picture, f"{name}:3", seed=3))


def test_brightness_of_a_case_computed_by_hand() -> None:
    grey = np.full((2, 3, 3), 100, np.uint8)
    assert np.unique(corrupt(grey, "brightness:1")).tolist() == [126]  # 100 + 0.1 * 255, rounded


def test_unknown_corruptions_are_refused(picture: np.ndarray) -> None:
    with pytest.raises(ConfigError, match=r"unknown corruption 'fogg'; did you mean 'fog'\?"):
        corrupt(picture, "fogg:1")
    with pytest.raises(ConfigError, match="severity must be 1 to 5, got '6'"):
        corrupt(picture, "fog:6")
    with pytest.raises(ShapeError, match=r"must be \(H, W, 3\) uint8, got \(200, 300\)"):
        corrupt(picture[..., 0], "fog:1")


@pytest.mark.parametrize(
    ("phrase", "many", "one"),
    [
        ("cat", "cats", "a cat"),
        ("traffic light", "traffic lights", "a traffic light"),
        ("bus", "buses", "a bus"),
        ("teddy bear", "teddy bears", "a teddy bear"),
        ("person", "people", "a person"),
        ("cherry", "cherries", "a cherry"),
        ("toy", "toys", "a toy"),
        ("umbrella", "umbrellas", "an umbrella"),
        ("sky", "sky", "the sky"),
        ("wine glass", "wine glass", "the wine glass"),
    ],
)
def test_plurals_and_articles(phrase: str, many: str, one: str) -> None:
    assert (plural(phrase), with_article(phrase)) == (many, one)


def test_every_rewriting_keeps_phrases_apart() -> None:
    phrases = ["cat", "dog", "sky", "traffic light"]
    for name in REWRITINGS:
        assert len({rewriting(name)(phrase) for phrase in phrases}) == 4


def test_unknown_rewritings_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown paraphrase 'plurals'; did you mean 'plural'\?"):
        rewriting("plurals")
