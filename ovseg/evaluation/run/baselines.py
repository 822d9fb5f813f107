"""Segmenters to hold a model against: the floor, and the model without one of its parts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovseg.config import choose
from ovseg.evaluation.run.predictor import taken
from ovseg.evaluation.run.task import RunOptions, Task, open_task, spread
from ovseg.identity import digest
from ovseg.provenance import describe_model


@dataclass
class Majority:
    """One label everywhere: of those given, the one with the largest area in the truth.

    It looks at the truth to choose, so that no constant prediction has a higher pixel accuracy.

    Attributes:
        areas: pixels of each class in the truth, by its label.
        background: pixels of a background that has no label; where these are most, the prediction is -1.
    """

    areas: dict[str, int]
    background: int = 0

    @property
    def info(self) -> dict[str, str]:
        """Its name in reports, and what its choice is known by: other truth is another segmenter."""
        return {"name": "majority class", "areas": digest(self.areas, self.background)}

    @classmethod
    def of(cls, task: Task, options: RunOptions) -> Majority:
        """The one for the images of ``task``; reads every mask."""
        dataset, _ = open_task(task, options)
        protocol = dataset.protocol
        total: NDArray[np.int64] = np.zeros(len(protocol.names) + 1, np.int64)
        for index in spread(dataset.names, task.limit):
            truth = dataset.load(index).truth
            total += np.bincount(truth.ravel() + 1, minlength=len(total))  # place 0 holds the ignored pixels
        labels = [entry.prompt or entry.name for entry in protocol.classes]
        place = None if protocol.background.asked else protocol.background_index
        background = 0 if place is None else int(total[place + 1])
        return cls(dict(zip(labels, total[1:].tolist(), strict=True)), background)

    def segment(self, image: Any, labels: list[Any], *, background: Any = None) -> Any:
        """One label for all of ``image``, as an object with an (H, W) int32 ``index_map``."""
        areas = [self.areas.get(label if isinstance(label, str) else label.label, 0) for label in labels]
        best = int(np.argmax(areas))
        if self.background > areas[best]:
            best = -1
        return SimpleNamespace(index_map=np.full(np.asarray(image).shape[:2], best, np.int32))


@dataclass
class Without:
    """A segmenter whose ``segment`` gets other values of some keywords, whatever the protocol says.

    Attributes:
        segmenter: what is called.
        fixed: the keywords and their values; those that ``segmenter.segment`` does not take are left out.
        less: what the name in reports says is missing.
    """

    segmenter: Any
    fixed: dict[str, Any]
    less: str

    def __post_init__(self) -> None:
        whole = self.segmenter.segment
        fixed = taken(whole, self.fixed)

        @functools.wraps(whole)  # with its signature, so that it is given the same keywords
        def segment(image: Any, labels: list[Any], **keywords: Any) -> Any:
            return whole(image, labels, **{**keywords, **fixed})

        self.segment = segment
        for name in ("reads_examples", "side_by_side", "memory"):  # what a run asks of a segmenter, if it has them
            setattr(self, name, getattr(self.segmenter, name, None))

    @property
    def info(self) -> dict[str, Any]:
        """The segmenter's own description, with what was taken away."""
        described = describe_model(self.segmenter)
        return {**described, "name": f"{described['name']} ({self.less})", "fixed": self.fixed}


Make = Callable[[Any, Task, RunOptions], Any]
BASELINES: dict[str, Make] = {
    "majority": lambda segmenter, task, options: Majority.of(task, options),
    "no-refinement": lambda segmenter, task, options: Without(segmenter, {"refine": False}, "no refinement"),
    "no-background": lambda segmenter, task, options: Without(segmenter, {"background": None}, "no background"),
    "plain": lambda segmenter, task, options: Without(
        segmenter, {"refine": False, "background": None}, "no refinement, no background"
    ),
}


def make_baseline(name: str, segmenter: Any, task: Task, options: RunOptions) -> Any:
    """The baseline called ``name`` of ``BASELINES``.

    Args:
        name: which one.
        segmenter: the model that loses a part; ``majority`` does not look at it.
        task: what is evaluated; ``majority`` reads its truth.
        options: of the run.

    Raises:
        ConfigError: there is none of that name.
    """
    make = choose("baseline", name, BASELINES)
    return make(segmenter, task, options)
