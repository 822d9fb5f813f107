"""Classes by name, by pictures and by both, on images and on names whose masks the alignment was not trained on.

    .venv/bin/python tools/cross_validate.py configs/training/mini.yaml   # makes runs/folds
    .venv/bin/python tools/shots_on_folds.py configs/training/mini.yaml --shots 1 5 --seeds 5 --every 2

"images": four folds over the images of the first set with masks; each held-out image is asked for the names in it.
"all": the same folds, and each image is asked for all names.
"names": four quarters of the names, each by a head that saw none of their masks and half of the images; the other
half is asked for all names of the quarter, on the pixels that show them. Pictures are drawn from the images that
the head was trained on (for "names" without these masks), each showing half a percent of a class or more. Borders
are not refined. Prints mean IoU in percent from one matrix over all folds: the mean over the draws and half of its
95 % interval by Student's t.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from cross_validate import QUARTERS, segmenter_with, train_head
from numpy.typing import NDArray

from ovseg import Concept
from ovseg.config import load_config
from ovseg.evaluation.data.datasets import FileDataset, open_dataset
from ovseg.evaluation.data.protocol import load_protocol
from ovseg.evaluation.metrics.bootstrap import repeated
from ovseg.evaluation.metrics.confusion import ConfusionMatrix
from ovseg.pipeline.encoded import EncodedImage
from ovseg.pipeline.segmenter import Segmenter
from ovseg.training.recipes.alignment import AlignmentConfig
from ovseg.training.runs import trainable_model

LEAST = 0.005  # of an image that a class must take for the image to show it
QUESTIONS = ("images", "all", "names")
WAYS = ("name", "pictures", "both")


@dataclass
class Fold:
    """A head, the images that it is asked about, those that may show a class, and the classes.

    Attributes:
        segmenter: with the head of the fold.
        asked, shown: positions of images.
        classes: that are asked for; None: those in each image.
    """

    segmenter: Segmenter
    dataset: FileDataset
    asked: Sequence[int]
    shown: Sequence[int]
    classes: Sequence[int] | None

    @cached_property
    def showing(self) -> dict[int, list[int]]:
        """Per class the images that show it."""
        found: dict[int, list[int]] = {}
        for place in self.shown:
            truth = self.dataset.load_truth(place)
            areas = np.bincount(truth[truth >= 0], minlength=len(self.dataset.protocol.classes))
            for index in np.flatnonzero(areas >= LEAST * truth.size).tolist():
                found.setdefault(index, []).append(place)
        return found

    @cached_property
    def looked(self) -> list[tuple[EncodedImage, NDArray[np.int64], list[int]]]:
        """The images asked about, encoded, with truth and the classes to ask for."""
        found = []
        for place in self.asked:
            example = self.dataset.load(place)
            there = np.unique(example.truth[example.truth >= 0]).tolist()
            wanted = there if self.classes is None else list(self.classes)
            if set(there) & set(wanted):
                truth = np.where(np.isin(example.truth, wanted), example.truth, -1)
                found.append((self.segmenter.encode(example.image), truth, wanted))
        return found

    def drawn(self, shots: int, seed: int) -> dict[int, Concept]:
        """Each class that some image shows, with the pictures that this seed draws."""
        generator = np.random.default_rng(seed)
        concepts = {}
        for index, places in sorted(self.showing.items()):
            taken = [int(place) for place in generator.permutation(places)[:shots]]
            loaded = [self.dataset.load(place) for place in taken]
            concepts[index] = Concept(
                self.dataset.protocol.classes[index].name,
                images=[each.image for each in loaded],
                masks=[each.truth == index for each in loaded],
            )
        return concepts

    def score(self, way: str, concepts: dict[int, Concept], matrix: ConfusionMatrix) -> None:
        """Add every image to ``matrix``; classes without pictures are asked by name whatever the way."""
        names = self.dataset.protocol.names
        for encoded, truth, wanted in self.looked:
            labels: list[str | Concept] = [names[index] for index in wanted]
            if way != "name":
                shown = [concepts.get(index) for index in wanted]
                labels = [
                    name if each is None else each if way == "both" else replace(each, use_name=False)
                    for name, each in zip(labels, shown, strict=True)
                ]
            result = self.segmenter.segment(encoded, labels, background=None, refine=False)
            matrix.update(np.asarray(wanted)[result.index_map], truth)


def folds_of(config: AlignmentConfig, question: str, every: int) -> Iterator[Fold]:
    """The folds of a question; heads are kept from ``cross_validate``."""
    base, root = trainable_model(config.model), Path("runs/folds")
    dataset = open_dataset(load_protocol(config.masks[0].protocol), config.masks[0].path)
    places = list(range(len(dataset.names)))
    names = dataset.protocol.names
    for fold in range(QUARTERS):
        if question in {"images", "all"}:
            head = train_head(config, root / f"images{fold}", folds=QUARTERS, held_out=fold)
            asked, classes = places[fold::QUARTERS], None if question == "images" else list(range(len(names)))
        else:
            held = tuple(names[fold::QUARTERS])
            head = train_head(config, root / f"names{fold}", folds=2, held_out=fold % 2, held_out_classes=held)
            asked, classes = places[fold % 2 :: 2], list(range(len(names)))[fold::QUARTERS]
        shown = [place for place in places if place not in asked]
        yield Fold(segmenter_with(config, head, base), dataset, asked[::every], shown, classes)


def main() -> None:
    """Draw, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--questions", nargs="+", choices=QUESTIONS, default=["images", "names"])
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--every", type=int, default=1, help="ask about every n-th held-out image only")
    options = parser.parse_args()
    config = load_config(AlignmentConfig, options.config)
    print(f"| what | shots | {' | '.join(WAYS)} |\n|---|---|---|---|---|", flush=True)
    for question in options.questions:
        scores: dict[tuple[int, str], list[float]] = {}
        folds = list(folds_of(config, question, options.every))
        count = len(folds[0].dataset.protocol.classes)
        for shots in options.shots:
            for seed in range(options.seeds):
                totals = {way: ConfusionMatrix.empty(count) for way in WAYS}
                for fold in folds:
                    concepts = fold.drawn(shots, seed)
                    for way in WAYS if seed == 0 else WAYS[1:]:
                        fold.score(way, concepts, totals[way])
                for way in WAYS if seed == 0 else WAYS[1:]:
                    scores.setdefault((shots, way), []).append(100 * totals[way].mean_iou())
            cells = " | ".join(repeated(scores[shots, way]) for way in WAYS)
            print(f"| {question} | {shots} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
