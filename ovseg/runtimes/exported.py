"""The folder that an export writes: graphs, and a JSON file that says what they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovseg.errors import ModelError
from ovseg.files import read_json, sha256_of

FORMAT = "ovseg-export-2"
MANIFEST = "model.json"
FORMATS = ("onnx", "openvino")
_SUFFIXES = {"onnx": ".onnx", "openvino": ".xml"}


@dataclass(frozen=True)
class Exported:
    """An exported model, checked against its checksums.

    Attributes:
        folder: where it lies.
        model: name of the model.
        kind: "onnx" or "openvino".
        precision: "float32" or "int8".
        encoder: digest of the encoder that "image" was made from; see ``Model.outputs_digest``.
        content: all that the JSON file says.
    """

    folder: Path
    model: str
    kind: str
    precision: str
    encoder: str
    content: dict[str, Any]

    def path(self, graph: str) -> Path:
        """The file of a graph: "image", "text" or "head".

        Raises:
            ModelError: the folder has no such graph.
        """
        if graph not in self.content["graphs"]:
            raise ModelError(f"'{self.folder}' has no graph '{graph}'; export the model again")
        return self.folder / file_of(graph, self.kind)


def file_of(graph: str, kind: str) -> str:
    """Name of the file of a graph; OpenVINO's has its weights beside it, with the ending ``.bin``."""
    return graph + _SUFFIXES[kind]


def files_of(graph: str, kind: str) -> tuple[str, ...]:
    """Names of all files of a graph."""
    return (f"{graph}.xml", f"{graph}.bin") if kind == "openvino" else (f"{graph}.onnx",)


def read_exported(folder: str | Path) -> Exported:
    """The exported model in ``folder``, every file of it checked.

    Raises:
        ModelError: the folder holds none, one of another version, or files that are missing or changed.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.is_file():
        raise ModelError(f"expected a folder that 'ovseg export' wrote, got '{folder}' without '{MANIFEST}'")
    content = read_json(path, what="exported model", advice="export the model again", error=ModelError)
    stated = content.get("format") if isinstance(content, dict) else None
    if stated != FORMAT:
        raise ModelError(f"'{path}' must be of the format '{FORMAT}', got '{stated}'; export the model again")
    try:
        found = Exported(
            folder, content["model"], content["kind"], content["precision"], content["encoder"], content
        )
        files = {name: mark for graph in content["graphs"].values() for name, mark in graph["sha256"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"'{path}' does not say all of a model ({error!r:.60}); export the model again") from error
    for name, mark in files.items():
        if Path(name).name != name:
            raise ModelError(f"'{path}' names a file outside its folder, '{name}'; export the model again")
        _check_file(folder / name, mark)
    return found


def _check_file(path: Path, mark: str) -> None:
    if not path.is_file():
        raise ModelError(f"the graph '{path}' is missing; export the model again")
    if sha256_of(path) != mark:
        raise ModelError(f"the graph '{path}' is not the one that was exported; export the model again")
