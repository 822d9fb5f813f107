"""The recipe that makes ``mini``: cells with a known class, and photos with a known name, against text.

The trained map starts beside evidence that needs no training (classifier prototypes, detector scores), and
learns with it in one softmax: it only has to learn what that evidence misses. Source of the idea: residual
learning in logits; text to vision maps as in Talk2DINO (Barsellotti et al., ICCV 2025).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ovseg.encoders.registry import Model
from ovseg.encoders.weights import save_weights
from ovseg.errors import ConfigError, DatasetError
from ovseg.evaluation.datasets import open_dataset
from ovseg.evaluation.protocol import load_protocol
from ovseg.files import sha256_of
from ovseg.heads.alignment import AlignmentHead
from ovseg.images import load_image
from ovseg.text import Templates, encode_phrases
from ovseg.training.config import AlignmentConfig, MaskData, NamedData
from ovseg.training.features import Cells, FeatureCache, cell_classes, cell_features, principal_axes

_SYNONYM = 0.6  # centred cosine between names above which one is not a wrong answer for the other
_SQUARE = 256  # named photos are small: one size for all


class AlignmentTask(nn.Module):
    """The trainable part of an ``AlignmentHead`` on principal axes of its features, and its loss.

    Args:
        head: the head to start from; its frozen tables are used, its maps are replaced.
        config: the run.
        cells: cells with classes.
        names: class names.
        text: (L, 384) unit vectors of the names.
    """

    mean: Tensor
    axes: Tensor
    text: Tensor
    prototypes: Tensor
    reduced: Tensor
    evidence: Tensor
    classes: Tensor
    cumulative: Tensor

    def __init__(self, head: AlignmentHead, config: AlignmentConfig, cells: Cells, text: Tensor) -> None:
        super().__init__()
        self.head = head.requires_grad_(False)
        self.config = config
        known = [(features, classes) for features, classes in cells.images()]
        sample = torch.cat([head.trained_part(features)[::4] for features, _ in known])
        mean, axes = principal_axes(sample, count=config.principal)
        self.register_buffer("mean", mean)
        self.register_buffer("axes", axes)
        seen = torch.cat([classes for _, classes in known])
        present = torch.unique(seen[seen >= 0])  # a name without a mask is no wrong answer
        self.register_buffer("text", text[present])
        self.register_buffer("prototypes", head.prototypes(text[present]))
        rows = [self._rows(features, classes) for features, classes in known]
        reduced, evidence, classes = (torch.cat(part) for part in zip(*rows, strict=True))
        classes = torch.searchsorted(present, classes)
        self.register_buffer("reduced", reduced)
        self.register_buffer("evidence", evidence)
        self.register_buffer("classes", classes)
        counts = torch.bincount(classes).float()
        chance = counts[classes] ** -config.balance
        self.register_buffer("cumulative", (chance / chance.sum()).cumsum(0))
        self.visual = nn.Linear(axes.shape[1], head.visual.out_features)
        self.textual = head.textual.requires_grad_(True)
        self.log_scale = nn.Parameter(torch.tensor(config.scale).log())
        self.log_evidence = nn.Parameter(torch.tensor(config.evidence).log())
        self.named: list[tuple[Tensor, Tensor, Tensor, Tensor, float]] = []

    def add_named(self, features: Tensor, names: Tensor, text: Tensor, *, weight: float) -> None:
        """Photos with names: (n, C) pooled features, (n,) name numbers, (N, 384) text of the names."""
        centred = functional.normalize(text - self.head.text_mean, dim=-1)
        near = (centred @ centred.T > _SYNONYM) & ~torch.eye(len(text), dtype=torch.bool)
        reduced = (self.head.trained_part(features) - self.mean) @ self.axes
        self.named.append((reduced, names, text, near, weight))

    def forward(self, generator: torch.Generator, count: int) -> Tensor:
        """The loss of ``count`` cells drawn by ``generator``, class-balanced, plus that of named photos."""
        drawn = torch.rand(count, generator=generator).to(self.cumulative.device)
        rows = torch.searchsorted(self.cumulative, drawn).clamp(max=len(self.classes) - 1)
        keep = torch.rand(self.axes.shape[1], generator=generator) >= self.config.dropout
        inputs = self.reduced[rows] * keep.to(self.reduced) / (1 - self.config.dropout)
        logits = self.log_scale.exp() * self._cosines(inputs, self.text)
        logits = logits + self.evidence[rows].float() @ self.log_evidence.exp()
        loss = functional.cross_entropy(logits, self.classes[rows])
        for reduced, names, text, near, weight in self.named:
            chosen = torch.randint(len(names), (count // 2,), generator=generator)
            logits = self.log_scale.exp() * self._cosines(reduced[chosen], text)
            logits = logits.masked_fill(near[names[chosen]], -1e4)
            loss = loss + weight * functional.cross_entropy(logits, names[chosen])
        return loss

    def parameter_groups(self) -> list[dict[str, object]]:
        """Groups for AdamW: the maps, and the weights of the evidence with a rate of their own."""
        schedule = self.config.schedule
        maps = [*self.visual.parameters(), *self.textual.parameters(), self.log_scale]
        rate = schedule.learning_rate
        return [
            {"params": maps, "lr": rate, "weight_decay": schedule.weight_decay},
            {"params": [self.log_evidence], "lr": rate * schedule.evidence_rate, "weight_decay": 0.0},
        ]

    def export(self, path: Path, *, metadata: dict[str, str]) -> str:
        """Fold the principal axes into the head's linear layer, write it, and return its SHA-256."""
        head = self.head
        with torch.no_grad():
            head.visual.weight.copy_(self.visual.weight @ self.axes.T)
            head.visual.bias.copy_(self.visual.bias - head.visual.weight @ self.mean)
            head.log_scale.copy_(self.log_scale)
            head.log_evidence.copy_(self.log_evidence)
        return save_weights(head.state_dict(), path, metadata=metadata)

    def _cosines(self, inputs: Tensor, text: Tensor) -> Tensor:
        pixels = functional.normalize(self.visual(inputs), dim=-1)
        return pixels @ functional.normalize(self.textual(text), dim=-1).T

    def _rows(self, features: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Principal features, evidence (cells, L, 6) in half precision and classes of one image's known cells."""
        known = classes >= 0
        evidence = self.head.evidence_parts(features, self.prototypes)
        reduced = (self.head.trained_part(features) - self.mean) @ self.axes
        return reduced[known], evidence[known].half(), classes[known]


def build_alignment(config: AlignmentConfig, model: Model, cache: FeatureCache) -> AlignmentTask:
    """The task with its data in memory.

    Raises:
        ConfigError: the model has no alignment to train.
        DatasetError: a data set is incomplete.
    """
    if not isinstance(model.head, AlignmentHead):
        raise ConfigError(f"recipe 'alignment' trains models like 'mini', not '{config.model}'")
    templates = Templates.named(model.config.templates)
    (masks,) = config.masks if len(config.masks) == 1 else _refuse_many(config.masks)
    cells, names = mask_cells(masks, model, cache, coverage=config.coverage)
    text = encode_phrases(names, templates, model.text().encode)
    torch.manual_seed(config.seed)
    head = model.head.fresh()
    with torch.no_grad():
        task = AlignmentTask(head, config, cells, text)
    for named in config.named:
        features, numbers, labels = named_features(named, model, cache)
        vectors = encode_phrases(labels, templates, model.text().encode)
        task.add_named(features, numbers, vectors, weight=named.weight)
    return task


def mask_cells(data: MaskData, model: Model, cache: FeatureCache, *, coverage: float) -> tuple[Cells, list[str]]:
    """Cells of images with masks, and the class names."""
    dataset = open_dataset(load_protocol(data.protocol), data.path)
    names = [entry.name for entry in dataset.protocol.classes]

    def examples() -> Iterator[tuple[Tensor, Tensor]]:
        for index in range(len(dataset.names)):
            example = dataset.load(index)
            features, grid = cell_features(model, example.image)
            truth = torch.from_numpy(example.truth.astype(np.int64))
            yield features, cell_classes(truth, grid, classes=len(names), coverage=coverage)

    key = _key(model, data.protocol, list(dataset.names), coverage)
    return _kept(cache.fetch(key, examples()), data, names), names


def _kept(cells: Cells, data: MaskData, names: list[str]) -> Cells:
    """The cells without those of held-out images, and with those of held-out classes ignored."""
    unknown = set(data.held_out_classes) - set(names)
    if unknown:
        raise ConfigError(f"held_out_classes: no class {sorted(unknown)} in '{data.protocol}'")
    classes = cells.classes.copy()
    classes[np.isin(classes, [names.index(name) for name in data.held_out_classes])] = -1
    for image, (start, stop) in enumerate(zip(cells.first, cells.first[1:], strict=False)):
        if data.held_out is not None and image % data.folds == data.held_out:
            classes[start:stop] = -1
    return Cells(cells.features, classes, cells.first)


def named_features(data: NamedData, model: Model, cache: FeatureCache) -> tuple[Tensor, Tensor, list[str]]:
    """Per named photo the mean feature of the cells that look most like its name.

    Returns:
        (n, C) features, (n,) name numbers, and the names.
    """
    if not data.table.is_file():
        raise DatasetError(f"expected a CSV with the columns file and name at '{data.table}'; there is none")
    with open(data.table, encoding="utf-8", newline="") as stream:
        rows = [(row["file"], row["name"]) for row in csv.DictReader(stream)]
    names = sorted({name for _, name in rows})
    assert isinstance(model.head, AlignmentHead)
    head = model.head
    text = encode_phrases(names, Templates.named(model.config.templates), model.text().encode)
    columns = head.prototypes(text)

    def examples() -> Iterator[tuple[Tensor, Tensor]]:
        for file, name in rows:
            image = load_image(data.table.parent / file)
            features, _ = cell_features(model, image, size=(_SQUARE, _SQUARE))
            number = names.index(name)
            score = head.untrained_part(features) @ columns[number]
            best = score.topk(min(data.cells, len(score))).indices
            yield features[best].mean(0, keepdim=True), torch.tensor([number])

    cells = cache.fetch(_key(model, sha256_of(data.table), data.cells, _SQUARE), examples())
    return torch.from_numpy(cells.features.astype(np.float32)), torch.from_numpy(cells.classes.copy()), names


def _key(model: Model, *parts: object) -> dict[str, object]:
    settings = model.config.input.model_dump()
    vision = model.weights_hash.partition("+")[0]
    return {"encoder": vision, "input": settings, "data": [str(part) for part in parts]}


def _refuse_many(masks: tuple[MaskData, ...]) -> tuple[MaskData, ...]:
    raise ConfigError(f"recipe 'alignment' takes one data set with masks, got {len(masks)}")
