"""What heads that read shots have in common: one space for cells and words, and how sight and words are added."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from ovseg.encoders.spec import DenseFeatures
from ovseg.errors import ShapeError
from ovseg.examples.shot import Kind, Lesson, Shot, View, spread_out
from ovseg.heads.base import Head
from ovseg.heads.blocks import Block, CrossBlock
from ovseg.heads.stacked import StackedHead, StackedSettings

KINDS: tuple[Kind, ...] = ("mask", "box", "point")


class ShotSettings(StackedSettings):
    """A ``ShotHead``.

    Attributes:
        width: of the space in which cells, words and prototypes are compared; a multiple of 4.
        layers, attention_heads, inner, dropout: of the transformer.
        cells: of each shot at most so many cells are looked at inside what is pointed at, and as many outside.
    """

    inputs: Literal["joint", "encoder"] = "encoder"
    width: int = Field(default=128, gt=0, multiple_of=4)
    layers: int = Field(default=2, gt=0)
    attention_heads: int = Field(default=4, gt=0)
    inner: int = Field(default=256, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    cells: int = Field(default=100, gt=0)

    @model_validator(mode="after")
    def _fits(self) -> ShotSettings:
        if self.width % self.attention_heads:
            raise ValueError(f"width {self.width} must be a multiple of attention_heads {self.attention_heads}")
        if not self.residual or self.trust is not None or self.contrast:
            raise ValueError(
                "heads that read shots correct the words of the head below; leave out residual, trust and contrast"
            )
        return self


@dataclass(frozen=True)
class SeenShot:
    """The cells of a shot that are looked at.

    Attributes:
        cells: (n, W) of the head's space.
        inside: (n,) in [0, 1] how much of each cell is pointed at.
        known: whether the other cells are known not to show the label, as beside a mask or a box.
        kind: what points.
        places: (n, 2) row and column of each cell, in cells.
        grid: (h, w) of the picture.
        label: number of the label.
    """

    cells: Tensor
    inside: Tensor
    known: bool
    kind: Kind
    places: Tensor
    grid: tuple[int, int]
    label: int


@dataclass(frozen=True)
class TrainedSight:
    """What a trained head makes of a lesson; see ``Sight``.

    Attributes:
        head: the head.
        taught: what it learned, of its own kind.
        trust: (M,) share of the logit by words that is left.
        nameless: (n,) the classes of ``View.text`` that are not to be known by words.
    """

    head: ShotHead
    taught: Any
    trust: Tensor
    nameless: Tensor

    def __call__(self, view: View) -> tuple[Tensor, Tensor]:
        """See ``Sight``.

        What words lose of their say goes to the logarithm of the summed odds of all classes that have words. That
        is the same for every label, so that pictures decide among them, and on the scale of words, so that a label
        that is known by sight alone can be compared with others.
        """
        evidence = self.head.evidence(self.head.cells(view), view.grid, self.taught)
        spoken = torch.ones(len(view.text), dtype=torch.bool, device=view.text.device)
        spoken[self.nameless.to(view.text.device)] = False
        if bool(spoken.any()):
            common = view.text[spoken].to(evidence).logsumexp(0)
            evidence = evidence + (1 - self.trust)[:, None, None] * common
        return self.trust, evidence


class ShotHead(StackedHead):
    """A head that learns a label from shots when it is used, with weights that were trained on other labels.

    ``pixels`` and ``phrases`` stay those of the head below, times its scale: words alone are judged as without this
    head, unless ``judges_words``. Of a label with n shots and a name, words keep the share m / (m + n) of their say
    (m is trained), as RNS lets pictures have the more say the more there are.

    Attributes:
        judges_words: whether labels without pictures get evidence as well.
        most: at most so many labels may be shown at once; None for any number.
    """

    judges_words = False
    most: int | None = None

    def __init__(self, base: Head, settings: ShotSettings, *, kind: str) -> None:
        super().__init__(base, settings, kind=kind)
        self.settings = settings
        self.cells_in = nn.Sequential(
            nn.LayerNorm(self.feature_width, elementwise_affine=False),
            nn.Linear(self.feature_width, settings.width),
        )
        joint = settings.widths.joint
        self.words_in = nn.Sequential(nn.LayerNorm(joint), nn.Linear(joint, settings.width))
        self.log_shots = nn.Parameter(torch.tensor(0.0))
        self.log_scale = nn.Parameter(torch.tensor(10.0).log())

    def pixels(self, features: DenseFeatures) -> DenseFeatures:
        """(B, C, h, w) encoder features to those of the head below, times its scale, with this head's inputs."""
        joint = super().pixels(features)
        values = joint.values * self.base_scale
        return DenseFeatures(values, self.space, joint.stride, structure=joint.structure, inputs=joint.inputs)

    def cells(self, view: View, places: Tensor | None = None) -> Tensor:
        """The cells of a picture in the head's space.

        Args:
            view: the picture.
            places: (n,) int64 positions of the cells that are wanted; None for all.

        Returns:
            (n, W).
        """
        mapped: Tensor = self.cells_in(self.read(view, places))
        return mapped

    def read(self, view: View, places: Tensor | None = None) -> Tensor:
        """(n, C) what ``cells`` are made of: of length √C, so that it makes no difference what length they had."""
        maps = view.features if view.inputs is None else view.inputs
        rows = maps.flatten(1).T
        rows = rows if places is None else rows[places.to(maps.device)]
        unit = functional.normalize(rows.to(self.log_scale), dim=1)
        return unit * math.sqrt(rows.shape[1])

    def learn(self, lesson: Lesson) -> TrainedSight:
        """What the lesson teaches.

        Raises:
            ShapeError: a label has neither a shot that shows it nor words, or too many labels are shown.
        """
        shots = [self._look(shot) for shot in lesson.shots]
        showing = torch.tensor([shot.label for shot in shots if bool((shot.inside > 0).any())], dtype=torch.int64)
        counts = torch.bincount(showing, minlength=len(lesson.rows))
        self._check(lesson, counts)
        known = self.log_shots.exp()
        trust = known / (known + counts.to(known)) * lesson.named.to(known)
        return TrainedSight(self, self.taught(lesson, shots), trust, lesson.rows[~lesson.named])

    def start_from(self, cells: Tensor) -> None:
        """Let the space begin as the widest directions of cells (n, C) from ``read``, each scaled to variance 1.

        Prototypes in it are then as good as plain ones before anything is trained.
        """
        layer = self.cells_in[1]
        assert isinstance(layer, nn.Linear)
        normed = self.cells_in[0](cells)
        mean = normed.mean(0)
        values, vectors = torch.linalg.eigh((normed - mean).T @ (normed - mean) / len(normed))
        count = min(len(layer.weight), len(values))
        axes = (vectors[:, -count:] / values[-count:].clamp_min(1e-6).sqrt()).T
        with torch.no_grad():
            layer.weight.zero_()
            layer.weight[:count] = axes
            layer.bias.copy_(-layer.weight @ mean)

    @abstractmethod
    def taught(self, lesson: Lesson, shots: Sequence[SeenShot]) -> Any:
        """What ``evidence`` takes."""

    @abstractmethod
    def evidence(self, cells: Tensor, grid: tuple[int, int], taught: Any) -> Tensor:
        """(M, h, w) logits that are added to those by words, of (h·w, W) cells."""

    def _look(self, shot: Shot) -> SeenShot:
        """The cells of a shot: some inside, evenly taken, and some outside."""
        share = shot.share.flatten()
        inside = shot.inside.flatten() if shot.kind == "mask" else share > 0
        known = shot.rest_known and shot.kind != "point"
        sides = [side.nonzero()[:, 0] for side in (inside, ~inside)]
        places = torch.cat([side[spread_out(len(side), self.settings.cells)] for side in sides])
        weight = torch.where(inside, share, 0)[places].to(self.log_scale)
        columns = shot.view.grid[1]
        corners = torch.stack([places // columns, places % columns], 1)
        cells = self.cells(shot.view, places)
        return SeenShot(cells, weight, known, shot.kind, corners, shot.view.grid, shot.label)

    def _check(self, lesson: Lesson, counts: Tensor) -> None:
        spoken = torch.zeros(len(counts), dtype=torch.bool)
        if lesson.words is not None:
            spoken[lesson.words.label.cpu()] = True
        empty = ((counts == 0) & ~(spoken & lesson.named)).nonzero().flatten().tolist()
        if empty:
            raise ShapeError(
                f"each label needs a shot with a cell that shows it, or words; label {empty[0]} of {len(counts)} "
                "has neither: give another picture, or its name"
            )
        shown = int((counts > 0).sum())
        if self.most is not None and shown > self.most:
            raise ShapeError(
                f"this head was built for at most {self.most} labels with pictures at once, got {shown}; show "
                "fewer, or train it with a larger head.settings.classes"
            )


def still(block: Block | CrossBlock) -> None:
    """Let a block begin as one that changes nothing."""
    itself = block.itself if isinstance(block, CrossBlock) else block
    layers = [itself.attention.out, itself.inner[3]]
    for layer in [*layers, block.cross.out] if isinstance(block, CrossBlock) else layers:
        assert isinstance(layer, nn.Linear)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
