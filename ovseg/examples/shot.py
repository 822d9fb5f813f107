"""Shots and what is learned from them: the two things that every method of this room takes and gives."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from ovseg.tensors import check_shape

Kind = Literal["mask", "box", "point"]
TaughtT = TypeVar("TaughtT")

_AT_ONCE = 20  # shots of one label that are held together, 0.3 GB of ``mini``; of more, each as it is looked at


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
        elsewhere: (h, w) bool, cells that are known not to show the label where the rest is not; None for none.
    """

    view: View
    label: int
    share: Tensor
    kind: Kind = "mask"
    rest_known: bool = True
    elsewhere: Tensor | None = None

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
        if self.elsewhere is not None:
            return self.elsewhere & ~self.inside
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


class LazyShots(Sequence[Shot]):
    """Shots that are made when they are looked at, so that any number of them stays small."""

    @property
    @abstractmethod
    def labels(self) -> list[int]:
        """The label of each, without looking at it."""


@dataclass(frozen=True)
class SomeShots(LazyShots):
    """Some of the shots of another sequence, with labels of their own.

    Attributes:
        base: all of them.
        places: positions in ``base``.
        numbers: label of each.
    """

    base: Sequence[Shot]
    places: Sequence[int]
    numbers: Sequence[int]

    @property
    def labels(self) -> list[int]:
        """See ``LazyShots``."""
        return list(self.numbers)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return SomeShots(self.base, self.places[place], self.numbers[place])
        return replace(self.base[self.places[place]], label=self.numbers[place])


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
        beside: (n,) int64, classes of ``View.text`` that are labels without a name as well, learned elsewhere: what
            they are called says nothing of the labels here.
    """

    shots: Sequence[Shot]
    rows: Tensor
    named: Tensor
    words: Words | None = None
    beside: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    def __post_init__(self) -> None:
        check_shape("rows", self.rows, "M")
        check_shape("named", self.named, "M", M=len(self.rows))

    @cached_property
    def labels(self) -> list[int]:
        """The label of each shot."""
        return self.shots.labels if isinstance(self.shots, LazyShots) else [shot.label for shot in self.shots]

    @property
    def counts(self) -> Tensor:
        """(M,) int64, how many shots each label has."""
        return torch.bincount(torch.tensor(self.labels, dtype=torch.int64), minlength=len(self.rows))

    def of_label(self, label: int) -> Sequence[Shot]:
        """The shots of one label, in order; few are held, of many each is made when it is looked at."""
        chosen = self._chosen({label: label})
        return list(chosen) if len(chosen) <= _AT_ONCE else chosen

    def only(self, labels: Tensor) -> Lesson:
        """What is to be learned of some labels, (n,) int64, which are numbered anew; the others are beside them."""
        chosen = self._chosen({label: place for place, label in enumerate(labels.tolist())})
        others = ~self.named
        others[labels] = False
        beside = torch.cat([self.beside, self.rows[others]])
        return Lesson(chosen, self.rows[labels], self.named[labels], beside=beside)

    def _chosen(self, number: dict[int, int]) -> SomeShots:
        """The shots of some labels, by their new numbers."""
        places = [place for place, label in enumerate(self.labels) if label in number]
        return SomeShots(self.shots, places, [number[self.labels[place]] for place in places])


@dataclass(frozen=True)
class Comparison(Generic[TaughtT]):
    """How a method tells labels by what their shots look like.

    Attributes:
        describe: the shots of one label to what is kept of them.
        scores: a picture, and what is kept of M labels, to (M, h, w), the higher the likelier.
    """

    describe: Callable[[Sequence[Shot]], TaughtT]
    scores: Callable[[View, Sequence[TaughtT]], Tensor]


def showing(shots: Iterable[Shot]) -> Iterator[Shot]:
    """Those of some shots that show their label."""
    return (shot for shot in shots if bool(shot.inside.any()))


def cells_of(shots: Iterable[Shot], *, inside: bool) -> Tensor:
    """(n, C) unit features of the cells inside the labels of some shots, or outside."""
    return torch.cat([shot.view.features[:, shot.inside if inside else shot.outside].T for shot in shots])


def some_cells_of(shots: Sequence[Shot], most: int, *, inside: bool) -> Tensor:
    """At most ``most`` of the cells that ``cells_of`` gives, evenly taken over all shots."""
    masks = [(shot.inside if inside else shot.outside).flatten() for shot in shots]
    counts = [int(mask.sum()) for mask in masks]
    chosen = torch.zeros(sum(counts), dtype=torch.bool)
    chosen[spread_out(len(chosen), most)] = True
    picked = []
    for shot, mask, own in zip(shots, masks, torch.split(chosen, counts), strict=True):
        places = mask.nonzero()[:, 0][own.to(mask.device)]
        picked.append(shot.view.features.flatten(1)[:, places].T)
    return torch.cat(picked)


def spread_out(count: int, most: int) -> Tensor:
    """At most ``most`` of ``count`` positions, evenly taken."""
    if count <= most:
        return torch.arange(count)
    return torch.linspace(0, count - 1, most).round().long()
