"""The recipe ``masks``: a trained head on cached features, from label maps of people or of another model.

With pseudo-labels in place of masks this is ReCo+ (Shin et al., NeurIPS 2022, section 3.3) and the idea of ZeroSeg
and ViL-Seg: a student that no person labelled anything for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from ovseg.config import choose
from ovseg.encoders.spec import DenseFeatures
from ovseg.errors import ConfigError
from ovseg.heads.base import FusionHead, Head, TrainableHead, reads_whole
from ovseg.heads.prompts import encode_tokens
from ovseg.heads.registry import HEADS, HeadConfig, build_head
from ovseg.heads.stacked import StackedHead
from ovseg.models.model import Model
from ovseg.pipeline.logits import POOL, best_query
from ovseg.pipeline.queries import encode_phrases
from ovseg.provenance import names_hash
from ovseg.refine import affinity, pool_cells
from ovseg.training.augment import Augmentation
from ovseg.training.config import Positive, Schedule, Share, TrainingConfig
from ovseg.training.data import (
    IGNORED,
    NONE,
    MaskData,
    PseudoLabels,
    Source,
    open_source,
    place_of,
    source_content,
)
from ovseg.training.features import FeatureCache
from ovseg.training.lesson import Lesson
from ovseg.training.losses import binary_loss, softmax_loss
from ovseg.training.recipe import Recipe, Task, fill_in, groups_by_rank
from ovseg.training.views import FINER, Views, batch_of
from ovseg.vocabulary.templates import Templates
from ovseg.weights import freeze


class HeadSchedule(Schedule):
    """The same with defaults for trained heads on crops."""

    batch: Positive = 8
    kind: Literal["one-cycle", "cosine", "poly"] = "cosine"
    warmup: Annotated[int, Field(ge=0)] = 10
    evidence_rate: float = 10.0


class MasksConfig(TrainingConfig):
    """A head trained with label maps: one's own masks, a benchmark's, or pseudo-labels.

    Attributes:
        head: kind and settings of the head.
        data: where the label maps come from; a step draws from one of them, in turn.
        views: cached versions of every image; the first is the image itself.
        augmentation: how the others differ.
        crop: (rows, columns) of cells of a training example; smaller images are taken whole.
        phrases: classes that compete in one step; absent ones fill up those that are present.
        loss: softmax over these classes, or one binary question for each.
        balance: classes weigh (their share of the pixels)^−balance.
        cache: False runs the encoder at every step, which is slow and gives the same.
    """

    recipe: Literal["masks"] = "masks"
    head: HeadConfig
    data: tuple[MaskData | PseudoLabels, ...] = Field(min_length=1)
    views: Positive = 1
    augmentation: Augmentation = Augmentation()
    crop: tuple[Positive, Positive] = (16, 16)
    phrases: Positive = 32
    loss: Literal["softmax", "binary"] = "softmax"
    balance: Share = 0.5
    cache: bool = True
    schedule: HeadSchedule = HeadSchedule()

    @model_validator(mode="after")
    def _teaches(self) -> MasksConfig:
        if self.loss == "softmax" and self.phrases < 2:
            raise ValueError("a softmax over phrases: 1 is 0 whatever is learned; set phrases: 2 or loss: binary")
        return self


@dataclass(frozen=True)
class Examples:
    """The views of a source, with its phrases as the head takes them.

    Attributes:
        views: of the images.
        vectors: what the head's ``phrases`` takes: (Q, C) text vectors, or (Q, T) int64 tokens.
        owner: (Q,) the class of each phrase.
        weights: (L,) factor of each class in the loss; 0 for one that no mask shows.
    """

    views: Views
    vectors: Tensor
    owner: Tensor
    weights: Tensor

    @property
    def source(self) -> Source:
        """The images."""
        return self.views.source


class MasksTask(Task):
    """A trainable head and the loss of crops drawn from views.

    Args:
        head: what is trained.
        config: the run.
        examples: one for each source.
        settings: the head's section of the model file.
        smoothing: of the model file.
    """

    def __init__(
        self,
        head: Any,
        config: MasksConfig,
        examples: Sequence[Examples],
        *,
        settings: HeadConfig,
        smoothing: float | None,
    ) -> None:
        super().__init__()
        self.head, self.config, self.settings = head, config, settings
        self.examples, self.smoothing = examples, smoothing
        self.manifest = [
            {
                "data": one.source.settings,
                "images": len(one.views),
                "classes": int((one.weights > 0).sum()),
                "images_hash": names_hash(one.source.names),
            }
            for one in examples
        ]

    def forward(self, generator: torch.Generator, count: int) -> Tensor:
        """The loss of ``count`` crops drawn by ``generator`` from one source."""
        place = int(torch.randint(len(self.examples), (1,), generator=generator))
        chosen = self.examples[place]
        dense, truth, confidence = self._crops(chosen, count, generator)
        classes, truth = draw_classes(truth, chosen.weights, self.config.phrases, generator)
        device = dense.values.device
        rows, owner = phrases_of(classes, chosen.owner)
        phrases = self.head.phrases(chosen.vectors[rows].to(device))
        loss = softmax_loss if self.config.loss == "softmax" else binary_loss
        total = torch.zeros((), device=device)
        for weight, logits in self.head.graded(self.head.pixels(dense), phrases):
            answers = self._answers(logits, dense.structure, owner.to(device), classes=len(classes))
            fine = functional.interpolate(answers, size=truth.shape[-2:], mode="bilinear")
            weights = chosen.weights[classes].to(device)
            total = total + weight * loss(fine, truth.to(device), weights=weights, confidence=confidence)
        return total

    def parameter_groups(self) -> list[dict[str, Any]]:
        """See ``groups_by_rank``."""
        return groups_by_rank(self.head.parameters(), self.config.schedule)

    def _answers(self, logits: Tensor, structure: Tensor | None, owner: Tensor, *, classes: int) -> Tensor:
        """(B, Q, h, w) logits of phrases to (B, classes, h, w), smoothed as they are when the model is used.

        A head that fuses is not smoothed: its maps may be finer than the structure.
        """
        if self.smoothing is None or structure is None or isinstance(self.head, FusionHead):
            return best_of_classes(logits, owner, classes=classes)
        smoothed = []
        for maps, one in zip(logits, structure, strict=True):
            best = best_of_classes(pool_cells(maps, POOL)[None], owner, classes=classes)[0].flatten(1)
            smoothed.append(best @ affinity(one, temperature=self.smoothing, pool=POOL).to(best).T)
        return torch.stack(smoothed).view(len(logits), classes, *logits.shape[-2:])

    def _crops(
        self, chosen: Examples, count: int, generator: torch.Generator
    ) -> tuple[DenseFeatures, Tensor, Tensor | None]:
        """Windows of random views, see ``batch_of``."""
        images = torch.randint(len(chosen.views), (count,), generator=generator).tolist()
        numbers = torch.randint(self.config.views, (count,), generator=generator).tolist()
        corners = torch.rand(count, 2, generator=generator).tolist()
        pairs = list(zip(images, numbers, strict=True))
        self.drawn = "views " + ", ".join(f"{number} of '{chosen.source.names[image]}'" for image, number in pairs)
        views = [chosen.views.fetch(image, number) for image, number in pairs]
        rows = min([self.config.crop[0], *(view.features.shape[0] for view in views)])
        columns = min([self.config.crop[1], *(view.features.shape[1] for view in views)])
        windows = [view.window(rows, columns, corner=place) for view, place in zip(views, corners, strict=True)]
        device = next(self.head.parameters()).device
        stride = chosen.views.stride
        return batch_of(windows, space=self.head.feature_space, stride=stride, device=device)


def masks_identity(config: MasksConfig, model: Model, cache: FeatureCache) -> dict[str, str]:
    """The content of every source, the weights of the head below, and how the head computes."""
    sources = {
        f"data.{number}": source_content(open_source(data), cache) for number, data in enumerate(config.data)
    }
    form = choose("head", config.head.kind, HEADS).form
    known = {"form of the head": form} if form else {}
    return {**sources, "weights of the head below": model.weights.get("head", ""), **known}


def build_masks(config: MasksConfig, model: Model, cache: FeatureCache, accelerator: Accelerator) -> MasksTask:
    """The task, with the features of all views in the cache.

    Raises:
        ConfigError: the head cannot be trained by this recipe, or a setting is wrong.
        DatasetError: a source is incomplete, or nothing is labelled.
    """
    if isinstance(model.head, nn.Module):
        freeze(model.head)
    sources = [open_source(data) for data in config.data]
    settings = fill_in(config.head, model, names=sum(len(phrases_and_owners(source)[0]) for source in sources))
    torch.manual_seed(config.seed)
    head: Any = build_head(settings, model.head, model.text)
    if not isinstance(head, StackedHead) or not isinstance(head, TrainableHead):
        raise ConfigError(f"recipe 'masks' cannot train a head of kind '{settings.kind}'; its recipe is another")
    kept = cache if config.cache else FeatureCache(None)
    examples = [read_examples(source, config, model, kept, accelerator, head=head) for source in sources]
    if settings.settings.get("names"):
        # a name that no mask shows is a row of zeros, which is like nothing
        head.remember(torch.cat([one.vectors * (one.weights > 0)[one.owner][:, None] for one in examples]))
    return MasksTask(head, config, examples, settings=settings, smoothing=model.config.smoothing)


def read_examples(
    source: Source,
    config: MasksConfig,
    model: Model,
    cache: FeatureCache,
    accelerator: Accelerator,
    *,
    head: Head,
) -> Examples:
    """A source with its phrases and the features of its views as ``head`` reads them, the latter in the cache.

    Raises:
        DatasetError: a file is missing or damaged, or nothing is labelled.
    """
    phrases, owner = phrases_and_owners(source)
    if head.reads_tokens:
        vectors = encode_tokens(model.text(), phrases)
    else:
        vectors = encode_phrases(phrases, Templates.named(model.config.templates), model.text().encode)
    views = Views(source, model, cache, augmentation=config.augmentation, seed=config.seed, whole=reads_whole(head))
    count = len(views) * config.views
    cache.fill("views", count, lambda number: views.fetch(*divmod(number, config.views)), accelerator=accelerator)
    return Examples(
        views, vectors, torch.tensor(owner), class_weights(views, balance=config.balance, loss=config.loss)
    )


def class_weights(views: Views, *, balance: float, loss: Literal["softmax", "binary"]) -> Tensor:
    """(L,) float: (share of the labelled pixels)^−balance, mean 1 over the classes that a mask shows.

    Raises:
        DatasetError: the masks teach nothing under ``loss``; see ``Lesson``.
    """
    source = views.source
    counts = np.zeros(len(source.phrases))
    background = weighs = False
    for index in range(len(views)):
        if views.cache.folder is not None:
            view = views.fetch(index)
            truth, confidence = view.truth, view.confidence
        else:  # the grid of the features is not known before the encoder runs; every n-th pixel stands for it
            seen = source.load(index)
            truth, confidence = source.select(seen.truth, seen.confidence)
            truth = truth[::FINER, ::FINER].astype(np.int16)
            confidence = None if confidence is None else confidence[::FINER, ::FINER]
        counts += np.bincount(truth[truth >= 0].ravel(), minlength=len(counts))
        background |= bool((truth == NONE).any())
        weighs |= confidence is None or bool(confidence[truth >= 0].any())
    shown = counts > 0
    names = [name for name, there in zip(source.phrases, shown, strict=True) if there]
    Lesson(place_of(source.settings), len(views), names, background, weighs).check(loss)
    weights = np.zeros(len(counts))
    weights[shown] = (counts[shown] / counts.sum()) ** -balance
    return torch.from_numpy(weights / weights[shown].mean()).float()


def draw_classes(truth: Tensor, weights: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Classes that compete in one step, and the truth numbered by them.

    Args:
        truth: (B, H, W) class indices; negative ones stay.
        weights: (L,), 0 for classes that may not be drawn.
        count: how many; present classes first, then others at random.
        generator: draws.

    Returns:
        (K,) class indices, K ≤ count, and (B, H, W) positions among them; −2 for classes that were not drawn.
    """
    present = torch.unique(truth[truth >= 0])
    present = present[torch.randperm(len(present), generator=generator)][:count]
    known = torch.nonzero(weights)[:, 0]
    rest = known[~torch.isin(known, present)]
    rest = rest[torch.randperm(len(rest), generator=generator)][: count - len(present)]
    drawn = torch.cat([present, rest])
    position = torch.full((len(weights) + 2,), NONE)
    position[drawn] = torch.arange(len(drawn))
    position[IGNORED] = IGNORED  # the last, as −1 indexes it; the one before is none of the classes
    return drawn, position[truth]


def phrases_of(classes: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
    """The phrases of classes, and which of the classes each belongs to.

    Args:
        classes: (K,) class indices.
        owner: (Q,) the class of each phrase.

    Returns:
        (P,) positions of their phrases, class by class, and (P,) positions in ``classes``.
    """
    rows = [torch.nonzero(owner == index)[:, 0] for index in classes.tolist()]
    numbers = [torch.full_like(some, number) for number, some in enumerate(rows)]
    return torch.cat(rows), torch.cat(numbers)


def best_of_classes(logits: Tensor, owner: Tensor, *, classes: int) -> Tensor:
    """(B, Q, H, W) logits of phrases to (B, classes, H, W), the largest of each class."""
    if classes == logits.shape[1]:
        return logits
    best = best_query(logits.transpose(0, 1).flatten(1), owner, classes=classes)
    return best.view(classes, len(logits), *logits.shape[2:]).transpose(0, 1)


def phrases_and_owners(source: Source) -> tuple[list[str], list[int]]:
    """Every phrase of a source, synonyms included, and the class of each."""
    groups = [(name, *source.synonyms.get(name, ())) for name in source.phrases]
    phrases = [phrase for group in groups for phrase in group]
    return phrases, [index for index, group in enumerate(groups) for _ in group]


MASKS = Recipe(MasksConfig, masks_identity, build_masks)
