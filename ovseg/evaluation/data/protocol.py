"""A benchmark's protocol: what is read, which labels are given, what counts. Its hash is in every result."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from ovseg.assets import asset_names, find_asset
from ovseg.config import Config, load_config, parse_config
from ovseg.errors import ConfigError, did_you_mean
from ovseg.vocabulary.background import names_background

IGNORED = -1
UNKNOWN = -2
IDS = 1 << 16  # values that a 16-bit mask can hold
SOURCES_WANTED = ("classes", "background", "ignore", "resize", "split", "metric", "counts")


class ClassEntry(Config):
    """One class: its name, its ids in the mask files, and the words it is asked by."""

    name: str
    ids: tuple[int, ...] = ()  # values of the mask; empty: the position in the list
    prompt: str | None = None  # the label in place of the name, where the data's name is no English word
    synonyms: tuple[str, ...] = ()
    unseen: bool = False  # counts as a novel class in the harmonic mean
    thing: bool = False


class Background(Config):
    """What an unlabelled pixel means and what the segmenter is told about it."""

    class_name: str | None = None  # the class that "none of the labels" becomes; None: closed set, none is an error
    asked: bool = False  # whether the background class's name is among the labels
    phrases: tuple[str, ...] | Literal["auto"] | None = None  # contrast phrases passed to the segmenter


class Layout(Config):
    """Where the files lie, as patterns; ``{name}`` may span folders, ``{split}`` is the protocol's split.

    Where annotations list the images, ``{name}`` is what they call a file, without its ending, ``{id}`` the image's
    id, and ``{group}`` what stands before the first underscore of it.
    """

    images: str
    masks: str = ""  # none where the annotations hold the masks
    annotations: str = ""  # COCO's JSON of objects or panoptic segments
    names: str | None = None  # a file with one name a line; None: every image found
    decode: Literal["index", "red", "ade-full", "binary", "painted", "mat"] = "index"
    found_by: Literal["images", "masks"] = "images"  # which files say what is in the split
    label_list: str | None = None  # the data's own "id: name" file; classes then get their ids by name

    @property
    def has_splits(self) -> bool:
        """Whether a pattern depends on the split."""
        patterns = (self.images, self.masks, self.annotations, self.names or "")
        return any("{split}" in pattern for pattern in patterns)


class Expected(Config):
    """What must hold, or may be; ``files`` empty where any number may come."""

    classes: int | None = None
    absent: tuple[str, ...] = ()  # classes that need not be in any mask
    files: dict[str, int] = Field(default_factory=dict)  # by split


class Resize(Config):
    """What happens to image and mask before the segmenter sees them."""

    short_side: int | None = None  # pixels; image bilinear, mask nearest
    center_crop: bool = False  # cut to the square of the short side


class Episodes(Config):
    """Few-shot or mosaic sampling on top of the files."""

    kind: Literal["few-shot", "one-class", "mosaic", "shown"]
    folds: tuple[tuple[int, ...], ...] = ()  # class positions tested in each fold
    fold_count: int = 0  # with annotations: so many folds of the classes that have images enough (LVIS-92i)
    fold: int = 0
    shots: int = 0
    count: int | None = None  # episodes drawn; None: every (image, class) once
    in_turn: bool = False  # whether the classes of a fold take turns; else each is drawn
    seed: int = 0
    min_pixels: int = 1
    first: bool = False  # of one-class: the first images of a folder are the examples of all others (PerSeg)
    tile: int = 224  # side of a mosaic's tile, pixels


class Protocol(Config):
    """Everything a number depends on besides the model. Made from ``evaluation/benchmarks/*.yaml``."""

    name: str
    title: str
    classes: tuple[ClassEntry, ...] = ()
    classes_from: tuple[str, ...] = ()  # files of the data set that name the classes; empty: listed above
    classes_only: tuple[str, ...] = ()  # of ``classes_from``: these names, in this order
    subsets: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    labels: str = "all"  # "all", "present", "present+N" (N absent ones more) or the name of a subset
    label_form: Literal["concepts", "strings"] = "concepts"
    objects: Literal["panoptic", "instances"] | None = (
        None  # whether segments or objects count, and classes come with them
    )
    saliency: bool = False  # whether how much each pixel stands out counts, in place of a label alone
    words_of: str = ""  # "PROTOCOL" or "PROTOCOL:LABELS", whose classes, in order of the ids, lend names and words
    background: Background = Background()
    ignore: tuple[int, ...] = (255,)
    other: Literal["error", "ignore", "background"] = "error"  # ids that no class names
    orientation: Literal["auto", "upright", "stored"] = "auto"  # how masks lie on photos that EXIF data turn
    split: str = "val"
    layouts: tuple[Layout, ...]
    labelled: bool = False  # also reads what labelling tools write, where no layout fits
    episodes: Episodes | None = None
    resize: Resize = Resize()
    metric: Literal["mean_iou", "foreground_mean_iou"] = "mean_iou"
    expected: Expected = Expected()
    sources: dict[str, str]

    @field_validator("classes", mode="before")
    @classmethod
    def _names_to_entries(cls, value: Any) -> Any:
        """Plain names become entries whose id is their position."""
        if not isinstance(value, list | tuple):
            return value
        entries = [{"name": item} if isinstance(item, str) else item for item in value]
        return [
            entry if not isinstance(entry, dict) or "ids" in entry else {**entry, "ids": (position,)}
            for position, entry in enumerate(entries)
        ]

    @model_validator(mode="after")
    def _consistent(self) -> Protocol:
        missing = [key for key in SOURCES_WANTED if key not in self.sources]
        if missing:
            raise ValueError(f"sources must say where each choice comes from; missing: {', '.join(missing)}")
        if self.classes:
            self._check_classes()
        if self.saliency and self.background.class_name is None:
            raise ValueError("saliency needs a background class, from which the object stands out")
        return self

    def _check_classes(self) -> None:
        names = self.names
        twice = same_names(names)
        if twice:
            raise ValueError(f"every class needs its own name; given twice: {', '.join(twice)}")
        if self.expected.classes not in (None, len(names)):
            raise ValueError(f"expected.classes is {self.expected.classes}, but {len(names)} are listed")
        outside = [value for entry in self.classes for value in entry.ids if not 0 <= value < IDS]
        outside += [value for value in self.ignore if not 0 <= value < IDS]
        if outside:
            raise ValueError(f"mask ids must be in [0, {IDS}), what a 16-bit mask can hold, got {outside[0]}")
        taken: dict[int, str] = {}
        for entry in self.classes:
            for value in entry.ids:
                if taken.setdefault(value, entry.name) != entry.name:
                    raise ValueError(f"mask id {value} belongs to '{taken[value]}' and '{entry.name}'")
        if self.background.class_name is not None and self.background.class_name not in names:
            raise ValueError(f"the background class '{self.background.class_name}' is not among the classes")
        for subset, members in self.subsets.items():
            unknown = [name for name in members if name not in names]
            if unknown:
                raise ValueError(f"subset '{subset}' names no class: {', '.join(unknown)}")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Class names, (L,); the position is the class index everywhere."""
        return tuple(entry.name for entry in self.classes)

    @property
    def background_index(self) -> int | None:
        """Class index that "none of the labels" becomes; None in a closed set."""
        name = self.background.class_name
        return None if name is None else self.names.index(name)

    @property
    def scored(self) -> tuple[int, ...]:
        """Class indices over which the mean IoU is taken: all, or all but the background."""
        dropped = self.background_index if self.metric == "foreground_mean_iou" else None
        return tuple(index for index in range(len(self.classes)) if index != dropped)

    @cached_property
    def things(self) -> tuple[int, ...]:
        """Indices of the classes with objects to count."""
        return tuple(index for index, entry in enumerate(self.classes) if entry.thing)

    @cached_property
    def unseen(self) -> tuple[int, ...]:
        """Indices of the classes marked unseen."""
        return tuple(index for index, entry in enumerate(self.classes) if entry.unseen)

    @property
    def layout_help(self) -> str:
        """One sentence that shows how the data folder should look, for errors."""
        shown = []
        for layout in self.layouts:
            parts = [part for part in (layout.images, layout.masks, layout.annotations, layout.names) if part]
            shown.append(" + ".join(part.replace("{split}", self.split) for part in parts))
        named = f", with {' or '.join(self.classes_from)}" if self.classes_from else ""
        return f"the folder should hold {'; or '.join(shown)}{named}"

    def candidates(self, labels: str) -> tuple[int, ...]:
        """Indices of the classes whose labels are given, before an image narrows them.

        Raises:
            ConfigError: ``labels`` is neither a mode nor a subset of this protocol.
        """
        background = None if self.background.asked else self.background_index
        every = tuple(index for index in range(len(self.classes)) if index != background)
        mode = labels.partition("+")[0]
        if labels == "all" or (mode == "present" and labels.partition("+")[2].isdigit() == ("+" in labels)):
            return every
        if labels in self.subsets:
            chosen = set(self.subsets[labels])
            return tuple(index for index in every if self.names[index] in chosen)
        known = ["all", "present", "present+N", *self.subsets]
        raise ConfigError(
            f"protocol '{self.name}' has no label mode '{labels}'{did_you_mean(labels, known)} "
            f"There are: {', '.join(known)}"
        )

    def lookup(self, labels: str = "all") -> NDArray[np.int32]:
        """(65536,) int32 from mask id to class index; -1 ignored, -2 an id the protocol does not know.

        Args:
            labels: label mode; pixels of classes outside a subset are ignored.
        """
        rest = {"error": UNKNOWN, "ignore": IGNORED, "background": self.background_index or 0}[self.other]
        table = np.full(IDS, rest, np.int32)
        kept = {*self.candidates(labels), self.background_index} if labels in self.subsets else None
        for index, entry in enumerate(self.classes):
            table[list(entry.ids)] = index if kept is None or index in kept else IGNORED
        table[list(self.ignore)] = IGNORED
        return table

    def fingerprint(self, **choices: Any) -> str:
        """Hexadecimal SHA-256 of what the score depends on, without titles and sources."""
        content = self.model_dump(
            mode="json", exclude={"title", "sources", "expected", "orientation", "words_of", "labelled"}
        )
        optional = (
            (content, "objects"),
            (content, "saliency"),
            *((layout, "annotations") for layout in content["layouts"]),
            *((content["episodes"] or {}, key) for key in ("fold_count", "in_turn")),
        )
        for part, key in optional:
            if not part.get(key):
                part.pop(key, None)  # as it was before there were any
        text = json.dumps({"protocol": content, "choices": choices}, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()


def same_names(names: Sequence[str]) -> list[str]:
    """Names that are one to a reader: equal but for case, blanks and underscores; each once, in order of place.

    >>> same_names(["Apple", "traffic_light", "apple", "Traffic  light", "sky"])
    ['Apple', 'traffic_light', 'apple', 'Traffic  light']
    """
    read = [" ".join(unicodedata.normalize("NFKC", name).casefold().replace("_", " ").split()) for name in names]
    counts = Counter(read)
    return list(dict.fromkeys(name for name, plain in zip(names, read, strict=True) if counts[plain] > 1))


def protocol_names() -> list[str]:
    """Names of the protocols that come with the package."""
    return asset_names("evaluation/benchmarks")


def load_protocol(benchmark: str | Path | Protocol) -> Protocol:
    """The protocol named ``benchmark``, or read from the YAML file at that path.

    Raises:
        ConfigError: there is no such protocol, or its file does not hold together.
    """
    if isinstance(benchmark, Protocol):
        return benchmark
    return load_config(Protocol, find_asset("evaluation/benchmarks", str(benchmark)))


def with_classes(
    protocol: Protocol, entries: list[dict[str, Any]], *, ignore: tuple[int, ...], source: str = "the classes"
) -> Protocol:
    """``protocol`` with classes read from ``source``, which is named in errors.

    A class that is named as the background takes what the segmenter leaves unlabelled. It stays among
    the labels, under the word "background", so that positions do not shift.

    Raises:
        ConfigError: the classes do not fit the rest of the protocol.
    """
    named = [entry["name"] for entry in entries if names_background(entry["name"])]
    background = protocol.background
    if named and background.class_name is None:
        background = Background(class_name=named[0], asked=True, phrases="auto")
    values = protocol.model_dump()
    classes = [
        {**entry, "prompt": "background"} if entry["name"] in named[:1] else entry
        for entry in entries
        if not set(entry.get("ids", ())) <= set(ignore)
    ]
    values.update(classes=classes, background=background.model_dump(), ignore=ignore)
    return parse_config(Protocol, values, source=f"{source} for '{protocol.name}'")
