"""``ovseg bank``: build, extend, search and check banks of unlabeled images."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovseg.cli.many import RayAddress, WithRay
from ovseg.cli.options import Device, MaxMemory
from ovseg.cli.output import echo
from ovseg.cli.reading import Bands, Range, parse_reading
from ovseg.escape import one_line

if TYPE_CHECKING:
    from ovseg.bank import ImageBank

_Bank = Annotated[Path, typer.Argument(metavar="BANK", help="The bank's folder.")]
_Verify = Annotated[bool, typer.Option("--verify", help="First check every byte of the bank's files.")]
_Json = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]

_WHY_BAD = "'ovseg bank info BANK' lists those that could not be read, and why"


def register(app: typer.Typer) -> None:
    """Add the group of commands to ``app``."""
    group = typer.Typer(no_args_is_help=True, help=_HELP)
    group.command(cls=WithRay)(build)
    for function in (add, remove, refresh, index, search, info, verify):
        group.command()(function)
    app.add_typer(group, name="bank")


_HELP = """Banks of unlabeled images that can be searched by words and pictures.

Example: ovseg bank build photos/ --out photos.bank
"""


def build(
    source: Annotated[
        str,
        typer.Argument(help="Folder, glob, .txt list, .tar shards, s3://bucket/folder, hf://name:split, .yaml."),
    ],
    out: Annotated[str, typer.Option(help="Folder of the bank.")],
    model: Annotated[str | None, typer.Option(help="A name from 'ovseg models'; mini if not given.")] = None,
    index: Annotated[str | None, typer.Option(help="auto (if not given), flat, ivf, ivfpq, disk or hnsw.")] = None,
    recall: Annotated[
        float | None, typer.Option(min=0, max=1, help="Recall@10 that the index is tuned to; 0.95 if not given.")
    ] = None,
    regions: Annotated[
        int | None, typer.Option(min=0, help="Region vectors per image, 0 for none; 8 if not given.")
    ] = None,
    keys: Annotated[
        str | None,
        typer.Option(help="What regions are found by: joint (if not given), or structure, the second encoder."),
    ] = None,
    device: Device = "auto",
    max_memory: MaxMemory = None,
    value_range: Range = None,
    bands: Bands = None,
    ray: RayAddress = None,
) -> None:
    """Build a bank; run again after an interruption, it goes on where it stopped.

    Options replace those of a .yaml recipe.

    Example: ovseg bank build photos/ --out photos.bank
    """
    import ovseg
    from ovseg.bank.index import KINDS
    from ovseg.bank.recipes import BankRecipe
    from ovseg.errors import ConfigError, OutputError
    from ovseg.storage import is_stored

    if is_stored(out):
        raise OutputError(f"expected a local folder for the bank, got --out '{out}'; its images may be in storage")
    if index is not None and index not in KINDS:
        raise ConfigError(f"expected an --index of {', '.join(KINDS)}, got '{index}'")
    is_recipe = source.endswith((".yaml", ".yml"))
    recipe = BankRecipe.named(source) if is_recipe else BankRecipe(summary="", source=source)
    reading = parse_reading(value_range, bands)
    given: dict[str, Any] = {"model": model, "index": index, "recall": recall, "regions": regions, "keys": keys}
    given |= {"value_range": reading.value_range, "bands": reading.bands}
    recipe = recipe.model_copy(update={name: value for name, value in given.items() if value is not None})
    load = partial(ovseg.load, recipe.model, device=device, max_memory=max_memory)
    segmenter = load()
    elsewhere = None
    if ray is not None:
        from ovseg.cli.bank_many import rows_of_many

        elsewhere = partial(rows_of_many, ray, load, device)
    with _Counter("encoding") as count:
        bank = ovseg.ImageBank.build(
            recipe.source,
            out=out,
            segmenter=segmenter,
            options=recipe.options(),
            progress=count,
            elsewhere=elsewhere,
        )
    if not count.done:
        echo(f"already complete: all images of '{recipe.source}' were in the bank", err=True)
    _print_summary(bank)


def add(
    bank: _Bank,
    source: Annotated[str, typer.Argument(help="Folder, glob, .txt list, .tar shards.")],
    verify: _Verify = False,
) -> None:
    """Add images; those that are in the bank are not encoded again.

    Example: ovseg bank add photos.bank more-photos/
    """
    import ovseg

    opened = ovseg.ImageBank.open(bank, verify=verify)
    with _Counter("encoding") as count:
        _print_summary(opened.add(source, progress=count))


def remove(
    bank: _Bank, images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Their paths.")]
) -> None:
    """Let go of images; their files stay.

    Example: ovseg bank remove photos.bank photos/blurred.jpg
    """
    import ovseg

    _print_summary(ovseg.ImageBank.open(bank).remove(images))


def refresh(bank: _Bank) -> None:
    """Let go of images that are gone, and encode those again whose bytes have changed.

    Example: ovseg bank refresh photos.bank
    """
    import ovseg

    with _Counter("encoding") as count:
        _print_summary(ovseg.ImageBank.open(bank).refresh(progress=count))


def index(
    bank: _Bank,
    kind: Annotated[str, typer.Argument(help="auto, flat, ivf, ivfpq, disk (need not fit in memory) or hnsw.")],
    recall: Annotated[
        float | None, typer.Option(min=0, max=1, help="Recall@10 that it is tuned to; if not given, as before.")
    ] = None,
) -> None:
    """Make another index over the vectors of a bank; no image is encoded again.

    Example: ovseg bank index photos.bank disk
    """
    import ovseg
    from ovseg.bank.index import check_kind

    check_kind(kind)
    _print_summary(ovseg.ImageBank.open(bank).reindex(kind, recall=recall))  # type: ignore[arg-type]


def search(
    bank: _Bank,
    query: Annotated[list[str] | None, typer.Argument(help="Words, or images; several are mixed.")] = None,
    image: Annotated[
        list[str] | None, typer.Option(help="A picture (file or address) as part of the query.")
    ] = None,
    negative: Annotated[list[str] | None, typer.Option("--not", help="Words or images to keep away from.")] = None,
    k: Annotated[int, typer.Option("-k", help="How many images.")] = 20,
    regions: Annotated[bool, typer.Option("--regions", help="Rank by the best region of each image.")] = False,
    sheet: Annotated[Path | None, typer.Option(help="Write a contact sheet (PNG) here.")] = None,
    verify: _Verify = False,
    as_json: _Json = False,
) -> None:
    """Find images by words, pictures, or both; a word that names an image file is that image.

    Example: ovseg bank search photos.bank "traffic cone" --not "ice cream" --sheet cones.png
    """
    import ovseg
    from ovseg.errors import VocabularyError
    from ovseg.images.web import is_address

    pictures = (each if is_address(each) else Path(each) for each in image or [])
    parts: list[Any] = [*(query or []), *pictures]
    if not parts:
        raise VocabularyError("expected words or --image to search for, got neither; name what to find")
    opened = ovseg.ImageBank.open(bank, verify=verify)
    found = opened.search(parts, k, negative=negative or None, regions=regions)
    if len(opened) < k:
        echo(f"the bank has only {len(opened)} images; {_WHY_BAD}", err=True)
    if sheet is not None:
        from ovseg.cli.pictures import save_picture

        save_picture(found.contact_sheet(), sheet)
        echo(f"picture: {sheet}", err=True)
    pairs = list(zip(found.paths[0], found.cosine[0].tolist(), strict=True))
    if as_json:
        echo(json.dumps([{"path": path, "cosine": cosine} for path, cosine in pairs], indent=2))
    else:
        echo("\n".join(f"{cosine:.4f}  {one_line(path)}" for path, cosine in pairs))


def info(bank: _Bank, verify: _Verify = False, as_json: _Json = False) -> None:
    """Show what a bank holds: model, sizes, index, bad images.

    Example: ovseg bank info photos.bank
    """
    import ovseg

    opened = ovseg.ImageBank.open(bank, verify=verify)
    if as_json:
        shown = {key: value for key, value in opened.manifest.items() if key not in {"files", "removed"}}
        shown["bad_images"] = dict(opened.bad_images())
        echo(json.dumps(shown, indent=2))
        return
    _print_summary(opened, hint=False)
    for path, reason in opened.bad_images():
        echo(f"bad: {one_line(path)}: {one_line(reason)}")


def verify(
    bank: _Bank,
    against: Annotated[str | None, typer.Option(help="Test images that must not be in the bank.")] = None,
    as_json: _Json = False,
) -> None:
    """Check all files of a bank and its images, list duplicates, and look for images of a test set in it.

    Leaves with status 1 when images of the test set are found, or images of the bank are gone or have changed.

    Example: ovseg bank verify photos.bank --against benchmark/images
    """
    import ovseg

    opened = ovseg.ImageBank.open(bank)
    leaks, doubles, changed = opened.verify(against), opened.duplicates(), opened.changed_images()
    if as_json:
        pairs = {"leaks": [vars(pair) for pair in leaks], "duplicates": [vars(pair) for pair in doubles]}
        echo(json.dumps({**pairs, "changed": changed}, indent=2))
    else:
        for word, listed in (("duplicate", doubles), ("leak", leaks)):
            for pair in listed:
                how = "same file" if pair.exact else pair.change or f"cosine {pair.cosine:.3f}"
                echo(f"{word}: {one_line(pair.first)} = {one_line(pair.second)} ({how})")
        echo(f"the bank's files are whole; {len(doubles)} duplicates, {len(leaks)} leaks")
        if changed:
            echo(
                f"{len(changed)} of {len(opened)} images are gone or have changed, the first is {changed[0]}; "
                "'ovseg bank refresh' lets go of them or encodes them again, 'ovseg bank add' finds moved ones"
            )
    if leaks or changed:
        raise typer.Exit(1)


def _print_summary(bank: ImageBank, *, hint: bool = True) -> None:
    manifest = bank.manifest
    echo(f"{bank.root}: {manifest['images']} images, {manifest['bad']} bad, model {manifest['encoder']['model']}")
    for kind, report in manifest["index"].items():
        echo(
            f"{kind}: {report['vectors']} vectors of {report['dimensions']}, index {report['kind']}, "
            f"recall@10 {report['recall']:.3f}, {report['megabytes']:.1f} MB"
        )
    if notes := bank.notes():
        typer.echo(f"{len(notes)} images are read as their files leave open, such as {notes[0][0]}: {notes[0][1]}")
    if hint and manifest["bad"]:
        echo(_WHY_BAD, err=True)


class _Counter:
    """A progress bar without an end, called with the number of images done."""

    def __init__(self, description: str) -> None:
        self._description = description
        self.done = 0

    def __enter__(self) -> _Counter:
        from rich.console import Console
        from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._progress.start()
        self._task = self._progress.add_task(self._description, total=None)
        return self

    def __call__(self, done: int) -> None:
        self.done += done
        self._progress.advance(self._task, done)

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
