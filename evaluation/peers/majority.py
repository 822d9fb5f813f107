"""The floor: every pixel gets the one label that covers most of the data set's truth.

    python evaluation/peers/majority.py camvid11 --data camvid/val --out results/majority

It looks at the truth to choose, so no constant answer has a higher pixel accuracy.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ovseg.evaluation.peer import class_areas, peer_parser, run_peer


@dataclass
class Constant:
    """An answer with one label everywhere."""

    index_map: np.ndarray[Any, np.dtype[np.int32]]


@dataclass
class Majority:
    """Answers with the label that has the largest area among those asked for."""

    areas: dict[str, int]
    info: dict[str, str] = field(default_factory=lambda: {"name": "majority class"})

    def segment(self, image: Any, labels: list[Any], *, background: Any = None) -> Constant:
        """One label for all of ``image``; -1 where the background is larger than any of them."""
        names = [label if isinstance(label, str) else label.label for label in labels]
        best = max(range(len(names)), key=lambda index: self.areas.get(names[index], 0))
        largest = self.areas.get(names[best], 0)
        if self.areas.get("background", 0) > largest:
            best = -1
        return Constant(np.full(np.asarray(image).shape[:2], best, np.int32))


def make(given: argparse.Namespace) -> Majority:
    """The segmenter for the data set that was asked for."""
    return Majority(class_areas(given.benchmark, data=given.data, limit=given.limit))


if __name__ == "__main__":
    print(run_peer(peer_parser(str(__doc__)), make))
