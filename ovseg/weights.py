"""Weights on disk: safetensors with a checksum, optionally 8-bit with a scale per output row."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ovseg.errors import ModelError
from ovseg.files import atomic_path, sha256_of

ModuleT = TypeVar("ModuleT", bound=torch.nn.Module)

_SCALE = ".row_scale"


def quantize_rows(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """8-bit rows and their scales: ``tensor ≈ rows * scale``.

    Args:
        tensor: (rows, …) float.

    Returns:
        int8 of the same shape in [-127, 127], and (rows,) float32 scales.
    """
    flat = tensor.detach().float().flatten(1)
    scale = flat.abs().amax(1).clamp_min(1e-12) / 127
    return (flat / scale[:, None]).round().to(torch.int8).view(tensor.shape), scale


def save_weights(
    tensors: dict[str, Tensor], path: str | Path, *, metadata: dict[str, str] | None = None, bits: int = 16
) -> str:
    """Write tensors as safetensors and return the file's SHA-256.

    Args:
        tensors: by name; whole numbers are kept as they are.
        path: target file.
        metadata: strings kept in the file's header.
        bits: 32, 16 (half precision) or 8 (matrices by row, the rest in half precision).
    """
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        value = tensor.detach().cpu()
        if not value.is_floating_point():
            stored[name] = value
        elif bits == 8 and value.ndim >= 2:
            stored[name], stored[name + _SCALE] = quantize_rows(value)
        else:
            stored[name] = value.to(torch.float32 if bits == 32 else torch.float16)
    with atomic_path(path) as temporary:
        save_file({key: value.contiguous() for key, value in stored.items()}, temporary, metadata or {})
    return sha256_of(path)


def check_sum(path: str | Path, expected: str | None) -> str:
    """SHA-256 of a weights file; must be ``expected`` unless that is None.

    Raises:
        ModelError: the file is missing or differs.
    """
    path = _existing(path)
    digest = sha256_of(path)
    if expected is not None and digest != expected:
        raise ModelError(
            f"weights file '{path.name}' is damaged or not the published one: expected SHA-256 {expected[:12]}…, "
            f"got {digest[:12]}…; copy it again, or install the package again if it is one of its files"
        )
    return digest


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise ModelError(
            f"no weights file '{path}'; check the path, or install the package again if it is one of its files"
        )
    return path


def load_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors in float32 and the header's strings.

    Args:
        path: a safetensors file.

    Raises:
        ModelError: the file is missing or damaged.
    """
    path = _existing(path)
    try:
        with safe_open(path, framework="pt") as file:
            raw = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise ModelError(f"weights file '{path}' is not a whole safetensors file: {error}") from error
    tensors = {key: value for key, value in raw.items() if not key.endswith(_SCALE)}
    for key, value in tensors.items():
        if key + _SCALE in raw:
            scale = raw[key + _SCALE].view(-1, *[1] * (value.ndim - 1))
            tensors[key] = value.float() * scale
        elif value.is_floating_point():
            tensors[key] = value.float()
    return tensors, metadata


def load_module(module: torch.nn.Module, tensors: dict[str, Tensor], *, source: str) -> None:
    """Fill ``module`` with ``tensors``; every name and shape must match.

    Raises:
        ModelError: names what is missing, unexpected or of another shape.
    """
    try:
        module.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{source} does not hold the weights of {type(module).__name__}: {reason}") from error


def fill_module(module: ModuleT, path: str | Path) -> ModuleT:
    """``module`` with the weights of a safetensors file.

    Raises:
        ModelError: the file is missing or damaged, or see ``load_module``.
    """
    tensors, _ = load_weights(path)
    load_module(module, tensors, source=str(path))
    return module


def freeze(module: ModuleT) -> ModuleT:
    """``module`` in eval mode with no parameter that takes a gradient."""
    return module.eval().requires_grad_(False)
