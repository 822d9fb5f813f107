"""What a trained head does for names that no mask was drawn for: four folds over the names, as COCO-20i has.

    .venv/bin/python tools/train_folds.py --data ../shared/data/coco-train100 --seeds 0 1 2

Fold f holds out the names whose index is f modulo 4 and every second image. Each head is trained on the other
images without those names, as its file in ``configs/training`` says, over the untrained evidence of ``mini``
(classifier prototypes and detector: no mask was ever used for it), and scored on the images held out. Prints mean
IoU in percent, without background, from one matrix per question, on a grid of four:

- seen, unseen: all 133 names are asked at once, and the mean is taken over the names seen or not seen in training;
- unseen alone: only the fold's own names are asked, on the pixels that show them.

``none`` is the evidence without training, ``contrast`` the same with the contrast of ``fusioner.yaml`` and nothing
else, ``mini`` its own recipe on the same masks; none and contrast are the same for every seed. Features and scores
are kept under ``--out``, so that a call goes on where the last one stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from ovseg.assets import find_asset
from ovseg.evaluation.data.protocol import load_protocol
from ovseg.evaluation.metrics.confusion import ConfusionMatrix
from ovseg.files import write_json
from ovseg.heads.alignment import AlignmentHead
from ovseg.heads.base import Head
from ovseg.models.embedded import HEAD_FILE
from ovseg.pipeline.logits import class_logits
from ovseg.pipeline.segmenter import Segmenter
from ovseg.training import TrainingConfig, load_training
from ovseg.training.augment import Augmentation
from ovseg.training.data import MaskData, open_source
from ovseg.training.features import FeatureCache
from ovseg.training.loop import make_accelerator, train_steps
from ovseg.training.recipes import RECIPES
from ovseg.training.runs import segmenter_of, trainable_model
from ovseg.training.views import View, Views, batch_of

FOLDS, HALVES, PROTOCOL = 4, 2, "coco-panoptic-133"
QUESTIONS = ("seen", "unseen", "unseen alone")
UNTRAINED = ("none", "contrast")
Scores = dict[str, float]


class Folds:
    """The images as the encoder sees them, and heads trained and scored on them.

    Args:
        data: folder of the benchmark.
        out: where features and scores are kept.
        changes: what replaces values of the training files; dotted keys.
    """

    def __init__(self, data: Path, out: Path, changes: dict[str, Any]) -> None:
        self.data, self.out, self.changes = data, out, changes
        self.below = trainable_model("mini")
        self.model = replace(self.below, head=untrained(self.below.head))
        self.names = [entry.name for entry in load_protocol(PROTOCOL).classes]
        self.cache = FeatureCache(out / "features", progress=True)
        source = open_source(MaskData(protocol=PROTOCOL, path=data))
        self.views = Views(source, self.model, self.cache, augmentation=Augmentation(), seed=0)

    def scores(self, kind: str, *, fold: int, seed: int) -> Scores:
        """Mean IoU in [0, 1] of each question; trained and scored, or read where that was done before."""
        config = self.recipe(kind, fold=fold, seed=seed)
        stated = config.model_dump_json(exclude={"out", "features"})
        out = self.out / f"{kind}-{fold}-{seed}-{hashlib.sha256(stated.encode()).hexdigest()[:12]}"
        path = out / "scores.json"
        if not path.is_file():
            out.mkdir(parents=True, exist_ok=True)
            found = self._score(self._segmenter(kind, config.model_copy(update={"out": out})), fold)
            write_json(path, found)
        kept: Scores = json.loads(path.read_text(encoding="utf-8"))
        return kept

    def recipe(self, kind: str, *, fold: int, seed: int) -> TrainingConfig:
        """The training file of a head on the masks of a fold; for those without training, Fusioner's."""
        held = {"folds": HALVES, "held_out": fold % HALVES, "held_out_classes": self.names[fold::FOLDS]}
        data = [{"protocol": PROTOCOL, "path": str(self.data), **held}]
        parts = {"masks": data, "named": [], "export": None} if kind == "mini" else {"data": data, **self.changes}
        path = find_asset("configs/training", "fusioner" if kind in UNTRAINED else kind)
        shared = {"seed": seed, "features": str(self.out / "features")}
        return load_training(path, overrides={**parts, **shared})

    def _segmenter(self, kind: str, config: TrainingConfig) -> Segmenter:
        """With the head trained; or as it is before training, where it adds nothing to the scores below."""
        if kind == "none":
            return Segmenter(self.model, device=torch.device("cpu"))
        accelerator = make_accelerator(config)
        model = self.below if kind == "mini" else self.model
        task = RECIPES[config.recipe].build(config, model, self.cache, accelerator)
        if kind != "contrast":
            for _ in train_steps(task, config, config.out, accelerator=accelerator):
                pass
        if kind != "mini":
            return segmenter_of(model, task.eval())
        task.export(config.out / HEAD_FILE, metadata={})
        head = AlignmentHead.load(config.out / HEAD_FILE)
        return Segmenter(replace(model, head=head), device=torch.device("cpu"))

    def _score(self, segmenter: Segmenter, fold: int) -> Scores:
        """Mean IoU of each question on the images that the fold holds out."""
        unseen = np.arange(fold, len(self.names), FOLDS)
        is_unseen = np.isin(np.arange(len(self.names)), unseen)
        everything, alone = (ConfusionMatrix.empty(len(self.names)) for _ in range(2))
        for index in range(fold % HALVES, len(self.views), HALVES):
            view = self.views.fetch(index)
            truth = view.truth.astype(np.int32)
            everything.update(winners(segmenter, view, self.names), truth)
            own = np.where(np.isin(truth, unseen), truth, -1)
            if (own >= 0).any():
                answer = winners(segmenter, view, [self.names[number] for number in unseen])
                alone.update(unseen[answer].astype(np.int32), own)
        means = (
            everything.mean_iou(np.flatnonzero(~is_unseen).tolist()),
            everything.mean_iou(unseen.tolist()),
            alone.mean_iou(),
        )
        return dict(zip(QUESTIONS, means, strict=True))


def untrained(head: Head) -> AlignmentHead:
    """The evidence of ``mini`` without its trained map: weights as they are before training, no map at all."""
    assert isinstance(head, AlignmentHead)
    fresh = head.fresh()
    with torch.no_grad():
        fresh.log_scale.fill_(-torch.inf)
    return fresh.eval()


@torch.inference_mode()
def winners(segmenter: Segmenter, view: View, names: list[str]) -> NDArray[np.int32]:
    """(4h, 4w): the best name, on the grid of the labels."""
    spec, head = segmenter.model.image.spec, segmenter.model.head
    features, _, _ = batch_of([view], space=spec.space, stride=spec.stride)
    asked = segmenter.queries(names)
    logits = class_logits(head, head.pixels(features), asked, smoothing=segmenter.config.smoothing).values
    fine = functional.interpolate(logits[None], size=view.truth.shape, mode="bilinear")
    return fine[0].argmax(0).numpy().astype(np.int32)


def row(kind: str, found: NDArray[np.float64]) -> str:
    """A line of the table, of (seeds, folds, questions) mean IoU: over folds and seeds, and the range of seeds."""
    percent = 100 * found
    cells = [kind]
    for place, question in enumerate(QUESTIONS):
        by_seed = percent[:, :, place].mean(1)
        spread = f" ({by_seed.min():.1f} to {by_seed.max():.1f})" if len(by_seed) > 1 else ""
        cells.append(f"{by_seed.mean():.1f}{spread}")
        if question != "seen":
            cells.append(" / ".join(f"{value:.1f}" for value in percent[:, :, place].mean(0)))
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Train and score every head, fold and seed; print a row per head."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--heads", nargs="+", default=[*UNTRAINED, "mini", "adapter", "denseclip", "fusioner"])
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(FOLDS)))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", default="{}", help="JSON of dotted keys that replace those of the training files")
    parser.add_argument("--out", type=Path, default=Path("runs/folds"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    folds = Folds(options.data, options.out, json.loads(options.set))
    print("| head | seen | unseen | unseen by fold | unseen alone | alone by fold |\n|---|---|---|---|---|---|")
    for kind in options.heads:
        seeds = options.seeds[:1] if kind in UNTRAINED else options.seeds
        found = [[folds.scores(kind, fold=fold, seed=seed) for fold in options.folds] for seed in seeds]
        values = [[[scores[question] for question in QUESTIONS] for scores in each] for each in found]
        print(row(kind, np.asarray(values)), flush=True)


if __name__ == "__main__":
    main()
