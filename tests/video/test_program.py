"""The program that compares carried labels with frames one by one: its clips, and a run on a few frames."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.clips import moving
from helpers.toy import COLOURS, make_segmenter
from PIL import Image

import ovseg

PROGRAM = Path(__file__).parents[2] / "evaluation" / "peers" / "video_table.py"


@pytest.fixture(scope="module")
def program() -> dict[str, Any]:
    return runpy.run_path(str(PROGRAM))


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """Two sequences of a red square on black, one of five frames and one of three, and a gap of one frame."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    categories = [{"id": 0, "name": "black"}, {"id": 1, "name": "red"}]
    (tmp_path / "categories.json").write_text(json.dumps({"ignore": 255, "categories": categories}))
    shown = [("a", 30 * number) for number in range(5)] + [("a", 300 + 30 * number) for number in range(3)]
    for (sequence, number), pixels in zip(shown, [*moving(5), *moving(3)], strict=True):
        red = (pixels == COLOURS["red"]).all(2)
        Image.fromarray(np.where(red[..., None], pixels, np.uint8(10))).save(
            tmp_path / "images" / f"{sequence}_{number:05d}.png"
        )
        Image.fromarray(red.astype(np.uint8)).save(tmp_path / "masks" / f"{sequence}_{number:05d}.png")
    return tmp_path


def test_a_name_is_a_sequence_and_a_number(program: dict[str, Any]) -> None:
    assert program["numbered"]("val/0016E5_07959") == ("0016E5", 7959)
    assert program["numbered"]("0001TP_006690") == ("0001TP", 6690)


def test_classes_that_a_clip_does_not_show_are_left_out(program: dict[str, Any]) -> None:
    labels, truth = program["present"](np.array([[[3, -1, 1]]]), ["a", "b", "c", "d"])
    assert labels == ["b", "d"] and truth.tolist() == [[[1, -1, 0]]]


def test_the_table_says_what_carrying_and_following_are_worth(
    program: dict[str, Any], frames: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ovseg, "load", lambda *given, **chosen: make_segmenter())
    monkeypatch.setattr(sys, "argv", ["video_table.py", "--frames-of", str(frames), "--every", "2"])
    monkeypatch.setattr("torch.set_num_threads", lambda count: None)
    program["main"]()
    printed = capsys.readouterr().out
    rows = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in printed.splitlines() if "|" in line}
    assert printed.rstrip().endswith("2 clips, 8 frames, 4 followed")  # a gap begins a new clip
    assert float(rows["each frame by itself"][0]) > 80 and float(rows["each frame by itself"][2]) == 1
    assert float(rows["followed"][2]) > float(rows["copied"][2])


def test_data_that_is_not_there_is_told_in_a_line(
    program: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ovseg, "load", lambda *given, **chosen: make_segmenter())
    monkeypatch.setattr("torch.set_num_threads", lambda count: None)
    monkeypatch.setattr(sys, "argv", ["video_table.py", "--frames-of", str(tmp_path / "none")])
    with pytest.raises(SystemExit) as left:
        program["main"]()
    assert left.value.code == 2 and capsys.readouterr().err.startswith("error: ")
