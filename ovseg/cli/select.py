"""``ovseg select``: one thing of a photo, by clicks, a box, a rough mask or words."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovseg.cli.options import Device, ModelName, Weights
from ovseg.cli.output import echo
from ovseg.cli.reading import Bands, Range, parse_reading
from ovseg.escape import for_json

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ovseg.result import Selection


class Level(StrEnum):
    """How much of the thing is meant."""

    WHOLE = "whole"
    PART = "part"
    SUBPART = "subpart"


class Using(StrEnum):
    """What answers."""

    SAM = "sam"
    FEATURES = "features"


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(select)


def select(
    image: Annotated[str, typer.Argument(metavar="IMAGE|URL|-", help="The photo; - is stdin.")],
    click: Annotated[
        list[str] | None, typer.Option(metavar="X,Y", help="A point on the thing; several times.")
    ] = None,
    off: Annotated[
        list[str] | None, typer.Option("--not", metavar="X,Y", help="A point off the thing; several times.")
    ] = None,
    box: Annotated[str | None, typer.Option(metavar="X0,Y0,X1,Y1", help="A box around the thing.")] = None,
    mask: Annotated[Path | None, typer.Option(help="Roughly the thing: a picture, not black where it is.")] = None,
    text: Annotated[str | None, typer.Option(help="What it is.")] = None,
    level: Annotated[Level | None, typer.Option(help="How much of it; what fits best if not given.")] = None,
    using: Annotated[Using, typer.Option(help="What answers.")] = Using.SAM,
    model: ModelName = "mini",
    weights: Weights = None,
    device: Device = "auto",
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The mask; beside it _cutout.png and _overlay.png.")
    ] = Path("mask.png"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the files that are there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON line on stdout.")] = False,
    max_pixels: Annotated[int, typer.Option(help="Refuse larger images.")] = 200_000_000,
    value_range: Range = None,
    bands: Bands = None,
) -> None:
    """Select one thing of a photo; pixels count from the top left.

    The mask is a grey PNG, 255 where the thing is. The same clicks, and more of them, correct it.

    Example: ovseg select photo.jpg --click 120,80 --not 300,40 -o mug.png
    """
    reading = parse_reading(value_range, bands, max_pixels=max_pixels)
    given: dict[str, Any] = {
        "positive": [numbers("--click", each, 2) for each in click or ()],
        "negative": [numbers("--not", each, 2) for each in off or ()],
        "box": None if box is None else numbers("--box", box, 4),
        "mask": None if mask is None else _drawn(mask),
        "text": text,
    }
    _check_place(out, overwrite=overwrite)
    import ovseg
    from ovseg.images.load import read_image
    from ovseg.pipeline.selection.prompts import join_prompts

    picture = read_image(sys.stdin.buffer.read() if image == "-" else image, reading)
    join_prompts(picture.pixels.shape[:2], None, **given)  # refused before the model is loaded
    selection = ovseg.load(model, device=device, weights=weights).select(picture.pixels, using=using.value, **given)
    if level is not None:
        selection = selection.at(level.value)
    files = selection.save(out)
    document = {"image": image, "files": [str(file) for file in files]} | selection.to_dict()
    echo(for_json(json.dumps(document, ensure_ascii=False)) if as_json else _told(selection))
    if not as_json:
        echo(f"mask: {out}\noverlay: {files[-1]}")


def numbers(option: str, text: str, count: int) -> tuple[float, ...]:
    """So many numbers with commas between.

    Raises:
        ConfigError: it is something else; ``option`` begins the message.
    """
    from ovseg.errors import ConfigError

    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if len(found) != count:
        example = ",".join(("120", "80", "300", "240")[:count])
        raise ConfigError(f"{option} must be {count} numbers with commas between, such as {example}, got '{text}'")
    return found


def _drawn(path: Path) -> npt.NDArray[np.bool_]:
    from ovseg.images.load import read_image

    drawn: npt.NDArray[np.bool_] = read_image(path).pixels.max(axis=2) > 0
    return drawn


def _check_place(out: Path, *, overwrite: bool) -> None:
    from ovseg.errors import OutputError

    if out.suffix.lower() != ".png":
        raise OutputError(f"the mask is written as a PNG, got --out '{out}'; let its name end in .png")
    if not overwrite and out.exists():
        raise OutputError(f"'{out}' is there already; choose another --out, or --overwrite")


def _told(selection: Selection) -> str:
    if selection.box is None:
        return "nothing found; click on the thing"
    level = "" if selection.level is None else f", {selection.level}"
    x0, y0, x1, y1 = selection.box
    share = selection.area / selection.mask.size
    return f"{share:.1%} of the image, box {x0},{y0},{x1},{y1}, score {selection.score:.2f}{level}"
