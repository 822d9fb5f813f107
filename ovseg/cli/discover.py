"""``ovseg discover``: what a folder of photos shows again and again, for a person to name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovseg.cli.options import Device, ModelName
from ovseg.cli.output import echo
from ovseg.escape import one_line

if TYPE_CHECKING:
    from ovseg.discovery import Discovery

_SHOWN = 40  # groups that are listed


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("discover")(discover)


def discover(
    folder: Annotated[str, typer.Argument(help="Folder, glob, .txt list, .tar shards, hf://name:split.")],
    out: Annotated[Path, typer.Option(help="Folder for groups.json and the pictures.")] = Path("discovered"),
    by: Annotated[
        str, typer.Option(help="normalized_cut, sam (slow, finer), detector, universal:REPO.")
    ] = "normalized_cut",
    groups: Annotated[str, typer.Option(help="How many are looked for, or auto.")] = "auto",
    stuff: Annotated[
        int | None, typer.Option(min=1, help="Group what no object covers, too, into so many groups, such as 27.")
    ] = None,
    model: ModelName = "mini",
    names: Annotated[Path | None, typer.Option(help="A file of words to propose names from.")] = None,
    name: Annotated[
        list[str] | None, typer.Option(metavar="NUMBER=NAME", help="Name a group that was found; several times.")
    ] = None,
    concepts: Annotated[Path | None, typer.Option(help="Write named groups as concepts (.safetensors).")] = None,
    pseudo_labels: Annotated[
        Path | None, typer.Option(help="Write named groups as label maps for training.")
    ] = None,
    unnamed: Annotated[
        bool, typer.Option("--unnamed", help="With --pseudo-labels: groups without a name, too, by their number.")
    ] = False,
    device: Device = "auto",
) -> None:
    """Find objects that FOLDER shows again and again, and group them; an interrupted run goes on where it stopped.

    Look at overview.png, name groups with --name (or in groups.json), then put them to use with --concepts and
    --pseudo-labels. With --name nothing is looked for again.

    Example: ovseg discover photos/ --name 3=cup --concepts cups.safetensors
    """
    import ovseg
    from ovseg.discovery import Discovery
    from ovseg.vocabulary.label_files import names_in

    count, given = _parse_groups(groups), dict(map(_parse_name, name or []))
    if given:
        made = Discovery.open(out).with_names(given)
    else:
        options = {"by": by, "groups": count or "auto", "stuff": stuff, "names": names_in(names)}
        made = _discover(folder, out, options, model=model, device=device)
    _print(made)
    if concepts is not None:
        from ovseg.discovery import named_concepts

        named_concepts(made, ovseg.load(made.model, device=device)).save(concepts)
        echo(f"concepts: {concepts}")
    if pseudo_labels is not None:
        from ovseg.discovery import write_named_labels

        written = write_named_labels(made, pseudo_labels, unnamed=unnamed)
        echo(f"{written.images} label maps in {pseudo_labels}, {written.coverage:.1%} of pixels labelled")
    if made.bad:
        raise typer.Exit(1)


def _discover(folder: str, out: Path, options: dict[str, Any], *, model: str, device: str) -> Discovery:
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn

    import ovseg

    columns = (SpinnerColumn(), TextColumn("{task.description} {task.completed:.0f}"))
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("looking at photos", total=None)
        return ovseg.discover(
            folder,
            out=out,
            segmenter=ovseg.load(model, device=device),
            **options,
            progress=lambda done: progress.advance(bar, done),
        )


def _print(made: Discovery) -> None:
    things, areas = ([group for group in made.groups if group.stuff == stuff] for stuff in (False, True))
    objects, regions = (sum(len(group.members) for group in each) for each in (things, areas))
    around = f"{len(areas)} groups of {regions} regions of stuff, " if areas else ""
    echo(
        f"{len(things)} groups of {objects} objects, {made.loose} objects of none, {around}"
        f"{len(made.paths)} photos, {len(made.bad)} bad"
    )
    for group in made.groups[:_SHOWN]:
        told = one_line(group.name) or (f"perhaps {one_line(group.proposed[0])}" if group.proposed else "")
        what = "regions" if group.stuff else "objects"
        line = f"  {group.number:4d}  {len(group.members):5d} {what}  tightness {group.tightness:.2f}  {told}"
        echo(line.rstrip())
    if len(made.groups) > _SHOWN:
        echo(f"  and {len(made.groups) - _SHOWN} more in {made.root / 'groups.json'}")
    for path, reason in made.bad:
        echo(f"bad: {one_line(path)}: {one_line(reason)}", err=True)
    echo(f"pictures: {made.root / 'overview.png'} and one of each group")


def _parse_groups(text: str) -> int | None:
    from ovseg.errors import ConfigError

    if text == "auto":
        return None
    if text.isdigit() and int(text) >= 1:
        return int(text)
    raise ConfigError(f"--groups expects a number of at least 1, or auto, got '{text}'")


def _parse_name(text: str) -> tuple[int, str]:
    from ovseg.errors import ConfigError

    number, equals, name = text.partition("=")
    if equals and number.strip().isdigit():
        return int(number), name.strip()
    raise ConfigError(f"--name expects NUMBER=NAME, got '{text}'; for example 3=cup")
