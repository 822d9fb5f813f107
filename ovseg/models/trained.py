"""A trained head put on a model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from ovseg.errors import ModelError
from ovseg.heads.registry import HeadConfig, build_head, check_spaces
from ovseg.models.model import Model
from ovseg.weights import check_sum, freeze, load_module, load_weights


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
        try:
            load_module(head, tensors, source=config.weights)
        except ModelError as error:
            raise ModelError(
                f"{error}; they were trained with other settings or by another version of ovseg: train them again"
            ) from error
    freeze(head.to(device))
    return join(model, head, mark=mark)


def join(model: Model, head: Any, *, mark: str) -> Model:
    """``model`` with ``head`` in place of its own; ``mark`` tells its weights apart from others."""
    # A trained head may stand on the model's own one, so both decide what it answers.
    below = model.weights.get("head", "")
    return replace(model, head=head, weights={**model.weights, "head": f"{mark}+{below}"})
