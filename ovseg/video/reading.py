"""Frames of a clip, one after the other, upright, each with its time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass, field
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ovseg.errors import ImageError, require
from ovseg.images.find import find_images
from ovseg.images.load import read_image

Pixels: TypeAlias = npt.NDArray[np.uint8]
ClipSource: TypeAlias = "str | PathLike[str] | Iterable[Pixels]"

EXTRA = "video"
USUAL_RATE = 25.0  # frames a second where nothing says when a frame is shown
_LEAST_STEP = 1e-4  # seconds from one frame to the next, at least


@dataclass(frozen=True)
class Frame:
    """One picture of a clip.

    Attributes:
        number: from 0.
        seconds: when it is shown, from the first frame on; always later than the frame before.
        pixels: (H, W, 3) uint8 RGB, upright.
    """

    number: int
    seconds: float
    pixels: Pixels


@dataclass
class Clip:
    """A video file, a folder of pictures, or pictures in memory; ``frames`` decodes one at a time.

    Attributes:
        source: path of a file or folder; or arrays (H, W, 3) uint8, which are read once if they are no sequence.
        rate: frames a second of pictures without times; a video file has times of its own.
        notes: what was found on the way, such as a broken tail, by the last call of ``frames``.
    """

    source: ClipSource
    rate: float = USUAL_RATE
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The file or folder without its ending; "clip" for pictures in memory."""
        return Path(self.source).stem if isinstance(self.source, str | PathLike) else "clip"

    @property
    def expected(self) -> int | None:
        """How many frames the clip says it has; None where it does not say. It may be wrong."""
        if not isinstance(self.source, str | PathLike):
            return len(self.source) if isinstance(self.source, Sized) else None
        if Path(self.source).is_dir():
            return len(find_images(str(self.source)))
        with _opened(Path(self.source)) as container:
            stream = container.streams.video[0]
            stated = stream.frames
            if not stated and container.duration and stream.average_rate:
                stated = round(container.duration / 1e6 * stream.average_rate)
            return int(stated) or None

    def frames(self) -> Iterator[Frame]:
        """All frames in the order in which they are shown.

        What cannot be decoded is left out; ``notes`` says so. A frame of another size than the first is brought
        to that size.

        Raises:
            ImageError: there is no such file, it is no video, or not one frame of it can be decoded.
            MissingDependencyError: PyAV is not installed, and the source is a file.
        """
        self.notes.clear()
        found = self._decoded()
        first = next(found, None)
        if first is None:
            raise ImageError(
                f"expected a video with frames, got none in '{self._told}'; was it cut off when copied?"
            )
        size, last = first[1].shape[:2], -1.0
        for number, (seconds, pixels) in enumerate(chain([first], found)):
            if pixels.shape[:2] != size:
                pixels = _resized(pixels, (size[0], size[1]))
            last = max(seconds - first[0], last + _LEAST_STEP) if number else 0.0
            yield Frame(number, last, pixels)

    @property
    def _told(self) -> str:
        return str(self.source) if isinstance(self.source, str | PathLike) else "the pictures given"

    def _decoded(self) -> Iterator[tuple[float, Pixels]]:
        """Seconds and pixels of each frame."""
        if not isinstance(self.source, str | PathLike):
            pictures: Iterable[Any] = (read_image(each).pixels for each in self.source)
        elif Path(self.source).is_dir():
            pictures = (read_image(path).pixels for path in find_images(str(self.source)))
        else:
            yield from _decode(Path(self.source), self.notes)
            return
        for number, pixels in enumerate(pictures):
            yield number / self.rate, pixels


def _opened(path: Path) -> Any:
    """A container of PyAV with a stream of pictures."""
    av = require("av", extra=EXTRA)
    if not path.is_file():
        raise ImageError(f"no video '{path}'; give a video file, or a folder of frames")
    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, ValueError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(
            f"expected a video file, got '{path}', which cannot be opened ({reason}); is it whole, and a video?"
        ) from error
    if not container.streams.video:
        container.close()
        raise ImageError(f"expected a video file, got '{path}', which has no pictures; is it sound alone?")
    return container


def _decode(path: Path, notes: list[str]) -> Iterator[tuple[float, Pixels]]:
    """The frames that can be decoded; what cannot is told in ``notes``."""
    av = require("av", extra=EXTRA)
    with _opened(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        stated, rate = stream.frames, float(stream.average_rate or USUAL_RATE)
        count, broken = 0, 0
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets)
                frames = packet.decode()
            except StopIteration:
                break
            except (av.error.EOFError, av.error.InvalidDataError, av.error.OSError) as error:
                broken += 1
                if isinstance(error, av.error.InvalidDataError):
                    continue
                break
            for frame in frames:
                yield (count / rate if frame.time is None else float(frame.time)), _upright(frame)
                count += 1
    if broken or count < stated:
        of = f" of {stated}" if stated > count else ""
        notes.append(f"'{path}' is broken: {count}{of} frames could be decoded, the rest is left out")


def _upright(frame: Any) -> Pixels:
    """(H, W, 3) of a frame, turned as its file says that it is to be shown."""
    pixels: Pixels = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4  # counterclockwise
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


def _resized(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    from PIL import Image

    return np.array(Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.BILINEAR))
