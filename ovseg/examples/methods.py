"""The methods by name. Adding one is adding a line to ``METHODS``."""

from __future__ import annotations

from collections.abc import Callable

from ovseg.config import choose
from ovseg.examples.clusters import cluster_odds
from ovseg.examples.density import density_ratio
from ovseg.examples.fusion import fuse
from ovseg.examples.learned import learn
from ovseg.examples.prototypes import kmeans_prototypes, mean_prototypes
from ovseg.examples.shot import Lesson, Sight

Method = Callable[[Lesson, str], Sight]

METHODS: dict[str, Method] = {
    "learned": lambda lesson, rule: learn(lesson),  # weighs words and sight by itself
    "mean": lambda lesson, rule: fuse(mean_prototypes, lesson, rule=rule),
    "kmeans": lambda lesson, rule: fuse(kmeans_prototypes, lesson, rule=rule),
    "density": lambda lesson, rule: fuse(density_ratio, lesson, rule=rule, calibrated=False),
    "insid3": lambda lesson, rule: fuse(cluster_odds, lesson, rule=rule, calibrated=False),
}


def teach(lesson: Lesson, *, method: str = "learned", fusion: str = "growing") -> Sight:
    """What a method learns from shots.

    Args:
        lesson: the shots.
        method: a name of ``METHODS``.
        fusion: a name of ``fusion.RULES``; "learned" needs none.

    Raises:
        ConfigError: there is no such method or rule; the nearest is offered.
    """
    return choose("method for examples", method, METHODS)(lesson, fusion)
