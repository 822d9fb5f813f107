"""Whether there is anything to learn: a loss that is 0 whatever the weights are ends a run before it begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ovseg.errors import ConfigError, DatasetError


@dataclass(frozen=True)
class Lesson:
    """What the labelled images of one source teach.

    Attributes:
        source: what names it, for messages.
        images: how many there are.
        shown: names of the classes with a pixel (or cell) that is trained on.
        background: whether some pixel is known to be none of the classes.
        weighs: whether some pixel has a weight above 0.
    """

    source: str
    images: int
    shown: Sequence[str]
    background: bool = False
    weighs: bool = True

    def check(self, loss: Literal["softmax", "binary"]) -> None:
        """Refuse what cannot teach.

        Args:
            loss: "softmax" tells classes apart, "binary" also tells each from the background.

        Raises:
            DatasetError: no class has a pixel, none weighs, or one class has nothing that it is told from.
        """
        if not self.shown:
            raise DatasetError(
                f"no pixel of {self.images} images of '{self.source}' is labelled with a class that is trained "
                "on; look at the masks, and at what is held out"
            )
        if not self.weighs:
            raise DatasetError(
                f"every labelled pixel of '{self.source}' has confidence 0, so that none counts; set "
                "weighted: false"
            )
        if len(self.shown) > 1 or (loss == "binary" and self.background):
            return
        name = self.shown[0]
        other = (
            "--set loss=binary learns it against the background that the masks show"
            if self.background
            else f"add masks of another class, or call what is not '{name}' a class 'background' and --set "
            "loss=binary"
        )
        raise DatasetError(
            f"'{self.source}' shows one class, '{name}', and nothing that this loss tells it from, so that nothing "
            f"is learned; {other}"
        )


def check_share(batch: int, *, processes: int, least: int, why: str) -> None:
    """Refuse a batch that leaves a process fewer than ``least`` examples.

    Raises:
        ConfigError: says how large it must be, and ``why``.
    """
    if batch // processes < least:
        raise ConfigError(
            f"schedule.batch must be at least {least * processes}, {least} for each of {processes} processes, got "
            f"{batch}: {why}"
        )
