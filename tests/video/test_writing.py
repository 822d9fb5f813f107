"""Films: H.264 that every player shows, at the times given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.clips import moving

from ovseg.errors import OutputError
from ovseg.video import Clip
from ovseg.video.writing import film

av = pytest.importorskip("av", reason="needs pip install 'ovseg[video]'")


def test_a_film_is_h264_with_even_sides_and_its_own_times(tmp_path: Path) -> None:
    times, frames = [0, 0.04, 0.5, 2.25], [frame[:63, :95] for frame in moving(4)]
    with film(tmp_path / "new" / "a.mp4") as add:
        for frame, seconds in zip(frames, times, strict=True):
            add(frame, seconds)
    with av.open(str(tmp_path / "new" / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert (stream.height, stream.width) == (64, 96)
    found = list(Clip(tmp_path / "new" / "a.mp4").frames())
    assert [frame.seconds for frame in found] == pytest.approx(times, abs=1e-3)
    for frame, pixels in zip(found, frames, strict=True):
        assert np.abs(frame.pixels[:63, :95].astype(int) - pixels).mean() < 6


def test_what_ends_in_an_error_leaves_no_film(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), film(tmp_path / "a.mp4") as add:
        add(moving(1)[0], 0)
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"), film(tmp_path / "file" / "a.mp4"):
        pass
