"""How many clicks it takes to select the segments of a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovseg._version import __version__
from ovseg.errors import ConfigError, DatasetError
from ovseg.escape import as_code, for_markdown
from ovseg.evaluation.data.examples import Dataset, Example
from ovseg.evaluation.metrics.clicks import AFTER, LIMITS, MOST, Click, click_scores, next_click, overlap
from ovseg.evaluation.metrics.panoptic import Segments
from ovseg.evaluation.run.kept import KeptRows
from ovseg.evaluation.run.task import RunOptions, Task, check_count, open_task, spread
from ovseg.files import atomic_path, write_json
from ovseg.identity import mark_files
from ovseg.progress import progress_bar
from ovseg.provenance import describe_model, environment

SMALLEST = 0.01  # of the image, that a segment must be larger than
_ENOUGH = max(LIMITS)  # IoU at which nobody clicks on
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class ClickedSegment:
    """One segment: the image's name, its class, its share of the image, and the IoU after each click."""

    image: str
    label: str
    share: float
    overlaps: tuple[float, ...]


@dataclass(frozen=True)
class ClickedImage:
    """The segments of one image."""

    name: str
    segments: tuple[ClickedSegment, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, which ``from_dict`` reads without loss."""
        return {"name": self.name, "segments": [asdict(each) for each in self.segments]}

    @classmethod
    def from_dict(cls, line: dict[str, Any]) -> ClickedImage:
        """What ``to_dict`` gave.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        segments = [
            ClickedSegment(
                str(each["image"]), str(each["label"]), float(each["share"]), tuple(map(float, each["overlaps"]))
            )
            for each in line["segments"]
        ]
        return cls(str(line["name"]), tuple(segments))


@dataclass(frozen=True)
class ClickReport:
    """What clicks reach on a data set.

    Attributes:
        scores: see ``metrics.clicks.click_scores``.
        segments: one for each.
        manifest: what was measured, on what.
    """

    scores: dict[str, float]
    segments: tuple[ClickedSegment, ...]
    manifest: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        rows = [asdict(each) | {"overlaps": [round(value, 6) for value in each.overlaps]} for each in self.segments]
        return {"scores": self.scores, "manifest": self.manifest, "segments": rows}

    def to_markdown(self) -> str:
        """The scores in a table."""
        told, scores = self.manifest, self.scores
        after = [f"IoU after {count}" for count in AFTER]
        noc = [f"NoC@{limit * 100:.0f}" for limit in LIMITS]
        failed = [f"never {limit * 100:.0f}" for limit in LIMITS]
        values = [f"{100 * scores[f'iou_after_{count}']:.1f}" for count in AFTER]
        values += [f"{scores[f'noc_{limit * 100:.0f}']:.2f}" for limit in LIMITS]
        values += [f"{100 * scores[f'failed_{limit * 100:.0f}']:.1f}" for limit in LIMITS]
        heads = [*after, *noc, *failed]
        lines = [
            f"# Clicks: {for_markdown(told['title'])}",
            "",
            f"{len(self.segments)} segments over {SMALLEST:.0%} of their image in {told['images']} images, at most "
            f"{MOST} clicks, by {as_code(told['using'])} of {as_code(str(told['model'].get('name')))}. IoU, and "
            "what it never reaches, in percent.",
            "",
            f"| {' | '.join(heads)} |",
            "|---" * len(heads) + "|",
            f"| {' | '.join(values)} |",
        ]
        return "\n".join(lines) + "\n"

    def save(self, folder: Path) -> None:
        """``clicks.json`` and ``clicks.md`` in ``folder``."""
        write_json(folder / "clicks.json", self.to_dict())
        with atomic_path(folder / "clicks.md") as temporary:
            temporary.write_text(self.to_markdown(), encoding="utf-8")


def measure_clicks(
    segmenter: Any,
    task: Task,
    *,
    using: str | None = None,
    out: str | Path | None = None,
    options: RunOptions | None = None,
) -> ClickReport:
    """Click on every segment over 1 % of its image until its mask is good, at most 20 times.

    The first click falls on the middle of the segment, each further one on that of the largest error (see
    ``metrics.clicks.next_click``); five are made in any case. Crowds are left out, void pixels do not count.

    Args:
        segmenter: with ``encode(image)`` and ``select(encoded, positive=, negative=, previous=, using=)``, whose
            result has a ``mask``.
        task: a protocol with objects or panoptic segments, its data, and how many images.
        using: passed to ``select``.
        out: folder for ``clicks.json`` and ``clicks.md``, and for what is done (``clicked-00000.jsonl``), so that a
            run that was killed goes on.
        options: whether progress is shown, and the split.

    Raises:
        ConfigError: the protocol has no segments, the segmenter cannot select, or ``out`` holds another run.
        DatasetError: the data are incomplete, or have no such segment.
    """
    options = options or RunOptions()
    for name in ("encode", "select"):
        if not callable(getattr(segmenter, name, None)):
            raise ConfigError(
                f"clicks need a segmenter with encode and select, got {type(segmenter).__name__} without '{name}'; "
                "load one with ovseg.load('mini')"
            )
    dataset, _ = open_task(task, options)
    if dataset.protocol.objects is None:
        raise ConfigError(
            f"clicks need objects or segments, which '{dataset.protocol.name}' has not; use coco-panoptic, "
            "coco-instances, panoptic or instances"
        )
    check_count(dataset, limit=task.limit)
    indices = spread(dataset.names, task.limit)
    rows: list[ClickedSegment] = []
    run = _identity(segmenter, dataset, using=using)
    folder = None if out is None else Path(out)
    with (
        KeptRows(folder, run, ClickedImage.from_dict, kind="clicked") as kept,
        progress_bar("clicking", total=len(indices), shown=options.progress) as advance,
    ):
        for index in indices:
            done = kept.find(dataset.names[index], dataset.files(index))
            if done is None:
                marks = mark_files(dataset.files(index))
                found = _clicked(segmenter, dataset.load(index), dataset.protocol.names, using=using)
                done = ClickedImage(dataset.names[index], tuple(found))
                kept.append(done, marks)
            rows += done.segments
            advance()
    if not rows:
        raise DatasetError(f"no segment over {SMALLEST:.0%} of its image in {len(indices)} images; raise --limit")
    manifest = {
        "protocol": dataset.protocol.name,
        "title": dataset.protocol.title,
        "using": using or "sam",
        "images": len(indices),
        "model": describe_model(segmenter),
        **environment(),
    }
    report = ClickReport(click_scores([row.overlaps for row in rows]), tuple(rows), manifest)
    if folder is not None:
        report.save(folder)
    return report


def _identity(segmenter: Any, dataset: Dataset, *, using: str | None) -> dict[str, Any]:
    """All that the clicks depend on besides the files of an example, as plain values with speaking names."""
    return {
        "protocol content": dataset.protocol.fingerprint(),
        "data": dataset.fingerprint,
        "using": using or "sam",
        **{f"model {key}": value for key, value in describe_model(segmenter).items()},
        "ovseg": __version__,
    }


def _clicked(
    segmenter: Any, example: Example, names: tuple[str, ...], *, using: str | None
) -> Iterator[ClickedSegment]:
    encoded = None
    for truth, label, counted in true_masks(example):
        share = float(truth.mean())
        if share <= SMALLEST:
            continue
        encoded = segmenter.encode(example.image) if encoded is None else encoded
        overlaps = click_through(_Selecting(segmenter, encoded, using), truth, counted)
        yield ClickedSegment(example.name, names[label], share, overlaps)


def true_masks(example: Example) -> Iterator[tuple[Mask, int, Mask | None]]:
    """The mask of each segment or object that is no crowd, its class, and which pixels count, None for all."""
    from pycocotools import mask as masks

    objects = example.objects
    if isinstance(objects, Segments):
        counted = objects.ids > 0
        for number, (label, crowd) in enumerate(zip(objects.classes, objects.crowded, strict=True), start=1):
            if not crowd:
                yield objects.ids == number, label, counted
    elif objects is not None:
        for label, rle, crowd in zip(objects.classes, objects.rles, objects.crowd, strict=True):
            if not crowd:
                yield masks.decode(rle).astype(bool), label, None


def click_through(select: Callable[[Click], Mask], truth: Mask, counted: Mask | None = None) -> tuple[float, ...]:
    """IoU after each click until it is good.

    Args:
        select: the mask after a further click.
        truth: (H, W) bool, with a pixel.
        counted: see ``next_click``.
    """
    found = np.zeros_like(truth)
    overlaps: list[float] = []
    while len(overlaps) < MOST:
        click = next_click(truth, found, counted)
        if click is None or (len(overlaps) >= max(AFTER) and max(overlaps) >= _ENOUGH):
            break
        found = select(click)
        overlaps.append(overlap(truth, found, counted))
    return tuple(overlaps)


class _Selecting:
    """Clicks on one segment, each round knowing those before."""

    def __init__(self, segmenter: Any, encoded: Any, using: str | None) -> None:
        self.segmenter, self.encoded, self.using = segmenter, encoded, using
        self.previous: Any = None

    def __call__(self, click: Click) -> Mask:
        point = [(click.x + 0.5, click.y + 0.5)]
        given = {"positive" if click.on else "negative": point}
        self.previous = self.segmenter.select(self.encoded, previous=self.previous, using=self.using, **given)
        mask: Mask = np.asarray(self.previous.mask)
        return mask
