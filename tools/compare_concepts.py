"""What learned concepts add to plain text: the IoU of each name with its concept and without, on masks.

    .venv/bin/python tools/compare_concepts.py camvid11 --data ../shared/data/camvid --bank photos.bank \\
        --source photos.txt --names 11
    .venv/bin/python tools/compare_concepts.py coco-panoptic-133 --data ../shared/data/coco-train100 \\
        --bank 'runs/names{}.bank' --source photos.txt --names 30 --heads 'runs/folds/names{}/alignment.safetensors'

The names are those that occur in most of the masks, whether or not the bank shows them. Every class of the
protocol is asked for at once, without background. *together*: all learned concepts are used; *alone*: only the
name's own. A name whose concept is not found keeps its text and so its IoU.

``mini`` was trained on masks of COCO. ``--heads`` gives alignments of the four folds that
``tools/cross_validate.py`` trains; fold f is asked for the names with index f modulo 4, on every second image from
f modulo 2: neither has been in its training. Each fold has a bank of its own. ``--held images`` takes the image
folds instead: all names, on every fourth image. A bank that is not there is built from ``--source``.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ovseg
from ovseg.concepts.concept_set import ConceptSet
from ovseg.evaluation.data.datasets import FileDataset, open_dataset
from ovseg.evaluation.data.protocol import load_protocol
from ovseg.evaluation.metrics.confusion import ConfusionMatrix
from ovseg.files import sha256_of
from ovseg.heads.alignment import AlignmentHead
from ovseg.pipeline.segmenter import Segmenter

FOLDS, HALVES = 4, 2


def most_frequent(dataset: FileDataset, count: int) -> list[int]:
    """The classes that occur in most of the masks, in that order."""
    seen: Counter[int] = Counter()
    for index in range(len(dataset.names)):
        seen.update(int(number) for number in np.unique(dataset.load_truth(index)) if number >= 0)
    return [number for number, _ in sorted(seen.items(), key=lambda pair: (-pair[1], pair[0]))[:count]]


def labels_of(dataset: FileDataset) -> list[ovseg.Concept]:
    """What is asked for: the prompt and synonyms of every class."""
    classes = dataset.protocol.classes
    return [ovseg.Concept(each.prompt or each.name, synonyms=each.synonyms) for each in classes]


def segmenter_with(base: Segmenter, head: Path | None) -> Segmenter:
    """The model, or the model with the alignment of a fold."""
    if head is None:
        return base
    model = replace(
        base.model, head=AlignmentHead.load(head), weights={**base.model.weights, "head": sha256_of(head)}
    )
    return Segmenter(model, device=base.device)


def learn(options: argparse.Namespace, segmenter: Segmenter, fold: int, wanted: list[ovseg.Concept]) -> ConceptSet:
    """The concepts of a fold, from its bank."""
    path = Path(options.bank.format(fold))
    if (path / "manifest.json").is_file():
        bank = ovseg.ImageBank.open(path, segmenter=segmenter)
    else:
        bank = ovseg.ImageBank.build(options.source, out=path, segmenter=segmenter)
    found = ovseg.learn_concepts(wanted, bank, k=options.k, progress=lambda name: print(f"  {name}", flush=True))
    found.save(path.with_suffix(".safetensors"))
    return found


@torch.inference_mode()
def score(
    plain: Segmenter, variants: dict[str, Segmenter], dataset: FileDataset, images: range
) -> dict[str, list[float]]:
    """IoU of every class: of the plain segmenter (``text``) and of each variant."""
    labels = labels_of(dataset)
    matrices = {name: ConfusionMatrix.empty(len(labels)) for name in ("text", *variants)}
    segmenters: dict[str, Segmenter] = {"text": plain, **variants}
    for index in images:
        example = dataset.load(index)
        encoded = plain.encode(example.image)
        for name, segmenter in segmenters.items():
            result = segmenter.segment(encoded, labels, background=None)
            matrices[name].update(result.index_map, example.truth)
    return {name: matrix.iou().tolist() for name, matrix in matrices.items()}


def rows_of_fold(
    options: argparse.Namespace, base: Segmenter, dataset: FileDataset, fold: int
) -> Iterator[dict[str, Any]]:
    """Per name of the fold its IoUs and what is known of its concept."""
    head = None if options.heads is None else Path(options.heads.format(fold))
    numbers = most_frequent(dataset, options.names)
    images = range(0, len(dataset.names), options.every)
    if head is not None and options.held == "names":
        numbers = [number for number in numbers if number % FOLDS == fold]
        images = range(fold % HALVES, len(dataset.names), HALVES * options.every)
    elif head is not None:
        images = range(fold, len(dataset.names), FOLDS * options.every)
    segmenter = segmenter_with(base, head)
    labels = labels_of(dataset)
    concepts = learn(options, segmenter, fold, [labels[number] for number in numbers])
    variants = {"together": segmenter.with_concepts(concepts)}
    if options.alone:
        for each in concepts.references:
            variants[each.name] = segmenter.with_concepts(replace(concepts, references=(each,)))
    found = score(segmenter, variants, dataset, images)
    for number, each in zip(numbers, concepts.references, strict=True):
        values = {"text": found["text"][number], "together": found["together"][number]}
        if options.alone:
            values["alone"] = found[each.name][number]
        yield {"name": each.name, "confidence": each.confidence, "found": each.found, **values}


def print_table(rows: list[dict[str, Any]], kinds: list[str]) -> None:
    """A Markdown table in percent, and the means."""
    heads = ["name", "confidence", "text", *kinds]
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for row in rows:
        changes = [f"{100 * row[kind]:.1f} ({100 * (row[kind] - row['text']):+.1f})" for kind in kinds]
        seen = f"{row['confidence']:.2f}" if row["found"] else f"{row['confidence']:.2f}, not found"
        print("| " + " | ".join([row["name"], seen, f"{100 * row['text']:.1f}", *changes]) + " |")
    for kind in kinds:
        gains = 100 * np.array([row[kind] - row["text"] for row in rows])
        draws = np.random.default_rng(0).choice(gains, (10_000, len(gains))).mean(1)
        low, high = np.quantile(draws, [0.025, 0.975])
        print(
            f"{kind}: mean of text {100 * np.mean([row['text'] for row in rows]):.1f}, gain {gains.mean():+.2f} "
            f"[{low:+.2f}, {high:+.2f}] over {len(rows)} names, {(gains > 0.05).sum()} better, "
            f"{(gains < -0.05).sum()} worse"
        )


def main() -> None:
    """Learn, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("protocol")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bank", required=True, help="folder; {} stands for the fold")
    parser.add_argument("--source", help="images of a bank that is not there yet")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--heads", help="alignments of the folds; {} stands for the fold")
    parser.add_argument("--held", choices=["names", "images"], default="names")
    parser.add_argument("--names", type=int, default=30, help="how many names")
    parser.add_argument("-k", type=int, default=50)
    parser.add_argument("--every", type=int, default=1, help="score every n-th image only")
    parser.add_argument("--alone", action="store_true", help="also each concept by itself")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    base = ovseg.load(options.model)
    dataset = open_dataset(load_protocol(options.protocol), options.data)
    if not isinstance(dataset, FileDataset):
        raise SystemExit(f"expected a protocol with one mask file per image, got '{options.protocol}'")
    rows: list[dict[str, Any]] = []
    for fold in range(FOLDS if options.heads else 1):
        rows += rows_of_fold(options, base, dataset, fold)
    rows = [row for row in rows if row["text"] == row["text"]]  # names without a pixel in the fold's images
    if options.held == "images" and options.heads:
        rows = average(rows)
    print_table(rows, ["together", "alone"] if options.alone else ["together"])
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2))


def average(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per name: means over the folds that show it."""
    merged = []
    for name in dict.fromkeys(row["name"] for row in rows):
        mine = [row for row in rows if row["name"] == name]
        means = {key: float(np.mean([row[key] for row in mine])) for key in mine[0] if key not in {"name", "found"}}
        merged.append({"name": name, "found": any(row["found"] for row in mine), **means})
    return merged


if __name__ == "__main__":
    main()
