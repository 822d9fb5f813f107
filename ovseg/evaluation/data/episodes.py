"""One class an image (PASCAL-5i, COCO-20i, FSS-1000) and four images in one (Mosaic-4), drawn with a seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ovseg.errors import DatasetError
from ovseg.evaluation.data.class_masks import ClassMasks, Pairs, open_class_masks
from ovseg.evaluation.data.classes import read_text
from ovseg.evaluation.data.examples import BACKGROUND, Dataset, Example, Support
from ovseg.evaluation.data.files import FileDataset, find_pairs, open_files
from ovseg.evaluation.data.orientation import Reading
from ovseg.evaluation.data.protocol import Episodes, Protocol
from ovseg.evaluation.metrics.confusion import IGNORE


@dataclass(frozen=True)
class Episode:
    """The image at ``query``, the one class to find in it, and the images that show what it looks like."""

    name: str
    query: int
    class_index: int
    supports: tuple[int, ...] = ()


@dataclass
class DrawnDataset:
    """Examples that are made of the images of another data set."""

    base: FileDataset
    fingerprint = None
    shown = 1  # so many images of an example are to be segmented; the others are visual examples

    @property
    def protocol(self) -> Protocol:
        """The protocol, with its classes."""
        return self.base.protocol

    @property
    def reading(self) -> Reading | None:
        """That of the data set below."""
        return self.base.reading

    def places(self, index: int) -> tuple[int, ...]:
        """Positions in ``base`` of the images of the example at ``index``."""
        raise NotImplementedError

    def files(self, index: int) -> tuple[Path, ...]:
        """Image and mask of each of its images."""
        return tuple(path for place in self.places(index) for path in self.base.files(place))

    def image_files(self, index: int) -> tuple[Path, ...]:
        """The images to segment."""
        return tuple(path for place in self.places(index)[: self.shown] for path in self.base.image_files(place))


@dataclass
class EpisodeDataset(DrawnDataset):
    """Episodes over the images of another data set; what is not the class of an episode is background."""

    episodes: tuple[Episode, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each episode."""
        return tuple(episode.name for episode in self.episodes)

    def load(self, index: int) -> Example:
        """The query with its binary truth, one candidate class, and the visual examples of it."""
        episode = self.episodes[index]
        query = self.base.load_class(episode.query, episode.class_index)
        supports = tuple(self._support(place, episode.class_index) for place in episode.supports)
        return Example(
            name=episode.name,
            image=query.image,
            truth=query.truth,
            candidates=(episode.class_index,),
            supports={episode.class_index: supports} if supports else {},
        )

    def places(self, index: int) -> tuple[int, ...]:
        """The query, then its visual examples."""
        return self.episodes[index].query, *self.episodes[index].supports

    def _support(self, place: int, class_index: int) -> Support:
        example = self.base.load_class(place, class_index)
        return Support(example.image, example.truth == class_index)


@dataclass
class OneClassFiles(FileDataset):
    """Binary masks in a folder for each class; the folder's name is the class."""

    def load(self, index: int) -> Example:
        """The image; its candidate is its folder's class."""
        example = super().load(index)
        return Example(
            example.name, example.image, self._named(example.truth, index), candidates=(self.class_of(index),)
        )

    def load_truth(self, index: int) -> NDArray[np.int32]:
        """(H, W) int32 class indices of the mask alone, at its own size; -1 where ignored."""
        return self._named(super().load_truth(index), index)

    def class_of(self, index: int) -> int:
        """Class index of the image at ``index``."""
        return self.protocol.names.index(class_name(self.pairs[index].name))

    def _named(self, truth: NDArray[np.int32], index: int) -> NDArray[np.int32]:
        return np.where(truth > BACKGROUND, self.class_of(index), truth).astype(np.int32)


@dataclass
class MosaicDataset(DrawnDataset):
    """Four images of different classes in a 2 x 2 picture; the candidates are these four."""

    base: OneClassFiles
    quadruples: tuple[tuple[int, ...], ...]
    tile: int
    shown = 4

    @property
    def names(self) -> tuple[str, ...]:
        """A number for each mosaic."""
        return tuple(map(self._name, range(len(self.quadruples))))

    def load(self, index: int) -> Example:
        """The mosaic at ``index``: (2 tile, 2 tile, 3) pixels; images bilinear, masks nearest."""
        tiles = [self.base.load(place) for place in self.quadruples[index]]
        size = (self.tile, self.tile)
        images = [np.asarray(Image.fromarray(t.image).resize(size, Image.Resampling.BILINEAR)) for t in tiles]
        truths = [np.asarray(Image.fromarray(t.truth).resize(size, Image.Resampling.NEAREST)) for t in tiles]
        candidates = tuple(sorted(self.base.class_of(place) for place in self.quadruples[index]))
        return Example(self._name(index), two_by_two(images), two_by_two(truths), candidates)

    def _name(self, index: int) -> str:
        return f"mosaic-{index:05d}"

    def places(self, index: int) -> tuple[int, ...]:
        """The four tiles."""
        return self.quadruples[index]


def open_episodes(protocol: Protocol, data: Path) -> Dataset:
    """The episodes of ``protocol`` over the data set at ``data``.

    Raises:
        DatasetError: the data is not laid out as the protocol says, or holds too few images of a class.
    """
    episodes = protocol.episodes
    if episodes is None:
        raise DatasetError(f"protocol '{protocol.name}' has no section 'episodes'; open it with open_dataset")
    if episodes.kind == "few-shot":
        return open_few_shot(protocol, episodes, data)
    base = open_one_class(protocol, data)
    if episodes.kind == "mosaic":
        return open_mosaics(base, episodes)
    return open_shown_classes(base, episodes) if episodes.shots else base


def open_few_shot(protocol: Protocol, episodes: Episodes, data: Path) -> EpisodeDataset:
    """Episodes over the classes of one fold; see ``draw_episodes``."""
    folds = episodes.fold_count or len(episodes.folds)
    if not 0 <= episodes.fold < folds:
        raise DatasetError(f"'{protocol.name}' has folds 0 to {folds - 1}, got {episodes.fold}; choose one")
    base: FileDataset
    if episodes.fold_count:
        base = open_class_masks(protocol, data)
        pairs = pairs_of_fold(base, episodes)
    else:
        base = open_files(protocol, data)
        pairs = images_by_class(base, episodes.folds[episodes.fold], min_pixels=episodes.min_pixels)
    return EpisodeDataset(base, tuple(draw_episodes(pairs, episodes, base=base)))


def pairs_of_fold(base: ClassMasks, episodes: Episodes) -> Pairs:
    """Images of the classes of a fold: of all with more images than ``shots``, in order of id, every n-th.

    Raises:
        DatasetError: so few classes have enough images that the fold has none.
    """
    pairs = base.images_by_class()
    enough = [index for index, places in pairs.items() if len(places) > episodes.shots]
    chosen = enough[episodes.fold :: episodes.fold_count][: len(enough) // episodes.fold_count]
    if not chosen:
        raise DatasetError(
            f"{episodes.fold_count} folds of {episodes.shots}-shot episodes need {episodes.fold_count} classes "
            f"with {episodes.shots + 1} images each, '{base.protocol.name}' found {len(enough)}; complete the data"
        )
    return {index: pairs[index] for index in chosen}


def images_by_class(base: FileDataset, classes: tuple[int, ...], *, min_pixels: int) -> Pairs:
    """For each of ``classes``, the images with at least ``min_pixels`` of it; reads every mask once."""
    pairs: Pairs = {index: [] for index in classes}
    for place in range(len(base.pairs)):
        areas = np.bincount(base.load_truth(place).ravel() - IGNORE, minlength=max(classes) + 2)
        for index in classes:
            if areas[index - IGNORE] >= min_pixels:
                pairs[index].append(place)
    return pairs


def draw_episodes(pairs: Pairs, episodes: Episodes, *, base: Dataset) -> list[Episode]:
    """The episodes of a fold.

    Zero-shot: every (image, class) once, or ``count`` of them without replacement. Few-shot: ``count`` draws
    of a class (or the classes in turn), a query and ``shots`` other images of the class.

    Raises:
        DatasetError: a class has too few images.
    """
    generator = np.random.default_rng(episodes.seed)
    names = base.names
    if episodes.shots == 0:
        every = [(place, index) for index in sorted(pairs) for place in pairs[index]]
        keep = min(len(every), episodes.count or len(every))
        chosen = sorted(generator.permutation(len(every))[:keep])
        return [Episode(f"{names[every[n][0]]}@{every[n][1]}", *every[n]) for n in chosen]
    scarce = [base.protocol.names[index] for index, places in pairs.items() if len(places) <= episodes.shots]
    if scarce:
        raise DatasetError(
            f"{episodes.shots}-shot episodes need {episodes.shots + 1} images of each class; "
            f"too few of {', '.join(scarce)}; ask for fewer shots or complete the data"
        )
    drawn, classes = [], sorted(pairs)
    for number in range(episodes.count or sum(map(len, pairs.values()))):
        index = classes[number % len(classes)] if episodes.in_turn else int(generator.choice(classes))
        query, *supports = generator.choice(pairs[index], size=episodes.shots + 1, replace=False).tolist()
        drawn.append(Episode(f"{number:05d}-{names[query]}@{index}", query, index, tuple(supports)))
    return drawn


def open_one_class(protocol: Protocol, data: Path) -> OneClassFiles:
    """Images whose folder names their class; the protocol gets these classes, background first."""
    if not data.is_dir():
        raise DatasetError(f"no folder '{data}' for the data of '{protocol.name}'; {protocol.layout_help}")
    layout, pairs = find_pairs(protocol, data)
    if protocol.split != "all":
        listed = _listed_classes(protocol, data)
        pairs = tuple(pair for pair in pairs if class_name(pair.name) in listed)
    pairs = tuple(pair for pair in pairs if "/" in pair.name)
    if not pairs:
        raise DatasetError(f"the split '{protocol.split}' of '{protocol.name}' is empty; {protocol.layout_help}")
    values = protocol.model_dump()
    names = sorted({class_name(pair.name) for pair in pairs})
    values["classes"] = [{"name": name, "ids": (place,)} for place, name in enumerate(["background", *names])]
    filled = Protocol.model_validate(values)
    lookup = np.full(1 << 16, IGNORE, np.int32)
    lookup[:2] = (BACKGROUND, BACKGROUND + 1)  # binary masks; the folder says which class the 1 is
    return OneClassFiles(filled, pairs, layout, lookup)


def open_shown_classes(base: OneClassFiles, episodes: Episodes) -> EpisodeDataset:
    """Every image once, shown by others of its folder: by drawn ones, or by the first, which are then not asked.

    Raises:
        DatasetError: a folder has too few images.
    """
    by_class = places_by_class(base)
    scarce = [base.protocol.names[index] for index, places in by_class.items() if len(places) <= episodes.shots]
    if scarce:
        raise DatasetError(
            f"{episodes.shots} examples a class need folders of {episodes.shots + 1} images or more; too few in "
            f"{', '.join(scarce)}; ask for fewer shots or complete the data"
        )
    generator = np.random.default_rng(episodes.seed)
    drawn = []
    for index, places in sorted(by_class.items()):
        for number, place in enumerate(places):
            if episodes.first:
                if number >= episodes.shots:
                    drawn.append(Episode(base.names[place], place, index, tuple(places[: episodes.shots])))
                continue
            others = [each for each in places if each != place]
            supports = generator.choice(others, size=episodes.shots, replace=False).tolist()
            drawn.append(Episode(base.names[place], place, index, tuple(supports)))
    return EpisodeDataset(base, tuple(drawn))


def places_by_class(base: OneClassFiles) -> Pairs:
    """Positions of the images of each class, in order."""
    found: Pairs = {}
    for place in range(len(base.pairs)):
        found.setdefault(base.class_of(place), []).append(place)
    return found


def open_mosaics(base: OneClassFiles, episodes: Episodes) -> MosaicDataset:
    """``count`` mosaics of four different classes each.

    Raises:
        DatasetError: there are fewer than four classes.
    """
    by_class = places_by_class(base)
    if len(by_class) < 4:
        raise DatasetError(f"a mosaic needs 4 classes, '{base.protocol.name}' found {len(by_class)}; add folders")
    generator = np.random.default_rng(episodes.seed)
    quadruples = []
    for _ in range(episodes.count or len(base.pairs)):
        classes = generator.choice(sorted(by_class), size=4, replace=False).tolist()
        quadruples.append(tuple(int(generator.choice(by_class[index])) for index in classes))
    return MosaicDataset(base, tuple(quadruples), episodes.tile)


def two_by_two(tiles: list[NDArray[Any]]) -> NDArray[Any]:
    """Four arrays of one size in reading order."""
    return np.concatenate([np.concatenate(tiles[:2], axis=1), np.concatenate(tiles[2:], axis=1)])


def class_name(name: str) -> str:
    """``"abe's_flyingfish/3"`` as ``"abe's flyingfish"``."""
    return name.rpartition("/")[0].rpartition("/")[2].replace("_", " ")


def _listed_classes(protocol: Protocol, data: Path) -> set[str]:
    path = data / f"{protocol.split}.txt"
    if not path.is_file():
        raise DatasetError(
            f"the list of classes '{path}' is missing; write a folder's name a line, or use --split all"
        )
    return {line.strip().replace("_", " ") for line in read_text(path).splitlines() if line.strip()}
