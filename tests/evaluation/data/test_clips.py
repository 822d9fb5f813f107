"""Made clips: where the thing is, what the ground shows, and what cannot be made."""

from __future__ import annotations

import numpy as np
import pytest

from ovseg.errors import ShapeError
from ovseg.evaluation.data.clips import MadeClip, moving_thing

GROUND = np.zeros((200, 240, 3), np.uint8)
GROUND[:, :120] = (0, 0, 200)
TRUTH = np.zeros((200, 240), np.int32)
TRUTH[:, 120:] = 1
THING = np.full((50, 30, 3), (200, 0, 0), np.uint8)
MASK = np.ones((50, 30), bool)
MASK[:25, :15] = False


def make(**changes: object) -> MadeClip:
    given: dict[str, object] = {"label": 2, "count": 6, "size": (96, 128), "seed": 1}
    return moving_thing(GROUND, TRUTH, THING, MASK, **{**given, **changes})  # type: ignore[arg-type]


def test_the_truth_is_exact_on_every_frame() -> None:
    clip = make()
    assert clip.frames.shape == (6, 96, 128, 3) and clip.truth.shape == clip.thing.shape == (6, 96, 128)
    for frame, truth, thing in zip(clip.frames, clip.truth, clip.thing, strict=True):
        assert (truth == 2).sum() == thing.sum() > 0 and set(np.unique(truth)) == {0, 1, 2}
        assert (
            frame[thing][:, 0].min() > 150 and frame[~thing][:, 0].max() < 60
        )  # red where it is, and nowhere else
        assert frame[truth == 0][:, 2].mean() > 150 > frame[truth == 1][:, 2].mean()


def test_the_thing_moves_and_the_camera_too() -> None:
    clip = make()
    middles = [np.nonzero(thing)[1].mean() for thing in clip.thing]
    steps = np.diff(middles)
    assert (np.sign(steps) == np.sign(steps[0])).all() and abs(middles[-1] - middles[0]) > 0.5 * 128
    edges = [int((truth[0] == 0).sum()) for truth in clip.truth]
    assert len(set(edges)) > 1  # the border of the two grounds wanders


def test_a_seed_makes_the_same_clip() -> None:
    assert (make().frames == make().frames).all() and (make().frames != make(seed=2).frames).any()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"must be of one size, .* got \(200, 240\), \(200, 239\)"):
        moving_thing(GROUND, TRUTH[:, :239], THING, MASK, label=2, count=3)
    with pytest.raises(ShapeError, match="must not be empty"):
        moving_thing(GROUND, TRUTH, THING, np.zeros_like(MASK), label=2, count=3)
