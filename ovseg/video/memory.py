"""What is remembered of the frames so far, on the cells of their features: a key frame, and a few after it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ovseg.video.options import VideoOptions
from ovseg.video.propagate import carry


@dataclass(frozen=True)
class Remembered:
    """One frame.

    Attributes:
        keys: (C, h, w) unit vectors, by which its cells are found again.
        maps: (K, h, w) probabilities of the classes.
        objects: (h, w) in [0, 1] of each object by its number: how much of a cell it covers.
    """

    keys: Tensor
    maps: Tensor
    objects: Mapping[int, Tensor]


class Memory:
    """A key frame and the last ``options.context`` frames after it, which have its objects; the size is bounded.

    What came before a key frame is not needed: what was carried to it is part of what it says. Older frames would
    outvote what words have just found to be new.
    """

    def __init__(self, options: VideoOptions) -> None:
        self.options = options
        self.frames: list[Remembered] = []
        self._last: deque[Remembered] = deque(maxlen=options.context)

    def begin(self, frame: Remembered) -> None:
        """Remember a key frame, and forget all before it."""
        self._last.clear()
        self.frames = [frame]

    def add(self, frame: Remembered) -> None:
        """Remember a frame; the oldest after the key frame is forgotten where there are too many."""
        self._last.append(frame)
        self.frames = [self.frames[0], *self._last]

    def state(self) -> dict[str, Tensor]:
        """The frames as tensors, each with the number of its frame before its name."""
        tensors: dict[str, Tensor] = {}
        for place, frame in enumerate(self.frames):
            tensors |= {f"{place}.keys": frame.keys, f"{place}.maps": frame.maps}
            tensors |= {f"{place}.object.{number}": share for number, share in frame.objects.items()}
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Remember what ``state`` gave.

        Raises:
            KeyError, ValueError: it is something else.
        """
        objects: dict[int, dict[int, Tensor]] = {}
        for name, share in tensors.items():
            place, kind, *number = name.split(".")
            found = objects.setdefault(int(place), {})
            if kind == "object":
                found[int(number[0])] = share
        for order in sorted(objects):
            frame = Remembered(tensors[f"{order}.keys"], tensors[f"{order}.maps"], objects[order])
            self.add(frame) if order else self.begin(frame)

    def recall(self, keys: Tensor) -> tuple[Remembered, Tensor] | None:
        """What a frame with these keys (C, h, w) takes from the frames so far, and how well its cells match.

        The match is (h, w) in [-1, 1]. None where nothing is remembered.
        """
        if not self.frames:
            return None
        options, numbers = self.options, list(self.frames[0].objects)
        maps = [torch.stack([*frame.maps, *(frame.objects[number] for number in numbers)]) for frame in self.frames]
        found = carry(
            keys,
            torch.stack([frame.keys for frame in self.frames]),
            torch.stack(maps),
            radius=options.radius,
            top=options.top,
            temperature=options.temperature,
            nearness=options.nearness,
        )
        count = len(self.frames[0].maps)
        objects = dict(zip(numbers, found.maps[count:], strict=True))
        return Remembered(keys, found.maps[:count], objects), found.match
