"""The methods by name. Adding one is adding a line to ``METHODS``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ovseg.config import choose
from ovseg.examples.clusters import cluster_odds
from ovseg.examples.density import density_ratio
from ovseg.examples.fusion import fuse
from ovseg.examples.learned import learn
from ovseg.examples.prototypes import kmeans_prototypes, mean_prototypes
from ovseg.examples.shot import Lesson, Sight, View

Method = Callable[[Lesson, str], Sight]

_FEW = 5  # shots up to which a label without a name is matched rather than learned


@dataclass(frozen=True)
class JoinedSight:
    """What two methods learned, each of some of the labels.

    Attributes:
        parts: the two.
        order: (M,) where each label stands in the parts, one after the other.
    """

    parts: tuple[Sight, Sight]
    order: Tensor

    def __call__(self, view: View) -> tuple[Tensor, Tensor]:
        """See ``Sight``."""
        trusts, evidence = zip(*(part(view) for part in self.parts), strict=True)
        return torch.cat(trusts)[self.order], torch.cat(evidence)[self.order]


@dataclass(frozen=True)
class MeanSight:
    """What two methods learned of the same labels, half of each; a method may know of further labels.

    Attributes:
        first: of M labels.
        second: of the first m of them.
    """

    first: Sight
    second: Sight

    def __call__(self, view: View) -> tuple[Tensor, Tensor]:
        """See ``Sight``: the mean of the logits, which is the geometric mean of the odds."""
        (trust, evidence), (also, more) = self.first(view), self.second(view)
        count = len(also)
        trust = torch.cat([(trust[:count] + also.to(trust)) / 2, trust[count:]])
        return trust, torch.cat([(evidence[:count] + more.to(evidence)) / 2, evidence[count:]])


def by_name(lesson: Lesson, rule: str) -> Sight:
    """Labels with a name are learned; those without, where there are few shots, are matched as INSID3 does.

    Learning starts from words; without them it has little to start from, and one shot is little to learn from.
    """
    if bool(lesson.named.all()):
        return learn(lesson)
    matched = ~lesson.named & (lesson.counts <= _FEW)
    if not bool(matched.any()):
        return learn(lesson)
    if bool(matched.all()):
        return METHODS["insid3"](lesson, "sight")
    first, second = (~matched).nonzero()[:, 0], matched.nonzero()[:, 0]
    order = torch.cat([first, second]).argsort()
    return JoinedSight((learn(lesson.only(first)), METHODS["insid3"](lesson.only(second), "sight")), order)


METHODS: dict[str, Method] = {
    "auto": by_name,
    "learned": lambda lesson, rule: learn(lesson),  # weighs words and sight by itself
    "mean": lambda lesson, rule: fuse(mean_prototypes(), lesson, rule=rule),
    "kmeans": lambda lesson, rule: fuse(kmeans_prototypes(), lesson, rule=rule),
    "density": lambda lesson, rule: fuse(density_ratio(), lesson, rule=rule, calibrated=False),
    "insid3": lambda lesson, rule: fuse(cluster_odds(), lesson, rule=rule, calibrated=False),
}


def teach(lesson: Lesson, *, method: str = "auto", fusion: str = "growing") -> Sight:
    """What a method learns from shots.

    Args:
        lesson: the shots.
        method: a name of ``METHODS``.
        fusion: a name of ``fusion.RULES``; "auto" and "learned" need none.

    Raises:
        ConfigError: there is no such method or rule; the nearest is offered.
    """
    return choose("method for examples", method, METHODS)(lesson, fusion)
