"""A student of pseudo-labels: ``mini`` labels CamVid's training images by words, a head learns from that alone.

    .venv/bin/python tools/train_student.py --data ../shared/data/camvid --every 3

No human label is read for training. Prints the mean IoU in percent of teacher and student on the validation images,
under the protocol camvid11. CamVid is not for commercial use: nothing that this trains is shipped.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ovseg.bank.pseudo_labels import write_pseudo_labels
from ovseg.encoders.registry import HeadConfig
from ovseg.evaluation import RunOptions, evaluate
from ovseg.evaluation.protocol import load_protocol
from ovseg.images import find_images, load_image
from ovseg.segmenter import load
from ovseg.training import train
from ovseg.training.config import HeadSchedule, MasksConfig, PseudoLabels
from ovseg.vocabulary import Concept

PROTOCOL = "camvid11"


@dataclass
class Folder:
    """Images of a folder, as ``write_pseudo_labels`` reads them from a bank."""

    paths: list[str]

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, row: int) -> NDArray[np.uint8]:
        """(H, W, 3) uint8."""
        return load_image(self.paths[row])


def main() -> None:
    """Label, train, score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--every", type=int, default=1, help="label every n-th training image only")
    parser.add_argument("--head", default="adapter")
    parser.add_argument("--settings", default='{"kernel": 3}', help="JSON, of the head")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--balance", type=float, default=0.5)
    parser.add_argument("--confidence", type=float, default=0.0, help="ignore less certain pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/student"))
    parser.add_argument("--no-teacher", action="store_true", help="do not score the teacher again")
    options = parser.parse_args()
    torch.set_num_threads(1)
    teacher = load("mini", device="cpu")
    pseudo = options.out / f"pseudo-{options.confidence}"
    images = [str(path) for path in find_images(options.data / "train" / "images")][:: options.every]
    asked = [Concept(c.prompt or c.name, synonyms=c.synonyms) for c in load_protocol(PROTOCOL).classes]
    bank: Any = Folder(images)
    print(write_pseudo_labels(bank, pseudo, segmenter=teacher, labels=asked, confidence=options.confidence,
                              background=None), flush=True)  # fmt: skip
    name = f"{options.head}-{options.steps}-{options.rate}-{options.balance}-{options.confidence}-{options.seed}"
    config = MasksConfig(
        head=HeadConfig(kind=options.head, settings=json.loads(options.settings)),
        data=(PseudoLabels(pseudo_labels=pseudo, images=Path("/")),),
        phrases=len(asked),
        balance=options.balance,
        schedule=HeadSchedule(steps=options.steps, batch=6, learning_rate=options.rate, ema=0.98),
        seed=options.seed,
        features=options.out / "features",
        out=options.out / name,
    )
    train(config)
    students = {"student": load(str(config.out), device="cpu")}
    for title, segmenter in {**({} if options.no_teacher else {"teacher": teacher}), **students}.items():
        found = evaluate(
            segmenter, PROTOCOL, data=options.data, options=RunOptions(split="val", boundary=False, sheet=False)
        )
        low, high = found.interval
        print(f"{title} {name}: {100 * found.mean_iou:.1f} ({100 * low:.1f} to {100 * high:.1f})", flush=True)


if __name__ == "__main__":
    main()
