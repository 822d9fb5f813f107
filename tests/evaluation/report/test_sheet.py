from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.datasets import ObjectOracle, write_objects
from PIL import Image

from ovseg.evaluation import (
    EvaluationReport,
    evaluate,
)
from ovseg.evaluation.data.datasets import open_dataset
from ovseg.evaluation.data.protocol import load_protocol
from ovseg.evaluation.report.sheet import Shown, class_colors, legend, picture_sheet, ranked_images
from ovseg.result.segments import edges


@pytest.fixture
def report(folder: Path, oracle: Callable[..., Any]) -> EvaluationReport:
    return evaluate(oracle(4), "folder", data=folder)


def test_images_are_ranked_and_none_is_shown_twice(report: EvaluationReport) -> None:
    ranked = ranked_images(report, each=2)
    assert [kind for kind, _, _ in ranked] == ["best", "best", "median", "median", "worst", "worst"]
    assert len({name for _, name, _ in ranked}) == 6
    scores = [score for _, _, score in ranked]
    assert scores[0] == max(scores) and scores[-1] == min(scores)


def test_neighbouring_classes_have_different_colours_and_none_is_black() -> None:
    colours = class_colors(150)
    assert len(np.unique(colours, axis=0)) > 140 and colours[-1].tolist() == [0, 0, 0]


def colours_of(picture: Image.Image) -> set[tuple[int, ...]]:
    return set(map(tuple, np.asarray(picture).reshape(-1, 3).tolist()))


def test_a_legend_shows_the_colour_of_each_class_that_is_given_and_no_other() -> None:
    names = ("sky", "road", "cat", "dog")
    colours = [tuple(colour) for colour in class_colors(4).tolist()]
    shown = colours_of(legend([0, 2], names, width=400, black=False))
    assert {colours[0], colours[2]} <= shown and not {colours[1], colours[3], (0, 0, 0)} & shown
    assert (0, 0, 0) in colours_of(legend([0], names, width=400, black=True))


def test_a_legend_grows_with_its_classes_and_stays_inside_its_width() -> None:
    names = tuple(f"a class with quite a long name {number} | \x1b[31m" for number in range(40))
    tall, short = (legend(list(range(count)), names, width=300, black=True) for count in (40, 4))
    assert tall.width == short.width == 300 and tall.height > 5 * short.height
    assert legend([0], ("x" * 500,), width=200, black=False).width == 200


def test_a_sheet_begins_with_the_legend_of_all_its_pictures(
    report: EvaluationReport, folder: Path, oracle: Callable[..., Any]
) -> None:
    dataset = open_dataset(load_protocol("folder"), folder)

    def segment(index: int) -> Shown:
        example = dataset.load(index)
        return Shown(example, np.where(example.truth == 2, -1, example.truth))

    sheet = picture_sheet(report, segment=segment, names=dataset.names, each=1)
    top = sheet.crop((0, 0, sheet.width, 30 + 2 * 20 + 6))
    colours = [tuple(colour) for colour in class_colors(3).tolist()]
    assert set(colours) <= colours_of(top)  # sky, road, cat, and black for what was ignored or not found


def test_edges_are_drawn_between_objects_of_a_class() -> None:
    ids = np.repeat([0, 1, 2], [2, 3, 1])[None].astype(np.int32).repeat(2, 0)
    assert edges(ids).tolist() == [[False, True, False, False, True, False]] * 2


def test_a_sheet_of_objects_has_edges_in_truth_and_prediction(tmp_path: Path) -> None:
    write_objects(tmp_path / "data")
    for name in ("panoptic", "instances"):
        evaluate(ObjectOracle(unsure=True), name, data=tmp_path / "data", out=tmp_path / name)
        sheet = np.asarray(Image.open(tmp_path / name / "sheet.jpg")).astype(int)
        last = sheet[-240:]
        bright = (last.min(-1) > 230).mean(0)
        third = len(bright) // 3
        assert bright[third : 2 * third].max() > 0.2 and bright[2 * third :].max() > 0.2
