"""A text map trained on captions (``talk2dino.yaml``): retrieval of held-out photos, and segmentation.

    .venv/bin/python tools/train_captions.py --captions ../shared/data/flickr8k-1000/captions.csv \\
        --data ../shared/data/coco-train100

Prints how often the photo of a held-out caption is among the best 1, 5 and 10 of all held-out photos: for the
trained map, for ``mini`` (the mean of its scores over the photo) and by chance; then the mean IoU in percent of the
133 names on every second image, for the map before and after training and for ``mini``, whose own masks are these.
Flickr8k is for research: nothing that this trains is shipped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from ovseg.assets import find_asset
from ovseg.evaluation import RunOptions, evaluate
from ovseg.evaluation.data.datasets import open_dataset
from ovseg.evaluation.data.protocol import load_protocol
from ovseg.pipeline.opening import load
from ovseg.pipeline.segmenter import Segmenter
from ovseg.training import load_training, train
from ovseg.training.features import FeatureCache
from ovseg.training.loop import make_accelerator
from ovseg.training.recipes.captions import CaptionsConfig, build_captions, read_captions
from ovseg.training.runs import segmenter_of, trainable_model

PROTOCOL, COUNTS = "coco-panoptic-133", (1, 5, 10)


def recalls(logits: Tensor, owner: Tensor) -> str:
    """Of (captions, photos) logits, the shares of captions whose photo (captions,) is among the best so many."""
    better = (logits > logits.gather(1, owner[:, None])).sum(1)
    return " / ".join(f"{100 * float((better < count).float().mean()):.1f}" for count in COUNTS)


@torch.inference_mode()
def mean_scores(segmenter: Segmenter, files: list[Path], vectors: Tensor) -> Tensor:
    """(captions, photos): the mean over the cells of a photo of the score of a caption."""
    means = [segmenter.encode(file).features.values.mean((2, 3)) for file in files]
    return segmenter.model.head.phrases(vectors).values @ torch.cat(means).T


def main() -> None:
    """Train, retrieve, segment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/talk2dino"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    changes = {"table": str(options.captions), "out": str(options.out), "seed": options.seed}
    config = load_training(find_asset("configs/training", "talk2dino"), overrides=changes)
    assert isinstance(config, CaptionsConfig)
    train(config)
    base = trainable_model(config.model)
    task = build_captions(config, base, FeatureCache(config.out / "features"), make_accelerator(config))
    mini, trained = load(config.model, device="cpu"), load(str(config.out), device="cpu")
    asked = task.owner >= task.kept
    owner, vectors, files = task.owner[asked] - task.kept, task.captions[asked], read_captions(config.table)[0]
    count = len(files) - task.kept
    chance = " / ".join(f"{100 * number / count:.1f}" for number in COUNTS)
    found = trained.model.head.captions_to_images(vectors, task.pooled[task.kept :])  # type: ignore[attr-defined]
    print(f"recall at {COUNTS} of {len(owner)} captions among {count} photos: trained {recalls(found, owner)}")
    print(f"mini {recalls(mean_scores(mini, files[task.kept :], vectors), owner)}, chance {chance}", flush=True)
    half = (len(open_dataset(load_protocol(PROTOCOL), options.data).names) + 1) // 2
    for title, segmenter in {"before": segmenter_of(base, task.eval()), "trained": trained, "mini": mini}.items():
        report = evaluate(segmenter, PROTOCOL, data=options.data, limit=half, options=RunOptions(boundary=False))
        print(f"{title}: mean IoU of the 133 names {100 * report.mean_iou:.1f}", flush=True)


if __name__ == "__main__":
    main()
