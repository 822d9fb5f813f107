"""What is evaluated, and how the run is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ovseg.errors import ConfigError, DatasetError
from ovseg.evaluation.data.datasets import open_dataset
from ovseg.evaluation.data.examples import Dataset
from ovseg.evaluation.data.files import FileDataset
from ovseg.evaluation.data.orientation import READINGS
from ovseg.evaluation.data.protocol import Episodes, Protocol, load_protocol
from ovseg.evaluation.data.shown import ShownDataset

_IN_PROTOCOL = {"split", "fold", "shots", "seed", "orientation"}
_WITHOUT_EFFECT = {"batch_size", "progress", "sheet", "check", "absent"}


@dataclass(frozen=True)
class Task:
    """What is evaluated: a benchmark on a data set, and which labels of it.

    Attributes:
        benchmark: name of a protocol, path of its YAML file, or the protocol.
        data: folder of the data set, or ``hf://owner/name[:split]``.
        limit: only so many images, evenly spread over the sorted names; None: all.
        labels: ``"all"``, ``"present"``, ``"present+N"`` or a subset; None: as the protocol says.
        setting: ``"shared"``, the segmenter as it is; ``"paper"``, what its ``for_benchmark(name)`` returns: the
            same with the constants and class words that its paper gives for the benchmark; ``"paper:METHOD"``, what
            ``for_benchmark(name, method=METHOD)`` returns: those of another method.
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
        shots: visual examples a class; 0 asks by words alone. Protocols that are not few-shot ones draw them from
            the images of the data set, which are then not scored.
        seed: of the draw of visual examples.
        names: whether classes with visual examples are asked by their words as well.
        quality: "fast" or "best", how objects are found; None takes "best" where the protocol has objects, and
            leaves label maps as they are where it has none.
        least_score: of average precision: objects less sure than this are not asked for, in [0, 1].
        boundary: measure boundary IoU and F-score.
        synonyms: give the protocol's synonyms to the segmenter.
        corruption: ``"NAME:SEVERITY"`` of ``corruptions``, applied to every image.
        paraphrase: name of a rewriting in ``paraphrase``, applied to every prompt.
        orientation: ``"upright"`` or ``"stored"``, instead of the protocol's: how masks lie on photos that their
            EXIF data turn.
        absent: classes that the data need not show, besides the protocol's.
        check: look at the masks first, and refuse those that cannot be what the class list says.
        progress: show a bar with the running mIoU.
        sheet: with ``out``, draw the best, median and worst images (they are segmented once more).

    Raises:
        ConfigError: ``batch_size`` is below 1, there is no such orientation or quality, or ``least_score`` is none.
    """

    batch_size: int = 1
    split: str | None = None
    fold: int | None = None
    shots: int | None = None
    seed: int | None = None
    names: bool = True
    quality: str | None = None
    least_score: float = 0.04
    boundary: bool = True
    synonyms: bool = True
    corruption: str | None = None
    paraphrase: str | None = None
    orientation: str | None = None
    absent: tuple[str, ...] = ()
    check: bool = True
    progress: bool = False
    sheet: bool = True

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1 image, got {self.batch_size}")
        if self.quality not in (None, "fast", "best"):
            raise ConfigError(f"quality must be 'fast' or 'best', got '{self.quality}'")
        if not 0 <= self.least_score <= 1:
            raise ConfigError(f"least_score must be from 0 to 1, got {self.least_score}")
        if self.orientation not in (None, *READINGS):
            raise ConfigError(f"orientation must be {' or '.join(READINGS)}, got '{self.orientation}'")

    @property
    def that_count(self) -> dict[str, Any]:
        """The options that a row depends on and that its protocol does not hold."""
        return {key: value for key, value in asdict(self).items() if key not in _IN_PROTOCOL | _WITHOUT_EFFECT}


def open_task(task: Task, options: RunOptions) -> tuple[Dataset, str]:
    """The data set that ``task`` names, and its label mode.

    Raises:
        DatasetError: see ``open_dataset``; or a split is asked for where the data has none.
        ConfigError: there is no such protocol, or an option that it has no use for.
    """
    whole = load_protocol(task.benchmark)
    protocol = narrowed(whole, options)
    labels = task.labels or protocol.labels
    dataset = open_dataset(protocol, task.data, labels=labels)
    if options.split not in (None, dataset.protocol.split):
        raise ConfigError(
            f"'{task.data}' names the split '{dataset.protocol.split}', the options '{options.split}'; drop one"
        )
    if protocol.split != whole.split and isinstance(dataset, FileDataset) and not dataset.layout.has_splits:
        raise DatasetError(
            f"'{task.data}' is one set without splits, so it has no split '{protocol.split}'; leave out the split"
        )
    return dataset, labels


def check_shots(segmenter: Any, protocol: Protocol) -> None:
    """Refuse visual examples for a segmenter that would not look at them.

    One that does says so by a true attribute ``reads_examples``; it gets ``Concept(images=..., masks=...)``.

    Raises:
        ConfigError: it does not say so.
    """
    shots = 0 if protocol.episodes is None else protocol.episodes.shots
    if shots and not getattr(segmenter, "reads_examples", False):
        raise ConfigError(
            f"{shots} visual examples a class (--shots) cannot be used: this segmenter does not say that it reads "
            "them, so the result might be that of words alone; leave out --shots, or give one that reads "
            "Concept(images=..., masks=...) and has reads_examples = True"
        )


def spread(names: Sequence[str], limit: int | None) -> list[int]:
    """Indices of ``limit`` names evenly spread over all; all of them without a limit."""
    if limit is None or limit >= len(names):
        return list(range(len(names)))
    if limit < 1:
        raise DatasetError(f"limit must be at least 1 image, got {limit}")
    return [int(index) for index in np.linspace(0, len(names) - 1, limit).round()]


def check_count(dataset: Dataset, *, limit: int | None) -> None:
    """Refuse a split with another number of images than its protocol states, unless only a part is evaluated."""
    whole = dataset.base if isinstance(dataset, ShownDataset) else dataset  # images that show a class count as well
    protocol, found = dataset.protocol, len(whole.names)
    wanted = protocol.expected.files.get(protocol.split)
    if wanted is not None and found != wanted and limit is None:
        raise DatasetError(
            f"the split '{protocol.split}' of '{protocol.name}' must have {wanted} images, found {found}; "
            "complete it, or set a limit to evaluate a part (the result then says so)"
        )


def narrowed(protocol: Protocol, options: RunOptions) -> Protocol:
    """The protocol with what the options say in its place.

    Raises:
        ConfigError: they say something that it has no use for.
    """
    stated = {"split": options.split, "orientation": options.orientation}
    changes: dict[str, Any] = {key: value for key, value in stated.items() if value is not None}
    if options.shots is not None and options.shots < 0:
        raise ConfigError(f"shots must be 0 or more visual examples a class, got {options.shots}")
    episodes = {key: value for key in ("fold", "shots", "seed") if (value := getattr(options, key)) is not None}
    if options.shots and options.fold is None and protocol.episodes is None:
        if protocol.objects is not None:
            raise ConfigError(f"'{protocol.name}' counts objects and takes no visual examples; leave out the shots")
        protocol = protocol.model_copy(update={"episodes": Episodes(kind="shown")})
    if episodes and protocol.episodes is None:
        raise ConfigError(
            f"'{protocol.name}' is no few-shot protocol and has no {' and no '.join(episodes)}; leave it out"
        )
    if protocol.episodes is not None:
        changes["episodes"] = protocol.episodes.model_copy(update=episodes)
    return protocol.model_copy(update=changes) if changes else protocol
