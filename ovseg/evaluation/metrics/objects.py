"""Average precision and recall of object masks: pycocotools matches and adds up, a few numbers are kept."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
FOUND_COLUMNS = ("class", "score", *(f"{what} {area}" for area in AREAS for what in ("matched", "ignored")))
TRUE_COLUMNS = ("class", *(f"objects {area}" for area in AREAS))
ANY_CLASS = -1  # stands for all classes where names do not count
_MOST = (1, 10, 100)  # detections of an image that count
_THRESHOLDS = 10  # of IoU: 0.5, 0.55, ... 0.95
Table = NDArray[np.float64]


class FoundObject(NamedTuple):
    """A predicted object: class index, score, and COCO's run-length encoding of its mask."""

    class_index: int
    score: float
    rle: dict[str, Any]


@dataclass(frozen=True)
class TrueObjects:
    """The annotated objects of an image.

    Attributes:
        classes: class index of each.
        rles: COCO's run-length encoding of each mask.
        areas: of each, in pixels, as annotated; decides whether it is small, medium or large.
        crowd: whether each stands for many; what is found there counts neither way.
        judged: classes of which it is known whether the image has them (LVIS); None: all.
        partial: classes of which some objects may not be annotated (LVIS).
    """

    classes: tuple[int, ...]
    rles: tuple[dict[str, Any], ...]
    areas: tuple[float, ...]
    crowd: tuple[bool, ...]
    judged: frozenset[int] | None = None
    partial: frozenset[int] = frozenset()


class Curves(NamedTuple):
    """What pycocotools adds up of one class over a data set; -1 where it has no object of that size.

    Attributes:
        precision: (10, 101, 1, 4, 3) by IoU threshold, recall, class, area and most detections.
        recall: (10, 1, 4, 3).
    """

    precision: Table
    recall: Table


@dataclass(frozen=True)
class ObjectScores:
    """Scores of some classes over a data set, the means over those with an object of that size; NaN where none has.

    Attributes:
        precision: AP over IoU 0.5 to 0.95, in [0, 1], by area: "all", "small" (below 32² pixels), "medium", "large"
            (from 96²).
        at_half, at_three_quarters: AP at IoU 0.5 and 0.75.
        recall: AR over IoU 0.5 to 0.95 with 1, 10 and 100 detections an image and class.
    """

    precision: dict[str, float]
    at_half: float
    at_three_quarters: float
    recall: dict[int, float]


def match_objects(found: Sequence[FoundObject], truth: TrueObjects) -> tuple[Table, Table]:
    """What average precision needs of an image.

    Returns:
        (n, 10) ``FOUND_COLUMNS``: of each object found its class, score and, for each range of areas, bits of the
        IoU thresholds at which it has a mate and at which it does not count; once under its class and once under
        ``ANY_CLASS``. And (k, 5) ``TRUE_COLUMNS``: how many true objects count, by class, the same way.

    Source: Lin et al., Microsoft COCO, ECCV 2014, as pycocotools matches; classes that nobody judged in an image
    and unmatched objects of partly annotated ones do not count: Gupta et al., LVIS, CVPR 2019, section 3.
    """
    known = truth.judged
    named = [each for each in found if known is None or each.class_index in known | {*truth.classes}]
    rows: list[list[float]] = []
    counts: list[list[float]] = []
    for index in sorted({*truth.classes, *(each.class_index for each in named)}):
        own = [place for place, other in enumerate(truth.classes) if other == index]
        chosen = [each for each in named if each.class_index == index]
        _match(index, chosen, truth, own, rows, counts)
    _match(ANY_CLASS, found, truth, range(len(truth.classes)), rows, counts)
    return (
        np.asarray(rows, np.float64).reshape(-1, len(FOUND_COLUMNS)),
        np.asarray(counts, np.float64).reshape(-1, len(TRUE_COLUMNS)),
    )


def precision_curves(found: Sequence[Table], true: Sequence[Table]) -> dict[int, Curves]:
    """The curves of each class that is anywhere, over a data set.

    Args:
        found, true: of ``match_objects``, one for each image.
    """
    return {index: _accumulate(*tables) for index, tables in sorted(_by_class(found, true).items())}


def mean_scores(curves: Mapping[int, Curves], members: Sequence[int]) -> ObjectScores:
    """The scores of the classes ``members``; ``[ANY_CLASS]`` where names do not count."""
    chosen = [curves[index] for index in members if index in curves]
    empty = np.full((_THRESHOLDS, 101, 1, len(AREAS), len(_MOST)), -1.0)
    precision = np.concatenate([empty, *(each.precision for each in chosen)], axis=2)
    recall = np.concatenate([empty[:, 0], *(each.recall for each in chosen)], axis=1)
    return ObjectScores(
        {area: _known_mean(precision[:, :, :, place, -1]) for place, area in enumerate(AREAS)},
        _known_mean(precision[0, :, :, 0, -1]),
        _known_mean(precision[5, :, :, 0, -1]),
        {most: _known_mean(recall[:, :, 0, place]) for place, most in enumerate(_MOST)},
    )


def _match(
    index: int,
    found: Sequence[FoundObject],
    truth: TrueObjects,
    own: Sequence[int],
    rows: list[list[float]],
    counts: list[list[float]],
) -> None:
    """Add the rows of one class: its objects found against the true ones at the places ``own``."""
    from pycocotools import mask as masks

    evaluator = _evaluator()
    evaluator._gts[1, 1] = [
        {
            "id": number,
            "segmentation": truth.rles[place],
            "area": truth.areas[place],
            "iscrowd": int(truth.crowd[place]),
            "ignore": int(truth.crowd[place]),
        }
        for number, place in enumerate(own, start=1)
    ]
    evaluator._dts[1, 1] = [
        {"id": number, "segmentation": each.rle, "score": each.score, "area": float(masks.area(each.rle))}
        for number, each in enumerate(found, start=1)
    ]
    evaluator.ious = {(1, 1): evaluator.computeIoU(1, 1)}
    by_area = [evaluator.evaluateImg(1, 1, list(limits), _MOST[-1]) for limits in AREAS.values()]
    if by_area[0] is None:
        return  # neither found nor there
    counts.append([index, *(int((np.asarray(each["gtIgnore"]) == 0).sum()) for each in by_area)])
    columns = []
    for each in by_area:
        matched = np.asarray(each["dtMatches"]) > 0
        ignored = np.asarray(each["dtIgnore"], bool) | (~matched & (index in truth.partial))
        columns += [_to_bits(matched), _to_bits(ignored)]
    for place, score in enumerate(by_area[0]["dtScores"]):
        rows.append([index, score, *(float(column[place]) for column in columns)])


def _by_class(found: Sequence[Table], true: Sequence[Table]) -> dict[int, tuple[list[Table], list[Table]]]:
    """By class, the tables of the images that show it or in which it was found."""
    tables: dict[int, tuple[list[Table], list[Table]]] = {}
    for ours, theirs in zip(found, true, strict=True):
        for index in theirs[:, 0].astype(int).tolist():
            kept = tables.setdefault(index, ([], []))
            kept[0].append(ours[ours[:, 0] == index])
            kept[1].append(theirs[theirs[:, 0] == index])
    return tables


def _accumulate(found: Sequence[Table], true: Sequence[Table]) -> Curves:
    evaluator = _evaluator()
    evaluator.params.imgIds = list(range(len(found)))
    evaluator._paramsEval = evaluator.params
    evaluator.evalImgs = [
        {
            "dtScores": ours[:, 1].tolist(),
            "dtMatches": _from_bits(ours[:, 2 + 2 * place]),
            "dtIgnore": _from_bits(ours[:, 3 + 2 * place]),
            "gtIgnore": np.zeros(int(theirs[0, 1 + place])),
        }
        for place in range(len(AREAS))
        for ours, theirs in zip(found, true, strict=True)
    ]
    with redirect_stdout(io.StringIO()):  # it tells how long it takes
        evaluator.accumulate()
    return Curves(evaluator.eval["precision"], evaluator.eval["recall"])


def _evaluator() -> Any:
    """pycocotools' evaluation of one class, still without images."""
    from pycocotools.cocoeval import COCOeval

    evaluator = COCOeval(iouType="segm")
    evaluator.params.imgIds, evaluator.params.catIds = [1], [1]
    evaluator.params.areaRng = [list(limits) for limits in AREAS.values()]
    evaluator.params.maxDets = list(_MOST)
    return evaluator


def _to_bits(flags: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(T, n) bool to (n,) int64."""
    weights = 1 << np.arange(_THRESHOLDS, dtype=np.int64)
    return np.asarray(weights @ flags.reshape(_THRESHOLDS, -1).astype(np.int64))


def _from_bits(bits: Table) -> NDArray[np.bool_]:
    """(n,) to (T, n) bool."""
    shifts = np.arange(_THRESHOLDS, dtype=np.int64)[:, None]
    return np.asarray(bits.astype(np.int64) >> shifts & 1, bool)


def _known_mean(values: Table) -> float:
    known = values[values > -1]
    return float(known.mean()) if known.size else float("nan")
