"""A student of pseudo-labels: ``mini`` labels CamVid's training images by words, a head learns from that alone.

    .venv/bin/python tools/train_student.py --data ../shared/data/camvid --every 4

No human label is read for training; the settings are those of ``student.yaml``. Every fifth training image is
kept away; ``--choose`` scores on those in place of the validation images, so that settings are not chosen on
these. Prints the mean IoU in percent of teacher and student under the protocol camvid11. CamVid is not for
commercial use: nothing that this trains is shipped.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ovseg.assets import find_asset
from ovseg.bank.pseudo_labels import write_pseudo_labels
from ovseg.evaluation import RunOptions, evaluate
from ovseg.evaluation.data.protocol import load_protocol
from ovseg.images.find import find_images
from ovseg.images.reading import Reading
from ovseg.pipeline.opening import load
from ovseg.training import load_training, train
from ovseg.vocabulary.labels import Concept

PROTOCOL = "camvid11"


@dataclass(frozen=True)
class Folder:
    """Images of a folder, as ``write_pseudo_labels`` asks a bank for them."""

    paths: list[str]
    reading: Reading = field(default_factory=Reading)


def split_images(data: Path, *, every: int, out: Path) -> tuple[list[str], Path]:
    """Every n-th of the training images that are not kept away, and a folder with those that are."""
    images = [Path(path) for path in find_images(data / "train" / "images")]
    held = out / "held"
    for path in images[4::5]:
        for part, file in (("images", path), ("masks", path.parent.parent / "masks" / f"{path.stem}.png")):
            link = held / "train" / part / file.name
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to(file.resolve())
    rest = [str(path.resolve()) for number, path in enumerate(images) if number % 5 != 4]
    return rest[::every], held


def main() -> None:
    """Label, train, score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--every", type=int, default=1, help="label every n-th training image only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", default="{}", help="JSON of dotted keys that replace those of student.yaml")
    parser.add_argument("--name", default="student", help="of the run folder, with the seed")
    parser.add_argument("--out", type=Path, default=Path("runs/student"))
    parser.add_argument("--choose", action="store_true", help="score on the training images kept away, not on val")
    parser.add_argument("--no-teacher", action="store_true", help="do not score the teacher again")
    options = parser.parse_args()
    torch.set_num_threads(1)
    teacher = load("mini", device="cpu")
    images, held = split_images(options.data, every=options.every, out=options.out)
    asked = [Concept(c.prompt or c.name, synonyms=c.synonyms) for c in load_protocol(PROTOCOL).classes]
    bank: Any = Folder(images)
    pseudo = options.out / "pseudo"
    print(write_pseudo_labels(bank, pseudo, segmenter=teacher, labels=asked, background=None), flush=True)
    run = f"{options.name}-{options.seed}"
    changes = {
        "data.0.pseudo_labels": str(pseudo),
        "data.0.images": "/",
        "seed": options.seed,
        "features": str(options.out / "features"),
        "out": str(options.out / run),
        **json.loads(options.set),
    }
    out = train(load_training(find_asset("configs/training", "student"), overrides=changes))
    segmenters = {run: load(str(out), device="cpu"), **({} if options.no_teacher else {"teacher": teacher})}
    root, split = (held, "train") if options.choose else (options.data, "val")
    for title, segmenter in segmenters.items():
        scoring = RunOptions(split=split, boundary=False, sheet=False)
        found = evaluate(segmenter, PROTOCOL, data=root, options=scoring)
        low, high = found.interval
        print(f"{title}: {100 * found.mean_iou:.1f} ({100 * low:.1f} to {100 * high:.1f})", flush=True)
        print({name: round(100 * value, 1) for name, value in found.iou.items()}, flush=True)


if __name__ == "__main__":
    main()
