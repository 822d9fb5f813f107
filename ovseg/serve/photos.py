"""Photos by their content: encoded once, and kept for the next request."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from torch import Tensor

from ovseg.errors import ImageError
from ovseg.files import sha256_of_bytes
from ovseg.images.load import quiet_pillow
from ovseg.serve.options import Limits
from ovseg.serve.refusals import Refusal

if TYPE_CHECKING:
    from ovseg.pipeline.encoded import EncodedImage
    from ovseg.pipeline.segmenter import Segmenter

# others of Pillow's formats run other programs (EPS), or are read by nobody's browser
FORMATS = frozenset({"AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP"})


@dataclass(frozen=True)
class Photo:
    """A photo that somebody sent, or names by its content.

    Attributes:
        mark: SHA-256 of the file, hexadecimal.
        content: the file; None where only its mark was sent.
        pixels: that decoding it makes; the limit where its header does not say.
    """

    mark: str
    content: bytes | None = field(default=None, repr=False)
    pixels: int = 0

    @classmethod
    def of(cls, content: bytes, *, max_pixels: int) -> Photo:
        """The photo in these bytes, refused by its header, before anything is decoded.

        Raises:
            Refusal: it has too many pixels (413), or is of no format that is read here (415).
        """
        pixels = check_header(content, max_pixels=max_pixels)
        return cls(sha256_of_bytes(content), content, pixels or max_pixels)


def check_header(content: bytes, *, max_pixels: int) -> int:
    """The pixels that a file promises, 0 where it does not say; refuses as ``Photo.of``."""
    if not content:
        raise Refusal(415, "expected an image, got 0 bytes; send the file again")
    try:
        with quiet_pillow(), Image.open(io.BytesIO(content)) as image:
            kind, (width, height) = str(image.format), image.size
    except Exception:  # Pillow's parsers raise almost anything; decoding says what is wrong, in our own words
        kind, (width, height) = "", (0, 0)
    if kind and kind not in FORMATS:
        raise Refusal(415, f"expected a photo, got the format {kind}; send one of {', '.join(sorted(FORMATS))}")
    if width * height > max_pixels:
        raise Refusal(
            413, f"the photo has {width} x {height} pixels, more than the limit of {max_pixels}; shrink it"
        )
    return width * height


class PhotoCache:
    """Encoded photos by the content of their files, those used last. Only the worker's thread asks it.

    Args:
        segmenter: the model.
        limits: how many photos, and how many bytes, are kept.
    """

    def __init__(self, segmenter: Segmenter, limits: Limits) -> None:
        self._segmenter, self._limits = segmenter, limits
        self._kept: OrderedDict[str, EncodedImage] = OrderedDict()
        self.hits = self.misses = self.size = 0

    def __len__(self) -> int:
        return len(self._kept)

    def encoded(self, photo: Photo) -> EncodedImage:
        """The photo, encoded where it is not kept.

        Raises:
            ImageError: it cannot be read.
            Refusal: only its mark was sent, and it is not kept (404).
        """
        found = self._kept.get(photo.mark)
        if found is None:
            if photo.content is None:
                raise Refusal(404, f"no photo '{photo.mark[:12]}...' is kept here; send the file again")
            self.misses += 1
            try:
                found = self._segmenter.encode(photo.content, max_pixels=self._limits.max_pixels)
            except ImageError as error:
                raise type(error)(str(error).replace("the image bytes", "the file")) from error
            self._kept[photo.mark] = found
        else:
            self.hits += 1
        self._kept.move_to_end(photo.mark)
        self._shrink()
        return found

    def _shrink(self) -> None:
        """Let go of the photos used least recently; what an image has collected since counts too."""
        sizes = {mark: size_of(encoded) for mark, encoded in self._kept.items()}
        total = sum(sizes.values())
        while len(self._kept) > 1 and (
            total > self._limits.cache_bytes or len(self._kept) > self._limits.cache_photos
        ):
            mark, _ = self._kept.popitem(last=False)
            total -= sizes[mark]
        self.size = total


def size_of(value: Any) -> int:
    """Bytes of all tensors and arrays in dataclasses, mappings and sequences within each other."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, Mapping):
        return sum(map(size_of, value.values()))
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return sum(map(size_of, value))
    if is_dataclass(value):
        return sum(size_of(getattr(value, each.name)) for each in fields(value))
    return 0
