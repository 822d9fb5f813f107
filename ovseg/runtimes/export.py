"""Graphs written to files, and checked against the networks that they were made from."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ovseg._version import __version__
from ovseg.errors import ConfigError, ModelError, require
from ovseg.files import renewed_folder, sha256_of, write_json
from ovseg.models.model import Model
from ovseg.runtimes.engines import ENGINES
from ovseg.runtimes.exported import FORMAT, FORMATS, MANIFEST, Exported, file_of, files_of, read_exported
from ovseg.runtimes.graphs import Graph, graphs_of, image_graph, run

TOLERANCE = 1e-3  # largest difference from PyTorch in single precision
_OPSET = 17


def export_model(
    model: Model,
    folder: str | Path,
    *,
    kind: str = "onnx",
    only_images: bool = False,
    templates: Sequence[str] = (),
) -> Exported:
    """Write the graphs of a model into a folder, each checked on inputs of other sizes than it was traced with.

    Args:
        model: on the CPU, in single precision.
        folder: new, or of an earlier export, which is replaced as a whole.
        kind: "onnx" or "openvino".
        only_images: leave out the graphs "text" and "head".
        templates: prompt templates, told in the folder's JSON for those who encode words themselves.

    Raises:
        ModelError: a part of the model is more than a function of tensors, or a graph gives other numbers.
        MissingDependencyError: the extra ``onnx`` or ``openvino`` is not installed.
        OutputError: the folder cannot be written.
    """
    if kind not in FORMATS:
        raise ConfigError(f"expected the format {' or '.join(FORMATS)}, got '{kind}'; choose one")
    require("onnx", extra="onnx")
    graphs = {"image": image_graph(model)} if only_images else graphs_of(model)
    with renewed_folder(Path(folder), marker=MANIFEST) as new, _plain_attention():
        told = {name: _write(name, graph, new, kind) for name, graph in graphs.items()}
        content = _manifest(model, told, kind=kind, templates=templates)
        write_json(new / MANIFEST, content)
    return read_exported(folder)


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Attention of transformer layers in single operations; fused ones have no counterpart in ONNX."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _write(name: str, graph: Graph, folder: Path, kind: str) -> dict[str, Any]:
    """Write one graph by the quick exporter, or by the thorough one where a size was taken for a constant."""
    differences: list[float] = []
    for trace in (_trace, _trace_symbols):
        try:
            trace(graph, folder / f"{name}.onnx")
            if kind == "openvino":
                _convert(folder / f"{name}.onnx")
            differences = _differences(graph, folder / file_of(name, kind), kind)
        except (ModelError, RuntimeError, ValueError) as error:
            reason = error
            continue
        if max(differences) <= TOLERANCE:
            break
    if not differences:
        raise ModelError(f"the graph '{name}' cannot be written: {' '.join(str(reason).split())[:200]}") from reason
    if not max(differences) <= TOLERANCE:
        raise ModelError(
            f"the graph '{name}' must give PyTorch's numbers within {TOLERANCE}, got a difference of "
            f"{max(differences):.2g}; nothing was written"
        )
    if kind == "openvino":
        (folder / f"{name}.onnx").unlink()
    return {
        "inputs": {each: graph.axes.get(each, {}) for each in graph.inputs},
        "outputs": list(graph.outputs),
        "multiple": graph.multiple,
        "largest_difference": max(differences),
        "sha256": {file: sha256_of(folder / file) for file in files_of(name, kind)},
    }


def _trace(graph: Graph, path: Path) -> None:
    """Follow one call: seconds, and right where no size decides what is computed."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # it warns of every size in Python; what they do is checked
        torch.onnx.export(
            graph.module,
            graph.make(0),
            path,
            dynamo=False,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_axes=graph.axes,
            opset_version=_OPSET,
        )


def _trace_symbols(graph: Graph, path: Path) -> None:
    """Follow one call with symbols in place of sizes: minutes."""
    require("onnxscript", extra="onnx")
    dims: dict[str, Any] = {}
    shapes = tuple(
        {place: _dim(dims, axis, graph.multiple) for place, axis in graph.axes.get(name, {}).items()}
        for name in graph.inputs
    )
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph.module,
            graph.make(0),
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            verbose=False,
        )
        assert program is not None
        program.save(str(path))


def _dim(dims: dict[str, Any], axis: str, multiple: int) -> Any:
    if axis not in dims:
        free = torch.export.Dim(axis, min=1, max=1 << 12)
        dims[axis] = multiple * free if axis in ("height", "width") and multiple > 1 else free
    return dims[axis]


def _convert(path: Path) -> None:
    runtime = require("openvino", extra="openvino")
    runtime.save_model(runtime.convert_model(str(path)), str(path.with_suffix(".xml")), compress_to_fp16=False)


def _differences(graph: Graph, path: Path, kind: str) -> list[float]:
    """Largest difference of each output from PyTorch's, for two further inputs of other sizes."""
    engine = ENGINES[kind](path)
    found = []
    for number in (1, 2):
        inputs = graph.make(number)
        expected = run(graph, inputs)
        for ours, theirs in zip(engine.run([each.numpy() for each in inputs]), expected, strict=True):
            if ours.shape != tuple(theirs.shape):
                raise ModelError(f"got the shape {ours.shape}, expected {tuple(theirs.shape)}")
            found.append(float(np.abs(ours - theirs.numpy()).max()))
    return found


def _manifest(
    model: Model, graphs: dict[str, dict[str, Any]], *, kind: str, templates: Sequence[str]
) -> dict[str, Any]:
    spec, config = model.image.spec, model.config
    sizes = config.input
    return {
        "format": FORMAT,
        "model": config.name,
        "kind": kind,
        "precision": "float32",
        "made_by": f"ovseg {__version__}",
        "encoder": model.outputs_digest,
        "license": config.license,
        "preprocessing": {
            "mean": spec.mean,
            "std": spec.std,
            "interpolation": sizes.resampling or spec.interpolation,
            "multiple": spec.granularity,
            "size": spec.size,
            "short_side": sizes.short_side,
            "max_long_side": sizes.max_long_side,
            "window": sizes.window,
        },
        "features": {"space": spec.space, "channels": spec.channels, "stride": spec.stride},
        "text": {
            "space": model.head.text_space,
            "templates": list(templates),
            "vector": "the unit mean over the templates of the unit vectors that the graph 'text' gives",
        },
        "logits": "the graph 'head' compares; the softmax over phrases is the probability at each cell",
        "graphs": graphs,
    }
