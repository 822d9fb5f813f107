"""``--ray`` of ``ovseg segment``: results that are made, and put in their place, by many workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeAlias

from ovseg.errors import ClusterError, ImageError

if TYPE_CHECKING:
    from ovseg.cli.jobs import Job
    from ovseg.cli.segment_run import Run
    from ovseg.result import SegmentationResult

_Answer: TypeAlias = "tuple[SegmentationResult | None, bool] | ImageError"  # of a worker, for one job


def outcomes_of_many(
    run: Run, jobs: list[Job], *, overwrite: bool, address: str, at_once: int, whole: bool
) -> Iterator[tuple[Job, SegmentationResult | ImageError, bool]]:
    """As ``Run.outcomes``, from workers that write the results.

    They are sent here if ``whole``; else they are read from where they are kept, without scores of single pixels.
    """
    from ovseg.cli.many import over, refuse_copies

    refuse_copies(jobs)
    work = partial(_work, run, overwrite=overwrite, whole=whole)
    answers = over(address, work, jobs, gpu=not run.device.startswith("cpu"), at_once=at_once)
    for job, answer in zip(jobs, answers, strict=True):
        if isinstance(answer, ClusterError):
            yield job, ImageError(f"cannot segment '{job.source}': {answer}"), False
        elif isinstance(answer, ImageError):
            yield job, answer, False
        elif not job.has(job.record):
            told = f"a worker wrote '{job.where(job.record)}', not seen here"
            yield job, ImageError(f"{told}; --ray needs an --out that all machines share"), False
        else:
            result, fresh = answer
            yield job, run.load(job) if result is None else run.with_photo(job, result), fresh


def _work(run: Run, *, overwrite: bool, whole: bool) -> Callable[[list[Job], bool], list[_Answer]]:
    """The work of one worker: jobs in; why one failed, or its ``whole`` result, and whether it was done now."""

    def answer(outcome: SegmentationResult | ImageError, fresh: bool) -> _Answer:
        if isinstance(outcome, ImageError):
            return outcome
        return (replace(outcome, image=None) if whole else None), fresh

    def work(jobs: list[Job], again: bool) -> list[_Answer]:
        with TemporaryDirectory() as room:  # for what is in storage
            here = [job.within(Path(room)) for job in jobs]
            # done again: a killed worker may have left a part of the files, and the disk keeps no score of a pixel
            outcomes = run.outcomes(here, overwrite=overwrite or again)
            return [answer(outcome, fresh) for _, outcome, fresh in outcomes]

    run.segmenter  # noqa: B018  opened before the first job
    return work
