"""Banks that a command works with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ovseg.bank import ImageBank
    from ovseg.pipeline.segmenter import Segmenter


def open_bank(bank: Path, device: str) -> tuple[ImageBank, Segmenter]:
    """A bank with its model on a device."""
    import ovseg

    segmenter = ovseg.load(ovseg.ImageBank.open(bank).manifest["encoder"]["model"], device=device)
    return ovseg.ImageBank.open(bank, segmenter=segmenter), segmenter
