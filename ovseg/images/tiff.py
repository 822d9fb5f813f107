"""TIFF files in their own bands: those that Pillow does not know, or takes for something that they do not say."""

from __future__ import annotations

import re
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from ovseg.errors import ImageError
from ovseg.images.depth import tiff_range
from ovseg.images.foreign import foreign_format
from ovseg.images.reading import Reading
from ovseg.images.samples import Samples, turned

_BITS, _PHOTOMETRIC, _ORIENTATION, _SAMPLES, _EXTRA, _FORMAT = 258, 262, 274, 277, 338, 339
_GDAL_METADATA, _GDAL_NODATA, _DNG_VERSION = 42112, 42113, 50706
_GREY_OR_RGB = {0: 1, 1: 1, 2: 3}  # by photometric interpretation: bands of colour
_CODED = {3, 5, 6, 8, 9, 10}  # palette, CMYK, YCbCr and Lab: Pillow turns them into RGB
_OPACITY = (1, 2)  # of ExtraSamples: associated and unassociated alpha; 0 is "unspecified"
MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_NAME = re.compile(r'<Item[^>]*sample="(\d+)"[^>]*role="description"[^>]*>([^<]*)<')


def is_plain(image: Image.Image) -> bool:
    """Whether Pillow's RGB of an opened TIFF file is what the file says: 8 bits, and no band taken for opacity."""
    tags: Any = getattr(image, "tag_v2", {})
    if is_coded(image):
        return True
    colours, count = _GREY_OR_RGB.get(tags.get(_PHOTOMETRIC, 1), 0), tags.get(_SAMPLES, 1)
    stated = count == colours or (count == colours + 1 and first_opacity(tags.get(_EXTRA, ())) == 0)
    return stated and has_bytes(image)


def is_coded(image: Image.Image) -> bool:
    """Whether the bands are no red, green, blue or grey, but something that becomes them."""
    tags: Any = getattr(image, "tag_v2", {})
    return tags.get(_PHOTOMETRIC, 1) in _CODED


def has_bytes(image: Image.Image) -> bool:
    """Whether the values are whole numbers of 8 bits or fewer without a sign."""
    tags: Any = getattr(image, "tag_v2", {})
    return max(tags.get(_BITS, (1,))) <= 8 and tags.get(_FORMAT, (1,))[0] in {1, 4}


def has_all_bands(image: Image.Image, values: npt.NDArray[Any]) -> bool:
    """Whether an array of what Pillow decoded has all bands of the file."""
    tags: Any = getattr(image, "tag_v2", {})
    return bool((1 if values.ndim == 2 else values.shape[2]) == tags.get(_SAMPLES, 1))


def first_opacity(extra: Any) -> int | None:
    """Which of the extra bands, counted from 0, is stated to be opacity; None for none."""
    kinds = list(extra) if isinstance(extra, tuple | list) else [extra]
    return next((place for place, kind in enumerate(kinds) if int(kind) in _OPACITY), None)


def read_tiff(stream: BinaryIO, reading: Reading, *, name: str, pages_are_bands: bool = False) -> Samples:
    """The bands of the first page.

    Args:
        stream: of the file.
        reading: says how large a page may be.
        name: of the image, for errors.
        pages_are_bands: take the pages of a file whose pages are alike and have one band each for its bands.

    Raises:
        ImageError: too large, compressed in a way that needs another package, or damaged.
    """
    import tifffile

    stream.seek(0)
    try:
        with tifffile.TiffFile(stream) as file:
            page: Any = file.pages.first
            reading.check_size(name, width=page.imagewidth, height=page.imagelength)
            tags = {tag.code: tag.value for tag in page.tags}
            raw = foreign_format(b"", ".dng") if _DNG_VERSION in tags else None
            if raw is not None:
                raise ImageError(f"expected an image, but {name} is {raw.name}; {raw.advice}")
            return samples_of_tiff(_values(file, page, pages_are_bands=pages_are_bands), tags)
    except ImageError:
        raise
    except Exception as error:  # damaged headers and data raise almost anything
        if "imagecodecs" in str(error):
            raise ImageError(
                f"the compression of {name} needs the package imagecodecs ({error}); install it, or store the file "
                "without compression"
            ) from error
        raise ImageError(f"{name} is cut off or damaged ({error}); fetch the file again") from error


def _values(file: Any, page: Any, *, pages_are_bands: bool) -> npt.NDArray[Any]:
    """(H, W, C) in the machine's own byte order."""
    pages = [page]
    if pages_are_bands and page.samplesperpixel == 1:
        alike = [each for each in file.pages if (each.shape, each.dtype) == (page.shape, page.dtype)]
        pages = alike if len(alike) == len(file.pages) else pages
    arrays = [each.asarray() for each in pages]
    values = np.stack(arrays, axis=-1) if len(arrays) > 1 else _channels_last(arrays[0], page.axes)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _channels_last(values: npt.NDArray[Any], axes: str) -> npt.NDArray[Any]:
    if "S" not in axes:
        return values.reshape(*values.shape[:2], 1)
    return np.moveaxis(values, axes.index("S"), -1)


def samples_of_tiff(values: npt.NDArray[Any], tags: Any) -> Samples:
    """(H, W, C) values, as the file lays them, with what its tags (numbers to values) say of them."""
    kind, extra = int(tags.get(_PHOTOMETRIC, 1)), tags.get(_EXTRA, ())
    kinds = list(extra) if isinstance(extra, tuple | list) else [extra]
    place = first_opacity(kinds)
    opacity = None if place is None else _GREY_OR_RGB.get(kind, 3) + place
    named = dict(_NAME.findall(str(tags.get(_GDAL_METADATA, ""))))
    return Samples(
        turned(values, int(tags.get(_ORIENTATION, 1))),
        stated=tiff_range(tags),
        opacity=opacity if opacity is not None and opacity < values.shape[2] else None,
        premultiplied=place is not None and int(kinds[place]) == 1,
        colours=kind == 2,
        inverted=kind == 0,
        missing=missing_value(tags.get(_GDAL_NODATA)),
        names=tuple(named.get(str(band), "") for band in range(values.shape[2])),
    )


def missing_value(text: Any) -> float | None:
    """What GDAL's tag says the value of "no data" is; None where it says nothing that is a number."""
    try:
        return float(str(text).strip(" \0"))
    except ValueError:
        return None
