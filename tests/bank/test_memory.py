"""Banks of a segmenter whose memory is bounded."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.toy import bound, within
from PIL import Image

from ovseg.bank import ImageBank, build
from ovseg.images.sources import Item
from ovseg.pipeline.memory import Asked
from ovseg.pipeline.segmenter import Segmenter


def test_a_bound_changes_no_vector_and_what_does_not_fit_is_a_bad_image_that_may_come_again(
    photos: Path, segmenter: Segmenter, tmp_path: Path
) -> None:
    photos = Path(shutil.copytree(photos, tmp_path / "photos"))
    Image.new("RGB", (3000, 2000), (200, 40, 40)).save(photos / "large.png")
    room = bound(segmenter).least((600, 600), Asked(labels=0))
    bank = ImageBank.build(photos, out=tmp_path / "bounded", segmenter=within(segmenter, room))
    free = ImageBank.build(photos, out=tmp_path / "free", segmenter=segmenter)
    [(path, reason)] = bank.bad_images()
    assert path == str(photos / "large.png")
    assert "has 3000 x 2000 pixels, which need at least" in reason
    assert reason.endswith("give more, or shrink it")
    assert len(free) == len(bank) + 1
    rows = [free.paths.index(path) for path in bank.paths]
    np.testing.assert_array_equal(bank.vectors, free.vectors[rows])

    again = ImageBank.open(tmp_path / "bounded", segmenter=segmenter).remove([path]).add(photos)
    assert not again.bad_images() and len(again) == len(free)


def test_within_a_bound_no_image_is_decoded_before_its_turn(
    photos: Path, segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    read, encode = Item.read, build._encode
    monkeypatch.setattr(Item, "read", lambda item: (events.append("read"), read(item))[1])
    monkeypatch.setattr(build, "_encode", lambda *given: (events.append("encode"), encode(*given))[1])
    bank = ImageBank.build(photos, out=tmp_path / "bank", segmenter=within(segmenter, 10**12))
    assert events == ["read", "encode"] * len(bank)
