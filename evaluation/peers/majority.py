"""The floor: every pixel gets the one label that covers most of the data set's truth.

python evaluation/peers/majority.py camvid11 --data camvid/val --out results/majority
"""

from __future__ import annotations

from ovseg.evaluation.run.baselines import Majority
from ovseg.evaluation.run.peer import peer_parser, run_peer

if __name__ == "__main__":
    print(run_peer(peer_parser(str(__doc__)), lambda given, task, options: Majority.of(task, options)))
