"""Whether the masks of a data set say what its class list says: counted, and held against what goes wrong unseen.

A mask that holds the wrong numbers is a good file of the right size. So the masks are counted as a whole: what no
image shows, what is ignored, and the patterns that a known mistake leaves (black and white in place of ids, ids
shifted by one). Doubts that no data set in order can raise are refused; the others are told by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovseg.errors import ConfigError, DatasetError, did_you_mean
from ovseg.escape import one_line
from ovseg.evaluation.data.episodes import DrawnDataset
from ovseg.evaluation.data.examples import Dataset
from ovseg.evaluation.data.protocol import IDS, Protocol
from ovseg.evaluation.metrics.confusion import IGNORE

SAMPLE = 200  # masks that an evaluation or a training run looks at before it begins
_MUCH = 0.5  # share of ignored pixels above which it is told
_WHITE = 255
_FEW = 10  # one class in so many may be absent besides the one that looks shifted away


@dataclass
class Survey:
    """What a number of masks hold, added up.

    Attributes:
        protocol: names the classes.
        absent: names of classes that need not be there.
        masks: how many were counted.
        images: (L,) masks that show each class.
        pixels: (L,) pixels of each class.
        ignored: pixels that do not count.
        values: (65536,) pixels of each value; zeros where the data are no masks of ids.
        problems: what could not be read, and why.
    """

    protocol: Protocol
    absent: tuple[str, ...] = ()
    masks: int = 0
    images: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    ignored: int = 0
    values: NDArray[np.int64] = field(default_factory=lambda: np.zeros(IDS, np.int64))
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        unknown = [name for name in self.absent if name not in self.protocol.names]
        if unknown:
            known = did_you_mean(unknown[0], self.protocol.names)
            raise ConfigError(f"absent: no class '{unknown[0]}' in '{self.protocol.name}'{known}")
        self.images = np.zeros(len(self.protocol.names), np.int64)
        self.pixels = np.zeros(len(self.protocol.names), np.int64)

    def add(self, truth: NDArray[np.int32], ids: NDArray[np.int32] | None) -> None:
        """Count a mask: (H, W) class indices, -1 ignored, and its values where it is a file of ids."""
        counts = np.bincount(truth.ravel() - IGNORE, minlength=len(self.pixels) + 1)
        self.masks += 1
        self.ignored += int(counts[0])
        self.pixels += counts[1:]
        self.images += counts[1:] > 0
        if ids is not None:
            self.values += np.bincount(ids.ravel(), minlength=IDS)[:IDS]

    @property
    def ignored_share(self) -> float:
        """Share of all pixels that do not count, in [0, 1]."""
        return self.ignored / max(1, self.ignored + int(self.pixels.sum()))

    @property
    def empty(self) -> list[str]:
        """Names of the classes that no mask shows and that may not be absent."""
        wanted = zip(self.protocol.names, self.pixels, strict=True)
        return [name for name, count in wanted if not count and name not in self.absent]

    def to_dict(self) -> dict[str, Any]:
        """Plain values: masks, ignored share, and images and pixels of each class."""
        rows = zip(self.protocol.names, self.images.tolist(), self.pixels.tolist(), strict=True)
        return {
            "masks": self.masks,
            "ignored": self.ignored_share,
            "classes": [{"name": name, "images": images, "pixels": pixels} for name, images, pixels in rows],
            "empty": [name for name, count in zip(self.protocol.names, self.pixels, strict=True) if not count],
        }

    def to_text(self) -> str:
        """A line a class: its images, its pixels, their share of the pixels that count; then what is ignored."""
        counted = max(1, int(self.pixels.sum()))
        rows = zip(self.images, self.pixels, self.protocol.names, strict=True)
        return "\n".join(
            [
                f"{'images':>8} {'pixels':>12} {'share':>7}  class",
                *(
                    f"{images:8d} {pixels:12d} {pixels / counted:7.2%}  {one_line(name)}"
                    for images, pixels, name in rows
                ),
                f"{self.masks:8d} {self.ignored:12d} {self.ignored_share:7.2%}  ignored (of all pixels)",
            ]
        )


def survey(dataset: Dataset, indices: Sequence[int], *, absent: Sequence[str] = (), whole: bool = False) -> Survey:
    """The masks at ``indices``, counted.

    Args:
        dataset: open.
        indices: which examples.
        absent: classes that need not be there, besides those of the protocol.
        whole: decode the images as well, and go on after a file that cannot be read.

    Raises:
        DatasetError: a file cannot be read; with ``whole`` it is a line of ``problems``.
        ConfigError: a name in ``absent`` is no class.
    """
    found = Survey(dataset.protocol, (*dataset.protocol.expected.absent, *absent))
    if whole:
        try:
            _ = dataset.reading  # one problem of the data set, not one of each photo
        except DatasetError as error:
            found.problems.append(str(error))
            return found
    for index in indices:
        try:
            found.add(*_mask(dataset, index, whole=whole))
        except DatasetError as error:
            if not whole:
                raise
            found.problems.append(str(error))
    return found


def refusals(found: Survey) -> Iterator[str]:
    """Sentences on masks that cannot be what their class list says."""
    names, shown = found.protocol.names, np.flatnonzero(found.pixels)
    if not found.masks:
        return
    if not len(shown):
        yield (
            f"no pixel of {found.masks} masks counts: all are ignored (they hold {_values(found)}); "
            "do the ids of the classes fit these masks?"
        )
        return
    values = np.flatnonzero(found.values)
    black_and_white = values.tolist() == [0, _WHITE] and len(shown) == 1 and found.ignored
    if black_and_white and (found.empty or len(names) == 1):
        absent = f", and {_listed(found.empty)} is nowhere" if found.empty else ""
        yield (
            f"the masks hold only 0 and {_WHITE}: {_WHITE} is ignored, every other pixel is "
            f"'{names[shown[0]]}'{absent}; if white marks a class, write its id in place of {_WHITE}, or use a "
            f"benchmark file whose layout says decode: binary{_allow(found.empty)}"
        )


def doubts(found: Survey) -> Iterator[str]:
    """Sentences on masks that look as a known mistake makes them look, but may be right."""
    shown = found.pixels > 0
    if any(refusals(found)) or not found.masks:
        return
    empty = found.empty
    by_number = found.protocol.objects is None  # else the file that names the classes gives the ids too
    if by_number and len(shown) > 2 and len(empty) <= 1 + len(shown) // _FEW:
        order = np.argsort([min(entry.ids, default=0) for entry in found.protocol.classes])
        names = [found.protocol.names[index] for index in order]
        if names[0] in empty and shown[order[1]]:
            yield _shifted(names[0], "first", "too high", empty)
        elif empty == [names[-1]] and found.ignored:  # a last class among other empty ones may just be rare
            yield _shifted(names[-1], "last", "too low", empty)
    if shown.sum() == 1 and len(shown) > 1 and empty:
        name = found.protocol.names[int(shown.argmax())]
        yield f"every pixel that counts is '{name}'; nothing is told apart here{_allow(empty)}"


def remarks(found: Survey, *, of: int) -> Iterator[str]:
    """Sentences on what is as it may be, but should be known.

    Args:
        found: the masks that were counted.
        of: number of all masks.
    """
    empty = found.empty
    if empty and found.masks:
        where = "no mask" if found.masks >= of else f"none of the {found.masks} masks looked at, of {of}"
        yield f"{len(empty)} of {len(found.pixels)} classes are in {where}: {_listed(empty, shown=20)}"
    if found.ignored_share > _MUCH:
        yield f"{found.ignored_share:.1%} of all pixels are ignored and do not count"
    unnamed = _unnamed(found)
    if len(unnamed):
        share = found.values[unnamed].sum() / max(1, found.values.sum())
        yield (
            f"{share:.1%} of all pixels hold ids that no class of '{found.protocol.name}' names: "
            f"{_listed([str(value) for value in unnamed], shown=8)}"
        )


def check_before(dataset: Dataset, indices: Sequence[int], *, absent: Sequence[str] = ()) -> list[str]:
    """What should be known before ``indices`` are evaluated or trained on: at most ``SAMPLE`` masks are looked at.

    Returns:
        Sentences, each naming what it is about.

    Raises:
        DatasetError: the masks cannot be what their class list says; where a part looks so, all are read first.
    """
    places = base_places(dataset, indices)
    drawn, dataset = dataset, base_of(dataset)
    evenly = np.linspace(0, len(places) - 1, min(SAMPLE, len(places))).round().astype(int)
    chosen = [places[number] for number in evenly]
    found = survey(dataset, chosen, absent=absent)
    settled = len(chosen) == len(places) and not found.pixels.any()
    if any(refusals(found)) and not settled and len(chosen) < len(dataset.names):
        found = survey(dataset, range(len(dataset.names)), absent=absent)  # a part may look so by chance
    for sentence in refusals(found):
        raise DatasetError(sentence)
    told = [*doubts(found), *remarks(found, of=len(dataset.names)), *_turned(dataset), *_notes(dataset)]
    return told if drawn is dataset else [*told, *_notes(drawn)]


def check_all(dataset: Dataset, *, absent: Sequence[str] = ()) -> tuple[Survey, list[str], list[str]]:
    """Every file of a data set read: what its masks hold, what is wrong or doubtful, and what should be known."""
    names = dataset.names
    wanted = dataset.protocol.expected.files.get(dataset.protocol.split)
    counted = (
        [f"expected {wanted} images in the split '{dataset.protocol.split}', found {len(names)}"]
        if wanted not in (None, len(names))
        else []
    )
    base = base_of(dataset)
    found = survey(base, range(len(base.names)), absent=absent, whole=True)
    problems = [*counted, *found.problems, *refusals(found), *doubts(found)]
    told = list(remarks(found, of=len(base.names)))
    return found, problems, [*told, *_notes(base)] if found.problems else [*told, *_turned(base), *_notes(base)]


def base_of(dataset: Dataset) -> Dataset:
    """The data set of whole images and masks that ``dataset`` is, or draws its examples from."""
    return dataset.base if isinstance(dataset, DrawnDataset) else dataset


def base_places(dataset: Dataset, indices: Sequence[int]) -> list[int]:
    """Where ``base_of`` has the images of the examples at ``indices``, each once."""
    if not isinstance(dataset, DrawnDataset):
        return list(indices)
    return sorted({place for index in indices for place in dataset.places(index)})


def _notes(dataset: Dataset) -> list[str]:
    """What a data set has to say of itself."""
    notes: list[str] = getattr(dataset, "notes", [])
    return notes


def _turned(dataset: Dataset) -> list[str]:
    """What was found out about photos that their EXIF data turn."""
    words = {"upright": "on the turned photos", "stored": "on the pixels as stored, which are used as they are"}
    if dataset.reading is None:
        return []
    return [
        f"EXIF data turn some photos; their masks were drawn {words[dataset.reading]} where size leaves it open"
    ]


def _mask(dataset: Dataset, index: int, *, whole: bool) -> tuple[NDArray[np.int32], NDArray[np.int32] | None]:
    """Class indices and, where the data are masks of ids, values at ``index``."""
    read, quick = getattr(dataset, "ids", None), getattr(dataset, "load_truth", None)
    truth = dataset.load(index).truth if whole or quick is None else quick(index)
    return truth, None if read is None else read(index)


def _shifted(name: str, end: str, how: str, empty: list[str]) -> str:
    return (
        f"the {end} class, '{name}', is in no mask while the others are: are the ids of the masks {how} by one?"
        f"{_allow(empty)}"
    )


def _allow(names: Sequence[str]) -> str:
    """The end of a sentence: how to say that classes are rightly absent."""
    options = " ".join(f"--absent '{name}'" for name in names[:3])
    return f"; if the data have none: {options}" if names else ""


def _unnamed(found: Survey) -> NDArray[np.int64]:
    """Values that occur, and that neither a class nor the list of ignored ids names."""
    named = {value for entry in found.protocol.classes for value in entry.ids} | set(found.protocol.ignore)
    return np.asarray([value for value in np.flatnonzero(found.values) if int(value) not in named], np.int64)


def _values(found: Survey) -> str:
    values = np.flatnonzero(found.values)
    return f"the ids {_listed([str(value) for value in values], shown=8)}" if len(values) else "no ids"


def _listed(names: Sequence[str], *, shown: int = 5) -> str:
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")
