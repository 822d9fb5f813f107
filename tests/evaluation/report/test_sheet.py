from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ovseg.evaluation import (
    EvaluationReport,
    evaluate,
)
from ovseg.evaluation.report.sheet import class_colors, ranked_images


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
