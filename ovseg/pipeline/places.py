"""Where a label is in its pictures: masks as they are given, cut out by box or point, or what stands out most."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ovseg.errors import ImageError, VocabularyError
from ovseg.files import sha256_of_bytes
from ovseg.identity import digest
from ovseg.images.load import read_image
from ovseg.images.web import is_address
from ovseg.pipeline.encoded import EncodedImage
from ovseg.regions.cuts import salient_object
from ovseg.sam import ask_sam, to_image
from ovseg.vocabulary.labels import Concept
from ovseg.vocabulary.shown import PLACES, as_points

Mask = npt.NDArray[np.bool_]
_STANDS_OUT = 0.5  # share of a cell
SALIENT = "salient"  # how a picture without a place shows its label: by what stands out; the rest is unknown


@dataclass(frozen=True)
class Picture:
    """A picture of a concept, not opened yet.

    Attributes:
        source: anything that ``segment`` takes.
        where: names it in messages.
        kind: "masks", "boxes", "points", "salient" or "none", for a picture that does not show the concept.
        place: what ``kind`` says; None for the last two.
        within: box x0, y0, x1, y1 that was looked at, the rest is unknown; None for all of it.
    """

    source: Any
    where: str
    kind: str
    place: Any = None
    within: Any = None

    @property
    def mark(self) -> str:
        """What picture and place are known by, without decoding a file."""
        return digest(_content(self.source), self.kind, _content(self.place), _content(self.within))

    @property
    def pixels(self) -> npt.NDArray[np.uint8]:
        """(H, W, 3) uint8, upright.

        Raises:
            ImageError: it cannot be read.
        """
        return read_image(self.source).pixels

    def mask_in(self, encoded: EncodedImage, *, sam: str | None) -> Mask:
        """(H, W) bool where the concept is.

        Args:
            encoded: the picture.
            sam: a name of ``ovseg.sam.load_sam``, which cuts out what a box or point shows; None gives the pixels
                in the box, or that of the point.

        Raises:
            VocabularyError: the place is of another size, empty, or outside the picture.
        """
        size = encoded.geometry.original
        if self.kind == "none":
            return np.zeros(size, bool)
        if self.kind == "masks":
            mask = _as_mask(self.place, size, where=self.where)
        elif self.kind == SALIENT:
            mask = _salient(encoded)
        else:
            mask = self._cut_out(encoded, sam)
        rows, columns = self.window(size)
        if not mask[rows, columns].any():
            raise VocabularyError(
                f"the mask of {self.where} must show something, got none of its {mask.size} pixels; give another"
            )
        return mask

    def window(self, size: tuple[int, int]) -> tuple[slice, slice]:
        """Rows and columns of the pixels (H, W) that were looked at.

        Raises:
            VocabularyError: they lie outside.
        """
        if self.within is None:
            return slice(0, size[0]), slice(0, size[1])
        x0, y0, x1, y1 = (round(float(number)) for number in self.within)
        if not (0 <= x0 < x1 <= size[1] and 0 <= y0 < y1 <= size[0]):
            name = "the box" if self.kind == "none" else "within"
            raise VocabularyError(
                f"{name} of {self.where} must lie inside its {size[1]} x {size[0]} pixels, got {self.within!r}"
            )
        return slice(y0, y1), slice(x0, x1)

    def _cut_out(self, encoded: EncodedImage, sam: str | None) -> Mask:
        height, width = encoded.geometry.original
        if self.kind == "boxes":
            x0, y0, x1, y1 = (float(number) for number in self.place)
            corners = [(x0, y0), (x1, y1)]
            prompts: dict[str, Any] = {"boxes": torch.tensor([[x0, y0, x1, y1]])}
        else:
            corners = as_points(self.place, where=self.where)
            prompts = {"points": torch.tensor([corners])}
        for x, y in corners:
            if not (0 <= x <= width and 0 <= y <= height):
                raise VocabularyError(
                    f"the {self.kind} of {self.where} must lie inside its {width} x {height} pixels, got "
                    f"{self.place!r}"
                )
        if sam is None:
            return _around(corners, (height, width))
        several = self.kind == "points"  # what a point means is open: the mask that the SAM is surest of
        network, embedding = ask_sam(encoded, sam)
        masks, quality = network.masks(embedding, **prompts, multimask=several)
        (mask,) = to_image(embedding, masks[0, quality[0].argmax()][None])
        return mask.numpy()


def _around(corners: Sequence[tuple[float, float]], size: tuple[int, int]) -> Mask:
    """(H, W) bool: the pixels from the first corner (x, y) to the last, at least one."""
    mask = np.zeros(size, bool)
    spans = []
    for axis, side in ((1, size[0]), (0, size[1])):
        first = min(int(corners[0][axis]), side - 1)
        spans.append(slice(first, max(first + 1, round(corners[-1][axis]))))
    mask[tuple(spans)] = True
    return mask


def pictures_of(concept: Concept) -> list[Picture]:
    """The pictures of a concept, those that show it first."""
    kinds = [name for name in PLACES if getattr(concept, name)]
    kind = kinds[0] if kinds else SALIENT
    places = getattr(concept, kinds[0]) if kinds else [None] * len(concept.images)
    within = concept.within or [None] * len(concept.images)
    shown = [
        Picture(image, f"image {number} of concept '{concept.label}'", kind, place, box)
        for number, (image, place, box) in enumerate(zip(concept.images, places, within, strict=True))
    ]
    empty = concept.not_boxes or [None] * len(concept.not_images)
    others = [
        Picture(image, f"not_images {number} of concept '{concept.label}'", "none", within=box)
        for number, (image, box) in enumerate(zip(concept.not_images, empty, strict=True))
    ]
    return [*shown, *others]


def _as_mask(source: Any, size: tuple[int, int], *, where: str) -> Mask:
    """A mask as (H, W) bool."""
    mask = np.asarray(_mask_file(source, where=where) if isinstance(source, str | os.PathLike) else source)
    if mask.ndim == 3 and mask.shape[2] in (3, 4):  # a mask that was saved in colours; opacity does not count
        mask = mask[..., :3].max(2)
    if mask.shape != size:
        raise VocabularyError(
            f"the mask of {where} must have the size of its image, {size[1]} x {size[0]}, got "
            f"{' x '.join(map(str, mask.shape[::-1]))}; give the image that it was drawn on"
        )
    return mask > 0


def _mask_file(path: str | os.PathLike[str], *, where: str) -> npt.NDArray[Any]:
    try:
        with Image.open(path) as opened:
            alpha = np.asarray(opened.getchannel("A")) if "A" in opened.getbands() else None
            # a cut-out says where it is by its opacity, a mask that is opaque everywhere by its colours
            return np.asarray(opened) if alpha is None or bool((alpha == alpha.flat[0]).all()) else alpha
    except FileNotFoundError as error:
        raise ImageError(f"no mask file '{os.fspath(path)}' for {where}; check the path") from error
    except (OSError, UnidentifiedImageError, ValueError) as error:
        raise ImageError(
            f"the mask of {where} must be an image file, got '{os.fspath(path)}', which cannot be read"
        ) from error


def _salient(encoded: EncodedImage) -> Mask:
    """What stands out most, on the pixels; all of the picture where nothing does."""
    found = salient_object(encoded.unpadded(encoded.features.likeness[0].float()))
    if not bool(found.any()):
        return np.ones(encoded.geometry.original, bool)
    height, width = encoded.geometry.original
    enlarged = torch.nn.functional.interpolate(found[None, None].float(), size=(height, width), mode="nearest")
    return (enlarged[0, 0] > 0).numpy()


def where_words_agree(share: Tensor, text: Tensor, row: int | None) -> tuple[Tensor, Tensor]:
    """Where a label is in a picture without a place, and where it is not: by what stands out and what words find.

    Learned from cells that show it alone, a label would be found everywhere. So it is where both say so, or else
    where words find it, and it is not where neither does. Words that find it nowhere say nothing, and what does not
    stand out counts as none, as of a label without a name; words that find it everywhere leave the rest open.

    Args:
        share: (h, w) in [0, 1], how much of each cell stands out.
        text: (K, h, w) logits of all classes by words.
        row: of the label; None for one without a name.

    Returns:
        (h, w) share of each cell that shows the label, and (h, w) bool, the cells that do not show it.
    """
    stands = share > _STANDS_OUT
    found = torch.zeros_like(stands) if row is None else text.argmax(0) == row
    if not bool(found.any()):
        return share, ~stands
    both = stands & found
    return (both if bool(both.any()) else found).float(), ~(stands | found)


def _content(value: Any) -> Any:
    """What a picture or place is known by: the state of a file, the bytes of everything else."""
    if isinstance(value, str) and is_address(value):
        return value
    if isinstance(value, str | os.PathLike):
        path = Path(value)
        try:
            found = path.stat()
        except OSError:
            return str(path)  # reading it says what is wrong
        return [str(path.resolve()), found.st_size, found.st_mtime_ns]
    if isinstance(value, bytes | bytearray):
        return sha256_of_bytes(bytes(value))
    if isinstance(value, Image.Image):
        return [value.mode, value.size, sha256_of_bytes(value.tobytes())]
    if isinstance(value, np.ndarray | torch.Tensor):
        array = np.ascontiguousarray(np.asarray(value))
        return [str(array.dtype), array.shape, sha256_of_bytes(array.tobytes())]
    if isinstance(value, list | tuple):
        return list(map(_content, value))
    return value if value is None or isinstance(value, int | float) else repr(value)
