"""What is remembered of the frames so far: the first and the last few, on the cells of their features."""

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
    """The first frame of a scene and the last ``options.context`` of it; its size is bounded."""

    def __init__(self, options: VideoOptions) -> None:
        self.options = options
        self.first: Remembered | None = None
        self.last: deque[Remembered] = deque(maxlen=options.context)

    @property
    def frames(self) -> list[Remembered]:
        """What is remembered, the first frame once."""
        return ([] if self.first is None or any(self.first is each for each in self.last) else [self.first]) + list(
            self.last
        )

    def add(self, frame: Remembered) -> None:
        """Remember a frame; the oldest but the first is forgotten where there are too many."""
        self.first = self.first or frame
        self.last.append(frame)

    def forget(self) -> None:
        """Forget everything."""
        self.first = None
        self.last.clear()

    def state(self) -> tuple[dict[str, Tensor], str]:
        """The frames as tensors, and their order as text; the tensors of a frame begin with its number."""
        tensors: dict[str, Tensor] = {}
        for place, frame in enumerate(self.frames):
            tensors |= {f"{place}.keys": frame.keys, f"{place}.maps": frame.maps}
            tensors |= {f"{place}.object.{number}": share for number, share in frame.objects.items()}
        return tensors, f"{len(self.frames)} {len(self.last)}"

    def restore(self, tensors: Mapping[str, Tensor], order: str) -> None:
        """Remember what ``state`` gave.

        Raises:
            KeyError, ValueError: it is something else.
        """
        count, last = map(int, order.split())
        objects: list[dict[int, Tensor]] = [{} for _ in range(count)]
        for name, share in tensors.items():
            place, kind, *number = name.split(".")
            if kind == "object":
                objects[int(place)][int(number[0])] = share
        frames = [
            Remembered(tensors[f"{place}.keys"], tensors[f"{place}.maps"], objects[place]) for place in range(count)
        ]
        self.forget()
        self.first = frames[0] if frames else None
        self.last.extend(frames[count - last :])

    def recall(self, keys: Tensor) -> tuple[Remembered, Tensor] | None:
        """What a frame with these keys (C, h, w) takes from the frames so far, and how well its cells match.

        An object that was not known yet in some of them is taken from the others alone. None where nothing is
        remembered, or of frames of another size.
        """
        frames = self.frames
        if not frames or frames[0].keys.shape != keys.shape:
            return None
        numbers = sorted({number for frame in frames for number in frame.objects})
        maps = torch.stack([_stacked(frame, numbers) for frame in frames])
        options = self.options
        context = torch.stack([frame.keys for frame in frames])
        found = carry(
            keys,
            context,
            maps,
            radius=options.radius,
            top=options.top,
            temperature=options.temperature,
            nearness=options.nearness,
        )
        count = len(frames[0].maps)
        shares, known = found.maps[count:].chunk(2) if numbers else ((), ())
        objects = {
            number: share / weight.clamp_min(1e-6)
            for number, share, weight in zip(numbers, shares, known, strict=True)
        }
        return Remembered(keys, found.maps[:count], objects), found.match


def _stacked(frame: Remembered, numbers: list[int]) -> Tensor:
    """(K + 2M, h, w): classes, objects, and for each object 1 where the frame knows it."""
    none = torch.zeros_like(frame.maps[0])
    shares = [frame.objects.get(number, none) for number in numbers]
    known = [torch.full_like(none, float(number in frame.objects)) for number in numbers]
    return torch.cat([frame.maps, *(map_[None] for map_ in (*shares, *known))])
