"""Photos that a camera turned by a note: whether their masks lie on the turned photo or on the pixels as stored.

Size tells it for a quarter turn of an oblong photo. For half turns, mirrored photos and squares it does not; there
the borders of the masks are held against the edges of the photos in both readings, over the whole data set at once.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from ovseg.errors import DatasetError
from ovseg.images.load import quiet_pillow

Reading = Literal["upright", "stored"]
READINGS: tuple[Reading, Reading] = ("upright", "stored")

_TAG = 0x0112  # EXIF: orientation
_MARKS = (b"eXIf", b"exif", b"tiff:Orientation")  # one of them is in every PNG that states an orientation
_LOOKED_AT = 64  # photos whose edges are held against their masks, evenly spread
_SIDE = 400  # pixels, longest, at which they are
# Of 360 photos of four data sets (COCO, CamVid, LabelMeFacade, clothing) the right reading was ahead by 0.2 on
# average and never behind by more than this.
_CLEAR = 0.1

# From the upright array (H, W, ...) back to the stored one, by the value of the tag.
_BACK: dict[int, Callable[[NDArray[np.generic]], NDArray[np.generic]]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


def orientation_of(source: Path | bytes) -> int:
    """The EXIF orientation, 2 to 8, of an image file or its bytes; 1 where it states none or cannot be read."""
    try:
        stream: io.BytesIO | Path = io.BytesIO(source) if isinstance(source, bytes) else source
        with quiet_pillow(), Image.open(stream) as image:
            if image.format == "PNG":  # Pillow would decode all of it to look behind its pixels
                content = source if isinstance(source, bytes) else source.read_bytes()
                if not any(mark in content for mark in _MARKS):
                    return 1
            value = image.getexif().get(_TAG, 1)
    except Exception:  # Pillow's parsers raise almost anything; reading the image will say what is wrong
        return 1
    return int(value) if value in _BACK else 1


def as_stored(upright: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """The (H, W, 3) pixels before a photo was turned by its EXIF ``orientation``."""
    return np.ascontiguousarray(_BACK[orientation](upright)) if orientation in _BACK else upright


def mask_reading(
    turned: Mapping[int, int],
    load: Callable[[int], tuple[NDArray[np.uint8], NDArray[np.int32]]],
    *,
    stated: str,
    names: Sequence[str],
) -> Reading | None:
    """How the masks of a data set were drawn, where size does not tell; None where no photo is turned.

    Args:
        turned: orientation of every photo that has one, by its place.
        load: upright photo (H, W, 3) and the ids of its mask as they are.
        stated: "upright" or "stored" for all, or "auto" to find out.
        names: of all photos.

    Raises:
        DatasetError: photos and masks do not settle it, or contradict each other.
    """
    if not turned:
        return None
    if stated != "auto":
        return "stored" if stated == "stored" else "upright"
    by_size: set[Reading] = set()
    ahead: dict[int, float] = {}  # by how much "upright" agrees better than "stored"
    for place in _spread(sorted(turned)):
        upright, ids = load(place)
        stored = as_stored(upright, turned[place])
        if stored.shape != upright.shape:
            by_size.add("stored" if ids.shape == stored.shape[:2] else "upright")
        elif ids.shape == upright.shape[:2]:
            ahead[place] = edge_agreement(upright, ids) - edge_agreement(stored, ids)
    return _decide({place: value for place, value in ahead.items() if value}, by_size, names)


def as_masked(
    upright: NDArray[np.uint8], orientation: int, *, size: tuple[int, ...], reading: Reading | None, stated: str
) -> NDArray[np.uint8]:
    """The photo as its mask of ``size`` (H, W) was drawn: by the size where that tells, or by ``reading``."""
    stored = as_stored(upright, orientation)
    if stated == "auto" and stored.shape != upright.shape:
        return stored if stored.shape[:2] == size else upright
    return stored if reading == "stored" else upright


def edge_agreement(image: NDArray[np.uint8], ids: NDArray[np.int32]) -> float:
    """How strong the photo's edges are where the mask has borders: their mean rank less that of all pixels.

    Args:
        image: (H, W, 3).
        ids: (H, W).

    Returns:
        In [-0.5, 0.5]; 0 where the mask has no border or says nothing of the photo.
    """
    small, mask = _shrunk(image, ids)
    grey = gaussian_filter(small.astype(np.float32).mean(-1), 1.0)
    strength = np.hypot(*np.gradient(grey)) if min(grey.shape) > 1 else np.zeros_like(grey)
    border = np.zeros(mask.shape, bool)
    down, right = mask[:-1] != mask[1:], mask[:, :-1] != mask[:, 1:]
    border[:-1] |= down
    border[1:] |= down
    border[:, :-1] |= right
    border[:, 1:] |= right
    if not border.any():
        return 0.0
    _, place, count = np.unique(strength, return_inverse=True, return_counts=True)
    rank = (count.cumsum() - count / 2)[place.reshape(strength.shape)] / strength.size  # equal edges share a rank
    return float(rank[border].mean() - 0.5)


def _decide(ahead: Mapping[int, float], by_size: set[Reading], names: Sequence[str]) -> Reading:
    """The reading of photos whose size leaves it open."""
    clear = {place: value for place, value in ahead.items() if abs(value) > _CLEAR}
    up = [place for place, value in clear.items() if value > 0]
    down = [place for place in clear if place not in up]
    if min(len(up), len(down)) > len(clear) // 10:
        raise DatasetError(
            f"the masks of '{names[up[0]]}' and '{names[down[0]]}' were not drawn alike: one lies on the photo as "
            "its EXIF data turn it, the other on the stored pixels; remove the EXIF orientation of those photos "
            "whose masks lie on the stored pixels"
        )
    if abs(sum(ahead.values())) > _CLEAR * math.sqrt(len(ahead)):
        return "upright" if sum(ahead.values()) > 0 else "stored"
    if len(by_size) == 1:
        return next(iter(by_size))
    if not ahead:
        return "upright"  # no photo of which it would matter
    raise DatasetError(
        f"{len(ahead)} photos are turned by their EXIF data, such as '{names[next(iter(ahead))]}', and their "
        "masks fit the turned photo as well as the stored pixels; look at one and say --orientation upright or "
        "--orientation stored (in a benchmark or training file: orientation: stored)"
    )


def _shrunk(image: NDArray[np.uint8], ids: NDArray[np.int32]) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    scale = min(1.0, _SIDE / max(ids.shape))
    size = (max(1, round(ids.shape[1] * scale)), max(1, round(ids.shape[0] * scale)))
    small = Image.fromarray(image).resize(size, Image.Resampling.BOX)
    return np.asarray(small), np.asarray(Image.fromarray(ids).resize(size, Image.Resampling.NEAREST))


def _spread(places: Sequence[int]) -> list[int]:
    if len(places) <= _LOOKED_AT:
        return list(places)
    return [places[int(number)] for number in np.linspace(0, len(places) - 1, _LOOKED_AT).round()]
