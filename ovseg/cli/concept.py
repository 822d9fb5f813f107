"""``ovseg concept``: learn concepts from a bank of unlabeled images, and see why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ovseg.cli.output import echo
from ovseg.escape import one_line

if TYPE_CHECKING:
    from ovseg.concepts import ConceptSet


def register(app: typer.Typer) -> None:
    """Add the group of commands to ``app``."""
    group = typer.Typer(no_args_is_help=True, help=_HELP)
    for function in (learn, show):
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
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
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
    opened = ovseg.ImageBank.open(bank)
    segmenter = ovseg.load(opened.manifest["encoder"]["model"], device=device)
    opened = ovseg.ImageBank.open(bank, segmenter=segmenter)
    concepts = ovseg.learn_concepts(
        wanted, opened, k=k or 50, contexts=contexts, progress=lambda name: echo(f"learning {name}", err=True)
    )
    concepts.save(out)
    _print_table(concepts)
    echo(f"concepts: {out}")
    if picture is not None:
        _save_picture(concepts, segmenter, picture)


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
        fields = ("name", "confidence", "purity", "separation", "threshold", "found")
        echo(json.dumps([{key: getattr(each, key) for key in fields} for each in loaded.references], indent=2))
        return
    _print_table(loaded)
    _save_picture(loaded, ovseg.load(loaded.encoder["model"]), out, images=images)


def _save_picture(concepts: ConceptSet, segmenter: object, path: Path, *, images: int = 20) -> None:
    from ovseg.cli.pictures import save_picture

    save_picture(concepts.show(segmenter, images=images), path)  # type: ignore[arg-type]
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
