"""The recipe ``masks``: a trained head on cached features, from label maps of people or of another model.

With pseudo-labels in place of masks this is ReCo+ (Shin et al., NeurIPS 2022, section 3.3) and the idea of ZeroSeg
and ViL-Seg: a student that no person labelled anything for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional

from ovseg.encoders.spec import DenseFeatures
from ovseg.errors import ConfigError, DatasetError
from ovseg.heads.base import FusionHead, TrainableHead
from ovseg.heads.denseclip import DenseClipSettings
from ovseg.heads.prompts import context_width, encode_tokens
from ovseg.heads.registry import HeadConfig, build_head, spaces_of
from ovseg.heads.stacked import StackedHead
from ovseg.models.model import Model
from ovseg.pipeline.encode import encode_image
from ovseg.pipeline.logits import POOL
from ovseg.pipeline.queries import encode_phrases
from ovseg.provenance import names_hash
from ovseg.refine import affinity, pool_cells
from ovseg.training.config import MasksConfig
from ovseg.training.data import IGNORED, NONE, Source, open_source
from ovseg.training.features import FINER, View, ViewCache, encoder_key
from ovseg.training.losses import binary_loss, softmax_loss
from ovseg.training.views import make_view, nearest
from ovseg.vocabulary.templates import Templates
from ovseg.weights import freeze, save_weights


@dataclass
class Vocabulary:
    """A source of labelled images with its phrases as vectors.

    Attributes:
        source: the images.
        cache: their views.
        vectors: (Q, C) text vectors of all phrases.
        owner: (Q,) the class of each.
        weights: (L,) factor of each class in the loss; 0 for one that no mask shows.
    """

    source: Source
    cache: ViewCache
    vectors: Tensor
    owner: Tensor
    weights: Tensor


class MasksTask(nn.Module):
    """A trainable head and the loss of crops drawn from cached views.

    Args:
        head: what is trained.
        config: the run.
        model: its encoders and own head stay frozen.
        vocabularies: where examples come from.
        settings: the head's section of the model file.
    """

    def __init__(
        self, head: Any, config: MasksConfig, model: Model, vocabularies: list[Vocabulary], settings: HeadConfig
    ) -> None:
        super().__init__()
        self.head, self.config, self.settings = head, config, settings
        self.vocabularies = vocabularies
        self._model = (model,)  # in a tuple: frozen, and no part of this module
        self.drawn = ""

    @property
    def manifest(self) -> list[dict[str, Any]]:
        """What the run is trained on: settings, number and hash of the images, number of classes with a mask."""
        return [
            {
                "data": one.source.settings,
                "images": len(one.source.names),
                "images_hash": names_hash(one.source.names),
                "classes": int((one.weights > 0).sum()),
            }
            for one in self.vocabularies
        ]

    def forward(self, generator: torch.Generator, count: int) -> Tensor:
        """The loss of ``count`` crops drawn by ``generator`` from one source."""
        place = int(torch.randint(len(self.vocabularies), (1,), generator=generator))
        chosen = self.vocabularies[place]
        features, truth, confidence = self._crops(chosen, count, generator)
        asked, truth = ask(truth, chosen.weights, self.config.phrases, generator)
        device = next(self.head.parameters()).device
        values, structure = self._parts(features.to(device))
        dense = DenseFeatures(values, self.head.feature_space, 1)
        rows, owner = phrases_of(asked, chosen.owner)
        phrases = self.head.phrases(chosen.vectors[rows].to(device))
        loss = softmax_loss if self.config.loss == "softmax" else binary_loss
        total = torch.zeros((), device=device)
        for weight, logits in self.head.graded(self.head.pixels(dense), phrases):
            answers = self._answers(logits, structure, owner.to(device), classes=len(asked))
            fine = functional.interpolate(answers, size=truth.shape[-2:], mode="bilinear")
            weights = chosen.weights[asked].to(device)
            sure = None if confidence is None else confidence.to(device)
            total = total + weight * loss(fine, truth.to(device), weights=weights, confidence=sure)
        return total

    def parameter_groups(self) -> list[dict[str, object]]:
        """Groups for AdamW: matrices with decay, vectors without, single numbers with a rate of their own."""
        schedule = self.config.schedule
        rate, decay = schedule.learning_rate, schedule.weight_decay
        parameters = list(self.head.parameters())
        groups: list[dict[str, object]] = [
            {"params": [p for p in parameters if p.ndim > 1], "lr": rate, "weight_decay": decay},
            {"params": [p for p in parameters if p.ndim == 1], "lr": rate, "weight_decay": 0.0},
            {
                "params": [p for p in parameters if p.ndim == 0],
                "lr": rate * schedule.evidence_rate,
                "weight_decay": 0.0,
            },
        ]
        return [group for group in groups if group["params"]]

    def export(self, path: Path, *, metadata: dict[str, str]) -> str:
        """Write the head's weights and return their SHA-256."""
        return save_weights(self.head.state_dict(), path, metadata={**metadata, **spaces_of(self.head)})

    def _parts(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the encoder gave, and the structure that follows it where the model has one."""
        channels = self._model[0].image.spec.channels
        return features[:, :channels], features[:, channels:] if features.shape[1] > channels else None

    def _answers(self, logits: Tensor, structure: Tensor | None, owner: Tensor, *, classes: int) -> Tensor:
        """(B, Q, h, w) logits of phrases to (B, classes, h, w), smoothed as ``match`` does when the model is used.

        A head that fuses is not smoothed: its maps may be finer than the structure.
        """
        temperature = self._model[0].config.smoothing
        if temperature is None or structure is None or isinstance(self.head, FusionHead):
            return best_of_classes(logits, owner, classes=classes)
        smoothed = []
        for maps, one in zip(logits, structure, strict=True):
            best = best_of_classes(pool_cells(maps, POOL)[None], owner, classes=classes)[0].flatten(1)
            smoothed.append(best @ affinity(one, temperature=temperature, pool=POOL).to(best).T)
        return torch.stack(smoothed).view(len(logits), classes, *logits.shape[-2:])

    def _crops(
        self, chosen: Vocabulary, count: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """(B, C, h, w) features, (B, f·h, f·w) truth and confidence of windows of random views."""
        images = torch.randint(len(chosen.source.names), (count,), generator=generator).tolist()
        numbers = torch.randint(self.config.views, (count,), generator=generator).tolist()
        corners = torch.rand(count, 2, generator=generator).tolist()
        self.drawn = "views " + ", ".join(
            f"{number} of '{chosen.source.names[image]}'" for image, number in zip(images, numbers, strict=True)
        )
        pairs = zip(images, numbers, strict=True)
        views = [fetch_view(self._model[0], chosen, i, v, self.config) for i, v in pairs]
        rows = min([self.config.crop[0], *(view.features.shape[0] for view in views)])
        columns = min([self.config.crop[1], *(view.features.shape[1] for view in views)])
        parts = [_window(v, rows, columns, corner) for v, corner in zip(views, corners, strict=True)]
        features = torch.stack([torch.from_numpy(part.features.astype(np.float32)) for part in parts])
        truth = torch.stack([torch.from_numpy(part.truth.astype(np.int64)) for part in parts])
        confidence = None
        if parts[0].confidence is not None:
            sure = np.stack([part.confidence for part in parts if part.confidence is not None])
            confidence = torch.from_numpy(sure.astype(np.float32)) / 255
        return features.permute(0, 3, 1, 2), truth, confidence


def build_masks(config: MasksConfig, model: Model, folder: Path, accelerator: Accelerator) -> MasksTask:
    """The task, with the features of all views cached under ``folder``.

    Raises:
        ConfigError: the head cannot be trained by this recipe, or a setting is wrong.
        DatasetError: a source is incomplete, or nothing is labelled.
    """
    if isinstance(model.head, nn.Module):
        freeze(model.head)
    sources = [open_source(data) for data in config.data]
    settings = fill_in(config.head, model, names=sum(len(_phrases(source)[0]) for source in sources))
    torch.manual_seed(config.seed)
    head: Any = build_head(settings, model.head, model.text)
    if not isinstance(head, StackedHead) or not isinstance(head, TrainableHead):
        raise ConfigError(f"recipe 'masks' cannot train a head of kind '{settings.kind}'; its recipe is another")
    templates = Templates.named(model.config.templates)
    vocabularies = []
    for source in sources:
        phrases, owner = _phrases(source)
        if head.reads_tokens:
            vectors = encode_tokens(model.text(), phrases)
        else:
            vectors = encode_phrases(phrases, templates, model.text().encode)
        cache = ViewCache(folder if config.cache else None, cache_key(config, model, source))
        chosen = Vocabulary(source, cache, vectors, torch.tensor(owner), torch.ones(len(source.phrases)))
        for index in range(accelerator.process_index, len(source.names), accelerator.num_processes):
            for view in range(config.views if config.cache else 0):
                fetch_view(model, chosen, index, view, config)
        accelerator.wait_for_everyone()
        chosen.weights = class_weights(model, chosen, config)
        vocabularies.append(chosen)
    if settings.settings.get("names"):
        # a name that no mask shows is a row of zeros, which is like nothing
        head.remember(torch.cat([one.vectors * (one.weights > 0)[one.owner][:, None] for one in vocabularies]))
    return MasksTask(head, config, model, vocabularies, settings)


@torch.no_grad()
def fill_in(head: HeadConfig, model: Model, *, names: int = 0) -> HeadConfig:
    """``head`` with the settings that follow from model and data: widths, scale, contexts, number of names."""
    text = model.text()
    vector = text.encode(["a"]).to(next(iter(_tensors(model.head)), torch.zeros(1)).device)
    joint = model.head.phrases(vector).values.shape[1]
    widths = {"features": model.image.spec.channels, "text": vector.shape[1], "joint": joint}
    known: dict[str, Any] = {"widths": widths, "base_scale": model.config.logit_scale}
    contexts = learned_contexts(head)
    if head.kind != "textmap" and not contexts:
        known["names"] = names
    if contexts:
        known["context_width"] = context_width(text)
    return head.model_copy(update={"settings": {**known, **head.settings}})


def learned_contexts(head: HeadConfig) -> int:
    """How many vectors inside the text encoder a head of this kind and these settings learns."""
    if head.kind != "denseclip":
        return 0
    return int(head.settings.get("contexts", DenseClipSettings.model_fields["contexts"].default))


def cache_key(config: MasksConfig, model: Model, source: Source) -> dict[str, object]:
    """What decides a view's features."""
    changes: dict[str, object] = {}
    if config.views > 1:  # a view may hold parts of other images, so those that are held out count
        changes = {"augmentation": config.augmentation.model_dump(), "seed": config.seed, "rows": source.rows}
    return {**encoder_key(model), **source.identity, "changes": changes, "structure": True}


def fetch_view(model: Model, chosen: Vocabulary, index: int, view: int, config: MasksConfig) -> View:
    """A view with its features, from the cache or computed now."""

    def make() -> View:
        seen = make_view(chosen.source, index, view, augmentation=config.augmentation, seed=config.seed)
        dense, _ = encode_image(model.image.dense, seen.image, model.image.spec, model.config.input)
        grid = (dense.grid[0] * FINER, dense.grid[1] * FINER)
        confidence = None if seen.confidence is None else nearest(seen.confidence, grid)
        maps = dense.values if dense.structure is None else torch.cat([dense.values, dense.structure], 1)
        values = maps[0].permute(1, 2, 0).to(torch.float16).cpu().numpy()
        return View(values, nearest(seen.truth, grid).astype(np.int16), confidence)

    found = chosen.cache.fetch(f"{chosen.source.rows[index]:06d}-{view}", make)
    return View(found.features, *chosen.source.select(chosen.source.hide(found.truth), found.confidence))


def class_weights(model: Model, chosen: Vocabulary, config: MasksConfig) -> Tensor:
    """(L,) float: (share of the labelled pixels)^−balance, mean 1 over the classes that a mask shows.

    Raises:
        DatasetError: no pixel is labelled.
    """
    counts = np.zeros(len(chosen.source.phrases))
    for index in range(len(chosen.source.names)):
        if config.cache:
            truth = fetch_view(model, chosen, index, 0, config).truth
        else:
            seen = chosen.source.load(index)
            kept, _ = chosen.source.select(chosen.source.hide(seen.truth), seen.confidence)
            truth = kept[::FINER, ::FINER].astype(np.int16)
        counts += np.bincount(truth[truth >= 0].ravel(), minlength=len(counts))
    if not counts.any():
        raise DatasetError(f"no pixel of {len(chosen.source.names)} images is labelled; look at the masks")
    shown = counts > 0
    weights = np.zeros(len(counts))
    weights[shown] = (counts[shown] / counts.sum()) ** -config.balance
    return torch.from_numpy(weights / weights[shown].mean()).float()


def ask(truth: Tensor, weights: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The classes to ask for and the truth numbered by them.

    Args:
        truth: (B, H, W) class indices; negative ones stay.
        weights: (L,), 0 for classes that may not be asked for.
        count: how many; present classes first, then others at random.
        generator: draws.

    Returns:
        (Q,) class indices, Q ≤ count, and (B, H, W) positions among them; −2 for classes not asked for.
    """
    present = torch.unique(truth[truth >= 0])
    present = present[torch.randperm(len(present), generator=generator)][:count]
    known = torch.nonzero(weights)[:, 0]
    rest = known[~torch.isin(known, present)]
    rest = rest[torch.randperm(len(rest), generator=generator)][: count - len(present)]
    asked = torch.cat([present, rest])
    position = torch.full((len(weights) + 2,), NONE)
    position[asked] = torch.arange(len(asked))
    position[IGNORED] = IGNORED  # the last, as −1 indexes it; the one before is none of the classes
    return asked, position[truth]


def phrases_of(asked: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
    """The phrases of classes, and which of the classes each belongs to.

    Args:
        asked: (K,) classes.
        owner: (Q,) the class of each phrase.

    Returns:
        (P,) positions of their phrases, class by class, and (P,) positions in ``asked``.
    """
    rows = [torch.nonzero(owner == index)[:, 0] for index in asked.tolist()]
    numbers = [torch.full_like(some, number) for number, some in enumerate(rows)]
    return torch.cat(rows), torch.cat(numbers)


def best_of_classes(logits: Tensor, owner: Tensor, *, classes: int) -> Tensor:
    """(B, Q, H, W) logits of phrases to (B, classes, H, W), the largest of each class, as ``match`` takes it."""
    if classes == logits.shape[1]:
        return logits
    parts = [logits[:, owner == index].amax(1) for index in range(classes)]
    return torch.stack(parts, 1)


def _phrases(source: Source) -> tuple[list[str], list[int]]:
    """Every phrase of a source, synonyms included, and the class of each."""
    groups = [(name, *source.synonyms.get(name, ())) for name in source.phrases]
    phrases = [phrase for group in groups for phrase in group]
    return phrases, [index for index, group in enumerate(groups) for _ in group]


def _window(view: View, rows: int, columns: int, corner: list[float]) -> View:
    """A window of so many cells; ``corner`` (2,) in [0, 1) says where."""
    height, width = view.features.shape[:2]
    top, left = int(corner[0] * (height - rows + 1)), int(corner[1] * (width - columns + 1))
    fine = (slice(top * FINER, (top + rows) * FINER), slice(left * FINER, (left + columns) * FINER))
    confidence = None if view.confidence is None else view.confidence[fine]
    return View(view.features[top : top + rows, left : left + columns], view.truth[fine], confidence)


def _tensors(head: Any) -> Any:
    return head.parameters() if isinstance(head, nn.Module) else iter(())
