"""A film that every player shows: H.264 in an MP4 file, each frame at its own time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ovseg.errors import OutputError, require
from ovseg.files import atomic_path
from ovseg.video.reading import EXTRA, Pixels

CLOCK = 90_000  # ticks a second that times are written in; all usual rates are whole numbers of them
_ENCODERS = ("libx264", "libopenh264", "h264")
_OPTIONS = {"libx264": {"crf": "20", "preset": "veryfast"}}


@contextmanager
def film(path: str | Path) -> Iterator[Callable[[Pixels, float], None]]:
    """A function to call with each picture (H, W, 3) uint8 and its seconds; the file is whole or absent.

    The first picture decides the size; sides are made even, as H.264 in 4:2:0 has them, by repeating the last row
    or column. The index stands at the front, so that a player may start before it has read everything.

    Raises:
        OutputError: the folder cannot be written to, or the PyAV at hand has no encoder.
        MissingDependencyError: PyAV is not installed.
    """
    av = require("av", extra=EXTRA)
    with (
        atomic_path(path) as temporary,
        av.open(str(temporary), "w", options={"movflags": "faststart"}) as container,
    ):
        stream: Any = None

        def add(picture: Pixels, seconds: float) -> None:
            nonlocal stream
            picture = _even(picture)
            if stream is None:
                stream = _stream(av, container, picture)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = round(seconds * CLOCK), Fraction(1, CLOCK)
            container.mux(stream.encode(frame))

        yield add
        if stream is not None:
            container.mux(stream.encode())


def _stream(av: Any, container: Any, picture: Pixels) -> Any:
    known = [name for name in _ENCODERS if name in av.codec.codecs_available]
    for name in known:
        try:
            stream = container.add_stream(name, options=_OPTIONS.get(name, {}))
        except ValueError:  # it is there to decode alone
            continue
        stream.height, stream.width = picture.shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, CLOCK)
        return stream
    raise OutputError("expected a PyAV that encodes H.264, got one without; install PyAV's own wheel by pip")


def _even(picture: Pixels) -> Pixels:
    """The picture with sides that are even."""
    height, width = picture.shape[:2]
    return np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
