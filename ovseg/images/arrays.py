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
    try:
        tensor = tensor.detach().cpu()
        array: npt.NDArray[Any] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    except (NotImplementedError, RuntimeError, TypeError) as error:  # without values, sparse, of a type NumPy lacks
        raise ImageError(
            f"an image tensor must have plain values, got {tensor.layout} {tensor.dtype} on {tensor.device}; make "
            "it a dense tensor on a device"
        ) from error
    if array.ndim == 2:
        return array
    if array.ndim == 3 and reading is not None and reading.bands is not None and array.shape[0] != array.shape[2]:
        return array.transpose(1, 2, 0) if array.shape[0] < array.shape[2] else array
    channels = {1, 3, 4}
    first, last = (array.ndim == 3 and array.shape[axis] in channels for axis in (0, 2))
    if first == last:
        raise ImageError(
            f"an image tensor must be (3, H, W) or (H, W, 3), got {tuple(array.shape)}; {_tensor_hint(array.shape)}"
        )
    return array.transpose(1, 2, 0) if first else array


def _tensor_hint(shape: tuple[int, ...]) -> str:
    if len(shape) == 4:
        return "pass one image at a time, such as tensor[0]" + (", or segment_batch(tensor)" * (shape[0] > 1))
    if len(shape) == 3 and shape[0] in {1, 3, 4}:
        return "both ends could be channels: pass an (H, W, 3) NumPy array"
    return "choose three of its bands with bands=(3, 2, 1)" if len(shape) == 3 else "reshape it"


def array_to_rgb(array: npt.NDArray[Any], reading: Reading | None = None) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8 of an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4): uint8, or floats in [0, 1].

    Grey is repeated, and what is transparent (the fourth channel) is laid over white. With a range in ``reading``
    any numbers are taken, with bands any (H, W, C); then nothing is opacity.

    Raises:
        ImageError: another shape, dtype or range; what to do is said.
    """
    if reading is not None and reading.says and not np.ma.is_masked(array):
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
    if np.issubdtype(array.dtype, np.floating) and np.isnan(array).any():
        raise ImageError("an image array must have numbers, got NaN; convert it with np.nan_to_num(image)")
    return samples.to_rgb(reading, name="the array")[0]


def _check(array: npt.NDArray[Any]) -> None:
    expected = "an image array must be (H, W, 3), (H, W, 4) or (H, W), uint8 or floats in [0, 1]"
    got = f"{array.shape} {array.dtype}"
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in {1, 3, 4})):
        raise ImageError(f"{expected}, got {got}; convert it{_shape_hint(array.shape)}")
    if np.ma.is_masked(array):
        raise ImageError(f"{expected}, got {got} with masked values; convert it with image.filled(0)")
    if np.issubdtype(array.dtype, np.floating):
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):  # also for NaN
            raise ImageError(f"{expected}, got {got} from {low:g} to {high:g}; {_range_hint(low, high)}")
    elif array.dtype != np.uint8:
        raise ImageError(f"{expected}, got {got}; convert it{_dtype_hint(array)}")


def _shape_hint(shape: tuple[int, ...]) -> str:
    """How an array of another shape becomes an image; the end of "convert it"."""
    if 0 in shape:
        return ": it is empty"
    if len(shape) == 4:
        first = "such as images[0]" if shape[0] > 1 else "image[0]"
        return f" to single images, {first}{'' if shape[3] in {1, 3, 4} else ', and transpose(1, 2, 0)'}"
    if len(shape) == 3 and shape[0] == 1:
        return " with image[0]"
    if len(shape) == 3 and (shape[0] in {3, 4} or shape[0] < min(shape[1:])):
        return " with image.transpose(1, 2, 0)"
    return ", or choose three of its bands with bands=(3, 2, 1)" if len(shape) == 3 else ""


def _range_hint(low: float, high: float) -> str:
    if np.isnan(low):
        return "convert it with np.nan_to_num(image)"
    if low < 0:
        return f"convert it: undo the normalization, or say value_range=({low:g}, {high:g})"
    white = "(image / 255) where 255 is white" if high <= 255 else f"(image / {high:g}) where that is white"
    return f"convert it: {white}, or say value_range=(0, {255 if high <= 255 else high:g})"


def _dtype_hint(array: npt.NDArray[Any]) -> str:
    if array.dtype == np.bool_:
        return " with image.astype('uint8') * 255"
    if array.dtype == np.uint16:
        return " with (image / 65535) where that is white, or say value_range=(0, 65535)"
    if not np.issubdtype(array.dtype, np.integer):
        return " to numbers"
    low, high = int(array.min()), int(array.max())
    if low >= 0 and high <= 255:
        return " with image.astype('uint8') where 255 is white"
    return f", or say which values are black and white with value_range=({low}, {high})"
