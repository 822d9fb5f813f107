import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.web import serving
from PIL import Image
from typer.testing import CliRunner, Result

import ovseg
from ovseg.cli import build_app, main
from ovseg.cli.jobs import parse_background
from ovseg.errors import ImageError, ModelError, OutputError, VocabularyError
from ovseg.result import SegmentationResult

Invoke = Callable[..., Result]


class FakeSegmenter:
    """Calls the upper half of every image the first label."""

    side_by_side = True

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.loads: list[dict[str, Any]] = []

    def load(self, name: str, **options: Any) -> "FakeSegmenter":
        self.loads.append({"name": name, **options})
        return self

    def with_concepts(self, concepts: str) -> "FakeSegmenter":
        self.calls.append({"concepts": concepts})
        return self

    def identity(self, labels: list[str] | None, **options: Any) -> dict[str, str]:
        return {"loaded": str(self.loads[-1]), "labels": str(labels), **{key: str(options[key]) for key in options}}

    def segment_batch(
        self, images: list[np.ndarray], labels: list[str] | None, **options: Any
    ) -> Iterator[SegmentationResult]:
        return (self.segment(image, labels, **options) for image in images)

    def segment(self, image: np.ndarray, labels: list[str] | None, **options: Any) -> SegmentationResult:
        names = tuple(labels or ["concept"])
        self.calls.append({"labels": labels, **options})
        index_map = np.full(image.shape[:2], -1, np.int32)
        index_map[: len(index_map) // 2] = 0
        score_map = np.full(index_map.shape, 0.5, np.float32)
        return SegmentationResult(index_map, names, score_map, dict.fromkeys(names, 0.9), provenance={"m": 1})


@pytest.fixture
def segmenter(monkeypatch: pytest.MonkeyPatch) -> FakeSegmenter:
    fake = FakeSegmenter()
    monkeypatch.setattr(ovseg, "load", fake.load, raising=False)
    return fake


@pytest.fixture
def invoke(segmenter: FakeSegmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(build_app(), ["segment", *map(str, arguments)])


def make_image(path: Path, height: int = 40, width: int = 60) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (90, 120, 40)).save(path)
    return path


def test_one_image_gives_a_table_and_three_files(invoke: Invoke, tmp_path: Path) -> None:
    make_image(tmp_path / "cat.jpg")
    done = invoke("cat.jpg", "cat", "sofa")
    assert done.exit_code == 0
    assert "cat" in done.stdout and "50.0%" in done.stdout and "0.90" in done.stdout
    assert "overlay: out/cat_overlay.png" in done.stdout
    assert sorted(path.name for path in Path("out").iterdir()) == ["cat.json", "cat.png", "cat_overlay.png"]


def test_options_reach_the_model(invoke: Invoke, segmenter: FakeSegmenter, tmp_path: Path) -> None:
    make_image(tmp_path / "a.png")
    invoke(
        "a.png",
        "cat",
        "--model",
        "big",
        "--device",
        "cpu",
        "--weights",
        "w",
        "--runtime",
        "onnx",
        "--background",
        "sky, sea",
        "--refine",
    )
    assert segmenter.loads == [
        {"name": "big", "device": "cpu", "weights": Path("w"), "runtime": "onnx", "max_memory": None}
    ]
    assert segmenter.calls == [{"labels": ["cat"], "background": ["sky", "sea"], "refine": True}]
    invoke("a.png", "cat", "--background", "none", "--no-refine")
    assert segmenter.calls[-1] == {"labels": ["cat"], "background": None, "refine": False}
    invoke("a.png", "cat")
    assert segmenter.calls[-1] == {"labels": ["cat"], "background": "auto", "refine": None}


def test_labels_come_from_a_file_too(invoke: Invoke, segmenter: FakeSegmenter, tmp_path: Path) -> None:
    make_image(tmp_path / "a.png")
    (tmp_path / "labels.txt").write_text("\ufeff# animals\ncat\n\n  brown dog \n", encoding="utf-8")
    invoke("a.png", "sofa", "--labels-file", "labels.txt")
    assert segmenter.calls[0]["labels"] == ["sofa", "cat", "brown dog"]


def test_concepts_need_no_labels(
    invoke: Invoke, segmenter: FakeSegmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_image(tmp_path / "a.png")
    (tmp_path / "cones.safetensors").write_bytes(b"x")
    concept_set = SimpleNamespace(load=lambda path: f"loaded {path}")
    monkeypatch.setattr(ovseg, "ConceptSet", concept_set, raising=False)
    assert invoke("a.png", "--concepts", "cones.safetensors").exit_code == 0
    assert segmenter.calls[0] == {"concepts": "loaded cones.safetensors"}
    assert segmenter.calls[1]["labels"] is None


def test_sub_folders_are_kept_so_equal_names_do_not_collide(invoke: Invoke, tmp_path: Path) -> None:
    for name in ("photos/a.png", "photos/x/a.png", "photos/x/y/a.jpg"):
        make_image(tmp_path / name)
    assert invoke("photos", "cat").exit_code == 0
    assert sorted(str(path) for path in Path("out").rglob("*.json")) == [
        "out/a.json",
        "out/x/a.json",
        "out/x/y/a.json",
    ]


def test_equal_stems_and_overlay_names_do_not_collide(invoke: Invoke, tmp_path: Path) -> None:
    names = ("a.jpg", "a.png", "b.png", "b_overlay.png", "c.png")
    for name in names:
        make_image(tmp_path / "photos" / name)
    assert invoke("photos", "cat").exit_code == 0
    records = {path.stem for path in Path("out").glob("*.json")}
    assert records == {"a.jpg", "a.png", "b.png", "b_overlay.png", "c"}
    sources = {SegmentationResult.load(path).provenance["source"] for path in Path("out").glob("*.json")}
    assert sources == {f"photos/{name}" for name in names}


def test_a_pattern_that_the_shell_expanded_is_images_and_then_labels(
    invoke: Invoke, segmenter: FakeSegmenter, tmp_path: Path
) -> None:
    for name in ("photos/a.png", "photos/b.jpg", "other/a.png"):
        make_image(tmp_path / name)
    assert invoke("photos/a.png", "photos/b.jpg", "cat", "other/a.png", "dog").exit_code == 0
    assert sorted(str(path) for path in Path("out").rglob("*.json")) == [
        "out/other/a.json",
        "out/photos/a.json",
        "out/photos/b.json",
    ]
    assert [call["labels"] for call in segmenter.calls if "labels" in call] == [["cat", "dog"]] * 3


@pytest.mark.parametrize("word", ["missing.png", "MISSING.HEIC", "x/y", "other/", "*.png"])
def test_a_word_that_looks_like_a_path_is_never_a_label(invoke: Invoke, tmp_path: Path, word: str) -> None:
    make_image(tmp_path / "a.jpg")
    error = invoke("a.jpg", "cat", word).exception
    assert isinstance(error, ImageError) and f"matches '{word}'" in str(error)


def test_a_file_among_the_labels_is_an_image_that_may_fail(
    invoke: Invoke, segmenter: FakeSegmenter, tmp_path: Path
) -> None:
    make_image(tmp_path / "p2/a.png")
    (tmp_path / "p2/b.png").write_text("no image")
    (tmp_path / "p2/notes").write_text("words")
    done = invoke("p2/a.png", "p2/b.png", "p2/notes", "cat")
    assert done.exit_code == 1
    assert "'p2/b.png' begins with" in done.stderr and "'p2/notes' begins with" in done.stderr
    assert "1 of 3 images done" in done.stderr
    assert segmenter.calls[0]["labels"] == ["cat"]


def test_a_label_that_is_also_a_folder_is_told(invoke: Invoke, segmenter: FakeSegmenter, tmp_path: Path) -> None:
    make_image(tmp_path / "a.png")
    make_image(tmp_path / "cat/b.png")
    assert "'cat' is taken for a label; the folder is 'cat/'" in invoke("a.png", "cat").stderr
    assert segmenter.calls[0]["labels"] == ["cat"]
    assert "2 of 2 images done" in invoke("a.png", "cat/", "dog").stderr


def test_a_name_that_is_too_long_fails_alone(invoke: Invoke, tmp_path: Path) -> None:
    for name in ("a", "b" * 245, "c"):
        make_image(tmp_path / "photos" / f"{name}.jpg")
    done = invoke("photos", "cat")
    assert done.exit_code == 1
    assert "2 of 3 images done" in done.stderr
    assert "must have at most 220 bytes, got 245" in done.stderr and "shorten it" in done.stderr
    assert sorted(path.name for path in Path("out").glob("*.json")) == ["a.json", "c.json"]


def test_a_result_of_another_image_is_never_overwritten(invoke: Invoke, tmp_path: Path) -> None:
    make_image(tmp_path / "d1/p.jpg")
    make_image(tmp_path / "d2/p.jpg", height=50)
    assert invoke("d1/p.jpg", "cat").exit_code == 0
    before = [path.read_bytes() for path in sorted(Path("out").iterdir())]
    for options in ([], ["--overwrite"]):
        done = invoke("d2/p.jpg", "cat", *options)
        assert done.exit_code == 1
        assert "'out/p.json' is the result of 'd1/p.jpg' and is not replaced by that of 'd2/p.jpg'" in done.stderr
        assert [path.read_bytes() for path in sorted(Path("out").iterdir())] == before
    assert invoke("d1/p.jpg", "dog").exit_code == 0
    assert invoke(tmp_path / "d1/p.jpg", "cat").exit_code == 0  # the same image under its whole path


def test_files_without_a_record_are_kept_unless_overwriting(invoke: Invoke, tmp_path: Path) -> None:
    make_image(tmp_path / "photos/p.jpg")
    mine = make_image(tmp_path / "out/p.png").read_bytes()
    done = invoke("photos/p.jpg", "cat")
    assert done.exit_code == 1 and "is there without a record" in done.stderr
    assert (tmp_path / "out/p.png").read_bytes() == mine
    assert invoke("photos/p.jpg", "cat", "--overwrite").exit_code == 0
    Path("out/p.json").write_text("{}")
    assert "is no result of this image" in invoke("photos/p.jpg", "cat", "--overwrite").stderr


def test_small_parts_are_dropped_and_what_is_done_depends_on_it(
    invoke: Invoke, segmenter: FakeSegmenter, tmp_path: Path
) -> None:
    make_image(tmp_path / "a.png")
    for options in ([], ["--min-area", "9"], ["--min-area", "9"], ["--min-area", "8"]):
        assert invoke("a.png", "cat", *options).exit_code == 0
    assert [call.get("min_area") for call in segmenter.calls] == [None, 9, 8]


def test_a_dash_reads_the_image_from_standard_input(segmenter: FakeSegmenter, tmp_path: Path) -> None:
    photos = [make_image(tmp_path / f"{height}.jpg", height=height).read_bytes() for height in (40, 50)]
    for content in (*photos, photos[0]):
        arguments = ["segment", "-", "cat", "--out", str(tmp_path / "out")]
        assert CliRunner().invoke(build_app(), arguments, input=content).exit_code == 0
    assert len(segmenter.calls) == 2  # the third is done already
    records = sorted((tmp_path / "out").glob("stdin-*.json"))
    assert {SegmentationResult.load(path).size for path in records} == {(40, 60), (50, 60)}
    assert all(SegmentationResult.load(path).provenance["source"] == path.stem for path in records)
    both = CliRunner().invoke(build_app(), ["segment", "-", str(tmp_path / "40.jpg"), "cat"], input=photos[0])
    assert isinstance(both.exception, ImageError) and "expected '-' alone" in str(both.exception)
    failed = CliRunner().invoke(build_app(), ["segment", "-", "cat", "--out", str(tmp_path / "x")], input=b"")
    assert failed.exit_code == 1 and "is empty (0 bytes)" in failed.stderr


def test_addresses_are_fetched_once_named_by_their_last_part_and_fail_alone(
    invoke: Invoke, segmenter: FakeSegmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    make_image(tmp_path / "own.png")
    with serving() as server:
        cat, other, gone = (f"{server.address}/{path}" for path in ("cat.png?a=1", "other/cat.png", "gone.png"))
        done = invoke(cat, cat, gone, f"{server.address}/dog.png", "own.png", "cat", "--json")
        assert done.exit_code == 1 and "gone.png' answers 404 (Not Found); check the address" in done.stderr
        assert sorted(server.asked) == ["/cat.png?a=1", "/dog.png", "/gone.png"]
        assert {path.stem for path in Path("out").glob("*.json")} == {"cat", "dog", "own"}
        assert SegmentationResult.load("out/cat.json").provenance["source"] == cat
        assert f'"image": "{cat}"' in done.stdout and f'"image": "{gone}"' in done.stdout
        calls = len(segmenter.calls)
        assert invoke(cat, "cat").exit_code == 0 and len(segmenter.calls) == calls  # the same bytes: done
        assert "choose another --out" in invoke(other, "cat").stderr
        assert invoke(cat, other, "cat", "--out", "two").exit_code == 0
        assert len(list(Path("two").glob("cat-*.json"))) == 2  # names of their own


def test_files_that_need_another_decoder_are_named_and_counted(invoke: Invoke, tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        make_image(tmp_path / "photos" / name)
    for name in ("c.heic", "d.HEIC", "e.heic"):
        (tmp_path / "photos" / name).write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
    (tmp_path / "photos/f.dng").write_bytes(b"II*\0" + bytes(20))
    (tmp_path / "photos/notes.txt").write_text("no photo")
    done = invoke("photos", "cat")
    assert done.exit_code == 1
    assert "2 of 6 images done" in done.stderr
    assert done.stderr.count("is HEIC; convert it to JPEG or PNG") == 3
    assert "'photos/f.dng' is camera raw; develop it" in done.stderr


def test_a_glob_keeps_the_folders_below_its_fixed_part(invoke: Invoke, tmp_path: Path) -> None:
    make_image(tmp_path / "photos/x/a.png")
    make_image(tmp_path / "photos/y/a.png")
    assert invoke("photos/*/a.png", "cat").exit_code == 0
    assert Path("out/x/a.json").is_file() and Path("out/y/a.json").is_file()


def test_a_bad_image_is_named_and_the_others_are_done(invoke: Invoke, tmp_path: Path) -> None:
    make_image(tmp_path / "photos/a.png")
    (tmp_path / "photos/bad.jpg").write_text("no image")
    make_image(tmp_path / "photos/c.png")
    done = invoke("photos", "cat")
    assert done.exit_code == 1
    assert "error: expected an image, but 'photos/bad.jpg' begins with b'no image'" in done.stderr
    assert "2 of 3 images done, results in out" in done.stderr
    assert Path("out/a.json").is_file() and Path("out/c.json").is_file() and not Path("out/bad.json").exists()


def test_a_second_run_skips_what_is_done(invoke: Invoke, segmenter: FakeSegmenter, tmp_path: Path) -> None:
    make_image(tmp_path / "photos/a.png")
    make_image(tmp_path / "photos/b.png")
    invoke("photos", "cat")
    assert len(segmenter.calls) == 2
    assert invoke("photos", "cat").exit_code == 0
    assert len(segmenter.calls) == 2
    invoke("photos", "cat", "--overwrite")
    assert len(segmenter.calls) == 4


@pytest.mark.parametrize(
    "change", [["dog"], ["--model", "other"], ["--background", "none"], ["--refine"], ["--weights", "w"]]
)
def test_changed_settings_do_it_again(
    invoke: Invoke, segmenter: FakeSegmenter, tmp_path: Path, change: list[str]
) -> None:
    make_image(tmp_path / "a.png")
    invoke("a.png", "cat")
    invoke("a.png", "cat", *change)
    assert len(segmenter.calls) == 2


def test_changed_images_and_lost_files_do_it_again(
    invoke: Invoke, segmenter: FakeSegmenter, tmp_path: Path
) -> None:
    make_image(tmp_path / "a.png")
    invoke("a.png", "cat")
    make_image(tmp_path / "a.png", height=90)
    invoke("a.png", "cat")
    assert len(segmenter.calls) == 2
    Path("out/a_overlay.png").unlink()
    invoke("a.png", "cat")
    assert len(segmenter.calls) == 3


def test_a_skipped_single_image_still_shows_its_table(invoke: Invoke, tmp_path: Path) -> None:
    make_image(tmp_path / "a.png")
    first, second = invoke("a.png", "cat"), invoke("a.png", "cat")
    assert second.stdout == first.stdout
    assert "already done with these settings; --overwrite does it again" in second.stderr


def test_results_inside_the_searched_folder_are_not_inputs(invoke: Invoke, tmp_path: Path) -> None:
    make_image(tmp_path / "a.png")
    make_image(tmp_path / "b.png")
    invoke(".", "cat")
    assert "2 of 2 images done" in invoke(".", "cat", "--overwrite").stderr


def test_json_is_one_document_per_image_and_nothing_else(invoke: Invoke, tmp_path: Path) -> None:
    make_image(tmp_path / "photos/a.png")
    (tmp_path / "photos/b.png").touch()
    make_image(tmp_path / "photos/c.png")
    for _ in range(2):  # the second time from disk
        done = invoke("photos", "cat", "--json")
        first, second, third = map(json.loads, done.stdout.splitlines())
        assert first["labels"] == [{"label": "cat", "area": 0.5, "score": 0.5, "presence": 0.9}]
        assert (first["result"], first["size"]) == ("out/a.json", [40, 60])
        assert second["image"] == "photos/b.png" and "is empty (0 bytes)" in second["error"]
        assert third["overlay"] == "out/c_overlay.png"


def test_range_and_bands_reach_the_image_and_count_as_settings(
    invoke: Invoke, segmenter: FakeSegmenter, tmp_path: Path
) -> None:
    grey = np.tile(np.array([[0, 1000, 2000]], np.uint16), (4, 1))
    Image.fromarray(grey).save(tmp_path / "a.tif")
    done = invoke("a.tif", "cat")
    assert "note: a.tif: values are scaled as 0..2047, the bits that its own values up to 2000 need" in done.stderr
    assert SegmentationResult.load("out/a.json").provenance["read"].startswith("values are scaled as 0..2047")
    calls = len(segmenter.calls)
    assert "note:" not in invoke("a.tif", "cat", "--range", "0,2000").stderr
    saved = SegmentationResult.load("out/a.json")
    assert len(segmenter.calls) == calls + 1 and saved.provenance["made"]["by"]["range"] == "0,2000"
    make_image(tmp_path / "cat.png")
    assert "has 3 bands (1 red, 2 green, 3 blue)" in invoke("cat.png", "cat", "--bands", "9").stderr
    for option, text in (("--range", "5"), ("--range", "a,b"), ("--bands", "1,2"), ("--bands", "r,g,b")):
        refused = invoke("a.tif", "cat", option, text).exception
        assert isinstance(refused, ImageError) and f"got {text}" in str(refused)


def test_max_pixels_refuses_large_images(invoke: Invoke, tmp_path: Path) -> None:
    make_image(tmp_path / "a.png")
    done = invoke("a.png", "cat", "--max-pixels", "100")
    assert done.exit_code == 1
    assert "more than the limit of 100" in done.stderr and "--max-pixels" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.png"], "expected at least one label, got none; name what to find"),
        (["a.png", "cat", "CAT"], "labels must all be different, got 'cat' at 0 and 'CAT' at 1"),
        (["a.png", "--labels-file", "absent.txt"], "one label per line, cannot read 'absent.txt'"),
        (["a.png", "--concepts", "absent.safetensors"], "no concepts file 'absent.safetensors'"),
    ],
)
def test_bad_labels_are_refused_before_the_model_is_loaded(
    invoke: Invoke, segmenter: FakeSegmenter, arguments: list[str], message: str
) -> None:
    done = invoke(*arguments)
    assert isinstance(done.exception, VocabularyError)
    assert message in str(done.exception)
    assert not segmenter.loads


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["ovseg", *arguments])
    with pytest.raises(SystemExit) as leaving:
        main()
    return int(leaving.value.code or 0)


def test_user_errors_are_one_line_and_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ModelError("no model 'x'\nsecond line")

    make_image(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ovseg, "load", fail, raising=False)
    assert run_main(monkeypatch, "segment", "a.png", "cat") == 2
    assert capsys.readouterr().err == "error: no model 'x' second line\n"
    assert run_main(monkeypatch, "segment", "absent.png", "cat") == 2
    assert capsys.readouterr().err.startswith("error: no image file, folder or glob pattern matches 'absent.png'")
    assert run_main(monkeypatch, "segment") == 2


def test_interrupting_says_so_with_code_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    make_image(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ovseg, "load", interrupt, raising=False)
    assert run_main(monkeypatch, "segment", "a.png", "cat") == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(("source", "out"), [("photos", "photos"), ("photos", "."), ("photos/a.png", "photos")])
def test_images_that_are_all_inside_the_folder_of_results_are_refused(
    invoke: Invoke, tmp_path: Path, source: str, out: str
) -> None:
    make_image(tmp_path / "photos/a.png")
    done = invoke(source, "cat", "--out", out)
    assert isinstance(done.exception, OutputError) and "choose another folder for --out" in str(done.exception)


def test_a_stem_that_is_the_name_of_another_image_does_not_collide(invoke: Invoke, tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "a.jpg.jpg"):
        make_image(tmp_path / "photos" / name)
    assert invoke("photos", "cat").exit_code == 0
    assert {path.stem for path in Path("out").glob("*.json")} == {"a.jpg", "a.png", "a.jpg.jpg"}


def test_images_of_a_folder_above_have_their_results_inside_out(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_image(tmp_path / "a.png")
    make_image(tmp_path / "here/b.png")
    monkeypatch.chdir(tmp_path / "here")
    assert invoke("../a.png", "b.png", "cat").exit_code == 0
    assert sorted(str(path) for path in Path().rglob("*.json")) == ["out/a.json", "out/here/b.json"]


def test_a_name_in_a_message_is_not_read_as_an_emoji(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "a:x:b.png").touch()
    assert "a:x:b.png" in invoke("a:x:b.png", "cat").stderr


def test_a_file_name_that_is_not_utf8_is_done_and_skipped(
    segmenter: FakeSegmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = os.fsdecode(b"a\xff.png")
    try:
        make_image(tmp_path / name)
    except OSError:
        pytest.skip("this file system takes no such names")
    monkeypatch.chdir(tmp_path)
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setattr(sys, "argv", ["ovseg", "segment", name, "cat", "--json"])
    for _ in range(2):
        with pytest.raises(SystemExit) as left:
            main()
        assert left.value.code == 0
    stdout.seek(0)
    assert [json.loads(line)["image"] for line in stdout] == [name, name]
    assert len(segmenter.calls) == 1


@pytest.mark.parametrize(("given", "meant"), [("None", None), ("AUTO", "auto"), ("sky,, sea ", ["sky", "sea"])])
def test_the_words_for_a_background_may_be_in_capitals(given: str, meant: object) -> None:
    assert parse_background(given) == meant


@pytest.mark.parametrize("given", ["", " , "])
def test_a_background_without_a_phrase_is_refused(given: str) -> None:
    with pytest.raises(VocabularyError, match="--background expects auto, none or phrases"):
        parse_background(given)


def test_more_labels_than_a_result_can_hold_are_refused_before_the_model_is_loaded(
    invoke: Invoke, tmp_path: Path
) -> None:
    make_image(tmp_path / "a.png")
    Path("many.txt").write_text("\n".join(f"thing {number}" for number in range(65536)))
    told = invoke("a.png", "--labels-file", "many.txt")
    assert told.exit_code != 0 and "at most 65535 labels, got 65536" in str(told.exception)


def test_masks_and_one_coco_file_are_written_on_demand(
    invoke: Invoke, segmenter: FakeSegmenter, tmp_path: Path
) -> None:
    for name in ("a.png", "b.png"):
        make_image(tmp_path / name)
    assert invoke("a.png", "b.png", "cat").exit_code == 0
    assert not list((tmp_path / "out").glob("*_masks"))
    formats = ("--format", "png", "--format", "coco")
    assert invoke("a.png", "b.png", "cat", *formats).exit_code == 0
    assert len(segmenter.calls) == 2  # the results were there; only their other files are new
    assert (
        sorted(path.name for path in (tmp_path / "out").glob("*_masks/*"))
        == ["cat.png", "cat.png"] + ["labels.json"] * 2
    )
    coco = json.loads((tmp_path / "out" / "_annotations.coco.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == ["a.png", "b.png"]
    assert [(each["id"], each["image_id"]) for each in coco["annotations"]] == [(1, 1), (2, 2)]


def test_a_format_says_once_what_it_cannot_hold_and_keeps_the_folders_of_photos(
    invoke: Invoke, tmp_path: Path
) -> None:
    for name in ("photos/one/a.png", "photos/two/a.png"):
        make_image(tmp_path / name)
    done = invoke("photos", "cat", "--format", "yolo", "--tolerance", "0")
    assert done.exit_code == 0 and done.stderr.count("note: yolo cannot hold scores") == 1
    labels = tmp_path / "out/_yolo/labels"
    assert sorted(path.relative_to(labels).as_posix() for path in labels.rglob("*.txt")) == [
        "one/a.txt",
        "two/a.txt",
    ]
    assert (labels / "one/a.txt").read_text().startswith("0 ")
    assert (tmp_path / "out/_yolo/images/two/a.png").samefile(tmp_path / "photos/two/a.png")
    exact, loose = len((labels / "one/a.txt").read_text()), invoke("photos", "cat", "--format", "yolo")
    assert loose.exit_code == 0 and len((labels / "one/a.txt").read_text()) < exact / 5


def test_a_lowest_score_decides_the_result_and_is_refused_out_of_range(
    invoke: Invoke, segmenter: FakeSegmenter, tmp_path: Path
) -> None:
    make_image(tmp_path / "a.png")
    invoke("a.png", "cat")
    invoke("a.png", "cat", "--min-score", "0.4")
    assert [call.get("min_score") for call in segmenter.calls] == [None, 0.4]
    assert invoke("a.png", "cat", "--min-score", "40").exit_code == 2
