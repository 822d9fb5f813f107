"""A model: networks ready to run, and what they are known by."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

from ovseg.config import Config
from ovseg.encoders.spec import ImageEncoder, TextEncoder
from ovseg.heads.base import Head
from ovseg.identity import digest
from ovseg.models.config import ModelConfig
from ovseg.proposals.proposal import Detector

MadeT = TypeVar("MadeT")
# fields and what they are where they are not used
_ADDED = [("converter", None), ("objectness", 0.0), ("whole", False), ("source", ""), ("tokens", None)]
_IMAGE_SIDE = (
    "image",
    "structure",
    "regions",
    "converter",
    "gather",
)  # parts whose weights decide the features of an image


@dataclass(frozen=True)
class Model:
    """Networks ready to run. ``text`` is a function so that a cached vocabulary never loads the text tower.

    Attributes:
        config: the model file.
        image: frozen image encoder.
        text: makes the frozen text encoder.
        head: joins the two.
        weights: by part ("image", "text", "head", "structure", "regions", ...) what its weights are known by: the
            SHA-256 of its file, or how they were made where there is no file.
        detector: makes the frozen network that proposes objects; None where the model has none.
    """

    config: ModelConfig
    image: ImageEncoder
    text: Callable[[], TextEncoder]
    head: Head
    weights: Mapping[str, str]
    detector: Callable[[], Detector] | None = None

    @property
    def encoder_digest(self) -> str:
        """What decides the encoder's features of an image: networks, recipe and sizes; no head, no text."""
        weights = {part: mark for part, mark in self.weights.items() if part in _IMAGE_SIDE}
        return digest(_as_before(self.config.encoder), self.config.input, weights)

    @property
    def outputs_digest(self) -> str:
        """What decides all that the image encoder returns: the features, and the boxes that come with them."""
        return digest(self.encoder_digest, self.weights.get("boxes", ""))

    @property
    def info(self) -> dict[str, str]:
        """What identifies the model, part by part; two models of the same values give the same results.

        ``features`` decides the features in the joint space, ``settings`` how a label is chosen from them.
        """
        config = self.config
        may_be = (config.whole, config.again, config.redraw, config.boxes, config.broader, config.colours)
        added = [part for part in may_be if part is not None]
        gathered = [] if config.gather is None else [config.gather]
        head = (
            None
            if config.head is None
            else config.head.model_copy(update={"weights": "", "sha256": "", "source": ""})
        )
        rest = config.model_dump(
            include={
                "logit_scale",
                "smoothing",
                "scoring",
                "background",
                "refine",
                "prune",
                "correction",
                "objects",
            }
        )
        return {
            "model": config.name,
            "weights": "+".join(f"{part}-{mark[:16]}" for part, mark in sorted(self.weights.items())),
            "features": digest(self.encoder_digest, _as_before(head), self.weights.get("head", ""), *gathered),
            "settings": digest(_as_before(rest), *added),
        }


def _as_before(section: Any) -> Any:
    """A section without fields that are younger than what users may have kept, where they change nothing."""
    values = section.model_dump() if isinstance(section, Config) else section
    if not isinstance(values, dict):
        return values
    return {name: _as_before(value) for name, value in values.items() if (name, value) not in _ADDED}


class MadeOnce(Generic[MadeT]):
    """A function that calls ``make`` the first time it is called, and then returns the same.

    Networks are made outside of inference mode, whoever asks first: tensors made inside could never be trained on.
    Pickled, it takes what it makes along, as ``make`` is mostly a function inside another.
    """

    def __init__(self, make: Callable[[], MadeT]) -> None:
        self._make: Callable[[], MadeT] | None = make
        self._lock = threading.Lock()

    def __call__(self) -> MadeT:
        """What ``make`` returned."""
        with self._lock:
            if self._make is not None:
                with torch.inference_mode(False):
                    self._made = self._make()
                self._make = None
        return self._made

    def __getstate__(self) -> dict[str, Any]:
        return {"_make": None, "_made": self()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()
