"""``ovseg.load``: a segmenter by the name of its model file."""

from __future__ import annotations

from pathlib import Path

from ovseg.encoders.compiled import compile_blocks
from ovseg.encoders.spec import choose_device, choose_dtype
from ovseg.models.build import build_model
from ovseg.models.config import read_model_config
from ovseg.pipeline.segmenter import Segmenter
from ovseg.pipeline.text_cache import DEFAULT_FOLDER


def load(
    name: str = "mini",
    *,
    device: str = "auto",
    dtype: str = "auto",
    weights: str | Path | None = None,
    cache: str | Path | None = None,
    compile: bool = False,
) -> Segmenter:
    """A segmenter by the name of its model file.

    Args:
        name: one of ``ovseg.list_models()``, or the path of a model's YAML file.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        dtype: "auto", "float32", "bfloat16", "float16".
        weights: folder with the weights, in place of the package's or the hub's.
        cache: folder for text vectors; None takes ``~/.cache/ovseg/text``.
        compile: run transformer blocks through ``torch.compile``; the first image waits for the compiler.

    Raises:
        ModelError: unknown model, missing or damaged weights, no such device, or nothing to compile or with.
    """
    config = read_model_config(name)
    chosen = choose_device(device)
    model = build_model(
        config,
        device=chosen,
        dtype=choose_dtype(dtype, chosen),
        weights=Path(weights) if weights is not None else None,
    )
    if compile:
        compile_blocks(model.image, device=chosen)
    return Segmenter(model, device=chosen, cache=DEFAULT_FOLDER if cache is None else Path(cache))
