"""What a click costs once the photo is encoded: processor time of one thread, by a SAM and by features.

    .venv/bin/python evaluation/peers/click_speed.py [IMAGE] [--clicks 10]

Reported for a first click (three masks) and for one more off the thing (four): milliseconds of processor time, and
the ratio to encoding the photo by the same SAM, or by the model. Nothing here is asserted; machines differ.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from timing import EXAMPLES, Job, seconds

import ovseg
from ovseg.sam import ask_sam


def milliseconds(call: Job, *, times: int = 1) -> float:
    """Processor time of a call, the mean of several."""
    return 1000 * seconds(lambda: [call() for _ in range(times)], clock=time.process_time) / times


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?", type=Path, default=EXAMPLES / "coffee.jpg")
    parser.add_argument("--clicks", type=int, default=10)
    given = parser.parse_args()
    torch.set_num_threads(1)
    segmenter = ovseg.load("mini", device="cpu")
    segmenter.encode(given.image)  # the first run of a network takes longer
    encoding = {"features": milliseconds(lambda: segmenter.encode(given.image))}
    photo = segmenter.encode(given.image)
    ask_sam(segmenter.encode(given.image), "mobile-sam")
    encoding["sam"] = milliseconds(lambda: ask_sam(photo, "mobile-sam"))
    height, width = photo.image.shape[:2]
    on, off = [(width / 2, height / 2)], [(width / 8, height / 8)]
    print("| using | first click, ms | next click, ms | of encoding, % |\n|---|---|---|---|")
    for using in ("sam", "features"):
        first = segmenter.select(photo, positive=on, using=using)

        def begin(using: str = using) -> Any:
            return segmenter.select(photo, positive=on, using=using)

        def go_on(using: str = using, first: Any = first) -> Any:
            return segmenter.select(photo, negative=off, previous=first, using=using)

        times = [milliseconds(call, times=given.clicks) for call in (begin, go_on)]
        ratio = 100 * times[1] / encoding[using]
        print(f"| {using} | {times[0]:.0f} | {times[1]:.0f} | {ratio:.1f} |")


if __name__ == "__main__":
    main()
