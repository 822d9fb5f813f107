"""Trained heads by name, and how one is put on a model. Adding a head is adding a line to ``HEADS``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ovseg.config import Config, choose, parse_config
from ovseg.encoders.spec import TextEncoder
from ovseg.encoders.weights import check_sum, freeze, load_module, load_weights
from ovseg.errors import SpaceError
from ovseg.heads.adapter import Adapter, AdapterSettings
from ovseg.heads.alignment import AlignmentHead
from ovseg.heads.base import Head
from ovseg.heads.denseclip import DenseClip, DenseClipSettings
from ovseg.heads.fusioner import Fusioner, FusionerSettings
from ovseg.heads.prompts import PhraseTokens
from ovseg.heads.textmap import TextMap, TextMapSettings

if TYPE_CHECKING:
    from ovseg.encoders.registry import HeadConfig, Model

Text = Callable[[], TextEncoder]


@dataclass(frozen=True)
class HeadKind:
    """How a kind of head is made.

    Attributes:
        settings: what the section ``settings`` of the model file is read as.
        build: makes it on the model's own head; the text encoder is for heads that run it themselves.
    """

    settings: type[Config]
    build: Callable[[Head, Any, Text], nn.Module]


class AlignmentSettings(Config):
    """The alignment of ``mini`` has none."""


HEADS: dict[str, HeadKind] = {
    "adapter": HeadKind(AdapterSettings, lambda base, settings, text: Adapter(base, settings)),
    "alignment": HeadKind(AlignmentSettings, lambda base, settings, text: AlignmentHead()),
    "denseclip": HeadKind(DenseClipSettings, DenseClip),
    "fusioner": HeadKind(FusionerSettings, lambda base, settings, text: Fusioner(base, settings)),
    "textmap": HeadKind(TextMapSettings, lambda base, settings, text: TextMap(base, settings)),
}


def build_head(config: HeadConfig, base: Head, text: Text) -> nn.Module:
    """The head of ``config`` on ``base``, with new random weights.

    Raises:
        ConfigError: the kind is unknown, or a setting is wrong; the nearest name is offered.
    """
    kind = choose("head", config.kind, HEADS)
    settings = parse_config(kind.settings, config.settings, source=f"settings of the head '{config.kind}'")
    return kind.build(base, settings, text)


def with_head(model: Model, config: HeadConfig, *, device: torch.device) -> Model:
    """``model`` with the trained head of ``config``, frozen.

    Raises:
        ModelError: the weights are missing, damaged or of another architecture.
        SpaceError: they were trained on the features of another model.
    """
    head = build_head(config, model.head, model.text)
    mark = "untrained"
    if config.weights:
        mark = check_sum(config.weights, config.sha256 or None)
        tensors, metadata = load_weights(config.weights)
        check_spaces(metadata, head, source=config.weights)
        load_module(head, tensors, source=config.weights)
    freeze(head.to(device))
    return join(model, head, mark=f"{config.kind}-{mark[:16]}")


def join(model: Model, head: Any, *, mark: str) -> Model:
    """``model`` with ``head`` in place of its own; ``mark`` tells its weights apart from others."""
    text = model.text
    if getattr(head, "reads_tokens", False):
        text = lambda: PhraseTokens(model.text())  # noqa: E731
    return replace(model, head=head, text=text, weights_hash=f"{model.weights_hash}+{mark}")


def spaces_of(head: Any) -> dict[str, str]:
    """What a head's weights file says about the spaces that they were trained between."""
    return {"feature_space": head.feature_space, "text_space": head.text_space, "space": head.space}


def check_spaces(metadata: dict[str, str], head: Any, *, source: str | Path) -> None:
    """Refuse weights that were trained between other spaces.

    Raises:
        SpaceError: names both.
    """
    for key, here in spaces_of(head).items():
        stated = metadata.get(key, here)
        if stated != here:
            raise SpaceError(
                f"'{source}' was trained with {key.replace('_', ' ')} '{stated}', but this model has '{here}'; "
                "use the model it was trained on, or train it again on this one"
            )
