"""The table of areas, read by the standard library."""

from __future__ import annotations

import csv
from pathlib import Path

from helpers.results import WILD, drawn, place_of, write


def read(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_row_for_each_photo_and_label_says_what_it_covers(tmp_path: Path) -> None:
    out = tmp_path / "out"
    results = [drawn(["aaB.", "...."], "road", "cup", things=["cup"]), drawn(["...b"], "road", "cup", score=0.25)]
    places = [place_of(out, "same", below="one"), place_of(out, "same", below="two")]
    assert write(out, "areas", *results, places=places) == [
        "areas cannot hold pixels or outlines: it is a table of how much each label covers"
    ]
    one, two = (str(place.photo) for place in places)
    rows = read(out / "_areas.csv")
    assert list(rows[0]) == ["photo", "label", "pixels", "area", "score", "presence", "objects"]
    assert [list(row.values()) for row in rows] == [
        [one, "road", "2", "0.25", "0.5", "0.75", ""],
        [one, "cup", "1", "0.125", "0.5", "0.75", "1"],
        [two, "road", "0", "0.0", "0.0", "0.75", ""],
        [two, "cup", "1", "0.25", "0.25", "0.75", ""],
    ]


def test_any_label_and_name_comes_back(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, "areas", drawn(["ag"], *WILD), places=[place_of(out, 'a, "b"')])
    rows = read(out / "_areas.csv")
    assert [row["label"] for row in rows] == list(WILD)
    assert {Path(row["photo"]).stem for row in rows} == {'a, "b"'}


def test_without_labels_there_is_a_heading(tmp_path: Path) -> None:
    write(tmp_path / "out", "areas", drawn([".."]))
    text = (tmp_path / "out/_areas.csv").read_text()
    assert text == "photo,label,pixels,area,score,presence,objects\n"
