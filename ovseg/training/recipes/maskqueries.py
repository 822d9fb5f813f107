"""The recipe ``maskqueries``: masks and names of things, from objects or panoptic segments, on cached features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from accelerate import Accelerator
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from ovseg.encoders.spec import DenseFeatures
from ovseg.errors import ConfigError
from ovseg.heads.maskqueries import MaskQueries, QueryAnswer
from ovseg.heads.registry import HeadConfig, build_head
from ovseg.models.model import Model
from ovseg.pipeline.queries import encode_phrases
from ovseg.provenance import names_hash
from ovseg.sam.load import sam_mark
from ovseg.training.augment import Augmentation
from ovseg.training.config import Above0, Positive, TrainingConfig
from ovseg.training.data import MaskData, place_of, source_content
from ovseg.training.features import FeatureCache
from ovseg.training.lesson import Lesson
from ovseg.training.matching import CLASS, DICE, MASK, at_points, mask_losses, match, random_points, unsure_points
from ovseg.training.objects import ObjectSource, ObjectView, ObjectViews
from ovseg.training.recipe import Recipe, Task, fill_in
from ovseg.training.recipes.masks import HeadSchedule
from ovseg.vocabulary.templates import Templates
from ovseg.weights import freeze


class QueriesSchedule(HeadSchedule):
    """The same with the defaults of whole images."""

    batch: Positive = 4
    evidence_rate: float = 1.0


class MaskQueriesConfig(TrainingConfig):
    """A head of kind ``maskqueries`` trained with the masks and names of things.

    Attributes:
        head: its settings.
        data: protocols of objects or of panoptic segments; a step draws from all their images alike.
        views: cached versions of every image; the first is the image itself.
        augmentation: how the others differ.
        points: places at which masks are compared, of each image.
        nothing: weight of a query that is to answer "nothing", in the loss of names.
        anneal: whether queries learn to find their cells: at first they look only inside their masks, at the end
            at all cells, as they do when the model is used.
    """

    recipe: Literal["maskqueries"] = "maskqueries"
    head: HeadConfig = HeadConfig(kind="maskqueries")
    data: tuple[MaskData, ...] = Field(min_length=1)
    views: Positive = 1
    augmentation: Augmentation = Augmentation(mosaic=0.0, mix=0.0)
    points: Positive = 1024
    nothing: Above0 = 0.1
    anneal: bool = True
    schedule: QueriesSchedule = QueriesSchedule()


class MaskQueriesTask(Task):
    """The head and its loss on whole images.

    Args:
        head: what is trained; it has the names in mind.
        config: the run.
        views: of each source.
        name_of: of each source, (L,) the position of its classes among the names trained on; −1 for none.
        settings: the head's section of the model file.
    """

    changes: ClassVar[dict[str, Any]] = {
        "objects": {
            "fast": {"proposals": "queries"},
            "best": {"proposals": "queries", "masks": "mobile-sam"},
        }
    }

    def __init__(
        self,
        head: MaskQueries,
        config: MaskQueriesConfig,
        views: Sequence[ObjectViews],
        *,
        name_of: Sequence[Tensor],
        settings: HeadConfig,
    ) -> None:
        super().__init__()
        self.head, self.config, self.settings = head, config, settings
        self.views, self.name_of = views, name_of
        self.places = [(number, index) for number, one in enumerate(views) for index in range(len(one))]
        self.manifest = [
            {
                "data": one.source.settings,
                "images": len(one),
                "objects": len(one.source.class_of),
                "classes": int((names >= 0).sum()),
                "images_hash": names_hash(one.source.names),
            }
            for one, names in zip(views, name_of, strict=True)
        ]

    def forward(self, generator: torch.Generator, count: int) -> Tensor:
        """The mean loss of ``count`` views drawn by ``generator``."""
        chosen = torch.randint(len(self.places), (count,), generator=generator).tolist()
        numbers = torch.randint(self.config.views, (count,), generator=generator).tolist()
        device = self.head.queries.device
        total = torch.zeros((), device=device)
        drawn = []
        for place, number in zip(chosen, numbers, strict=True):
            source, index = self.places[place]
            drawn.append(f"{number} of '{self.views[source].source.names[index]}'")
            self.drawn = "views " + ", ".join(drawn)
            view = self.views[source].objects(index, number)
            total = total + self._loss(view, self.name_of[source][view.classes], generator) / count
        return total

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for AdamW: matrices with decay, the rest without."""
        schedule = self.config.schedule
        parameters = list(self.head.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": schedule.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return [{**group, "lr": schedule.learning_rate} for group in groups]

    def _loss(self, view: ObjectView, names: Tensor, generator: torch.Generator) -> Tensor:
        head, device = self.head, self.head.queries.device
        values = view.features[None].to(device)
        dense = head.pixels(DenseFeatures(values, head.feature_space, self.views[0].stride))
        closed = self._closed(generator)
        answers = head.answers(dense, None if view.sam is None else view.sam[None].to(device), closed=closed)
        names = torch.zeros_like(names) if head.settings.agnostic else names
        losses = [self._answer_loss(answer, view, names.to(device), generator) for answer in answers]
        return torch.stack(losses).sum()

    def _answer_loss(
        self, answer: QueryAnswer, view: ObjectView, names: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Of one prediction: match at random points, then compare names, and masks at points that are unsure."""
        config, masks = self.config, answer.masks[0].float()
        truth, known = view.masks.to(masks), view.known[None].to(masks)
        logits = self.head.training_logits(answer.vectors[0])
        points = random_points(config.points, generator)
        rows, columns = match(
            logits, at_points(masks, points), names, at_points(truth, points), at_points(known, points)[0]
        )
        wanted = torch.full((len(logits),), logits.shape[1] - 1, device=logits.device)
        wanted[rows] = names[columns]
        weights = torch.ones(logits.shape[1], device=logits.device)
        weights[-1] = config.nothing
        loss = CLASS * functional.cross_entropy(logits, wanted, weight=weights)
        places = unsure_points(masks[rows], config.points, generator)
        weight = at_points(known.expand(len(rows), -1, -1), places)
        entropy, dice = mask_losses(at_points(masks[rows], places), at_points(truth[columns], places), weight)
        return loss + MASK * entropy + DICE * dice

    def _closed(self, generator: torch.Generator) -> list[bool]:
        """Whether each block looks only inside masks: its chance falls from 1 to 0, one block after the other."""
        blocks = len(self.head.blocks)
        drawn = torch.rand(blocks, generator=generator).tolist()
        if not self.config.anneal:
            return [False] * blocks
        left = [1 - (self.progress * (blocks + 1) - number) for number in range(blocks)]
        return [chance < share for chance, share in zip(drawn, left, strict=True)]


def maskqueries_identity(config: MaskQueriesConfig, model: Model, cache: FeatureCache) -> dict[str, str]:
    """The content of every source, the weights of the head below and of the SAM that is read."""
    sources = {
        f"data.{number}": source_content(ObjectSource(data), cache) for number, data in enumerate(config.data)
    }
    sam = str(config.head.settings.get("sam", ""))
    known = {"weights of the SAM": sam_mark(sam)} if sam else {}
    return {**sources, "weights of the head below": model.weights.get("head", ""), **known}


def build_maskqueries(
    config: MaskQueriesConfig, model: Model, cache: FeatureCache, accelerator: Accelerator
) -> MaskQueriesTask:
    """The task, with the features of all views in the cache.

    Raises:
        ConfigError: the head is of another kind, or a setting is wrong.
        DatasetError: a source is incomplete, or shows no object.
    """
    if config.head.kind != "maskqueries":
        raise ConfigError(f"recipe 'maskqueries' trains a head of kind 'maskqueries', got '{config.head.kind}'")
    if isinstance(model.head, nn.Module):
        freeze(model.head)
    sources = [ObjectSource(data) for data in config.data]
    shown = [_shown(source) for source in sources]
    for source, classes in zip(sources, shown, strict=True):
        names = [source.phrases[index] for index in classes]
        Lesson(place_of(source.settings), len(source.names), names, background=True).check("binary")
    names = list(
        dict.fromkeys(source.phrases[index] for source, own in zip(sources, shown, strict=True) for index in own)
    )
    settings = fill_in(config.head, model, names=len(names))
    torch.manual_seed(config.seed)
    head = build_head(settings, model.head, model.text)
    assert isinstance(head, MaskQueries)
    head.remember(encode_phrases(names, Templates.named(model.config.templates), model.text().encode))
    views = [
        ObjectViews(source, model, cache, augmentation=config.augmentation, seed=config.seed, sam=head.settings.sam)
        for source in sources
    ]
    for one in views:
        fill(one, config, cache, accelerator)
    name_of = [
        torch.tensor([names.index(p) if number in own else -1 for number, p in enumerate(source.phrases)])
        for source, own in zip(sources, shown, strict=True)
    ]
    return MaskQueriesTask(head.to(accelerator.device), config, views, name_of=name_of, settings=settings)


def fill(views: ObjectViews, config: MaskQueriesConfig, cache: FeatureCache, accelerator: Accelerator) -> None:
    """All views of a source into the cache."""
    count = len(views) * config.views
    cache.fill("views", count, lambda number: views.arrays(*divmod(number, config.views)), accelerator=accelerator)


def _shown(source: ObjectSource) -> set[int]:
    """The classes of a source with an object that is trained on."""
    return {*np.unique(source.class_of).tolist()} - {*source.held}


MASKQUERIES = Recipe(MaskQueriesConfig, maskqueries_identity, build_maskqueries, validates=False)
