"""A toy model that sees six colours and knows their names, and folders of one-coloured objects."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ovseg.bank import ImageBank
from ovseg.encoders.spec import DenseFeatures, EncoderSpec
from ovseg.heads.base import IdentityHead
from ovseg.models.config import EncoderConfig, ModelConfig
from ovseg.models.model import Model
from ovseg.models.sections import InputConfig
from ovseg.pipeline.memory import Memory
from ovseg.pipeline.photos import PhotoEncoder
from ovseg.pipeline.segmenter import Segmenter
from ovseg.proposals.proposal import Proposals

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 200, 40),
    "blue": (30, 40, 220),
    "yellow": (230, 220, 30),
    "white": (245, 245, 245),
    "black": (10, 10, 10),
}
SPACE = "toy:colours"


class ToyEncoder:
    """Each cell: how near its mean colour is to six colours, and a seventh for none of them."""

    def __init__(self) -> None:
        self.spec = EncoderSpec("toy", SPACE, 8, 7, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        self.palette = torch.tensor(list(COLOURS.values())) / 255

    def dense(self, pixels: Tensor) -> DenseFeatures:
        cells = functional.avg_pool2d(pixels, 8)
        distance = (cells[:, None] - self.palette[None, :, :, None, None]).square().sum(2)
        near = torch.cat([(-12 * distance).exp(), torch.full_like(distance[:, :1], 0.2)], dim=1)
        unit = functional.normalize(near, dim=1)
        return DenseFeatures(unit, SPACE, 8, structure=unit)

    def to(self, device: torch.device, dtype: torch.dtype) -> ToyEncoder:
        return self


class ToyText:
    """A colour's phrase is its channel; every other phrase is the seventh, with a trace of its own letters."""

    space = SPACE

    def encode(self, phrases: Sequence[str]) -> Tensor:
        vectors = torch.zeros(len(phrases), 7)
        for row, phrase in enumerate(phrases):
            known = [number for number, name in enumerate(COLOURS) if name in re.findall(r"\w+", phrase)]
            vectors[row, known[0] if known else 6] = 1
            if not known:
                trace = torch.Generator().manual_seed(zlib.crc32(phrase.encode()))
                vectors[row, :6] = 1e-3 * torch.rand(6, generator=trace)
        return vectors


class KnowingHead(IdentityHead):
    """Its queries are the detector's classes."""

    def detector_classes(self, queries: Tensor) -> Tensor:
        return queries[:, :6]


class ToyDetector:
    """Boxes as they were told."""

    def __init__(self, *boxes: tuple[float, float, float, float], colour: str = "red") -> None:
        self.boxes = torch.tensor(boxes)
        self.classes = torch.zeros(len(boxes), 6)
        self.classes[:, list(COLOURS).index(colour)] = torch.linspace(0.9, 0.6, len(boxes))

    def propose(self, image: np.ndarray, *, closer: bool = True) -> Proposals:
        return Proposals(self.boxes, self.classes)


def make_segmenter(weights: str = "toy-weights") -> Segmenter:
    config = ModelConfig(
        name="toy",
        summary="colours",
        encoder=EncoderConfig(kind="toy", name="toy"),
        input=InputConfig(short_side=64, max_long_side=128),
        logit_scale=20.0,
        parameters=0,
        megabytes=0,
        license="none",
        commercial=True,
        source="",
    )
    model = Model(config, ToyEncoder(), ToyText, IdentityHead(SPACE), {"image": weights})
    return Segmenter(model, device=torch.device("cpu"))


def bound(segmenter: Segmenter, total: int = 10**12) -> Memory:
    """A bound on memory for these networks."""
    return Memory.of(total, segmenter.model, PhotoEncoder(segmenter.model, device=segmenter.device).joint)


def within(segmenter: Segmenter, total: int, **config: Any) -> Segmenter:
    """The same networks with a bound, and with other sections of the model file."""
    model = replace(segmenter.model, config=segmenter.config.model_copy(update=config))
    memory = replace(bound(segmenter), total=total)
    return Segmenter(model, device=segmenter.device, cache=segmenter.wording.cache.folder, memory=memory)


def paint(folder: Path, name: str, colours: Sequence[str], *, seed: int) -> Path:
    """A noisy grey picture with a square of each colour at a random place."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(110, 130, (72, 96, 3), dtype=np.uint8)
    for number, colour in enumerate(colours):
        top, left = rng.integers(0, 36), 32 * number + rng.integers(0, 4)
        pixels[top : top + 28, left : left + 28] = COLOURS[colour]
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / name)
    return folder / name


@pytest.fixture(scope="session")
def segmenter() -> Segmenter:
    return make_segmenter()


def paint_photos(folder: Path) -> Path:
    """24 pictures: three of every pair of colours that follow each other, and six plain ones."""
    names = list(COLOURS)
    for number in range(24):
        first = number % 6
        colours = [names[first], names[(first + 1) % 6]] if number < 18 else [names[first]]
        paint(folder, f"{number:02d}-{'-'.join(colours)}.png", colours, seed=number)
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="session")
def bank(photos: Path, segmenter: Segmenter, tmp_path_factory: pytest.TempPathFactory) -> ImageBank:
    return ImageBank.build(photos, out=tmp_path_factory.mktemp("bank") / "bank", segmenter=segmenter)
