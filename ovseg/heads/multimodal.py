"""Multi-Modal Prototypes: a label is a set of prototypes, of words and of pictures, that complete each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from ovseg.examples.shot import Lesson
from ovseg.heads.base import Head
from ovseg.heads.blocks import Block
from ovseg.heads.shots import SeenShot, ShotHead, ShotSettings, still
from ovseg.regions.clusters import spherical_kmeans

WORDS, INSIDE, OUTSIDE = range(3)


class MultiModalSettings(ShotSettings):
    """A ``MultiModal``.

    Attributes:
        parts: prototypes of what a shot shows, at most.
        others: prototypes of what lies around it, at most.
    """

    parts: int = Field(default=3, gt=0)
    others: int = Field(default=4, gt=0)


@dataclass(frozen=True)
class PrototypeSet:
    """Prototypes of M labels.

    Attributes:
        vectors: (P, W) unit.
        label: (P,) number of the label.
        kind: (P,) ``WORDS``, ``INSIDE`` or ``OUTSIDE``.
        shown: (M,) bool, labels with a prototype ``INSIDE``.
    """

    vectors: Tensor
    label: Tensor
    kind: Tensor
    shown: Tensor


class MultiModal(ShotHead):
    """The evidence is the largest cosine with a prototype of a label, less that with one of what lies around it.

    Each shot is cut into parts that look alike, whose means are prototypes; each phrase is one. Those of a label
    look at each other in a transformer, words at pictures and pictures at words. Any number will do, either kind
    alone.

    Source: Multi-Modal Prototypes (arXiv 2307.02003, IJCV 2024); no code was found. On purpose: phrases of a label
    (its synonyms) stand for the aspects that a language model names there; parts are clusters by k-means; what lies
    around a shot has prototypes as well; the mask head is a cosine; words keep part of the logit of the head below.
    """

    judges_words = True

    def __init__(self, base: Head, settings: MultiModalSettings) -> None:
        super().__init__(base, settings, kind="multimodal")
        self.counts = (settings.parts, settings.others)
        self.marks = nn.Parameter(torch.zeros(3, settings.width))
        self.blocks = nn.ModuleList(
            Block(settings.width, heads=settings.attention_heads, inner=settings.inner, dropout=settings.dropout)
            for _ in range(settings.layers)
        )
        for block in self.blocks:
            assert isinstance(block, Block)
            still(block)
        self.level = nn.Parameter(torch.tensor(0.0))
        self.word_gain = nn.Parameter(torch.tensor(0.0))

    def taught(self, lesson: Lesson, shots: Sequence[SeenShot]) -> PrototypeSet:
        """The prototypes of all labels, completed."""
        vectors, label, kind = [], [], []
        for shot in shots:
            inside = shot.inside > 0
            sides = [(INSIDE, shot.cells[inside], shot.inside[inside])]
            if shot.known:
                sides.append((OUTSIDE, shot.cells[~inside], torch.ones_like(shot.inside[~inside])))
            for which, cells, weights in sides:
                if len(cells):
                    found = parts_of(cells, weights, count=self.counts[which == OUTSIDE])
                    vectors.append(found)
                    label += [shot.label] * len(found)
                    kind += [which] * len(found)
        if lesson.words is not None:
            spoken = lesson.named[lesson.words.label]
            vectors.append(self.words_in(lesson.words.vectors.to(self.level)[spoken]))
            label += lesson.words.label[spoken].tolist()
            kind += [WORDS] * int(spoken.sum())
        device = self.level.device
        owner, kinds = torch.tensor(label, device=device), torch.tensor(kind, device=device)
        shown = torch.zeros(len(lesson.rows), dtype=torch.bool, device=device)
        shown[owner[kinds == INSIDE]] = True
        return PrototypeSet(self.completed(torch.cat(vectors), owner, kinds), owner, kinds, shown)

    def completed(self, vectors: Tensor, label: Tensor, kind: Tensor) -> Tensor:
        """(P, W) prototypes after those of each label have looked at each other: unit."""
        tokens = functional.normalize(vectors, dim=1) * vectors.shape[1] ** 0.5 + self.marks[kind]
        allowed = label[:, None] == label[None]
        for block in self.blocks:
            tokens = block(tokens[None], allowed)[0]
        return functional.normalize(tokens, dim=1)

    def evidence(self, cells: Tensor, grid: tuple[int, int], taught: PrototypeSet) -> Tensor:
        """(M, h, w) logits that are added to those by words."""
        cosines = taught.vectors @ functional.normalize(cells, dim=1).T  # (P, h·w)
        near = best_of(cosines, taught.label, taught.kind != OUTSIDE, count=len(taught.shown))
        away = best_of(cosines, taught.label, taught.kind == OUTSIDE, count=len(taught.shown))
        away = torch.where(away.isinf(), self.level, away)
        gain = torch.where(taught.shown, 1.0, self.word_gain)[:, None]
        found: Tensor = gain * self.log_scale.exp() * (near - away)
        return found.view(-1, *grid)


def parts_of(cells: Tensor, weights: Tensor, *, count: int) -> Tensor:
    """Weighted means (R, W) of at most ``count`` clusters of (n, W) cells, found by k-means on their directions."""
    directions = functional.normalize(cells.detach().float(), dim=1)
    owner = spherical_kmeans(directions, count)[1]
    members = functional.one_hot(owner).T.to(cells) * weights
    members = members[members.sum(1) > 0]
    return members @ functional.normalize(cells, dim=1) / members.sum(1, keepdim=True)


def best_of(values: Tensor, label: Tensor, counted: Tensor, *, count: int) -> Tensor:
    """(count, n) the largest of (P, n) values of each label; −inf for a label without any that counts."""
    own = label[counted][:, None].expand(-1, values.shape[1])
    empty = torch.full((count, values.shape[1]), -torch.inf, dtype=values.dtype, device=values.device)
    return empty.scatter_reduce(0, own, values[counted], reduce="amax")
