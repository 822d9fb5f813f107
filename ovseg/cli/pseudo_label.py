"""``ovseg pseudo-label``: label maps of a bank's images, for training."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ovseg.cli.formats import Format
from ovseg.cli.many import RayAddress, WithRay
from ovseg.cli.options import Device
from ovseg.cli.output import echo
from ovseg.escape import one_line


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("pseudo-label", cls=WithRay)(pseudo_label)


def pseudo_label(
    bank: Annotated[Path, typer.Argument(metavar="BANK", help="The bank's folder.")],
    out: Annotated[str, typer.Option(help="Folder for the label maps, also in storage (s3://).")],
    concepts: Annotated[Path | None, typer.Option(help="Learned concepts (.safetensors).")] = None,
    labels: Annotated[list[str] | None, typer.Option("--label", help="A label; all concepts if none.")] = None,
    confidence: Annotated[float, typer.Option(min=0, max=1, help="Ignore pixels whose score is under this.")] = 0.0,
    background: Annotated[
        str, typer.Option(help="auto, none (every pixel gets a label), or phrases with commas between.")
    ] = "auto",
    worker: Annotated[str, typer.Option(help="This worker's number and the count of all, as 0/1.")] = "0/1",
    device: Device = "auto",
    formats: Annotated[
        list[Format] | None,
        typer.Option("--format", help="Write also for other programs, once the labels are there. Repeatable."),
    ] = None,
    tolerance: Annotated[float, typer.Option(min=0, help="Pixels that outlines in such files may be off.")] = 0.5,
    ray: RayAddress = None,
) -> None:
    """Segment a bank's images into label maps (255: ignore); an interrupted run goes on where it stopped.

    Example: ovseg pseudo-label photos.bank --concepts cones.safetensors --out pseudo/
    """
    import ovseg
    from ovseg.bank.pseudo_labels import write_pseudo_labels
    from ovseg.cli.formats import check_storable
    from ovseg.cli.jobs import parse_background
    from ovseg.errors import VocabularyError
    from ovseg.storage import is_stored

    if is_stored(out):
        check_storable(formats or [], out)
    if concepts is None and not labels:
        raise VocabularyError("expected --concepts or --label, got neither; say what to label")
    number, total = _parse_worker(worker)
    contrast = parse_background(background)
    opened = ovseg.ImageBank.open(bank)
    load = partial(_load, opened.manifest["encoder"]["model"], concepts=concepts, device=device)
    segmenter, elsewhere = load(), None
    if ray is not None:
        from ovseg.cli.bank_many import lines_of_many

        make = partial(_labeller, load, out, labels or None, contrast, confidence, opened.reading)
        elsewhere = partial(lines_of_many, ray, make, device)
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("labelling", total=len(range(number, len(opened), total)))
        report = write_pseudo_labels(
            opened,
            out,
            segmenter=segmenter,
            labels=labels or None,
            background=contrast,
            confidence=confidence,
            worker=(number, total),
            progress=lambda done: progress.advance(bar, done),
            elsewhere=elsewhere,
        )
    echo(f"{report.images} label maps in {out}, {report.failed} failed, {report.coverage:.1%} of pixels labelled")
    for name, share in report.balance.items():
        echo(f"  {share:6.1%}  {one_line(name)}")
    if formats:
        _write_formats(out, formats, tolerance=tolerance)


def _load(model: str, *, concepts: Path | None, device: str) -> Any:
    import ovseg

    segmenter = ovseg.load(model, device=device)
    return segmenter if concepts is None else segmenter.with_concepts(ovseg.ConceptSet.load(concepts))


def _labeller(load: Callable[[], Any], out: str, *settings: Any) -> Callable[[str], dict[str, Any]]:
    """What labels an image in a worker."""
    from ovseg.bank.pseudo_labels import Labeller

    return Labeller(out, load(), *settings).label


def _write_formats(out: str, formats: list[Format], *, tolerance: float) -> None:
    """All labels in the folder, those of other workers too; photos keep their sub-folders."""
    from ovseg.bank.pseudo_labels import read_pseudo_labels, read_results
    from ovseg.cli.jobs import places_of_keys
    from ovseg.result.formats import Options, written
    from ovseg.storage import results_in

    def tell(sentence: str) -> None:
        echo(f"note: {sentence}", err=True)

    keys = [row["path"] for row in read_pseudo_labels(out)[1] if "error" not in row]
    with results_in(out) as (root, shelf):
        places = places_of_keys(keys, root)
        with written(formats, root, options=Options(tolerance, tell)) as add:
            for key, result in read_results(out):
                add(result, places[key])
        if shelf is not None:
            shelf.put_rest()


def _parse_worker(text: str) -> tuple[int, int]:
    from ovseg.errors import ConfigError

    number, slash, total = text.partition("/")
    if slash and number.isdigit() and total.isdigit() and int(number) < int(total):
        return int(number), int(total)
    raise ConfigError(f"--worker expects NUMBER/COUNT with NUMBER below COUNT, got '{text}'; for example 0/4")
