"""Images a second of training from cached features, against running the encoder at every step.

    .venv/bin/python tools/train_speed.py --protocol coco-panoptic-133 --data ../shared/data/coco-train100

The same run twice, ``cache: true`` and ``cache: false``; the cache is filled before the clock starts. Prints a line
for each and the ratio, for the head and settings given.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from ovseg.heads.registry import HeadConfig
from ovseg.training.data import MaskData
from ovseg.training.features import FeatureCache
from ovseg.training.loop import make_accelerator, train_steps
from ovseg.training.recipes.masks import HeadSchedule, MasksConfig, build_masks
from ovseg.training.runs import trainable_model


def images_per_second(options: argparse.Namespace, features: Path, *, cache: bool, steps: int) -> float:
    """Images that steps take in, by the clock."""
    with tempfile.TemporaryDirectory() as out:
        config = MasksConfig(
            head=HeadConfig(kind=options.head, settings=json.loads(options.settings)),
            data=(MaskData(protocol=options.protocol, path=options.data),),
            schedule=HeadSchedule(steps=steps + 1, batch=options.batch),
            save_every=10_000,
            cache=cache,
            out=Path(out),
        )
        accelerator = make_accelerator(config)
        task = build_masks(config, trainable_model("mini"), FeatureCache(features), accelerator)
        running = train_steps(task, config, config.out, accelerator=accelerator)
        next(running)
        start = time.perf_counter()
        for _ in range(steps - 1):
            next(running)
        return (steps - 1) * options.batch / (time.perf_counter() - start)


def main() -> None:
    """Measure both, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--protocol", default="folder")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--head", default="adapter")
    parser.add_argument("--settings", default="{}")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--features", type=Path, default=Path("runs/features"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    cached = images_per_second(options, options.features, cache=True, steps=40)
    live = images_per_second(options, options.features, cache=False, steps=4)
    print(f"{options.head}: from the cache {cached:.1f} images/s, end to end {live:.2f}, ratio {cached / live:.1f}")


if __name__ == "__main__":
    main()
