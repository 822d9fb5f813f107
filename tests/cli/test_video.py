"""``ovseg video``: what it writes and prints, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.clips import SIZE, finding, moving, write_clip
from helpers.toy import make_segmenter, within
from PIL import Image
from typer.testing import CliRunner, Result

import ovseg
from ovseg.cli import build_app
from ovseg.errors import ConfigError, ImageError, OvsegError, ShapeError, VocabularyError

pytest.importorskip("av", reason="needs pip install 'ovseg[video]'")

Invoke = Callable[..., Result]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mp4", moving(4))


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch) -> Invoke:
    toy = make_segmenter()
    monkeypatch.setattr(ovseg, "load", lambda model, **chosen: toy)
    return lambda *arguments: CliRunner().invoke(build_app(), ["video", *map(str, arguments)])


def refused(done: Result) -> OvsegError:
    assert isinstance(done.exception, OvsegError), done.output
    return done.exception


def test_words_make_a_film_maps_and_a_table(invoke: Invoke, clip: Path, tmp_path: Path) -> None:
    done = invoke(clip, "red", "blue", "--every", 2, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    out = tmp_path / "out" / "clip"
    assert "4 frames, 0.3 s, 2 key frames" in done.stdout and f"overlay: {out / 'overlay.mp4'}" in done.stdout
    assert (out / "overlay.mp4").is_file() and len(list((out / "masks").iterdir())) == 4
    again = invoke(clip, "red", "blue", "--every", 2, "--out", tmp_path / "out")
    assert "already done with these settings" in again.output


def test_json_says_what_was_done(
    invoke: Invoke, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ovseg, "load", lambda model, **chosen: finding((8, 16, 32, 40))[0])
    done = invoke(clip, "red", "--instances-of", "red", "--json", "--out", tmp_path / "out")
    said = json.loads(done.stdout)
    assert (said["frames"], said["objects"], said["labels"]) == (4, {"red": 1}, ["red"])
    assert said["folder"] == str(tmp_path / "out" / "clip")


def test_labels_come_from_a_file_too(invoke: Invoke, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("red\nblue\n")
    done = invoke(clip, "--labels-file", tmp_path / "words.txt", "--json", "--out", tmp_path / "out")
    assert json.loads(done.stdout)["labels"] == ["red", "blue"]


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_mask_of_the_first_frame_is_followed(invoke: Invoke, clip: Path, tmp_path: Path, mode: str) -> None:
    drawn = np.zeros(SIZE, np.uint8)
    drawn[16:40, 8:32] = 1 if mode == "P" else 255
    picture = Image.fromarray(drawn)
    if mode == "P":
        picture.putpalette([0, 0, 0, 128, 0, 0])
    (picture.convert("RGB") if mode == "RGB" else picture).save(tmp_path / "first.png")
    done = invoke(clip, "ball", "--mask", tmp_path / "first.png", "--json", "--out", tmp_path / "out")
    said = json.loads(done.stdout)
    assert said["labels"] == ["ball"] and said["areas"]["ball"] == pytest.approx(576 / 6144, abs=0.05)


def test_a_broken_tail_is_told(invoke: Invoke, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (12, 64, 96, 3), dtype=np.uint8)
    path = write_clip(tmp_path / "a.mp4", list(noise))
    content = bytearray(path.read_bytes())
    start, end = content.index(b"mdat") + 4, content.index(b"moov") - 4
    content[(start + end) // 2 : end] = bytes(end - (start + end) // 2)
    path.write_bytes(content)
    done = invoke(path, "red", "--out", tmp_path / "out")
    assert done.exit_code == 0 and "of 12 frames could be decoded, the rest is left out" in done.output


def test_what_cannot_be_done_is_refused_before_the_model_is_loaded(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ovseg, "load", lambda *given, **chosen: pytest.fail("the model was loaded"))

    def invoke(*arguments: object) -> OvsegError:
        return refused(CliRunner().invoke(build_app(), ["video", *map(str, arguments)]))

    (tmp_path / "text.mp4").write_text("no film")
    assert isinstance(invoke(tmp_path / "text.mp4", "red"), ImageError)
    assert "no video" in str(invoke(tmp_path / "none.mp4", "red"))
    error = invoke(clip)
    assert isinstance(error, VocabularyError) and "expected labels, a mask or clicks" in str(error)
    error = invoke(clip, "--click", "1")
    assert isinstance(error, ConfigError) and "--click must be 2 numbers" in str(error)
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(tmp_path / "empty.png")
    assert "got 0 everywhere" in str(invoke(clip, "--mask", tmp_path / "empty.png"))


def test_a_mask_of_another_size_is_refused(invoke: Invoke, clip: Path, tmp_path: Path) -> None:
    Image.fromarray(np.full((32, 48), 255, np.uint8)).save(tmp_path / "small.png")
    error = refused(invoke(clip, "--mask", tmp_path / "small.png", "--out", tmp_path / "out"))
    assert isinstance(error, ShapeError) and "the size of the first frame, (64, 96), got (32, 48)" in str(error)


def test_a_bound_on_memory_goes_to_the_model_and_what_does_not_fit_leaves_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, object] = {}
    bounded = within(make_segmenter(), 200_000_000)
    monkeypatch.setattr(ovseg, "load", lambda model, **chosen: [seen.update(chosen), bounded][1])
    (tmp_path / "frames").mkdir()
    Image.new("RGB", (2000, 1000)).save(tmp_path / "frames" / "0.png")
    command = ["video", tmp_path / "frames", "red", "--max-memory", "200MB", "--out", tmp_path / "out"]
    error = refused(CliRunner().invoke(build_app(), [*map(str, command)]))
    assert seen["max_memory"] == "200MB" and "frame 0 has 2000 x 1000 pixels, which need at least" in str(error)
    assert not (tmp_path / "out").exists()
