"""A clip on disk: what is written, that a killed run goes on, and what is not replaced."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.clips import finding, moving, square, write_clip
from helpers.toy import make_segmenter
from PIL import Image

from ovseg.errors import OutputError
from ovseg.files import read_json
from ovseg.pipeline.segmenter import Segmenter
from ovseg.video import Clip, VideoOptions, folder, segment_video
from ovseg.video.folder import WrittenClip, write_video
from ovseg.video.request import Request

pytest.importorskip("av", reason="needs pip install 'ovseg[video]'")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mp4", moving(6))


def write(clip: Path, out: Path, *labels: str, segmenter: Segmenter | None = None, **options: Any) -> WrittenClip:
    asked = {name: options.pop(name) for name in ("instances", "mask") if name in options}
    given = {name: options.pop(name) for name in ("overwrite", "advance") if name in options}
    return write_video(
        Clip(clip),
        Request(list(labels) or None, **asked),
        segmenter=segmenter or make_segmenter(),
        options=VideoOptions(**options),
        folder=out,
        **given,
    )


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def maps(out: Path) -> list[np.ndarray]:
    return [np.array(Image.open(path)) for path in sorted((out / "masks").glob("*.png"))]


def test_a_clip_becomes_maps_tables_a_film_and_a_record(clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = write(clip, out, "red", "blue", every=2)
    names = [path.name for path in sorted((out / "masks").iterdir())]
    assert names == [f"{number:06d}.png" for number in range(6)]
    expected = [frame.result for frame in segment_video(clip, ["red", "blue"], segmenter=make_segmenter(), every=2)]
    for found, result in zip(maps(out), expected, strict=True):
        assert (np.where(found == 255, -1, found.astype(int)) == result.index_map).all()
    table = rows(out / "frames.csv")
    assert [row["label"] for row in table[:2]] == ["red", "blue"] and len(table) == 12
    assert [row["key"] for row in table[::2]] == ["1", "0", "1", "0", "1", "0"]
    assert float(table[2]["seconds"]) == pytest.approx(0.1, abs=1e-3)
    assert int(table[0]["pixels"]) == expected[0].pixels("red")
    record = read_json(out / "video.json", what="record", advice="")
    assert (record["frames"], record["key_frames"], record["objects"], record["done"]) == (6, 3, None, True)
    assert record["areas"]["red"] == pytest.approx(np.mean([result.area("red") for result in expected]))
    assert done.record == record and done.fresh
    film = list(Clip(out / "overlay.mp4").frames())
    assert len(film) == 6 and film[0].pixels.shape[1] == 96 and film[0].pixels.shape[0] >= 64
    assert [frame.seconds for frame in film] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5], abs=1e-3)
    assert not (out / "objects.csv").exists()
    assert sorted(path.name for path in out.iterdir() if not path.name.startswith(".")) == [
        "frames.csv",
        "masks",
        "overlay.mp4",
        "video.json",
    ]


def test_objects_are_written_with_their_numbers(clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    segmenter, _ = finding((8, 16, 32, 40))
    done = write(clip, out, "red", instances=["red"], every=2, segmenter=segmenter)
    assert done.record["objects"] == {"red": 1}
    table = rows(out / "objects.csv")
    assert [row["id"] for row in table] == ["1"] * 6 and table[0]["label"] == "red"
    numbers = np.array(Image.open(out / "objects" / "000003.png"))
    assert set(np.unique(numbers)) == {0, 1} and int(table[3]["pixels"]) == (numbers == 1).sum()


def test_what_is_done_is_not_done_again_and_other_settings_are(clip: Path, tmp_path: Path) -> None:
    out, steps = tmp_path / "out", []
    assert write(clip, out, "red", advance=steps.append).fresh
    again = write(clip, out, "red", advance=steps.append)
    assert not again.fresh and len(steps) == 6
    assert write(clip, out, "blue", advance=steps.append).fresh and len(steps) == 12
    assert write(clip, out, "blue", every=2, advance=steps.append).fresh and len(steps) == 18
    assert write(clip, out, "blue", every=2, overwrite=True, advance=steps.append).fresh and len(steps) == 24
    (out / "overlay.mp4").unlink()
    assert write(clip, out, "blue", every=2, advance=steps.append).fresh
    shorter = write_clip(tmp_path / "clip.mp4", moving(4))
    write(shorter, out, "blue", every=2)
    assert len(maps(out)) == 4


class Stopped(Exception):
    pass


def test_a_stopped_run_goes_on_and_ends_the_same(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "_SAVED", 2)
    segmenter, _ = finding((8, 16, 32, 40))
    options: dict[str, Any] = {"instances": ["red"], "every": 3, "context": 2, "segmenter": segmenter}
    write(clip, tmp_path / "whole", "red", "blue", **options)
    steps: list[int] = []

    def stop(frame: Any) -> None:
        steps.append(frame.number)
        if len(steps) == 5:
            raise Stopped

    out = tmp_path / "out"
    with pytest.raises(Stopped):
        write(clip, out, "red", "blue", advance=stop, **options)
    assert not (out / "overlay.mp4").exists()
    write(clip, out, "red", "blue", advance=stop, **options)
    assert steps == [0, 1, 2, 3, 4, 4, 5]  # four were saved when it stopped
    for name in ("frames.csv", "objects.csv"):
        assert (out / name).read_text() == (tmp_path / "whole" / name).read_text()
    for found, wanted in zip(maps(out), maps(tmp_path / "whole"), strict=True):
        assert (found == wanted).all()
    assert not (out / ".state.safetensors").exists()


def test_a_damaged_state_begins_anew(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "_SAVED", 2)
    steps: list[int] = []

    def stop(frame: Any) -> None:
        steps.append(frame.number)
        if len(steps) == 3:
            raise Stopped

    with pytest.raises(Stopped):
        write(clip, tmp_path / "out", "red", advance=stop)
    (tmp_path / "out" / ".state.safetensors").write_bytes(b"half of it")
    write(clip, tmp_path / "out", "red", advance=stop)
    assert steps == [0, 1, 2, 0, 1, 2, 3, 4, 5]


KILLED = """
import os, signal, sys
from pathlib import Path
from helpers.toy import make_segmenter
from ovseg.video import Clip, VideoOptions, folder
from ovseg.video.request import Request
folder._SAVED = 2
def die(frame):
    if frame.number == 4:
        os.kill(os.getpid(), signal.SIGKILL)
folder.write_video(Clip(Path(sys.argv[1])), Request(["red"]), segmenter=make_segmenter(), options=VideoOptions(),
                   folder=Path(sys.argv[2]), advance=die)
"""


def test_a_killed_run_goes_on(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "_SAVED", 2)
    out = tmp_path / "out"
    tests = Path(__file__).parents[1]
    paths = os.pathsep.join([str(tests), str(tests.parent), os.environ.get("PYTHONPATH", "")])
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(clip), str(out)], env={**os.environ, "PYTHONPATH": paths}, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    steps: list[int] = []
    write(clip, out, "red", advance=lambda frame: steps.append(frame.number))
    assert steps == [4, 5]
    write(clip, tmp_path / "whole", "red")
    assert (out / "frames.csv").read_text() == (tmp_path / "whole" / "frames.csv").read_text()


def test_what_belongs_to_something_else_is_not_replaced(clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(clip, out, "red")
    other = write_clip(tmp_path / "other.mp4", moving(2))
    with pytest.raises(
        OutputError, match=r"is the result of '.*clip\.mp4' and is not replaced by that of '.*other"
    ):
        write(other, out, "red")
    assert write(other, out, "red", overwrite=True).record["frames"] == 2
    (tmp_path / "mine" / "masks").mkdir(parents=True)
    with pytest.raises(OutputError, match="has files without a record"):
        write(clip, tmp_path / "mine", "red")


def test_a_folder_of_frames_is_a_clip_and_its_frames_are_known_by_their_bytes(tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    for number, pixels in enumerate(moving(3)):
        Image.fromarray(pixels).save(frames / f"{number:05d}.png")
    assert write(frames, tmp_path / "out", "red").record["frames"] == 3
    assert not write(frames, tmp_path / "out", "red").fresh
    Image.fromarray(square(40)).save(frames / "00002.png")
    assert write(frames, tmp_path / "out", "red").fresh


def test_a_broken_tail_is_in_the_record(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (12, 64, 96, 3), dtype=np.uint8)
    path = write_clip(tmp_path / "a.mp4", list(noise))
    content = bytearray(path.read_bytes())
    start, end = content.index(b"mdat") + 4, content.index(b"moov") - 4
    content[(start + end) // 2 : end] = bytes(end - (start + end) // 2)
    path.write_bytes(content)
    record = write(path, tmp_path / "out", "red").record
    assert 2 < record["frames"] < 12 and len(record["notes"]) == 1 and "could be decoded" in record["notes"][0]
