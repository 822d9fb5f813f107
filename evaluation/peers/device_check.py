"""Whether an accelerator gives the labels that the processor gives, and how much sooner.

    python evaluation/peers/device_check.py [--device cuda]

`mini` on the example photos, in float32 and in the type that the device takes by itself, as its file says and in
the order of three papers; then milliseconds a photo.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import ovseg
from ovseg.images.load import load_image

EXAMPLES = Path(__file__).parents[2] / "examples"
PHOTOS = ("cat", "temple", "coffee", "flower", "astronaut")
LABELS = ["cat", "wall", "temple", "tree", "sky", "cup", "table", "flower", "person"]
METHODS = ("sclip", "naclip", "clearclip")


def milliseconds(job: Callable[[], object], *, rounds: int = 10) -> float:
    """Median wall time of a job whose result is on the processor."""
    job()
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        job()
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)


def main() -> None:
    """Print the share of equal labels for each photo, and the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    device = parser.parse_args().device
    usual = ovseg.load("mini", device="cpu")
    others = {dtype: ovseg.load("mini", device=device, dtype=dtype) for dtype in ("float32", "auto")}
    print(torch.__version__, device)
    for photo in PHOTOS:
        path = EXAMPLES / f"{photo}.jpg"
        expected = usual.segment(path, LABELS).index_map
        shares = {
            name: float((each.segment(path, LABELS).index_map == expected).mean()) for name, each in others.items()
        }
        for method in METHODS:
            pair = [
                each.for_benchmark("voc21", method=method).segment(path, LABELS, background=["floor"]).index_map
                for each in (usual, others["float32"])
            ]
            shares[method] = float((pair[0] == pair[1]).mean())
        print(photo, " ".join(f"{name} {share:.4f}" for name, share in shares.items()))
    image = load_image(EXAMPLES / "temple.jpg")
    for name, each in {"cpu": usual, **others}.items():
        plain, refined = (
            milliseconds(lambda each=each, refine=refine: each.segment(image, LABELS, refine=refine))
            for refine in (False, True)
        )
        print(f"{name}: {plain:.1f} ms, refined {refined:.1f} ms")
    many = [np.array(image)] * 16
    batch = milliseconds(
        lambda: list(others["auto"].segment_batch(many, LABELS, batch_size=16, refine=False)), rounds=3
    )
    print(f"16 in a batch: {batch / 16:.1f} ms each")


if __name__ == "__main__":
    main()
