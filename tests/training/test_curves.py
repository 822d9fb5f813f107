from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ovseg.training.curves import draw_curves, label, ticks


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (0.13, 0.92, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (0, 1, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (-3, 7, ["-4", "-2", "0", "2", "4", "6", "8"]),
        (0.1234, 0.1236, ["0.12340", "0.12345", "0.12350", "0.12355", "0.12360"]),
        (5, 5, ["2", "3", "4", "5", "6", "7", "8"]),
        (0, 0, ["-0.6", "-0.4", "-0.2", "0.0", "0.2", "0.4", "0.6"]),
    ],
)
def test_axes_have_round_numbers_around_their_range(low: float, high: float, wanted: list[str]) -> None:
    marks = ticks(low, high)
    assert [label(mark, marks) for mark in marks] == wanted
    assert marks[0] <= low and marks[-1] >= high


@pytest.mark.parametrize("high", [1e-12, 1e-6, 3e4, 2e9, 1e30])
def test_numbers_of_any_size_differ_from_their_neighbours(high: float) -> None:
    marks = ticks(0.4 * high, high)
    assert len({label(mark, marks) for mark in marks}) == len(marks) > 2


@pytest.mark.parametrize(
    ("last", "wanted"), [(1, [0, 1]), (7, [0, 2, 4, 6]), (300, [0, 50, 100, 150, 200, 250, 300])]
)
def test_steps_are_whole_and_end_with_the_run(last: int, wanted: list[int]) -> None:
    assert ticks(0, last, whole=True) == wanted


def written(
    monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, Any]], path: Path
) -> dict[str, tuple[float, float]]:
    """Every text of the picture and where it stands."""
    found: dict[str, tuple[float, float]] = {}
    write = ImageDraw.ImageDraw.text

    def text(self: Any, place: Any, words: str, *args: Any, **more: Any) -> None:
        found[words] = place
        write(self, place, words, *args, **more)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    draw_curves(rows, path)
    return found


def test_the_picture_says_what_its_curves_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[dict[str, Any]] = [{"step": step, "loss": 2.0 - step / 10} for step in range(1, 11)]
    rows[4]["score"], rows[9]["score"] = 0.2, 0.4
    found = written(monkeypatch, rows, tmp_path / "curves.png")
    assert {"loss", "score, %", "step", "0", "2", "10", "1.0", "2.0", "20", "40"} <= set(found)
    assert found["10"] == (656, 358) and found["0"] == (64, 358)  # under the corners of the frame
    assert found["2.0"][0] == 56 and found["40"][0] == 664  # beside it
    pixels = np.asarray(Image.open(tmp_path / "curves.png").convert("RGB")).astype(int)
    # the loss of step 10 is 1.0, the lowest of its axis: the red curve ends in the lower right corner
    assert (np.abs(pixels[350:354, 650:656] - (200, 60, 40)).sum(-1) < 30).any()


@pytest.mark.parametrize(
    "rows", [[], [{"step": 1, "loss": 0.5}], [{"step": 3, "loss": 0.5}, {"step": 4, "loss": 0.5}]]
)
def test_short_and_flat_runs_are_drawn(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    draw_curves(rows, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (720, 400)
