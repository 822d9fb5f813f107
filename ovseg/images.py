"""Images in and out: decoding to upright RGB, preparing pixels for an encoder, restoring maps to image size.

Sizes are always (H, W), height first.
"""

from __future__ import annotations

import glob
import io
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from ovseg.errors import ImageError, ShapeError
from ovseg.tensors import check_shape

if TYPE_CHECKING:
    import torch

ImageSource: TypeAlias = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | npt.NDArray[Any]
Size: TypeAlias = tuple[int, int]

_KINDS = ("jpg", "jpeg", "jfif", "png", "webp", "bmp", "tif", "tiff", "gif", "ppm", "pgm", "jp2", "avif")
IMAGE_SUFFIXES = frozenset(f".{kind}" for kind in _KINDS)

_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Pillow's size limit and Python's warning filters belong to the process: one thread changes them at a time.
_PILLOW_LOCK = threading.RLock()


class Preprocessing(Protocol):
    """What an encoder wants of its pixels; every encoder's specification has these attributes."""

    @property
    def mean(self) -> tuple[float, float, float]:
        """Mean of each RGB channel, in [0, 1]."""

    @property
    def std(self) -> tuple[float, float, float]:
        """Standard deviation of each RGB channel, in units of [0, 1]."""

    @property
    def interpolation(self) -> str:
        """``"bilinear"`` or ``"bicubic"``."""

    @property
    def stride(self) -> int:
        """Pixels per feature cell; the padded height and width are multiples of it."""


@dataclass(frozen=True)
class ImageGeometry:
    """How an image became the pixels of an encoder; all sizes (H, W) in pixels.

    Attributes:
        original: size of the image as it was given.
        resized: size after resizing, without the padding.
        padded: size of the encoder's pixels; the padding is at the bottom and right.

    Raises:
        ShapeError: a size is not positive, or ``padded`` is smaller than ``resized``.
    """

    original: Size
    resized: Size
    padded: Size

    def __post_init__(self) -> None:
        for name in ("original", "resized", "padded"):
            _check_size(name, getattr(self, name))
        if self.padded[0] < self.resized[0] or self.padded[1] < self.resized[1]:
            raise ShapeError(
                f"padded must be at least resized {self.resized}, got {self.padded}; "
                f"padding is added at the bottom and right"
            )


def load_image(source: ImageSource, *, max_pixels: int = 200_000_000) -> npt.NDArray[np.uint8]:
    """The image as upright 8-bit RGB, whatever its file format or mode.

    The EXIF orientation is applied, transparency is laid over white, 16-bit grey is scaled by the range of
    its type. Of an animation the first frame is taken.

    Args:
        source: path, encoded bytes, binary stream, PIL image, or (H, W, 3) or (H, W) uint8 array.
        max_pixels: larger images are refused before they are decoded.

    Returns:
        (H, W, 3) uint8 in [0, 255], C-contiguous.

    Raises:
        ImageError: the source is missing, damaged, too large, or of a kind that has no 8-bit meaning.
    """
    if isinstance(source, np.ndarray):
        return _array_to_rgb(source)
    if isinstance(source, Image.Image):
        return _decode(source, name="the PIL image", max_pixels=max_pixels)
    if isinstance(source, str | os.PathLike):
        return _load_file(source, max_pixels=max_pixels)
    if isinstance(source, bytes | bytearray | memoryview):
        return _load_bytes(bytes(source), name="the image bytes", max_pixels=max_pixels)
    if hasattr(source, "read"):
        name = f"'{getattr(source, 'name', 'the image stream')}'"
        return _load_bytes(source.read(), name=name, max_pixels=max_pixels)
    raise ImageError(
        f"an image must be a path, bytes, a binary stream, a PIL image or a uint8 array, "
        f"got {type(source).__name__}; convert it to one of these"
    )


def find_images(source: str | Path) -> list[Path]:
    """The image files that a path, a folder or a glob pattern stands for, sorted.

    A folder is searched recursively for known suffixes; a file is returned as it is.

    Raises:
        ImageError: nothing matches.
    """
    _refuse_address(source)
    if not str(source):
        raise ImageError("expected an image file, folder or glob pattern, got an empty text; name one")
    path = Path(source)
    if os.path.isfile(path):  # unlike Path.is_file, it takes a name that is too long for one that is not there
        return [path]
    if os.path.isdir(path):
        candidates: list[Path] = list(path.rglob("*"))
    else:
        candidates = [Path(name) for name in glob.glob(str(source), recursive=True)]
    images = sorted(p for p in candidates if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if images:
        return images
    if os.path.isdir(path):
        raise ImageError(
            f"expected images in folder '{source}', found none; known suffixes: {' '.join(sorted(IMAGE_SUFFIXES))}"
        )
    raise ImageError(f"no image file, folder or glob pattern matches '{source}'; check the spelling")


def working_size(original: Size, *, short_side: int, max_long_side: int | None, stride: int) -> Size:
    """The size to resize an image to: its ratio kept, its sides multiples of ``stride``.

    Args:
        original: (H, W) of the image.
        short_side: wanted length of the shorter side, in pixels.
        max_long_side: upper limit of the longer side, which wins over ``short_side``; None for no limit.
        stride: each side is rounded to a multiple of this, and is at least this.

    Raises:
        ShapeError: a size is not positive.
    """
    _check_size("original", original)
    _check_size("short_side and stride", (short_side, stride))
    _check_size("max_long_side and stride", (max_long_side or stride, stride))
    scale = short_side / min(original)
    if max_long_side is not None:
        scale = min(scale, max_long_side / max(original))
    height, width = (_to_multiple(side * scale, stride, limit=max_long_side) for side in original)
    return height, width


def prepare(image: npt.NDArray[np.uint8], spec: Preprocessing, *, size: Size) -> tuple[torch.Tensor, ImageGeometry]:
    """The image as an encoder's pixels, and the record of how to undo it.

    Args:
        image: (H, W, 3) uint8 RGB.
        spec: the encoder's preprocessing.
        size: (H, W) to resize to, with antialiasing.

    Returns:
        (1, 3, Hp, Wp) float32, normalised by mean and standard deviation, padded at the bottom and right with
        0 (the mean colour) to multiples of ``spec.stride``; and the geometry.

    Raises:
        ShapeError: the image is not (H, W, 3) uint8, or ``size`` or the interpolation cannot be used.
    """
    import torch

    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ShapeError(f"image must be (H, W, 3) uint8, got {image.shape} {image.dtype}; use load_image first")
    _check_size("size", size)
    resized = _resize(image, size, interpolation=spec.interpolation)
    pixels = torch.from_numpy(resized).permute(2, 0, 1)[None].float() / 255  # (1, 3, H, W)
    mean = torch.tensor(spec.mean).view(1, 3, 1, 1)
    std = torch.tensor(spec.std).view(1, 3, 1, 1)
    bottom, right = -size[0] % spec.stride, -size[1] % spec.stride
    padded = torch.nn.functional.pad((pixels - mean) / std, (0, right, 0, bottom))
    height, width = image.shape[:2]
    geometry = ImageGeometry((height, width), size, (size[0] + bottom, size[1] + right))
    return padded, geometry


def restore(maps: torch.Tensor, geometry: ImageGeometry, *, stride: int) -> torch.Tensor:
    """Coarse maps at the size of the original image, without the padding.

    One bilinear interpolation (pixel centres at half positions) from cells to original pixels; without
    padding and resizing it equals ``interpolate(mode="bilinear", align_corners=False)``.

    Args:
        maps: (B, L, h, w) floating point, one cell per ``stride`` pixels of the padded image.
        geometry: as returned by ``prepare``.
        stride: pixels of the padded image per cell.

    Returns:
        (B, L, H, W) float32 of the original (H, W).

    Raises:
        ShapeError: (h, w) is not the padded size divided by ``stride``.
    """
    import torch

    h, w = (side // stride for side in geometry.padded)
    check_shape("maps", maps, "B L h w", h=h, w=w)
    axes = [
        _grid_axis(geometry.original[i], resized=geometry.resized[i], padded=geometry.padded[i], like=maps)
        for i in (0, 1)
    ]
    rows, columns = torch.meshgrid(axes[0], axes[1], indexing="ij")
    grid = torch.stack([columns, rows], dim=-1).expand(maps.shape[0], -1, -1, -1)  # (B, H, W, 2) as x, y
    return torch.nn.functional.grid_sample(
        maps.float(), grid, mode="bilinear", padding_mode="border", align_corners=False
    )


def _grid_axis(original: int, *, resized: int, padded: int, like: torch.Tensor) -> torch.Tensor:
    """Centres of ``original`` pixels in the [-1, 1] coordinates of the padded side."""
    import torch

    centres = (torch.arange(original, device=like.device, dtype=torch.float32) + 0.5) * (resized / original)
    return centres * (2 / padded) - 1


def _resize(image: npt.NDArray[np.uint8], size: Size, *, interpolation: str) -> npt.NDArray[np.uint8]:
    if interpolation not in _RESAMPLING:
        raise ShapeError(f"interpolation must be one of {', '.join(_RESAMPLING)}, got '{interpolation}'")
    if image.shape[:2] == size:
        return image.copy()
    resized = Image.fromarray(image).resize((size[1], size[0]), _RESAMPLING[interpolation])
    return np.array(resized)


def _to_multiple(length: float, stride: int, *, limit: int | None) -> int:
    cells = round(length / stride)
    if limit is not None:
        cells = min(cells, limit // stride)
    return max(1, cells) * stride


def _check_size(name: str, size: Size) -> None:
    if len(size) != 2 or any(isinstance(side, bool) or int(side) != side or side < 1 for side in size):
        raise ShapeError(f"{name} must be two whole numbers of at least 1, got {size}")


def _array_to_rgb(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The array itself when it is (H, W, 3) uint8, grey repeated when it is (H, W)."""
    right_shape = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
    if array.dtype != np.uint8 or not right_shape or array.size == 0:
        raise ImageError(
            f"an image array must be (H, W, 3) or (H, W) uint8 with values 0 to 255, got {array.shape} "
            f"{array.dtype}; convert it, for floats in [0, 1] with (255 * image).round().astype('uint8')"
        )
    rgb = array if array.ndim == 3 else np.repeat(array[:, :, None], 3, axis=2)
    return np.ascontiguousarray(rgb, dtype=np.uint8)


def _load_file(source: str | os.PathLike[str], *, max_pixels: int) -> npt.NDArray[np.uint8]:
    _refuse_address(source)
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


def _refuse_address(source: str | os.PathLike[str]) -> None:
    if str(source).startswith(("http://", "https://")):
        raise ImageError(f"expected a file, got the address '{source}'; download it and give the file's path")


def _load_bytes(data: bytes, *, name: str, max_pixels: int) -> npt.NDArray[np.uint8]:
    if not isinstance(data, bytes):
        raise ImageError(f"{name} must be opened in binary mode, got text; open it with mode 'rb'")
    if not data:
        raise ImageError(f"expected an image, but {name} is empty (0 bytes); is a stream at its end?")
    return _open_and_decode(io.BytesIO(data), name=name, max_pixels=max_pixels)


def _open_and_decode(stream: BinaryIO, *, name: str, max_pixels: int) -> npt.NDArray[np.uint8]:
    try:
        with quiet_pillow():
            image = Image.open(stream)
    except Exception as error:  # Pillow's parsers raise almost anything on damaged headers
        stream.seek(0)
        raise ImageError(
            f"expected an image, but {name} begins with {stream.read(8)!r}, which Pillow cannot read; "
            f"convert it to JPEG or PNG"
        ) from error
    with image:
        return _decode(image, name=name, max_pixels=max_pixels)


def _decode(image: Image.Image, *, name: str, max_pixels: int) -> npt.NDArray[np.uint8]:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            f"{name} has {width} x {height} pixels, more than the limit of {max_pixels}; shrink it, "
            f"or raise the limit with max_pixels={width * height} (--max-pixels on the command line)"
        )
    if width * height == 0:
        raise ImageError(f"{name} must have at least one pixel, got {width} x {height}")
    try:
        if getattr(image, "format", None) == "TIFF":  # the one format that warns and checks sizes late
            with quiet_pillow():
                image.load()
        image.load()
        rgb = _to_rgb(_upright(image), name=name)
    except ImageError:
        raise
    except Exception as error:  # as above: decoders of damaged data raise almost anything
        raise ImageError(f"{name} is cut off or damaged ({error}); fetch the file again") from error
    return np.array(rgb)


def _upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says; unreadable EXIF data counts as none."""
    try:
        with quiet_pillow():
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # the pixels are sound, whatever is wrong with their annotations
        orientation = 1
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _to_rgb(image: Image.Image, *, name: str) -> Image.Image:
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(opaque, image.convert("RGBA")).convert("RGB")
    if image.mode.startswith("I"):
        return Image.fromarray(_wide_to_grey(np.asarray(image), name=name)).convert("RGB")
    if image.mode == "F":
        raise ImageError(
            f"{name} must hold whole numbers, got 32-bit floats, whose range is not known; "
            f"scale it to 0..255 and save it as 8-bit PNG"
        )
    return image.convert("RGB")


def _wide_to_grey(grey: npt.NDArray[Any], *, name: str) -> npt.NDArray[np.uint8]:
    """(H, W) integers of the 16-bit range 0..65535 as uint8, rounded."""
    wide = grey.astype(np.int64)
    if wide.min() < 0 or wide.max() > 65535:
        raise ImageError(
            f"{name} must have grey values in 0..65535, got {wide.min()}..{wide.max()}; "
            f"scale it to 16 or 8 bits first"
        )
    return ((wide + 128) // 257).astype(np.uint8)


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
