"""Accuracy of ``mini``'s recipe on images and on names that it was not trained on.

    .venv/bin/python tools/cross_validate.py configs/training/mini.yaml --folds 4

Trains once per fold without the images of that fold and segments them; then once per quarter of the classes
without their masks (on every second image) and scores those classes on the other images. Of further sets with
masks, of which only every n-th image is trained on, it scores images between those. Prints mean IoU in percent,
each from one confusion matrix over all folds, and keeps the heads under ``runs/folds``. With ``--quality best``
objects correct the label maps, and only the first four numbers are printed.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ovseg.config import load_config
from ovseg.evaluation.data.datasets import FileDataset, open_dataset
from ovseg.evaluation.data.protocol import load_protocol
from ovseg.evaluation.metrics.confusion import ConfusionMatrix
from ovseg.files import sha256_of
from ovseg.heads.alignment import AlignmentHead
from ovseg.models.embedded import HEAD_FILE
from ovseg.pipeline.objects import Quality
from ovseg.pipeline.segmenter import Segmenter
from ovseg.training.features import FeatureCache
from ovseg.training.loop import make_accelerator, train_steps
from ovseg.training.recipes.alignment import AlignmentConfig, build_alignment
from ovseg.training.runs import trainable_model

QUARTERS = 4


def train_head(config: AlignmentConfig, out: Path, **held: object) -> Path:
    """The head of one fold of the first set with masks; kept from an earlier call."""
    masks = [config.masks[0].model_copy(update=held)]
    for data in config.masks[1:]:
        names = {entry.name for entry in load_protocol(data.protocol).classes}
        unseen = tuple(name for name in masks[0].held_out_classes if name in names)
        masks.append(data.model_copy(update={"held_out_classes": unseen}))
    fold = config.model_copy(update={"masks": tuple(masks), "out": out, "export": None})
    path = out / HEAD_FILE
    if not path.is_file():
        out.mkdir(parents=True, exist_ok=True)
        accelerator, cache = make_accelerator(fold), FeatureCache(config.out / "features")
        task = build_alignment(fold, trainable_model(config.model), cache, accelerator)
        for _ in train_steps(task, fold, out, accelerator=accelerator):
            pass
        task.export(path, metadata={})
    return path


def segmenter_with(config: AlignmentConfig, head: Path, base: object) -> Segmenter:
    """A segmenter that uses the head at that path."""
    model = replace(base, head=AlignmentHead.load(head), weights={**base.weights, "head": sha256_of(head)})  # type: ignore[type-var]
    return Segmenter(model, device=torch.device("cpu"))


def score(
    segmenter: Segmenter,
    dataset: FileDataset,
    indices: list[int],
    matrix: ConfusionMatrix,
    *,
    quality: Quality = "fast",
    present: bool = False,
) -> None:
    """Add the images to ``matrix``, asking every class or only those present, without a background."""
    names = [entry.name for entry in dataset.protocol.classes]
    nothing = dataset.protocol.background.class_name
    for index in indices:
        example = dataset.load(index)
        truth = example.truth
        if nothing is not None:
            truth = np.where(truth == names.index(nothing), -1, truth)
        there = np.unique(truth[truth >= 0]).tolist()
        if not there:
            continue
        asked = there if present else [number for number, name in enumerate(names) if name != nothing]
        labels = [names[number] for number in asked]
        result = segmenter.segment(example.image, labels, background=None, quality=quality)
        matrix.update(np.asarray(asked)[result.index_map], truth)


def main() -> None:
    """Train, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--novel-only", action="store_true", help="only the names without masks")
    parser.add_argument("--every", type=int, default=1, help="score every n-th image only")
    parser.add_argument("--quality", choices=["fast", "best"], default="fast", help="best: with objects")
    options = parser.parse_args()
    config = load_config(AlignmentConfig, options.config)
    root = Path("runs/folds")
    base = trainable_model(config.model)
    data = config.masks[0].path
    protocols = {
        "133 names": ("coco-panoptic-133", False),
        "133 names, only those present": ("coco-panoptic-133", True),
        "20 VOC names": ("voc20-on-coco", False),
        "20 VOC names, only those present": ("voc20-on-coco", True),
    }
    sets = {title: open_dataset(load_protocol(name), data) for title, (name, _) in protocols.items()}
    totals = {title: ConfusionMatrix.empty(len(dataset.protocol.classes)) for title, dataset in sets.items()}
    count = len(next(iter(sets.values())).names)
    for fold in range(0 if options.novel_only else options.folds):
        head = train_head(config, root / f"images{fold}", folds=options.folds, held_out=fold)
        segmenter = segmenter_with(config, head, base)
        for title, dataset in sets.items():
            score(
                segmenter,
                dataset,
                list(range(count))[fold :: options.folds * options.every],
                totals[title],
                quality=options.quality,
                present=protocols[title][1],
            )
    for title, matrix in totals.items() if not options.novel_only else ():
        print(f"{title}: {100 * matrix.mean_iou():.1f}", flush=True)
    if options.quality == "best":
        return
    if not options.novel_only:
        report_others(config, segmenter, options.every)
    report_novel(config, root, base, sets["133 names"], options.every)


def report_others(config: AlignmentConfig, segmenter: Segmenter, every: int) -> None:
    """Mean IoU on images of further sets that lie between those trained on: at most 50 of each."""
    for data in (each for each in config.masks[1:] if each.every > 1):
        dataset = open_dataset(load_protocol(data.protocol), data.path)
        unseen = list(range(len(dataset.names)))[data.every // 2 :: data.every][:: 2 * every][:50]
        for title, present in (("all names", False), ("only those present", True)):
            matrix = ConfusionMatrix.empty(len(dataset.protocol.classes))
            score(segmenter, dataset, unseen, matrix, present=present)
            print(f"{data.protocol}, {title}, {len(unseen)} images: {100 * matrix.mean_iou():.1f}", flush=True)


def report_novel(config: AlignmentConfig, root: Path, base: object, dataset: FileDataset, every: int) -> None:
    """Mean IoU of the classes whose masks were held out, among all 133 names."""
    names = [entry.name for entry in dataset.protocol.classes]
    found: list[float] = []
    for quarter in range(QUARTERS):
        held = tuple(names[quarter::QUARTERS])
        half = quarter % 2
        head = train_head(config, root / f"names{quarter}", folds=2, held_out=half, held_out_classes=held)
        matrix = ConfusionMatrix.empty(len(names))
        score(
            segmenter_with(config, head, base),
            dataset,
            list(range(len(dataset.names)))[half :: 2 * every],
            matrix,
        )
        found += [value for value in matrix.iou()[quarter::QUARTERS].tolist() if value == value]
    print(f"names without any mask, among 133: {100 * sum(found) / len(found):.1f}", flush=True)


if __name__ == "__main__":
    main()
