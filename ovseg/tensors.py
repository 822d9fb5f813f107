"""Checks on tensor shapes, with messages that name the axes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovseg.errors import ShapeError

if TYPE_CHECKING:
    import torch


def check_shape(name: str, tensor: torch.Tensor, axes: str, **sizes: int) -> None:
    """Refuse a tensor whose rank or named sizes differ from ``axes``.

    Args:
        name: the argument's name, for the message.
        tensor: what came.
        axes: blank-separated axis names, such as ``"B C h w"``.
        sizes: required size of some of those axes.

    Raises:
        ShapeError: says the expected axes and the shape that came.
    """
    names = axes.split()
    wrong = tensor.ndim != len(names) or any(
        tensor.shape[names.index(axis)] != size for axis, size in sizes.items()
    )
    if wrong:
        wanted = ", ".join(f"{axis}={sizes[axis]}" if axis in sizes else axis for axis in names)
        raise ShapeError(f"{name} must be ({wanted}), got {tuple(tensor.shape)}")
