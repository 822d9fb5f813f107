"""The result of an evaluation: scores, intervals, what produced them, and the rows behind them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ovseg.errors import ConfigError, DatasetError
from ovseg.escape import as_code, for_markdown
from ovseg.evaluation.data.protocol import Protocol
from ovseg.evaluation.metrics.bootstrap import ClassAreas, bootstrap_interval
from ovseg.evaluation.metrics.boundary import boundary_f_score, boundary_iou
from ovseg.evaluation.metrics.calibration import expected_calibration_error
from ovseg.evaluation.metrics.confusion import ConfusionMatrix, mean_of_known
from ovseg.evaluation.metrics.panoptic import QualitySums
from ovseg.evaluation.metrics.presence import presence_from_maps, presence_from_scores
from ovseg.evaluation.metrics.rows import ImageRow
from ovseg.evaluation.metrics.saliency import saliency_scores
from ovseg.evaluation.report.objects import headline, quality_sums, summarize_objects
from ovseg.files import read_json, write_json

FORMAT = "ovseg-evaluation-1"


@dataclass(frozen=True)
class EvaluationReport:
    """Scores of one segmenter under one protocol.

    Attributes:
        mean_iou: mean IoU over the classes present in the truth, from one matrix over all images, in [0, 1];
            without the background where the protocol's metric says so.
        iou: IoU by class name, in [0, 1]; NaN for a class that is neither in the truth nor in a prediction.
        pixel_accuracy: share of labelled pixels that are right, in [0, 1].
        interval: 95 % bootstrap interval of ``mean_iou`` over images.
        scores: all further scores by name, in [0, 1]; NaN where they do not apply.
        names: class names; the position is the class index of ``rows``.
        manifest: protocol and its hash, model, versions, commit, times, memory.
        rows: one for each image, in order of name.
        by_class: further scores of each class, by name of the score and of the class: "PQ" or "AP" where the
            protocol has panoptic maps or objects.
        quality_interval: 95 % bootstrap interval of "panoptic_quality"; None where it was not measured.
    """

    mean_iou: float
    iou: dict[str, float]
    pixel_accuracy: float
    interval: tuple[float, float]
    scores: dict[str, float]
    names: tuple[str, ...]
    manifest: dict[str, Any]
    rows: tuple[ImageRow, ...]
    by_class: dict[str, dict[str, float]] = field(default_factory=dict)
    quality_interval: tuple[float, float] | None = None

    @property
    def areas(self) -> ClassAreas:
        """Per-image areas, for the bootstrap."""
        scored = self.manifest.get("scored")
        return ClassAreas.from_pairs([row.pairs for row in self.rows], classes=len(self.names), scored=scored)

    @property
    def quality_sums(self) -> QualitySums | None:
        """Per-image sums of the panoptic quality, for the bootstrap; None where it was not measured."""
        return quality_sums(self.rows, classes=len(self.names))

    @property
    def model_name(self) -> str:
        """What was measured."""
        model = self.manifest.get("model", {})
        return str(model.get("name", "unnamed")) if isinstance(model, dict) else str(model)

    def without_images(self) -> EvaluationReport:
        """The report without its rows: small, but nothing can be compared with it image by image."""
        return replace(self, rows=())

    def save(self, path: str | Path) -> None:
        """Write the report as JSON, whole or not at all."""
        write_json(path, self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Plain values; NaN becomes null."""
        values = {
            "format": FORMAT,
            "mean_iou": self.mean_iou,
            "interval": list(self.interval),
            "pixel_accuracy": self.pixel_accuracy,
            "scores": self.scores,
            "iou": self.iou,
            **({"by_class": self.by_class} if self.by_class else {}),
            **({} if self.quality_interval is None else {"quality_interval": list(self.quality_interval)}),
            "manifest": self.manifest,
            "names": list(self.names),
            "images": [row.to_dict() for row in self.rows],
        }
        plain: dict[str, Any] = _nan_to_none(values)
        return plain

    @classmethod
    def load(cls, path: str | Path) -> EvaluationReport:
        """The report that ``save`` wrote.

        Raises:
            ConfigError: the file is missing, cut off, or no report.
        """
        advice = f"it must be a report of the format '{FORMAT}': write one with ovseg evaluate ... --out DIR"
        values = read_json(path, what="report", advice=advice)
        if values.get("format") != FORMAT:
            raise ConfigError(f"'{path}' is none; {advice}")
        try:
            report = cls(
                mean_iou=_share(values["mean_iou"]),
                iou={name: _share(value) for name, value in values["iou"].items()},
                pixel_accuracy=_share(values["pixel_accuracy"]),
                interval=_interval(values["interval"]) or (math.nan, math.nan),
                scores={name: _share(value) for name, value in values["scores"].items()},
                names=tuple(values["names"]),
                manifest=values["manifest"],
                rows=tuple(ImageRow.from_dict(row) for row in values["images"]),
                quality_interval=_interval(values.get("quality_interval")),
                by_class={
                    score: {name: _share(value) for name, value in of.items()}
                    for score, of in values.get("by_class", {}).items()
                },
            )
            report._check()
            return report
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
            raise ConfigError(
                f"the report '{path}' is incomplete or not as it was written ({error!r}); run it again"
            ) from error

    def _check(self) -> None:
        """Refuse what no evaluation writes, so that nothing is computed from it.

        Raises:
            ValueError, TypeError, KeyError: says what.
        """
        classes, manifest = len(self.names), self.manifest
        if not classes or not all(isinstance(name, str) for name in self.names) or list(self.iou) != [*self.names]:
            raise ValueError("expected an IoU for each of the names of the classes, in their order")
        if any(list(of) != [*self.names] for of in self.by_class.values()):
            raise ValueError("expected each score of classes for each of their names, in their order")
        for row in self.rows:
            row.check(classes)
        scored = manifest.get("scored", [0])
        if not scored or not all(type(index) is int and 0 <= index < classes for index in scored):
            raise ValueError(f"'scored' must hold class indices below {classes}, got {scored!r:.80}")
        float(manifest.get("seconds_per_image", 0))
        if not all(isinstance(sentence, str) for sentence in manifest.get("remarks", [])):
            raise TypeError("'remarks' must be sentences")
        if "leaks" in manifest:
            leak_line(manifest["leaks"])

    def to_markdown(self) -> str:
        """A report for people: what was measured, the scores, and every class from best to worst."""
        manifest = self.manifest
        low, high = self.interval
        lines = [
            f"# {for_markdown(manifest.get('title', manifest.get('protocol')))}",
            "",
            *headline(self.scores, self.quality_interval),
            f"mIoU **{_percent(self.mean_iou)}** (95 % interval {_percent(low)} to {_percent(high)}), "
            f"pixel accuracy {_percent(self.pixel_accuracy)}, {manifest.get('images', len(self.rows))} images.",
            "",
            f"- protocol {as_code(manifest.get('protocol'))} ({as_code(str(manifest.get('protocol_hash'))[:12])}), "
            f"labels {as_code(manifest.get('labels'))}, setting {as_code(manifest.get('setting'))}",
            f"- model {as_code(self.model_name)}, "
            f"{manifest.get('seconds_per_image', math.nan):.3f} s an image, "
            f"commit {as_code(str(manifest.get('commit'))[:12])}",
            *(f"- data: {for_markdown(sentence)}" for sentence in manifest.get("remarks", [])),
            *([f"- {leak_line(manifest['leaks'])}"] if "leaks" in manifest else []),
            "",
            "| score | % |",
            "|---|---|",
            *(
                f"| {for_markdown(name.replace('_', ' '))} | {_percent(value)} |"
                for name, value in self.scores.items()
            ),
            "",
            *self._class_table(),
        ]
        return "\n".join(lines) + "\n"

    def _class_table(self) -> list[str]:
        """Every class from best to worst, by the first score that there is."""
        columns = {f"{name} %": of for name, of in self.by_class.items()} | {"IoU %": self.iou}
        order = _best_first(next(iter(columns.values())))
        cells = {name: " | ".join(_percent(of[name]) for of in columns.values()) for name, _ in order}
        return [
            f"| class | {' | '.join(columns)} |",
            "|---" * (1 + len(columns)) + "|",
            *(f"| {for_markdown(name)} | {told} |" for name, told in cells.items()),
        ]


def summarize(rows: Sequence[ImageRow], protocol: Protocol, *, manifest: dict[str, Any]) -> EvaluationReport:
    """The report over ``rows``, whatever order they came in.

    Raises:
        DatasetError: there is no row.
    """
    if not rows:
        raise DatasetError(f"no image of '{protocol.name}' was evaluated; check --data, --split and --limit")
    ordered = tuple(sorted(rows, key=lambda row: row.name))
    matrix = ConfusionMatrix.empty(len(protocol.names))
    for row in ordered:
        matrix.add_pairs(row.pairs)
    areas = ClassAreas.from_pairs(
        [row.pairs for row in ordered], classes=len(protocol.names), scored=protocol.scored
    )
    seconds = float(np.mean([row.seconds for row in ordered]))
    object_scores, by_class = summarize_objects(ordered, protocol)
    sums = quality_sums(ordered, classes=len(protocol.names))
    return EvaluationReport(
        mean_iou=matrix.mean_iou(protocol.scored),
        iou=dict(zip(protocol.names, matrix.iou().tolist(), strict=True)),
        pixel_accuracy=matrix.pixel_accuracy(),
        interval=bootstrap_interval(areas),
        scores=object_scores | _further_scores(matrix, ordered, protocol),
        by_class=by_class,
        quality_interval=None if sums is None else bootstrap_interval(sums),
        names=protocol.names,
        manifest={
            **manifest,
            "scored": list(protocol.scored),
            "images": len(ordered),
            "seconds_per_image": round(seconds, 4),
        },
        rows=ordered,
    )


def leak_line(leaks: dict[str, Any], *, shown: int = 10) -> str:
    """How many images leak, and the first ``shown`` of them; the same of the model's own training photos."""
    told = f"leak check against the bank {as_code(leaks['bank'])} of {leaks['bank_images']} images: "
    if not leaks["count"]:
        told += "none is a near-copy of an evaluated image"
    else:
        told += f"**{leaks['count']} are near-copies of {len(leaks['images'])} evaluated images**: "
        told += _listed_pairs(leaks["pairs"], "bank_image", shown=shown)
    trained = leaks.get("training")
    if trained is None:
        return told
    told += f"; against the {trained['photos']} photos that {trained['model']} was trained on: "
    if not trained["pairs"]:
        return told + "none"
    images = len({pair["image"] for pair in trained["pairs"]})
    listed = _listed_pairs(trained["pairs"], "photo", shown=shown)
    return f"{told}**{images} evaluated images are near-copies**: {listed}"


def _listed_pairs(pairs: list[dict[str, Any]], other: str, *, shown: int) -> str:
    listed = [
        f"{as_code(pair[other])} = {as_code(pair['image'])}" + (f" {pair['change']}" if pair.get("change") else "")
        for pair in pairs[:shown]
    ]
    more = len(pairs) - len(listed)
    return ", ".join(listed) + (f" and {more} more" if more else "")


def image_mean_iou(row: ImageRow, *, classes: int) -> float:
    """Mean IoU of one image over its own classes: for ranking images, not a benchmark's score."""
    matrix = ConfusionMatrix.empty(classes)
    matrix.add_pairs(row.pairs)
    return matrix.mean_iou()


def _further_scores(matrix: ConfusionMatrix, rows: Sequence[ImageRow], protocol: Protocol) -> dict[str, float]:
    scores = {
        "mean_iou_all_classes": matrix.mean_iou("all"),
        "mean_class_accuracy": matrix.mean_class_accuracy(),
        "frequency_weighted_iou": matrix.frequency_weighted_iou(),
    }
    if protocol.background_index is not None:
        scores["foreground_background_iou"] = matrix.foreground_background_iou(protocol.background_index)
    if protocol.unseen:
        scores |= {f"{key}_iou": value for key, value in matrix.harmonic_iou(protocol.unseen).items()}
    graded = [row.tables["saliency"] for row in rows if "saliency" in row.tables]
    if graded:
        scores |= saliency_scores(graded)
    scores |= _boundary_scores(matrix, rows)
    scores |= _presence(rows, protocol.background_index)
    tables = [row.calibration for row in rows if len(row.calibration)]
    if tables:
        scores["expected_calibration_error"] = expected_calibration_error(np.sum(tables, axis=0))
    return scores


def _boundary_scores(matrix: ConfusionMatrix, rows: Sequence[ImageRow]) -> dict[str, float]:
    counts = np.concatenate([row.boundary for row in rows])
    present = matrix.true_area() > 0
    if not len(counts) or not present.any():
        return {}
    return {
        "boundary_iou": mean_of_known(boundary_iou(counts, classes=matrix.classes)[present]),
        "boundary_f_score": mean_of_known(boundary_f_score(counts, classes=matrix.classes)[present]),
    }


def _presence(rows: Sequence[ImageRow], background: int | None) -> dict[str, float]:
    by_map = presence_from_maps(rows, background=background)
    scores = {
        "presence_precision": by_map.precision,
        "presence_recall": by_map.recall,
        "absent_false_positive_rate": by_map.absent_false_positive_rate,
    }
    stated = presence_from_scores(rows, background=background)
    if stated is not None:
        scores["stated_presence_precision"] = stated.precision
        scores["stated_presence_recall"] = stated.recall
    return scores


def _best_first(iou: dict[str, float]) -> list[tuple[str, float]]:
    return sorted(iou.items(), key=lambda item: -1.0 if math.isnan(item[1]) else item[1], reverse=True)


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.1f}"


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _interval(values: Any) -> tuple[float, float] | None:
    return None if values is None else (_number(values[0]), _number(values[1]))


def _share(value: Any) -> float:
    """A score in [0, 1], or NaN for null.

    Raises:
        ValueError: it is another number.
    """
    number = _number(value)
    if math.isnan(number) or 0 <= number <= 1:
        return number
    raise ValueError(f"expected a score in [0, 1], got {value!r:.40}")


def _nan_to_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _nan_to_none(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_nan_to_none(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
