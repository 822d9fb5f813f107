"""``ovseg segment``: label maps and overlays of one photo, a folder or a glob pattern."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ovseg.cli.formats import Format, Quality
from ovseg.cli.many import RayAddress, WithRay
from ovseg.cli.options import Device, MaxMemory, ModelName, Runtime, Weights
from ovseg.cli.reading import Bands, Range, parse_reading
from ovseg.cli.segment_run import Run
from ovseg.cli.sources import sources_of, split


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(cls=WithRay)(segment)


def segment(
    images: Annotated[str, typer.Argument(metavar="IMAGE|FOLDER|GLOB|URL|-", help="What to segment; - is stdin.")],
    labels: Annotated[list[str] | None, typer.Argument(metavar="LABEL...", help="What to find.")] = None,
    labels_file: Annotated[Path | None, typer.Option(help="More labels: lines, '17: wall', JSON, YAML.")] = None,
    concepts: Annotated[Path | None, typer.Option(help="Learned concepts (.safetensors).")] = None,
    example: Annotated[
        list[str] | None, typer.Option(help="LABEL=IMAGE[,MASK | ,X,Y | ,X0,Y0,X1,Y1]: a photo that shows it.")
    ] = None,
    model: ModelName = "mini",
    weights: Weights = None,
    device: Device = "auto",
    runtime: Runtime = "torch",
    max_memory: MaxMemory = None,
    out: Annotated[str, typer.Option(help="Folder for the results, also in storage (s3://).")] = "out",
    background: Annotated[
        str, typer.Option(help="auto, none (every pixel gets a label), or phrases with commas between.")
    ] = "auto",
    refine: Annotated[bool | None, typer.Option(help="Sharpen borders; the model decides if not given.")] = None,
    instances: Annotated[
        bool, typer.Option("--instances", help="Also find the objects of LABELs that are things, to count.")
    ] = False,
    instances_of: Annotated[
        str | None, typer.Option(metavar="LABEL,LABEL", help="Also find the objects of these LABELs, to count.")
    ] = None,
    quality: Annotated[Quality | None, typer.Option(help="How objects are found, as the model file says.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Also redo images that are done.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line per image on stdout.")] = False,
    max_pixels: Annotated[int, typer.Option(help="Refuse larger images, if not read by windows.")] = 200_000_000,
    scale: Annotated[
        float | None,
        typer.Option(
            help="Read each image by windows, so many pixels of the model's input for one of the image; a TIFF of "
            "more than 36 million pixels is in any case, with 0.5."
        ),
    ] = None,
    min_area: Annotated[int, typer.Option(min=0, help="Drop parts of a label with fewer pixels.")] = 0,
    min_score: Annotated[float, typer.Option(min=0, max=1, help="Drop pixels with a lower score.")] = 0,
    formats: Annotated[
        list[Format] | None,
        typer.Option("--format", help="Write also for other programs; docs/formats.md says what each keeps."),
    ] = None,
    tolerance: Annotated[float, typer.Option(min=0, help="Pixels that outlines in such files may be off.")] = 0.5,
    crops: Annotated[
        bool, typer.Option("--crops", help="Write also each object cut out; see --instances.")
    ] = False,
    value_range: Range = None,
    bands: Bands = None,
    ray: RayAddress = None,
) -> None:
    """Find LABELs in one photo, a folder (with sub-folders), all files of a pattern, at a web address, in storage.

    TIFF files of more than 36 million pixels are read by windows: docs/tasks/large-pictures.md says more.
    Each image gets an index PNG, an overlay and a JSON file. Images done with the same settings are skipped.
    Arguments that name files are images, so that a pattern may be expanded by the shell; one that looks like a path
    and names nothing is refused. A label with a slash goes into --labels-file.

    Example: ovseg segment street.jpg road car person
    """
    from ovseg.cli.examples import with_examples
    from ovseg.cli.jobs import parse_background, parse_names
    from ovseg.storage import results_in
    from ovseg.vocabulary.label_files import names_in

    more, words = split(labels or [])
    run = Run(
        labels=with_examples([*words, *names_in(labels_file)], example or []),
        background=parse_background(background),
        refine=refine,
        model=model,
        device=device,
        weights=weights,
        runtime=runtime,
        max_memory=max_memory,
        concepts=concepts,
        reading=parse_reading(value_range, bands, max_pixels=max_pixels),
        changes={
            name: value
            for name, value in (
                ("min_area", min_area),
                ("min_score", min_score),
                ("instances", parse_names("--instances-of", instances_of) or instances or crops),
                ("quality", quality and quality.value),
            )
            if value
        },
        formats=frozenset([*(formats or ()), *([Format.CROPS] if crops else [])]),
        tolerance=tolerance,
        scale=scale,
    )
    with sources_of([images, *more], out) as sources, results_in(out) as (folder, shelf):
        failed = run.do_all(sources, folder, shelf, overwrite=overwrite, as_json=as_json, ray=ray)
    if failed:
        raise typer.Exit(1)
