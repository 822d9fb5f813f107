"""The scores of objects and of panoptic maps, from the rows of a run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ovseg.evaluation.data.protocol import Protocol
from ovseg.evaluation.metrics.objects import ANY_CLASS, ObjectScores, mean_scores, precision_curves
from ovseg.evaluation.metrics.panoptic import QualitySums, mean_quality, panoptic_quality
from ovseg.evaluation.metrics.rows import ImageRow

ByClass = dict[str, dict[str, float]]  # by name of a score: of each class


def summarize_objects(rows: Sequence[ImageRow], protocol: Protocol) -> tuple[dict[str, float], ByClass]:
    """Scores by name, and those of each class; both empty where the protocol has no objects."""
    if protocol.objects == "panoptic":
        return _panoptic(rows, protocol)
    if protocol.objects == "instances":
        return _instances(rows, protocol)
    return {}, {}


def quality_sums(rows: Sequence[ImageRow], *, classes: int) -> QualitySums | None:
    """Per-image sums of the panoptic quality; None where it was not measured in every image."""
    tables = [row.tables["panoptic"] for row in rows if "panoptic" in row.tables]
    return QualitySums.of(tables, classes=classes) if tables and len(tables) == len(rows) else None


def headline(scores: dict[str, float], interval: tuple[float, float] | None) -> list[str]:
    """The most important of these scores in a line; no line where there are none.

    Args:
        scores: by name.
        interval: of the panoptic quality, if it was measured.
    """
    if "panoptic_quality" in scores:
        groups = ("panoptic_quality", "panoptic_quality_things", "panoptic_quality_stuff")
        quality, things, stuff = (_percent(scores[group]) for group in groups)
        oracle = _percent(scores["panoptic_quality_oracle_names"])
        low, high = map(_percent, interval or (np.nan, np.nan))
        parts = f"things {things}, stuff {stuff}, with the names of the truth {oracle}"
        return [f"PQ **{quality}** (95 % interval {low} to {high}), {parts}.", ""]
    if "average_precision" in scores:
        keys = ("average_precision", "average_precision_50", "average_recall_100", "average_precision_any_name")
        whole, half, recall, unnamed = (_percent(scores[key]) for key in keys)
        return [f"AP **{whole}** (AP50 {half}, AR100 {recall}), AP of the masks without their names {unnamed}.", ""]
    return []


def _panoptic(rows: Sequence[ImageRow], protocol: Protocol) -> tuple[dict[str, float], ByClass]:
    tables = [row.tables["panoptic"] for row in rows]
    classes = range(len(protocol.names))
    things = protocol.things
    groups = {"": classes, "_things": things, "_stuff": [index for index in classes if index not in things]}
    named = panoptic_quality(tables, classes=len(classes))
    oracle = panoptic_quality(tables, classes=len(classes), oracle_names=True)
    scores = {}
    for group, members in groups.items():
        means = mean_quality(named, members)
        scores[f"panoptic_quality{group}"] = means.quality
        scores[f"segmentation_quality{group}"] = means.segmentation
        scores[f"recognition_quality{group}"] = means.recognition
    for group, members in groups.items():
        scores[f"panoptic_quality_oracle_names{group}"] = mean_quality(oracle, members).quality
    return scores, {"PQ": dict(zip(protocol.names, named[:, 0].tolist(), strict=True))}


def _instances(rows: Sequence[ImageRow], protocol: Protocol) -> tuple[dict[str, float], ByClass]:
    curves = precision_curves([row.tables["found"] for row in rows], [row.tables["true"] for row in rows])
    by_class = [mean_scores(curves, [index]) for index in range(len(protocol.names))]
    scores = _scores(mean_scores(curves, range(len(protocol.names))), "")
    for subset, members in protocol.subsets.items():
        means = mean_scores(curves, [protocol.names.index(name) for name in members])
        scores[f"average_precision_{subset}"] = means.precision["all"]
    scores |= _scores(mean_scores(curves, [ANY_CLASS]), "_any_name")
    return scores, {
        "AP": {name: each.precision["all"] for name, each in zip(protocol.names, by_class, strict=True)}
    }


def _scores(scores: ObjectScores, ending: str) -> dict[str, float]:
    sizes = {
        f"average_precision_{area}{ending}": value for area, value in scores.precision.items() if area != "all"
    }
    return {
        f"average_precision{ending}": scores.precision["all"],
        f"average_precision_50{ending}": scores.at_half,
        f"average_precision_75{ending}": scores.at_three_quarters,
        **sizes,
        **{f"average_recall_{most}{ending}": value for most, value in scores.recall.items()},
    }


def _percent(value: float) -> str:
    return "–" if np.isnan(value) else f"{100 * value:.1f}"
