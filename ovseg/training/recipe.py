"""What a recipe is: a kind of training file, and the task that is trained by it.

Adding a recipe is adding a file to ``training/recipes`` and a line to its table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ovseg.config import choose
from ovseg.heads.prompts import context_width
from ovseg.heads.registry import HEADS, HeadConfig, spaces_of
from ovseg.models.model import Model
from ovseg.training.config import Schedule, TrainingConfig
from ovseg.training.features import FeatureCache
from ovseg.weights import save_weights

ConfigT = TypeVar("ConfigT", bound=TrainingConfig)


class Task(nn.Module):
    """A head that learns, and its loss.

    Data are plain attributes and no buffers: the weights of this module are those of the head.

    Attributes:
        head: what is trained.
        settings: the head's section of the model file.
        manifest: a line for each source of data: "data" names it, the other values count what is in it.
        weights_file: name of the head's weights in the run folder.
        drawn: names the examples of the last loss, for messages.
        progress: share of the steps that are done, in [0, 1); the loop sets it before every step.
        changes: fields of the model file that the trained head brings along, such as how objects are found.
    """

    head: Any
    settings: HeadConfig
    manifest: list[dict[str, Any]]
    weights_file = "head.safetensors"
    drawn = ""
    progress = 0.0
    changes: ClassVar[dict[str, Any]] = {}

    def forward(self, generator: torch.Generator, count: int) -> Tensor:
        """The loss of ``count`` examples drawn with ``generator``."""
        raise NotImplementedError

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for AdamW, of all that is trained."""
        raise NotImplementedError

    def export(self, path: Path, *, metadata: dict[str, str]) -> str:
        """Write the head's weights and return their SHA-256."""
        return save_weights(self.head.state_dict(), path, metadata={**metadata, **spaces_of(self.head)})


def groups_by_rank(parameters: Iterable[nn.Parameter], schedule: Schedule) -> list[dict[str, Any]]:
    """Groups for AdamW: matrices with decay, vectors without, single numbers with a rate of their own."""
    rate, every = schedule.learning_rate, list(parameters)
    groups: list[dict[str, Any]] = [
        {"params": [p for p in every if p.ndim > 1], "lr": rate, "weight_decay": schedule.weight_decay},
        {"params": [p for p in every if p.ndim == 1], "lr": rate, "weight_decay": 0.0},
        {"params": [p for p in every if p.ndim == 0], "lr": rate * schedule.evidence_rate, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


@dataclass(frozen=True)
class Recipe(Generic[ConfigT]):
    """How a kind of training file becomes a task.

    Attributes:
        config: what the file is read as; its field ``recipe`` is the recipe's name.
        identity: what the result depends on besides configuration, encoders and templates, as plain values with
            speaking names: the content of the data, and what is used of the model's own head.
        build: the task, its features in the cache; every process calls it.
        validates: whether the head can be scored while it is trained.
    """

    config: type[ConfigT]
    identity: Callable[[ConfigT, Model, FeatureCache], dict[str, str]]
    build: Callable[[ConfigT, Model, FeatureCache, Accelerator], Task]
    validates: bool = True


@torch.no_grad()
def fill_in(head: HeadConfig, model: Model, *, names: int = 0) -> HeadConfig:
    """``head`` with the settings that follow from model and data, unless it states them itself.

    Args:
        head: kind and settings.
        model: gives widths, scale and, where contexts are learned inside the text encoder, their width.
        names: number of names that are trained on; 0 keeps none of their vectors.

    Raises:
        ConfigError: the kind is unknown, or the text encoder cannot take contexts.
    """
    text = model.text()
    vector = text.encode(["a"])
    weights = model.head.parameters() if isinstance(model.head, nn.Module) else iter(())
    vector = vector.to(next(weights, vector).device)
    joint = model.head.phrases(vector).values.shape[1]
    widths = {"features": model.image.spec.channels, "text": vector.shape[1], "joint": joint}
    known: dict[str, Any] = {"widths": widths, "base_scale": model.config.logit_scale}
    contexts = choose("head", head.kind, HEADS).settings.model_fields.get("contexts")
    if contexts is not None and head.settings.get("contexts", contexts.default):
        known["context_width"] = context_width(text)
    elif names:
        known["names"] = names
    return head.model_copy(update={"settings": {**known, **head.settings}})
