"""Episodes: a picture to judge, and pictures that show some of its classes by masks, boxes and points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from ovseg.encoders.spec import DenseFeatures
from ovseg.examples.shot import Kind, Lesson, Shot, Words, spread_out
from ovseg.examples.shot import View as Seen
from ovseg.heads.shots import ShotHead
from ovseg.pipeline.examples import view_from
from ovseg.pipeline.logits import class_logits
from ovseg.pipeline.queries import QueryBank
from ovseg.training.views import FINER, View, Views
from ovseg.vocabulary.labels import Vocabulary

LEAST_SHARE = 0.005  # of an image that a class must take for the image to show it
_JITTER = 0.1  # of a box's sides, how far each of its edges may be off


@dataclass(frozen=True)
class Rules:
    """How episodes are drawn.

    Attributes:
        ways: classes, at most.
        shots: pictures of a class, at most.
        prompts: how often each kind of prompt is drawn, against the others.
        wrong_words: chance that a class has the words of another.
    """

    ways: int
    shots: int
    prompts: dict[Kind, float]
    wrong_words: float


@dataclass(frozen=True)
class Episode:
    """What is learned from, and what is to be answered.

    Attributes:
        lesson: M labels with shots, words, or both.
        view: the picture to judge, with the logits of the M labels by words.
        truth: (f·h, f·w) int64 number of the label of each pixel; −1 where it is none of them, or not known.
    """

    lesson: Lesson
    view: Seen
    truth: Tensor


class Episodes:
    """Draws episodes from the views of one source.

    Args:
        views: of the images.
        count: views of an image.
        vectors: (Q, C) text vectors of the phrases.
        owner: (Q,) the class of each.
        smoothing: of the model file.
    """

    def __init__(
        self, views: Views, *, count: int, vectors: Tensor, owner: Tensor, smoothing: float | None
    ) -> None:
        self.views, self.count, self.smoothing = views, count, smoothing
        self.vectors, self.owner = vectors, owner
        self.shown = [
            [present(views.fetch(image, number).truth) for number in range(count)] for image in range(len(views))
        ]
        self.images_of: dict[int, list[int]] = {}
        for image, shown in enumerate(self.shown):
            for number in set().union(*shown):
                self.images_of.setdefault(number, []).append(image)

    def draw(self, head: ShotHead, rules: Rules, generator: torch.Generator) -> tuple[Episode, str]:
        """An episode as ``head`` reads it, and what names its picture."""
        image, number = _draw(len(self.views), generator), _draw(self.count, generator)
        classes = self._classes(image, number, rules.ways, generator)
        spoken = [self._spoken(each, rules, generator) for each in classes]
        ways = self._ways(len(classes), generator)
        shown = [each if way < 2 else None for each, way in zip(classes, ways, strict=True)]
        shots = self._shots(head, rules, shown, asked=image, generator=generator)
        with_shots = {shot.label for shot in shots}
        named = torch.tensor([way > 0 or label not in with_shots for label, way in enumerate(ways)])
        view = self.views.fetch(image, number)
        truth = torch.full(view.truth.shape, -1)
        for label, each in enumerate(classes):
            truth[torch.from_numpy(view.truth == each)] = label
        lesson = Lesson(shots, torch.arange(len(classes)), named, self._words(head, spoken))
        asked = f"view {number} of '{self.views.source.names[image]}'"
        return Episode(lesson, self._seen(head, view, spoken), truth), asked

    def cells(self, head: ShotHead, *, each: int) -> Tensor:
        """(n, C) of all images, as ``head`` reads them; at most ``each`` of an image, evenly taken."""
        found = []
        for image in range(len(self.views)):
            seen = self._seen(head, self.views.fetch(image), None)
            found.append(head.read(seen, spread_out(seen.grid[0] * seen.grid[1], each)))
        return torch.cat(found)

    def _classes(self, image: int, number: int, ways: int, generator: torch.Generator) -> list[int]:
        """Classes of the image first, then others."""
        here = sorted(self.shown[image][number])
        rest = sorted(set(self.images_of) - set(here))
        return [*_some(here, ways, generator), *_some(rest, max(0, ways - len(here)), generator)]

    def _spoken(self, number: int, rules: Rules, generator: torch.Generator) -> int:
        """The class whose words stand for a class: mostly its own."""
        wrong = float(torch.rand((), generator=generator)) < rules.wrong_words
        return _some(sorted(self.images_of), 1, generator)[0] if wrong else number

    def _ways(self, count: int, generator: torch.Generator) -> list[int]:
        """How each class is given: 0 by pictures, 1 by both, 2 by words.

        A quarter of the episodes are all of pictures, a quarter all of both; in the others each class is drawn.
        """
        way = _draw(4, generator)
        return [way] * count if way < 2 else [_draw(3, generator) for _ in range(count)]

    def _shots(
        self, head: ShotHead, rules: Rules, shown: Sequence[int | None], *, asked: int, generator: torch.Generator
    ) -> list[Shot]:
        """Shots of classes, by label, from other images than the one that is asked; None is not shown."""
        shots: list[Shot] = []
        seen: dict[tuple[int, int], Seen] = {}  # an image may show several classes
        for label, wanted in enumerate(shown):
            count = 1 + _draw(rules.shots, generator)
            images = [] if wanted is None else [one for one in self.images_of[wanted] if one != asked]
            for image in _some(images, count, generator):
                place, kind = (image, _draw(self.count, generator)), _kind(rules.prompts, generator)
                view = self.views.fetch(*place)
                mask = view.truth == wanted
                if not mask.any():  # cut off in this view
                    continue
                if place not in seen:
                    seen[place] = self._seen(head, view, None)
                shots.append(Shot(seen[place], label, prompt_of(mask, kind, generator), kind))
        return shots

    def _words(self, head: ShotHead, spoken: Sequence[int]) -> Words:
        rows = [(self.owner == each).nonzero()[:, 0] for each in spoken]
        label = torch.cat([torch.full((len(row),), number) for number, row in enumerate(rows)])
        device = next(head.parameters()).device
        return Words(head.phrases(self.vectors[torch.cat(rows)].to(device)).values, label)

    def _seen(self, head: ShotHead, view: View, spoken: Sequence[int] | None) -> Seen:
        """A picture as the pipeline shows it to the head; without words where none are asked for."""
        device = next(head.parameters()).device
        if spoken is None and head.apart:  # nothing else is read of a shot
            maps = torch.from_numpy(np.array(view.features)).permute(2, 0, 1)
            blank = torch.zeros(3, *maps.shape[1:])
            return Seen(maps, blank[:1], blank, inputs=maps)
        both = [torch.from_numpy(np.array(each)) for each in (view.features, view.structure) if each is not None]
        values, *structure = (each.permute(2, 0, 1)[None].to(device, torch.float32) for each in both)
        dense = DenseFeatures(
            values, head.feature_space, self.views.stride, structure=structure[0] if structure else None
        )
        joint = head.pixels(dense)
        if spoken is None:
            text = torch.zeros(1, *dense.grid, device=device)
        else:
            words = self._words(head, spoken)
            names = Vocabulary.of([str(number) for number in range(len(spoken))], background=None)
            bank = QueryBank.of_vectors(
                words.vectors, words.label.tolist(), names, space=head.space, logit_scale=1.0
            )
            text = class_logits(head, joint, bank, smoothing=self.smoothing).values
        return view_from(joint, text, torch.zeros(3, *dense.grid, device=device))


def present(truth: np.ndarray) -> set[int]:
    """Classes that take at least ``LEAST_SHARE`` of a label map."""
    numbers, counts = np.unique(truth[truth >= 0], return_counts=True)
    return {int(n) for n, count in zip(numbers, counts, strict=True) if count >= LEAST_SHARE * truth.size}


def prompt_of(mask: np.ndarray, kind: Kind, generator: torch.Generator) -> Tensor:
    """What points at a class in a picture, as share of each cell.

    Args:
        mask: (f·h, f·w) bool, not empty.
        kind: "mask" is the mask itself; "box" lies around one connected part of it, drawn by area, each edge off by
            up to a tenth of the side; "point" is one of its cells, drawn by how much of them it takes.
        generator: draws.

    Returns:
        (h, w) float32 in [0, 1].
    """
    share = _pooled(mask)
    if kind == "mask":
        return share
    if kind == "point":
        place = int(torch.multinomial(share.flatten() ** 4, 1, generator=generator))
        return functional.one_hot(torch.tensor(place), share.numel()).float().view_as(share)
    parts, _ = ndimage.label(mask)
    areas = torch.from_numpy(np.bincount(parts.ravel())[1:]).float()
    part = 1 + int(torch.multinomial(areas, 1, generator=generator))
    box = np.zeros_like(mask)
    edges = []
    for axis, places in enumerate(np.nonzero(parts == part)):
        first, last = int(places.min()), int(places.max()) + 1
        off = (torch.rand(2, generator=generator) * 2 - 1) * _JITTER * (last - first)
        low = min(max(round(first + float(off[0])), 0), mask.shape[axis] - 1)
        edges.append(slice(low, max(low + 1, round(last + float(off[1])))))
    box[tuple(edges)] = True
    return _pooled(box)


def _pooled(mask: np.ndarray) -> Tensor:
    return functional.avg_pool2d(torch.from_numpy(mask)[None].float(), FINER)[0]


def _kind(prompts: dict[Kind, float], generator: torch.Generator) -> Kind:
    weights = torch.tensor(list(prompts.values()))
    return list(prompts)[int(torch.multinomial(weights, 1, generator=generator))]


def _draw(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (1,), generator=generator))


def _some(values: Sequence[int], count: int, generator: torch.Generator) -> list[int]:
    return [values[place] for place in torch.randperm(len(values), generator=generator)[:count].tolist()]
