"""Models that run in another runtime than PyTorch, their graphs made once and kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from ovseg.errors import ModelError
from ovseg.models.model import Model
from ovseg.runtimes.encoder import EngineEncoder
from ovseg.runtimes.engines import ENGINES, choose_engine
from ovseg.runtimes.export import export_model
from ovseg.runtimes.exported import MANIFEST, Exported, read_exported

CACHE = Path.home() / ".cache" / "ovseg" / "runtimes"


def with_runtime(
    model: Model, runtime: str | Path, *, dtype: torch.dtype = torch.float32, cache: Path = CACHE
) -> Model:
    """The model with its image encoder in another runtime; words and head stay in PyTorch.

    Features differ from PyTorch's by at most a thousandth in single precision, which every export is checked for;
    lower precisions count as other features, and a bank or cache of the one is not used for the other.

    Args:
        model: on the CPU.
        runtime: "openvino", "onnx", "torch", "auto" (the first of these that is installed), or a folder that
            ``export_model`` wrote.
        dtype: what the engine computes in.
        cache: where graphs are kept; the first use of a model writes one, which takes seconds to minutes.

    Raises:
        ModelError: no such runtime, a model that is more than a function of pixels, or a folder of other weights.
        MissingDependencyError: the runtime is not installed.
    """
    if Path(runtime).is_dir():
        exported = read_exported(runtime)
        name = exported.kind
        if exported.encoder != model.outputs_digest:
            raise ModelError(
                f"'{runtime}' was exported from other weights or settings than '{model.config.name}' has here; "
                "export the model again"
            )
    else:
        name = choose_engine(str(runtime))
        if name == "torch":
            return model
        exported = _kept(model, cache / model.outputs_digest[:32])
    precision = str(dtype).removeprefix("torch.")
    engine = ENGINES[name](exported.path("image"), precision=precision)
    weights = {**model.weights, "runtime": name}
    lowest = exported.precision if exported.precision != "float32" else precision
    if lowest != "float32":
        weights["image"] = f"{lowest}-{weights['image']}"
    outputs = tuple(exported.content["graphs"]["image"]["outputs"])
    return replace(model, image=EngineEncoder(engine, model.image.spec, outputs), weights=weights)


def _kept(model: Model, folder: Path) -> Exported:
    """The export in the cache, made where it is missing or damaged."""
    if (folder / MANIFEST).is_file():
        try:
            return read_exported(folder)
        except ModelError:
            pass  # half gone, or of an earlier version: made anew
    return export_model(model, folder, only_images=True)
