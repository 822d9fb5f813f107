"""Pseudo-labels: a bank's images segmented into label maps that training reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ovseg.bank.bank import ImageBank
from ovseg.bank.store import read_json, writing
from ovseg.errors import ConfigError, ImageError, VocabularyError
from ovseg.files import atomic_path, write_json
from ovseg.pipeline.segmenter import Labels, Segmenter

if TYPE_CHECKING:
    from ovseg.result import SegmentationResult
    from ovseg.vocabulary.labels import Background

IGNORE = 255


@dataclass(frozen=True)
class PseudoLabelReport:
    """What a folder of pseudo-labels holds.

    Attributes:
        images: number of label maps.
        failed: images that could not be read.
        coverage: share of all pixels that have a label.
        balance: per label its share of the labelled pixels.
    """

    images: int
    failed: int
    coverage: float
    balance: dict[str, float]


def write_pseudo_labels(
    bank: ImageBank,
    out: str | Path,
    *,
    segmenter: Segmenter,
    labels: Labels | None = None,
    background: Background = "auto",
    confidence: float = 0.0,
    worker: tuple[int, int] = (0, 1),
    progress: Callable[[int], None] | None = None,
) -> PseudoLabelReport:
    """Label maps of all images of a bank; a run that was interrupted goes on where it stopped.

    ``out`` gets ``labels/N.png`` (8 bits; 255 is ignore), ``confidence/N.png`` (8 bits, 0 to 255 for 0 to 1),
    ``labels.json`` and one ``manifest-W.jsonl`` per worker, whose lines are written after their files.

    Args:
        bank: the images.
        out: the folder.
        segmenter: usually ``segmenter.with_concepts(concepts)``.
        labels: what to look for; None for all concepts of the segmenter.
        background: pixels of none of the labels are ignored; None labels every pixel.
        confidence: pixels whose score is under this are ignored.
        worker: number of this worker and of all; each does its share of the images.
        progress: called with the number of images that a step has done.

    Raises:
        ConfigError: ``out`` holds pseudo-labels of other settings.
        VocabularyError: more than 255 labels.
        OutputError: another process is the same worker, or the disk is full.

    Source: Shin et al., ReCo, NeurIPS 2022, section 3.3 (ReCo+).
    """
    root = Path(out)
    number, count = worker
    vocabulary = segmenter.text_bank(labels, background=None).vocabulary  # type: ignore[arg-type]
    names = vocabulary.labels
    if len(names) > IGNORE:
        raise VocabularyError(f"pseudo-labels hold at most {IGNORE} labels, got {len(names)}; split them")
    settings: dict[str, Any] = {
        "labels": list(names),
        "ignore": IGNORE,
        "background": background if background is None or isinstance(background, str) else list(background),
        "confidence": confidence,
        "segmenter": segmenter.info,
    }
    synonyms = {group[0]: list(group[1:]) for group in vocabulary.phrases if len(group) > 1}
    if synonyms:
        settings["synonyms"] = synonyms  # a student is asked by them as well
    with writing(root / f"worker-{number}", what="pseudo-labels"):
        _claim(root, settings)
        journal = _Journal(root / f"manifest-{number:03d}.jsonl")
        with journal:
            for row in range(number, len(bank), count):
                if bank.paths[row] in journal.done:
                    continue
                entry = _label(bank, row, root, segmenter, labels, background=background, confidence=confidence)
                journal.append({"path": bank.paths[row], **entry})
                if progress is not None:
                    progress(1)
    return report(root)


def report(root: str | Path) -> PseudoLabelReport:
    """Coverage and class balance of a folder of pseudo-labels, from the lines of all workers."""
    root = Path(root)
    names = read_json(root / "labels.json")["labels"]
    rows = [row for path in sorted(root.glob("manifest-*.jsonl")) for row in _read_lines(path)]
    good = [row for row in rows if "error" not in row]
    pixels = np.sum([row["pixels"] for row in good], axis=0) if good else np.zeros(len(names))
    total = sum(row["height"] * row["width"] for row in good)
    labelled = max(float(pixels.sum()), 1.0)
    balance = {name: float(count) / labelled for name, count in zip(names, pixels, strict=True)}
    return PseudoLabelReport(len(good), len(rows) - len(good), float(pixels.sum()) / max(total, 1), balance)


def _label(
    bank: ImageBank,
    row: int,
    root: Path,
    segmenter: Segmenter,
    labels: Labels | None,
    *,
    background: Background,
    confidence: float,
) -> dict[str, Any]:
    """Write the two files of an image; what the manifest says of it comes back."""
    try:
        result = segmenter.segment(bank.image(row), labels, background=background)  # type: ignore[arg-type]
    except ImageError as error:
        return {"error": " ".join(str(error).split())}
    maps = label_map(result, confidence=confidence)
    name = f"{row:07d}.png"
    _save_png(root / "labels" / name, maps)
    _save_png(root / "confidence" / name, (result.score_map * 255).round().astype(np.uint8))
    counts = np.bincount(maps.ravel(), minlength=IGNORE + 1)[: len(result.labels)]
    height, width = result.size
    return {"name": name, "height": height, "width": width, "pixels": counts.tolist()}


def label_map(result: SegmentationResult, *, confidence: float) -> NDArray[np.uint8]:
    """(H, W) uint8: position of the label; 255 where there is none or its score is under ``confidence``."""
    keep = (result.index_map >= 0) & (result.score_map >= confidence)
    return np.where(keep, result.index_map, IGNORE).astype(np.uint8)


def _save_png(path: Path, values: NDArray[np.uint8]) -> None:
    with atomic_path(path) as temporary:
        Image.fromarray(values).save(temporary)


def _claim(root: Path, settings: dict[str, Any]) -> None:
    """Write the settings, or refuse a folder that has others."""
    path = root / "labels.json"
    if path.is_file() and read_json(path) != json.loads(json.dumps(settings)):
        raise ConfigError(
            f"'{root}' holds pseudo-labels of other settings (see labels.json); choose another folder"
        )
    write_json(path, settings)


def _read_lines(path: Path) -> Sequence[dict[str, Any]]:
    """The whole lines of a manifest; what follows the last newline was cut off by a kill."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


class _Journal:
    """One line per image, appended after its files are on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: set[str] = set()
        self._stream: IO[str] | None = None

    def __enter__(self) -> _Journal:
        if self.path.exists():
            content = self.path.read_bytes()
            self.done = {row["path"] for row in _read_lines(self.path)}
            with self.path.open("r+b") as stream:
                stream.truncate(content.rfind(b"\n") + 1)
        self._stream = self.path.open("a", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream is not None:
            self._stream.close()

    def append(self, row: dict[str, Any]) -> None:
        """Write one line and hand it to the operating system."""
        assert self._stream is not None
        self._stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._stream.flush()
