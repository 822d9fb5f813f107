"""Running a segmenter over a benchmark: streaming, resumable, in any number of processes."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ovseg._version import __version__
from ovseg.errors import ConfigError, DatasetError
from ovseg.evaluation.data.check import check_before
from ovseg.evaluation.data.examples import Dataset, Example
from ovseg.evaluation.data.protocol import Protocol, load_protocol
from ovseg.evaluation.metrics.boundary import boundary_counts
from ovseg.evaluation.metrics.calibration import map_reliability
from ovseg.evaluation.metrics.confusion import ConfusionMatrix, sparse_pairs
from ovseg.evaluation.metrics.rows import ImageRow
from ovseg.evaluation.metrics.saliency import saliency_counts
from ovseg.evaluation.report.report import EvaluationReport, summarize
from ovseg.evaluation.report.sheet import Shown, picture_sheet
from ovseg.evaluation.run.corruptions import corrupt
from ovseg.evaluation.run.kept import KeptRows
from ovseg.evaluation.run.leaks import find_leaks
from ovseg.evaluation.run.objects import object_tables, shown_ids, with_unsure_objects
from ovseg.evaluation.run.paraphrase import rewriting
from ovseg.evaluation.run.predictor import Prediction, Predictor
from ovseg.evaluation.run.processes import Processes
from ovseg.evaluation.run.task import RunOptions, Task, check_count, check_shots, narrowed, open_task, spread
from ovseg.files import atomic_path
from ovseg.identity import digest, mark_files
from ovseg.images.load import size_of_file
from ovseg.pipeline.memory import Asked, Memory
from ovseg.pipeline.side_by_side import side_by_side
from ovseg.prefetch import prefetch
from ovseg.progress import progress_bar, remark
from ovseg.provenance import describe_model, environment, names_hash, peak_memory_mib

if TYPE_CHECKING:
    from ovseg.bank import ImageBank

Marks = list[dict[str, Any]]  # of an example's files, see ``identity.mark_files``
_BESIDE = 48  # bytes for each pixel that truth and scoring hold beyond a call; boundaries of many classes most


def evaluate(
    segmenter: Any,
    benchmark: str | Path | Protocol,
    *,
    data: str | Path,
    limit: int | None = None,
    labels: str | None = None,
    setting: str = "shared",
    out: str | Path | None = None,
    bank: ImageBank | str | Path | None = None,
    options: RunOptions | None = None,
) -> EvaluationReport:
    """The scores of ``segmenter`` under the protocol ``benchmark`` on the data set at ``data``.

    Anything with ``segment(image, labels)`` that returns an object with an ``index_map`` can be evaluated; see
    ``Predictor``. Where the protocol counts objects, ``segment`` takes ``instances=`` and its result has them; for
    average precision a segmenter with ``with_objects`` gives its unsure ones too. Launched by accelerate, each
    process takes its share of the images and all return the same report.

    Args:
        segmenter: what is measured.
        benchmark, data, limit, labels, setting: what is evaluated; see ``Task``.
        out: folder for the journal (a killed run goes on from there), the report and the picture sheet.
        bank: images that the segmenter has used; those that are near-copies of evaluated ones are listed in
            the manifest under ``leaks`` (see ``find_leaks``).
        options: see ``RunOptions``.

    Raises:
        DatasetError: the data is incomplete or laid out otherwise, or a mask holds an unknown id.
        ConfigError: the protocol, label mode or setting is unknown, or ``out`` holds another run.
        ShapeError: a prediction has the wrong size, type or range.
    """
    task = Task(benchmark, data, limit=limit, labels=labels, setting=setting)
    return evaluate_task(segmenter, task, out=out, bank=bank, options=options)


def evaluate_task(
    segmenter: Any,
    task: Task,
    *,
    out: str | Path | None = None,
    bank: ImageBank | str | Path | None = None,
    options: RunOptions | None = None,
) -> EvaluationReport:
    """``evaluate`` of what ``task`` says."""
    options = options or RunOptions()
    run, indices = open_run(segmenter, task, options)
    dataset = run.dataset
    run.check_files(indices)
    if options.check:
        run.remarks = check_before(dataset, indices, absent=options.absent)
        run.tell()
    if bank is not None:
        run.leaks = run.processes.from_main(lambda: find_leaks(bank, dataset, indices, run.model["name"]))
    report = run.execute(indices, out=None if out is None else Path(out))
    if out is not None and run.processes.is_main:
        run.write(report, Path(out))
    return report


def open_run(segmenter: Any, task: Task, options: RunOptions) -> tuple[Run, list[int]]:
    """The run of ``task`` and the indices of its images; raises as ``evaluate`` does before the first image."""
    check_shots(segmenter, narrowed(load_protocol(task.benchmark), options))
    dataset, labels = open_task(task, options)
    check_count(dataset, limit=task.limit)
    run = Run(segmenter, dataset, labels=labels, setting=task.setting, options=options)
    return run, spread(dataset.names, task.limit)


class Run:
    """A segmenter, an open data set and the choices of one run."""

    def __init__(self, segmenter: Any, dataset: Dataset, *, labels: str, setting: str, options: RunOptions) -> None:
        self.dataset, self.labels, self.setting = dataset, labels, setting
        self.protocol = dataset.protocol
        if self.protocol.objects is not None and options.quality is None:
            options = replace(options, quality="best")
        self.options = options
        segmenter = _with_constants(segmenter, self.protocol.name, setting=setting)
        if self.protocol.objects == "instances":
            segmenter = with_unsure_objects(segmenter, least_score=options.least_score)
        self.model = describe_model(segmenter)
        self.candidates = self.protocol.candidates(labels)
        self.predictor = Predictor(
            segmenter,
            self.protocol,
            synonyms=options.synonyms,
            rewrite=None if options.paraphrase is None else rewriting(options.paraphrase),
            quality=options.quality,
            names=options.names,
        )
        self.memory: Memory | None = getattr(segmenter, "memory", None)
        self.processes = Processes.join()
        self.leaks: dict[str, Any] | None = None
        self.remarks: list[str] = []  # on the data

    @property
    def identity(self) -> dict[str, Any]:
        """All that a row depends on besides the files of its example, as plain values with speaking names."""
        return {
            "protocol": self.protocol.name,
            "labels": self.labels,
            **{f"option {key}": value for key, value in self.options.that_count.items()},
            **{f"model {key}": value for key, value in self.model.items()},
            "data": self.dataset.fingerprint,
            "orientation": self.dataset.reading,
            "protocol content": self._protocol_hash(),
            "ovseg": __version__,
        }

    def execute(self, indices: Sequence[int], *, out: Path | None = None) -> EvaluationReport:
        """Segment and score the images at ``indices`` of which ``out`` holds no row that is still right."""
        rows = self.rows(self.processes.share(list(indices)), out=out, journal=self.processes.rank)
        everything = self.processes.gather(rows)
        return summarize(list(everything.values()), self.protocol, manifest=self.manifest(everything))

    def rows(self, indices: Sequence[int], *, out: Path | None, journal: int) -> dict[str, ImageRow]:
        """The rows of the images at ``indices`` by name; ``out`` gets what it lacks, in file number ``journal``."""
        names = self.dataset.names
        with KeptRows(out, self.identity, self._kept_row, rank=journal) as kept:
            found = [kept.find(names[index], self.dataset.files(index)) for index in indices]
            rows = {row.name: row for row in found if row is not None}
            self._score([index for index in indices if names[index] not in rows], rows, kept)
        return rows

    def _kept_row(self, line: dict[str, Any]) -> ImageRow:
        row = ImageRow.from_dict(line)
        row.check(len(self.protocol.names))
        return row

    def manifest(self, rows: dict[str, ImageRow]) -> dict[str, Any]:
        """What produced the rows."""
        return {
            "protocol": self.protocol.name,
            "title": self.protocol.title,
            "protocol_hash": self._protocol_hash(),
            "images_hash": names_hash(list(rows)),
            "labels": self.labels,
            "split": self.protocol.split,
            "setting": self.setting,
            "background_passed": self.predictor.takes_background,
            "options": self.options.that_count,
            "model": self.model,
            "processes": self.processes.count,
            **({"remarks": self.remarks} if self.remarks else {}),
            **({} if self.leaks is None else {"leaks": self.leaks}),
            **environment(),
            "peak_memory_mib": peak_memory_mib(),
        }

    def tell(self) -> None:
        """Say what is remarkable about the data, where progress is shown."""
        if self.options.progress and self.processes.is_main:
            for sentence in self.remarks:
                remark(sentence)

    def write(self, report: EvaluationReport, out: Path) -> None:
        """``report.json``, ``report.md`` and, unless turned off, ``sheet.jpg`` in ``out``."""
        report.save(out / "report.json")
        with atomic_path(out / "report.md") as temporary:
            temporary.write_text(report.to_markdown(), encoding="utf-8")
        if self.options.sheet:
            sheet = picture_sheet(report, segment=self.predict, names=self.dataset.names)
            with atomic_path(out / "sheet.jpg") as temporary:
                sheet.save(temporary, quality=85)

    def predict(self, index: int) -> Shown:
        """What to show of the example at ``index``: its truth and what is predicted."""
        example = self._example(index)
        found = self.predictor.predict(example, self._candidates(example))
        size = found.classes.shape
        ids = shown_ids(found.objects if found.segments is None else found.segments, size)
        return Shown(example, found.classes, shown_ids(example.objects, size), ids)

    def _protocol_hash(self) -> str:
        return self.protocol.fingerprint(labels=self.labels)

    def _score(self, indices: Sequence[int], rows: dict[str, ImageRow], kept: KeptRows[ImageRow]) -> None:
        """Add the rows of the images at ``indices`` to ``rows`` and, as each is done, to ``kept``."""
        matrix = ConfusionMatrix.empty(len(self.protocol.names))
        for row in rows.values():
            matrix.add_pairs(row.pairs)
        with progress_bar(
            f"{self.protocol.name} ({self.labels})",
            total=len(rows) + len(indices),
            done=len(rows),
            shown=self.options.progress and self.processes.is_main,
        ) as advance:
            for row, marks in self._new_rows(indices):
                kept.append(row, marks)
                rows[row.name] = row
                matrix.add_pairs(row.pairs)
                advance(note=lambda: f"mIoU {100 * matrix.mean_iou(self.protocol.scored):.1f}")

    def _new_rows(self, indices: Sequence[int]) -> Iterator[tuple[ImageRow, Marks]]:
        """The rows of the images at ``indices``, in order: several images at once where that is quicker."""
        if self.memory is not None:  # none is read ahead
            yield from map(self._alone, map(self._load, indices))
        elif self.options.batch_size > 1:
            yield from self._in_batches(indices)
        elif getattr(self.predictor.segmenter, "side_by_side", False):
            # read here: data sets need not know of threads
            with closing(side_by_side(self._alone, map(self._load, indices))) as rows:
                yield from rows
        else:
            yield from map(self._alone, prefetch(self._load, indices))

    def _alone(self, loaded: tuple[Example, Marks]) -> tuple[ImageRow, Marks]:
        example, marks = loaded
        self._check_room(f"the image of '{example.name}'", (example.image.shape[0], example.image.shape[1]))
        candidates = self._candidates(example)
        return self._row(example, self.predictor.predict(example, candidates), candidates, marks), marks

    def _in_batches(self, indices: Sequence[int]) -> Iterator[tuple[ImageRow, Marks]]:
        """The same, those in a row with the same candidates together."""
        loaded = ((example, marks, self._candidates(example)) for example, marks in prefetch(self._load, indices))
        for candidates, group in groupby(loaded, key=lambda item: item[2]):
            while batch := list(islice(group, self.options.batch_size)):
                predictions = self.predictor.predict_batch([example for example, _, _ in batch], candidates)
                for (example, marks, _), prediction in zip(batch, predictions, strict=True):
                    yield self._row(example, prediction, candidates, marks), marks

    def check_files(self, indices: Sequence[int]) -> None:
        """Refuse images that the segmenter's bound on memory has no room for, by the headers of their files.

        Raises:
            TooLargeError: there is one; it is named.
        """
        if self.memory is None or self.protocol.resize.short_side is not None:
            return  # resized ones are checked once they are read
        for index in indices:
            for path in self.dataset.image_files(index):
                size = size_of_file(path)
                if size is not None:
                    self._check_room(f"'{path}'", size)

    def _check_room(self, name: str, size: tuple[int, int]) -> None:
        if self.memory is not None:
            objects = self.protocol.objects is not None or self.options.quality == "best"
            self.memory.check(name, size, Asked(objects=objects, beside=_BESIDE))

    def _row(self, example: Example, prediction: Prediction, candidates: tuple[int, ...], marks: Marks) -> ImageRow:
        truth = example.truth
        extras: dict[str, Any] = {}
        if self.options.boundary and self.protocol.objects != "instances":  # what is no object has no outline there
            extras["boundary"] = boundary_counts(prediction.classes, truth)
        if prediction.confidence is not None:
            extras["calibration"] = map_reliability(prediction.confidence, prediction.classes, truth)
        return ImageRow(
            example.name,
            sparse_pairs(prediction.classes, truth, classes=len(self.protocol.names)),
            candidates,
            prediction.seconds,
            claimed=prediction.claimed,
            content=self._content(marks),
            tables=self._tables(example, prediction),
            **extras,
        )

    def _tables(self, example: Example, prediction: Prediction) -> dict[str, NDArray[np.float64]]:
        tables = object_tables(example.objects, prediction.objects, prediction.segments)
        background = self.protocol.background_index
        if prediction.graded is not None and background is not None:
            tables["saliency"] = saliency_counts(prediction.graded, example.truth, background=background)
        return tables

    def _content(self, marks: Marks) -> str:
        """What an example is known by: the bytes of its files, and what the whole data set is known by besides."""
        whole = self.dataset.fingerprint
        if not marks:
            return whole or ""
        return digest(*(mark["sha256"] for mark in marks), *([] if whole is None else [whole]))

    def _load(self, index: int) -> tuple[Example, Marks]:
        """The example and the marks of its files. These come first: of a file that is replaced between the two, the
        row then has the mark of the old one, and is made again next time."""
        try:
            marks = mark_files(self.dataset.files(index))
        except OSError as error:
            raise DatasetError(f"cannot read '{error.filename}': {error.strerror}; complete the data") from error
        return self._example(index), marks

    def _example(self, index: int) -> Example:
        example = self.dataset.load(index)
        if self.options.corruption is None:
            return example
        seed = zlib.crc32(example.name.encode())
        return replace(example, image=corrupt(example.image, self.options.corruption, seed=seed))

    def _candidates(self, example: Example) -> tuple[int, ...]:
        """Sorted indices of the classes whose labels the segmenter gets for this image."""
        if example.candidates is not None:
            return example.candidates
        mode, _, extra = self.labels.partition("+")
        if mode != "present":
            return self.candidates
        shown = set(np.unique(example.truth).tolist())
        if example.objects is not None:
            shown.update(example.objects.classes)  # those too that others hide
        present = shown & set(self.candidates)
        absent = [index for index in self.candidates if index not in present]
        generator = np.random.default_rng(zlib.crc32(example.name.encode()))
        drawn = generator.permutation(len(absent))[: int(extra or 0)]
        chosen = sorted(present | {absent[place] for place in drawn})
        return tuple(chosen) or self.candidates  # an image without any class gets the labels of all of them


def _with_constants(segmenter: Any, benchmark: str, *, setting: str) -> Any:
    """The segmenter with the constants that a paper gives for the benchmark, where ``setting`` asks for them.

    Raises:
        ConfigError: no such setting, or the segmenter, or the paper, has no constants for the benchmark.
    """
    kind, _, method = setting.partition(":")
    if kind == "shared" and not method:
        return segmenter
    if kind != "paper":
        raise ConfigError(f"setting must be 'shared', 'paper' or 'paper:METHOD', got '{setting}'")
    adjust = getattr(segmenter, "for_benchmark", None)
    if not callable(adjust):
        raise ConfigError(
            f"the setting '{setting}' needs a segmenter with for_benchmark(name), got {type(segmenter).__name__}; "
            "use setting='shared'"
        )
    return adjust(benchmark, method=method) if method else adjust(benchmark)
