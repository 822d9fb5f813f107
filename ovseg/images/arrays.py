"""Arrays and tensors as images."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ovseg.errors import ImageError
from ovseg.images.reading import Reading
from ovseg.images.samples import Samples


def is_tensor(source: Any) -> bool:
    """Whether this is a torch tensor; torch itself is not imported for it."""
    return type(source).__module__.partition(".")[0] == "torch" and hasattr(source, "detach")


def tensor_to_array(tensor: Any, reading: Reading | None = None) -> npt.NDArray[Any]:
    """The (H, W, C) or (H, W) array of a tensor of one image, (C, H, W), (H, W, C) or (H, W).

    With ``bands`` in ``reading`` the channels are the first or the last axis, whichever is shorter.

    Raises:
        ImageError: the channels may be the first or the last of its axes, or neither.
    """
    tensor = tensor.detach().cpu()
    array: npt.NDArray[Any] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    if array.ndim == 2:
        return array
    if array.ndim == 3 and reading is not None and reading.bands is not None and array.shape[0] != array.shape[2]:
        return array.transpose(1, 2, 0) if array.shape[0] < array.shape[2] else array
    channels = {1, 3, 4}
    first, last = (array.ndim == 3 and array.shape[axis] in channels for axis in (0, 2))
    if first == last:
        raise ImageError(
            f"an image tensor must be (3, H, W) or (H, W, 3), got {tuple(array.shape)}; pass one image at a time, "
            "and where both ends could be channels, an (H, W, 3) NumPy array"
        )
    return array.transpose(1, 2, 0) if first else array


def array_to_rgb(array: npt.NDArray[Any], reading: Reading | None = None) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8 of an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4): uint8, or floats in [0, 1].

    Grey is repeated, and what is transparent (the fourth channel) is laid over white. With a range in ``reading``
    any numbers are taken, with bands any (H, W, C); then nothing is opacity.

    Raises:
        ImageError: another shape, dtype or range; what to do is said.
    """
    if reading is not None and reading.says:
        array = _chosen(array, reading)
    _check(array)
    values = array if array.dtype == np.uint8 else (255.0 * array.astype(np.float64)).round().astype(np.uint8)
    if values.ndim == 2:
        values = values[:, :, None]
    if values.shape[2] == 1:
        values = np.repeat(values, 3, axis=2)
    if values.shape[2] == 4:
        opacity = values[:, :, 3:].astype(np.int64)
        values = (values[:, :, :3] * opacity + 255 * (255 - opacity) + 127) // 255
    return np.ascontiguousarray(values, dtype=np.uint8)


def _chosen(array: npt.NDArray[Any], reading: Reading) -> npt.NDArray[Any]:
    """The bands (H, W, 1 or 3) that are shown; as uint8 where there is a range."""
    numbers = array.dtype == np.bool_ or (np.issubdtype(array.dtype, np.number) and array.dtype.kind != "c")
    if array.ndim not in {2, 3} or array.size == 0 or not numbers:
        raise ImageError(f"an image array must be (H, W, C) or (H, W) of numbers, got {array.shape} {array.dtype}")
    values = array.reshape(*array.shape[:2], -1)
    if values.shape[2] > max(4, min(values.shape[:2])):
        raise ImageError(
            f"the bands of an image array must be its last axis, (H, W, C), got {array.shape}; convert it with "
            "image.transpose(1, 2, 0)"
        )
    samples = Samples(values, colours=values.shape[2] == 3)
    if reading.value_range is None:
        return samples.chosen(reading, name="the array")
    return samples.to_rgb(reading, name="the array")[0]


def _check(array: npt.NDArray[Any]) -> None:
    expected = "an image array must be (H, W, 3), (H, W, 4) or (H, W), uint8 or floats in [0, 1]"
    got = f"{array.shape} {array.dtype}"
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in {1, 3, 4})):
        hint = "convert it"
        if array.ndim == 3 and array.shape[0] in {1, 3, 4}:
            hint = "convert it with image.transpose(1, 2, 0)"
        elif array.ndim == 4:
            hint = "convert it to single images, such as images[0]"
        raise ImageError(f"{expected}, got {got}; {hint}")
    if np.issubdtype(array.dtype, np.floating):
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):  # also for NaN
            raise ImageError(
                f"{expected}, got {got} from {low:g} to {high:g}; convert it: (image / 255) where 255 is white, or "
                "undo the normalization"
            )
    elif array.dtype != np.uint8:
        hint = "(image / 65535)" if array.dtype == np.uint16 else "image.astype('uint8') where 255 is white"
        raise ImageError(f"{expected}, got {got}; convert it with {hint}")
