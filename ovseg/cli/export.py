"""``ovseg export``: a model as graphs that other programs run."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovseg.cli.options import Weights
from ovseg.cli.output import echo

if TYPE_CHECKING:
    from ovseg.pipeline.segmenter import Segmenter
    from ovseg.vocabulary.labels import Vocabulary


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
    weights: Weights = None,
    words: Annotated[
        str | None, typer.Option(help="Labels with commas between, whose vectors words.json then holds.")
    ] = None,
) -> None:
    """Write image encoder, text encoder and head of a model as graphs of any image size and any words.

    The text vectors are an input of the head, so the vocabulary stays open. Each graph is checked against PyTorch
    on other sizes; model.json beside them says how photos and words are prepared, and the licence. With --words,
    words.json has the vectors of labels, and of the everyday things that compete with them, for the graph "head".

    Example: ovseg export mini --format openvino --out exported/mini
    """
    import ovseg
    from ovseg.files import write_json
    from ovseg.runtimes import export_model
    from ovseg.vocabulary.labels import Vocabulary, split_labels

    vocabulary = None if words is None else Vocabulary.of(split_labels(words), background="auto")
    segmenter = ovseg.load(model, device="cpu", dtype="float32", weights=weights)
    made = export_model(segmenter.model, out, kind=kind.value, templates=segmenter.wording.templates.templates)
    if vocabulary is not None:
        write_json(out / "words.json", _vectors(segmenter, vocabulary))
    worst = max(graph["largest_difference"] for graph in made.content["graphs"].values())
    echo(f"{out}: {', '.join(made.content['graphs'])} as {kind.value}, at most {worst:.1g} from PyTorch's numbers")


def _vectors(segmenter: Segmenter, vocabulary: Vocabulary) -> dict[str, Any]:
    """The labels, and for each phrase its vector and its label's number, −1 for what is none of them."""
    from ovseg.pipeline.queries import encode_phrases, phrases_of

    phrases, owner = phrases_of(vocabulary)
    vectors = encode_phrases(phrases, segmenter.wording.templates, segmenter.model.text().encode)
    label_of = [number if number < len(vocabulary) else -1 for number in owner]
    return {"labels": vocabulary.labels, "phrases": phrases, "label_of": label_of, "vectors": vectors.tolist()}
