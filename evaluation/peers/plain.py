"""A model of ovseg without its refinement and, if asked, without background handling.

python evaluation/peers/plain.py camvid11 --data camvid/val --model mini --out results/plain
python evaluation/peers/plain.py clothing --data clothing --no-background --out results/closed

Matching of pixels and words alone: MaskCLIP-like where the encoder is CLIP.
"""

from __future__ import annotations

import argparse
from typing import Any

import ovseg
from ovseg.evaluation import RunOptions, Task
from ovseg.evaluation.run.baselines import make_baseline
from ovseg.evaluation.run.peer import model_parser, run_peer


def make(given: argparse.Namespace, task: Task, options: RunOptions) -> Any:
    """The chosen model, stripped."""
    name = "plain" if given.no_background else "no-refinement"
    return make_baseline(name, ovseg.load(given.model), task, options)


if __name__ == "__main__":
    parser = model_parser(str(__doc__))
    parser.add_argument("--no-background", action="store_true", help="closed set: every pixel gets a label")
    print(run_peer(parser, make))
