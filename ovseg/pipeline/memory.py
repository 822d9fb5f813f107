"""A bound on memory that a caller asks for: what a call then does at once, and what cannot fit at all.

What a call holds is estimated from the sizes of photo, input and class maps. What it may hold beyond the least says
how many photos and windows run together, and how many values a step on pixels makes at once; labels stay the same.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ovseg.encoders.spec import DenseFeatures, EncoderSpec
from ovseg.errors import ConfigError, ModelError, TooLargeError, VocabularyError
from ovseg.images.geometry import Size
from ovseg.images.reading import Reading
from ovseg.models.config import ModelConfig
from ovseg.models.model import Model
from ovseg.pipeline.encode import input_pixels
from ovseg.pipeline.queries import QueryBank

# Measured with mini on photos of 12 and 48 megapixels, rounded up (docs/speed.md).
_READING = 14  # bytes for each pixel while a photo is decoded, the photo among them
_PHOTO = 3  # and once it is
_DECIDING = 36  # from the label of each pixel to the files of the result, photo and result among them
_AT_PIXELS = 24  # more where labels are decided pixel by pixel: the photo as the network saw it, at its own size
_SCORE = 2  # bytes for each pixel and label that keep_scores keeps
_MAPS = 4  # copies of the class maps, in single precision, that rules and modifiers hold together
_OTHER = 128 * 10**6  # bytes that libraries take at their first use
_OBJECTS = 400 * 10**6  # bytes of the embedded SAM at work
_LEAST_VALUES = 1_000_000  # values that a step on pixels makes at once, however small the bound
_VALUE = 24  # bytes that each of them costs, with the copies of softmax and sorting
_MARGIN = 1.5  # what a network's libraries hold besides tensors

_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def parse_memory(asked: int | str) -> int:
    """Bytes, from a number of them or from text such as "1GB", "512 MB" (thousands) or "1.5GiB" (of 1024).

    Raises:
        ConfigError: it is neither, or nothing.
    """
    text = f"{asked:d}" if isinstance(asked, int) and not isinstance(asked, bool) else str(asked)
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([kKmMgGtT]?)(i?)[bB])?", text.strip())
    if found is None or float(found[1]) == 0:
        raise ConfigError(
            f"max_memory must be a number of bytes or text such as '1GB', '512MB' or '1.5GiB', got {asked!r}"
        )
    return int(float(found[1]) * (1024 if found[3] else 1000) ** _UNITS[(found[2] or "").upper()])


@dataclass(frozen=True)
class Asked:
    """What is asked of a photo, as far as memory goes.

    Attributes:
        labels: their number; 0 where features are all that is wanted.
        rows: rows of logits, those of what competes with the labels among them.
        keep_scores: whether the score of every label at every pixel is kept.
        objects: whether a SAM cuts out objects.
        beside: bytes for each pixel that the caller holds meanwhile, such as the truth of an evaluation.
        remembered: photos whose features and class maps the caller holds meanwhile.
    """

    labels: int = 1
    rows: int = 1
    keep_scores: bool = False
    objects: bool = False
    beside: int = 0
    remembered: int = 0

    @classmethod
    def of(cls, queries: QueryBank, **options: Any) -> Asked:
        """What ``Segmenter.segment`` is asked with these queries and options."""
        objects = bool(options.get("instances")) or options.get("quality") == "best"
        rows = max(queries.classes, len(queries.class_of_query))
        return cls(queries.labels, rows, bool(options.get("keep_scores")), objects)

    def __str__(self) -> str:
        if not self.labels:
            return "its features alone"
        kept = ", their scores kept" if self.keep_scores else ""
        return f"{self.labels} label{'s' if self.labels > 1 else ''}{kept}{' and objects' if self.objects else ''}"


@dataclass(frozen=True)
class Memory:
    """How much memory a call may hold beyond the weights of its model, and what that leaves room for.

    Attributes:
        total: bytes.
        running: bytes that the encoder holds for each pixel of the input that runs at once.
        kept: bytes of the features for each pixel of the input.
        config: the model file.
        spec: of the encoder.
    """

    total: int
    running: float
    kept: float
    config: ModelConfig
    spec: EncoderSpec

    @classmethod
    def of(cls, asked: int | str, model: Model, run: Callable[[Tensor], DenseFeatures]) -> Memory:
        """The bound ``asked`` for; one small input is run to see what the encoder holds.

        Args:
            asked: see ``parse_memory``.
            model: the networks.
            run: pixels (1, 3, H, W) to features.

        Raises:
            ConfigError: no amount of memory.
            ModelError: the smallest photo would not fit.
        """
        total, spec, sizes = parse_memory(asked), model.image.spec, model.config.input
        side = (sizes.window or sizes.short_side) // spec.granularity * spec.granularity
        blank = torch.zeros(1, 3, *(spec.size or (side, side)))
        held, features = peak_of(lambda: run(blank))
        pixels = blank[0, 0].numel()
        kept = sum(maps.nbytes for maps in features.maps.values()) / pixels
        memory = cls(total, _MARGIN * held / pixels, kept, model.config, spec)
        least = memory.least((1, 1), Asked())
        if least > total:
            raise ModelError(
                f"model '{model.config.name}' needs at least {told(least)} beside its weights, got max_memory="
                f"{told(total)}; give more, or a smaller model"
            )
        return memory

    def of_model(self, model: Model) -> Memory:
        """The same for a model with the same networks and another file."""
        return replace(self, config=model.config, spec=model.image.spec)

    def least(self, size: Size, asked: Asked) -> int:
        """Bytes that a photo of (H, W) pixels needs if nothing runs together that need not."""
        pixels, at_pixels = size[0] * size[1], self.config.scoring.at == "pixels"
        at_once, whole = input_pixels(size, self.config.input, self.spec)
        encoding = _READING * pixels + self.running * at_once
        kept = asked.beside * pixels + self.kept * whole
        kept += asked.remembered * (self.kept + 4 * asked.rows / self.spec.stride**2) * whole
        each = _DECIDING + (_SCORE * asked.labels if asked.keep_scores else 0) + (_AT_PIXELS if at_pixels else 0)
        values = max(_LEAST_VALUES, asked.rows * size[1] if at_pixels else 0)  # a row of pixels is the least
        maps = 4 * _MAPS * asked.rows * whole / self.spec.stride**2
        deciding = each * pixels + _VALUE * values + maps + (_OBJECTS if asked.objects else 0)
        return int(_OTHER + kept + max(encoding, deciding if asked.labels else 0))

    def check_labels(self, labels: int) -> None:
        """Refuse so many labels that not even the smallest photo fits.

        Raises:
            VocabularyError: they are.
        """
        asked = Asked(labels, labels)
        least = self.least((1, 1), asked)
        if least > self.total:
            raise VocabularyError(
                f"{asked} need at least {told(least)} for the smallest photo, got max_memory={told(self.total)}; "
                "give more, or ask for fewer labels at a time"
            )

    def check(self, name: str, size: Size, asked: Asked) -> None:
        """Refuse a photo that does not fit.

        Args:
            name: of the photo, for the error.
            size: its (H, W).
            asked: what is asked of it.

        Raises:
            TooLargeError: it does not.
        """
        least = self.least(size, asked)
        if least > self.total:
            advice = ["give more", "shrink it"]
            if asked.labels:
                advice.append("ask for fewer labels at a time")
            if asked.labels and not asked.beside:  # windows are for a photo alone
                advice.append("read it by windows (ovseg.large.segment_large; --scale on the command line)")
            raise TooLargeError(
                f"{name} has {size[1]} x {size[0]} pixels, which need at least {told(least)} with {asked}, got "
                f"max_memory={told(self.total)}; {', '.join(advice[:-1])}, or {advice[-1]}"
            )

    def photos(self, size: Size, asked: Asked) -> int:
        """How many photos of (H, W) pixels may wait decoded and encoded, one at least.

        They get half of what is left, and the steps on pixels the other half.
        """
        _, whole = input_pixels(size, self.config.input, self.spec)
        each = _PHOTO * size[0] * size[1] + self.kept * whole
        return 1 + int(self._left(size, asked) / 2 / each)

    def values(self, size: Size, asked: Asked) -> int:
        """How many values a step on the pixels of a photo may make at once."""
        return _LEAST_VALUES + int(self._left(size, asked) / 2 / _VALUE)

    def inputs(self, sizes: Sequence[Size]) -> int:
        """How many pixels of the input may run at once, with decoded photos of these (H, W)."""
        whole = sum(input_pixels(size, self.config.input, self.spec)[1] for size in sizes)
        held = _OTHER + self.kept * whole + _READING * max(height * width for height, width in sizes)
        held += _PHOTO * sum(height * width for height, width in sizes)
        return max(1, int((self.total - held) / self.running))

    def _left(self, size: Size, asked: Asked) -> int:
        return max(0, self.total - self.least(size, asked))


def inputs_within(memory: Memory | None, images: Sequence[npt.NDArray[np.uint8]]) -> int | None:
    """``Memory.inputs`` of decoded photos (H, W, 3); None where nothing is bounded."""
    return None if memory is None else memory.inputs([(image.shape[0], image.shape[1]) for image in images])


def bounded(reading: Reading, memory: Memory | None, asked: Asked) -> Reading:
    """``reading`` that also refuses, by TooLargeError, a photo for which ``memory`` has no room."""
    return reading if memory is None else replace(reading, check=partial(memory.check, asked=asked))


def told(count: float) -> str:
    """Bytes for a reader, such as "1.25 GB"."""
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"


def peak_of(make: Callable[[], Any]) -> tuple[int, Any]:
    """The bytes of tensors that ``make`` holds at its peak, and what it returns."""
    live = _Live()
    with torch.inference_mode(), live:
        made = make()
    return live.most, made


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors that are made while it is entered, until they are gone."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for each in tree_leaves(out):
            if isinstance(each, Tensor) and (key := each.untyped_storage()._cdata) not in self._known:
                storage = each.untyped_storage()
                self._known.add(key)
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._gone, key, storage.nbytes())
        return out

    def _gone(self, key: int, count: int) -> None:
        self._known.discard(key)
        self.now -= count
