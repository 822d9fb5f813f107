"""Images in and out: decoding to upright RGB, preparing pixels for an encoder, restoring maps to image size.

Sizes are always (H, W), height first.
"""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from ovseg.errors import ImageError
from ovseg.images.arrays import array_to_rgb, is_tensor, tensor_to_array
from ovseg.images.depth import is_wide_colour, refuse_lost_colour, stated_white, wide_to_grey
from ovseg.images.find import refuse_address
from ovseg.images.foreign import RAW_SUFFIXES, foreign_format
from ovseg.images.web import fetch, is_address

ImageSource: TypeAlias = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | npt.NDArray[Any]


_DNG_VERSION = 50706  # a tag of raw files, which are TIFF files with a small preview
# Pillow's size limit and Python's warning filters belong to the process: one thread changes them at a time.
_PILLOW_LOCK = threading.RLock()


def load_image(source: ImageSource, *, max_pixels: int = 200_000_000) -> npt.NDArray[np.uint8]:
    """The image as upright 8-bit RGB, whatever its file format or mode.

    The EXIF orientation is applied, transparency is laid over white. 16-bit grey is scaled by what the file states
    (TIFF: BitsPerSample, MaxSampleValue; PNG: sBIT), or else by its range where all values lie below 4096, or else
    by 65535. Of an animation the first frame is taken.

    Args:
        source: path, http(s) address (fetched as ``web.fetch`` does), encoded bytes, binary stream, PIL image; an
            array (H, W, 3), (H, W, 4) or (H, W) or a torch tensor (3, H, W), uint8 or floats in [0, 1].
        max_pixels: larger images are refused before they are decoded.

    Returns:
        (H, W, 3) uint8 in [0, 255], C-contiguous.

    Raises:
        ImageError: the source is missing, damaged, too large, or of a kind that has no 8-bit meaning.
    """
    if is_tensor(source):
        return array_to_rgb(tensor_to_array(source))
    if isinstance(source, np.ndarray):
        return array_to_rgb(source)
    if isinstance(source, Image.Image):
        return _decode(source, name="the PIL image", max_pixels=max_pixels)
    if isinstance(source, str) and is_address(source):
        return _load_bytes(fetch(source), name=f"'{source}'", max_pixels=max_pixels)
    if isinstance(source, str | os.PathLike):
        return _load_file(source, max_pixels=max_pixels)
    if isinstance(source, bytes | bytearray | memoryview):
        return _load_bytes(bytes(source), name="the image bytes", max_pixels=max_pixels)
    if hasattr(source, "read"):
        name = f"'{getattr(source, 'name', 'the image stream')}'"
        return _load_bytes(source.read(), name=name, max_pixels=max_pixels)
    raise ImageError(
        f"an image must be a path, an address, bytes, a binary stream, a PIL image, an array or a tensor, "
        f"got {type(source).__name__}; convert it to one of these"
    )


def _load_file(source: str | os.PathLike[str], *, max_pixels: int) -> npt.NDArray[np.uint8]:
    refuse_address(source)
    path = Path(source)
    try:
        if path.stat().st_size == 0:
            raise ImageError(f"expected an image, but '{path}' is empty (0 bytes); fetch the file again")
        with open(path, "rb") as stream:
            return _open_and_decode(stream, name=f"'{path}'", max_pixels=max_pixels)
    except FileNotFoundError as error:
        raise ImageError(f"no image file '{path}'; check the path") from error
    except IsADirectoryError as error:
        raise ImageError(f"expected an image file, but '{path}' is a folder; give a file in it") from error
    except OSError as error:
        raise ImageError(f"cannot read '{path}': {error.strerror}; check its name and permissions") from error


def _load_bytes(data: bytes, *, name: str, max_pixels: int) -> npt.NDArray[np.uint8]:
    if not isinstance(data, bytes):
        raise ImageError(f"{name} must be opened in binary mode, got text; open it with mode 'rb'")
    if not data:
        raise ImageError(f"expected an image, but {name} is empty (0 bytes); is a stream at its end?")
    return _open_and_decode(io.BytesIO(data), name=name, max_pixels=max_pixels)


def _open_and_decode(stream: BinaryIO, *, name: str, max_pixels: int) -> npt.NDArray[np.uint8]:
    suffix = Path(name.strip("'")).suffix.lower()
    try:
        with quiet_pillow():
            image = Image.open(stream)
    except Exception as error:  # Pillow's parsers raise almost anything on damaged headers
        stream.seek(0)
        raise ImageError(_why_unread(stream.read(64), suffix, name=name)) from error
    with image:
        if image.format == "TIFF" and (suffix in RAW_SUFFIXES or _DNG_VERSION in getattr(image, "tag_v2", ())):
            raise ImageError(_why_unread(b"", ".dng", name=name))
        return _decode(image, name=name, max_pixels=max_pixels, stream=stream)


def _why_unread(head: bytes, suffix: str, *, name: str) -> str:
    known = foreign_format(head, suffix)
    if known is not None:
        return f"expected an image that Pillow reads, but {name} is {known.name}; {known.advice}"
    begins = f"{name} begins with {head[:8]!r}"
    return f"expected an image, but {begins}, which Pillow cannot read; convert it to JPEG or PNG"


def _decode(
    image: Image.Image, *, name: str, max_pixels: int, stream: BinaryIO | None = None
) -> npt.NDArray[np.uint8]:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            f"{name} has {width} x {height} pixels, more than the limit of {max_pixels}; shrink it, "
            f"or raise the limit with max_pixels={width * height} (--max-pixels on the command line)"
        )
    if width * height == 0:
        raise ImageError(f"{name} must have at least one pixel, got {width} x {height}")
    try:
        white, wide = stated_white(image, stream), is_wide_colour(image)
        if getattr(image, "format", None) == "TIFF":  # the one format that warns and checks sizes late
            with quiet_pillow():
                image.load()
        image.load()
        rgb = np.array(_to_rgb(_upright(image), white=white, name=name))
        if wide:
            refuse_lost_colour(rgb, name=name)
    except ImageError:
        raise
    except Exception as error:  # as above: decoders of damaged data raise almost anything
        raise ImageError(f"{name} is cut off or damaged ({error}); fetch the file again") from error
    return rgb


def _upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says; unreadable EXIF data counts as none."""
    try:
        with quiet_pillow():
            return ImageOps.exif_transpose(image)
    except Exception:  # the pixels are sound, whatever is wrong with their annotations
        return image


def _to_rgb(image: Image.Image, *, white: int | None, name: str) -> Image.Image:
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(opaque, image.convert("RGBA")).convert("RGB")
    if image.mode.startswith("I"):
        return Image.fromarray(wide_to_grey(np.asarray(image), white=white, name=name)).convert("RGB")
    if image.mode == "F":
        raise ImageError(
            f"{name} must hold whole numbers, got 32-bit floats, whose range is not known; "
            f"scale it to 0..255 and save it as 8-bit PNG"
        )
    return image.convert("RGB")


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Neither warnings nor Pillow's own size limit while a file is opened; both are put back."""
    with _PILLOW_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit
