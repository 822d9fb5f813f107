"""Finding one's own objects in a folder of photos by name, by pictures of them, and by both.

python evaluation/peers/own_objects.py ../shared/data/photos --group grocery --kinds 20 --shots 1 5 --seeds 3

The folder has ``names.csv`` (file, name); a group is a first folder of the files. Of each kind some photos are
shown, as they are, without masks; the other photos of all kinds are asked for all kinds at once. Prints the mean
average precision of ranking the photos by the presence of a kind, and how often the kind with the largest area is
the right one, both in percent: the mean over the draws and half of its 95 % interval by Student's t.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import ovseg
from ovseg import Concept
from ovseg.evaluation.metrics.bootstrap import repeated
from ovseg.pipeline.segmenter import Segmenter

WAYS = ("name", "pictures", "both")


def photos_of(folder: Path, group: str, *, least: int) -> dict[str, list[Path]]:
    """Photos of each kind of a group, of kinds with at least so many."""
    found: dict[str, list[Path]] = defaultdict(list)
    with (folder / "names.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if Path(row["file"]).parts[0] == group:
                found[row["name"].strip(", ")].append(folder / row["file"])
    return {name: sorted(paths) for name, paths in sorted(found.items()) if len(paths) >= least}


def average_precision(scores: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Mean of the precision at each right photo, photos by falling score, equal scores in the order given."""
    ranked = right[np.argsort(-scores, kind="stable")]
    precision = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
    return float(precision[ranked].mean())


def measure(
    segmenter: Segmenter, labels: list[str | Concept], gallery: list[tuple[Path, int]]
) -> tuple[float, float]:
    """Mean average precision, and the share of photos whose largest label is the right one; in percent."""
    presence, largest = [], []
    for path, _ in gallery:
        result = segmenter.segment(path, labels, refine=False)
        presence.append([result.presence[label] for label in result.labels])
        largest.append(int(np.argmax([result.area(label) for label in result.labels])))
    kinds = np.array([kind for _, kind in gallery])
    scores = np.array(presence, dtype=np.float64)
    precisions = [average_precision(scores[:, kind], kinds == kind) for kind in range(len(labels))]
    return 100 * float(np.mean(precisions)), 100 * float((np.array(largest) == kinds).mean())


def main() -> None:
    """Draw, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--group", default="grocery")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--kinds", type=int, default=20)
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    segmenter = ovseg.load(given.model)
    photos = photos_of(given.data, given.group, least=max(given.shots) + 1)
    print(f"| shots | what | {' | '.join(WAYS)} |\n|---|---|---|---|---|")
    for shots in given.shots:
        found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        for seed in range(given.seeds):
            generator = np.random.default_rng(seed)
            names = [str(name) for name in generator.choice(list(photos), given.kinds, replace=False)]
            orders = {name: generator.permutation(len(photos[name])) for name in names}
            shown = {name: [photos[name][place] for place in orders[name][:shots]] for name in names}
            # the same gallery whatever the number of shots
            gallery = [
                (photos[name][place], kind)
                for kind, name in enumerate(names)
                for place in orders[name][max(given.shots) :]
            ]
            for way in WAYS:
                labels: list[str | Concept] = [
                    name if way == "name" else Concept(name, images=shown[name], use_name=way == "both")
                    for name in names
                ]
                found[way].append(measure(segmenter, labels, gallery))
        for place, what in enumerate(("mean average precision", "largest area is right")):
            cells = " | ".join(repeated([pair[place] for pair in found[way]]) for way in WAYS)
            print(f"| {shots} | {what} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
