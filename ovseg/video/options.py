"""How labels are carried through a clip."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ovseg.errors import ConfigError

_EVERY_WITH_OBJECTS = 3


@dataclass(frozen=True)
class VideoOptions:
    """How labels are carried through a clip; the defaults hold for any model.

    Attributes:
        every: words are asked every so many frames (key frames). None asks them on every frame, as they cost little
            beside the features of a frame, which are needed anyway; and on every third where objects are looked
            for, which may cost a SAM.
        context: frames that are remembered, at most, beside the last key frame or the first mask; memory grows with
            this number and not with the length of the clip.
        radius: cells that a thing may have moved between two frames, in rows and columns.
        top: cells of the remembered frames that a cell takes its label from.
        temperature: of the weights of these.
        nearness: cosine that a cell at the edge of the radius loses: of two things that look alike, the nearer
            counts.
        blend: share of what was carried, in [0, 1], on a key frame, where the match is sure.
        weak: cosine below which a cell has no match; on a key frame words count alone there.
        sure: cosine from which a match is sure; between the two the share rises in a line.
        lost: share of cells without a match from which a frame is made a key frame.
        cut: share of cells without a match from which everything is forgotten: another scene begins.
        overlap: IoU from which an object that is found on a key frame is the one that was carried there.
        patience: key frames on which an object may be missed in a row before its number ends.

    Raises:
        ConfigError: a value is out of range.
    """

    every: int | None = None
    context: int = 7
    radius: int = 12
    top: int = 5
    temperature: float = 0.1
    nearness: float = 0.1
    blend: float = 0.6
    weak: float = 0.5
    sure: float = 0.9
    lost: float = 0.1
    cut: float = 0.4
    overlap: float = 0.3
    patience: int = 2

    def __post_init__(self) -> None:
        least = {"context": 1, "radius": 0, "top": 1, "patience": 0, "nearness": 0}
        for name, low in least.items():
            _check(name, getattr(self, name), low, None)
        for name in ("blend", "lost", "cut", "overlap"):
            _check(name, getattr(self, name), 0, 1)
        if self.every is not None:
            _check("every", self.every, 1, None)
        _check("weak", self.weak, -1, 1)
        if not self.sure > self.weak:
            raise ConfigError(f"sure must be above weak, {self.weak}, got {self.sure}; 0.9 is usual")
        if not self.temperature > 0:
            raise ConfigError(f"temperature must be above 0, got {self.temperature}; 0.1 is usual")

    def is_key(self, number: int, *, objects: bool) -> bool:
        """Whether words are asked on the frame of this number, whatever it shows."""
        return number % (self.every or (_EVERY_WITH_OBJECTS if objects else 1)) == 0

    @property
    def described(self) -> dict[str, Any]:
        """All values, as a description of what decides a result."""
        return asdict(self)


def _check(name: str, value: float, low: float, high: float | None) -> None:
    if not low <= value <= (float("inf") if high is None else high):
        wanted = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ConfigError(f"{name} must be {wanted}, got {value}; leave it out for the usual value")
