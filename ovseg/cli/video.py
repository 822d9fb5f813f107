"""``ovseg video``: a clip, frame by frame, with labels that do not flicker and objects that keep their numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovseg.cli.formats import Quality
from ovseg.cli.options import Device, MaxMemory, ModelName, Weights
from ovseg.cli.output import echo
from ovseg.escape import for_json, one_line

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ovseg.video.folder import WrittenClip


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(video)


def video(
    clip: Annotated[str, typer.Argument(metavar="CLIP|FOLDER", help="A video, or a folder of its frames.")],
    labels: Annotated[list[str] | None, typer.Argument(metavar="LABEL...", help="What to find.")] = None,
    labels_file: Annotated[Path | None, typer.Option(help="More labels: lines, '17: wall', JSON, YAML.")] = None,
    mask: Annotated[
        Path | None,
        typer.Option(help="Follow what this picture of the first frame shows: 0 nothing, else objects."),
    ] = None,
    click: Annotated[
        list[str] | None,
        typer.Option(metavar="X,Y", help="Follow the thing here on the first frame; several times."),
    ] = None,
    every: Annotated[
        int | None,
        typer.Option(min=1, help="Ask words on every so many frames; if not given 1, and 3 with objects."),
    ] = None,
    instances: Annotated[
        bool, typer.Option("--instances", help="Also find the objects of LABELs that are things, and number them.")
    ] = False,
    instances_of: Annotated[
        str | None, typer.Option(metavar="LABEL,LABEL", help="Also find the objects of these LABELs.")
    ] = None,
    quality: Annotated[Quality | None, typer.Option(help="How objects are found, as the model file says.")] = None,
    background: Annotated[
        str, typer.Option(help="auto, none (every pixel gets a label), or phrases with commas between.")
    ] = "auto",
    refine: Annotated[bool | None, typer.Option(help="Sharpen borders; the model decides if not given.")] = None,
    model: ModelName = "mini",
    weights: Weights = None,
    device: Device = "auto",
    max_memory: MaxMemory = None,
    out: Annotated[
        Path, typer.Option(help="Folder for the results, which get a folder of the clip's name.")
    ] = Path("out"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin anew, also over other files.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON line on stdout.")] = False,
) -> None:
    """Find LABELs in a video, or follow what a mask or clicks show on its first frame.

    Words are asked on some frames and carried between them. The folder gets overlay.mp4, a label map (PNG) for each
    frame, frames.csv, with objects objects.csv, and video.json. A stopped run goes on when it is given again.

    Example: ovseg video clip.mp4 person dog
    """
    import ovseg
    from ovseg.cli.jobs import parse_background, parse_names
    from ovseg.cli.select import numbers
    from ovseg.progress import progress_bar, remark
    from ovseg.video.folder import write_video
    from ovseg.video.options import VideoOptions
    from ovseg.video.reading import Clip
    from ovseg.video.request import Request
    from ovseg.vocabulary.label_files import names_in

    request = Request(
        labels=[*(labels or ()), *names_in(labels_file)] or None,
        mask=None if mask is None else _read_mask(mask),
        click=[numbers("--click", each, 2) for each in click or ()],
        background=parse_background(background),
        refine=refine,
        instances=parse_names("--instances-of", instances_of) or instances,
        quality=None if quality is None else quality.value,
    )
    opened = Clip(clip)
    expected = opened.expected  # a clip that cannot be opened is refused before the model is loaded
    segmenter = ovseg.load(model, device=device, weights=weights, max_memory=max_memory)
    with progress_bar("segmenting", total=expected, shown=not as_json) as advance:
        done = write_video(
            opened,
            request,
            segmenter=segmenter,
            options=VideoOptions(every=every),
            folder=out / opened.name,
            overwrite=overwrite,
            advance=lambda _: advance(),
        )
    for note in opened.notes:
        remark(note)
    if as_json:
        document = {
            "folder": str(done.folder),
            **{key: value for key, value in done.record.items() if key != "made"},
        }
        echo(for_json(json.dumps(document, ensure_ascii=False)))
    else:
        _tell(done)


def _read_mask(path: Path) -> npt.NDArray[np.integer[Any]]:
    """(H, W) values of a mask: of a palette its positions, of grey the greys; colours are told apart."""
    import numpy as np
    from PIL import Image

    from ovseg.images.load import read_image

    read_image(path)  # refuses what is no picture
    with Image.open(path) as picture:
        if picture.mode in {"P", "L", "1", "I", "I;16"}:
            return np.array(picture).astype(np.int64)
        channels = np.array(picture.convert("RGB")).astype(np.int64)
    return np.asarray(channels @ np.array([1 << 16, 1 << 8, 1]))


def _tell(done: WrittenClip) -> None:
    record = done.record
    if not done.fresh:
        echo("already done with these settings; --overwrite does it again", err=True)
    echo(f"{record['frames']} frames, {record['seconds']:.1f} s, {record['key_frames']} key frames")
    for label, share in sorted(record["areas"].items(), key=lambda row: -row[1]):
        count = (record["objects"] or {}).get(label)
        echo(f"  {share:6.1%}  {one_line(label)}" + ("" if count is None else f", {count} objects"))
    echo(f"overlay: {done.folder / 'overlay.mp4'}")
