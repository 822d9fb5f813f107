"""Images with label maps, wherever they come from: a benchmark's readers, or a folder of pseudo-labels."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ovseg.errors import ConfigError, DatasetError
from ovseg.evaluation.data.datasets import Dataset, check_same_size, open_dataset, open_files
from ovseg.evaluation.data.masks import read_image, read_mask
from ovseg.evaluation.data.protocol import load_protocol
from ovseg.files import sha256_of
from ovseg.provenance import names_hash
from ovseg.training.config import MaskData, PseudoLabels

IGNORED, NONE = -1, -2  # of a label map: counts for nothing; counts as none of the classes
_PSEUDO_IGNORE = 255


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
        phrases: what each class is asked by, (L,).
        synonyms: of some phrases, further ones for the same class; the best one counts.
        names: of the images.
        rows: the number of each image in its data set, whatever is held out.
        identity: what decides images and label maps before anything is held out, for the cache of features.
        settings: the section of the training file.
    """

    phrases: tuple[str, ...]
    synonyms: dict[str, tuple[str, ...]]
    names: tuple[str, ...]
    rows: list[int]
    identity: dict[str, Any]
    settings: dict[str, Any]

    def load(self, index: int) -> Labelled:
        """The image at ``index`` of ``names``, with all its labels."""

    def hide(self, truth: NDArray[Any]) -> NDArray[Any]:
        """``truth`` with held-out classes ignored."""

    def select(
        self, truth: NDArray[Any], confidence: NDArray[np.uint8] | None
    ) -> tuple[NDArray[Any], NDArray[np.uint8] | None]:
        """``truth`` with pixels that are not certain enough ignored, and the weight of the others."""


class MaskSource:
    """The images of a benchmark, read by its protocol, without what is held out.

    Raises:
        ConfigError: a held-out class is unknown, or the fold does not exist.
        DatasetError: the data are incomplete, or nothing is left to train on.
    """

    def __init__(self, data: MaskData) -> None:
        protocol = load_protocol(data.protocol)
        if data.split is not None:
            protocol = protocol.model_copy(update={"split": data.split})
        # episodes ask one class an image; training reads the masks that they are drawn from
        few_shot = protocol.episodes is not None and protocol.episodes.kind == "few-shot"
        self.dataset: Dataset = (open_files if few_shot else open_dataset)(protocol, data.path)
        protocol = self.dataset.protocol
        held = {*data.held_out_classes, *_fold_classes(data)}
        unknown = sorted(held - set(protocol.names))
        if unknown:
            raise ConfigError(f"held_out_classes: no class {unknown} in '{data.protocol}'")
        self.phrases = tuple(entry.prompt or entry.name for entry in protocol.classes)
        self.synonyms: dict[str, tuple[str, ...]] = {}
        self.held = [protocol.names.index(name) for name in held]
        self._none = protocol.background_index
        parts = range(len(self.dataset.names))
        self.rows = [row for row in parts if data.held_out is None or row % data.folds != data.held_out]
        self.names = tuple(self.dataset.names[row] for row in self.rows)
        if not self.rows or len(self.held) >= len(protocol.names):
            raise DatasetError(
                f"nothing of '{data.path}' is left to train on: {len(self.rows)} images and "
                f"{len(protocol.names) - len(self.held)} classes after holding out; hold out less"
            )
        self.identity = {
            "path": str(data.path),
            "protocol": protocol.fingerprint(),
            "images": names_hash(self.dataset.names),
        }
        self.settings = data.model_dump(mode="json")

    def load(self, index: int) -> Labelled:
        """The image; pixels of the background are none of the classes."""
        example = self.dataset.load(self.rows[index])
        truth = example.truth.copy()
        if self._none is not None:
            truth[truth == self._none] = NONE
        return Labelled(example.image, truth)

    def hide(self, truth: NDArray[Any]) -> NDArray[Any]:
        """``truth`` with held-out classes ignored."""
        return np.where(np.isin(truth, self.held), IGNORED, truth).astype(truth.dtype)

    def select(
        self, truth: NDArray[Any], confidence: NDArray[np.uint8] | None
    ) -> tuple[NDArray[Any], NDArray[np.uint8] | None]:
        """Both as they are: masks are certain."""
        return truth, confidence


class PseudoLabelSource:
    """A folder that ``ovseg pseudo-label`` wrote; needs no index, only images and label maps.

    Raises:
        DatasetError: a file is missing or cut off, or nothing is labelled.
    """

    def __init__(self, data: PseudoLabels) -> None:
        self.root, self.data = data.pseudo_labels, data
        path = self.root / "labels.json"
        if not path.is_file():
            raise DatasetError(f"expected pseudo-labels in '{self.root}', got no labels.json; ovseg pseudo-label")
        stated = json.loads(path.read_text(encoding="utf-8"))
        self.phrases = tuple(stated["labels"])
        self.synonyms = {name: tuple(more) for name, more in stated.get("synonyms", {}).items()}
        manifests = sorted(self.root.glob("manifest-*.jsonl"))
        lines = [line for file in manifests for line in file.read_text(encoding="utf-8").split("\n")[:-1]]
        rows = [json.loads(line) for line in lines]
        self.lines = [row for row in rows if "error" not in row and sum(row["pixels"]) > 0]
        self.names = tuple(row["path"] for row in self.lines)
        self.rows = list(range(len(self.lines)))
        if not self.lines:
            raise DatasetError(f"'{self.root}' labels no pixel of {len(rows)} images; lower --confidence")
        sums = [sha256_of(file) for file in manifests]
        self.identity = {
            "path": str(data.pseudo_labels),
            "images": str(data.images),
            "manifests": sums,
            "confidence": True,
        }
        self.settings = data.model_dump(mode="json")
        self.thresholds = self._thresholds() if data.keep < 1 else None

    def load(self, index: int) -> Labelled:
        """The image at ``index`` with its label map and confidence.

        Raises:
            DatasetError: sizes differ, or a pixel has a label that labels.json does not know.
        """
        row = self.lines[index]
        path = self.root / "labels" / row["name"]
        ids = read_mask(path)
        image = read_image(self.data.images / row["path"], size=ids.shape)
        check_same_size(image, ids, image_name=row["path"], mask_name=str(path))
        strange = np.unique(ids[(ids >= len(self.phrases)) & (ids != _PSEUDO_IGNORE)])
        if len(strange):
            raise DatasetError(
                f"'{path}' holds label {int(strange[0])}, but labels.json names {len(self.phrases)} labels; "
                "write the pseudo-labels again"
            )
        truth = np.where(ids == _PSEUDO_IGNORE, IGNORED, ids).astype(np.int32)
        return Labelled(image, truth, read_mask(self.root / "confidence" / row["name"]).astype(np.uint8))

    def hide(self, truth: NDArray[Any]) -> NDArray[Any]:
        """``truth`` itself: nothing is held out."""
        return truth

    def select(
        self, truth: NDArray[Any], confidence: NDArray[np.uint8] | None
    ) -> tuple[NDArray[Any], NDArray[np.uint8] | None]:
        """The most certain pixels of each label, and their confidence where it weighs."""
        if self.thresholds is not None and confidence is not None:
            low = (truth >= 0) & (confidence < self.thresholds[np.maximum(truth, 0)])
            truth = np.where(low, IGNORED, truth).astype(truth.dtype)
        return truth, confidence if self.data.weighted else None

    def _thresholds(self) -> NDArray[np.int64]:
        """(L,) per label the confidence, 0 to 255, that the share ``keep`` of its pixels reach.

        Source: Zou et al., class-balanced self-training, ECCV 2018, algorithm 2.
        """
        counts = np.zeros((len(self.phrases), 256), np.int64)
        for row in self.lines:
            ids = read_mask(self.root / "labels" / row["name"])
            sure = read_mask(self.root / "confidence" / row["name"])
            known = ids < len(self.phrases)
            counts += np.bincount(ids[known] * 256 + sure[known], minlength=counts.size).reshape(counts.shape)
        reached = counts[:, ::-1].cumsum(1)[:, ::-1]  # pixels at this confidence or above
        enough = reached >= self.data.keep * reached[:, :1]
        found: NDArray[np.int64] = np.where(enough, np.arange(256), 0).max(1)
        return found


def open_source(data: MaskData | PseudoLabels) -> Source:
    """The labelled images that the section ``data`` of a training file names."""
    return MaskSource(data) if isinstance(data, MaskData) else PseudoLabelSource(data)


def read_table(path: Path, *, column: str) -> list[dict[str, str]]:
    """The lines of a CSV that has a column ``file`` and one called ``column``.

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
    return rows


def _fold_classes(data: MaskData) -> tuple[str, ...]:
    if data.fold is None:
        return ()
    protocol = load_protocol(data.protocol)
    folds = protocol.episodes.folds if protocol.episodes is not None else ()
    if not 0 <= data.fold < len(folds):
        raise ConfigError(f"'{data.protocol}' has {len(folds)} folds, got fold {data.fold}; choose one from 0")
    return tuple(protocol.names[index] for index in folds[data.fold])
