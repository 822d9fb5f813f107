"""Running a segmenter over a benchmark: streaming, resumable, in any number of processes."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ovseg.errors import ConfigError, DatasetError
from ovseg.evaluation.data.datasets import open_dataset
from ovseg.evaluation.data.examples import Dataset, Example
from ovseg.evaluation.data.files import FileDataset
from ovseg.evaluation.data.protocol import Protocol, load_protocol
from ovseg.evaluation.metrics.boundary import boundary_counts
from ovseg.evaluation.metrics.calibration import map_reliability
from ovseg.evaluation.metrics.confusion import ConfusionMatrix, sparse_pairs
from ovseg.evaluation.report.report import EvaluationReport, summarize
from ovseg.evaluation.run.leaks import find_leaks
from ovseg.evaluation.run.processes import Processes
from ovseg.evaluation.run.progress import running_score
from ovseg.evaluation.run.questions import Answer, Asker
from ovseg.evaluation.run.rows import ImageRow, Journal
from ovseg.evaluation.run.task import RunOptions, Task
from ovseg.files import atomic_path
from ovseg.provenance import describe_model, environment, names_hash, peak_memory_mib, run_id

if TYPE_CHECKING:
    from ovseg.bank import ImageBank


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

    Anything with ``segment(image, labels)`` that returns an object with an ``index_map`` can be evaluated;
    see ``Asker``. Launched by accelerate, each process takes its share of the images and all return the same
    report.

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
        ShapeError: the segmenter's answer has the wrong size, type or range.
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
    dataset, labels = open_task(task, options)
    _check_count(dataset, limit=task.limit)
    run = Run(segmenter, dataset, labels=labels, setting=task.setting, options=options)
    indices = spread(dataset.names, task.limit)
    if bank is not None:
        run.leaks = run.processes.from_main(lambda: find_leaks(bank, dataset, indices))
    report = run.execute(indices, out=None if out is None else Path(out))
    if out is not None and run.processes.is_main:
        run.write(report, Path(out))
    return report


def open_task(task: Task, options: RunOptions) -> tuple[Dataset, str]:
    """The data set that ``task`` names, and its label mode.

    Raises:
        DatasetError: see ``open_dataset``; or a split is asked for where the data has none.
        ConfigError: there is no such protocol, or an option that it has no use for.
    """
    whole = load_protocol(task.benchmark)
    protocol = _narrowed(whole, options)
    labels = task.labels or protocol.labels
    dataset = open_dataset(protocol, task.data, labels=labels)
    if options.split not in (None, dataset.protocol.split):
        raise ConfigError(
            f"'{task.data}' names the split '{dataset.protocol.split}', the options '{options.split}'; drop one"
        )
    if protocol.split != whole.split and type(dataset) is FileDataset and not dataset.layout.has_splits:
        raise DatasetError(
            f"'{task.data}' is one set without splits, so it has no split '{protocol.split}'; leave out the split"
        )
    return dataset, labels


class Run:
    """A segmenter, an open data set and the choices of one run."""

    def __init__(self, segmenter: Any, dataset: Dataset, *, labels: str, setting: str, options: RunOptions) -> None:
        self.dataset, self.labels, self.setting, self.options = dataset, labels, setting, options
        self.protocol = dataset.protocol
        segmenter, adjusted = _with_constants(segmenter, self.protocol.name, setting=setting)
        self.model = describe_model(segmenter)
        self.candidates = self.protocol.candidates(labels)
        self.asker = Asker(
            segmenter,
            self.protocol,
            knobs={} if adjusted else self.protocol.knobs(setting, method=self.model.get("method")),
            synonyms=options.synonyms,
            rename=_renamer(options.paraphrase),
        )
        self.processes = Processes.join()
        self.leaks: dict[str, Any] | None = None

    def execute(self, indices: Sequence[int], *, out: Path | None = None) -> EvaluationReport:
        """Segment and score the images at ``indices`` that the journal in ``out`` does not hold yet."""
        journal = None if out is None else Journal(out, run=self.id, rank=self.processes.rank)
        rows = {} if journal is None else journal.read()
        names = self.dataset.names
        wanted = {names[index] for index in indices}
        rows = {name: row for name, row in rows.items() if name in wanted}
        share = self.processes.share(list(indices))
        self._score_rest([index for index in share if names[index] not in rows], rows, journal)
        if journal is not None:
            journal.close()
        everything = self.processes.gather(rows)
        return summarize(list(everything.values()), self.protocol, manifest=self.manifest(everything))

    @property
    def id(self) -> str:
        """Names this run in its journal: protocol, data, model and options together."""
        changed = {key: value for key, value in asdict(self.options).items() if key not in _HARMLESS}
        return run_id(
            self._protocol_hash(), names_hash(self.dataset.names), self.model, self.asker.applied, changed
        )

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
            "applied": self.asker.applied,
            "not_applied": self.asker.not_applied,
            "background_passed": self.asker.takes_background,
            "options": {key: value for key, value in asdict(self.options).items() if key not in _HARMLESS},
            "model": self.model,
            "processes": self.processes.count,
            **({} if self.leaks is None else {"leaks": self.leaks}),
            **environment(),
            "peak_memory_mib": peak_memory_mib(),
        }

    def write(self, report: EvaluationReport, out: Path) -> None:
        """``report.json``, ``report.md`` and, unless turned off, ``sheet.jpg`` in ``out``."""
        report.save(out / "report.json")
        with atomic_path(out / "report.md") as temporary:
            temporary.write_text(report.to_markdown(), encoding="utf-8")
        if self.options.sheet:
            from ovseg.evaluation.report.sheet import picture_sheet

            sheet = picture_sheet(report, segment=self.predict, names=self.dataset.names)
            with atomic_path(out / "sheet.jpg") as temporary:
                sheet.save(temporary, quality=85)

    def predict(self, index: int) -> tuple[Example, NDArray[np.int32]]:
        """The example at ``index`` and its predicted class map."""
        example = self._load(index)
        return example, self.asker.ask(example, self._asked(example)).prediction

    def _protocol_hash(self) -> str:
        return self.protocol.fingerprint(labels=self.labels)

    def _score_rest(self, indices: Sequence[int], rows: dict[str, ImageRow], journal: Journal | None) -> None:
        matrix = ConfusionMatrix.empty(len(self.protocol.names))
        for row in rows.values():
            matrix.add_pairs(row.pairs)
        title = f"{self.protocol.name} ({self.labels})"
        with running_score(
            title, total=len(indices), shown=self.options.progress and self.processes.is_main
        ) as advance:
            for row in self._rows(indices):
                if journal is not None:
                    journal.append(row)
                rows[row.name] = row
                matrix.add_pairs(row.pairs)
                advance(matrix)

    def _rows(self, indices: Sequence[int]) -> Iterator[ImageRow]:
        pairs = ((example, self._asked(example)) for example in _prefetch(self._load, indices))
        for asked, group in groupby(pairs, key=lambda pair: pair[1]):
            while batch := [example for example, _ in islice(group, self.options.batch_size)]:
                answers = self.asker.ask_batch(batch, asked)
                yield from (self._row(e, a, asked) for e, a in zip(batch, answers, strict=True))

    def _row(self, example: Example, answer: Answer, asked: tuple[int, ...]) -> ImageRow:
        truth, prediction = example.truth, answer.prediction
        extras: dict[str, Any] = {}
        if self.options.boundary:
            extras["boundary"] = boundary_counts(prediction, truth)
        if answer.confidence is not None:
            extras["calibration"] = map_reliability(answer.confidence, prediction, truth)
        pairs = sparse_pairs(prediction, truth, classes=len(self.protocol.names))
        return ImageRow(example.name, pairs, asked, answer.seconds, claimed=answer.claimed, **extras)

    def _load(self, index: int) -> Example:
        example = self.dataset.load(index)
        if self.options.corruption is None:
            return example
        from dataclasses import replace

        from ovseg.evaluation.run.corruptions import corrupt

        seed = zlib.crc32(example.name.encode())
        return replace(example, image=corrupt(example.image, self.options.corruption, seed=seed))

    def _asked(self, example: Example) -> tuple[int, ...]:
        """Class indices to ask for in this image, sorted."""
        if example.candidates is not None:
            return example.candidates
        mode, _, extra = self.labels.partition("+")
        if mode != "present":
            return self.candidates
        present = set(np.unique(example.truth).tolist()) & set(self.candidates)
        absent = [index for index in self.candidates if index not in present]
        generator = np.random.default_rng(zlib.crc32(example.name.encode()))
        drawn = generator.permutation(len(absent))[: int(extra or 0)]
        chosen = sorted(present | {absent[place] for place in drawn})
        return tuple(chosen) or self.candidates  # an image without any class is asked for all of them


_HARMLESS = {
    "batch_size",
    "progress",
    "sheet",
    "split",
    "fold",
    "shots",
}  # in the protocol's hash, or without effect


def spread(names: Sequence[str], limit: int | None) -> list[int]:
    """Indices of ``limit`` names evenly spread over all; all of them without a limit."""
    if limit is None or limit >= len(names):
        return list(range(len(names)))
    if limit < 1:
        raise DatasetError(f"limit must be at least 1 image, got {limit}")
    return [int(index) for index in np.linspace(0, len(names) - 1, limit).round()]


def _with_constants(segmenter: Any, benchmark: str, *, setting: str) -> tuple[Any, bool]:
    """The segmenter with its paper's constants for the benchmark, and whether it looks after them itself."""
    adjust = getattr(segmenter, "for_benchmark", None)
    if setting != "paper" or not callable(adjust):
        return segmenter, False
    return adjust(benchmark), True


def _narrowed(protocol: Protocol, options: RunOptions) -> Protocol:
    changes: dict[str, Any] = {} if options.split is None else {"split": options.split}
    episodes = {key: value for key in ("fold", "shots") if (value := getattr(options, key)) is not None}
    if episodes and protocol.episodes is None:
        raise ConfigError(
            f"'{protocol.name}' is no few-shot protocol and has no {' and no '.join(episodes)}; leave it out"
        )
    if protocol.episodes is not None:
        changes["episodes"] = protocol.episodes.model_copy(update=episodes)
    return protocol.model_copy(update=changes) if changes else protocol


def _check_count(dataset: Dataset, *, limit: int | None) -> None:
    protocol, found = dataset.protocol, len(dataset.names)
    wanted = protocol.expected.files.get(protocol.split)
    if wanted is not None and found != wanted and limit is None:
        raise DatasetError(
            f"the split '{protocol.split}' of '{protocol.name}' must have {wanted} images, found {found}; "
            "complete it, or set a limit to evaluate a part (the result then says so)"
        )


def _renamer(paraphrase: str | None) -> Callable[[str], str] | None:
    if paraphrase is None:
        return None
    from ovseg.evaluation.run.paraphrase import rewriting

    return rewriting(paraphrase)


def _prefetch(load: Callable[[int], Example], indices: Sequence[int]) -> Iterator[Example]:
    """Examples in order; the next one is decoded while the caller works on this one."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        coming = None
        for index in indices:
            following = pool.submit(load, index)
            if coming is not None:
                yield coming.result()
            coming = following
        if coming is not None:
            yield coming.result()
