"""How far a call is from what this machine could do: processor time beside the bare networks, and beside peers.

    .venv/bin/python evaluation/peers/limit.py [IMAGE] [--rounds 9] [--peers] [--out docs/speed-table.md]

One thread, processor time, medians of rounds in which every row runs once, so that noise falls on all alike. The
limit is the time of the same networks in the fastest runtime that is installed; all rows are given as multiples of
it too. Peers are what a user might install instead, with random weights, at their own input sizes, with five
labels: their numbers say what a call costs, nothing else. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from PIL import Image

import ovseg
from ovseg._torchvision import ensure_torchvision
from ovseg.images.resize import prepare, working_size
from ovseg.runtimes.attach import with_runtime
from ovseg.runtimes.engines import installed

EXAMPLE = Path(__file__).parents[2] / "examples" / "cat.jpg"
FIVE = ["person", "dog", "car", "tree", "road"]
Job = Callable[[], object]


def network_jobs(segmenter: Any, image: np.ndarray) -> dict[str, Job]:
    """The image encoder alone, at the size of a call, in every runtime."""
    spec, sizes = segmenter.model.image.spec, segmenter.config.input
    side = {"short_side": sizes.short_side, "max_long_side": sizes.max_long_side}
    size = working_size(image.shape[:2], **side, stride=spec.granularity)
    pixels, _ = prepare(image, spec, size=size)
    jobs: dict[str, Job] = {"networks, PyTorch": lambda: segmenter.model.image.dense(pixels)}
    for name in installed():
        encoder = with_runtime(segmenter.model, name).image
        jobs[f"networks, {name}"] = lambda encoder=encoder: encoder.dense(pixels)
    return jobs


def call_jobs(segmenter: Any, small: np.ndarray, large: np.ndarray) -> dict[str, Job]:
    """Whole calls."""
    jobs: dict[str, Job] = {
        "call, 5 labels": lambda: segmenter.segment(small, FIVE),
        "call, 5 labels, no refinement": lambda: segmenter.segment(small, FIVE, refine=False),
        "call, 5 labels, 12 megapixels": lambda: segmenter.segment(large, FIVE),
    }
    for count in (1, 150, 1000):
        labels = [f"thing {number}" for number in range(count)]
        jobs[f"call, {count} label{'s' * (count > 1)}"] = lambda labels=labels: segmenter.segment(small, labels)
    for name in installed():
        other = ovseg.load("mini", device="cpu", runtime=name)
        jobs[f"call, 5 labels, {name}"] = lambda other=other: other.segment(small, FIVE)
    return jobs


def peer_jobs() -> dict[str, Job]:
    """Networks of transformers and the embedded SAM's encoder, with random inputs."""
    ensure_torchvision()
    from transformers import (
        CLIPSegConfig,
        CLIPSegForImageSegmentation,
        GroupViTConfig,
        GroupViTModel,
        OneFormerConfig,
        OneFormerForUniversalSegmentation,
        SwinConfig,
    )

    from ovseg.sam.load import load_sam

    ids = torch.randint(1, 1000, (5, 16))
    clipseg = CLIPSegForImageSegmentation(CLIPSegConfig()).eval()
    groupvit = GroupViTModel(GroupViTConfig()).eval()
    sam = load_sam("mobile-sam")
    stages = [f"stage{number}" for number in range(1, 5)]
    oneformer_config = OneFormerConfig(backbone_config=SwinConfig(out_features=stages))
    oneformer_config.is_training = False
    oneformer = OneFormerForUniversalSegmentation(oneformer_config).eval()
    photo = torch.randint(0, 255, (480, 640, 3), dtype=torch.uint8)
    at_352, at_224, at_640 = (torch.randn(5, 3, side, side) for side in (352, 224, 640))
    tasks = torch.randint(1, 1000, (1, 77))
    return {
        "CLIPSeg (352 px, 5 labels)": lambda: clipseg(input_ids=ids, pixel_values=at_352),
        "GroupViT (224 px, 5 labels)": lambda: groupvit(input_ids=ids, pixel_values=at_224[:1]),
        "OneFormer, Swin-T (640 px)": lambda: oneformer(pixel_values=at_640[:1], task_inputs=tasks),
        "MobileSAM's encoder (1024 px)": lambda: sam.encode(photo),
    }


def medians(jobs: dict[str, Job], *, rounds: int) -> dict[str, float]:
    """Milliseconds of processor time of every job; the first of its rounds does not count."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(rounds + 1):
        for name, job in jobs.items():
            start = time.process_time()
            with torch.inference_mode():
                job()
            if number:
                times[name].append(1000 * (time.process_time() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def table(times: dict[str, float]) -> str:
    """The rows with their multiples of the limit."""
    limit = min(value for name, value in times.items() if name.startswith("networks"))
    rows = [f"| {name} | {value:.0f} | {value / limit:.2f} |" for name, value in times.items()]
    machine = f"{_processor()}, one thread, torch {torch.__version__}"
    return "\n".join([f"{machine}:", "", "| what | ms | of the limit |", "|---|---|---|", *rows]) + "\n"


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?", default=EXAMPLE, type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--peers", action="store_true", help="also CLIPSeg, GroupViT, OneFormer and MobileSAM")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    segmenter = ovseg.load("mini", device="cpu")
    photo = Image.open(given.image).convert("RGB")
    small, large = (np.asarray(photo.resize(size)) for size in ((640, 480), (4000, 3000)))
    jobs = network_jobs(segmenter, small) | call_jobs(segmenter, small, large)
    if given.peers:
        jobs |= peer_jobs()
    printed = table(medians(jobs, rounds=given.rounds))
    print(printed)
    if given.out is not None:
        given.out.write_text(printed, encoding="utf-8")


if __name__ == "__main__":
    main()
