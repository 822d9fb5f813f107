"""The networks of a model file. Adding a family of encoders is adding a builder here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from ovseg.config import choose
from ovseg.errors import ConfigError
from ovseg.models.clip import build_openclip
from ovseg.models.config import ModelConfig
from ovseg.models.download import find_own_of
from ovseg.models.embedded import build_embedded
from ovseg.models.huggingface import build_groupvit, build_huggingface
from ovseg.models.masks import build_masks
from ovseg.models.model import Model
from ovseg.models.paired import build_paired
from ovseg.models.trained import with_head
from ovseg.sam.load import sam_mark

Builder = Callable[[ModelConfig, torch.device, torch.dtype, "Path | None"], Model]


BUILDERS: dict[str, Builder] = {
    "embedded": build_embedded,
    "openclip": build_openclip,
    "huggingface": build_huggingface,
    "groupvit": build_groupvit,
    "paired": build_paired,
    "masks": build_masks,
}


def build_model(
    config: ModelConfig,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    weights: Path | None = None,
) -> Model:
    """The networks of ``config`` on ``device`` (None: the CPU).

    Raises:
        ModelError: weights are missing, damaged or of another architecture.
        ConfigError: the file asks for the boxes of a detector that the model has not.
    """
    build = choose(f"kind of encoder in model '{config.name}':", config.encoder.kind, BUILDERS)
    model = build(config, device or torch.device("cpu"), dtype, weights)
    if config.boxes is not None and model.detector is None:
        raise ConfigError(f"'boxes:' needs a model with a detector, which '{config.name}' has not; remove it")
    model = replace(model, weights={**model.weights, **_sam_marks(config)})
    if config.head is None:
        return model
    head = config.head
    if head.source and head.weights and not config.encoder.random_weights:
        head = head.model_copy(update={"weights": str(find_own_of(config, head.weights, weights))})
    return with_head(model, head, device=device or torch.device("cpu"))


def _sam_marks(config: ModelConfig) -> dict[str, str]:
    """What the weights of the SAMs are known by that a model asks besides its encoder, by what it asks them for."""
    asked = {
        "correction": "" if config.correction is None else config.correction.model,
        "gather": "" if config.gather is None else config.gather.sam,
        "redraw": "" if config.redraw is None else config.redraw.model,
    }
    asked |= {"objects": config.objects.best.masks, "fast objects": config.objects.fast.masks}
    return {part: sam_mark(name) for part, name in asked.items() if name and name != "map"}
