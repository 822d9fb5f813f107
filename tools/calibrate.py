"""Fits the background thresholds of ``mini`` on images that its head was not trained on.

    .venv/bin/python tools/cross_validate.py configs/training/mini.yaml   # makes runs/folds
    .venv/bin/python tools/calibrate.py configs/training/mini.yaml --folds 4

For every held-out image it asks for one or two labels that are in it and for two that are not, each time with
the automatic background, and prints for a range of margins: how much of the image two absent labels paint, and
the mean IoU of present labels. Then it fits the logistic from a label's best cell to its presence.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
from cross_validate import segmenter_with, train_head
from torch import Tensor

from ovseg.config import load_config
from ovseg.evaluation.data.datasets import open_dataset
from ovseg.evaluation.data.protocol import load_protocol
from ovseg.pipeline.encoded import EncodedImage
from ovseg.pipeline.segmenter import Segmenter
from ovseg.training.cells import cell_classes
from ovseg.training.recipes.alignment import AlignmentConfig
from ovseg.training.runs import trainable_model

MARGINS = [0.0, 0.03, 0.06, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4]


def ask(segmenter: Segmenter, encoded: EncodedImage, labels: list[str]) -> Tensor:
    """Class probabilities (K, h·w) of labels and automatic background."""
    queries = segmenter.queries(labels, background="auto")
    return segmenter.logits(encoded, queries).values.softmax(0).flatten(1)


def painted(probabilities: Tensor, count: int, margin: float) -> Tensor:
    """(h·w,) label of each cell, −1 for none."""
    best = probabilities.topk(2, dim=0)
    strength = best.values[0] * (best.values[0] - best.values[1]).sqrt()
    none = (best.indices[0] >= count) | (strength < margin)
    return torch.where(none, -1, best.indices[0])


def fit_presence(evidence: list[float], truth: list[bool]) -> tuple[float, float]:
    """Slope and offset of the logistic regression from logit evidence to presence."""
    inputs, targets = torch.tensor(evidence).double(), torch.tensor(truth).double()
    parameters = torch.tensor([1.0, 0.0], dtype=torch.double, requires_grad=True)
    weight = torch.where(targets > 0, 0.5 / targets.mean(), 0.5 / (1 - targets.mean()))
    optimizer = torch.optim.LBFGS([parameters], max_iter=100)

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.binary_cross_entropy_with_logits(
            parameters[0] * inputs + parameters[1], targets, weight=weight
        )
        value.backward()
        return value

    optimizer.step(loss)
    slope, offset = parameters.tolist()
    return slope, offset


def main() -> None:
    """Ask, count, fit, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--every", type=int, default=1, help="ask about every n-th image only")
    options = parser.parse_args()
    config = load_config(AlignmentConfig, options.config)
    base = trainable_model(config.model)
    dataset = open_dataset(load_protocol(config.masks[0].protocol), config.masks[0].path)
    names = [entry.name for entry in dataset.protocol.classes]
    chance = random.Random(0)
    absent_share: dict[float, list[float]] = {margin: [] for margin in MARGINS}
    present_iou: dict[float, list[float]] = {margin: [] for margin in MARGINS}
    evidence: list[float] = []
    truth: list[bool] = []
    for fold in range(options.folds):
        head = train_head(config, Path("runs/folds") / f"images{fold}", folds=options.folds, held_out=fold)
        segmenter = segmenter_with(config, head, base)
        for index in range(fold, len(dataset.names), options.folds * options.every):
            example = dataset.load(index)
            encoded = segmenter.encode(example.image)
            cells = cell_classes(
                torch.from_numpy(example.truth).long(), encoded.features.grid, classes=len(names), coverage=0.5
            )
            here = sorted({int(value) for value in torch.unique(torch.from_numpy(example.truth)) if value >= 0})
            missing = [number for number in range(len(names)) if number not in here]
            for _ in range(3):
                pair = chance.sample(missing, 2)
                probabilities = ask(segmenter, encoded, [names[number] for number in pair])
                for margin in MARGINS:
                    absent_share[margin].append(float((painted(probabilities, 2, margin) >= 0).float().mean()))
                evidence += probabilities[:2].amax(1).clamp(1e-6, 1 - 1e-6).logit().tolist()
                truth += [False, False]
            for number in here:
                if int((cells == number).sum()) < 5:
                    continue
                probabilities = ask(segmenter, encoded, [names[number]])
                evidence.append(float(probabilities[0].max().clamp(1e-6, 1 - 1e-6).logit()))
                truth.append(True)
                for margin in MARGINS:
                    ours, real = painted(probabilities, 1, margin) == 0, cells == number
                    present_iou[margin].append(float((ours & real).sum() / (ours | real).sum().clamp(min=1)))
    print("margin  two absent labels paint %  mean IoU of one present label %")
    for margin in MARGINS:
        shares, overlaps = absent_share[margin], present_iou[margin]
        print(f"{margin:5.2f}  {100 * sum(shares) / len(shares):8.2f}  {100 * sum(overlaps) / len(overlaps):8.2f}")
    slope, offset = fit_presence(evidence, truth)
    right = sum((slope * e + offset > 0) == t for e, t in zip(evidence, truth, strict=True)) / len(truth)
    print(f"presence_slope: {slope:.3f}  presence_offset: {offset:.3f}  (right {100 * right:.0f} % of the time)")


if __name__ == "__main__":
    main()
