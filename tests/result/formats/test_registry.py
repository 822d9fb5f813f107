"""What holds for every format."""

from __future__ import annotations

import gc
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from helpers.results import WILD, drawn, place_of, write

from ovseg.cli.formats import Format as Named
from ovseg.errors import MissingDependencyError, OutputError
from ovseg.result import SegmentationResult
from ovseg.result.formats import FORMATS, Options, registry, written

TABLES = Path(__file__).parents[3] / "docs" / "formats.md"


def is_there(package: str) -> bool:
    try:
        __import__(package)
    except ImportError:
        return False
    return True


USABLE = [name for name, each in FORMATS.items() if each.extra is None or is_there(registry.PACKAGES[each.extra])]


def test_the_command_line_has_the_names_of_all_formats() -> None:
    assert [each.value for each in Named] == list(FORMATS)
    assert [each.name for each in FORMATS.values()] == list(FORMATS)


def test_the_table_says_of_every_format_what_it_writes_and_what_it_cannot_hold() -> None:
    table = TABLES.read_text("utf-8")
    for each in FORMATS.values():
        row, kept = (line for line in table.splitlines() if line.startswith(f"| `{each.name}` "))
        for said in (*each.photo.split(", "), *each.folder.split(", ")):
            assert f"`{said}`" in row or not said, each.name
        assert each.cannot in row
        assert ("scores" in each.cannot or each.name == "crops") == ("lost" in kept.split(" | ")[6])
        assert ("holes" in each.cannot) == (kept.split(" | ")[2] == "seams")


def test_a_format_that_does_not_exist_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no format 'yollo'; did you mean 'yolo'"), written(["yollo"], tmp_path):
        pass


def test_one_result_is_exported_under_the_name_of_its_photo(tmp_path: Path) -> None:
    result = drawn(["ab"], "cat", "dog")
    assert result.export("coco", tmp_path) == []
    assert json.loads((tmp_path / "_annotations.coco.json").read_text())["images"][0]["file_name"] == "photo.png"
    assert result.export("png", tmp_path) == [f"png cannot hold {FORMATS['png'].cannot}"]
    assert (tmp_path / "photo_masks/cat.png").is_file()
    result.export("png", tmp_path, name="other")
    assert (tmp_path / "other_masks/cat.png").is_file()
    with pytest.raises(OutputError, match=r"yolo needs the photo, but there is no file 'photo\.png'"):
        result.export("yolo", tmp_path)
    with pytest.raises(OutputError, match="without folders"):
        result.export("png", tmp_path, name="../up")


def test_a_format_whose_package_is_missing_names_it_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "PACKAGES", {"geo": "no_such_package"})
    monkeypatch.setitem(FORMATS, "yolo", registry.find("yolo").__class__("yolo", "", "", "", None, extra="geo"))
    with pytest.raises(MissingDependencyError, match=r"pip install 'ovseg\[geo\]'"), written(["yolo"], tmp_path):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", USABLE)
def test_what_a_format_cannot_hold_is_told_once_before_anything_is_written(name: str, tmp_path: Path) -> None:
    told: list[str] = []

    def tell(sentence: str) -> None:
        assert not list(tmp_path.rglob("photo*"))
        told.append(sentence)

    with written([name], tmp_path / "out", options=Options(tell=tell)):
        pass
    assert told == [f"{name} cannot hold {FORMATS[name].cannot}"] * bool(FORMATS[name].cannot)


@pytest.mark.parametrize("name", USABLE)
def test_what_a_label_covers_besides_its_objects_is_told_once_where_it_is_left_out(
    name: str, tmp_path: Path
) -> None:
    rest = _with_photo(drawn(["AAab", "bbbb"], "cup", "table", things=["cup"]))
    whole = _with_photo(drawn(["AABB", "bbbb"], "cup", "table", things=["cup"]))
    places = [place_of(tmp_path / "out", each, size=(2, 4)) for each in ("whole", "one", "two")]
    told = write(tmp_path / "out", name, whole, rest, rest, places=places)
    expected = f"besides its objects is not in {name}: 'cup' on 12.5% of '{places[1].source}', for one; png has it"
    assert sum(expected in sentence for sentence in told) == FORMATS[name].by_object
    assert sum("besides" in sentence for sentence in told) == FORMATS[name].by_object


@pytest.mark.parametrize("name", USABLE)
def test_any_label_and_none_objects_and_areas_and_two_photos_of_one_name_are_written(
    name: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    mixed = drawn(["AAAb..gg", "AAAb..gg", "......gg"] * 2, *WILD, things=[WILD[0]])
    nothing, no_labels = drawn(["........"] * 6, *WILD, things=[WILD[0]]), drawn(["........"] * 6)
    results = [_with_photo(each) for each in (mixed, nothing, no_labels)]
    places = [place_of(out, "same", below="one"), place_of(out, "same", below="two"), place_of(out, "no & label")]
    write(out, name, *results, places=places)
    files = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
    assert all(path.startswith(("out/", "photos/")) for path in files)  # whatever slashes a label has
    of_one, of_two = ([path for path in files if f"/{folder}/same" in path] for folder in ("one", "two"))
    assert len(of_one) == len(of_two) or name == "crops"  # where nothing is found, there is nothing to cut out


@pytest.mark.slow
@pytest.mark.parametrize("name", USABLE)
def test_no_result_is_kept(name: str, tmp_path: Path) -> None:
    rows = ["B" * 128 + "A." * 64, "b" * 128 + "A." * 64] * 8  # kilobytes of runs, column by column and row by row
    result = _with_photo(drawn(rows, "cup", "table", things=["cup"]))
    out, held = tmp_path / "out", []
    with written([name], out) as add:
        add(result, place_of(out))
        tracemalloc.start()
        for count in (10, 20):
            for number in range(count):
                add(result, place_of(out, f"photo{count}{number}"))
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
    assert held[1] - held[0] < 25_000  # 20 masks of a byte a pixel are 80,000


def test_a_file_of_all_photos_takes_its_name_at_the_end_or_not_at_all(tmp_path: Path) -> None:
    result, place = drawn(["ab"], "cat", "dog"), place_of(tmp_path / "out")
    with pytest.raises(KeyError), written(["coco"], tmp_path / "out") as add:
        add(result, place)
        raise KeyError
    assert not list((tmp_path / "out").iterdir())
    with written(["coco"], tmp_path / "out") as add:
        add(result, place)
        assert not list((tmp_path / "out").iterdir())
        add(result, place)
    coco = json.loads((tmp_path / "out/_annotations.coco.json").read_text())
    once = result.to_coco(image_id=1)
    assert coco["categories"] == once["categories"] and coco["images"][0] == once["images"][0]
    assert coco["annotations"][:2] == once["annotations"]
    assert [(each["id"], each["image_id"]) for each in coco["annotations"]] == [(1, 1), (2, 1), (3, 2), (4, 2)]


def _with_photo(result: SegmentationResult) -> SegmentationResult:
    from dataclasses import replace

    return replace(result, image=np.zeros((*result.size, 3), np.uint8))
