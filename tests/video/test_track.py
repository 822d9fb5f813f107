"""One frame after the other: key frames, what is carried, scenes, masks, and objects that keep their numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.clips import SIZE, finding, moving, square
from helpers.toy import COLOURS, ToyDetector, bound, make_segmenter, within

from ovseg.errors import ConfigError, ImageError, ShapeError, TooLargeError, VocabularyError
from ovseg.pipeline.memory import Asked
from ovseg.video import VideoFrame, segment_video
from ovseg.video.memory import Memory, Remembered
from ovseg.video.options import VideoOptions
from ovseg.video.reading import Frame
from ovseg.video.request import Request
from ovseg.video.track import Tracker

SEGMENTER = make_segmenter()


def run(frames: list[np.ndarray], labels: Any = None, **options: Any) -> list[VideoFrame]:
    return list(segment_video(frames, labels, segmenter=options.pop("segmenter", SEGMENTER), **options))


def red(frame: VideoFrame) -> np.ndarray:
    return frame.result.mask("red")


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    return (one & other).sum() / (one | other).sum()


def test_every_frame_shows_what_moves_and_words_are_asked_on_key_frames_alone() -> None:
    asked = []
    plain = make_segmenter()
    logits = plain.logits
    plain.logits = lambda *given: (asked.append(1), logits(*given))[1]  # type: ignore[method-assign, func-returns-value]
    frames = moving(7, step=8)
    found = run(frames, ["red", "blue"], segmenter=plain, every=3)
    assert [frame.key for frame in found] == [True, False, False, True, False, False, True] and len(asked) == 3
    for frame, pixels in zip(found, frames, strict=True):
        truth = (pixels == COLOURS["red"]).all(2)
        assert overlap(red(frame), truth) > 0.5  # cells are 8 pixels wide
        assert frame.result.labels == ("red", "blue") and (frame.result.image == pixels).all()
    assert found[0].match is None and all(frame.match > 0.99 for frame in found[1:])


def test_words_are_asked_on_every_frame_and_with_objects_on_every_third() -> None:
    assert [frame.key for frame in run(moving(4), ["red"])] == [True] * 4
    segmenter, _ = finding((8, 16, 32, 40))
    found = run([square(8)] * 5, ["red"], segmenter=segmenter, instances=True)
    assert [frame.key for frame in found] == [True, False, False, True, False]


def test_a_frame_alone_is_what_segment_says() -> None:
    plain = SEGMENTER.segment(square(8), ["red", "blue"])
    (found,) = run([square(8)], ["red", "blue"])
    assert (found.result.index_map == plain.index_map).all()
    np.testing.assert_allclose(found.result.score_map, plain.score_map, atol=1e-5)


def test_what_matches_nothing_remembered_is_asked_by_words_at_once() -> None:
    frames = [
        square(8),
        square(8),
        square(8, colour="blue", top=0, side=64),
        square(8, colour="blue", top=0, side=64),
    ]
    found = run(frames, ["red", "blue"], every=100, weak=0.9, sure=1, lost=0.2, cut=1)
    assert [frame.key for frame in found] == [True, False, True, False]
    assert found[1].result.area("blue") == 0 and found[2].result.area("blue") > 0.5
    assert found[2].result.area("red") == 0
    unlost = run(frames, ["red", "blue"], every=100, weak=0.9, sure=1, lost=1, cut=1)
    assert [frame.key for frame in unlost] == [True, False, False, False]


def test_another_scene_forgets_what_was_remembered() -> None:
    frames = [square(8, side=64, top=0)] * 2 + [np.full((*SIZE, 3), COLOURS["green"], np.uint8)] * 2
    found = run(frames, ["red", "green"], every=100, weak=0.9, sure=1, cut=0.5)
    assert [frame.key for frame in found] == [True, False, True, False]
    assert found[2].match < 0.9 < found[3].match
    assert [round(frame.result.area("green")) for frame in found] == [0, 0, 1, 1]


def test_a_key_frame_mixes_words_with_what_was_carried() -> None:
    frames = [square(8), square(8)]
    flipped = make_segmenter()
    logits = flipped.logits
    count = iter([0, 1, 0, 1])

    def lying(*given: Any) -> Any:
        found = logits(*given)
        return replace(found, values=found.values[[1, 0]]) if next(count) else found

    flipped.logits = lying  # type: ignore[method-assign]
    for blend, kept in ((0.7, True), (0.3, False)):
        found = run(frames, ["red", "blue"], segmenter=flipped, every=1, blend=blend, background=None)
        assert overlap(red(found[1]), red(found[0])) == 1 if kept else found[1].result.mask("blue")[28, 20]


def test_memory_is_bounded_whatever_the_length() -> None:
    options = VideoOptions(context=3)
    memory = Memory(options)
    remembered = [Remembered(torch.full((2, 1, 1), float(n)), torch.zeros(1, 1, 1), {}) for n in range(50)]
    memory.begin(remembered[0])
    for frame in remembered[1:]:
        memory.add(frame)
    assert [float(frame.keys[0, 0, 0]) for frame in memory.frames] == [0, 47, 48, 49]


@pytest.mark.parametrize("every", [1, 4, 1000])
def test_what_a_tracker_holds_does_not_grow_with_the_clip(every: int) -> None:
    segmenter, _ = finding((8, 16, 32, 40))
    request = Request(["red"], instances=["red"])
    tracker = Tracker(segmenter, request.asked(segmenter, lambda: square(8)), VideoOptions(every=every, context=2))
    held = []
    for number in range(24):
        tracker.step(Frame(number, number / 10, square(8)))
        held.append(sum(tensor.numel() for tensor in tracker.state()[0].values()))
    assert max(held) == held[min(every, 3) - 1] == max(held[:4])


def test_a_mask_of_the_first_frame_is_followed() -> None:
    frames = [
        np.where(square(8 + 4 * n)[..., :] == 120, square(60, colour="blue", top=36, side=20), square(8 + 4 * n))
        for n in range(6)
    ]
    mask = np.zeros(SIZE, np.uint8)
    mask[16:40, 8:32], mask[36:56, 60:80] = 7, 9
    found = run(frames, ["ball", "box"], mask=mask)
    assert [frame.key for frame in found] == [True] + [False] * 5
    for frame, pixels in zip(found, frames, strict=True):
        for label, colour in (("ball", "red"), ("box", "blue")):
            assert overlap(frame.result.mask(label), (pixels == COLOURS[colour]).all(2)) > 0.5
    assert run(frames, mask=mask)[0].result.labels == ("object", "object 2")


def test_a_click_on_the_first_frame_is_followed() -> None:
    frames = moving(4)
    plain = make_segmenter()
    select = plain.select
    plain.select = lambda image, **given: select(image, using="features", **given)  # type: ignore[method-assign]
    found = run(frames, ["ball"], segmenter=plain, click=[(20, 28)])
    for frame, pixels in zip(found, frames, strict=True):
        assert overlap(frame.result.mask("ball"), (pixels == COLOURS["red"]).all(2)) > 0.5


def test_objects_keep_their_numbers_from_key_frame_to_key_frame() -> None:
    def two(step: int) -> np.ndarray:
        return np.where(square(4 + step) == 120, square(64 - step), square(4 + step))

    segmenter, detector = finding((4, 16, 28, 40), (64, 16, 88, 40))
    clip = (two(2 * number) for number in range(5))
    seen = []
    for frame in segment_video(clip, ["red"], segmenter=segmenter, instances=True, every=4):
        assert frame.result.instances is not None
        seen.append({number: each.box[0] for number, each in zip(frame.ids, frame.result.instances, strict=True)})
        if frame.number == 3:
            detector.boxes = torch.tensor([[56.0, 16, 80, 40], [12.0, 16, 36, 40]])
    assert all(set(boxes) == {1, 2} for boxes in seen)
    assert all(boxes[1] < 24 and boxes[2] > 48 for boxes in seen)


def test_an_object_that_is_missed_is_carried_for_a_while_and_a_new_one_gets_a_new_number() -> None:
    segmenter, detector = finding((8, 16, 24, 32))
    ids = []
    clip = (square(8, side=16) for _ in range(6))
    for frame in segment_video(clip, ["red"], segmenter=segmenter, instances=True, every=1, patience=2):
        ids.append(frame.ids)
        if frame.number == 0:
            detector.boxes, detector.classes = torch.zeros(0, 4), torch.zeros(0, 6)
        if frame.number == 4:
            again = ToyDetector((8, 16, 24, 32))
            detector.boxes, detector.classes = again.boxes, again.classes
    assert ids == [(1,), (1,), (1,), (), (), (2,)]


def test_a_tracker_goes_on_from_its_state() -> None:
    segmenter, _ = finding((8, 16, 32, 40))
    frames = [Frame(number, number / 10, pixels) for number, pixels in enumerate(moving(8, step=2))]
    request = Request(["red", "blue"], instances=["red"])
    options = VideoOptions(every=3, context=2)

    def tracker() -> Tracker:
        return Tracker(segmenter, request.asked(segmenter, lambda: frames[0].pixels), options)

    whole = tracker()
    expected = [whole.step(frame) for frame in frames]
    first, second = tracker(), tracker()
    for frame in frames[:4]:
        first.step(frame)
    second.restore(*first.state())
    for frame, wanted in zip(frames[4:], expected[4:], strict=True):
        found = second.step(frame)
        assert (found.result.index_map == wanted.result.index_map).all() and found.ids == wanted.ids
        assert found.result.instances == wanted.result.instances


def test_what_cannot_be_asked_is_refused() -> None:
    frames, mask = moving(2), np.ones(SIZE, bool)
    with pytest.raises(VocabularyError, match="expected labels, a mask or clicks, got none"):
        run(frames)
    with pytest.raises(ConfigError, match="got both"):
        run(frames, mask=mask, click=[(3, 3)])
    with pytest.raises(ConfigError, match="leave instances and quality out"):
        run(frames, mask=mask, instances=True)
    with pytest.raises(ShapeError, match=r"^click must lie in the image of 96 x 64 pixels, got \(500, 3\)"):
        run(frames, click=[(500, 3)])
    with pytest.raises(ShapeError, match=r"the size of the first frame, \(64, 96\), got \(64, 95\)"):
        run(frames, mask=mask[:, :95])
    with pytest.raises(ShapeError, match="got 0 everywhere"):
        run(frames, mask=~mask)
    with pytest.raises(ShapeError, match=r"bool or integers, got \(64, 96\) float32"):
        run(frames, mask=mask.astype(np.float32))
    with pytest.raises(ShapeError, match="at most 255 objects, got 6143 values besides 0"):
        run(frames, mask=np.arange(64 * 96).reshape(SIZE))
    with pytest.raises(VocabularyError, match="a name for each of 1 objects on the first frame, got 2"):
        run(frames, ["a", "b"], mask=mask)
    with pytest.raises(TypeError, match="no option 'evry'; did you mean 'every'"):
        run(frames, ["red"], evry=2)
    with pytest.raises(ConfigError, match="every must be at least 1, got 0"):
        run(frames, ["red"], every=0)
    with pytest.raises(ConfigError, match=r"sure must be above weak, 0.5, got 0.5"):
        run(frames, ["red"], sure=0.5)
    with pytest.raises(ConfigError, match="temperature must be above 0"):
        run(frames, ["red"], temperature=0)
    with pytest.raises(ImageError, match="got none"):
        run([], ["red"])


def test_frames_are_the_same_within_a_bound_on_memory() -> None:
    frames = moving(4)
    kept = run(frames, ["red"], segmenter=within(SEGMENTER, 200_000_000), every=2)
    for one, other in zip(run(frames, ["red"], every=2), kept, strict=True):
        np.testing.assert_array_equal(one.result.index_map, other.result.index_map)


def test_a_clip_that_a_bound_has_no_room_for_is_refused_before_work() -> None:
    bounded = within(SEGMENTER, 200_000_000)
    told = "frame 0 has 1500 x 1000 pixels, which need at least .* MB with 1 label, got max_memory=200 MB"
    with pytest.raises(TooLargeError, match=told):
        segment_video([np.zeros((1000, 1500, 3), np.uint8)], ["red"], segmenter=bounded)
    # what is remembered of frames counts too: 16 of 64 x 96 pixels
    asked = Asked.of(bounded.queries(["red"], background="auto"))
    alone = within(SEGMENTER, bound(SEGMENTER).least(SIZE, replace(asked, beside=24)))
    with pytest.raises(TooLargeError, match="frame 0 has 96 x 64 pixels"):
        segment_video(moving(1), ["red"], segmenter=alone)
