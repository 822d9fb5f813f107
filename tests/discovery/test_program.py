"""The program that measures discovery: its figures by hand, and a run on a few pictures."""

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.toy import make_segmenter, paint
from PIL import Image

import ovseg

PROGRAM = Path(__file__).parents[2] / "evaluation" / "peers" / "discovery.py"


@pytest.fixture(scope="module")
def program() -> dict[str, Any]:
    return runpy.run_path(str(PROGRAM))


def test_a_perfect_map_has_100_and_half_of_one_what_the_formulas_say(program: dict[str, Any]) -> None:
    truth = np.zeros((4, 4), bool)
    truth[:2] = True
    assert program["figures"]([truth.astype(np.float32)], [truth]) == {"max F": 100, "IoU": 100, "accuracy": 100}
    half = np.zeros((4, 4), np.float32)
    half[0] = 1  # precision 1, recall ½
    found = program["figures"]([half], [truth])
    assert found == pytest.approx({"max F": 100 * 1.3 * 0.5 / (0.3 + 0.5), "IoU": 50, "accuracy": 75})


def test_purity_counts_the_most_frequent_name_and_no_group_is_wrong(program: dict[str, Any]) -> None:
    assert program["purity"]([1, 1, 1, 2, -1], ["a", "a", "b", "b", "c"]) == pytest.approx(60)


def test_the_mask_of_a_pasted_cutout_is_where_it_lies(program: dict[str, Any], tmp_path: Path) -> None:
    photo = tmp_path / "a.png"
    Image.new("RGB", (60, 40), (0, 0, 0)).save(photo)
    cutout = Image.new("RGBA", (30, 20), (255, 255, 255, 255))
    pixels, truth = program["paste"](photo, cutout, np.random.default_rng(0))
    assert np.array_equal(pixels[..., 0] > 127, truth) and 0.05 < truth.mean() < 0.6


def test_figures_of_stuff_by_hand(program: dict[str, Any]) -> None:
    """Two groups, three kinds, of which the last is nowhere; 5 pixels of the second are in no group."""
    counts = program["gathered"](np.array([[8, 0, 0], [0, 3, 0], [2, 2, 0]]), np.array([0, 1, 0]), 2)
    assert counts.tolist() == [[10, 2, 0], [0, 3, 0]]
    found = program["stuff_figures"](counts, np.array([10, 10, 0]))
    assert found == pytest.approx(
        {"purity": 1300 / 15, "mean IoU": 50 * (10 / 12 + 3 / 10), "accuracy": 100 * 13 / 20}
    )


def test_stuff_of_a_few_photos_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Blue above, green below: groups are of one kind each, and one group of all is half wrong."""
    toy = make_segmenter()
    monkeypatch.setattr(ovseg, "load", lambda name="mini", **_: toy, raising=False)
    for folder in ("photos", "masks"):
        (tmp_path / folder).mkdir()
    for number in range(4):
        pixels, truth = np.zeros((96, 96, 3), np.uint8), np.full((96, 96), 7, np.uint8)
        pixels[:48], pixels[48:], truth[48:] = (60, 60, 230), (60, 200 + number, 60), 9
        truth[:4] = 1  # a thing, which does not count
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
        Image.fromarray(truth).save(tmp_path / "masks" / f"{number}.png")
    kinds = [{"id": number, "name": str(number), "isthing": int(number == 1)} for number in (1, 7, 9)]
    (tmp_path / "categories.json").write_text(json.dumps({"categories": kinds}))
    monkeypatch.setattr("ovseg.discovery.found.propose", lambda *_, **__: ())
    places = [str(tmp_path / name) for name in ("photos", "masks", "categories.json")]
    monkeypatch.setattr(sys, "argv", [PROGRAM.name, "stuff", *places, "--groups", "2"])
    runpy.run_path(str(PROGRAM), run_name="__main__")
    found = json.loads(capsys.readouterr().out)
    assert found["photos"] == 4 and found["groups"] == found["kinds"] == 2 and found["stuff that has a group"] > 95
    assert found["groups of discover"]["purity"] > 97 and found["groups of discover"]["mean IoU"] > 92
    assert found["all in one"]["purity"] < 60


def test_groups_of_a_few_photos_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    toy = make_segmenter()
    monkeypatch.setattr(ovseg, "load", lambda name="mini", **_: toy, raising=False)
    rows = ["file,name"]
    for number in range(10):
        name = ("red", "blue")[number % 2]
        rows.append(f"{paint(tmp_path / 'p', f'{number}.png', [name], seed=number).name},{name}")
    (tmp_path / "names.csv").write_text("\n".join(rows))
    arguments = ["groups", str(tmp_path / "p"), str(tmp_path / "names.csv"), "--each", "5", "--groups", "3"]
    monkeypatch.setattr(sys, "argv", [PROGRAM.name, *arguments])
    runpy.run_path(str(PROGRAM), run_name="__main__")
    found = json.loads(capsys.readouterr().out)
    assert found["photos"] == 10 and found["purity of those with a group"] == 100
