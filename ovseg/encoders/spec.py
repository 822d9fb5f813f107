"""What an encoder says about itself, what it returns, and the two protocols that encoders follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ovseg.errors import ModelError, SpaceError
from ovseg.tensors import check_shape

Triple = tuple[float, float, float]

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class EncoderSpec:
    """Everything a caller needs to know before running an image encoder.

    Attributes:
        name: unique name.
        space: embedding space of the features, such as ``"openclip:ViT-B-16/openai"``.
        stride: pixels per feature cell.
        channels: length C of a feature vector.
        mean, std: of RGB in [0, 1].
        interpolation: "bilinear" or "bicubic", for resizing the image.
        multiple: the input's height and width must be multiples of this many pixels (0: of the stride).
        size: (H, W) that every image is stretched to; None leaves the size to the model file.
    """

    name: str
    space: str
    stride: int
    channels: int
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    interpolation: str = "bicubic"
    multiple: int = 0
    size: tuple[int, int] | None = None

    @property
    def granularity(self) -> int:
        """Pixels that height and width must be multiples of."""
        return self.multiple or self.stride


@dataclass(frozen=True)
class DenseFeatures:
    """Feature maps and the space they live in.

    Attributes:
        values: (B, C, h, w) float.
        space: name of the embedding space; compared before any dot product.
        stride: pixels per cell.
        structure: (B, S, h, w) unit maps whose dot products say which cells belong together, or None.
        objectness: (B, 1, h, w) in [0, 1] how likely a cell shows an object, whatever it is called, or None.
        inputs: (B, I, h, w) maps that a trained head reads beside ``values``, or None.
        whole: (B, C) vector of each image as a whole, with the channels of ``inputs``, or of ``values`` where there
            are none; None where the encoder has none or the head reads none.
        boxes: (B, n, 4 + D) what a detector inside the encoder found: x0, y0, x1, y1 in cells of the maps, then D
            class probabilities; None where there is none.
    """

    values: Tensor
    space: str
    stride: int
    structure: Tensor | None = None
    objectness: Tensor | None = None
    inputs: Tensor | None = None
    whole: Tensor | None = None
    boxes: Tensor | None = None

    def __post_init__(self) -> None:
        check_shape("values", self.values, "B C h w")
        batch, _, rows, columns = self.values.shape
        for name, maps in self.maps.items():
            check_shape(name, maps, f"B {name[0].upper()} h w", B=batch, h=rows, w=columns)
        if self.whole is not None:
            like = self.values if self.inputs is None else self.inputs
            check_shape("whole", self.whole, "B C", B=batch, C=like.shape[1])
        if self.boxes is not None:
            check_shape("boxes", self.boxes, "B n D", B=batch)

    @property
    def maps(self) -> dict[str, Tensor]:
        """All maps of the cells by name, those that are there."""
        names = ("values", "structure", "objectness", "inputs")
        return {name: maps for name in names if (maps := getattr(self, name)) is not None}

    @property
    def likeness(self) -> Tensor:
        """The maps that say which cells belong together: the structure, or the values where there is none."""
        return self.values if self.structure is None else self.structure

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) cells."""
        return self.values.shape[-2], self.values.shape[-1]

    def of_image(self, row: int) -> DenseFeatures:
        """The features of one image of the batch, as a batch of one."""
        others = {name: part for name in ("whole", "boxes") if (part := getattr(self, name)) is not None}
        parts: dict[str, Any] = {name: part[row : row + 1] for name, part in {**self.maps, **others}.items()}
        return replace(self, **parts)


OUTPUTS = ("values", "structure", "objectness")
"""What an encoder's ``forward`` returns at most; an encoder with an attribute ``outputs`` says its own."""


def as_features(
    parts: tuple[Tensor, ...], pixels: Tensor, space: str, *, names: tuple[str, ...] = OUTPUTS
) -> DenseFeatures:
    """The plain tensors of an encoder's ``forward``, which begins with the values, with what they mean."""
    stride = pixels.shape[-2] // parts[0].shape[-2]
    found: dict[str, Any] = dict(zip(names, parts, strict=False))
    return DenseFeatures(space=space, stride=stride, **found)


@runtime_checkable
class ImageEncoder(Protocol):
    """Turns normalised pixels into dense features; frozen."""

    @property
    def spec(self) -> EncoderSpec:
        """Preprocessing, space and licence."""

    def dense(self, pixels: Tensor) -> DenseFeatures:
        """Features of ``pixels`` (B, 3, H, W), normalised with the spec's mean and std."""

    def to(self, device: torch.device, dtype: torch.dtype) -> ImageEncoder:
        """The same encoder on ``device`` computing in ``dtype``."""


@runtime_checkable
class WholeImageEncoder(Protocol):
    """An image encoder that also has one vector for an image as a whole."""

    def image_vector(self, pixels: Tensor) -> Tensor:
        """Unit vectors (B, C) of ``pixels`` (B, 3, H, W)."""


def whole_space(encoder: ImageEncoder) -> str:
    """The space of the vectors of whole images: that of the features, unless the encoder says another."""
    return str(getattr(encoder, "whole_space", encoder.spec.space))


@runtime_checkable
class DenseAndWholeEncoder(ImageEncoder, Protocol):
    """An image encoder that gives the features and the vector of the whole image in one run."""

    def dense_and_whole(self, pixels: Tensor) -> DenseFeatures:
        """What ``dense`` returns, with ``whole``, of unit length as the values are."""


def run_encoder(encoder: ImageEncoder, pixels: Tensor, *regions: Tensor, whole: bool) -> DenseFeatures:
    """Features of ``pixels`` (B, 3, H, W), normalised; with ``whole`` if asked for and the encoder has it.

    ``regions`` (B, H, W) are for encoders with ``whole_regions``, which gave them.
    """
    if whole and isinstance(encoder, DenseAndWholeEncoder):
        return encoder.dense_and_whole(pixels, *regions)
    return encoder.dense(pixels, *regions)


@runtime_checkable
class LabelledEncoder(ImageEncoder, Protocol):
    """An image encoder that can take into account what a first look made of the image."""

    def dense_resumable(self, pixels: Tensor) -> tuple[DenseFeatures, Any]:
        """What ``dense`` returns, and what ``dense_labelled`` then need not compute again."""

    def dense_labelled(self, pixels: Tensor, labels: Tensor, entering: Any = None) -> DenseFeatures:
        """What ``dense`` returns, given (B, H, W) integer labels of the pixels, −1 for none.

        ``entering`` is what ``dense_resumable`` gave of the same pixels; None runs everything.
        """


@runtime_checkable
class TextEncoder(Protocol):
    """Turns phrases into unit vectors; frozen."""

    @property
    def space(self) -> str:
        """Embedding space of the vectors."""

    def encode(self, phrases: Sequence[str]) -> Tensor:
        """(n, C) float32 unit vectors on the CPU."""


def choose_device(name: str) -> torch.device:
    """The device called ``name``; "auto" takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        ModelError: there is no such device here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ModelError(f"expected a device of this machine, got '{name}'; use device='auto' or 'cpu'") from error
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The floating-point type called ``name``; "auto" is bfloat16 on CUDA and float32 elsewhere.

    Raises:
        ModelError: the name is none of auto, float32, bfloat16, float16.
    """
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in known:
        raise ModelError(f"expected dtype auto, {', '.join(known)}, got '{name}'")
    return known[name]


def check_space(features: str, bank: str) -> None:
    """Refuse a dot product between two spaces.

    Raises:
        SpaceError: names both spaces.
    """
    if features != bank:
        raise SpaceError(
            f"features are in '{features}' but the text bank is in '{bank}'; encode the image with the bank's "
            "model, or pass these features as structure="
        )
