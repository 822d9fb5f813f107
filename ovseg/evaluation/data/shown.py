"""Any data set with masks asked by pictures too: some of its images show what its classes look like."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ovseg.evaluation.data.class_masks import Pairs
from ovseg.evaluation.data.episodes import DrawnDataset
from ovseg.evaluation.data.examples import Example, Support
from ovseg.evaluation.data.files import open_files
from ovseg.evaluation.data.protocol import Episodes, Protocol
from ovseg.evaluation.metrics.confusion import IGNORE

_LEAST_SHARE = 0.005  # of an image that a class must take for the image to show it


@dataclass
class ShownDataset(DrawnDataset):
    """The images that show nothing, each with the pictures of all classes.

    Attributes:
        shots: per class index the positions of the images that show it.
        asked: positions of the images to segment.
        wanted: images that each class should have been shown by.
    """

    shots: Pairs
    asked: tuple[int, ...]
    wanted: int
    _supports: dict[int, tuple[Support, ...]] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the images to segment."""
        return tuple(self.base.names[place] for place in self.asked)

    @property
    def notes(self) -> list[str]:
        """Which classes are shown by fewer images than were asked for."""
        names = self.base.protocol.names
        fewer = {index: len(places) for index, places in self.shots.items() if len(places) < self.wanted}
        fewer |= {index: 0 for index in range(len(names)) if index not in self.shots}
        fewer.pop(self.base.protocol.background_index, None)  # type: ignore[arg-type]
        if not fewer:
            return []
        listed = ", ".join(f"{names[index]} ({count})" for index, count in sorted(fewer.items()))
        return [f"fewer than {self.wanted} images show {len(fewer)} of {len(names)} classes: {listed}"]

    def places(self, index: int) -> tuple[int, ...]:
        """The image, then all that show a class."""
        return self.asked[index], *sorted({place for places in self.shots.values() for place in places})

    def load(self, index: int) -> Example:
        """The image with its truth; its visual examples are the same for every image."""
        example = self.base.load(self.asked[index])
        return Example(example.name, example.image, example.truth, example.candidates, self.supports())

    def supports(self) -> dict[int, tuple[Support, ...]]:
        """The pictures of each class, read once."""
        if not self._supports:
            loaded = {place: self.base.load(place) for places in self.shots.values() for place in places}
            for index, places in self.shots.items():
                shown = (loaded[place] for place in places)
                self._supports[index] = tuple(Support(each.image, each.truth == index) for each in shown)
        return self._supports


def open_shown(protocol: Protocol, episodes: Episodes, data: Path, *, labels: str = "all") -> ShownDataset:
    """At most ``shots`` images for each class, drawn with the seed; all others are to be segmented.

    An image shows a class that takes half a percent of it or more. Where a class has too few images, one at least
    is left to be segmented. A class without a picture is asked by its words.

    Raises:
        DatasetError: the data is not laid out as the protocol says.
    """
    base = open_files(protocol, data, labels=labels)
    generator = np.random.default_rng(episodes.seed)
    order = generator.permutation(len(base.names)).tolist()
    showing: Pairs = {index: [] for index in range(len(protocol.classes or base.protocol.classes))}
    background = base.protocol.background_index
    for place in order:
        truth = base.load_truth(place)
        areas = np.bincount(truth.ravel() - IGNORE, minlength=len(showing) + 1)[1:]
        for index in np.flatnonzero(areas >= _LEAST_SHARE * truth.size).tolist():
            if index != background:
                showing[index].append(place)
    shots = {index: places[: min(episodes.shots, len(places) - 1)] for index, places in showing.items()}
    shots = {index: places for index, places in shots.items() if places}
    used = {place for places in shots.values() for place in places}
    asked = tuple(place for place in range(len(base.names)) if place not in used)
    return ShownDataset(base, shots, asked, episodes.shots)
