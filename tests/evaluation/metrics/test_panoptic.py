from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from ovseg.errors import ShapeError
from ovseg.evaluation.metrics.panoptic import (
    QualitySums,
    Segments,
    mean_quality,
    panoptic_counts,
    panoptic_quality,
)


def drawn(generator: np.random.Generator, *, crowds: bool) -> Segments:
    """A map of blocks of up to nine segments with void, of four classes."""
    ids = np.kron(generator.integers(0, 10, (4, 5)), np.ones((3, 4), np.int64)).astype(np.int32)
    classes = tuple(generator.integers(0, 4, 9).tolist())
    return Segments(ids, classes, tuple((generator.random(9) < 0.3).tolist()) if crowds else ())


def noisy(truth: Segments, generator: np.random.Generator) -> Segments:
    """The truth with other names here and there, and moved by a pixel."""
    ids = np.roll(truth.ids, (0, 1), (0, 1))
    ids[generator.random(ids.shape) < 0.1] = 0
    classes = tuple(int(generator.integers(0, 4)) if generator.random() < 0.3 else each for each in truth.classes)
    return Segments(ids, classes)


def slow(prediction: Segments, truth: Segments, names: list[int]) -> dict[int, list[float]]:
    """The definition, segment by segment and pixel by pixel."""
    counts: dict[int, list[float]] = {}
    matched_true, matched_found = set(), set()
    crowd = truth.crowd or (False,) * len(truth.classes)
    for t in range(1, len(truth.classes) + 1):
        for p in range(1, len(names) + 1):
            overlap = iou(prediction, truth, t, p)
            if overlap > 0.5 and not crowd[t - 1] and truth.classes[t - 1] == names[p - 1]:
                entry = counts.setdefault(names[p - 1], [0, 0, 0, 0.0])
                entry[0] += 1
                entry[3] += overlap
                matched_true.add(t)
                matched_found.add(p)
    for t in range(1, len(truth.classes) + 1):
        if t not in matched_true and not crowd[t - 1]:
            counts.setdefault(truth.classes[t - 1], [0, 0, 0, 0.0])[2] += 1
    for p in range(1, len(names) + 1):
        under = Counter(truth.ids[prediction.ids == p].tolist())
        excused = under[0] + sum(
            pixels for t, pixels in under.items() if t and crowd[t - 1] and truth.classes[t - 1] == names[p - 1]
        )
        if p not in matched_found and under and excused / sum(under.values()) <= 0.5:
            counts.setdefault(names[p - 1], [0, 0, 0, 0.0])[1] += 1
    return counts


def iou(prediction: Segments, truth: Segments, t: int, p: int) -> float:
    ours, theirs = prediction.ids == p, truth.ids == t
    either = ((ours & (truth.ids > 0)) | theirs).sum()
    return float((ours & theirs).sum() / either) if either else 0.0


@pytest.mark.parametrize("seed", range(12))
def test_counts_are_those_of_the_definition_segment_by_segment(seed: int) -> None:
    generator = np.random.default_rng(seed)
    truth = drawn(generator, crowds=seed % 2 == 1)
    prediction = noisy(truth, generator)
    table = panoptic_counts(prediction, truth)
    crowd = truth.crowd or (False,) * len(truth.classes)
    best = list(prediction.classes)
    for p in range(1, len(best) + 1):
        overlaps = [0.0 if crowd[t] else iou(prediction, truth, t + 1, p) for t in range(len(truth.classes))]
        if max(overlaps) > 0:
            best[p - 1] = truth.classes[int(np.argmax(overlaps))]
    for first, names in ((1, list(prediction.classes)), (5, best)):
        wanted = slow(prediction, truth, names)
        found = {int(row[0]): row[first : first + 4].tolist() for row in table if row[first : first + 4].any()}
        assert found.keys() == wanted.keys()
        for index, row in found.items():
            assert row == pytest.approx(wanted[index])


def strip(*runs: tuple[int, int]) -> Any:
    """(1, W) ids: of each run its length and its number."""
    return np.concatenate([np.full(length, number, np.int32) for length, number in runs])[None]


def test_quality_worked_out_by_hand() -> None:
    """Ten pixels of a cat, eight of them found (IoU 0.8); ten of sky, called sea; four of void, called a dog."""
    truth = Segments(strip((10, 1), (10, 2), (4, 0)), (0, 1))
    prediction = Segments(strip((8, 1), (2, 0), (10, 2), (4, 3)), (0, 2, 3))
    tables = [panoptic_counts(prediction, truth)]
    scores = panoptic_quality(tables, classes=4)
    assert scores[0] == pytest.approx([0.8, 0.8, 1])
    assert scores[1].tolist() == scores[2].tolist() == [0, 0, 0]
    assert np.isnan(scores[3]).all()  # on void alone: neither right nor wrong
    assert mean_quality(scores, range(4)).quality == pytest.approx(0.8 / 3)
    assert np.isnan(mean_quality(scores, [3]).quality)
    oracle = panoptic_quality(tables, classes=4, oracle_names=True)
    assert oracle[:2, 0] == pytest.approx([0.8, 1])
    assert np.isnan(oracle[2:]).all()


def test_an_object_cut_in_two_is_missed_and_two_are_wrong_under_any_name() -> None:
    truth = Segments(strip((10, 1)), (0,))
    table = panoptic_counts(Segments(strip((5, 1), (5, 2)), (0, 1)), truth)
    assert table.tolist() == [[0, 0, 1, 1, 0, 0, 2, 1, 0], [1, 0, 1, 0, 0, 0, 0, 0, 0]]


def test_a_match_takes_more_than_half_and_a_crowd_excuses_its_own_class_alone() -> None:
    truth = Segments(strip((10, 1), (10, 2)), (0, 1), (False, True))
    half = panoptic_counts(Segments(strip((5, 1), (15, 0)), (0,)), truth)
    assert half[0, 1:5].tolist() == [0, 1, 1, 0]  # exactly 0.5
    named = panoptic_counts(Segments(strip((10, 1), (10, 2)), (0, 1)), truth)
    assert named[:, 1:5].tolist() == [[1, 0, 0, 1], [0, 0, 0, 0]]
    other = panoptic_counts(Segments(strip((10, 1), (10, 2)), (0, 2)), truth)
    assert other[2, 1:5].tolist() == [0, 1, 0, 0]


def test_scores_add_up_over_images_and_empty_maps_count() -> None:
    truth = Segments(strip((4, 1)), (0,))
    tables = [
        panoptic_counts(Segments(strip((4, 1)), (0,)), truth),
        panoptic_counts(Segments(strip((4, 0)), ()), truth),
    ]
    assert panoptic_quality(tables, classes=1)[0] == pytest.approx([1 / 1.5, 1, 1 / 1.5])
    assert np.isnan(panoptic_quality([], classes=2)).all()


def test_maps_that_do_not_fit_are_refused() -> None:
    truth = Segments(strip((4, 1)), (0,))
    with pytest.raises(ShapeError, match=r"alike, got \(1, 3\) and \(1, 4\)"):
        panoptic_counts(Segments(strip((3, 1)), (0,)), truth)
    with pytest.raises(ShapeError, match=r"the prediction must hold numbers in \[0, 1\].*got 0 to 2"):
        panoptic_counts(Segments(strip((2, 1), (2, 2)), (0,)), truth)


def test_a_draw_of_images_has_the_quality_of_the_images_in_it() -> None:
    generator = np.random.default_rng(5)
    truths = [drawn(generator, crowds=True) for _ in range(6)]
    tables = [panoptic_counts(noisy(truth, generator), truth) for truth in truths]
    sums = QualitySums.of(tables, classes=4)
    counts = generator.integers(0, 3, (5, 6))
    found = sums.mean(counts.astype(np.float64))
    assert sums.images == 6
    for times, score in zip(counts, found, strict=True):
        again = [table for table, many in zip(tables, times, strict=True) for _ in range(many)]
        assert score == pytest.approx(mean_quality(panoptic_quality(again, classes=4), range(4)).quality)
    assert np.isnan(sums.mean(np.zeros((1, 6)))).all()
