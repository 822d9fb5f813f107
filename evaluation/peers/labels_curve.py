"""How far labelled regions carry: mean IoU against their number, suggested regions beside random ones.

    .venv/bin/python evaluation/peers/labels_curve.py camvid/train camvid/val --pool 40 --test 30
    .venv/bin/python evaluation/peers/labels_curve.py coco-train100 --pool 60 --test 40 --ways random suggested

Folders have ``images/`` and ``masks/`` (ids of ``categories.json``, which lies there or in the folder above). One
folder is divided into pool and test images. Regions are windows of one size on the pool's cells, each labelled by
the truth inside; every label that the truth shows in it is a shot of the model's method for examples. Test images
are segmented by words and these shots, without refinement, every pixel one of the labels. The last column is how
many labels the truth shows in a region.

What lies outside of a region is unknown. ``--outside cut`` takes the features of the whole image and cuts them to
the region: its cells know their surroundings, and nothing is learned of the rest, nor of pixels without a truth.
``crop`` makes an image of the region, as a user does with ``Concept(images=[crop], masks=[mask])``. ``none`` takes
the rest for none of the labels.

Ways: "suggested" (impurity times uncertainty, times the distance to the regions taken before), "scores" (without
the distance), "uncertainty" and "impurity" (one factor, with the distance), "distance" (alone), "balanced" (as
suggested, but each label that the model expects in a region counts less the more of the taken regions it is
expected in), "random".
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

import ovseg
from ovseg.bank.suggest import class_shares
from ovseg.examples import Shot, View, teach
from ovseg.examples.shot import Lesson
from ovseg.images.find import find_images
from ovseg.images.load import load_image
from ovseg.models.sections import ExamplesConfig
from ovseg.pipeline.encoded import EncodedImage
from ovseg.pipeline.examples import ExampleEvidence, by_class, cell_shares, view_of
from ovseg.pipeline.queries import QueryBank
from ovseg.pipeline.segmenter import Segmenter
from ovseg.regions.worth import apart, region_worth, unlike

_EACH = 4  # regions of an image that may be chosen among
_PER_IMAGE = 2  # and taken
_PARTS = ("features", "text", "colours", "structure")  # of a view


Cut = tuple[View, Tensor] | None
"""A region as methods see it, and the (L, h, w) true shares of its cells; None where none of them has a truth."""


@dataclass(frozen=True)
class Truth:
    """A data set: its names, and for each id of a mask the place of its name; −1 for what does not count."""

    names: list[str]
    place: NDArray[np.int64]

    @classmethod
    def read(cls, folder: Path) -> Truth:
        """From ``categories.json``."""
        path = next(
            each / "categories.json" for each in (folder, folder.parent) if (each / "categories.json").is_file()
        )
        read = json.loads(path.read_text())
        place = np.full(256, -1)
        for number, each in enumerate(read["categories"]):
            place[each["id"]] = number
        place[read["ignore"]] = -1
        return cls([each["name"] for each in read["categories"]], place)

    def mask(self, image: Path) -> NDArray[np.int64]:
        """(H, W) places of names."""
        places: NDArray[np.int64] = self.place[
            np.asarray(Image.open(image.parent.parent / "masks" / f"{image.stem}.png"))
        ]
        return places


@dataclass(frozen=True)
class PoolImage:
    """An image as methods see it, without padding; (L, h, w) true shares and (C, h, w) probabilities of cells."""

    view: View
    shares: Tensor
    probabilities: Tensor
    pixels: NDArray[np.uint8]
    mask: NDArray[np.int64]


@dataclass(frozen=True)
class Window:
    """A region: its image, its first row and column, what it is worth, and how it looks."""

    image: int
    corner: tuple[int, int]
    score: float
    vector: Tensor
    expected: Tensor


def read_image(
    segmenter: Segmenter, queries: QueryBank, pixels: NDArray[np.uint8], mask: NDArray[np.int64]
) -> PoolImage:
    """An image of the pool, encoded."""
    encoded = segmenter.encode(pixels)
    logits = segmenter.logits(encoded, queries)
    view = view_of(encoded, by_class(logits))
    maps = torch.stack([torch.from_numpy(mask == label).float() for label in range(queries.labels)])
    parts = {name: encoded.unpadded(part) for name in _PARTS if (part := getattr(view, name)) is not None}
    shares, probabilities = cell_shares(maps, encoded), encoded.unpadded(class_shares(logits))
    return PoolImage(View(**parts), shares, probabilities, pixels, mask)


def windows_of(pool: Sequence[PoolImage], size: int, way: str) -> list[Window]:
    """The best windows of each image, by the way's score."""
    found = []
    for number, image in enumerate(pool):
        worth = region_worth(image.probabilities, window=size)
        score = {"uncertainty": worth.uncertainty, "impurity": worth.impurity}.get(way, worth.score)
        if way == "distance":
            score = torch.ones_like(score)
        for corner in apart(score, most=_EACH, distance=size):
            found.append(window_at(image, number, corner, size, float(score[corner])))
    return found


def window_at(image: PoolImage, number: int, corner: tuple[int, int], size: int, score: float) -> Window:
    """A window with its looks and the labels that the model expects there."""
    part = (slice(None), slice(corner[0], corner[0] + size), slice(corner[1], corner[1] + size))
    vector = functional.normalize(image.view.features[part].mean((1, 2)), dim=0)
    return Window(number, corner, score, vector, image.probabilities[part].mean((1, 2)))


def random_windows(pool: Sequence[PoolImage], size: int, count: int, seed: int) -> list[Window]:
    """Windows anywhere, as many an image as suggested ones may be; they do not overlap."""
    draw = np.random.default_rng(seed)
    taken: list[Window] = []
    while len(taken) < count:
        number = int(draw.integers(len(pool)))
        rows, columns = pool[number].view.grid
        corner = (int(draw.integers(rows - size + 1)), int(draw.integers(columns - size + 1)))
        here = [each for each in taken if each.image == number]
        near = any(max(abs(a - b) for a, b in zip(corner, each.corner, strict=True)) < size for each in here)
        if len(here) < _PER_IMAGE and not near:
            taken.append(window_at(pool[number], number, corner, size, 1.0))
    return taken


def balanced(windows: Sequence[Window], count: int) -> list[Window]:
    """Greedy: score × distance × the mean of 1 / (1 + how often it was expected) over the labels expected."""
    vectors = torch.stack([each.vector for each in windows])
    expected = torch.stack([each.expected for each in windows])
    scores = torch.tensor([each.score for each in windows])
    seen, nearest = torch.zeros(expected.shape[1]), torch.zeros(len(windows))
    taken: list[int] = []
    left = torch.ones(len(windows), dtype=torch.bool)
    while len(taken) < count and bool(left.any()):
        worth = scores * (1 - nearest).clamp_min(0) * (expected / (1 + seen)).sum(1)
        best = int(worth.masked_fill(~left, -1).argmax())
        taken.append(best)
        left[best] = False
        seen += expected[best]
        nearest = torch.maximum(nearest, vectors @ vectors[best])
        if sum(windows[one].image == windows[best].image for one in taken) >= _PER_IMAGE:
            left &= torch.tensor([each.image != windows[best].image for each in windows])
    return [windows[place] for place in taken]


def taken_by(
    way: str, pool: Sequence[PoolImage], size: int, count: int, seed: int, diversity: float
) -> list[Window]:
    """``count`` windows in the order in which they would be labelled."""
    if way == "random":
        return random_windows(pool, size, count, seed)
    windows = windows_of(pool, size, way)
    if way == "balanced":
        return balanced(windows, count)
    order = unlike(
        torch.tensor([each.score for each in windows]),
        torch.stack([each.vector for each in windows]),
        [each.image for each in windows],
        count=count,
        each=_PER_IMAGE,
        weight=0.0 if way == "scores" else diversity,
    )
    return [windows[place] for place in order]


def cut_out(image: PoolImage, window: Window, size: int) -> Cut:
    """The cells of a window, in one row, and their true shares."""
    rows, columns = (slice(first, first + size) for first in window.corner)
    view, shares = image.view, image.shares[:, rows, columns]
    parts = {name: part[:, rows, columns] for name in _PARTS if (part := getattr(view, name)) is not None}
    return known_cells(View(**parts), shares)


def known_cells(view: View, shares: Tensor) -> Cut:
    """The cells whose truth is known, in one row: methods look at cells one by one. None where nothing is known."""
    known = shares.sum(0) > 0.5
    parts = {name: part[:, known][:, None] for name in _PARTS if (part := getattr(view, name)) is not None}
    return (View(**parts), shares[:, known][:, None]) if bool(known.any()) else None


def crop(segmenter: Segmenter, queries: QueryBank, image: PoolImage, window: Window, size: int) -> Cut:
    """A window as an image of its own."""
    sides = zip(window.corner, image.mask.shape, image.view.grid, strict=True)
    part = tuple(slice(first * long // cells, (first + size) * long // cells) for first, long, cells in sides)
    alone = read_image(segmenter, queries, image.pixels[part].copy(), image.mask[part])
    return known_cells(alone.view, alone.shares)


def rest_is_none(image: PoolImage, window: Window, size: int) -> Cut:
    """The whole image, and shares that are 0 outside of a window."""
    part = (slice(None), *(slice(first, first + size) for first in window.corner))
    inside = torch.zeros_like(image.shares)
    inside[part] = image.shares[part]
    return image.view, inside


def labels_in(shares: Tensor) -> list[int]:
    """The labels that some cells show."""
    return [int(label) for label in (shares.amax((1, 2)) > 0.5).nonzero()[:, 0]]


def taught(queries: QueryBank, cuts: Sequence[Cut], config: ExamplesConfig) -> QueryBank:
    """The queries with what labelled regions teach."""
    seen = [cut for cut in cuts if cut is not None]
    labels = sorted({label for _, shares in seen for label in labels_in(shares)})
    shots = [
        Shot(view, number, shares[label])
        for number, label in enumerate(labels)
        for view, shares in seen
        if label in labels_in(shares)
    ]
    if not shots:
        return queries
    rows, named = torch.tensor(labels), torch.ones(len(labels), dtype=torch.bool)
    sight = teach(Lesson(shots, rows, named), method=config.method, fusion=config.fusion)
    names = tuple(queries.vocabulary.labels[label] for label in labels)
    return replace(queries, modifiers=(ExampleEvidence(sight, rows, names, "curve"),))


def mean_iou(
    segmenter: Segmenter, queries: QueryBank, test: Sequence[tuple[EncodedImage, NDArray[np.int64]]]
) -> float:
    """In percent, over the labels that the truth of the test images shows."""
    count = queries.labels
    confusion = np.zeros((count, count), np.int64)
    for encoded, mask in test:
        decided = segmenter.decide(segmenter.logits(encoded, queries), encoded, background=False, refine=False)
        index = decided.index.cpu().numpy()
        known = (mask >= 0) & (index >= 0)
        confusion += np.bincount(count * mask[known] + index[known], minlength=count**2).reshape(count, count)
    truth, hit = confusion.sum(1), np.diag(confusion)
    union = truth + confusion.sum(0) - hit
    return 100 * float(np.mean(hit[truth > 0] / union[truth > 0]))


def summary(scores: NDArray[np.float64]) -> str:
    """The mean, and the standard deviation of several draws."""
    return f"{scores.mean():.1f}" + (f" ± {scores.std(ddof=1):.1f}" if len(scores) > 1 else "")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--pool", type=int, default=40)
    parser.add_argument("--test", type=int, default=30)
    parser.add_argument("--window", type=int, default=7)
    parser.add_argument("--diversity", type=float, default=1.0)
    parser.add_argument("--counts", type=int, nargs="+", default=[3, 6, 12, 24, 48])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--outside", choices=["cut", "crop", "none"], default="cut")
    parser.add_argument("--method", default="learned")
    parser.add_argument("--fusion", default="growing")
    parser.add_argument("--draw", type=int, default=0, help="of pool and test images")
    parser.add_argument(
        "--ways", nargs="+", default=["random", "suggested", "scores", "uncertainty", "impurity", "balanced"]
    )
    given = parser.parse_args()
    truth = Truth.read(given.folders[0])
    draw = np.random.default_rng(given.draw)
    shuffled = [list(draw.permutation(np.array(find_images(folder / "images")))) for folder in given.folders]
    pool_paths, test_paths = shuffled[0][: given.pool], shuffled[-1][-given.test :]
    assert not set(pool_paths) & set(test_paths), "fewer images than pool and test together; ask for less"
    segmenter = ovseg.load(given.model).with_examples(method=given.method, fusion=given.fusion)
    config = segmenter.config.examples
    queries = segmenter.queries(truth.names)
    readers: dict[str, Callable[[PoolImage, Window, int], Cut]] = {
        "cut": cut_out,
        "crop": partial(crop, segmenter, queries),
        "none": rest_is_none,
    }
    read = readers[given.outside]
    started = time.time()
    with torch.inference_mode():
        pool = [read_image(segmenter, queries, load_image(path), truth.mask(path)) for path in pool_paths]
        test = [(segmenter.encode(load_image(path)), truth.mask(path)) for path in test_paths]
        print(f"encoded in {time.time() - started:.0f} s; words alone: {mean_iou(segmenter, queries, test):.1f}")
        print(
            f"| regions of {given.window} x {given.window} cells | {' | '.join(map(str, given.counts))} | labels |"
        )
        print("|---" * (len(given.counts) + 2) + "|", flush=True)
        for way in given.ways:
            rows, shown = [], []
            for seed in range(given.seeds if way == "random" else 1):
                windows = taken_by(way, pool, given.window, max(given.counts), seed, given.diversity)
                cuts = [read(pool[each.image], each, given.window) for each in windows]
                told = [taught(queries, cuts[:count], config) for count in given.counts]
                rows.append([mean_iou(segmenter, each, test) for each in told])
                shown += [0 if cut is None else len(labels_in(cut[1])) for cut in cuts]
            print(f"| {way} | {' | '.join(map(summary, np.array(rows).T))} | {np.mean(shown):.1f} |", flush=True)
        print(f"{time.time() - started:.0f} s")


if __name__ == "__main__":
    main()
