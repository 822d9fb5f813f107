"""The recipe that makes ``mini``: cells with a known class, and photos with a known name, against text.

The trained map starts beside evidence that needs no training (classifier prototypes, detector scores), and
learns with it in one softmax: it only has to learn what that evidence misses. Source of the idea: residual
learning in logits; text to vision maps as in Talk2DINO (Barsellotti et al., ICCV 2025).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ovseg.errors import ConfigError
from ovseg.evaluation.data.datasets import open_dataset
from ovseg.evaluation.data.protocol import load_protocol
from ovseg.files import sha256_of
from ovseg.heads.alignment import AlignmentHead
from ovseg.images.load import load_image
from ovseg.models.model import Model
from ovseg.pipeline.queries import encode_phrases
from ovseg.training.config import AlignmentConfig, CellData, NamedData
from ovseg.training.data import read_table
from ovseg.training.features import Cells, FeatureCache, cell_classes, cell_features, principal_axes
from ovseg.vocabulary.templates import Templates
from ovseg.weights import save_weights

_SYNONYM = 0.6  # centred cosine between names above which one is not a wrong answer for the other
_SQUARE = 256  # named photos are small: one size for all


class CellSet(nn.Module):
    """Cells with classes of one vocabulary, reduced to what the loss reads.

    Args:
        rows: per image principal features (n, P), evidence (n, N, 6) in half precision, and classes (n,) in [0, N).
        text: (N, 384) unit vectors of the names that have a mask.
        balance: cells are drawn with probability (size of their class)^−balance.
        weight: factor on the loss.
    """

    text: Tensor
    reduced: Tensor
    evidence: Tensor
    classes: Tensor
    cumulative: Tensor

    def __init__(
        self, rows: list[tuple[Tensor, Tensor, Tensor]], text: Tensor, *, balance: float, weight: float
    ) -> None:
        super().__init__()
        self.weight = weight
        reduced, evidence, classes = (torch.cat(part) for part in zip(*rows, strict=True))
        chance = torch.bincount(classes).float()[classes] ** -balance
        self.register_buffer("text", text)
        self.register_buffer("reduced", reduced)
        self.register_buffer("evidence", evidence)
        self.register_buffer("classes", classes)
        self.register_buffer("cumulative", (chance / chance.sum()).cumsum(0))

    def draw(self, generator: torch.Generator, count: int) -> Tensor:
        """(count,) numbers of cells, class-balanced."""
        drawn = torch.rand(count, generator=generator).to(self.cumulative.device)
        return torch.searchsorted(self.cumulative, drawn).clamp(max=len(self.classes) - 1)


class AlignmentTask(nn.Module):
    """The trainable part of an ``AlignmentHead`` on principal axes of its features, and its loss.

    Args:
        head: the head to start from; its frozen tables are used, its maps are replaced.
        config: the run.
        cells: per entry of ``config.masks`` its cells with classes, and (L, 384) unit vectors of the names.
    """

    mean: Tensor
    axes: Tensor

    def __init__(self, head: AlignmentHead, config: AlignmentConfig, cells: list[tuple[Cells, Tensor]]) -> None:
        super().__init__()
        self.head = head.requires_grad_(False)
        self.config = config
        sample = torch.cat([head.trained_part(features)[::4] for features, _ in cells[0][0].images()])
        mean, axes = principal_axes(sample, count=config.principal)
        self.register_buffer("mean", mean)
        self.register_buffer("axes", axes)
        sets = [
            self._cell_set(known, text, weight=data.weight)
            for data, (known, text) in zip(config.masks, cells, strict=True)
        ]
        self.sets = nn.ModuleList(sets)
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
        """The loss of ``count`` cells of each set drawn by ``generator``, plus that of named photos."""
        loss = torch.zeros((), device=self.mean.device)
        for cells in self.sets:
            assert isinstance(cells, CellSet)
            rows = cells.draw(generator, count)
            keep = torch.rand(self.axes.shape[1], generator=generator) >= self.config.dropout
            inputs = cells.reduced[rows] * keep.to(cells.reduced) / (1 - self.config.dropout)
            logits = self.log_scale.exp() * self._cosines(inputs, cells.text)
            logits = logits + cells.evidence[rows].float() @ self.log_evidence.exp()
            loss = loss + cells.weight * functional.cross_entropy(logits, cells.classes[rows])
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

    def _cell_set(self, cells: Cells, text: Tensor, *, weight: float) -> CellSet:
        """The known cells; a name without a mask is no wrong answer, so only those with one compete."""
        present = torch.unique(torch.from_numpy(cells.classes[cells.classes >= 0]))
        prototypes = self.head.prototypes(text[present])
        rows = []
        for features, classes in cells.images():
            known = classes >= 0
            evidence = self.head.evidence_parts(features, prototypes)[known].half()
            reduced = (self.head.trained_part(features[known]) - self.mean) @ self.axes
            rows.append((reduced, evidence, torch.searchsorted(present, classes[known])))
        return CellSet(rows, text[present], balance=self.config.balance, weight=weight)


def build_alignment(config: AlignmentConfig, model: Model, cache: FeatureCache) -> AlignmentTask:
    """The task with its data in memory.

    Raises:
        ConfigError: the model has no alignment to train.
        DatasetError: a data set is incomplete.
    """
    if not isinstance(model.head, AlignmentHead):
        raise ConfigError(f"recipe 'alignment' trains models like 'mini', not '{config.model}'")
    templates = Templates.named(model.config.templates)
    cells = []
    for data in config.masks:
        known, names = mask_cells(data, model, cache, coverage=config.coverage)
        cells.append((known, encode_phrases(names, templates, model.text().encode)))
    torch.manual_seed(config.seed)
    head = model.head.fresh()
    with torch.no_grad():
        task = AlignmentTask(head, config, cells)
    for named in config.named:
        features, numbers, labels = named_features(named, model, cache)
        vectors = encode_phrases(labels, templates, model.text().encode)
        task.add_named(features, numbers, vectors, weight=named.weight)
    return task


def mask_cells(data: CellData, model: Model, cache: FeatureCache, *, coverage: float) -> tuple[Cells, list[str]]:
    """Cells of images with masks, and the class names; a class that is the background counts for nothing."""
    dataset = open_dataset(load_protocol(data.protocol), data.path)
    names = [entry.name for entry in dataset.protocol.classes]

    def examples() -> Iterator[tuple[Tensor, Tensor]]:
        for index in range(0, len(dataset.names), data.every):
            example = dataset.load(index)
            features, grid = cell_features(model, example.image)
            truth = torch.from_numpy(example.truth.astype(np.int64))
            yield features, cell_classes(truth, grid, classes=len(names), coverage=coverage)

    key = _key(model, data.protocol, list(dataset.names[:: data.every]), coverage)
    background = dataset.protocol.background.class_name
    ignored = {*data.held_out_classes, *([] if background is None else [background])}
    return _kept(cache.fetch(key, examples()), data, names, ignored), names


def _kept(cells: Cells, data: CellData, names: list[str], ignored: set[str]) -> Cells:
    """The cells without those of held-out images, and with those of ignored classes counting for nothing."""
    unknown = ignored - set(names)
    if unknown:
        raise ConfigError(f"held_out_classes: no class {sorted(unknown)} in '{data.protocol}'")
    classes = cells.classes.copy()
    classes[np.isin(classes, [names.index(name) for name in ignored])] = -1
    for image, (start, stop) in enumerate(zip(cells.first, cells.first[1:], strict=False)):
        if data.held_out is not None and image % data.folds == data.held_out:
            classes[start:stop] = -1
    return Cells(cells.features, classes, cells.first)


def named_features(data: NamedData, model: Model, cache: FeatureCache) -> tuple[Tensor, Tensor, list[str]]:
    """Per named photo the mean feature of the cells that look most like its name.

    Returns:
        (n, C) features, (n,) name numbers, and the names.

    Raises:
        DatasetError: the table is missing or has other columns.
    """
    rows = [(row["file"], row["name"]) for row in read_table(data.table, column="name")]
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
    return {"encoder": model.encoder_digest, "data": [str(part) for part in parts]}
