"""What ``ovseg segment`` does with its images: which are done, what is read, segmented and written, in order."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ovseg.cli.formats import Format
from ovseg.cli.telling import note, print_failure, print_result, tell_notes

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from rich.console import Console

    from ovseg.cli.formats import Write
    from ovseg.cli.jobs import Copy, Job
    from ovseg.errors import ImageError
    from ovseg.identity import FileMark
    from ovseg.images.reading import Reading
    from ovseg.large import LargeResult
    from ovseg.result import SegmentationResult
    from ovseg.storage import Shelf
    from ovseg.vocabulary.labels import Background, Concept

AT_ONCE = 4  # images that an accelerator gets together


@dataclass
class Run:
    """The settings of one call, and the model once it is needed."""

    labels: list[str | Concept]
    background: Background
    refine: bool | None
    model: str
    device: str
    weights: Path | None
    runtime: str
    max_memory: str | None
    concepts: Path | None
    reading: Reading
    changes: dict[str, Any]  # further keywords of ``segment``, which decide the result too
    formats: frozenset[Format]
    tolerance: float  # pixels that an outline in one of these may be off
    scale: float | None = None  # at which every image is read by windows; None leaves it to their sizes

    def __post_init__(self) -> None:
        from ovseg.errors import VocabularyError
        from ovseg.result.storage import check_count
        from ovseg.vocabulary.labels import Vocabulary, check_things, without_pictures

        check_count(len(self.labels))
        if self.labels:
            words, _ = without_pictures(self.labels)
            vocabulary = Vocabulary.of(words, background=self.background)  # refused before the model is loaded
            check_things(vocabulary, self.changes.get("instances", False))
        elif self.concepts is None:
            raise VocabularyError(
                "expected at least one label, got none; name what to find, or use --labels-file, --example or "
                "--concepts"
            )
        if self.concepts is not None and not self.concepts.is_file():
            raise VocabularyError(f"no concepts file '{self.concepts}'; 'ovseg concept learn' makes one")

    def do_all(
        self,
        sources: list[str | Copy],
        out: Path,
        shelf: Shelf | None,
        *,
        overwrite: bool,
        as_json: bool,
        ray: str | None = None,
    ) -> int:
        """Do every image that is not done, here or on the cluster ``ray``, and return the number of failures."""
        from rich.console import Console

        from ovseg.cli.formats import check_storable
        from ovseg.cli.jobs import plan_jobs
        from ovseg.cli.large import is_large
        from ovseg.cli.segment_many import outcomes_of_many
        from ovseg.errors import ImageError
        from ovseg.large import LargeResult
        from ovseg.progress import progress_bar

        if shelf is not None:
            check_storable(self.formats, shelf.address)
        jobs = plan_jobs(sources, out, shelf)
        console, several = Console(stderr=True), len(jobs) > 1
        failed = 0
        bar = progress_bar("segmenting", total=len(jobs), shown=several)
        notes: dict[str, str] = {}
        shown = as_json or not several or bool(self.formats)
        make: Callable[..., Iterator[Any]] = self.outcomes
        if ray is not None:
            make = partial(outcomes_of_many, self, address=ray, at_once=AT_ONCE, whole=shown)
        large = [job for job in jobs if is_large(self, job)]
        writing = self._written(out, console, all_large=len(large) == len(jobs))
        doing = self._all_outcomes(jobs, large, make, console, overwrite=overwrite)
        with bar as advance, writing as write, closing(doing) as outcomes:
            for job, outcome, fresh in outcomes:
                if isinstance(outcome, ImageError):
                    failed += 1
                    print_failure(job, outcome, console, as_json=as_json)
                else:
                    write(job, outcome)
                    if "read" in outcome.provenance and not isinstance(outcome, LargeResult):
                        notes[job.source] = outcome.provenance["read"]
                    print_result(job, outcome, as_json=as_json, alone=not several)
                    if not several and not fresh:
                        note(console, "already done with these settings; --overwrite does it again")
                job.clear()
                advance()
                del outcome  # before the next is made
        if shelf is not None:
            shelf.put_rest()
        tell_notes(console, notes)
        if several:
            place = out if shelf is None else shelf.address
            note(console, f"{len(jobs) - failed} of {len(jobs)} images done, results in {place}")
        return failed

    def _written(self, out: Path, console: Console, *, all_large: bool) -> AbstractContextManager[Write]:
        from ovseg.cli.formats import written

        def tell(sentence: str) -> None:
            note(console, f"note: {sentence}")

        formats = self.formats & {Format.AREAS} if all_large else self.formats  # they write the others themselves
        return written(formats, out, tolerance=self.tolerance, tell=tell)

    def _all_outcomes(
        self,
        jobs: list[Job],
        large: list[Job],
        make: Callable[..., Iterator[Any]],
        console: Console,
        *,
        overwrite: bool,
    ) -> Generator[tuple[Job, SegmentationResult | LargeResult | ImageError, bool], None, None]:
        """Per job its result or why there is none, and whether it was made now; the ``large`` ones come last."""
        from ovseg.cli.large import large_outcomes

        others = [job for job in jobs if job not in large]
        if others:
            yield from make(others, overwrite=overwrite)
        yield from large_outcomes(
            self,
            large,
            overwrite=overwrite,
            show_progress=len(jobs) == 1,
            tell=lambda sentence: note(console, f"note: {sentence}"),
        )

    def identity(self) -> dict[str, str]:
        """Everything besides the image that decides a result.

        The model is asked even if nothing is left to do: only it knows whether the weights behind its name are the
        same.
        """
        asked = self.segmenter.identity(self.labels or None, background=self.background, refine=self.refine)
        changes = {name: str(value) for name, value in self.changes.items()}
        return {**asked, **changes, **self.reading.described()}

    def outcomes(
        self, jobs: list[Job], *, overwrite: bool
    ) -> Iterator[tuple[Job, SegmentationResult | ImageError, bool]]:
        """Per job, in order: its result or why there is none, and whether it was made now.

        A processor does a few images side by side; an accelerator is handed a few at once, read ahead of it.
        """
        from ovseg.pipeline.side_by_side import side_by_side
        from ovseg.prefetch import prefetch

        identity = self.identity()
        read = partial(self._read, identity=identity, overwrite=overwrite)
        doing: Generator[_Segmented, None, None]
        if self.segmenter.side_by_side:
            doing = side_by_side(lambda job: self._segmented(read(job)), jobs)
        elif self.max_memory is not None:  # one after the other, and none read ahead
            doing = (self._segmented(read(job)) for job in jobs)
        else:
            doing = self._in_batches(prefetch(read, jobs, ahead=AT_ONCE))
        with closing(doing) as done:  # before the folder of copies goes, into which it fetches
            for job, (found, result) in zip(jobs, done, strict=True):
                if isinstance(found, _Picture):
                    assert result is not None
                    yield job, self._save(job, result, found, identity), True
                else:
                    yield job, self.load(job) if found is None else found, False
                del found, result  # before the next are made

    def _read(self, job: Job, identity: dict[str, str], *, overwrite: bool) -> _Found:
        """The decoded image, why it cannot be decoded, or None where its result is there already."""
        from ovseg.cli.jobs import check_place, is_done
        from ovseg.errors import ImageError, OutputError
        from ovseg.images.load import read_image

        try:
            if job.copy is not None and job.copy.stored is None:  # storage tells unread whether it is the same
                job.copy.fetch()
            if not overwrite and is_done(job, identity):
                return None
            check_place(job, overwrite=overwrite)
            if job.copy is not None:
                job.copy.fetch()
            mark = job.mark()  # first: an image that changes meanwhile is then done again next time
            picture = read_image(job.image, self._reading_within, name=job.source)
            return _Picture(picture.pixels, picture.note, mark)
        except OutputError as error:
            return ImageError(str(error))
        except OSError as error:
            return ImageError(f"cannot read '{job.image}': {error.strerror}; was it moved?")
        except ImageError as error:
            return error

    def load(self, job: Job) -> SegmentationResult:
        """A result that is done; with its photo where a format needs it."""
        from ovseg.result import SegmentationResult

        job.bring()
        return self.with_photo(job, SegmentationResult.load(job.record))

    def with_photo(self, job: Job, result: SegmentationResult) -> SegmentationResult:
        """The result with what formats need: its pixels, or the file of its photo."""
        from dataclasses import replace

        from ovseg.images.load import read_image
        from ovseg.result.formats import FORMATS

        formats = [FORMATS[name] for name in self.formats]
        if job.copy is not None and any(each.needs_photo or each.opens_photo for each in formats):
            job.copy.fetch()
        if not any(each.needs_photo for each in formats):
            return result
        return replace(result, image=read_image(job.image, self.reading, name=job.source).pixels)

    def _in_batches(self, read: Generator[_Found, None, None]) -> Generator[_Segmented, None, None]:
        from ovseg.prefetch import chunks

        with closing(read):
            for some in chunks(read, AT_ONCE):
                pictures = [found.pixels for found in some if isinstance(found, _Picture)]
                results = self.segmenter.segment_batch(pictures, self.labels or None, **self._keywords)
                for found in some:
                    yield found, next(results) if isinstance(found, _Picture) else None

    def _segmented(self, found: _Found) -> _Segmented:
        if not isinstance(found, _Picture):
            return found, None
        return found, self.segmenter.segment(found.pixels, self.labels or None, **self._keywords)

    @property
    def _keywords(self) -> dict[str, Any]:
        return {"background": self.background, "refine": self.refine, **self.changes}

    def _save(
        self, job: Job, result: SegmentationResult, picture: _Picture, identity: dict[str, str]
    ) -> SegmentationResult:
        from dataclasses import replace

        from ovseg.cli.jobs import made_by

        read = {"read": picture.note} if picture.note else {}
        provenance = result.provenance | {"source": job.source} | read | made_by(identity, picture.mark)
        result = replace(result, image=picture.pixels, provenance=provenance)
        result.save(job.folder, name=job.name, overwrite=True)  # its place was checked before it was read
        job.keep()
        return result

    @cached_property
    def _reading_within(self) -> Reading:
        """How images are read within the bound on memory."""
        if self.max_memory is None:
            return self.reading
        reading: Reading = self.segmenter.reading_within(self.reading, self.labels or None, **self._keywords)
        return reading

    @cached_property
    def segmenter(self) -> Any:
        """The model, with the concepts."""
        import ovseg

        segmenter = ovseg.load(
            self.model,
            device=self.device,
            weights=self.weights,
            runtime=self.runtime,
            max_memory=self.max_memory,
        )
        if self.concepts is not None:
            segmenter = segmenter.with_concepts(ovseg.ConceptSet.load(self.concepts))
        return segmenter


@dataclass(frozen=True)
class _Picture:
    """A decoded image (H, W, 3) uint8, what was decided about it, and what its file was known by when read."""

    pixels: npt.NDArray[np.uint8]
    note: str
    mark: FileMark


_Found: TypeAlias = "_Picture | ImageError | None"  # None: its result is there already
_Segmented: TypeAlias = "tuple[_Found, SegmentationResult | None]"
