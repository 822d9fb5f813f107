"""``ovseg segment``: label maps and overlays of one photo, a folder or a glob pattern."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from ovseg.cli.jobs import Job
    from ovseg.result import SegmentationResult
    from ovseg.vocabulary.labels import Background

_MANY = 500  # labels above which their encoding is announced: on one core a thousand take some ten seconds


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(segment)


def segment(
    images: Annotated[str, typer.Argument(metavar="IMAGE|FOLDER|GLOB", help="What to segment.")],
    labels: Annotated[list[str] | None, typer.Argument(metavar="LABEL...", help="What to find.")] = None,
    labels_file: Annotated[Path | None, typer.Option(help="More labels, one per line.")] = None,
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
) -> None:
    """Find LABELs in one photo, in a folder (with sub-folders), or in all files of a glob pattern.

    Each image gets an index PNG, an overlay and a JSON file. Images done with the same settings are skipped.
    Arguments that name existing images are images, so that a pattern may be expanded by the shell.

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
    )
    failed = run.do_all([images, *more], out=out, overwrite=overwrite, as_json=as_json)
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
    _segmenter: Any = field(default=None, init=False)

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

        jobs = plan_jobs(sources, out)
        console = Console(stderr=True)
        failed = 0
        for job in _with_progress(jobs, console):
            failed += not self._report(job, console, overwrite=overwrite, as_json=as_json, alone=len(jobs) == 1)
        if len(jobs) > 1:
            _note(console, f"{len(jobs) - failed} of {len(jobs)} images done, results in {out}")
        return failed

    def _report(self, job: Job, console: Console, *, overwrite: bool, as_json: bool, alone: bool) -> bool:
        """Do one image and print about it; whether it went well."""
        from ovseg.errors import ImageError

        try:
            result, fresh = self._do(job, overwrite=overwrite)
        except ImageError as error:
            _note(console, f"error: {' '.join(str(error).splitlines())}")
            if as_json:
                typer.echo(json.dumps({"image": str(job.image), "error": str(error)}))
            return False
        if as_json:
            typer.echo(json.dumps(_document(job, result), ensure_ascii=False))
        elif alone:
            _print_table(result)
            typer.echo(f"overlay: {job.overlay}")
        if alone and not fresh:
            _note(console, "already done with these settings; --overwrite does it again")
        return True

    def _do(self, job: Job, *, overwrite: bool) -> tuple[SegmentationResult, bool]:
        """The image's result, and whether it was made now."""
        import dataclasses

        from ovseg.cli.jobs import is_done, settings_of
        from ovseg.images.load import load_image
        from ovseg.result import SegmentationResult

        settings = settings_of(job.image, self._settings)
        if not overwrite and is_done(job, settings):
            return SegmentationResult.load(job.record), False
        image = load_image(job.image, max_pixels=self.max_pixels)
        segmenter = self._loaded()
        result: SegmentationResult = segmenter.segment(
            image, self.labels or None, background=self.background, refine=self.refine
        )
        provenance = result.provenance | {"source": str(job.image), "settings": settings}
        result = dataclasses.replace(result, image=image, provenance=provenance)
        result.save(job.folder, name=job.name)
        return result, True

    @cached_property
    def _settings(self) -> dict[str, Any]:
        """What every result of the run depends on."""
        from ovseg.files import sha256_of

        return {
            "labels": self.labels,
            "background": self.background,
            "refine": self.refine,
            "model": self.model,
            "weights": str(self.weights) if self.weights else None,
            "concepts": sha256_of(self.concepts) if self.concepts else None,
        }

    def _loaded(self) -> Any:
        """The segmenter, loaded on the first image that needs it."""
        import ovseg

        if self._segmenter is None:
            segmenter = ovseg.load(self.model, device=self.device, weights=self.weights)
            if self.concepts is not None:
                segmenter = segmenter.with_concepts(ovseg.ConceptSet.load(self.concepts))
            self._segmenter = segmenter
            if len(self.labels) > _MANY:
                count = len(self.labels)
                typer.echo(f"encoding {count} labels may take minutes; they are kept for the next time", err=True)
        return self._segmenter


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The leading arguments that are image files, and the labels that follow."""
    from itertools import takewhile

    from ovseg.images.find import IMAGE_SUFFIXES

    def is_image(argument: str) -> bool:
        return Path(argument).suffix.lower() in IMAGE_SUFFIXES and Path(argument).is_file()

    images = list(takewhile(is_image, arguments))
    return images, arguments[len(images) :]


def _read_labels(path: Path | None) -> list[str]:
    """The lines of a text file that are neither blank nor comments (``#``)."""
    from ovseg.errors import VocabularyError

    if path is None:
        return []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise VocabularyError(
            f"expected a text file with one label per line, cannot read '{path}' ({error}); check the path"
        ) from error
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def _with_progress(jobs: list[Job], console: Console) -> Iterator[Job]:
    from rich.progress import track

    if len(jobs) < 2:
        yield from jobs
    else:
        yield from track(jobs, description="segmenting", console=console)


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
        table.add_row(Text(row.label), *numbers, style=None if row.area else "dim")
    Console().print(table)


def _note(console: Console, message: str) -> None:
    console.print(message, markup=False, emoji=False, highlight=False, soft_wrap=True)
