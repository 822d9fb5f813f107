"""What ``ovseg segment`` says: about images that failed, what was decided about others, and results."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import typer

from ovseg.cli.output import echo
from ovseg.escape import for_json, for_terminal, one_line

if TYPE_CHECKING:
    from rich.console import Console

    from ovseg.cli.jobs import Job
    from ovseg.errors import ImageError
    from ovseg.large import LargeResult, SceneObject
    from ovseg.result import Segment, SegmentationResult


def print_failure(job: Job, error: ImageError, console: Console, *, as_json: bool) -> None:
    """Say why there is no result."""
    note(console, f"error: {' '.join(str(error).splitlines())}")
    if as_json:
        typer.echo(json.dumps({"image": job.source, "error": str(error)}))


def tell_notes(console: Console, notes: dict[str, str]) -> None:
    """What was decided about the values of images: of the first one, and how many there are."""
    for source, decided in list(notes.items())[:1]:
        more = f" (and so for {len(notes) - 1} more images, each by itself)" if len(notes) > 1 else ""
        note(console, f"note: {source}: {decided}{more}")


def print_result(job: Job, result: SegmentationResult | LargeResult, *, as_json: bool, alone: bool) -> None:
    """A JSON line, or the table of an image that is ``alone``."""
    if as_json:
        typer.echo(for_json(json.dumps(_document(job, result), ensure_ascii=False)))
    elif alone:
        _print_table(result)
        echo(f"overlay: {job.where(job.overlay)}")


def _document(job: Job, result: SegmentationResult | LargeResult) -> dict[str, Any]:
    rows = [row._asdict() for row in result.table()]
    document = {
        "image": job.source,
        "result": job.where(job.record),
        "overlay": job.where(job.overlay),
        "size": list(result.size),
        "labels": [{name: value for name, value in row.items() if value is not None} for row in rows],
    }
    objects = {} if result.instances is None else {"instances": [_object(each) for each in result.instances]}
    return document | objects


def _object(segment: Segment | SceneObject) -> dict[str, Any]:
    return {"label": segment.label, "score": segment.score, "box": list(segment.box), "area": segment.area}


def _print_table(result: SegmentationResult | LargeResult) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("label", box=None, header_style="bold")
    counted = ("count",) if result.things else ()
    for heading in ("area", "score", "presence", *counted):
        table.add_column(heading, justify="right")
    for row in sorted(result.table(), key=lambda row: -row.area):
        numbers = [f"{row.area:.1%}", f"{row.score:.2f}" if row.area else "-", f"{row.presence:.2f}"]
        numbers += ["" if row.objects is None else str(row.objects) for _ in counted]
        table.add_row(Text(one_line(row.label)), *numbers, style=None if row.area else "dim")
    Console().print(table)


def note(console: Console, message: str) -> None:
    """A line beside the results."""
    console.print(for_terminal(message), markup=False, emoji=False, highlight=False, soft_wrap=True)
