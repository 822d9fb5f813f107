"""Data sets of the Hugging Face hub, or saved by its library, under any protocol that lists its classes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovseg.errors import DatasetError
from ovseg.evaluation.data.examples import Example, check_same_size, resize_pair
from ovseg.evaluation.data.masks import INDEX_MODES, to_classes
from ovseg.evaluation.data.orientation import Reading, as_masked, mask_reading, orientation_of
from ovseg.evaluation.data.protocol import Protocol
from ovseg.images.hub import HubName

IMAGE_COLUMNS = ("image", "img", "pixel_values", "file")
MASK_COLUMNS = ("annotation", "annotations", "mask", "label", "labels", "segmentation", "semantic_segmentation")


@dataclass
class HubDataset:
    """Rows with an image column and a mask column (single-channel ids)."""

    protocol: Protocol
    rows: Any  # datasets.Dataset
    image_column: str
    mask_column: str
    lookup: NDArray[np.int32]

    @property
    def names(self) -> tuple[str, ...]:
        """Row numbers, padded so that their order is that of the rows."""
        return tuple(map(self._name, range(len(self.rows))))

    @property
    def fingerprint(self) -> str:
        """What the library knows these rows by."""
        return str(self.rows._fingerprint)

    def files(self, index: int) -> tuple[Path, ...]:
        """None: the rows hold images and masks."""
        return ()

    image_files = files

    def load(self, index: int) -> Example:
        """Decode row ``index``.

        Raises:
            DatasetError: the mask is in colours, has another size than the image, or holds an unknown id.
        """
        pixels, ids = self._upright(index), self.ids(index)
        place = f"row {index}"
        if index in self._turned:
            stated = self.protocol.orientation
            pixels = as_masked(pixels, self._turned[index], size=ids.shape, reading=self.reading, stated=stated)
        check_same_size(pixels, ids, image_name=place, mask_name=place)
        truth = to_classes(ids, self.lookup, protocol=self.protocol, path=place)
        pixels, truth = resize_pair(pixels, truth, resize=self.protocol.resize)
        return Example(self._name(index), pixels, truth)

    def ids(self, index: int) -> NDArray[np.int32]:
        """(H, W) int32 values of the mask of row ``index``.

        Raises:
            DatasetError: the mask is in colours.
        """
        mask = self.rows[index][self.mask_column]
        if mask.mode not in INDEX_MODES:
            raise DatasetError(
                f"column '{self.mask_column}' of row {index} must be single-channel ids, "
                f"got mode {mask.mode}; choose a data set whose masks are ids"
            )
        return np.asarray(mask).astype(np.int32)

    @cached_property
    def reading(self) -> Reading | None:
        """How masks lie on photos that their EXIF data turn; see ``mask_reading``."""

        def load(index: int) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
            return self._upright(index), self.ids(index)

        return mask_reading(self._turned, load, stated=self.protocol.orientation, names=self.names)

    @cached_property
    def _turned(self) -> dict[int, int]:
        import datasets

        column = self.rows.select_columns([self.image_column])
        encoded = column.cast_column(self.image_column, datasets.Image(decode=False))
        found: dict[int, int] = {}
        for index, row in enumerate(encoded):
            value = row[self.image_column]
            orientation = orientation_of(Path(value["path"]) if value["bytes"] is None else value["bytes"])
            if orientation != 1:
                found[index] = orientation
        return found

    def _upright(self, index: int) -> NDArray[np.uint8]:
        return np.asarray(self.rows[index][self.image_column].convert("RGB"))  # the library has turned it

    def _name(self, index: int) -> str:
        return f"{index:08d}"


def open_hub(protocol: Protocol, source: str, *, labels: str = "all") -> HubDataset:
    """The data set that ``source`` names; a split in the name replaces the protocol's.

    Raises:
        DatasetError: it cannot be had, lacks an image or a mask column, or the protocol lists no classes.
    """
    if not protocol.classes:
        raise DatasetError(
            f"protocol '{protocol.name}' lists no classes, so ids of '{source}' have no names; "
            "write a protocol with classes: and pass its .yaml"
        )
    name = HubName.parse(source)
    protocol = protocol.model_copy(update={"split": name.split or protocol.split})
    rows = name.open(split=protocol.split)
    if len(rows) == 0:
        raise DatasetError(f"the split '{protocol.split}' of '{source}' is empty; choose another with --split")
    image, mask = (_column(rows.column_names, known, source) for known in (IMAGE_COLUMNS, MASK_COLUMNS))
    return HubDataset(protocol, rows, image, mask, protocol.lookup(labels))


def _column(columns: list[str], known: tuple[str, ...], source: str) -> str:
    found = next((column for column in known if column in columns), None)
    if found is None:
        raise DatasetError(f"'{source}' needs a column named {' or '.join(known)}, got {', '.join(columns)}")
    return found
