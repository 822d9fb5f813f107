"""``ovseg export``: a model as graphs that other programs run."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ovseg.cli.output import echo


class Kind(StrEnum):
    """Formats that a model is exported to."""

    onnx = "onnx"
    openvino = "openvino"


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(export)


def export(
    model: Annotated[str, typer.Argument(help="A name from 'ovseg models', or a model's YAML file.")],
    out: Annotated[Path, typer.Option(help="Folder for the graphs.")],
    kind: Annotated[Kind, typer.Option("--format", help="Of the graphs.")] = Kind.onnx,
    weights: Annotated[Path | None, typer.Option(help="Folder with the model's weights.")] = None,
) -> None:
    """Write image encoder, text encoder and head of a model as graphs of any image size and any words.

    The text vectors are an input of the head, so the vocabulary stays open. Each graph is checked against PyTorch
    on other sizes; model.json beside them says how photos and words are prepared, and the licence.

    Example: ovseg export mini --format openvino --out exported/mini
    """
    import ovseg
    from ovseg.runtimes import export_model

    segmenter = ovseg.load(model, device="cpu", dtype="float32", weights=weights)
    made = export_model(segmenter.model, out, kind=kind.value, templates=segmenter.templates.templates)
    worst = max(graph["largest_difference"] for graph in made.content["graphs"].values())
    echo(f"{out}: {', '.join(made.content['graphs'])} as {kind.value}, at most {worst:.1g} from PyTorch's numbers")
