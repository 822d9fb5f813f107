"""A picture that is too large to be decoded at once, read by windows."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ovseg.errors import ImageError, require
from ovseg.images import tiff
from ovseg.images.depth import choose_scale
from ovseg.images.load import quiet_pillow
from ovseg.images.reading import Reading
from ovseg.images.samples import Samples
from ovseg.images.tiles import Tile

_CACHE = 256 * 2**20  # bytes that GDAL keeps of what it decoded; its own choice grows with the machine
_GLANCE = 2048  # pixels of the longer side at which values are looked at, to choose one range for all windows
_PHOTOMETRIC, _ORIENTATION, _EXTRA = 262, 274, 338
_RGB, _ALPHA = 2, 2


@dataclass(frozen=True)
class Scene:
    """An open picture.

    Attributes:
        file: rasterio's.
        name: for messages.
        reading: bands and range, the same for every window.
        tags: of the TIFF file, by number.
        note: what was decided about values or bands that the file leaves open; empty for nothing.
    """

    file: Any
    name: str
    reading: Reading
    tags: dict[int, Any]
    note: str = ""

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.file.height, self.file.width

    def read(self, tile: Tile) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """A window of the picture, its last row and column repeated where it reaches past the end.

        Returns:
            (H, W, 3) uint8, where there are no data the mean colour of the rest; and (H, W) bool, where there are.

        Raises:
            ImageError: the file is cut off or damaged.
        """
        height, width = (
            min(length, side - start)
            for length, side, start in zip((tile.height, tile.width), self.size, (tile.top, tile.left), strict=True)
        )
        values, valid = self._values((tile.top, tile.left, height, width))
        rgb, _ = self._samples(values).to_rgb(self.reading, name=self.name)
        if not valid.all():
            rgb[~valid] = rgb[valid].mean(0).round().astype(np.uint8) if valid.any() else 0
        beyond = ((0, tile.height - height), (0, tile.width - width))
        return np.pad(rgb, (*beyond, (0, 0)), "edge"), np.pad(valid, beyond, "edge")

    def _values(
        self, box: tuple[int, int, int, int] | None, **options: Any
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """(H, W, C) in their own values, and (H, W) where there are any."""
        import rasterio
        from rasterio.windows import Window

        window = None if box is None else Window(box[1], box[0], box[3], box[2])
        try:
            values = self.file.read(window=window, **options)
            valid = self.file.dataset_mask(window=window, **options) > 0
        except rasterio.errors.RasterioError as error:
            raise ImageError(f"{self.name} is cut off or damaged ({error}); fetch the file again") from error
        return np.moveaxis(values, 0, -1), valid

    def _samples(self, values: npt.NDArray[Any]) -> Samples:
        if self.file.colorinterp[0].name == "palette":
            colours = self.file.colormap(1)
            table = np.array([colours.get(place, (0, 0, 0, 0))[:3] for place in range(256)], np.uint8)
            values = table[values[:, :, 0]]
        return tiff.samples_of_tiff(values, self.tags)

    def glanced(self) -> Scene:
        """The same with one range of values for all windows, found on a reduced copy.

        Raises:
            ImageError: the bands that are colours are not known, or there is no such band, or the values are of a
                kind that has no 8-bit meaning.
        """
        share = min(1, _GLANCE / max(self.size))
        small = tuple(max(1, round(side * share)) for side in self.size)
        values, valid = self._values(None, out_shape=small)
        if not valid.any():
            raise ImageError(f"{self.name} must have data somewhere, got none at all")
        samples = self._samples(values)
        _, note = samples.to_rgb(self.reading, name=self.name)
        shown = samples.chosen(self.reading, name=self.name)[valid]
        ours, missing = self.reading, samples.missing
        scale = choose_scale(shown, given=ours.value_range, stated=samples.stated, name=self.name, missing=missing)
        if scale is not None:
            ours = replace(ours, value_range=(scale.low, scale.high))
        return replace(self, reading=ours, note=note)


@contextmanager
def open_scene(path: Path, reading: Reading) -> Iterator[Scene]:
    """The picture, to be read by windows.

    Args:
        path: a TIFF file, or another that GDAL reads.
        reading: what the caller says about its values.

    Raises:
        MissingDependencyError: rasterio is not installed.
        ImageError: the file is missing, damaged, none that GDAL reads, or stored turned.
    """
    rasterio = require("rasterio", extra="geo")
    if not path.is_file():
        raise ImageError(f"no image file '{path}'; check the path")
    name = f"'{path}'"
    with rasterio.Env(GDAL_CACHEMAX=_CACHE, GDAL_PAM_ENABLED="NO"), warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        try:
            file = rasterio.open(path)
        except rasterio.errors.RasterioError as error:
            raise ImageError(
                f"expected an image that can be read by windows, but GDAL cannot open {name} ({error}); fetch the "
                "file again, or store it as TIFF"
            ) from error
        with file:
            yield Scene(file, name, reading, _tags(path, file)).glanced()


def _tags(path: Path, file: Any) -> dict[int, Any]:
    """What the file's own tags say of its values, and GDAL of its colours."""
    tags: dict[int, Any] = {}
    if file.driver == "GTiff":
        import tifffile

        with tifffile.TiffFile(path) as opened:
            tags = {tag.code: tag.value for tag in opened.pages.first.tags}
    turned = tags.get(_ORIENTATION, 1) if tags else _orientation(path)
    if turned != 1:
        raise ImageError(
            f"expected an upright image, but '{path}' is stored turned (orientation {turned}), and cannot be read "
            "by windows; store it upright"
        )
    meanings = [each.name for each in file.colorinterp]
    if meanings[:3] == ["red", "green", "blue"] or meanings[0] == "palette":
        tags[_PHOTOMETRIC] = _RGB
    if meanings[-1] == "alpha" and tiff.first_opacity(tags.get(_EXTRA, ())) is None:
        tags[_EXTRA] = (_ALPHA,)
    return tags


def _orientation(path: Path) -> int:
    try:
        with quiet_pillow(), Image.open(path) as image:
            return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # what Pillow does not know has no such annotation
        return 1


def pixels_of_tiff(path: Path) -> int:
    """Pixels of the first page of a TIFF file; 0 for what is none, or damaged."""
    try:
        with open(path, "rb") as stream:
            if stream.read(4) not in tiff.MAGIC:
                return 0
        import tifffile

        with tifffile.TiffFile(path) as file:
            page: Any = file.pages.first
            return int(page.imagewidth) * int(page.imagelength)
    except Exception:  # damaged headers raise almost anything; who reads the file says what is wrong
        return 0
