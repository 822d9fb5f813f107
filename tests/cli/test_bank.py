import csv
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.toy import make_segmenter, paint_photos
from PIL import Image
from typer.testing import CliRunner, Result

import ovseg
from ovseg.assets import asset_names, asset_root
from ovseg.bank.pseudo_labels import PseudoLabelReport
from ovseg.bank.recipes import BankRecipe
from ovseg.cli import build_app
from ovseg.concepts.recipe import ConceptRecipe
from ovseg.errors import ImageError

Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs a command line in a folder with ``photos/``, with the toy model in place of every other."""
    toy = make_segmenter()
    paint_photos(tmp_path / "photos")
    monkeypatch.setattr(ovseg, "load", lambda name="mini", **_: toy, raising=False)
    monkeypatch.setattr("ovseg.pipeline.opening.load", lambda name="mini", **_: toy)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(build_app(), list(arguments))
        assert result.exit_code == code, (result.output, result.exception)
        return result

    return call


def test_the_walkthrough_runs_as_it_is_written(run: Run) -> None:
    text = (asset_root("retrieval") / "README.md").read_text()
    block = re.search(r"```bash\n(.*?)```", text, re.DOTALL)
    assert block
    replaced = block[1].replace("traffic cone", "red").replace("street.jpg", "photos/00-red-green.png")
    for line in replaced.strip().splitlines():
        run(*shlex.split(line)[1:])
    assert Image.open("cones.png").width > 100
    assert list(Path("out").glob("*_overlay.png"))


def test_the_bound_on_memory_reaches_the_model(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    toy = ovseg.load("mini")
    monkeypatch.setattr(ovseg, "load", lambda name, **given: (seen.update(given), toy)[1])
    run("bank", "build", "photos", "--out", "b", "--max-memory", "1.5GiB")
    assert seen["max_memory"] == "1.5GiB"


def test_search_info_and_verify(run: Run) -> None:
    built = run("bank", "build", "photos", "--out", "b")
    assert "24 images, 0 bad" in built.stdout
    assert "already complete" not in built.stderr
    assert "already complete: all images of 'photos'" in run("bank", "build", "photos", "--out", "b").stderr
    found = json.loads(run("bank", "search", "b", "blue", "-k", "3", "--json", "--sheet", "s.png").stdout)
    assert all("blue" in Path(row["path"]).name for row in found)
    assert Image.open("s.png").height > 100
    assert json.loads(run("bank", "info", "b", "--json").stdout)["images"] == 24
    assert "24 images" in run("bank", "add", "b", "photos").stdout
    assert "0 duplicates" in run("bank", "verify", "b").stdout
    assert "24 leaks" in run("bank", "verify", "b", "--against", "photos", code=1).stdout


def test_a_word_that_names_an_image_searches_with_it(run: Run) -> None:
    run("bank", "build", "photos", "--out", "b")
    photo = str(sorted(Path("photos").iterdir())[5])
    by_word, by_option = (
        run("bank", "search", "b", *ask, "-k", "3").stdout for ask in ([photo], ["--image", photo])
    )
    assert by_word == by_option and by_word.splitlines()[0].endswith(f"/{photo}")
    refused = run("bank", "search", "b", "photos/gone.png", code=1).exception
    assert isinstance(refused, ImageError) and "'photos/gone.png' looks like an image's path" in str(refused)


def test_pseudo_labels_are_written_once_and_reported(run: Run) -> None:
    run("bank", "build", "photos", "--out", "b")
    arguments = ("pseudo-label", "b", "--label", "red", "--label", "green", "--out", "p")
    assert "24 label maps" in run(*arguments).stdout
    paths = sorted(Path("p/labels").iterdir())
    before = [path.stat().st_mtime_ns for path in paths]
    assert {int(value) for path in paths for value in np.unique(np.asarray(Image.open(path)))} == {0, 1, 255}
    manifest = Path("p/manifest-000.jsonl")
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join(lines[:20]) + lines[20][:9])  # as a kill leaves it
    assert "24 label maps" in run(*arguments).stdout
    # how a file is known without reading it depends on how long ago it was written
    unstamped = [re.sub(r'"stamp": "[^"]*"', "", text) for text in (manifest.read_text(), "".join(lines))]
    assert unstamped[0] == unstamped[1]
    times = dict(zip(paths, before, strict=True))
    for line in lines[:20]:
        path = Path("p/labels") / json.loads(line)["name"]
        assert path.stat().st_mtime_ns == times[path]


def test_pseudo_labels_are_also_written_for_other_programs(run: Run) -> None:
    run("bank", "build", "photos", "--out", "b")
    arguments = ("pseudo-label", "b", "--label", "red", "--label", "green", "--out", "p")
    assert "note: yolo cannot hold scores" in run(*arguments, "--format", "yolo", "--format", "areas").stderr
    photos = sorted(path.stem for path in Path("photos").rglob("*.png"))
    assert sorted(path.stem for path in Path("p/_yolo/labels").rglob("*.txt")) == photos
    rows = {row["name"]: row for row in map(json.loads, Path("p/manifest-000.jsonl").read_text().splitlines())}
    with open("p/_areas.csv", newline="") as stream:
        table = list(csv.DictReader(stream))
    assert len(table) == 2 * len(rows)
    assert sum(int(each["pixels"]) for each in table) == sum(sum(row["pixels"]) for row in rows.values())


def test_usage_errors_say_what_to_do(run: Run) -> None:
    run("bank", "build", "photos", "--out", "b")
    for arguments, message in (
        (("bank", "search", "b"), "neither"),
        (("concept", "learn", "b"), "NAME or --recipe"),
        (("pseudo-label", "b", "--out", "p"), "--concepts or --label"),
        (("pseudo-label", "b", "--out", "p", "--label", "red", "--worker", "4/4"), "for example 0/4"),
        (("bank", "build", "photos", "--out", "c", "--index", "tree"), "got 'tree'"),
        (("bank", "build", "photos", "--out", "b", "--regions", "2"), "regions 8, got regions 2; give the same"),
    ):
        assert message in str(run(*arguments, code=1).exception)


def test_a_small_an_empty_and_a_damaged_folder_are_said_plainly(run: Run) -> None:
    Path("bad").mkdir()
    Path("bad/empty.jpg").touch()
    built = run("bank", "build", "bad", "--out", "b")
    assert "0 images, 1 bad" in built.stdout
    assert "'ovseg bank info BANK' lists" in built.stderr
    assert "the file is empty (0 bytes)" in run("bank", "info", "b").stdout
    searched = run("bank", "search", "b", "red")
    assert searched.stdout.strip() == ""
    assert "the bank has only 0 images" in searched.stderr
    assert "at least 2 images" in str(run("concept", "learn", "b", "red", code=1).exception)
    Path("none").mkdir()
    assert "found none" in str(run("bank", "build", "none", "--out", "c", code=1).exception)


def test_a_concept_nobody_photographed_is_said_plainly(run: Run) -> None:
    run("bank", "build", "photos", "--out", "b")
    assert "the bank has only 24 images" in run("bank", "search", "b", "red", "-k", "50").stderr
    learned = run("concept", "learn", "b", "red", "zebra", "--out", "c.safetensors")
    assert "not found in this bank" in learned.stdout
    assert "not found: zebra; the text alone will be used" in learned.stderr
    assert json.loads(run("concept", "show", "c.safetensors", "--json").stdout)[1]["found"] is False


def test_a_concept_is_steered_by_what_a_person_says_of_its_photos(run: Run) -> None:
    run("bank", "build", "photos", "--out", "b")
    run("concept", "learn", "b", "red", "-k", "6", "--out", "c.safetensors")
    shown = json.loads(run("concept", "show", "c.safetensors", "--json").stdout)[0]
    first, second = (seed["path"] for seed in shown["seeds"][:2])
    steered = ("--accept", Path(first).name, "--reject", second, "--picture", "c.png")
    refined = run("concept", "refine", "c.safetensors", "b", *steered, "--out", "d.safetensors")
    assert "concepts: d.safetensors" in refined.stdout
    assert "learning red" in refined.stderr
    assert Image.open("c.png").width > 400
    run("concept", "refine", "d.safetensors", "b", "--reject", f"{shown['seeds'][2]['path']}:0,0")  # in place
    (kept,) = json.loads(run("concept", "show", "d.safetensors", "--json").stdout)
    said = {seed["path"]: (seed["verdict"], seed["row"]) for seed in kept["seeds"] if seed["verdict"]}
    assert {key: verdict for key, (verdict, _) in said.items()} == {
        first: "accepted",
        second: "rejected",
        shown["seeds"][2]["path"]: "rejected",
    }
    assert (said[second][1], said[shown["seeds"][2]["path"]][1]) == (-1, 0)
    for arguments, message in (
        ((), "--accept or --reject, got neither"),
        (("--accept", "00-red-gren.png"), "did you mean '00-red-green.png'"),
        (("--accept", first, "--concept", "rde"), "did you mean 'red'"),
    ):
        assert message in str(run("concept", "refine", "c.safetensors", "b", *arguments, code=1).exception)
    wrong = run("concept", "refine", "none.safetensors", "b", "--reject", first, code=1)
    assert "no concepts file 'none.safetensors'" in str(wrong.exception)


def test_what_to_label_next_is_told_drawn_and_written(run: Run) -> None:
    run("bank", "build", "photos", "--out", "b")
    asked = ("suggest", "b", "red", "green", "--out", "s", "--window", "3")
    told = run(*asked, "--count", "5")
    assert "5 regions to label: s/suggestions.csv, picture: s/sheet.png" in told.stdout
    rows = json.loads(run(*asked, "--count", "5", "--json").stdout)
    assert [row["image"] in told.stdout for row in rows] == [True] * 5
    assert Path("s/suggestions.csv").read_text().count("\n") == 6
    assert json.loads(Path("s/suggestions.json").read_text())["regions"] == rows
    Path(rows[0]["image"]).write_bytes(b"")
    bad = run(*asked, code=1)
    assert f"bad: {rows[0]['image']}: " in bad.stderr
    run(*asked, "--count", "0", code=2)
    for arguments, message in (
        ((*asked, "--background", "none"), "other settings"),
        (("suggest", "b", "red, green", "--out", "t"), "must be one label"),
        (("suggest", "b", "red", "--out", "t", "--background", "none"), "got 'red' alone"),
        (("suggest", "nowhere", "red", "--out", "t"), "nowhere"),
    ):
        assert message in str(run(*arguments, code=1).exception)
    run("concept", "learn", "b", "red", "-k", "6", "--out", "c.safetensors")
    run("suggest", "b", "red", "blue", "--concepts", "c.safetensors", "--out", "u", code=1)  # the bad image


def test_options_replace_those_of_a_recipe(run: Run) -> None:
    Path("r.yaml").write_text("summary: test\nsource: photos\nregions: 3\nrecall: 0.9\n")
    run("bank", "build", "r.yaml", "--out", "b", "--regions", "2")
    built = json.loads(run("bank", "info", "b", "--json").stdout)
    assert (built["regions"], built["options"]["recall"]) == (2, 0.9)
    Path("r.yaml").write_text("summary: test\nsource: photos\nrecall: 5\n")
    assert "'recall'" in str(run("bank", "build", "r.yaml", "--out", "c", code=1).exception)


def test_another_index_is_made_of_a_bank(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ovseg.bank.index._TRAIN_PER_LIST", 2)  # lists also for 24 photos
    run("bank", "build", "photos", "--out", "b")
    before = run("bank", "search", "b", "red", "-k", "7").stdout
    assert "24 vectors of" in run("bank", "index", "b", "disk").stdout
    shown = json.loads(run("bank", "info", "b", "--json").stdout)
    assert (
        shown["options"]["kind"] == shown["index"]["images"]["kind"] == shown["index"]["regions"]["kind"] == "disk"
    )
    assert run("bank", "search", "b", "red", "-k", "7").stdout == before
    assert "got 'tree'" in str(run("bank", "index", "b", "tree", code=1).exception)
    assert "no bank at 'c'" in str(run("bank", "index", "c", "disk", code=1).exception)
    run("bank", "index", "b", "disk", "--recall", "5", code=2)
    Path("r.yaml").write_text("summary: test\nsource: photos\nindex: disk\n")
    run("bank", "build", "r.yaml", "--out", "d")
    assert list(Path("d").glob("images-*.lists"))


@pytest.mark.parametrize("name", asset_names("retrieval/banks"))
def test_bank_recipes_are_valid(name: str) -> None:
    assert BankRecipe.named(name).options().recall > 0


@pytest.mark.parametrize("name", asset_names("retrieval/concepts"))
def test_concept_recipes_are_valid(name: str) -> None:
    assert ConceptRecipe.named(name).entries()


def test_numbers_out_of_range_are_errors_of_usage(run: Run) -> None:
    run("bank", "build", "photos", "--out", "b", "--recall", "5", code=2)
    run("bank", "build", "photos", "--out", "b", "--regions", "-1", code=2)
    run("concept", "learn", "b", "red", "-k", "0", code=2)
    run("concept", "show", "c.safetensors", "--images", "0", code=2)
    run("pseudo-label", "b", "--out", "p", "--label", "red", "--confidence", "7", code=2)


def test_a_background_of_phrases_reaches_the_pseudo_labels(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[object] = []

    def write(*_: object, background: object, **__: object) -> PseudoLabelReport:
        given.append(background)
        return PseudoLabelReport(0, 0, 0.0, {})

    monkeypatch.setattr("ovseg.bank.pseudo_labels.write_pseudo_labels", write)
    run("bank", "build", "photos", "--out", "b")
    for background in ("None", "auto", "sky, sea"):
        run("pseudo-label", "b", "--out", "p", "--label", "red", "--background", background)
    assert given == [None, "auto", ["sky", "sea"]]


def test_verify_counts_the_photos_that_are_gone_and_refresh_lets_go_of_them(run: Run) -> None:
    run("bank", "build", "photos", "--out", "b")
    assert "files are whole; 0 duplicates" in run("bank", "verify", "b").stdout
    gone = sorted(Path("photos").iterdir())[:3]
    for path in gone:
        path.unlink()
    told = run("bank", "verify", "b", code=1).stdout
    assert f"3 of 24 images are gone or have changed, the first is {gone[0].resolve()}" in told
    assert "21 images, 0 bad" in run("bank", "refresh", "b").stdout
    assert "gone" not in run("bank", "verify", "b").stdout
    assert "20 images, 0 bad" in run("bank", "remove", "b", str(sorted(Path("photos").iterdir())[0])).stdout
    failed = CliRunner().invoke(build_app(), ["bank", "remove", "b", "photos/none.png"])
    assert "none.png' is not in the bank" in str(failed.exception)
