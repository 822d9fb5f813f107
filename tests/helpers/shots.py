"""Lessons, and what a method makes of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from ovseg.examples import View
from ovseg.examples.shot import Comparison, Lesson, TaughtT


def scores_of(method: Comparison[TaughtT], lesson: Lesson) -> Callable[[View], Tensor]:
    """The scores (M, h, w) of a picture, before they are calibrated or put together with words."""
    taught = [method.describe(lesson.of_label(label)) for label in range(len(lesson.rows))]
    return partial(_scores, method, taught)


def _scores(method: Comparison[TaughtT], taught: list[TaughtT], view: View) -> Tensor:
    return method.scores(view, taught)
