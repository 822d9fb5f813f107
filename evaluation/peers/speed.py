"""What a call costs beside the bare encoder: ratios measured in one run, interleaved, medians.

    .venv/bin/python evaluation/peers/speed.py [IMAGE] [--json FILE]

Reported: the whole ``segment`` call and its parts against the encoder's forward at the same size, a thousand
labels against ten, start-up times, peak memory, and time and memory of ten thousand labels. Nothing here is
asserted; machines differ.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import ovseg
from ovseg.images.resize import prepare, working_size
from ovseg.pipeline.logits import class_logits
from ovseg.pipeline.upsample import find_winners
from ovseg.provenance import peak_memory_mib

EXAMPLE = Path(__file__).parents[2] / "examples" / "cat.jpg"
LABELS = ["person", "dog", "car", "tree", "road"]
MANY = """
import sys, time
import numpy as np
import torch
from PIL import Image
import ovseg
from ovseg.provenance import peak_memory_mib
torch.set_num_threads(2)
image = np.asarray(Image.open(sys.argv[1]).convert("RGB").resize((2000, 2000)))
segmenter, labels = ovseg.load("mini"), [f"thing {number}" for number in range(10_000)]
segmenter.queries(labels, background="auto")
start = time.perf_counter()
segmenter.segment(image, labels)
print(time.perf_counter() - start, peak_memory_mib()["resident"])
"""


def medians(jobs: dict[str, Callable[[], object]], *, rounds: int) -> dict[str, float]:
    """Milliseconds of every job, all jobs once per round so that noise falls on all alike."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(rounds + 2):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            if number >= 2:  # the first rounds compile kernels and fill caches
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def start_up(arguments: list[str], *, rounds: int = 5) -> float:
    """Median seconds of a Python process."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def many_labels(image: Path) -> dict[str, float]:
    """Seconds and peak memory of 10,000 labels, whose text vectors are known, on a photo of 2000×2000 pixels."""
    command = [sys.executable, "-c", MANY, str(image)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds, memory = map(float, printed.split())
    return {"10,000 labels, 2000 px (s)": seconds, "10,000 labels, 2000 px, peak (MB)": memory}


def show(figures: dict[str, float], path: Path | None) -> None:
    """Print the figures, and write them to a JSON file if there is to be one."""
    for name, value in figures.items():
        print(f"{name:36s} {value:10.2f}")
    if path is not None:
        path.write_text(json.dumps(figures, indent=2))


@torch.inference_mode()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?", default=EXAMPLE, type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(2)
    segmenter = ovseg.load("mini")
    image = np.asarray(Image.open(options.image).convert("RGB").resize((640, 480)))
    large = np.asarray(Image.open(options.image).convert("RGB").resize((1000, 1000)))
    spec, sizes = segmenter.model.image.spec, segmenter.config.input
    size = working_size((480, 640), short_side=sizes.short_side, max_long_side=None, stride=spec.granularity)
    pixels, geometry = prepare(image, spec, size=size)
    small, _ = prepare(image, spec, size=(448, 448))
    dense = segmenter.model.image.dense(pixels)
    features = segmenter.model.head.pixels(dense)
    head, smoothing = segmenter.model.head, segmenter.config.smoothing
    queries = segmenter.queries(LABELS, background="auto")
    maps = class_logits(head, features, queries, smoothing=smoothing).values.softmax(0)
    ten, thousand = [f"thing {n}" for n in range(10)], [f"thing {n}" for n in range(1000)]
    times = medians(
        {
            "encoder": lambda: segmenter.model.image.dense(pixels),
            "segment": lambda: segmenter.segment(image, LABELS, refine=False),
            "segment, refined": lambda: segmenter.segment(image, LABELS, refine=True),
            "prepare": lambda: prepare(image, spec, size=size),
            "head": lambda: segmenter.model.head.pixels(dense),
            "match": lambda: class_logits(head, features, queries, smoothing=smoothing),
            "paint": lambda: find_winners(maps, geometry, stride=spec.stride),
            "encoder at 448": lambda: segmenter.model.image.dense(small),
            "10 labels, 1000 px": lambda: segmenter.segment(large, ten, refine=False),
            "1000 labels, 1000 px": lambda: segmenter.segment(large, thousand, refine=False),
        },
        rounds=options.rounds,
    )
    figures: dict[str, float] = {f"{name} (ms)": value for name, value in times.items()}
    figures["segment / encoder"] = times["segment"] / times["encoder"]
    figures["1000 labels / 10 labels"] = times["1000 labels, 1000 px"] / times["10 labels, 1000 px"]
    figures["import ovseg (s)"] = start_up(["-c", "import ovseg"]) - start_up(["-c", "pass"])
    figures["ovseg --help (s)"] = start_up(["-m", "ovseg.cli", "--help"])
    figures["peak memory (MB)"] = peak_memory_mib()["resident"]
    figures |= many_labels(options.image)
    show(figures, options.json)


if __name__ == "__main__":
    main()
