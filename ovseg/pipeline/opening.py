"""``ovseg.load``: a segmenter by the name of its model file."""

from __future__ import annotations

from pathlib import Path

import torch

from ovseg.encoders.compiled import compile_blocks
from ovseg.encoders.spec import choose_device, choose_dtype
from ovseg.errors import ModelError
from ovseg.models.build import build_model
from ovseg.models.config import read_model_config
from ovseg.pipeline.memory import Memory
from ovseg.pipeline.photos import PhotoEncoder
from ovseg.pipeline.segmenter import Segmenter
from ovseg.pipeline.text_cache import DEFAULT_FOLDER
from ovseg.runtimes.attach import with_runtime


def load(
    name: str = "mini",
    *,
    device: str = "auto",
    dtype: str = "auto",
    weights: str | Path | None = None,
    cache: str | Path | None = None,
    compile: bool = False,
    runtime: str | Path = "torch",
    max_memory: int | str | None = None,
) -> Segmenter:
    """A segmenter by the name of its model file.

    Args:
        name: one of ``ovseg.list_models()``, or the path of a model's YAML file.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        dtype: "auto", "float32", "bfloat16", "float16".
        weights: folder with the weights, in place of the package's or the hub's.
        cache: folder for text vectors; None takes ``~/.cache/ovseg/text``.
        compile: run transformer blocks through ``torch.compile``; the first image waits for the compiler.
        runtime: what computes the features on the CPU: "torch", "openvino", "onnx", "auto" (the first of OpenVINO,
            ONNX Runtime and torch that is installed; torch on a GPU), or a folder that ``ovseg export`` wrote. The
            first use of a model writes its graph to ``~/.cache/ovseg/runtimes``.
        max_memory: bytes, or text such as "1GB" or "1.5GiB", that a call may hold at its peak beyond the weights:
            photos, features, class maps, the result and the files made of it. It is an estimate, kept by doing less
            at once, with the same labels but for rounding; what cannot fit is refused before work. Photos are then
            not read ahead. Texts that are kept for the next call, a SAM other than the embedded one, and pictures
            that are read by windows are not counted. None bounds nothing.

    Raises:
        ConfigError: ``max_memory`` is no amount of memory.
        ModelError: unknown model, missing or damaged weights, no such device or runtime, nothing to compile or
            with, a model that a runtime cannot take, or one that the smallest photo needs more memory for.
        MissingDependencyError: the runtime is not installed.
    """
    config = read_model_config(name)
    chosen = _device(device, runtime)
    precision = choose_dtype(dtype, chosen)
    elsewhere = chosen.type == "cpu" and str(runtime) != "torch"
    model = build_model(
        config,
        device=chosen,
        dtype=torch.float32 if elsewhere else precision,
        weights=Path(weights) if weights is not None else None,
    )
    bound = None
    if max_memory is not None:
        bound = Memory.of(max_memory, model, PhotoEncoder(model, device=chosen).joint)
    if elsewhere:
        model = with_runtime(model, runtime, dtype=precision)
    if compile:
        compile_blocks(model.image, device=chosen)
    folder = DEFAULT_FOLDER if cache is None else Path(cache)
    return Segmenter(model, device=chosen, cache=folder, memory=bound)


def _device(name: str, runtime: str | Path) -> torch.device:
    """The device called ``name``; the CPU where a runtime other than torch is named.

    Raises:
        ModelError: there is no such device, or the runtime does not run on it.
    """
    if str(runtime) in ("torch", "auto"):
        return choose_device(name)
    device = choose_device("cpu" if name == "auto" else name)
    if device.type != "cpu":
        raise ModelError(f"runtime '{runtime}' runs on the CPU, got device '{name}'; leave one of them out")
    return device
