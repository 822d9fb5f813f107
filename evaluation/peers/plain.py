"""A model of ovseg without its refinement and, if asked, without background handling.

python evaluation/peers/plain.py camvid11 --data camvid/val --model mini --out results/plain
python evaluation/peers/plain.py clothing --data clothing --no-background --out results/closed
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import ovseg
from ovseg.evaluation.manifest import describe_model
from ovseg.evaluation.peer import peer_parser, run_peer


@dataclass
class Plain:
    """Matching of pixels and words alone: MaskCLIP-like where the encoder is CLIP."""

    segmenter: Any
    with_background: bool

    @property
    def info(self) -> dict[str, Any]:
        """The model's own description, with what was taken away."""
        described = describe_model(self.segmenter)
        less = "no refinement" if self.with_background else "no refinement, no background"
        return {**described, "name": f"{described['name']} ({less})"}

    def segment(self, image: Any, labels: list[Any], *, background: Any = None) -> Any:
        """The model's answer with ``refine=False``."""
        chosen = background if self.with_background else None
        return self.segmenter.segment(image, labels, background=chosen, refine=False)


def make(given: argparse.Namespace) -> Plain:
    """The chosen model, stripped."""
    return Plain(ovseg.load(given.model), not given.no_background)


if __name__ == "__main__":
    parser = peer_parser(str(__doc__))
    parser.add_argument("--model", default="mini", help="a name from 'ovseg models'")
    parser.add_argument("--no-background", action="store_true", help="closed set: every pixel gets a label")
    print(run_peer(parser, make))
