"""What a trained head does for names that no mask was drawn for: four folds over the names, as COCO-20i has.

    .venv/bin/python tools/train_folds.py --data ../shared/data/coco-train100

Fold f holds out the names whose index is f modulo 4 and every second image. Each head is trained on the other
images without those names, over the untrained evidence of ``mini`` (classifier prototypes and detector: no mask
was ever used for it), and scored on the images held out. Prints mean IoU in percent, without background, from one
matrix per question,
on a grid of four pixels:

- seen, unseen: all 133 names are asked at once, and the mean is taken over the names seen or not seen in training;
- unseen alone: only the fold's own names are asked, on the pixels that show them.

``none`` is the evidence without training, ``alignment`` the recipe of ``mini`` trained on the same masks.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ovseg.encoders.registry import HeadConfig, Model
from ovseg.encoders.spec import DenseFeatures
from ovseg.evaluation.confusion import ConfusionMatrix
from ovseg.evaluation.datasets import open_dataset
from ovseg.evaluation.protocol import load_protocol
from ovseg.heads.alignment import AlignmentHead
from ovseg.matching import score as scores_of
from ovseg.segmenter import Segmenter
from ovseg.training.alignment import build_alignment
from ovseg.training.config import AlignmentConfig, HeadSchedule, MaskData, MasksConfig, Schedule
from ovseg.training.features import FINER, FeatureCache
from ovseg.training.loop import make_accelerator, train_steps
from ovseg.training.masks import build_masks
from ovseg.training.runs import segmenter_of, trainable_model
from ovseg.training.views import nearest

FOLDS, HALVES, PROTOCOL = 4, 2, "coco-panoptic-133"
HEADS: dict[str, dict[str, Any]] = {
    "adapter": {"width": 128, "hidden": 256},
    "fusioner": {
        "width": 128,
        "layers": 2,
        "attention_heads": 4,
        "inner": 256,
        "upsamplings": 0,
        "dropout": 0.1,
        "centred": True,
    },
    "denseclip": {
        "contexts": 0,
        "width": 128,
        "layers": 2,
        "temperature": None,
        "pyramid": 16,
        "finest": 1,
        "trust": 0.5,
    },
}


class Remembering:
    """An image encoder that keeps what it returned, in half precision: every head sees the same images."""

    def __init__(self, encoder: Any) -> None:
        self.encoder, self.spec = encoder, encoder.spec
        self._kept: dict[int, DenseFeatures] = {}

    def dense(self, pixels: Tensor) -> DenseFeatures:
        """Features of ``pixels``."""
        key = hash(pixels.numpy().tobytes())
        if key not in self._kept:
            found = self.encoder.dense(pixels)
            self._kept[key] = replace(found, values=found.values.half(), structure=found.structure.half())
        kept = self._kept[key]
        return replace(kept, values=kept.values.float(), structure=kept.structure.float())


def untrained(head: AlignmentHead) -> AlignmentHead:
    """The head's evidence without its trained map: weights as they are before training, no map at all."""
    fresh = head.fresh()
    with torch.no_grad():
        fresh.log_scale.fill_(-torch.inf)
    return fresh.eval()


def trained(name: str, model: Model, base: AlignmentHead, options: argparse.Namespace, fold: int) -> Segmenter:
    """A segmenter with the head ``name`` trained for ``fold``."""
    if name == "none":
        return Segmenter(replace(model, head=base), device=torch.device("cpu"))
    names = load_names(options.data)
    held = tuple(names[fold::FOLDS])
    data = MaskData(
        protocol=PROTOCOL, path=options.data, folds=HALVES, held_out=fold % HALVES, held_out_classes=held
    )
    out = options.out / f"{name}-{options.tag}-{fold}-{options.seed}"
    out.mkdir(parents=True, exist_ok=True)
    if name == "alignment":
        recipe = AlignmentConfig(masks=(data,), schedule=Schedule(steps=200), seed=options.seed, out=out)
        task = build_alignment(recipe, model, FeatureCache(options.out / "cells"))
        for _ in train_steps(task, recipe, out):
            pass
        task.export(out / "alignment.safetensors", metadata={})
        return Segmenter(
            replace(model, head=AlignmentHead.load(out / "alignment.safetensors")), device=torch.device("cpu")
        )
    settings = {**HEADS[name], **json.loads(options.settings)}
    config = MasksConfig(
        head=HeadConfig(kind=name, settings=settings),
        data=(data,),
        loss=options.loss,
        phrases=options.phrases,
        views=options.views,
        schedule=HeadSchedule(steps=options.steps, batch=options.batch, learning_rate=options.rate, ema=0.98),
        seed=options.seed,
        out=out,
    )
    below = replace(model, head=base)
    accelerator = make_accelerator(config)
    head_task = build_masks(config, below, options.out / "features", accelerator)
    head_task.train()
    averaged = None
    for step, loss in train_steps(head_task, config, out, accelerator=accelerator):
        averaged = (step, loss)
    print(f"  {name} fold {fold}: {averaged}", flush=True)
    weights = torch.load(out / "last.pt", weights_only=True)
    from ovseg.training.checkpoint import restore

    restore(head_task, weights["average"])
    head_task.eval()
    return segmenter_of(below, head_task)


def load_names(data: Path) -> list[str]:
    """The 133 names."""
    return [entry.name for entry in open_dataset(load_protocol(PROTOCOL), data).protocol.classes]


def score(segmenter: Segmenter, data: Path, fold: int, every: int) -> dict[str, list[float]]:
    """IoU of each name under the three questions, on the images that the fold holds out."""
    dataset = open_dataset(load_protocol(PROTOCOL), data)
    names = load_names(data)
    unseen = np.arange(fold, len(names), FOLDS)
    everything, alone = ConfusionMatrix.empty(len(names)), ConfusionMatrix.empty(len(names))
    for index in range(fold % HALVES, len(dataset.names), HALVES * every):
        example = dataset.load(index)
        features = segmenter.encode(example.image).features
        answer = _winners(segmenter, features, names)
        truth = nearest(example.truth, answer.shape)
        everything.update(answer, truth)
        truth = np.where(np.isin(truth, unseen), truth, -1)
        if (truth >= 0).any():
            answer = _winners(segmenter, features, [names[number] for number in unseen])
            alone.update(unseen[answer].astype(np.int32), truth)
    iou = everything.iou()
    present = everything.true_area() > 0
    is_unseen = np.isin(np.arange(len(names)), unseen)
    return {
        "seen": iou[present & ~is_unseen].tolist(),
        "unseen": iou[present & is_unseen].tolist(),
        "unseen alone": alone.iou()[alone.true_area() > 0].tolist(),
    }


@torch.inference_mode()
def _winners(segmenter: Segmenter, features: DenseFeatures, names: list[str]) -> Any:
    """(4h, 4w) int32: the best name at a quarter of the pixels, which is ten times quicker than at all."""
    bank = segmenter.text_bank(names)
    logits, _ = scores_of(segmenter.model.head, features, bank, smoothing=segmenter.config.smoothing)
    size = (FINER * features.grid[0], FINER * features.grid[1])
    fine = torch.nn.functional.interpolate(logits[None], size=size, mode="bilinear")
    return fine[0].argmax(0).numpy().astype(np.int32)


def main() -> None:
    """Train, score, print a row per head and fold, then the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--heads", nargs="+", default=["none", "alignment", "fusioner", "denseclip"])
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(FOLDS)))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--phrases", type=int, default=24)
    parser.add_argument("--views", type=int, default=1)
    parser.add_argument("--loss", default="softmax")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--settings", default="{}", help="JSON that replaces settings of the head")
    parser.add_argument("--every", type=int, default=1, help="score every n-th image only")
    parser.add_argument("--tag", default="default", help="part of the run folders' names")
    parser.add_argument("--out", type=Path, default=Path("runs/folds"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = trainable_model("mini")
    model = replace(model, image=Remembering(model.image))  # type: ignore[arg-type]
    assert isinstance(model.head, AlignmentHead)
    base = untrained(model.head)
    totals: dict[str, dict[str, list[float]]] = {}
    for name in options.heads:
        totals[name] = {}
        for fold in options.folds:
            found = score(trained(name, model, base, options, fold), options.data, fold, options.every)
            print(f"{name:10} fold {fold}: {_row(found)}", flush=True)
            for question, values in found.items():
                totals[name].setdefault(question, []).append(float(np.mean(values)))
    for name, questions in totals.items():
        print(f"{name:10} mean  : {_row(questions)}", flush=True)


def _row(found: dict[str, list[float]]) -> str:
    return ", ".join(f"{question} {100 * np.mean(values):.1f}" for question, values in found.items())


if __name__ == "__main__":
    main()
