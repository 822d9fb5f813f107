"""Images with label maps, wherever they come from: a benchmark's readers, or a folder of pseudo-labels."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ovseg.config import Config
from ovseg.errors import ConfigError, DatasetError, ImageError
from ovseg.evaluation.data.check import check_before
from ovseg.evaluation.data.datasets import Dataset, check_same_size, open_dataset, open_files
from ovseg.evaluation.data.masks import read_mask
from ovseg.evaluation.data.orientation import Reading
from ovseg.evaluation.data.protocol import load_protocol
from ovseg.files import sha256_of_bytes
from ovseg.images.hub import is_hub
from ovseg.images.load import load_image
from ovseg.images.sources import is_file_key, read_key
from ovseg.training.config import Place, Positive
from ovseg.training.features import FeatureCache

IGNORED, NONE = -1, -2  # of a label map: counts for nothing; counts as none of the classes
_PSEUDO_IGNORE = 255


class MaskData(Config):
    """Images with masks.

    Attributes:
        protocol: the benchmark file that says how the folder is laid out and what its classes are called.
        path: the folder; relative paths start from the working directory.
        split: instead of the protocol's.
        folds: number of parts for cross-validation; image i is in part i mod folds.
        held_out: the part that is not trained on; None trains on all.
        held_out_classes: class names whose masks are not trained on.
        fold: of a few-shot protocol (PASCAL-5i, COCO-20i): its classes are held out as well.
        orientation: instead of the protocol's: how masks lie on photos that their EXIF data turn.
    """

    protocol: str
    path: Place
    split: str | None = None
    folds: Positive = 1
    held_out: int | None = None
    held_out_classes: tuple[str, ...] = ()
    fold: int | None = None
    orientation: Reading | None = None


class PseudoLabels(Config):
    """Images with label maps that another model wrote (``ovseg pseudo-label``).

    Attributes:
        pseudo_labels: the folder with ``labels/``, ``confidence/``, ``labels.json`` and ``manifest-*.jsonl``.
        images: folder that the paths of the manifests start from.
        weighted: whether the confidence of a pixel is the weight of its loss.
        keep: share of the pixels of each label, the most certain ones, that are trained on.
    """

    pseudo_labels: Path
    images: Path = Path(".")
    weighted: bool = True
    keep: Annotated[float, Field(gt=0, le=1)] = 1.0


@dataclass(frozen=True)
class Labelled:
    """An image and what is known of its pixels.

    Attributes:
        image: (H, W, 3) uint8.
        truth: (H, W) int32 class indices; −1 ignored, −2 none of the classes.
        confidence: (H, W) uint8, 255 is certain; None where every pixel is.
    """

    image: NDArray[np.uint8]
    truth: NDArray[np.int32]
    confidence: NDArray[np.uint8] | None = None


class Source(Protocol):
    """Labelled images of one vocabulary.

    Attributes:
        phrases: the text of each class, (L,).
        synonyms: of some phrases, further ones for the same class; the best one counts.
        names: of the images.
        reading: what decides ``load`` besides the files and the name, as plain values.
        settings: the section of the training file.
    """

    phrases: tuple[str, ...]
    synonyms: dict[str, tuple[str, ...]]
    names: tuple[str, ...]
    reading: dict[str, Any]
    settings: dict[str, Any]

    def files(self, index: int) -> tuple[Path, ...]:
        """All files that ``load`` reads."""

    def load(self, index: int) -> Labelled:
        """The image at ``index`` of ``names``, with its whole label map."""

    def select(
        self, truth: NDArray[Any], confidence: NDArray[np.uint8] | None
    ) -> tuple[NDArray[Any], NDArray[np.uint8] | None]:
        """``truth`` with all pixels ignored that are not trained on, and the weight of the others."""


class MaskSource:
    """The images of a benchmark, read by its protocol, without what is held out.

    Raises:
        ConfigError: a held-out class is unknown, or the fold does not exist.
        DatasetError: the data are incomplete, or nothing is left to train on.
    """

    def __init__(self, data: MaskData) -> None:
        self.dataset = open_masks(data)
        protocol = self.dataset.protocol
        self.held = held_out_classes(data, self.dataset)
        self.phrases = tuple(entry.prompt or entry.name for entry in protocol.classes)
        self.synonyms: dict[str, tuple[str, ...]] = {}
        self._none = protocol.background_index
        everyone = self.dataset.names
        self.rows = [
            row for row in range(len(everyone)) if data.held_out is None or row % data.folds != data.held_out
        ]
        self.names = tuple(everyone[row] for row in self.rows)
        if not self.rows or len(self.held) >= len(protocol.names):
            raise DatasetError(
                f"nothing of '{data.path}' is left to train on: {len(self.rows)} images and "
                f"{len(protocol.names) - len(self.held)} classes after holding out; hold out less"
            )
        self.reading = reading_of(self.dataset)
        self.settings = data.model_dump(mode="json")

    def files(self, index: int) -> tuple[Path, ...]:
        """Image and mask; none of a data set that is not made of files."""
        return self.dataset.files(self.rows[index])

    def load(self, index: int) -> Labelled:
        """The image; pixels of the background are none of the classes."""
        example = self.dataset.load(self.rows[index])
        truth = example.truth.copy()
        if self._none is not None:
            truth[truth == self._none] = NONE
        return Labelled(example.image, truth)

    def select(
        self, truth: NDArray[Any], confidence: NDArray[np.uint8] | None
    ) -> tuple[NDArray[Any], NDArray[np.uint8] | None]:
        """Held-out classes are ignored; masks are certain."""
        return np.where(np.isin(truth, self.held), IGNORED, truth).astype(truth.dtype), confidence


class PseudoLabelSource:
    """A folder that ``ovseg pseudo-label`` wrote; needs no index, only images and label maps.

    Images may be files, members of tar archives, or rows of a data set of the hub. The latter two have no file of
    their own: the content that was labelled is part of their name, and what is read must be that.

    Raises:
        DatasetError: a file is missing or cut off, or nothing is labelled.
    """

    def __init__(self, data: PseudoLabels) -> None:
        self.root, self.data = data.pseudo_labels, data
        path = self.root / "labels.json"
        if not path.is_file():
            raise DatasetError(f"expected pseudo-labels in '{self.root}', got no labels.json; ovseg pseudo-label")
        from ovseg.bank.pseudo_labels import read_pseudo_labels  # with it comes FAISS, which masks have no use for

        stated, rows = read_pseudo_labels(self.root)
        self.phrases = tuple(stated["labels"])
        self.synonyms = {name: tuple(more) for name, more in stated.get("synonyms", {}).items()}
        self.lines = [row for row in rows if "error" not in row and sum(row["pixels"]) > 0]
        self.names = tuple(map(self._name, self.lines))
        if not self.lines:
            raise DatasetError(f"'{self.root}' labels no pixel of {len(rows)} images; lower --confidence")
        self.reading: dict[str, Any] = {"pseudo-labels": len(self.phrases)}
        self.settings = data.model_dump(mode="json")
        self.thresholds = self._thresholds() if data.keep < 1 else None

    def files(self, index: int) -> tuple[Path, ...]:
        """The image where it is a file, label map and confidence."""
        key, maps = self._key(self.lines[index]), self._maps(index)
        return (Path(key), *maps) if is_file_key(key) else maps

    def load(self, index: int) -> Labelled:
        """The image at ``index`` with its label map and confidence.

        Raises:
            DatasetError: the image is gone or no longer the one that was labelled, sizes differ, or a pixel has a
                label that labels.json does not know.
        """
        map_file, confidence_file = self._maps(index)
        ids = read_mask(map_file)
        image = self._image(self.lines[index])  # labels lie on the upright photo
        check_same_size(image, ids, image_name=self.names[index], mask_name=str(map_file))
        strange = np.unique(ids[(ids >= len(self.phrases)) & (ids != _PSEUDO_IGNORE)])
        if len(strange):
            raise DatasetError(
                f"'{map_file}' holds label {int(strange[0])}, but labels.json names {len(self.phrases)} labels; "
                "write the pseudo-labels again"
            )
        truth = np.where(ids == _PSEUDO_IGNORE, IGNORED, ids).astype(np.int32)
        return Labelled(image, truth, read_mask(confidence_file).astype(np.uint8))

    def select(
        self, truth: NDArray[Any], confidence: NDArray[np.uint8] | None
    ) -> tuple[NDArray[Any], NDArray[np.uint8] | None]:
        """The most certain pixels of each label, and their confidence where it weighs."""
        if self.thresholds is not None and confidence is not None:
            low = (truth >= 0) & (confidence < self.thresholds[np.maximum(truth, 0)])
            truth = np.where(low, IGNORED, truth).astype(truth.dtype)
        return truth, confidence if self.data.weighted else None

    def _key(self, row: dict[str, Any]) -> str:
        """Where the image of a manifest's line is read from; see ``images.sources``."""
        return row["path"] if is_hub(row["path"]) else str(self.data.images / row["path"])

    def _name(self, row: dict[str, Any]) -> str:
        if is_file_key(row["path"]):
            return str(row["path"])
        if "image" not in row:
            raise DatasetError(
                f"'{self.root}' does not say what of '{row['path']}' was labelled; run 'ovseg pseudo-label' into a "
                "new folder"
            )
        return f"{row['path']} ({row['image']['sha256'][:12]})"

    def _maps(self, index: int) -> tuple[Path, Path]:
        """Label map and confidence."""
        name = self.lines[index]["name"]
        return self.root / "labels" / name, self.root / "confidence" / name

    def _image(self, row: dict[str, Any]) -> NDArray[np.uint8]:
        key = self._key(row)
        try:
            content = read_key(key)
            if "image" in row and sha256_of_bytes(content) != row["image"]["sha256"]:
                raise DatasetError(
                    f"'{key}' is no longer the image that was labelled; run 'ovseg pseudo-label' again, which "
                    "labels anew what has changed"
                )
            return load_image(content)
        except ImageError as error:
            raise DatasetError(f"cannot read the image: {error}") from error

    def _thresholds(self) -> NDArray[np.int64]:
        """(L,) per label the confidence, 0 to 255, that the share ``keep`` of its pixels reach.

        Source: Zou et al., class-balanced self-training, ECCV 2018, algorithm 2.
        """
        counts = np.zeros((len(self.phrases), 256), np.int64)
        for index in range(len(self.lines)):
            ids, sure = map(read_mask, self._maps(index))
            known = ids < len(self.phrases)
            counts += np.bincount(ids[known] * 256 + sure[known], minlength=counts.size).reshape(counts.shape)
        reached = counts[:, ::-1].cumsum(1)[:, ::-1]  # pixels at this confidence or above
        enough = reached >= self.data.keep * reached[:, :1]
        found: NDArray[np.int64] = np.where(enough, np.arange(256), 0).max(1)
        return found


def place_of(settings: Any) -> str:
    """The folder or table that the settings of a source name."""
    if not isinstance(settings, dict):
        return str(settings)
    return str(settings.get("path") or settings.get("table") or settings.get("pseudo_labels"))


def open_source(data: MaskData | PseudoLabels) -> Source:
    """The labelled images that the section ``data`` of a training file names."""
    return MaskSource(data) if isinstance(data, MaskData) else PseudoLabelSource(data)


def source_content(source: Source, cache: FeatureCache) -> str:
    """What a source is known by: its classes, and the content of all its files."""
    examples = ((name, source.files(index)) for index, name in enumerate(source.names))
    return cache.contents(examples, source.reading, source.phrases, source.synonyms)


def open_masks(data: MaskData) -> Dataset:
    """The data set of a training file's section, whole; few-shot protocols give the images and masks themselves.

    Raises:
        DatasetError: the data are incomplete.
    """
    protocol = load_protocol(data.protocol)
    changes = {"split": data.split, "orientation": data.orientation}
    protocol = protocol.model_copy(update={key: value for key, value in changes.items() if value is not None})
    if protocol.episodes is not None and protocol.episodes.kind == "few-shot":
        # an episode shows one class only
        return open_files(protocol, Path(data.path))
    return open_dataset(protocol, data.path)


def held_out_classes(data: MaskData, dataset: Dataset) -> list[int]:
    """Indices of the classes that are held out by name, or by the fold of a few-shot protocol.

    Raises:
        ConfigError: a name is no class, or there is no such fold.
    """
    names = set(data.held_out_classes)
    if data.fold is not None:
        protocol = load_protocol(data.protocol)
        folds = protocol.episodes.folds if protocol.episodes is not None else ()
        if not 0 <= data.fold < len(folds):
            raise ConfigError(f"'{data.protocol}' has {len(folds)} folds, got fold {data.fold}; choose one from 0")
        names |= {protocol.names[index] for index in folds[data.fold]}
    known = dataset.protocol.names
    unknown = sorted(names - set(known))
    if unknown:
        raise ConfigError(f"held_out_classes: no class {unknown} in '{data.protocol}'")
    return [known.index(name) for name in sorted(names)]


def reading_of(dataset: Dataset) -> dict[str, Any]:
    """What decides the examples of a data set besides their files: the protocol, or the version on the hub."""
    reading = {"protocol": dataset.protocol.fingerprint(), "data": dataset.fingerprint}
    return reading if dataset.reading is None else {**reading, "orientation": dataset.reading}


def check_masks(data: MaskData) -> list[str]:
    """What should be known of the masks before anything is made of them; see ``check_before``.

    Raises:
        DatasetError: they cannot be what their class list says.
    """
    dataset = open_masks(data)
    return [f"'{data.path}': {sentence}" for sentence in check_before(dataset, range(len(dataset.names)))]


def dataset_content(dataset: Dataset, rows: Iterable[int], cache: FeatureCache) -> str:
    """What the examples at ``rows`` are known by: the protocol, and the content of all their files."""
    names = dataset.names
    return cache.contents(((names[row], dataset.files(row)) for row in rows), reading_of(dataset))


def read_table(path: Path, *, column: str) -> list[tuple[str, str]]:
    """The values of the columns ``file`` and ``column`` of a CSV, line by line.

    Raises:
        DatasetError: there is no such file, it has other columns, or no line.
    """
    if not path.is_file():
        raise DatasetError(f"expected a CSV with the columns file and {column} at '{path}'; there is none")
    with open(path, encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    if not rows or not {"file", column} <= set(rows[0]):
        found = ", ".join(rows[0]) if rows else "no line"
        raise DatasetError(f"'{path}' must have the columns file and {column}, got {found}")
    return [(row["file"], row[column]) for row in rows]
