"""What the attention recipes cost beside the bare towers: ratios measured in one run, on random weights.

    .venv/bin/python evaluation/peers/tower_speed.py [--side 224] [--rounds 5] [--json FILE]

Weights do not change the time of a forward pass, so none are needed. Reported: each recipe's dense features
against the tower's own forward (ProxyCLIP and CorrCLIP against both towers), in processor time of one thread, as
other work on the machine stretches the clock of two threads by chance; bfloat16 against float32, with the share
of pixels whose label agrees; 847 labels against 20; peak memory of a 10,000×10,000 image. Nothing is asserted;
machines differ.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timing import EXAMPLES, Job, medians, show
from torch import Tensor

from ovseg._torchvision import ensure_torchvision
from ovseg.images.resize import prepare
from ovseg.models.build import build_model
from ovseg.models.config import read_model_config
from ovseg.models.model import Model
from ovseg.pipeline.segmenter import Segmenter

ensure_torchvision()
import open_clip  # noqa: E402  (it imports torchvision)

EXAMPLE = EXAMPLES / "temple.jpg"
RECIPES = ("maskclip", "sclip", "clearclip", "naclip", "proxyclip", "corrclip")
LARGE = """
import numpy as np
from ovseg.provenance import peak_memory_mib
from tower_speed import random_bank_segmenter
segmenter, labels = random_bank_segmenter("clip-b16-naclip-shared", 20)
image = np.tile(np.arange(10_000, dtype=np.uint8)[:, None, None], (1, 10_000, 3))
segmenter.segment(image, labels, background=None)
print(peak_memory_mib()["resident"])
"""


@torch.no_grad()
def random_model(name: str, dtype: torch.dtype = torch.float32) -> Model:
    """The networks of a model file with random weights."""
    torch.manual_seed(0)
    config = read_model_config(name)
    encoder = config.encoder.model_copy(update={"random_weights": True})
    model = build_model(config.model_copy(update={"encoder": encoder}), dtype=dtype)
    draw = torch.Generator().manual_seed(0)
    for weight in model.image.parameters():  # larger than at the start of training, so that places differ
        if weight.ndim > 1:
            weight.copy_(1.5 * torch.randn(weight.shape, generator=draw) * weight[0].numel() ** -0.5)
    return model


class RandomText:
    """Unit vectors drawn once for every phrase."""

    def __init__(self, space: str, channels: int) -> None:
        self.space = space
        self.channels = channels

    def encode(self, phrases: list[str]) -> Tensor:
        """(n, C) unit vectors."""
        vectors = torch.empty(len(phrases), self.channels)
        for row, phrase in zip(vectors, phrases, strict=True):
            row.normal_(generator=torch.Generator().manual_seed(zlib.crc32(phrase.encode())))
        return torch.nn.functional.normalize(vectors, dim=-1)


def with_random_text(model: Model, device: torch.device) -> Segmenter:
    """A segmenter of networks that are on ``device``, with random text vectors."""
    spec = model.image.spec
    return Segmenter(replace(model, text=lambda: RandomText(spec.space, spec.channels)), device=device)


def random_bank_segmenter(name: str, count: int, dtype: torch.dtype = torch.float32) -> tuple[Segmenter, list[str]]:
    """A segmenter on random weights and random text vectors, and ``count`` labels."""
    segmenter = with_random_text(random_model(name, dtype), torch.device("cpu"))
    return segmenter, [f"thing {number}" for number in range(count)]


def processor_medians(jobs: dict[str, Job], *, rounds: int) -> dict[str, float]:
    """Processor time of every job on one thread, in milliseconds; see ``medians``."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times = medians(jobs, rounds=rounds, clock=time.process_time, warm=1)
    torch.set_num_threads(threads)
    return times


def recipe_ratios(pixels: Tensor, *, rounds: int) -> dict[str, float]:
    """Dense features of every recipe over the forward passes of the networks it is made of."""
    figures: dict[str, float] = {}
    side = pixels.shape[-1]
    for recipe in RECIPES:
        model = random_model(f"clip-b16-{recipe}-shared")
        encoder = model.image
        bare = open_clip.create_model(model.config.encoder.name, force_image_size=side).visual.eval()
        jobs: dict[str, Job] = {
            "tower": lambda bare=bare: bare(pixels),
            "dense": lambda encoder=encoder: encoder.dense(pixels),
        }
        if encoder.structure is not None:
            trunk = encoder.structure.network.trunk
            trunk.set_input_size(img_size=(side, side))
            jobs["structure"] = lambda trunk=trunk: trunk(pixels)
        times = processor_medians(jobs, rounds=rounds)
        figures[f"{recipe} / forward"] = times.pop("dense") / sum(times.values())
    return figures


def precision(image: np.ndarray, *, rounds: int) -> dict[str, float]:
    """bfloat16 over float32, and how many pixels keep their label."""
    full, labels = random_bank_segmenter("clip-b16-naclip-shared", 20)
    half, _ = random_bank_segmenter("clip-b16-naclip-shared", 20, torch.bfloat16)
    times = medians(
        {
            "float32": lambda: full.segment(image, labels, background=None),
            "bfloat16": lambda: half.segment(image, labels, background=None),
        },
        rounds=rounds,
    )
    maps = [segmenter.segment(image, labels, background=None).index_map for segmenter in (full, half)]
    return {
        "bfloat16 / float32": times["bfloat16"] / times["float32"],
        "labels that agree": float((maps[0] == maps[1]).mean()),
        "labels in use": float(len(np.unique(maps[0]))),
    }


def vocabularies(image: np.ndarray, *, rounds: int) -> float:
    """847 labels over 20, both cached."""
    segmenter, labels = random_bank_segmenter("clip-b16-naclip-shared", 847)
    times = medians(
        {
            "few": lambda: segmenter.segment(image, labels[:20], background=None),
            "many": lambda: segmenter.segment(image, labels, background=None),
        },
        rounds=rounds,
    )
    return times["many"] / times["few"]


@torch.inference_mode()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    image = np.asarray(Image.open(EXAMPLE).convert("RGB").resize((640, 480)))
    spec = random_model("clip-b16-naclip-shared").image.spec
    pixels, _ = prepare(image, spec, size=(options.side, options.side))
    figures = recipe_ratios(pixels, rounds=options.rounds)
    figures |= precision(image, rounds=options.rounds)
    figures["847 labels / 20 labels"] = vocabularies(image, rounds=options.rounds)
    large = subprocess.run(
        [sys.executable, "-c", LARGE], cwd=Path(__file__).parent, check=True, capture_output=True, text=True
    )
    figures["10,000 x 10,000 image, peak (MB)"] = float(large.stdout)
    show(figures, options.json)


if __name__ == "__main__":
    main()
