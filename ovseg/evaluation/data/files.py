"""Images and masks on disk: patterns of a protocol turned into examples, with nothing to convert."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ovseg.errors import DatasetError
from ovseg.evaluation.data.classes import ids_by_name, read_classes, read_text
from ovseg.evaluation.data.examples import Example, check_same_size, only_class, resize_pair
from ovseg.evaluation.data.masks import read_image, read_mask, to_classes
from ovseg.evaluation.data.orientation import Reading, as_masked, mask_reading, orientation_of
from ovseg.evaluation.data.protocol import Layout, Protocol

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class FilePair:
    """An image file and its mask file."""

    name: str
    image: Path
    mask: Path


@dataclass
class FileDataset:
    """Images and masks on disk, under a protocol whose classes are known."""

    protocol: Protocol
    pairs: tuple[FilePair, ...]
    layout: Layout
    lookup: NDArray[np.int32]
    fingerprint: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each example."""
        return tuple(pair.name for pair in self.pairs)

    def load(self, index: int) -> Example:
        """Decode the image and the mask at ``index``.

        Raises:
            DatasetError: a file cannot be read, their sizes differ, or the mask holds an unknown id.
        """
        return self.joined(index, self.ids(index))

    def joined(self, index: int, ids: NDArray[np.int32]) -> Example:
        """The image at ``index`` with the values ``ids`` of its mask; see ``load``."""
        pair = self.pairs[index]
        image = read_image(pair.image)
        if index in self._turned:
            stated = self.protocol.orientation
            image = as_masked(image, self._turned[index], size=ids.shape, reading=self.reading, stated=stated)
        check_same_size(image, ids, image_name=str(pair.image), mask_name=str(pair.mask))
        truth = to_classes(ids, self.lookup, protocol=self.protocol, path=str(pair.mask))
        image, truth = resize_pair(image, truth, resize=self.protocol.resize)
        return Example(pair.name, image, truth)

    def load_class(self, index: int, class_index: int) -> Example:
        """The example at ``index`` with one class: what is not of it is background (0)."""
        example = self.load(index)
        return Example(example.name, example.image, only_class(example.truth, class_index))

    def files(self, index: int) -> tuple[Path, ...]:
        """The image file and the mask file at ``index``."""
        return self.pairs[index].image, self.pairs[index].mask

    def image_files(self, index: int) -> tuple[Path, ...]:
        """The image file at ``index``."""
        return (self.pairs[index].image,)

    def load_truth(self, index: int) -> NDArray[np.int32]:
        """(H, W) int32 class indices of the mask alone, at its own size; -1 where ignored."""
        path = str(self.pairs[index].mask)
        return to_classes(self.ids(index), self.lookup, protocol=self.protocol, path=path)

    def ids(self, index: int) -> NDArray[np.int32]:
        """(H, W) int32 values of the mask alone, at its own size."""
        return read_mask(self.pairs[index].mask, decode=self.layout.decode)

    @cached_property
    def reading(self) -> Reading | None:
        """How masks lie on photos that their EXIF data turn; see ``mask_reading``."""

        def load(index: int) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
            return read_image(self.pairs[index].image), self.ids(index)

        return mask_reading(self._turned, load, stated=self.protocol.orientation, names=self.names)

    @cached_property
    def _turned(self) -> dict[int, int]:
        found = ((index, orientation_of(pair.image)) for index, pair in enumerate(self.pairs))
        return {index: orientation for index, orientation in found if orientation != 1}


def open_files(protocol: Protocol, data: Path, *, labels: str = "all") -> FileDataset:
    """The images and masks under ``data``; see ``open_dataset``."""
    if not data.is_dir():
        raise DatasetError(f"no folder '{data}' for the data of '{protocol.name}'; {protocol.layout_help}")
    protocol = read_classes(protocol, data)
    layout, pairs = find_pairs(protocol, data)
    if layout.label_list is not None:
        protocol = ids_by_name(protocol, data / layout.label_list)
    return FileDataset(protocol, pairs, layout, protocol.lookup(labels))


def find_pairs(protocol: Protocol, data: Path) -> tuple[Layout, tuple[FilePair, ...]]:
    """The first of the protocol's layouts whose folders are there, and its pairs in order of name.

    Raises:
        DatasetError: no layout fits, a listed file is missing, there is no image, or two have one name.
    """
    for layout in protocol.layouts:
        if not has_folders(layout, protocol, data):
            continue
        pattern = layout.images if layout.found_by == "images" else layout.masks
        listed = layout.names is not None
        names = _listed_names(layout, protocol, data) if listed else _found_names(pattern, protocol, data)
        if not names:
            raise DatasetError(
                f"the split '{protocol.split}' of '{protocol.name}' is empty: nothing in "
                f"'{_folder_of(data, pattern, protocol)}'; {protocol.layout_help}"
            )
        if not layout.names and layout.found_by == "images":
            _refuse_lone_masks(layout, protocol, data, known=set(names))
        _refuse_unusable(names, listed=listed)
        return layout, tuple(_pair(name, layout, protocol, data) for name in names)
    raise DatasetError(f"'{data}' is not laid out as '{protocol.name}' needs; {protocol.layout_help}")


def has_folders(layout: Layout, protocol: Protocol, data: Path) -> bool:
    """Whether the folders of images and masks are there."""
    return all(_folder_of(data, pattern, protocol).is_dir() for pattern in (layout.images, layout.masks))


def _split_pattern(pattern: str, split: str) -> tuple[str, str, str]:
    """Folder to search, and what stands before and after ``{name}`` in a file's path under it."""
    before, _, after = pattern.replace("{split}", split).partition("{name}")
    base, _, prefix = before.rpartition("/")
    return base, prefix, after


def _refuse_unusable(names: list[str], *, listed: bool) -> None:
    twice = [] if listed else [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DatasetError(
            f"'{twice[0]}' must be the name of one image, got {names.count(twice[0])}; rename or remove one"
        )
    strange = [name for name in names if name != name.encode("utf-8", "ignore").decode()]
    if strange:
        raise DatasetError(f"file names must be in UTF-8, got {strange[0]!r}; rename image and mask")


def _refuse_lone_masks(layout: Layout, protocol: Protocol, data: Path, *, known: set[str]) -> None:
    lone = [name for name in _found_names(layout.masks, protocol, data) if name not in known]
    if lone:
        image = data / layout.images.replace("{split}", protocol.split).replace("{name}", lone[0])
        raise DatasetError(
            f"{len(lone)} masks have no image; the first one missing is '{image}'; {protocol.layout_help}"
        )


def _folder_of(data: Path, pattern: str, protocol: Protocol) -> Path:
    return data / _split_pattern(pattern, protocol.split)[0]


def _found_names(pattern: str, protocol: Protocol, data: Path) -> list[str]:
    base, prefix, suffix = _split_pattern(pattern, protocol.split)
    any_image = suffix == ".*"
    names = []
    for path in sorted((data / base).rglob("*")):
        relative = path.relative_to(data / base).as_posix()
        if relative.startswith(".") or "/." in relative or not relative.startswith(prefix):
            continue
        if any_image and path.suffix.lower() in IMAGE_SUFFIXES:
            names.append(relative[len(prefix) : -len(path.suffix)])
        elif not any_image and relative.endswith(suffix):
            names.append(relative[len(prefix) : -len(suffix)])
    return names


def _listed_names(layout: Layout, protocol: Protocol, data: Path) -> list[str]:
    path = data / str(layout.names).replace("{split}", protocol.split)
    if not path.is_file():
        raise DatasetError(f"the list of the split is missing: '{path}'; {protocol.layout_help}")
    return [line.split()[0] for line in read_text(path).splitlines() if line.strip()]


def _pair(name: str, layout: Layout, protocol: Protocol, data: Path) -> FilePair:
    image = existing(data, layout.images.replace("{split}", protocol.split), name)
    mask = existing(data, layout.masks.replace("{split}", protocol.split), name)
    for kind, path in (("image", image), ("mask", mask)):
        if not path.is_file():
            raise DatasetError(f"the {kind} '{path}' is missing; {protocol.layout_help}")
    return FilePair(name, image, mask)


def existing(data: Path, pattern: str, name: str) -> Path:
    """The file of the example ``name``; where the pattern leaves its kind open, the first that is there."""
    path = data / pattern.replace("{name}", name)
    if path.suffix != ".*":
        return path
    stem = str(path)[: -len(".*")]  # with_suffix would eat a dot inside the name
    found = (Path(stem + suffix) for low in IMAGE_SUFFIXES for suffix in (low, low.upper()))
    return next((candidate for candidate in found if candidate.is_file()), Path(stem + ".*"))
