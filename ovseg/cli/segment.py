"""``ovseg segment``: label maps and overlays of one photo, a folder or a glob pattern."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovseg.cli.output import echo
from ovseg.escape import for_json, for_terminal, one_line

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from rich.console import Console

    from ovseg.cli.jobs import Job
    from ovseg.errors import ImageError
    from ovseg.identity import FileMark
    from ovseg.result import SegmentationResult
    from ovseg.vocabulary.labels import Background

_AT_ONCE = 4  # images that an accelerator gets together
_MANY = 500  # labels above which their encoding is announced: on one core a thousand take some ten seconds


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(segment)


def segment(
    images: Annotated[str, typer.Argument(metavar="IMAGE|FOLDER|GLOB|-", help="What to segment; - reads stdin.")],
    labels: Annotated[list[str] | None, typer.Argument(metavar="LABEL...", help="What to find.")] = None,
    labels_file: Annotated[Path | None, typer.Option(help="More labels: lines, '17: wall', JSON, YAML.")] = None,
    concepts: Annotated[Path | None, typer.Option(help="Learned concepts (.safetensors).")] = None,
    model: Annotated[str, typer.Option(help="A name from 'ovseg models'.")] = "mini",
    weights: Annotated[Path | None, typer.Option(help="Folder with the model's weights.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("out"),
    background: Annotated[
        str, typer.Option(help="auto, none (every pixel gets a label), or phrases with commas between.")
    ] = "auto",
    refine: Annotated[bool | None, typer.Option(help="Sharpen borders; the model decides if not given.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Also redo images that are done.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line per image on stdout.")] = False,
    max_pixels: Annotated[int, typer.Option(help="Refuse larger images.")] = 200_000_000,
    min_area: Annotated[int, typer.Option(min=0, help="Drop parts of a label with fewer pixels.")] = 0,
) -> None:
    """Find LABELs in one photo, in a folder (with sub-folders), or in all files of a glob pattern.

    Each image gets an index PNG, an overlay and a JSON file. Images done with the same settings are skipped.
    Arguments that name files are images, so that a pattern may be expanded by the shell; one that looks like a path
    and names nothing is refused. A label with a slash goes into --labels-file.

    Example: ovseg segment street.jpg road car person
    """
    from ovseg.cli.jobs import parse_background

    more, words = _split(labels or [])
    run = Run(
        labels=[*words, *_read_labels(labels_file)],
        background=parse_background(background),
        refine=refine,
        model=model,
        device=device,
        weights=weights,
        concepts=concepts,
        max_pixels=max_pixels,
        changes={"min_area": min_area} if min_area else {},
    )
    with sources_of([images, *more]) as sources:
        failed = run.do_all(sources, out=out, overwrite=overwrite, as_json=as_json)
    if failed:
        raise typer.Exit(1)


@dataclass
class Run:
    """The settings of one call, and the model once it is needed."""

    labels: list[str]
    background: Background
    refine: bool | None
    model: str
    device: str
    weights: Path | None
    concepts: Path | None
    max_pixels: int
    changes: dict[str, int]  # further keywords of ``segment``, which decide the result too
    _announced: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        from ovseg.errors import VocabularyError
        from ovseg.vocabulary.labels import Vocabulary

        if self.labels:
            Vocabulary.of(self.labels, background=self.background)  # refused before the model is loaded
        elif self.concepts is None:
            raise VocabularyError(
                "expected at least one label, got none; name what to find, or use --labels-file or --concepts"
            )
        if self.concepts is not None and not self.concepts.is_file():
            raise VocabularyError(f"no concepts file '{self.concepts}'; 'ovseg concept learn' makes one")

    def do_all(self, sources: list[str], *, out: Path, overwrite: bool, as_json: bool) -> int:
        """Do every image that is not done, and return the number of failures."""
        from rich.console import Console

        from ovseg.cli.jobs import plan_jobs
        from ovseg.errors import ImageError
        from ovseg.progress import progress_bar

        jobs = plan_jobs(sources, out)
        console, several = Console(stderr=True), len(jobs) > 1
        failed = 0
        with progress_bar("segmenting", total=len(jobs), shown=several) as advance:
            for job, outcome, fresh in self._outcomes(jobs, overwrite=overwrite):
                if isinstance(outcome, ImageError):
                    failed += 1
                    _print_failure(job, outcome, console, as_json=as_json)
                else:
                    _print_result(job, outcome, as_json=as_json, alone=not several)
                    if not several and not fresh:
                        _note(console, "already done with these settings; --overwrite does it again")
                advance()
        if several:
            _note(console, f"{len(jobs) - failed} of {len(jobs)} images done, results in {out}")
        return failed

    def _outcomes(
        self, jobs: list[Job], *, overwrite: bool
    ) -> Iterator[tuple[Job, SegmentationResult | ImageError, bool]]:
        """Per job, in order: its result or why there is none, and whether it was made now.

        Images are read ahead of the model, and an accelerator is handed a few at once.
        """
        from ovseg.prefetch import chunks, prefetch
        from ovseg.result import SegmentationResult

        # The model is asked even if nothing is left to do: only it knows whether the weights behind its name are
        # the same.
        identity = self.segmenter.identity(self.labels or None, background=self.background, refine=self.refine)
        identity |= {name: str(value) for name, value in self.changes.items()}
        # A processor gains nothing from a batch, and one by one no result depends on its neighbours, not even in
        # the last digit.
        at_once = 1 if self.segmenter.device.type == "cpu" else _AT_ONCE
        read = prefetch(lambda job: self._read(job, identity, overwrite=overwrite), jobs, ahead=_AT_ONCE)
        for some in chunks(zip(jobs, read, strict=True), at_once):
            results = iter(self._segment([found for _, found in some if isinstance(found, _Picture)]))
            for job, found in some:
                if isinstance(found, _Picture):
                    yield job, self._save(job, next(results), found, identity), True
                else:
                    yield job, SegmentationResult.load(job.record) if found is None else found, False

    def _read(self, job: Job, identity: dict[str, str], *, overwrite: bool) -> _Picture | ImageError | None:
        """The decoded image, why it cannot be decoded, or None where its result is there already."""
        from ovseg.cli.jobs import check_place, is_done
        from ovseg.errors import ImageError, OutputError
        from ovseg.identity import FileMark
        from ovseg.images.load import load_image

        if not overwrite and is_done(job, identity):
            return None
        try:
            check_place(job, overwrite=overwrite)
            mark = FileMark.of(job.image)  # first: an image that changes meanwhile is then done again next time
            return _Picture(load_image(job.image, max_pixels=self.max_pixels), mark)
        except OutputError as error:
            return ImageError(str(error))
        except OSError as error:
            return ImageError(f"cannot read '{job.image}': {error.strerror}; was it moved?")
        except ImageError as error:
            return error

    def _segment(self, pictures: list[_Picture]) -> Iterator[SegmentationResult]:
        if not pictures:
            return
        if len(self.labels) > _MANY and not self._announced:
            self._announced = True
            count = len(self.labels)
            echo(f"encoding {count} labels may take minutes; they are kept for the next time", err=True)
        yield from self.segmenter.segment_batch(
            [picture.pixels for picture in pictures],
            self.labels or None,
            background=self.background,
            refine=self.refine,
            **self.changes,
        )

    def _save(
        self, job: Job, result: SegmentationResult, picture: _Picture, identity: dict[str, str]
    ) -> SegmentationResult:
        from dataclasses import replace

        from ovseg.cli.jobs import made_by

        provenance = result.provenance | {"source": job.source} | made_by(identity, picture.mark)
        result = replace(result, image=picture.pixels, provenance=provenance)
        result.save(job.folder, name=job.name)
        return result

    @cached_property
    def segmenter(self) -> Any:
        """The model, with the concepts."""
        import ovseg

        segmenter = ovseg.load(self.model, device=self.device, weights=self.weights)
        if self.concepts is not None:
            segmenter = segmenter.with_concepts(ovseg.ConceptSet.load(self.concepts))
        return segmenter


@dataclass(frozen=True)
class _Picture:
    """A decoded image (H, W, 3) uint8, and what its file was known by when it was read."""

    pixels: npt.NDArray[np.uint8]
    mark: FileMark


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The arguments that name files or folders, and those that are labels."""
    from ovseg.images.find import find_images, looks_like_path

    images: list[str] = []
    labels: list[str] = []
    for argument in arguments:
        if os.path.isfile(argument):
            images.append(argument)
        elif looks_like_path(argument):
            find_images(argument)  # where nothing matches, it says so
            images.append(argument)
        else:
            labels.append(argument)
            if os.path.isdir(argument):
                echo(f"'{argument}' is taken for a label; the folder is '{argument}/'", err=True)
    return images, labels


@contextmanager
def sources_of(arguments: list[str]) -> Iterator[list[str]]:
    """The arguments with a file in place of ``-``: the image on standard input, named by its content.

    The name makes results of different images different files, and finds the result of the same image again.
    """
    if "-" not in arguments:
        yield arguments
        return
    import sys
    from tempfile import TemporaryDirectory

    from ovseg.errors import ImageError
    from ovseg.files import sha256_of_bytes

    if len(arguments) > 1:
        raise ImageError(f"expected '-' alone, got {arguments}; read standard input in a call of its own")
    content = sys.stdin.buffer.read()
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"stdin-{sha256_of_bytes(content)[:12]}"
        path.write_bytes(content)
        yield [str(path)]


def _read_labels(path: Path | None) -> list[str]:
    from ovseg.vocabulary.label_files import read_label_file

    return [] if path is None else [name for _, name in read_label_file(path)]


def _print_failure(job: Job, error: ImageError, console: Console, *, as_json: bool) -> None:
    _note(console, f"error: {' '.join(str(error).splitlines())}")
    if as_json:
        typer.echo(json.dumps({"image": str(job.image), "error": str(error)}))


def _print_result(job: Job, result: SegmentationResult, *, as_json: bool, alone: bool) -> None:
    if as_json:
        typer.echo(for_json(json.dumps(_document(job, result), ensure_ascii=False)))
    elif alone:
        _print_table(result)
        echo(f"overlay: {job.overlay}")


def _document(job: Job, result: SegmentationResult) -> dict[str, Any]:
    return {
        "image": str(job.image),
        "result": str(job.record),
        "overlay": str(job.overlay),
        "size": list(result.size),
        "labels": [row._asdict() for row in result.table()],
    }


def _print_table(result: SegmentationResult) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("label", box=None, header_style="bold")
    for heading in ("area", "score", "presence"):
        table.add_column(heading, justify="right")
    for row in sorted(result.table(), key=lambda row: -row.area):
        numbers = (f"{row.area:.1%}", f"{row.score:.2f}" if row.area else "-", f"{row.presence:.2f}")
        table.add_row(Text(one_line(row.label)), *numbers, style=None if row.area else "dim")
    Console().print(table)


def _note(console: Console, message: str) -> None:
    console.print(for_terminal(message), markup=False, emoji=False, highlight=False, soft_wrap=True)
