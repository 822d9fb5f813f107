"""``ovseg concept``: learn concepts from a bank of unlabeled images, see why, and steer them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovseg.cli.opening import open_bank
from ovseg.cli.options import Device
from ovseg.cli.output import echo
from ovseg.escape import one_line

if TYPE_CHECKING:
    from ovseg.concepts import ConceptReference, ConceptSet
    from ovseg.pipeline.segmenter import Segmenter


def register(app: typer.Typer) -> None:
    """Add the group of commands to ``app``."""
    group = typer.Typer(no_args_is_help=True, help=_HELP)
    for function in (learn, refine, show):
        group.command()(function)
    app.add_typer(group, name="concept")


_HELP = """Concepts learned from unlabeled images.

Example: ovseg concept learn photos.bank "traffic cone" --out cones.safetensors
"""


def learn(
    bank: Annotated[Path, typer.Argument(metavar="BANK", help="The bank's folder.")],
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="What to learn.")] = None,
    out: Annotated[Path, typer.Option(help="The concepts file.")] = Path("concepts.safetensors"),
    recipe: Annotated[str | None, typer.Option(help="A file of retrieval/concepts, or its name.")] = None,
    k: Annotated[
        int | None, typer.Option("-k", min=1, help="Images retrieved per concept; 50 if not given.")
    ] = None,
    context: Annotated[list[str] | None, typer.Option(help="Common surroundings, learned first.")] = None,
    negative: Annotated[list[str] | None, typer.Option("--not", help="What it must not be confused with.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Also write the picture of 'concept show'.")] = None,
    device: Device = "auto",
) -> None:
    """Learn NAMEs from a bank: retrieve, co-segment, save one small file.

    Example: ovseg concept learn photos.bank "traffic cone" "road sign" --out street.safetensors
    """
    import ovseg
    from ovseg.concepts.recipe import ConceptRecipe
    from ovseg.errors import VocabularyError

    wanted = [ovseg.Concept(name, not_=tuple(negative or ())) for name in names or []]
    contexts = list(context or [])
    if recipe is not None:
        read = ConceptRecipe.named(recipe)
        wanted, contexts, k = [*wanted, *read.entries()], [*contexts, *read.contexts], k or read.k
    if not wanted:
        raise VocabularyError("expected at least one NAME or --recipe, got neither; name what to learn")
    opened, segmenter = open_bank(bank, device)
    concepts = ovseg.learn_concepts(
        wanted, opened, k=k or 50, contexts=contexts, progress=lambda name: echo(f"learning {name}", err=True)
    )
    _report(concepts, out, picture, segmenter)


def refine(
    concepts: Annotated[Path, typer.Argument(metavar="FILE", help="A concepts file.")],
    bank: Annotated[Path, typer.Argument(metavar="BANK", help="The bank's folder.")],
    accept: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY", help="A photo of the bank that shows it: its path or file name, or PATH:ROW,COLUMN."
        ),
    ] = None,
    reject: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help="A photo, or a place in one, that does not show it.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--concept", help="Which concept, where the file has several.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The new concepts file; the old one if not given.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Also write the picture of 'concept show'.")] = None,
    device: Device = "auto",
) -> None:
    """Learn a concept again, with what you say of its photos; what you said before counts on.

    The picture of 'concept show' has the names of the photos and a ring at each seed, --json the places of all
    seeds as fractions of height and width.

    Example: ovseg concept refine cones.safetensors photos.bank --accept street.jpg --reject ice.jpg
    """
    import ovseg
    from ovseg.concepts import refine_concepts
    from ovseg.errors import VocabularyError

    if not accept and not reject:
        raise VocabularyError("expected --accept or --reject, got neither; say which photos show it or do not")
    loaded = ovseg.ConceptSet.load(concepts)
    opened, segmenter = open_bank(bank, device)
    refined = refine_concepts(
        loaded,
        opened,
        accept=accept or (),
        reject=reject or (),
        name=name,
        progress=lambda text: echo(f"learning {text}", err=True),
    )
    _report(refined, out or concepts, picture, segmenter)


def show(
    concepts: Annotated[Path, typer.Argument(metavar="FILE", help="A concepts file.")],
    out: Annotated[Path, typer.Option(help="The picture (PNG).")] = Path("concepts.png"),
    images: Annotated[int, typer.Option(min=1, help="Images per concept, at most.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Only figures, as JSON on stdout.")] = False,
) -> None:
    """Draw why: the retrieved images of each concept, their seeds and co-segmented masks.

    Example: ovseg concept show street.safetensors --out street.png
    """
    import ovseg

    loaded = ovseg.ConceptSet.load(concepts)
    if as_json:
        echo(json.dumps([_figures(each) for each in loaded.references], indent=2))
        return
    _print_table(loaded)
    _save_picture(loaded, ovseg.load(loaded.encoder["model"]), out, images=images)


def _report(concepts: ConceptSet, out: Path, picture: Path | None, segmenter: Segmenter) -> None:
    concepts.save(out)
    _print_table(concepts)
    echo(f"concepts: {out}")
    if picture is not None:
        _save_picture(concepts, segmenter, picture)


def _figures(reference: ConceptReference) -> dict[str, Any]:
    """What ``--json`` says of a concept, its seeds among it."""
    fields = ("name", "confidence", "purity", "separation", "threshold", "found")
    return {key: getattr(reference, key) for key in fields} | {"seeds": list(map(vars, reference.seeds))}


def _save_picture(concepts: ConceptSet, segmenter: Segmenter, path: Path, *, images: int = 20) -> None:
    from ovseg.cli.pictures import save_picture

    save_picture(concepts.show(segmenter, images=images), path)
    echo(f"picture: {path}")


def _print_table(concepts: ConceptSet) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("concept", box=None, header_style="bold")
    for heading in ("confidence", "purity", "separation", "references"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for each in concepts.references:
        numbers = (f"{each.confidence:.2f}", f"{each.purity:.2f}", f"{each.separation:.2f}")
        note = "" if each.found else "not found in this bank"
        table.add_row(Text(one_line(each.name)), *numbers, str(len(each.embeddings)), note)
    Console().print(table)
    if missing := [each.name for each in concepts.references if not each.found]:
        echo(
            f"not found: {', '.join(missing)}; the text alone will be used. Add photos that show it, or try other "
            "words: 'ovseg bank search BANK WORDS --sheet found.png' shows what the bank has",
            err=True,
        )
