"""``ovseg select``: what it writes and prints, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.toy import COLOURS, make_segmenter
from PIL import Image
from typer.testing import CliRunner, Result

import ovseg
from ovseg.cli import build_app
from ovseg.errors import ConfigError, ImageError, OutputError, OvsegError, ShapeError

Invoke = Callable[..., Result]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    image = np.full((64, 128, 3), 120, np.uint8)
    image[8:32, 16:40] = image[8:32, 80:104] = COLOURS["red"]
    Image.fromarray(image).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch) -> Invoke:
    toy = make_segmenter()
    monkeypatch.setattr(ovseg, "load", lambda model, **chosen: toy)
    return lambda *arguments: CliRunner().invoke(build_app(), ["select", *map(str, arguments)])


def test_a_click_writes_the_mask_the_cut_out_and_the_overlay(invoke: Invoke, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "left.png"
    done = invoke(photo, "--click", "28,20", "--not", "92,20", "--using", "features", "-o", out)
    assert done.exit_code == 0, done.output
    assert f"mask: {out}" in done.stdout and "score" in done.stdout and "whole" in done.stdout
    names = ["left.png", "left_cutout.png", "left_overlay.png"]
    assert sorted(file.name for file in out.parent.iterdir()) == names
    mask = np.array(Image.open(out))
    assert set(np.unique(mask)) == {0, 255} and mask[20, 28] == 255 and mask[20, 92] == 0
    assert Image.open(out.parent / "left_cutout.png").mode == "RGBA"


def test_json_says_what_was_found(invoke: Invoke, photo: Path, tmp_path: Path) -> None:
    rough = tmp_path / "rough.png"
    drawn = np.zeros((64, 128), np.uint8)
    drawn[10:30, 18:38] = 255
    Image.fromarray(drawn).save(rough)
    arguments = [photo, "--mask", rough, "--box", "14,6,42,34", "--using", "features", "--level", "part", "--json"]
    done = invoke(*arguments, "-o", tmp_path / "mask.png")
    said = json.loads(done.stdout)
    x0, y0, x1, y1 = said["box"]
    assert (
        said["level"] == "part"
        and said["using"] == "features"
        and set(said["levels"])
        == {
            "whole",
            "part",
            "subpart",
        }
    )
    assert 14 <= x0 < x1 <= 42 and 6 <= y0 < y1 <= 34
    assert said["area"] == (np.array(Image.open(tmp_path / "mask.png")) > 0).sum()
    assert [Path(file).name for file in said["files"]] == ["mask.png", "mask_cutout.png", "mask_overlay.png"]


def test_words_that_find_nothing_say_so(invoke: Invoke, photo: Path, tmp_path: Path) -> None:
    done = invoke(photo, "--text", "blue", "--using", "features", "-o", tmp_path / "mask.png")
    assert done.exit_code == 0 and "nothing found; click on the thing" in done.stdout
    assert not np.array(Image.open(tmp_path / "mask.png")).any()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ([], ShapeError, "to select by, got nothing"),
        (["--click", "28"], ConfigError, "--click must be 2 numbers with commas between, such as 120,80, got '28'"),
        (["--box", "1,2,x,4"], ConfigError, "--box must be 4 numbers"),
        (["--click", "500,20"], ShapeError, "must lie in the image of 128 x 64 pixels"),
        (["--click", "28,20", "-o", "mask.jpg"], OutputError, "let its name end in"),
        (["--click", "28,20", "--mask", "none.png"], ImageError, "none.png"),
    ],
)
def test_what_cannot_be_done_is_told_before_the_model_is_loaded(
    photo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    error: type[OvsegError],
    message: str,
) -> None:
    monkeypatch.setattr(ovseg, "load", lambda *given, **chosen: pytest.fail("the model was loaded"))
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(build_app(), ["select", str(photo), *arguments])
    assert isinstance(done.exception, error) and message in str(done.exception)


def test_files_that_are_there_are_not_replaced_unasked(invoke: Invoke, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "mask.png"
    out.write_text("mine")
    arguments = [photo, "--click", "28,20", "--using", "features", "-o", out]
    done = invoke(*arguments)
    assert isinstance(done.exception, OutputError) and out.read_text() == "mine"
    assert invoke(*arguments, "--overwrite").exit_code == 0 and Image.open(out).mode == "L"
