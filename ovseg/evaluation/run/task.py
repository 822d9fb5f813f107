"""What is evaluated, and how the run is done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ovseg.errors import ConfigError
from ovseg.evaluation.data.protocol import Protocol


@dataclass(frozen=True)
class Task:
    """What is evaluated: a benchmark on a data set, and which labels of it.

    Attributes:
        benchmark: name of a protocol, path of its YAML file, or the protocol.
        data: folder of the data set, or ``hf://owner/name[:split]``.
        limit: only so many images, evenly spread over the sorted names; None: all.
        labels: ``"all"``, ``"present"``, ``"present+N"`` or a subset; None: as the protocol says.
        setting: ``"shared"`` or ``"paper"`` or ``"paper:METHOD"``. Under ``"paper"`` a segmenter with a
            method ``for_benchmark(name)`` is replaced by what that returns.
    """

    benchmark: str | Path | Protocol
    data: str | Path
    limit: int | None = None
    labels: str | None = None
    setting: str = "shared"


@dataclass(frozen=True)
class RunOptions:
    """How a run is done, and what is changed about it on purpose.

    Attributes:
        batch_size: images for ``segment_batch`` at once, where there is one and the labels agree.
        split: instead of the protocol's.
        fold: which of the protocol's folds (few-shot protocols).
        shots: visual examples a class (few-shot protocols); 0 asks by words alone.
        boundary: measure boundary IoU and F-score.
        synonyms: give the protocol's synonyms to the segmenter.
        corruption: ``"NAME:SEVERITY"`` of ``corruptions``, applied to every image.
        paraphrase: name of a rewriting in ``paraphrase``, applied to every prompt.
        progress: show a bar with the running mIoU.
        sheet: with ``out``, draw the best, median and worst images (they are segmented once more).

    Raises:
        ConfigError: ``batch_size`` is below 1.
    """

    batch_size: int = 1
    split: str | None = None
    fold: int | None = None
    shots: int | None = None
    boundary: bool = True
    synonyms: bool = True
    corruption: str | None = None
    paraphrase: str | None = None
    progress: bool = False
    sheet: bool = True

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1 image, got {self.batch_size}")
