"""Trained heads by name, and how one is put on a model. Adding a head is adding a line to ``HEADS``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field
from torch import nn

from ovseg.config import Config, choose, parse_config
from ovseg.encoders.spec import TextEncoder
from ovseg.errors import SpaceError
from ovseg.heads.adapter import Adapter, AdapterSettings
from ovseg.heads.alignment import AlignmentHead
from ovseg.heads.base import Head
from ovseg.heads.denseclip import DenseClip, DenseClipSettings
from ovseg.heads.fusioner import Fusioner, FusionerSettings
from ovseg.heads.labelanything import LabelAnything, LabelAnythingSettings
from ovseg.heads.maskqueries import MaskQueries, MaskQueriesSettings
from ovseg.heads.multimodal import MultiModal, MultiModalSettings
from ovseg.heads.prototypes import Prototypes, PrototypesSettings
from ovseg.heads.textmap import TextMap, TextMapSettings

Text = Callable[[], TextEncoder]


@dataclass(frozen=True)
class HeadKind:
    """How a kind of head is made.

    Attributes:
        settings: what the section ``settings`` of the model file is read as.
        build: makes it on the model's own head; the text encoder is for heads that run it themselves.
        form: names how it computes where that has changed; training runs of another form are refused.
    """

    settings: type[Config]
    build: Callable[[Head, Any, Text], nn.Module]
    form: str = ""


class AlignmentSettings(Config):
    """The alignment of ``mini`` has none."""


HEADS: dict[str, HeadKind] = {
    "adapter": HeadKind(AdapterSettings, lambda base, settings, text: Adapter(base, settings)),
    "alignment": HeadKind(AlignmentSettings, lambda base, settings, text: AlignmentHead()),
    "denseclip": HeadKind(DenseClipSettings, DenseClip, form="as released"),
    "fusioner": HeadKind(
        FusionerSettings, lambda base, settings, text: Fusioner(base, settings), form="as released"
    ),
    "labelanything": HeadKind(LabelAnythingSettings, lambda base, settings, text: LabelAnything(base, settings)),
    "maskqueries": HeadKind(MaskQueriesSettings, lambda base, settings, text: MaskQueries(base, settings)),
    "multimodal": HeadKind(MultiModalSettings, lambda base, settings, text: MultiModal(base, settings)),
    "prototypes": HeadKind(PrototypesSettings, lambda base, settings, text: Prototypes(base, settings)),
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


class HeadConfig(Config):
    """A trained head on top of the encoders' own one.

    Attributes:
        kind: name in ``ovseg.heads.registry``, such as ``fusioner``.
        weights: safetensors file; in a model file, relative to that file's folder. Empty: untrained.
        sha256: its checksum.
        source: where the file may be had or how it is made, of a file that is the user's own (``ovseg.own_files``).
        settings: of that kind of head.
    """

    kind: str
    weights: str = ""
    sha256: str = ""
    source: str = ""
    settings: dict[str, Any] = Field(default={})
