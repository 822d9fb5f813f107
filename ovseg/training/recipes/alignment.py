"""The recipe that makes ``mini``: cells with a known class, and photos with a known name, against text.

The trained map starts beside evidence that needs no training (classifier prototypes, detector scores), and
learns with it in one softmax: it only has to learn what that evidence misses. Source of the idea: residual
learning in logits; text to vision maps as in Talk2DINO (Barsellotti et al., ICCV 2025).
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from accelerate import Accelerator
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from ovseg.errors import ConfigError, DatasetError
from ovseg.files import atomic_path, sha256_of_bytes
from ovseg.heads.alignment import AlignmentHead
from ovseg.heads.registry import HeadConfig
from ovseg.models.embedded import HEAD_FILE
from ovseg.models.model import Model
from ovseg.pipeline.queries import encode_phrases
from ovseg.training.cells import CellData, Cells, NamedData, principal_axes, read_named
from ovseg.training.config import Positive, Share, TrainingConfig
from ovseg.training.data import dataset_content, open_masks, read_table
from ovseg.training.features import FeatureCache
from ovseg.training.lesson import Lesson, check_share
from ovseg.training.recipe import Recipe, Task
from ovseg.vocabulary.templates import Templates

_SYNONYM = 0.6  # centred cosine between names above which one is not a wrong answer for the other


class AlignmentConfig(TrainingConfig):
    """The recipe that makes ``mini``.

    Attributes:
        masks: images with masks; their cells are the training examples, those of the first give the principal axes.
            Entries with the same classes and weight are one set, in which all names that have a mask compete.
        named: images with names, or none.
        principal: width that features are reduced to while training; the result is folded back.
        dropout: share of principal channels dropped per step.
        balance: cells are drawn with probability (size of their class)^−balance.
        coverage: share of a cell that one class must cover for the cell to count.
        evidence: starting weights of prototype, detection, presence, image prototype, and the two offsets.
        scale: starting scale of the trained map.
        export: file that the trained head is also written to.
    """

    recipe: Literal["alignment"] = "alignment"
    masks: tuple[CellData, ...] = Field(min_length=1)
    named: tuple[NamedData, ...] = ()
    principal: Positive = 512
    dropout: Share = 0.2
    balance: Share = 0.5
    coverage: Share = 0.55
    evidence: tuple[float, float, float, float, float, float] = (5.0, 10.0, 1.0, 1.0, 1.0, 0.5)
    scale: float = 10.0
    out: Path = Path("runs/mini")
    export: Path | None = None


@dataclass(frozen=True)
class CellSet:
    """Cells with classes of one vocabulary, reduced to what the loss reads.

    Attributes:
        text: (N, 384) unit vectors of the names that have a mask.
        reduced: (n, P) principal features.
        evidence: (n, N, 6) float16, the parts of the untrained evidence.
        classes: (n,) in [0, N).
        cumulative: (n,) chance of drawing a cell up to this one.
        weight: factor on the loss.
    """

    text: Tensor
    reduced: Tensor
    evidence: Tensor
    classes: Tensor
    cumulative: Tensor
    weight: float

    def draw(self, generator: torch.Generator, count: int) -> Tensor:
        """(count,) numbers of cells, class-balanced."""
        drawn = torch.rand(count, generator=generator).to(self.cumulative.device)
        return torch.searchsorted(self.cumulative, drawn).clamp(max=len(self.classes) - 1)


@dataclass(frozen=True)
class NamedSet:
    """Photos with names, reduced to what the loss reads.

    Attributes:
        text: (N, 384) unit vectors of the names.
        reduced: (n, P) principal features of what shows the name.
        names: (n,) the name of each photo, in [0, N).
        near: (N, N) bool, true where two names mean nearly the same.
        weight: factor on the loss.
    """

    text: Tensor
    reduced: Tensor
    names: Tensor
    near: Tensor
    weight: float


SetT = TypeVar("SetT", CellSet, NamedSet)


class AlignmentTask(Task):
    """The trainable part of an ``AlignmentHead`` on principal axes of its features, and its loss.

    Args:
        head: the head to start from; its frozen tables are used, its maps are replaced.
        config: the run.
        cells: of each set the cells of its entries, and (L, 384) unit vectors of the class names.
        device: where the data are kept.
    """

    settings = HeadConfig(kind="alignment")
    weights_file = HEAD_FILE

    def __init__(
        self,
        head: AlignmentHead,
        config: AlignmentConfig,
        cells: Sequence[tuple[Sequence[Cells], Tensor]],
        *,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.head = head.requires_grad_(False)
        self.config, self.device = config, device
        sample = torch.cat([head.trained_part(features)[::4] for features, _ in cells[0][0][0].images()])
        self.mean, self.axes = principal_axes(sample, count=config.principal)
        self.visual = nn.Linear(self.axes.shape[1], head.visual.out_features)
        self.textual = head.textual.requires_grad_(True)
        self.log_scale = nn.Parameter(torch.tensor(config.scale).log())
        self.log_evidence = nn.Parameter(torch.tensor(config.evidence).log())
        self.sets = [self._cell_set(known, text) for known, text in cells]
        self.named: list[NamedSet] = []
        self.manifest = [
            {"data": images.data.model_dump(mode="json"), "images": len(images), "classes": len(one.text)}
            for (known, _), one in zip(cells, self.sets, strict=True)
            for images in known
        ]

    def add_named(self, data: NamedData, features: Tensor, names: Tensor, text: Tensor) -> None:
        """Photos with names: (n, C) pooled features, (n,) name numbers, (N, 384) text of the names."""
        if len(text) < 2:
            raise DatasetError(
                f"'{data.table}' must give at least 2 different names to tell apart, got {len(text)}"
            )
        centred = functional.normalize(text - self.head.text_mean, dim=-1)
        near = (centred @ centred.T > _SYNONYM) & ~torch.eye(len(text), dtype=torch.bool)
        photos = NamedSet(text, self._reduced(features), names, near, data.weight)
        self.named.append(_moved(photos, self.device))
        self.manifest.append({"data": data.model_dump(mode="json"), "images": len(names), "classes": len(text)})

    def forward(self, generator: torch.Generator, count: int) -> Tensor:
        """The loss of ``count`` cells of each set drawn by ``generator``, plus that of named photos."""
        loss = torch.zeros((), device=self.device)
        for cells in self.sets:
            rows = cells.draw(generator, count)
            keep = torch.rand(self.axes.shape[1], generator=generator) >= self.config.dropout
            inputs = cells.reduced[rows] * keep.to(cells.reduced) / (1 - self.config.dropout)
            logits = self.log_scale.exp() * self._cosines(inputs, cells.text)
            logits = logits + cells.evidence[rows].float() @ self.log_evidence.exp()
            loss = loss + cells.weight * functional.cross_entropy(logits, cells.classes[rows])
        for photos in self.named:
            chosen = torch.randint(len(photos.names), (count // 2,), generator=generator).to(self.device)
            logits = self.log_scale.exp() * self._cosines(photos.reduced[chosen], photos.text)
            names = photos.names[chosen]
            logits = logits.masked_fill(photos.near[names], -1e4)
            loss = loss + photos.weight * functional.cross_entropy(logits, names)
        return loss

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for AdamW: the maps, and the weights of the evidence with a rate of their own."""
        schedule = self.config.schedule
        maps = [*self.visual.parameters(), *self.textual.parameters(), self.log_scale]
        rate = schedule.learning_rate
        return [
            {"params": maps, "lr": rate, "weight_decay": schedule.weight_decay},
            {"params": [self.log_evidence], "lr": rate * schedule.evidence_rate, "weight_decay": 0.0},
        ]

    @torch.no_grad()
    def export(self, path: Path, *, metadata: dict[str, str]) -> str:
        """Fold the principal axes into the head's linear layer, write it, and return its SHA-256.

        It is also written to ``config.export``, if that is given.
        """
        head, weight = self.head, self.visual.weight
        head.visual.weight.copy_(weight @ self.axes.to(weight).T)
        head.visual.bias.copy_(self.visual.bias - head.visual.weight @ self.mean.to(weight))
        head.log_scale.copy_(self.log_scale)
        head.log_evidence.copy_(self.log_evidence)
        sha256 = super().export(path, metadata=metadata)
        if self.config.export is not None:
            with atomic_path(self.config.export) as temporary:
                shutil.copyfile(path, temporary)
        return sha256

    def _cosines(self, inputs: Tensor, text: Tensor) -> Tensor:
        cells = functional.normalize(self.visual(inputs), dim=-1)
        return cells @ functional.normalize(self.textual(text), dim=-1).T

    def _reduced(self, features: Tensor) -> Tensor:
        reduced: Tensor = (self.head.trained_part(features) - self.mean) @ self.axes
        return reduced

    def _cell_set(self, cells: Sequence[Cells], text: Tensor) -> CellSet:
        """The known cells of a set; a name without a mask is no wrong answer, so only those with one compete.

        Raises:
            DatasetError: they show fewer than two classes.
        """
        present = torch.unique(torch.cat([each.present() for each in cells]))
        names = [cells[0].names[index] for index in present.tolist()]
        Lesson(cells[0].data.path, sum(map(len, cells)), names).check("softmax")
        prototypes = self.head.prototypes(text[present])
        rows = []
        for features, classes in (image for each in cells for image in each.images()):
            known = classes >= 0
            evidence = self.head.evidence_parts(features, prototypes)[known].half()
            rows.append((self._reduced(features[known]), evidence, torch.searchsorted(present, classes[known])))
        reduced, evidence, classes = (torch.cat(part) for part in zip(*rows, strict=True))
        chance = torch.bincount(classes).float()[classes] ** -self.config.balance
        cumulative = (chance / chance.sum()).cumsum(0)
        return _moved(
            CellSet(text[present], reduced, evidence, classes, cumulative, cells[0].data.weight), self.device
        )


def alignment_identity(config: AlignmentConfig, model: Model, cache: FeatureCache) -> dict[str, str]:
    """The content of all images, masks and tables, and the tables of the head; its maps are replaced."""
    known: dict[str, str] = {}
    for number, data in enumerate(config.masks):
        dataset = open_masks(data)
        known[f"masks.{number}"] = dataset_content(dataset, range(0, len(dataset.names), data.every), cache)
    for number, named in enumerate(config.named):
        rows = read_table(named.table, column="name")
        files = ((file, [named.table.parent / file]) for file, _ in rows)
        known[f"named.{number}"] = cache.contents(files, cache.content(named.table))
    tables = b"".join(table.cpu().numpy().tobytes() for table in _own_head(config, model).buffers())
    return {**known, "tables of the head": sha256_of_bytes(tables)}


def build_alignment(
    config: AlignmentConfig, model: Model, cache: FeatureCache, accelerator: Accelerator
) -> AlignmentTask:
    """The task with its data in memory.

    Raises:
        ConfigError: the model has no alignment to train.
        DatasetError: a data set is incomplete.
    """
    own, templates = _own_head(config, model), Templates.named(model.config.templates)

    def encode(names: Sequence[str]) -> Tensor:
        return encode_phrases(names, templates, model.text().encode)

    if config.named:
        why = "half as many named photos are drawn beside the cells"
        check_share(config.schedule.batch, processes=accelerator.num_processes, least=2, why=why)
    sets: dict[tuple[float, str, tuple[str, ...]], list[Cells]] = {}
    for data in config.masks:
        known = Cells(data, model, cache, coverage=config.coverage)
        cache.fill(f"cells of {data.protocol}", len(known), known.fetch, accelerator=accelerator)
        sets.setdefault((data.weight, data.protocol, tuple(known.names)), []).append(known)
    cells = [(group, encode(names)) for (_, _, names), group in sets.items()]
    photos = [
        (named, *read_named(named, model, own, encode, cache=cache, accelerator=accelerator))
        for named in config.named
    ]
    torch.manual_seed(config.seed)
    head = own.fresh()
    with torch.no_grad():
        task = AlignmentTask(head, config, cells, device=accelerator.device)
        for named, features, numbers, text in photos:
            task.add_named(named, features, numbers, text)
    return task


def _moved(data: SetT, device: torch.device) -> SetT:
    """A set with all its tensors on ``device``."""
    tensors: dict[str, Any] = {name: value for name, value in vars(data).items() if isinstance(value, Tensor)}
    return replace(data, **{name: tensor.to(device) for name, tensor in tensors.items()})


def _own_head(config: AlignmentConfig, model: Model) -> AlignmentHead:
    if not isinstance(model.head, AlignmentHead):
        raise ConfigError(f"recipe 'alignment' trains models like 'mini', not '{config.model}'")
    return model.head


ALIGNMENT = Recipe(AlignmentConfig, alignment_identity, build_alignment, validates=False)
