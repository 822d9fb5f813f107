"""``ovseg suggest``: what to label next in a bank of unlabeled images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ovseg.cli.opening import open_bank
from ovseg.cli.options import Device
from ovseg.cli.output import echo
from ovseg.escape import one_line


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("suggest")(suggest)


def suggest(
    bank: Annotated[Path, typer.Argument(metavar="BANK", help="The bank's folder.")],
    labels: Annotated[list[str], typer.Argument(metavar="LABEL...", help="What is to be told apart.")],
    out: Annotated[Path, typer.Option(help="Folder for the sheet, the CSV and the JSON.")],
    count: Annotated[int, typer.Option(min=1, help="Regions, at most.")] = 20,
    window: Annotated[int, typer.Option(min=1, help="Cells along the side of a region.")] = 7,
    per_image: Annotated[int, typer.Option(min=1, max=4, help="Regions of one image, at most.")] = 2,
    diversity: Annotated[float, typer.Option(min=0, help="How much regions must differ; 0: not at all.")] = 1.0,
    background: Annotated[
        str, typer.Option(help="auto, none (every pixel is one of the labels), or phrases with commas between.")
    ] = "auto",
    concepts: Annotated[Path | None, typer.Option(help="Learned concepts (.safetensors) that are known.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The regions as JSON on stdout.")] = False,
    device: Device = "auto",
) -> None:
    """Say which regions of a bank's images to label next: where labels meet and the model is unsure.

    An interrupted run goes on where it stopped. Images that cannot be read are told, and the status is 1.

    Example: ovseg suggest photos.bank road car person --count 20 --out label-these
    """
    import ovseg
    from ovseg.bank import suggest as find
    from ovseg.cli.jobs import parse_background
    from ovseg.progress import progress_bar

    contrast = parse_background(background)
    opened, segmenter = open_bank(bank, device)
    if concepts is not None:
        segmenter = segmenter.with_concepts(ovseg.ConceptSet.load(concepts))
    with progress_bar("looking at images", total=len(opened)) as advance:
        made = find(
            opened,
            labels,
            count=count,
            window=window,
            per_image=per_image,
            diversity=diversity,
            background=contrast,
            segmenter=segmenter,
            out=out,
            progress=advance,
        )
    if as_json:
        echo(json.dumps([each.to_dict() for each in made.regions], indent=2))
    else:
        for number, each in enumerate(made.regions, start=1):
            box = ",".join(map(str, each.box))
            echo(
                f"{number:3d}  {each.score:.3f}  {one_line(each.image)}  {box}  {one_line(', '.join(each.labels))}"
            )
        echo(f"{len(made.regions)} regions to label: {out / 'suggestions.csv'}, picture: {out / 'sheet.png'}")
    for path, reason in made.bad:
        echo(f"bad: {one_line(path)}: {one_line(reason)}", err=True)
    if made.bad:
        raise typer.Exit(1)
