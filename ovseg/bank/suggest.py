"""What to label next: regions of a bank's images where a person's labels would teach a model most."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ovseg.bank.store import writing
from ovseg.bank.suggestions import NONE, Suggestion, Suggestions
from ovseg.errors import ConfigError, ImageError, VocabularyError
from ovseg.identity import FileMark, claim
from ovseg.images.load import read_image
from ovseg.images.sources import mark_key, read_key, still_marked
from ovseg.journal import Journal, keep_lines
from ovseg.pipeline.segmenter import Segmenter
from ovseg.pipeline.wording import Labels
from ovseg.regions.worth import apart, region_worth, unlike

if TYPE_CHECKING:
    from ovseg.bank.bank import ImageBank
    from ovseg.pipeline.encoded import EncodedImage
    from ovseg.pipeline.logits import ClassLogits
    from ovseg.vocabulary.labels import Background

_KEPT = 4  # regions of an image that may be chosen among
_LIKELY = 0.1  # mean probability from which a label is named, and three of them at most


def suggest(
    bank: ImageBank,
    labels: Labels,
    *,
    count: int = 20,
    window: int = 7,
    per_image: int = 2,
    diversity: float = 1.0,
    background: Background = "auto",
    segmenter: Segmenter | None = None,
    out: str | Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> Suggestions:
    """The regions of a bank that are most worth a person's labels.

    Every image is segmented once. The score of a window is how many labels meet in it times how unsure the model is
    of its cells. Then the best are taken one after the other, each by its score times its distance to those before.

    Args:
        bank: the images.
        labels: what is to be told apart.
        count: regions, at most.
        window: cells along the side of a region.
        per_image: regions of one image, at most 4.
        diversity: exponent of the distance; 0 takes the best scores, copies among them.
        background: whether a pixel may be none of the labels, see ``Segmenter.segment``; all contrasts count as
            one class.
        segmenter: the bank's model, perhaps with concepts or examples; None takes the bank's own.
        out: a folder that keeps what each image gave, so that a run that was interrupted, or one that asks for
            another number, goes on there, and gets the files of ``Suggestions.save``.
        progress: called with the number of images that a step has done.

    Raises:
        ConfigError: a number is out of its range, or ``out`` holds suggestions of other settings.
        VocabularyError: a label cannot be used, or there is but one class.
        OutputError: another process writes there, or the disk is full.

    Source: Xie et al., RIPU, CVPR 2022, for the score; the distance is that of a greedy k-center choice.
    """
    _check_numbers(count=count, window=window, per_image=per_image, diversity=diversity)
    segmenter = segmenter or bank.segmenter
    queries = segmenter.queries(labels, background=background)
    if queries.classes < 2:
        raise VocabularyError(
            f"expected at least two classes to be unsure about, got '{queries.vocabulary.labels[0]}' alone; name "
            "more labels, or leave background at 'auto'"
        )
    identity = segmenter.identity(labels, background=background)
    # what says most in a message comes first; the rest is digests
    asked = {"labels": list(queries.vocabulary.labels), "background": str(background)}
    settings = {"window": window, **asked, **identity}

    def looked_at(key: str) -> dict[str, Any]:
        """The line of an image."""
        try:
            content = read_key(key)
            pixels = read_image(content, bank.reading, name=f"'{key}'").pixels
            encoded = segmenter.encode(pixels)
        except ImageError as error:
            return {"path": key, "error": " ".join(str(error).split())}
        found = regions_of(encoded, segmenter.logits(encoded, queries), window=window)
        return {"path": key, "image": mark_key(key, content).to_dict(), "regions": [each.line for each in found]}

    lines = []
    with _kept(None if out is None else Path(out), settings) as (done, keep):
        for key in bank.paths:
            line = done.get(key)
            if line is None:
                line = looked_at(key)
                keep(line)
            lines.append(line)
            if progress is not None:
                progress(1)
    made = _chosen(lines, count=count, per_image=per_image, diversity=diversity)
    if out is not None:
        made.save(out, reading=bank.reading)
    return made


@dataclass(frozen=True)
class Region:
    """A window of an image that may be suggested: as ``Suggestion``, with the (D,) unit mean of its features."""

    box: tuple[int, int, int, int]
    score: float
    labels: tuple[str, ...]
    vector: NDArray[np.float32]

    @property
    def line(self) -> dict[str, Any]:
        """As the journal keeps it; vectors in half precision."""
        vector = base64.b64encode(self.vector.astype("<f2").tobytes()).decode()
        return {"box": list(self.box), "score": self.score, "labels": list(self.labels), "vector": vector}


@torch.inference_mode()
def regions_of(encoded: EncodedImage, logits: ClassLogits, *, window: int, most: int = _KEPT) -> list[Region]:
    """The best windows of an image that do not overlap, the best first.

    Args:
        encoded: the image.
        logits: of the labels, and of things that are none of them.
        window: cells along the side.
        most: how many.
    """
    shares = class_shares(logits)
    if logits.grid != encoded.features.grid:
        shares = functional.interpolate(shares[None], size=encoded.features.grid, mode="bilinear")[0]
    shares, features = encoded.unpadded(shares), encoded.unpadded(encoded.features.values[0].float())
    rows, columns = shares.shape[1:]
    n, m = min(window, rows), min(window, columns)
    score = region_worth(shares, window=window).score
    names = (*logits.queries.vocabulary.labels, NONE)
    found = []
    for top, left in apart(score, most=most, distance=window):
        inside = (slice(None), slice(top, top + n), slice(left, left + m))
        likely = shares[inside].mean((1, 2)).sort(descending=True)
        named = [
            names[row] for row, share in zip(*map(Tensor.tolist, likely[::-1]), strict=True) if share >= _LIKELY
        ]
        vector = functional.normalize(features[inside].mean((1, 2)), dim=0).cpu().numpy()
        box = _pixels((top, left, top + n, left + m), (rows, columns), encoded.geometry.original)
        found.append(Region(box, float(score[top, left]), tuple(named[:3]), vector))
    return found


def class_shares(logits: ClassLogits) -> Tensor:
    """(C, h, w) probabilities of the labels, and of none of them where that may be; they add to 1."""
    probabilities = logits.probabilities(logits.values)
    labels, others = probabilities[: logits.labels], probabilities[logits.labels :]
    if logits.apart:
        others = 1 - labels.amax(0, keepdim=True)
    shares = torch.cat([labels, others.sum(0, keepdim=True)]) if len(others) else labels
    return shares / shares.sum(0).clamp_min(1e-12)


def _pixels(
    block: tuple[int, int, int, int], grid: tuple[int, int], size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of the cells from top, left to bottom, right."""
    top, left, bottom, right = block
    down, across = (side / cells for side, cells in zip(size, grid, strict=True))
    return round(left * across), round(top * down), round(right * across), round(bottom * down)


def _chosen(lines: Sequence[dict[str, Any]], *, count: int, per_image: int, diversity: float) -> Suggestions:
    bad = tuple((line["path"], line["error"]) for line in lines if "error" in line)
    found = [(number, line["path"], each) for number, line in enumerate(lines) for each in line.get("regions", ())]
    if not found:
        return Suggestions((), bad)
    vectors = np.stack([np.frombuffer(base64.b64decode(each["vector"]), "<f2") for _, _, each in found])
    order = unlike(
        torch.tensor([each["score"] for _, _, each in found]),
        functional.normalize(torch.from_numpy(vectors.astype(np.float32)), dim=1),
        [number for number, _, _ in found],
        count=count,
        each=per_image,
        weight=diversity,
    )
    regions = []
    for _, path, each in (found[place] for place in order):
        x0, y0, x1, y1 = each["box"]
        regions.append(Suggestion(path, (x0, y0, x1, y1), float(each["score"]), tuple(each["labels"])))
    return Suggestions(tuple(regions), bad)


Kept = tuple[dict[str, dict[str, Any]], Callable[[dict[str, Any]], None]]


@contextmanager
def _kept(root: Path | None, settings: dict[str, Any]) -> Iterator[Kept]:
    """What earlier runs have in a folder, by image, and a function that keeps a further line."""
    if root is None:
        yield {}, lambda line: None
        return
    with writing(root, what="suggestions"):
        claim(
            root / "settings.json", settings, what="suggestions", advice="choose another folder, or delete this one"
        )
        path = root / "regions.jsonl"
        done = {line["path"]: line for line in keep_lines(path, _holds)}  # bad images are tried again
        with Journal(path) as journal:
            yield done, journal.append


def _holds(line: dict[str, Any]) -> bool:
    """Whether a line is whole, and its image the one that was looked at."""
    try:
        parts = [
            (len(each["box"]), float(each["score"]), each["labels"], each["vector"]) for each in line["regions"]
        ]
        return all(sides == 4 for sides, *_ in parts) and still_marked(line["path"], FileMark(**line["image"]))
    except (KeyError, TypeError, ValueError):
        return False


def _check_numbers(*, count: int, window: int, per_image: int, diversity: float) -> None:
    for name, value, least, most in (
        ("count", count, 1, None),
        ("window", window, 1, None),
        ("per_image", per_image, 1, _KEPT),
        ("diversity", diversity, 0, None),
    ):
        if not value >= least or (most is not None and value > most):
            until = "" if most is None else f" and at most {most}"
            raise ConfigError(f"{name} must be at least {least}{until}, got {value}")
