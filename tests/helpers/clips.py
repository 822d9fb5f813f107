"""Clips of one-coloured squares that move, in memory and as files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from helpers.toy import COLOURS, SPACE, KnowingHead, ToyDetector, make_segmenter
from ovseg.models.sections import ObjectsConfig, QualityConfig
from ovseg.pipeline.segmenter import Segmenter

SIZE = (64, 96)  # cells of 8 pixels


def square(left: int, *, colour: str = "red", top: int = 16, side: int = 24, ground: int = 120) -> np.ndarray:
    """(64, 96, 3) uint8, grey with one square."""
    image = np.full((*SIZE, 3), ground, np.uint8)
    image[top : top + side, max(0, left) : max(0, left + side)] = COLOURS[colour]
    return image


def moving(count: int, *, step: int = 4, colour: str = "red") -> list[np.ndarray]:
    return [square(8 + step * number, colour=colour) for number in range(count)]


def finding(*boxes: tuple[float, float, float, float]) -> tuple[Segmenter, ToyDetector]:
    """A segmenter whose detector finds these boxes red, without a SAM, and the detector, to be told others."""
    plain = make_segmenter()
    config, detector = ObjectsConfig(proposals="detector", sharpen=None), ToyDetector(*boxes)
    model = replace(
        plain.model,
        config=plain.config.model_copy(update={"objects": QualityConfig(fast=config, best=config)}),
        head=KnowingHead(SPACE),
        detector=lambda: detector,
    )
    return Segmenter(model, device=torch.device("cpu")), detector


def write_clip(
    path: Path,
    frames: Sequence[np.ndarray],
    *,
    times: Iterable[float] | None = None,
    codec: str = "mpeg4",
    turned: int = 0,
) -> Path:
    """A video of these frames, 10 a second or at these seconds, whose file says to turn it counterclockwise."""
    import av

    container = av.open(str(path), "w")
    stream = container.add_stream(codec, rate=1000 if times is not None else 10)
    stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
    stream.bit_rate = 8_000_000
    if turned:
        stream.set_display_rotation(turned)
    seconds = list(times) if times is not None else [number / 10 for number in range(len(frames))]
    for pixels, second in zip(frames, seconds, strict=True):
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.pts, frame.time_base = round(second * 1000), Fraction(1, 1000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())
    container.close()
    return path
