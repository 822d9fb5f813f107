from __future__ import annotations

import io
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import pytest

from ovseg.evaluation.metrics.objects import (
    ANY_CLASS,
    FoundObject,
    TrueObjects,
    match_objects,
    mean_scores,
    precision_curves,
)
from ovseg.result.segments import encode_mask

SIZE = (170, 190)


def box(x0: int, y0: int, x1: int, y1: int) -> dict[str, Any]:
    mask = np.zeros(SIZE, bool)
    mask[y0:y1, x0:x1] = True
    return encode_mask(mask)


def area(rle: dict[str, Any]) -> float:
    from pycocotools import mask as masks

    return float(masks.area(rle))


def truth_of(*objects: tuple[int, dict[str, Any]], **more: Any) -> TrueObjects:
    rles = tuple(rle for _, rle in objects)
    crowd = more.pop("crowd", (False,) * len(objects))
    return TrueObjects(tuple(index for index, _ in objects), rles, tuple(map(area, rles)), crowd, **more)


def drawn(generator: np.random.Generator) -> tuple[list[FoundObject], TrueObjects]:
    """An image of up to seven objects of three classes and of all sizes; found with wrong borders and names."""
    true, found = [], []
    for _ in range(generator.integers(0, 8)):
        x0, y0 = generator.integers(0, 60, 2)
        width, height = generator.integers(8, 110, 2)
        index = int(generator.integers(0, 3))
        true.append((index, box(x0, y0, x0 + width, y0 + height)))
        for _ in range(generator.integers(0, 3)):
            dx, dy = generator.integers(0, 5, 2)
            index = int(generator.integers(0, 3)) if generator.random() < 0.2 else index
            found.append(
                FoundObject(index, float(generator.random()), box(x0 + dx, y0 + dy, x0 + width, y0 + height))
            )
    return found, truth_of(*true, crowd=tuple((generator.random(len(true)) < 0.15).tolist()))


def pycocotools_stats(images: list[tuple[list[FoundObject], TrueObjects]], *, names: bool) -> list[float]:
    """AP, AP50, AP75, small, medium, large and AR1, 10, 100 of pycocotools on the whole set at once."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, found = [], []
    for image, (predicted, true) in enumerate(images, start=1):
        for index, rle, size, crowd in zip(true.classes, true.rles, true.areas, true.crowd, strict=True):
            values = {"category_id": index + 1, "segmentation": rle, "area": size, "iscrowd": int(crowd)}
            truth.append({"id": len(truth) + 1, "image_id": image, **values})
        found += [
            {"image_id": image, "category_id": each.class_index + 1, "score": each.score, "segmentation": each.rle}
            for each in predicted
        ]
    with redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": number + 1, "height": SIZE[0], "width": SIZE[1]} for number in range(len(images))],
            "annotations": truth,
            "categories": [{"id": number, "name": str(number)} for number in (1, 2, 3)],
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(found), "segm")
        evaluation.params.useCats = int(names)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[:9].tolist()


@pytest.mark.parametrize("names", [True, False])
def test_scores_from_rows_of_images_are_pycocotools_of_the_whole_set(names: bool) -> None:
    generator = np.random.default_rng(3)
    images = [drawn(generator) for _ in range(12)]
    tables = [match_objects(*image) for image in images]
    curves = precision_curves([found for found, _ in tables], [true for _, true in tables])
    scores = mean_scores(curves, range(3) if names else [ANY_CLASS])
    found = [*scores.precision.values()], [*scores.recall.values()]
    ours = [found[0][0], scores.at_half, scores.at_three_quarters, *found[0][1:], *found[1]]
    assert ours == pytest.approx(pycocotools_stats(images, names=names), abs=1e-12)
    assert 0.1 < ours[0] < 0.9


def test_precision_and_recall_worked_out_by_hand() -> None:
    """Of two cats one is found whole, and a dog where none is: recall 1/2, precision 1 up to there (51 of 101)."""
    cat, other = box(0, 0, 20, 20), box(40, 0, 60, 20)
    found = [FoundObject(0, 0.9, cat), FoundObject(1, 0.8, box(80, 80, 90, 90))]
    rows, counts = match_objects(found, truth_of((0, cat), (0, other)))
    scores = mean_scores(precision_curves([rows], [counts]), range(2))
    assert scores.precision["all"] == scores.at_half == pytest.approx(51 / 101)
    assert scores.recall == {1: 0.5, 10: 0.5, 100: 0.5}
    assert scores.precision["small"] == pytest.approx(51 / 101)
    assert np.isnan(scores.precision["large"])
    nothing = mean_scores({}, [1])
    assert np.isnan(nothing.at_half) and np.isnan(nothing.recall[100])


def test_names_do_not_count_under_any_class() -> None:
    mask = box(0, 0, 50, 50)
    rows, counts = match_objects([FoundObject(2, 0.9, mask)], truth_of((0, mask)))
    assert mean_scores(precision_curves([rows], [counts]), range(3)).precision["all"] == 0
    assert mean_scores(precision_curves([rows], [counts]), [ANY_CLASS]).precision["all"] == pytest.approx(1)


def test_classes_that_nobody_judged_and_partly_annotated_ones_do_not_count_against() -> None:
    mask, far = box(0, 0, 50, 50), box(60, 60, 100, 100)
    found = [FoundObject(0, 0.9, far), FoundObject(0, 0.8, mask), FoundObject(1, 0.9, far)]
    plain = truth_of((0, mask), (1, mask))
    partly = truth_of((0, mask), (1, mask), judged=frozenset({0}), partial=frozenset({0}))
    unjudged = truth_of((0, mask), judged=frozenset())
    for truth, wanted in ((plain, 0.25), (partly, 0.5), (unjudged, 0.5)):
        rows, counts = match_objects(found, truth)
        assert mean_scores(precision_curves([rows], [counts]), range(2)).at_half == pytest.approx(wanted)
    assert 1 not in match_objects(found, unjudged)[0][:, 0]


def test_an_image_without_anything_has_no_rows() -> None:
    rows, counts = match_objects([], truth_of())
    assert rows.shape == (0, 10) and counts.shape == (0, 5)
