"""What the order of released code costs: softmax at pixels over all phrases, against that of cells over classes.

    python evaluation/peers/scoring_speed.py [--size 500x375]

Random cosines of 28 x 28 cells; processor time of one thread, and the peak of memory that each order adds, in a
process of its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from typing import Any

import numpy as np
import torch

from ovseg.encoders.spec import DenseFeatures
from ovseg.images.geometry import ImageGeometry
from ovseg.models.config import read_model_config
from ovseg.pipeline.decide import DecisionRules
from ovseg.pipeline.encoded import EncodedImage
from ovseg.pipeline.logits import ClassLogits
from ovseg.pipeline.queries import QueryBank
from ovseg.vocabulary.labels import Vocabulary

CLASSES = (20, 150, 847)
GRID, STRIDE = 28, 16
ORDERS = {
    "cells, classes": {"scoring": {"over": "classes", "at": "cells"}, "refine": {}},
    "pixels, phrases": {"scoring": {"over": "phrases", "at": "pixels"}, "refine": {}},
    "pixels, phrases, PAMR": {
        "scoring": {"over": "phrases", "at": "pixels"},
        "refine": {"default": True, "method": "pamr-released"},
    },
}


def decide(order: str, classes: int, size: tuple[int, int]) -> tuple[float, float]:
    """Processor time in seconds and added peak memory in MB of one decision."""
    torch.set_num_threads(1)
    values = read_model_config("clip-b16-sclip-paper").model_dump() | {"datasets": {}} | ORDERS[order]
    rules = DecisionRules(type(read_model_config("mini")).model_validate(values))
    generator = torch.Generator().manual_seed(0)
    vocabulary = Vocabulary.of([f"label {number}" for number in range(classes)])
    queries = QueryBank.of_vectors(
        torch.zeros(classes, 1), range(classes), vocabulary, space="random", logit_scale=40.0
    )
    logits = 40 * torch.randn(classes, GRID, GRID, generator=generator).mul(0.03).add(0.2)
    found = ClassLogits(logits, STRIDE, queries, class_of_row=torch.arange(classes))
    image = np.random.default_rng(0).integers(0, 255, (*size, 3)).astype(np.uint8)
    side = (GRID * STRIDE,) * 2
    features = DenseFeatures(torch.zeros(1, 1, GRID, GRID), "random", STRIDE)
    encoded = EncodedImage(image, features, ImageGeometry(size, side, side))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    rules.decide(found, encoded, background=False, refine=rules.config.refine.default)
    seconds = time.process_time() - started
    return seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    """Print one line for each order and number of classes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="500x375", help="height x width of the image")
    size: Any = tuple(int(side) for side in parser.parse_args().size.split("x"))
    context = multiprocessing.get_context("spawn")
    for classes in CLASSES:
        for order in ORDERS:
            with context.Pool(1) as pool:
                seconds, memory = pool.apply(decide, (order, classes, size))
            print(f"{classes:4d} classes, {order:22s} {seconds:7.2f} s {memory:6.0f} MB")


if __name__ == "__main__":
    main()
