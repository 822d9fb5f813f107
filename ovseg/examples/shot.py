"""Shots and what is learned from them: the two things that every method of this room takes and gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from ovseg.tensors import check_shape

Kind = Literal["mask", "box", "point"]


@dataclass(frozen=True)
class View:
    """A picture as methods see it, cell by cell.

    Attributes:
        features: (C, h, w) float32 unit over C.
        text: (K, h, w) float32 logits of all classes by words alone.
        colours: (3, h, w) float32 in [0, 1].
        structure: (S, h, w) float32 unit, tells which cells belong together; None for ``features``.
        inputs: (I, h, w) float, what a trained head reads of the encoder itself; None for ``features``.
    """

    features: Tensor
    text: Tensor
    colours: Tensor
    structure: Tensor | None = None
    inputs: Tensor | None = None

    def __post_init__(self) -> None:
        check_shape("features", self.features, "C h w")
        h, w = self.grid
        check_shape("text", self.text, "K h w", h=h, w=w)
        check_shape("colours", self.colours, "3 h w", h=h, w=w)
        if self.inputs is not None:
            check_shape("inputs", self.inputs, "I h w", h=h, w=w)

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) cells."""
        return self.features.shape[1], self.features.shape[2]

    @property
    def likeness(self) -> Tensor:
        """The maps that tell which cells belong together."""
        return self.features if self.structure is None else self.structure


@dataclass(frozen=True)
class Shot:
    """A picture that shows a label, or one that shows what it is not.

    Attributes:
        view: the picture.
        label: number of the label among the M labels that have pictures.
        share: (h, w) float32 in [0, 1], how much of each cell shows the label; 0 everywhere for what it is not.
        kind: what ``share`` was drawn by: the outline of the label, a box around it (the cells of which may also
            show other things), or a point on it (of all other cells nothing is known).
        rest_known: whether the cells that do not show the label are known not to. Of a picture without a place, in
            which what stands out was taken, they are not: the thing may fill it.
    """

    view: View
    label: int
    share: Tensor
    kind: Kind = "mask"
    rest_known: bool = True

    def __post_init__(self) -> None:
        h, w = self.view.grid
        check_shape("share", self.share, "h w", h=h, w=w)

    @property
    def inside(self) -> Tensor:
        """(h, w) bool: cells that show the label. Of a thing smaller than a cell, those that show most of it."""
        most = float(self.share.max())
        return self.share > 0.5 if most > 0.5 else (self.share >= most) & (self.share > 0)

    @property
    def outside(self) -> Tensor:
        """(h, w) bool: cells that are known not to show the label."""
        return ~self.inside if self.rest_known else torch.zeros_like(self.inside)


class Sight(Protocol):
    """What was learned of M labels from their shots."""

    def __call__(self, view: View) -> tuple[Tensor, Tensor]:
        """What becomes of the logits of the labels in a picture.

        Returns:
            ``trust`` (M,), the factor that is left of the logit by words, and ``evidence`` (M, h, w), the logit by
            sight that is added.
        """
        ...


@dataclass(frozen=True)
class Words:
    """The phrases of the labels of a lesson, for methods that read them.

    Attributes:
        vectors: (Q, D) in the space of the words.
        label: (Q,) int64, number of the label that each stands for.
    """

    vectors: Tensor
    label: Tensor

    def __post_init__(self) -> None:
        check_shape("vectors", self.vectors, "Q D")
        check_shape("label", self.label, "Q", Q=len(self.vectors))


@dataclass(frozen=True)
class Lesson:
    """All that a method learns from.

    Attributes:
        shots: of M labels, each at least one that shows it; trained methods also judge labels that none shows.
        rows: (M,) int64, the classes of ``View.text`` that the labels are.
        named: (M,) bool, whether words count as well; else a label is known by sight alone.
        words: of the labels; None where the method reads none.
    """

    shots: Sequence[Shot]
    rows: Tensor
    named: Tensor
    words: Words | None = None

    def __post_init__(self) -> None:
        check_shape("rows", self.rows, "M")
        check_shape("named", self.named, "M", M=len(self.rows))

    def of_label(self, label: int) -> list[Shot]:
        """The shots of one label, in order."""
        return [shot for shot in self.shots if shot.label == label]

    def only(self, labels: Tensor) -> Lesson:
        """What is to be learned of some labels, (n,) int64, which are numbered anew."""
        number = {label: place for place, label in enumerate(labels.tolist())}
        shots = [replace(shot, label=number[shot.label]) for shot in self.shots if shot.label in number]
        return Lesson(shots, self.rows[labels], self.named[labels])

    def each_label(self, describe: Callable[[list[Shot]], Tensor]) -> list[Tensor]:
        """``describe`` of the shots of every label."""
        return [describe(self.of_label(label)) for label in range(len(self.rows))]


def showing(shots: Sequence[Shot]) -> list[Shot]:
    """Those of some shots that show their label."""
    return [shot for shot in shots if bool(shot.inside.any())]


def cells_of(shots: Sequence[Shot], *, inside: bool) -> Tensor:
    """(n, C) unit features of the cells inside the labels of some shots, or outside."""
    picked = [shot.view.features[:, shot.inside if inside else shot.outside].T for shot in shots]
    return torch.cat(picked)


def spread_out(count: int, most: int) -> Tensor:
    """At most ``most`` of ``count`` positions, evenly taken."""
    if count <= most:
        return torch.arange(count)
    return torch.linspace(0, count - 1, most).round().long()
