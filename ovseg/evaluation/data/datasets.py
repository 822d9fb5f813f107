"""Data sets as they were published: patterns of a protocol turned into examples, with nothing to convert."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from typing import Protocol as Interface

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ovseg.errors import DatasetError
from ovseg.evaluation.data.masks import read_image, read_mask, to_classes
from ovseg.evaluation.data.protocol import IDS, Layout, Protocol, Resize, with_classes

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Support:
    """A visual example of a class in a few-shot episode: (H, W, 3) uint8 image and (H, W) bool mask."""

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]


@dataclass(frozen=True)
class Example:
    """One image to segment and its truth.

    Attributes:
        name: unique in the data set; what resuming and pairing go by.
        image: (H, W, 3) uint8 RGB.
        truth: (H, W) int32 class indices; -1 is ignored.
        candidates: class indices to ask for; None: all of the protocol's.
        supports: visual examples by class index (few-shot episodes).
    """

    name: str
    image: NDArray[np.uint8]
    truth: NDArray[np.int32]
    candidates: tuple[int, ...] | None = None
    supports: dict[int, tuple[Support, ...]] = field(default_factory=dict)


class Dataset(Interface):
    """A sequence of examples that are decoded when asked for."""

    @property
    def protocol(self) -> Protocol:
        """The protocol, with its classes."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each example, unique."""
        ...

    def load(self, index: int) -> Example:
        """The example at ``index``."""
        ...

    def image_files(self, index: int) -> tuple[Path, ...]:
        """The files that the image at ``index`` is made of; none where it has no file of its own."""
        ...


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

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each example."""
        return tuple(pair.name for pair in self.pairs)

    def load(self, index: int) -> Example:
        """Decode the image and the mask at ``index``.

        Raises:
            DatasetError: a file cannot be read, their sizes differ, or the mask holds an unknown id.
        """
        pair = self.pairs[index]
        ids = self._ids(pair)
        image = read_image(pair.image, size=ids.shape)
        check_same_size(image, ids, image_name=str(pair.image), mask_name=str(pair.mask))
        truth = to_classes(ids, self.lookup, protocol=self.protocol, path=str(pair.mask))
        image, truth = resize_pair(image, truth, resize=self.protocol.resize)
        return Example(pair.name, image, truth)

    def image_files(self, index: int) -> tuple[Path, ...]:
        """The image file at ``index``."""
        return (self.pairs[index].image,)

    def load_truth(self, index: int) -> NDArray[np.int32]:
        """(H, W) int32 class indices of the mask alone, at its own size; -1 where ignored."""
        pair = self.pairs[index]
        return to_classes(self._ids(pair), self.lookup, protocol=self.protocol, path=str(pair.mask))

    def _ids(self, pair: FilePair) -> NDArray[np.int32]:
        return read_mask(pair.mask, decode=self.layout.decode)


def open_dataset(protocol: Protocol, data: str | Path, *, labels: str = "all") -> Dataset:
    """The data set at ``data``, laid out as ``protocol`` says.

    Args:
        protocol: classes may still be unread; the returned data set's ``protocol`` has them.
        data: the data set's folder, or ``hf:owner/name`` for one on the Hugging Face hub.
        labels: label mode; with a subset, pixels of the other classes are ignored.

    Raises:
        DatasetError: the folder or a file is missing (it says which), or a split is empty.
    """
    if str(data).startswith("hf:"):
        from ovseg.evaluation.data.hub import HubDataset

        return HubDataset.open(protocol, str(data)[3:], labels=labels)
    if protocol.episodes is not None:
        from ovseg.evaluation.data.episodes import open_episodes

        return open_episodes(protocol, Path(data))
    return open_files(protocol, Path(data), labels=labels)


def open_files(protocol: Protocol, data: Path, *, labels: str = "all") -> FileDataset:
    """The images and masks under ``data``; see ``open_dataset``."""
    if not data.is_dir():
        raise DatasetError(f"no folder '{data}' for the data of '{protocol.name}'; {layout_help(protocol)}")
    protocol = read_classes(protocol, data)
    layout, pairs = find_pairs(protocol, data)
    if layout.label_list is not None:
        protocol = _ids_by_name(protocol, data / layout.label_list)
    narrowed = protocol.candidates(labels) if labels in protocol.subsets else None
    return FileDataset(protocol, pairs, layout, protocol.lookup(narrowed))


def find_pairs(protocol: Protocol, data: Path) -> tuple[Layout, tuple[FilePair, ...]]:
    """The first of the protocol's layouts whose folders are there, and its pairs in order of name.

    Raises:
        DatasetError: no layout fits, a listed file is missing, there is no image, or two have one name.
    """
    for layout in protocol.layouts:
        if not all(_folder_of(data, pattern, protocol).is_dir() for pattern in (layout.images, layout.masks)):
            continue
        pattern = layout.images if layout.found_by == "images" else layout.masks
        listed = layout.names is not None
        names = _listed_names(layout, protocol, data) if listed else _found_names(pattern, protocol, data)
        if not names:
            raise DatasetError(
                f"the split '{protocol.split}' of '{protocol.name}' is empty: nothing in "
                f"'{_folder_of(data, pattern, protocol)}'; {layout_help(protocol)}"
            )
        if not layout.names and layout.found_by == "images":
            _refuse_lone_masks(layout, protocol, data, known=set(names))
        _refuse_unusable(names, listed=listed)
        return layout, tuple(_pair(name, layout, protocol, data) for name in names)
    raise DatasetError(f"'{data}' is not laid out as '{protocol.name}' needs; {layout_help(protocol)}")


def read_classes(protocol: Protocol, data: Path) -> Protocol:
    """``protocol`` with the classes that the data set's own file names, where the protocol lists none.

    Raises:
        DatasetError: the file is missing, empty, cut off, or names a class twice.
    """
    if not protocol.classes_from:
        return protocol
    path = next((data / name for name in protocol.classes_from if (data / name).is_file()), None)
    if path is None:
        raise DatasetError(
            f"'{data}' needs a file that names the classes: {' or '.join(protocol.classes_from)}; "
            "classes.txt holds a name a line (the id is the line's number from 0), "
            'categories.json {"ignore": 255, "categories": [{"id": 0, "name": "sky"}]}'
        )
    entries, ignore = _parse_classes(path, protocol)
    names = [entry["name"] for entry in entries]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        told = f"twice: {', '.join(twice)}" if twice else "it names none"
        raise DatasetError(f"'{path}' must name each class once; {told}")
    outside = [value for value in (*ignore, *(entry["ids"][0] for entry in entries)) if not 0 <= value < IDS]
    if outside:
        raise DatasetError(f"'{path}' must give ids in [0, {IDS}), as masks of 16 bits hold, got {outside[0]}")
    if protocol.classes_only:
        entries = _only(entries, protocol.classes_only, path)
    return with_classes(protocol, entries, ignore=ignore, source=f"'{path}'")


def layout_help(protocol: Protocol) -> str:
    """One sentence that shows how the data folder should look."""
    shown = []
    for layout in protocol.layouts:
        parts = [layout.images, layout.masks, *([layout.names] if layout.names else [])]
        shown.append(" + ".join(part.replace("{split}", protocol.split) for part in parts))
    named = f", with {' or '.join(protocol.classes_from)}" if protocol.classes_from else ""
    return f"the folder should hold {'; or '.join(shown)}{named}"


def check_same_size(image: NDArray[np.uint8], mask: NDArray[np.int32], *, image_name: str, mask_name: str) -> None:
    """Refuse an image and a mask of different height or width."""
    if image.shape[:2] != mask.shape:
        raise DatasetError(
            f"the image '{image_name}' is {image.shape[0]} x {image.shape[1]} pixels (H x W) but its mask "
            f"'{mask_name}' is {mask.shape[0]} x {mask.shape[1]}; each mask must have its image's size"
        )


def resize_pair(
    image: NDArray[np.uint8], truth: NDArray[np.int32], *, resize: Resize
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Image (bilinear) and truth (nearest) at the protocol's size; unchanged where it states none."""
    if resize.short_side is None:
        return image, truth
    height, width = truth.shape
    scale = resize.short_side / min(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    truth = np.asarray(Image.fromarray(truth).resize(size, Image.Resampling.NEAREST))
    if resize.center_crop:
        side = resize.short_side
        top, left = (truth.shape[0] - side) // 2, (truth.shape[1] - side) // 2
        image, truth = (
            image[top : top + side, left : left + side],
            truth[top : top + side, left : left + side],
        )
    return np.ascontiguousarray(image), np.ascontiguousarray(truth)


def check_data(protocol: Protocol, data: str | Path) -> Iterator[str]:
    """Read every file of the data set and yield a line for each problem; nothing when all is well."""
    dataset = open_dataset(protocol, data)
    wanted = protocol.expected.files.get(protocol.split)
    if wanted is not None and wanted != len(dataset.names):
        yield f"expected {wanted} images in the split '{protocol.split}', found {len(dataset.names)}"
    for index in range(len(dataset.names)):
        try:
            dataset.load(index)
        except DatasetError as error:
            yield str(error)


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
            f"{len(lone)} masks have no image; the first one missing is '{image}'; {layout_help(protocol)}"
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
        raise DatasetError(f"the list of the split is missing: '{path}'; {layout_help(protocol)}")
    return [line.split()[0] for line in _read_text(path).splitlines() if line.strip()]


def _pair(name: str, layout: Layout, protocol: Protocol, data: Path) -> FilePair:
    image = _existing(data, layout.images.replace("{split}", protocol.split), name)
    mask = _existing(data, layout.masks.replace("{split}", protocol.split), name)
    for kind, path in (("image", image), ("mask", mask)):
        if not path.is_file():
            raise DatasetError(f"the {kind} '{path}' is missing; {layout_help(protocol)}")
    return FilePair(name, image, mask)


def _existing(data: Path, pattern: str, name: str) -> Path:
    path = data / pattern.replace("{name}", name)
    if path.suffix != ".*":
        return path
    stem = str(path)[: -len(".*")]  # with_suffix would eat a dot inside the name
    found = (Path(stem + suffix) for low in IMAGE_SUFFIXES for suffix in (low, low.upper()))
    return next((candidate for candidate in found if candidate.is_file()), Path(stem + ".*"))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"'{path}' must be a text file in UTF-8 ({error}); fetch it again") from error


def _parse_classes(path: Path, protocol: Protocol) -> tuple[list[dict[str, Any]], tuple[int, ...]]:
    text = _read_text(path)
    if path.suffix == ".json":
        return _parse_categories(text, path)
    lines = text.rstrip().splitlines()
    numbered = [re.fullmatch(r"\s*(\d+)\s*[:\t]\s*(.+?)\s*", line) for line in lines]
    if lines and all(numbered):  # "17: wall", as the data sets' own label lists are written
        return [{"name": m[2], "ids": (int(m[1]),)} for m in numbered if m], protocol.ignore
    blank = [number for number, line in enumerate(lines) if not line.strip()]
    if blank:
        raise DatasetError(f"'{path}' has an empty line {blank[0] + 1}; each line names the class of its number")
    return [{"name": line.strip(), "ids": (number,)} for number, line in enumerate(lines)], protocol.ignore


def _parse_categories(text: str, path: Path) -> tuple[list[dict[str, Any]], tuple[int, ...]]:
    try:
        content = json.loads(text)
        categories = content["categories"] if isinstance(content, dict) else content
        stated = content.get("ignore", 255) if isinstance(content, dict) else 255
        ignore = tuple(stated) if isinstance(stated, list) else (int(stated),)
        entries = [
            {"name": str(item["name"]), "ids": (int(item["id"]),), "thing": bool(item.get("isthing", 0))}
            for item in categories
        ]
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"'{path}' is cut off or not a list of categories ({error}); it should read "
            '{"ignore": 255, "categories": [{"id": 0, "name": "sky"}]}'
        ) from error
    return entries, ignore


def _ids_by_name(protocol: Protocol, path: Path) -> Protocol:
    """``protocol`` with the mask ids that the data set's list gives to the names of its classes."""
    if not path.is_file():
        raise DatasetError(f"the label list '{path}' is missing; {layout_help(protocol)}")
    entries, _ = _parse_classes(path, protocol)
    ids = {entry["name"].replace(" ", ""): entry["ids"] for entry in entries}
    background = protocol.background.class_name
    missing = [name for name in protocol.names if name.replace(" ", "") not in ids and name != background]
    if missing:
        raise DatasetError(f"'{path}' does not name {', '.join(missing)}; is it the data set's own list?")
    classes = [
        entry.model_copy(update={"ids": ids.get(entry.name.replace(" ", ""), ())}) for entry in protocol.classes
    ]
    return protocol.model_copy(update={"classes": tuple(classes)})


def _only(entries: list[dict[str, Any]], wanted: tuple[str, ...], path: Path) -> list[dict[str, Any]]:
    by_name = {entry["name"]: entry for entry in entries}
    missing = [name for name in wanted if name not in by_name]
    if missing:
        raise DatasetError(f"'{path}' does not name {', '.join(missing)}; is it the data set's own list?")
    return [by_name[name] for name in wanted]
