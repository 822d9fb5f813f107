"""``ovseg`` as a program of its own, with the architectures of open_clip and timm made narrow."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers.checkpoints import narrow
from ovseg.cli import main

if __name__ == "__main__":
    with narrow():
        main()
