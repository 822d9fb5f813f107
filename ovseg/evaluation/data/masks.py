"""Reading an image and its mask of ids, exactly as the data set wrote them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ovseg.errors import DatasetError, ImageError
from ovseg.evaluation.data.protocol import UNKNOWN, Protocol
from ovseg.images.load import load_image

INDEX_MODES = {"L", "P", "1", "I", "I;16", "I;16B", "I;16L"}


def read_image(path: Path) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB, upright.

    Raises:
        DatasetError: the file is missing, cut off or no image.
    """
    try:
        return load_image(path)
    except ImageError as error:
        raise DatasetError(f"cannot read the image: {error}") from error


def read_mask(path: Path, *, decode: str = "index") -> NDArray[np.int32]:
    """(H, W) int32 of ids in [0, 65535].

    Args:
        path: the mask file.
        decode: ``index``: single channel (a palette's indices, not its colours). ``red``: the red channel of
            an RGB file. ``ade-full``: R // 10 * 256 + G. ``binary``: 1 where above half.
            ``painted``: 1 where not black, in whatever colour. ``mat``: ``LabelMap`` of a MATLAB file.

    Raises:
        DatasetError: the file is missing or damaged, or is not of that kind.
    """
    if decode == "mat":
        return _read_mat(path)
    try:
        with Image.open(path) as opened:
            mode, values = opened.mode, np.asarray(opened)
    except Exception as error:  # Pillow's parsers raise almost anything on damaged files
        raise DatasetError(f"cannot read the mask '{path}': {error}; fetch the file again") from error
    if decode == "binary":
        channel = values if values.ndim == 2 else values[..., 0]
        return (channel > (0 if mode in {"1", "P"} else 127)).astype(np.int32)
    if decode == "painted":
        return np.asarray(values if values.ndim == 2 else values[..., :3].any(2)).astype(bool).astype(np.int32)
    if decode in {"red", "ade-full"}:
        if values.ndim != 3:
            raise DatasetError(f"the mask '{path}' must be an RGB file, got mode {mode}; see the protocol's layout")
        colours = values.astype(np.int32)
        return colours[..., 0] if decode == "red" else colours[..., 0] // 10 * 256 + colours[..., 1]
    if mode not in INDEX_MODES:
        raise DatasetError(
            f"the mask '{path}' must be a single-channel file of ids, got mode {mode} (colours); "
            "if it was a palette PNG that something converted to RGB, take the original file"
        )
    return values.astype(np.int32)


def to_classes(
    ids: NDArray[np.int32], lookup: NDArray[np.int32], *, protocol: Protocol, path: str
) -> NDArray[np.int32]:
    """(H, W) int32 class indices, -1 where ignored.

    Args:
        ids: (H, W) values of a mask.
        lookup: (65536,) from id to class index, as ``Protocol.lookup`` gives it.
        protocol: named in the error.
        path: the mask's file, for the error.

    Raises:
        DatasetError: the mask holds an id that the protocol does not know.
    """
    if ids.size and (ids.min() < 0 or ids.max() >= len(lookup)):
        raise DatasetError(f"the mask '{path}' holds values outside [0, {len(lookup)}); is it a mask of ids?")
    classes = lookup[ids]
    if classes.size and classes.min() == UNKNOWN:
        strange = np.unique(ids[classes == UNKNOWN])
        raise DatasetError(
            f"the mask '{path}' holds ids that protocol '{protocol.name}' does not know: "
            f"{', '.join(map(str, strange[:8]))}; list them under classes or ignore, or check the data"
            + _shift_hint(strange.tolist(), protocol)
        )
    return classes


def _shift_hint(strange: list[int], protocol: Protocol) -> str:
    """What to think of where the only unknown id is one above the last class."""
    known = [value for entry in protocol.classes for value in entry.ids]
    if not known or strange != [max(known) + 1]:
        return ""
    return (
        f" (the classes have ids {min(known)} to {max(known)}: are the masks' ids shifted by one? they should "
        f"begin at {min(known)})"
    )


def _read_mat(path: Path) -> NDArray[np.int32]:
    from scipy.io import loadmat

    try:
        return np.asarray(loadmat(path)["LabelMap"]).astype(np.int32)
    except (OSError, ValueError, KeyError, NotImplementedError) as error:
        raise DatasetError(f"cannot read 'LabelMap' from '{path}': {error}; fetch the file again") from error
