"""A model and its baselines on the same images and labels, in one run, as one table.

python evaluation/peers/all.py camvid11 --data camvid/val --out results/camvid11
python evaluation/peers/all.py clothing --data clothing --limit 20 --baselines majority no-background

Each writes the same report, in a folder of its own below --out.
"""

from __future__ import annotations

import ovseg
from ovseg.errors import OvsegError
from ovseg.evaluation.run.baselines import BASELINES
from ovseg.evaluation.run.clipseg import ClipSeg
from ovseg.evaluation.run.peer import model_parser, run_all, side_by_side, task_of, with_baselines


def main() -> None:
    """Evaluate and print."""
    parser = model_parser(str(__doc__))
    parser.add_argument("--baselines", nargs="*", default=list(BASELINES), metavar="NAME", help="which of them")
    parser.add_argument("--clipseg", metavar="WEIGHTS", help="also CLIPSeg: folder or hub name of its weights")
    given = parser.parse_args()
    task, options = task_of(given)
    try:
        segmenters = with_baselines(ovseg.load(given.model), given.baselines, task, options)
        if given.clipseg:
            segmenters["clipseg"] = ClipSeg(given.clipseg)
        print(side_by_side(run_all(segmenters, task, out=given.out, options=options)))
    except OvsegError as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
