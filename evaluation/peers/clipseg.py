"""CLIPSeg of transformers on the same images, sizes and labels: one pass for each label, 352 x 352 pixels.

    python evaluation/peers/clipseg.py camvid11 --data camvid/val --limit 5 --out results/clipseg
    python evaluation/peers/clipseg.py camvid11 --data camvid/val --weights clipseg-rd64-refined

Without --weights the network has random weights: the time is that of the real one, the scores mean nothing,
and the report's model name says so.
"""

from __future__ import annotations

from ovseg.evaluation.run.clipseg import ClipSeg
from ovseg.evaluation.run.peer import peer_parser, run_peer

if __name__ == "__main__":
    parser = peer_parser(str(__doc__))
    parser.add_argument("--weights", help="folder or hub name; without it, random weights")
    parser.add_argument("--threshold", type=float, default=0.5, help="below it a pixel is background")
    print(run_peer(parser, lambda given, task, options: ClipSeg(given.weights, threshold=given.threshold)))
