"""What to label next in a bank: regions where labels meet, no copies, files that are whole, runs that go on."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.toy import COLOURS, make_segmenter
from PIL import Image

from ovseg.bank import ImageBank, suggest
from ovseg.bank.suggest import class_shares, regions_of
from ovseg.bank.suggestions import Suggestion, Suggestions
from ovseg.errors import ConfigError, OutputError, VocabularyError
from ovseg.identity import digest
from ovseg.pipeline.segmenter import Segmenter
from ovseg.regions.worth import region_worth

LABELS = ["red", "green"]


def halves(folder: Path, name: str, left: str, right: str, middle: str | None = None) -> Path:
    """64 × 128 pixels of two colours, perhaps with a strip of a third between them."""
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[:, :64], pixels[:, 64:] = COLOURS[left], COLOURS[right]
    if middle:
        pixels[:, 56:72] = COLOURS[middle]
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / name)
    return folder / name


@pytest.fixture
def small_bank(tmp_path: Path, segmenter: Segmenter) -> ImageBank:
    folder = tmp_path / "photos"
    halves(folder, "a.png", "red", "green", "yellow")
    halves(folder, "b.png", "red", "red")
    halves(folder, "c.png", "green", "red", "yellow")
    halves(folder, "d.png", "red", "green", "yellow")  # as a.png
    pixels = np.asarray(Image.open(folder / "d.png")).copy()
    pixels[0, 0] = 0
    Image.fromarray(pixels).save(folder / "d.png")
    return ImageBank.build(folder, out=tmp_path / "bank", segmenter=segmenter)


def names(made: Suggestions) -> list[str]:
    return [Path(each.image).name for each in made.regions]


def test_regions_lie_where_labels_meet_and_the_model_is_unsure(small_bank: ImageBank) -> None:
    made = suggest(small_bank, LABELS, window=3, per_image=1, diversity=0, background=None)
    assert set(names(made)) == {"a.png", "c.png", "d.png"}  # all red is worth nothing
    for each in made.regions:
        x0, y0, x1, y1 = each.box
        assert (x1 - x0, y1 - y0) == (24, 24)  # three cells of 8 pixels, as the side of 64 is the encoder's
        assert x0 <= 56 < x1 or x0 <= 71 < x1
        assert 0 < each.score <= 1
        assert set(each.labels) <= set(LABELS)
    assert [each.score for each in made.regions] == sorted((each.score for each in made.regions), reverse=True)


def test_the_score_is_that_of_the_region_in_the_image(small_bank: ImageBank, segmenter: Segmenter) -> None:
    queries = segmenter.queries(LABELS, background="auto")
    encoded = segmenter.encode(small_bank.image(0))
    logits = segmenter.logits(encoded, queries)
    shares = encoded.unpadded(class_shares(logits))
    assert len(shares) == 3  # the contrasts count as one class
    found = regions_of(encoded, logits, window=3)
    assert found[0].score == pytest.approx(float(region_worth(shares, window=3).score.max()))
    boxes = [each.box for each in found]
    for number, (x0, y0, x1, y1) in enumerate(boxes):
        for a0, b0, a1, b1 in boxes[:number]:
            assert a1 <= x0 or x1 <= a0 or b1 <= y0 or y1 <= b0


def test_near_copies_are_not_suggested_one_after_the_other(small_bank: ImageBank) -> None:
    made = suggest(small_bank, LABELS, window=3, per_image=1, count=2, background=None)
    assert len(made.regions) == 2
    plain = suggest(small_bank, LABELS, window=3, per_image=1, count=3, diversity=0, background=None)
    apart = suggest(small_bank, LABELS, window=3, per_image=1, count=3, diversity=1, background=None)
    assert {names(plain)[0], names(plain)[1]} in ({"a.png", "d.png"}, {"a.png", "c.png"}, {"c.png", "d.png"})
    assert names(apart)[0] == names(plain)[0]


def test_files_say_the_same_and_an_earlier_run_is_gone_on_with(
    small_bank: ImageBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, segmenter: Segmenter
) -> None:
    out = tmp_path / "out"
    made = suggest(small_bank, LABELS, window=3, out=out)
    read = json.loads((out / "suggestions.json").read_text())
    assert read["bad"] == []
    assert read["regions"] == [each.to_dict() for each in made.regions]
    rows = list(csv.DictReader((out / "suggestions.csv").open(newline="")))
    assert [(row["image"], int(row["x0"]), int(row["y1"])) for row in rows] == [
        (each.image, each.box[0], each.box[3]) for each in made.regions
    ]
    assert rows[0]["labels"].split("; ") == list(made.regions[0].labels)
    assert Image.open(out / "sheet.png").width > 300

    lines = (out / "regions.jsonl").read_text().splitlines(keepends=True)
    (out / "regions.jsonl").write_text("".join(lines[:2]) + lines[2][:40])  # as a kill leaves it
    seen: list[Any] = []
    monkeypatch.setattr(segmenter, "encode", lambda image: seen.append(0) or Segmenter.encode(segmenter, image))
    done: list[int] = []
    again = suggest(small_bank, LABELS, window=3, count=2, out=out, segmenter=segmenter, progress=done.append)
    assert (len(seen), sum(done)) == (2, 4)
    assert again.regions == made.regions[:2]  # the first ones are the same, whatever the number


def test_an_image_that_has_changed_is_looked_at_again_and_a_bad_one_is_told(
    small_bank: ImageBank, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    suggest(small_bank, LABELS, window=3, out=out)
    halves(tmp_path / "photos", "b.png", "green", "red")
    (tmp_path / "photos" / "c.png").write_bytes(b"no picture")
    made = suggest(small_bank, LABELS, window=3, out=out)
    assert [Path(path).name for path, _ in made.bad] == ["c.png"]
    assert "c.png" not in names(made)
    assert "b.png" in names(made)
    assert json.loads((out / "suggestions.json").read_text())["bad"][0]["path"].endswith("c.png")
    shutil.copy(tmp_path / "photos" / "a.png", tmp_path / "photos" / "c.png")
    assert suggest(small_bank, LABELS, window=3, out=out).bad == ()


def test_a_crash_while_files_are_written_leaves_those_before(
    small_bank: ImageBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    suggest(small_bank, LABELS, window=3, out=out)
    before = {path.name: path.read_bytes() for path in out.glob("s*.*")}
    assert set(before) == {"settings.json", "suggestions.json", "suggestions.csv", "sheet.png"}
    monkeypatch.setattr(Image.Image, "save", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        suggest(small_bank, LABELS, window=3, count=1, out=out)
    assert {path.name: path.read_bytes() for path in out.glob("s*.*")} == before


def test_what_cannot_be_used_is_refused(small_bank: ImageBank, tmp_path: Path) -> None:
    for wrong, message in (
        ({"count": 0}, "count must be at least 1, got 0"),
        ({"window": 0}, "window must be at least 1"),
        ({"per_image": 5}, "per_image must be at least 1 and at most 4, got 5"),
        ({"diversity": -1}, "diversity must be at least 0"),
        ({"diversity": float("nan")}, "diversity must be at least 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            suggest(small_bank, LABELS, **wrong)
    with pytest.raises(VocabularyError, match="got 'red' alone"):
        suggest(small_bank, ["red"], background=None)
    out = tmp_path / "out"
    suggest(small_bank, LABELS, window=3, out=out)
    with pytest.raises(ConfigError, match="other settings: window 3 before and 5 now; choose another"):
        suggest(small_bank, LABELS, window=5, out=out)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        suggest(small_bank, LABELS, window=3, out=tmp_path / "file")


def test_one_label_against_everything_else_is_enough(small_bank: ImageBank) -> None:
    assert suggest(small_bank, ["red"], window=3).regions


def test_nothing_to_suggest_makes_an_empty_sheet(tmp_path: Path) -> None:
    Suggestions(()).save(tmp_path)
    assert json.loads((tmp_path / "suggestions.json").read_text()) == {"regions": [], "bad": []}
    assert (tmp_path / "suggestions.csv").read_text().strip() == "image,x0,y0,x1,y1,score,labels"
    gone = Suggestions((Suggestion("gone.png", (0, 0, 5, 5), 0.5, ("red",)),))
    assert gone.sheet().height > 320


def test_the_sheet_has_a_box_on_every_region(tmp_path: Path) -> None:
    """A black picture at half size: the frame of x0, y0 = 40, 20 begins at 20, 90 of the tile of 320."""
    pixels = np.zeros((320, 640, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    made = Suggestions((Suggestion(str(tmp_path / "a.png"), (40, 20, 140, 120), 0.5, ("red", "green")),))
    tile = np.asarray(made.sheet())[2:, 2:]  # a margin of two pixels
    frame = (tile == (213, 94, 0)).all(2)
    rows, columns = frame[:320].nonzero()
    assert (columns.min(), columns.max()) == (20, 69)
    assert (rows.min(), rows.max()) == (90, 139)


def test_other_words_are_another_segmenter(small_bank: ImageBank, tmp_path: Path) -> None:
    out = tmp_path / "out"
    suggest(small_bank, LABELS, window=3, out=out)
    kept = digest(json.loads((out / "settings.json").read_text()))
    message = r"other settings: labels \['red', 'green'\] before and \['red', 'blue'\] now"
    with pytest.raises(ConfigError, match=message):
        suggest(small_bank, ["red", "blue"], window=3, out=out)
    with pytest.raises(ConfigError, match="other settings: background 'auto' before and 'None' now"):
        suggest(small_bank, LABELS, window=3, background=None, out=out)
    assert digest(json.loads((out / "settings.json").read_text())) == kept
    assert make_segmenter().identity(LABELS) == small_bank.segmenter.identity(LABELS)
