"""Two reports of one protocol side by side: what differs, and whether it could be chance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ovseg.errors import ConfigError
from ovseg.escape import as_code, for_markdown
from ovseg.evaluation.metrics.bootstrap import ClassAreas, PairedDifference, paired_bootstrap
from ovseg.evaluation.metrics.rows import ImageRow
from ovseg.evaluation.report.report import EvaluationReport


@dataclass(frozen=True)
class Comparison:
    """B against A on the same images.

    Attributes:
        mean_iou: the paired bootstrap of the mean IoU.
        iou: IoU of B less that of A by class name, of the classes that both have.
        scores: the same for the further scores.
        models: names of A and B.
        quality: the paired bootstrap of the panoptic quality; None where it was not measured.
    """

    mean_iou: PairedDifference
    iou: dict[str, float]
    scores: dict[str, float]
    models: tuple[str, str]
    quality: PairedDifference | None = None

    def to_markdown(self, *, classes: int = 5) -> str:
        """A verdict, the scores, and the ``classes`` that gained and lost most."""
        ranked = sorted(self.iou.items(), key=lambda item: item[1])
        most = list(dict(ranked[::-1][:classes] + ranked[:classes][::-1]).items())
        lines = [
            f"B = {as_code(self.models[1])} against A = {as_code(self.models[0])}: "
            f"{_verdict('mIoU', self.mean_iou)}",
            *([] if self.quality is None else [_verdict("PQ", self.quality)]),
            "",
            "| score | B - A, points |",
            "|---|---|",
            *(
                f"| {for_markdown(name.replace('_', ' '))} | {100 * value:+.2f} |"
                for name, value in self.scores.items()
            ),
            *(f"| {for_markdown(name)} (IoU) | {100 * value:+.2f} |" for name, value in most),
        ]
        return "\n".join(lines) + "\n"


def _verdict(name: str, change: PairedDifference) -> str:
    return (
        f"{name} {100 * change.difference:+.2f} points, "
        f"95 % interval {100 * change.low:+.2f} to {100 * change.high:+.2f}, "
        f"p = {change.p_value:.3f}: **{'significant' if change.significant else 'not significant'}**."
    )


def compare_reports(first: EvaluationReport, second: EvaluationReport, *, draws: int = 1000) -> Comparison:
    """What changes from ``first`` (A) to ``second`` (B), with a paired bootstrap over images.

    Raises:
        ConfigError: the two were not made under the same protocol on the same images.
    """
    _check_protocol(first, second)
    _check_images(first, second)
    both = set(first.scores) & set(second.scores)
    ours, theirs = first.quality_sums, second.quality_sums
    return Comparison(
        mean_iou=paired_bootstrap(first.areas, second.areas, draws=draws),
        iou=_differences(first.iou, second.iou, list(first.iou)),
        scores=_differences(first.scores, second.scores, [name for name in first.scores if name in both]),
        models=(first.model_name, second.model_name),
        quality=None if ours is None or theirs is None else paired_bootstrap(ours, theirs, draws=draws),
    )


def regression(report: EvaluationReport, baseline: EvaluationReport, *, margin: float) -> str | None:
    """A sentence when the mean IoU of ``report`` is over ``margin`` below that of ``baseline``, else None.

    Only the images of ``report`` count, so that a slice can be held against a committed result of the whole.

    Args:
        report: the new result.
        baseline: the committed result, on the same images or more.
        margin: in [0, 1], points of mean IoU divided by 100.

    Raises:
        ConfigError: the protocols differ, or ``baseline`` lacks an image or has other files of it.
    """
    _check_protocol(baseline, report)
    before = {row.name: row for row in baseline.rows}
    missing = [row.name for row in report.rows if row.name not in before]
    if missing:
        raise ConfigError(f"the baseline has no image '{missing[0]}'; evaluate it on all images of the slice")
    _check_content([(before[row.name], row) for row in report.rows])
    pairs = [before[row.name].pairs for row in report.rows]
    areas = ClassAreas.from_pairs(pairs, classes=len(report.names), scored=baseline.manifest.get("scored"))
    wanted = float(areas.mean_iou(np.ones((1, len(pairs))))[0])
    if report.mean_iou >= wanted - margin:
        return None
    return (
        f"mIoU fell from {100 * wanted:.1f} to {100 * report.mean_iou:.1f} on {len(pairs)} images of "
        f"'{report.manifest.get('protocol')}', more than the margin of {100 * margin:.1f}"
    )


def _check_protocol(first: EvaluationReport, second: EvaluationReport) -> None:
    ours, theirs = first.manifest.get("protocol_hash"), second.manifest.get("protocol_hash")
    if ours is None or ours != theirs:
        raise ConfigError(
            f"only reports over the same protocol can be compared; A has {_protocol(first)}, "
            f"B has {_protocol(second)}; evaluate one of them again as the other was"
        )
    _check_classes(first, second)


def _check_classes(first: EvaluationReport, second: EvaluationReport) -> None:
    if first.names != second.names or first.manifest.get("scored") != second.manifest.get("scored"):
        raise ConfigError(
            f"A and B name one protocol, but A has {len(first.names)} classes and B {len(second.names)}, "
            "or they are named or scored otherwise; evaluate one of them again"
        )


def _check_images(first: EvaluationReport, second: EvaluationReport) -> None:
    for letter, report in (("A", first), ("B", second)):
        if not report.rows:
            raise ConfigError(
                f"{letter} holds no rows of single images, which the test needs; "
                "take the report.json that ovseg evaluate ... --out DIR writes"
            )
        if not any(row.pairs[:, 2].any() for row in report.rows):
            raise ConfigError(
                f"no pixel of the images of {letter} counts, so there is nothing to compare; look at its data"
            )
    names, others = ([row.name for row in report.rows] for report in (first, second))
    if names != others:
        lone = sorted(set(names) ^ set(others))[0]
        raise ConfigError(
            f"only reports over the same images can be compared; A has {len(names)} images, B has {len(others)}, "
            f"and only one of them has '{lone}'; evaluate one of them again as the other was"
        )
    _check_content(list(zip(first.rows, second.rows, strict=True)))


def _check_content(pairs: list[tuple[ImageRow, ImageRow]]) -> None:
    """Refuse rows of one name over other files; rows of earlier versions do not say what their files held."""
    for first, second in pairs:
        if first.content and second.content and first.content != second.content:
            raise ConfigError(
                f"only reports over the same images can be compared; image or mask of '{first.name}' is not the "
                "same file in both; evaluate both on the same data"
            )


def _protocol(report: EvaluationReport) -> str:
    manifest = report.manifest
    short = str(manifest.get("protocol_hash"))[:8]
    return f"'{manifest.get('protocol')}' with labels '{manifest.get('labels')}' ({short})"


def _differences(first: dict[str, float], second: dict[str, float], names: list[str]) -> dict[str, float]:
    changes = {name: second[name] - first[name] for name in names if name in second}
    return {name: change for name, change in changes.items() if not math.isnan(change)}
