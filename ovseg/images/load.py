"""Images in: decoded to upright 8-bit RGB, whatever their format."""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from ovseg.errors import ImageError
from ovseg.images import tiff
from ovseg.images.arrays import array_to_rgb, is_tensor, tensor_to_array
from ovseg.images.depth import all_bands, is_wide_colour, stated_range
from ovseg.images.find import refuse_address
from ovseg.images.foreign import RAW_SUFFIXES, foreign_format
from ovseg.images.reading import MAX_PIXELS, Reading
from ovseg.images.samples import Samples, turned
from ovseg.images.web import fetch, is_address

ImageSource: TypeAlias = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | npt.NDArray[Any]


_DNG_VERSION = 50706  # a tag of raw files, which are TIFF files with a small preview
# Pillow's size limit and Python's warning filters belong to the process: one thread changes them at a time.
_PILLOW_LOCK = threading.RLock()


@dataclass(frozen=True)
class Picture:
    """A decoded image.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, upright.
        note: what was decided about its values or bands that the file leaves open; empty for nothing.
    """

    pixels: npt.NDArray[np.uint8]
    note: str = ""


def load_image(
    source: ImageSource,
    *,
    max_pixels: int = MAX_PIXELS,
    value_range: Sequence[float] | None = None,
    bands: Sequence[int] | None = None,
) -> npt.NDArray[np.uint8]:
    """The image as upright 8-bit RGB, whatever its file format or mode.

    The EXIF orientation is applied. What the file states to be opacity is laid over white; another fourth band is
    left out. More bands, whose colours are not stated, are refused by name. Values of more than 8 bits are scaled
    by what the file states (TIFF: BitsPerSample, MaxSampleValue, SMaxSampleValue; PNG: sBIT); or else by their
    range where all lie below 4096, or else by 65535; floats by 1 where all lie in [0, 1], or else by their own
    range. Of an animation the first frame is taken. ``read_image`` says what was decided.

    Args:
        source: path, http(s) address (fetched as ``web.fetch`` does), encoded bytes, binary stream, PIL image; an
            array (H, W, 3), (H, W, 4) or (H, W) or a torch tensor (3, H, W), uint8 or floats in [0, 1]; with
            ``bands`` or ``value_range`` an array (H, W, C) of any numbers.
        max_pixels: larger images are refused before they are decoded.
        value_range: the values that are black and white, such as (0, 4095).
        bands: which are red, green and blue, or the one that is grey, counted from 1, such as (3, 2, 1).

    Returns:
        (H, W, 3) uint8 in [0, 255], C-contiguous.

    Raises:
        ImageError: the source is missing, damaged, too large, or of a kind that has no 8-bit meaning.
    """
    return read_image(source, Reading.of(value_range, bands, max_pixels=max_pixels)).pixels


def read_image(source: ImageSource, reading: Reading | None = None, *, name: str | None = None) -> Picture:
    """``load_image`` with what was decided about the values.

    Args:
        source: see ``load_image``.
        reading: what the caller says about the values; None for nothing.
        name: of the image in messages, where the source's own means nothing to the user.

    Raises:
        ImageError: see ``load_image``.
    """
    reading = reading or Reading()
    if is_tensor(source):
        source = tensor_to_array(source, reading)
    if isinstance(source, np.ndarray):
        pixels = array_to_rgb(source, reading)
        if reading.check is not None:
            reading.check(name or "the image", (pixels.shape[0], pixels.shape[1]))
        return Picture(pixels)
    if isinstance(source, Image.Image):
        return _decode(source, name=name or "the PIL image", reading=reading)
    if isinstance(source, str) and is_address(source):
        return _load_bytes(fetch(source), name=f"'{source}'", reading=reading)
    if isinstance(source, str | os.PathLike):
        return _load_file(source, name=f"'{name or os.fsdecode(source)}'", reading=reading)
    if isinstance(source, bytes | bytearray | memoryview):
        return _load_bytes(bytes(source), name=name or "the image bytes", reading=reading)
    if hasattr(source, "read"):
        name = f"'{getattr(source, 'name', 'the image stream')}'"
        return _load_bytes(source.read(), name=name, reading=reading)
    raise ImageError(
        f"an image must be a path, an address, bytes, a binary stream, a PIL image, an array or a tensor, "
        f"got {type(source).__name__}; "
        + ("convert it with np.asarray(image)" if hasattr(source, "__array__") else "convert it to one of these")
    )


def size_of_file(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """The (H, W) that an image file states, as its pixels are stored; None where Pillow cannot say."""
    try:
        with quiet_pillow(), Image.open(path) as image:
            return image.height, image.width
    except Exception:  # as below: what is wrong with it is told when it is read
        return None


def _load_file(source: str | os.PathLike[str], *, name: str, reading: Reading) -> Picture:
    refuse_address(source)
    path = Path(source)
    try:
        if path.stat().st_size == 0:
            raise ImageError(f"expected an image, but {name} is empty (0 bytes); fetch the file again")
        with open(path, "rb") as stream:
            return _open_and_decode(stream, name=name, reading=reading)
    except FileNotFoundError as error:
        raise ImageError(f"no image file {name}; check the path") from error
    except IsADirectoryError as error:
        raise ImageError(f"expected an image file, but {name} is a folder; give a file in it") from error
    except OSError as error:
        raise ImageError(f"cannot read {name}: {error.strerror}; check its name and permissions") from error


def _load_bytes(data: bytes, *, name: str, reading: Reading) -> Picture:
    if not isinstance(data, bytes):
        raise ImageError(f"{name} must be opened in binary mode, got text; open it with mode 'rb'")
    if not data:
        raise ImageError(f"expected an image, but {name} is empty (0 bytes); is a stream at its end?")
    return _open_and_decode(io.BytesIO(data), name=name, reading=reading)


def _open_and_decode(stream: BinaryIO, *, name: str, reading: Reading) -> Picture:
    suffix = Path(name.strip("'")).suffix.lower()
    try:
        with quiet_pillow():
            image = Image.open(stream)
    except Exception as error:  # Pillow's parsers raise almost anything on damaged headers
        stream.seek(0)
        head = stream.read(64)
        known = foreign_format(head, suffix)
        if known is None and head.startswith(tiff.MAGIC):
            return _from_samples(_tiff_bands(stream, reading, name=name), reading, name=name)
        raise ImageError(_why_unread(head, suffix, name=name)) from error
    with image:
        if image.format == "TIFF" and (suffix in RAW_SUFFIXES or _DNG_VERSION in getattr(image, "tag_v2", ())):
            raise ImageError(_why_unread(b"", ".dng", name=name))
        return _decode(image, name=name, reading=reading, stream=stream)


def _why_unread(head: bytes, suffix: str, *, name: str) -> str:
    known = foreign_format(head, suffix)
    if known is not None:
        return f"expected an image that Pillow reads, but {name} is {known.name}; {known.advice}"
    begins = f"{name} begins with {head[:8]!r}"
    return f"expected an image, but {begins}, which Pillow cannot read; convert it to JPEG or PNG"


def _decode(image: Image.Image, *, name: str, reading: Reading, stream: BinaryIO | None = None) -> Picture:
    width, height = image.size
    reading.check_size(name, width=width, height=height)
    if width * height == 0:
        raise ImageError(f"{name} must have at least one pixel, got {width} x {height}")
    try:
        opened = _Opened(image, stream, reading, name, wide=is_wide_colour(image), pages=_pages(image))
        image.load()
        samples = opened.samples()
        if samples is not None:
            return _from_samples(samples, reading, name=name, pages=1 if opened.stacked else opened.pages)
        return Picture(np.array(_to_rgb(_upright(image))), _page_note(opened.pages))
    except ImageError:
        raise
    except Exception as error:  # as above: decoders of damaged data raise almost anything
        raise ImageError(f"{name} is cut off or damaged ({error}); fetch the file again") from error


def _pages(image: Image.Image) -> int:
    """How many pages a TIFF file has, 1 for any other; its first one is loaded.

    It is the one format that warns and checks sizes late.
    """
    if image.format != "TIFF":
        return 1
    with quiet_pillow():
        count = int(getattr(image, "n_frames", 1))
        image.load()
    return count


@dataclass(frozen=True)
class _Opened:
    """An image that Pillow opened, and what is asked of it.

    Attributes:
        wide: whether Pillow keeps only the upper eight of its sixteen bits.
        pages: of a TIFF file.
    """

    image: Image.Image
    stream: BinaryIO | None
    reading: Reading
    name: str
    wide: bool
    pages: int

    @property
    def deep(self) -> bool:
        """Whether Pillow keeps all bits of values that have more than eight."""
        return self.image.mode.startswith("I") or self.image.mode == "F"

    @property
    def stacked(self) -> bool:
        """Whether the bands that are asked for can only be the pages of the file."""
        return self.pages > 1 and self.reading.bands is not None and max(self.reading.bands) > 1

    def samples(self) -> Samples | None:
        """The bands in their own values; None where Pillow's own RGB is what the file says."""
        is_tiff = self.image.format == "TIFF"
        if not (self.reading.says or self.deep or self.wide or (is_tiff and not tiff.is_plain(self.image))):
            return None
        if is_tiff and not tiff.is_coded(self.image):
            return self._of_tiff()
        values = self._all_bits() if self.wide else None
        values = self._as_decoded() if values is None else turned(values, _orientation(self.image))
        count = values.shape[2]
        return Samples(
            values,
            stated=stated_range(self.image, self.stream),
            opacity=count - 1 if count in {2, 4} else None,
            colours=count >= 3,
        )

    def _of_tiff(self) -> Samples:
        values = None
        if self.wide:
            values = self._all_bits()
        elif (self.deep or tiff.has_bytes(self.image)) and not self.stacked:
            values = _plain_array(self.image)
            if not tiff.has_all_bands(self.image, values) and self.image.mode == "RGB" and self.stream is not None:
                with quiet_pillow():
                    values = all_bands(self.stream, wide=False)
        if values is not None and tiff.has_all_bands(self.image, values):
            return tiff.samples_of_tiff(values, getattr(self.image, "tag_v2", {}))
        if self.stream is None:
            raise ImageError(f"not all bands of {self.name} can be read any more; give the path of the file")
        return _tiff_bands(self.stream, self.reading, name=self.name)

    def _all_bits(self) -> npt.NDArray[Any] | None:
        """(H, W, C) uint16 as the file lays them; None where only the upper bytes can be had."""
        if self.stream is not None:
            with suppress(ValueError), quiet_pillow():
                return all_bands(self.stream, wide=True)
        if self.reading.value_range is not None:
            raise ImageError(
                f"only 8 of the 16 bits of {self.name} can be read, got a range; store it as PNG or TIFF"
            )
        return None

    def _as_decoded(self) -> npt.NDArray[Any]:
        """(H, W, C) upright: the values of deep images, else grey or RGB, with opacity where there is one."""
        image = _upright(self.image)
        plain = self.deep or (image.mode in {"L", "LA", "RGB", "RGBA"} and "transparency" not in image.info)
        return _plain_array(image if plain else image.convert("RGBA" if image.has_transparency_data else "RGB"))


def _plain_array(image: Image.Image) -> npt.NDArray[Any]:
    """(H, W, C) in the machine's own byte order; black and white as 0 and 255."""
    values = np.asarray(image.convert("L") if image.mode == "1" else image)
    return values.reshape(*values.shape[:2], -1).astype(values.dtype.newbyteorder("="), copy=False)


def _tiff_bands(stream: BinaryIO, reading: Reading, *, name: str) -> Samples:
    stacked = reading.bands is not None and max(reading.bands) > 1
    return tiff.read_tiff(stream, reading, name=name, pages_are_bands=stacked)


def _from_samples(samples: Samples, reading: Reading, *, name: str, pages: int = 1) -> Picture:
    pixels, note = samples.to_rgb(reading, name=name)
    return Picture(pixels, "; ".join(part for part in (note, _page_note(pages)) if part))


def _page_note(pages: int) -> str:
    return f"page 1 of {pages} is read" if pages > 1 else ""


def _orientation(image: Image.Image) -> int:
    """The number of the EXIF orientation; unreadable EXIF data counts as none."""
    try:
        with quiet_pillow():
            return int(image.getexif().get(274, 1))
    except Exception:  # as in ``_upright``
        return 1


def _upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says; unreadable EXIF data counts as none."""
    try:
        with quiet_pillow():
            return ImageOps.exif_transpose(image)
    except Exception:  # the pixels are sound, whatever is wrong with their annotations
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(opaque, image.convert("RGBA")).convert("RGB")
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
