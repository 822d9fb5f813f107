"""Clips: frames, their times, turned ones, broken ones, and what is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.clips import moving, square, write_clip
from PIL import Image

from ovseg import errors
from ovseg.errors import ImageError, MissingDependencyError
from ovseg.video import Clip

av = pytest.importorskip("av", reason="needs pip install 'ovseg[video]'")


def near(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two pictures differ by no more than what compression does to flat colours."""
    return one.shape == other.shape and float(np.abs(one.astype(int) - other).mean()) < 6


def test_frames_come_in_order_with_numbers_and_seconds(tmp_path: Path) -> None:
    frames = moving(5)
    clip = Clip(write_clip(tmp_path / "a.mp4", frames))
    found = list(clip.frames())
    assert [frame.number for frame in found] == [0, 1, 2, 3, 4]
    assert [frame.seconds for frame in found] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4], abs=1e-3)
    assert all(near(frame.pixels, pixels) for frame, pixels in zip(found, frames, strict=True))
    assert (clip.expected, clip.name, clip.notes) == (5, "a", [])


def test_frames_of_a_variable_rate_keep_their_own_times(tmp_path: Path) -> None:
    times = [0, 0.04, 0.5, 0.51, 2.0]
    found = list(Clip(write_clip(tmp_path / "a.mkv", moving(5), times=times)).frames())
    assert [frame.seconds for frame in found] == pytest.approx(times, abs=1e-3)


@pytest.mark.parametrize(("turned", "quarters"), [(90, 1), (-90, 3), (180, 2)])
def test_a_turned_clip_is_shown_upright(tmp_path: Path, turned: int, quarters: int) -> None:
    if not hasattr(av.video.stream.VideoStream, "set_display_rotation"):
        pytest.skip("this PyAV cannot write a turned clip")
    frame = square(8)
    (found,) = Clip(write_clip(tmp_path / "a.mp4", [frame], turned=turned)).frames()
    assert near(found.pixels, np.rot90(frame, quarters))


def test_a_broken_tail_is_left_out_and_told(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (12, 64, 96, 3), dtype=np.uint8)
    whole = write_clip(tmp_path / "a.mkv", list(noise))
    cut = tmp_path / "cut.mp4"
    write_clip(cut, list(noise), codec="mpeg4")
    content = bytearray(cut.read_bytes())
    start = content.index(b"mdat") + 4
    middle = (start + len(content)) // 2
    end = content.index(b"moov") - 4
    content[middle:end] = bytes(end - middle)  # the last frames are zeros
    cut.write_bytes(content)
    clip = Clip(cut)
    found = list(clip.frames())
    assert 2 < len(found) < 12 and near(found[0].pixels, next(iter(Clip(whole).frames())).pixels)
    assert len(clip.notes) == 1 and f"{len(found)} of 12 frames could be decoded" in clip.notes[0]


def test_what_was_cut_off_gives_the_frames_that_are_there(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (12, 64, 96, 3), dtype=np.uint8)
    path = write_clip(tmp_path / "a.mkv", list(noise))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert 2 < len(list(Clip(path).frames())) < 12


def test_a_folder_of_pictures_and_pictures_in_memory_are_clips(tmp_path: Path) -> None:
    frames = moving(3)
    for number, pixels in enumerate(frames):
        Image.fromarray(pixels).save(tmp_path / f"{number:05d}.png")
    for clip in (Clip(tmp_path), Clip(frames), Clip(iter(frames), rate=25)):
        found = list(clip.frames())
        assert [frame.seconds for frame in found] == pytest.approx([0, 0.04, 0.08])
        assert all((frame.pixels == pixels).all() for frame, pixels in zip(found, frames, strict=True))
    assert (Clip(tmp_path).expected, Clip(frames).expected, Clip(iter(frames)).expected) == (3, 3, None)


def test_a_frame_of_another_size_is_brought_to_that_of_the_first() -> None:
    found = list(Clip([square(8), square(8)[:32, :48]]).frames())
    assert found[1].pixels.shape == (64, 96, 3)


def test_what_is_no_clip_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"no video '.*none\.mp4'"):
        list(Clip(tmp_path / "none.mp4").frames())
    (tmp_path / "text.mp4").write_text("a film about a dog")
    with pytest.raises(ImageError, match=r"expected a video file, got '.*text\.mp4', which cannot be opened"):
        list(Clip(tmp_path / "text.mp4").frames())
    with pytest.raises(ImageError, match="expected a video with frames, got none in 'the pictures given'"):
        list(Clip([]).frames())


def test_sound_alone_and_a_video_of_no_frames_are_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(ImageError, match=r"which has no pictures"):
        list(Clip(tmp_path / "a.wav").frames())
    path = write_clip(tmp_path / "a.mp4", moving(3))
    content = bytearray(path.read_bytes())
    content[content.index(b"mdat") + 4 : content.index(b"moov") - 4] = bytes(
        content.index(b"moov") - content.index(b"mdat") - 8
    )
    path.write_bytes(content)
    with pytest.raises(ImageError, match="expected a video with frames, got none"):
        list(Clip(path).frames())


def test_a_missing_package_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    path = write_clip(tmp_path / "a.mp4", moving(2))
    monkeypatch.setattr(errors.importlib, "import_module", missing)
    with pytest.raises(MissingDependencyError, match=r"package 'av', .* pip install 'ovseg\[video\]'"):
        list(Clip(path).frames())
