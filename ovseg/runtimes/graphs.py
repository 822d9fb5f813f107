"""The parts of a model as functions from tensors to tensors, with inputs to trace and to check them by.

Images, words and the comparison of the two are three graphs. The text vectors are an input of the third, so that
the vocabulary stays open after export.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ovseg.encoders.embedded.sentence import SentenceEncoder
from ovseg.encoders.hf_text import HuggingFaceText
from ovseg.encoders.openclip_text import OpenClipText
from ovseg.encoders.spec import OUTPUTS, DenseFeatures, TextEncoder
from ovseg.errors import ModelError
from ovseg.heads.base import FusionHead, Head, reads_whole
from ovseg.models.model import Model

Axes = dict[int, str]
"""Names of the axes of a tensor that may be of any length."""

_TRACED_CELLS, _CHECKED_CELLS = (6, 8), ((10, 5), (4, 9))  # sizes in units of the encoder's granularity
_COUNTS = (2, 1, 3)  # images or phrases; what is traced with one may stay one
_PHRASES = ("a photo of a cat", "road", "a man riding a horse beside a lake")


@dataclass(frozen=True)
class Graph:
    """One part of a model.

    Attributes:
        module: takes and returns tensors alone.
        inputs, outputs: their names.
        axes: free axes by the name of the tensor.
        make: tensors to trace (0) or to check (1 and 2) it by, of other lengths along the free axes each time.
        multiple: the image's sides are multiples of this; 1 for other graphs.
    """

    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    axes: dict[str, Axes]
    make: Callable[[int], tuple[Tensor, ...]]
    multiple: int = 1


def graphs_of(model: Model) -> dict[str, Graph]:
    """ "image", "text" and "head" of a model on the CPU.

    Raises:
        ModelError: its encoder, text encoder or head is more than a function of tensors; the part is named.
    """
    image = image_graph(model)
    return {"image": image, "text": text_graph(model.text()), "head": head_graph(model, image)}


def image_graph(model: Model) -> Graph:
    """Normalised pixels (B, 3, H, W) to the maps of the encoder.

    Raises:
        ModelError: the encoder needs more than pixels, or its file asks it for more than features.
    """
    encoder, spec = model.image, model.image.spec
    _refuse_more_than_features(model)
    side = spec.granularity
    if not isinstance(encoder, nn.Module):
        raise ModelError(f"'{model.config.name}' cannot be exported: {type(encoder).__name__} is no single network")

    def make(number: int) -> tuple[Tensor, ...]:
        rows, columns = spec.size or tuple(side * cells for cells in (_TRACED_CELLS, *_CHECKED_CELLS)[number])
        batch = _COUNTS[number]
        generator = torch.Generator().manual_seed(number)
        return (torch.randn(batch, 3, rows, columns, generator=generator),)

    with torch.inference_mode():
        found = encoder(*make(0))
    names = getattr(encoder, "outputs", OUTPUTS)[: len(found)]
    free = {0: "images"} if spec.size else {0: "images", 2: "height", 3: "width"}
    cells = {0: "images"} if spec.size else {0: "images", 2: "rows", 3: "columns"}
    axes = {"pixels": free, **dict.fromkeys(names, cells)}
    if "boxes" in names:
        axes["boxes"] = {0: "images", 1: "boxes"}
    return Graph(encoder, ("pixels",), names, axes, make, multiple=side)


def _refuse_more_than_features(model: Model) -> None:
    config = model.config
    asked = {
        "prune": config.prune is not None,
        "whole": config.whole is not None,
        "again": config.again is not None,
        "a head that reads the image as a whole": reads_whole(model.head),
        "regions of the image": config.encoder.regions is not None,
    }
    more = [name for name, there in asked.items() if there]
    if more:
        raise ModelError(
            f"'{config.name}' cannot be exported: beside features it needs {' and '.join(more)}; choose a model "
            "without"
        )
    tokens = config.encoder.tokens
    if tokens is not None:
        # How many are left is counted in Python from the image's size; an exporter would keep that of one image.
        raise ModelError(
            f"'{config.name}' cannot be exported: its tower runs on fewer tokens (encoder.tokens '{tokens.name}'), "
            "and how many depends on the size of the image; remove the section from its file"
        )


class _Words(nn.Module):
    """A text tower from tokens to unit vectors."""

    def __init__(self, tower: nn.Module, encode: Callable[..., Tensor]) -> None:
        super().__init__()
        self.tower = tower
        self._encode = encode

    def forward(self, *tokens: Tensor) -> Tensor:
        return functional.normalize(self._encode(*tokens), dim=-1)


def text_graph(encoder: TextEncoder) -> Graph:
    """Tokens (Q, T) to unit vectors (Q, C).

    Raises:
        ModelError: a text encoder of an unknown kind.
    """
    if isinstance(encoder, SentenceEncoder):
        tokens = [encoder.tokenizer.encode(phrase).ids for phrase in _PHRASES]

        def make(number: int) -> tuple[Tensor, ...]:
            ids = torch.tensor([tokens[number]] * _COUNTS[number])
            return ids, torch.ones_like(ids, dtype=torch.bool)

        axes = {"ids": {0: "phrases", 1: "tokens"}, "mask": {0: "phrases", 1: "tokens"}, "vectors": {0: "phrases"}}
        return Graph(encoder.model, ("ids", "mask"), ("vectors",), axes, make)
    if isinstance(encoder, OpenClipText):
        model = encoder.model

        def read(number: int) -> tuple[Tensor, ...]:
            phrases = [_PHRASES[number]] * _COUNTS[number]
            ids: Tensor = encoder.tokenizer(phrases, context_length=encoder.context_length)
            return (ids,)

        axes = {"ids": {0: "phrases"}, "vectors": {0: "phrases"}}
        return Graph(_Words(model, model.encode_text), ("ids",), ("vectors",), axes, read)
    if isinstance(encoder, HuggingFaceText):
        return _transformers_text(encoder)
    raise ModelError(
        f"expected a text encoder that can be exported, got {type(encoder).__name__}; choose another model"
    )


def _transformers_text(encoder: HuggingFaceText) -> Graph:
    model = encoder.model

    def read(number: int) -> tuple[Tensor, ...]:
        sizes = {"padding": "max_length", "max_length": encoder.context_length}
        found = encoder.tokenizer([_PHRASES[number]] * _COUNTS[number], return_tensors="pt", **sizes)
        ids = found["input_ids"]
        return ids, found.get("attention_mask", torch.ones_like(ids))

    def encode(ids: Tensor, mask: Tensor) -> Tensor:
        pooled: Tensor = model.get_text_features(input_ids=ids, attention_mask=mask).pooler_output
        return pooled

    axes = {"ids": {0: "phrases"}, "mask": {0: "phrases"}, "vectors": {0: "phrases"}}
    return Graph(_Words(model, encode), ("ids", "mask"), ("vectors",), axes, read)


class _Compare(nn.Module):
    """A head from features and text vectors to the logit of every phrase at every cell."""

    def __init__(self, head: Head, *, space: str, stride: int, scale: float) -> None:
        super().__init__()
        self.networks = head if isinstance(head, nn.Module) else nn.Identity()
        self._head, self._space, self._stride, self._scale = head, space, stride, scale

    def forward(self, values: Tensor, text: Tensor, structure: Tensor | None = None) -> Tensor:
        features = DenseFeatures(values, self._space, self._stride, structure=structure)
        features, phrases = self._head.pixels(features), self._head.phrases(text)
        if isinstance(self._head, FusionHead):
            return self._head.fuse(features, phrases).values.float()
        return torch.einsum("bchw,qc->bqhw", features.values, phrases.values).float() * self._scale


def head_graph(model: Model, image: Graph) -> Graph:
    """Maps of the encoder and text vectors (Q, C) to logits (B, Q, h, w), before any smoothing over cells.

    Raises:
        ModelError: the head encodes the phrases anew for every image, or finds objects of its own.
    """
    head, config = model.head, model.config
    if head.reads_tokens or hasattr(head, "answer"):
        raise ModelError(
            f"'{config.name}' cannot be exported: its head is more than a comparison of features and text vectors"
        )
    spec = model.image.spec
    with torch.inference_mode():
        maps = [image.module(*image.make(number)) for number in range(3)]
        words = model.text().encode(_PHRASES)
    fuses = isinstance(head, FusionHead) and "structure" in image.outputs
    names = ("values", "text", "structure") if fuses else ("values", "text")

    def make(number: int) -> tuple[Tensor, ...]:
        values, *others = (part.clone() for part in maps[number])
        text = words.clone()[: _COUNTS[number]]
        return (values, text, others[0]) if fuses else (values, text)

    module = _Compare(head, space=spec.space, stride=spec.stride, scale=config.logit_scale)
    cells = image.axes["values"]
    axes = {name: cells for name in names} | {"text": {0: "phrases"}, "logits": cells | {1: "phrases"}}
    return Graph(module.eval(), names, ("logits",), axes, make)


def run(graph: Graph, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """What the graph's module makes of ``inputs``, as tensors in single precision."""
    with torch.inference_mode():
        found = graph.module(*inputs)
    return tuple(part.float() for part in (found if isinstance(found, tuple) else (found,)))
