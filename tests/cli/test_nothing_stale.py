"""``ovseg segment`` again into the same folder: what differs is done again, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from ovseg.assets import asset_root, find_asset
from ovseg.cli import build_app
from ovseg.models.embedded import FILES
from ovseg.pipeline import text_cache

Invoke = Callable[..., dict[str, int]]
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model file at a small size with a template of its own, its weights, and two photos."""
    shutil.copytree(asset_root("models") / "mini", tmp_path / "weights")
    (tmp_path / "prompts.yaml").write_text('source: test\ntemplates: ["a {}."]\n')
    values = yaml.safe_load(find_asset("configs/models", "mini").read_text(encoding="utf-8"))
    values["encoder"].update(name=str(tmp_path / "weights"), sha256={})
    values["input"] = {"short_side": 192, "max_long_side": 384}
    values["templates"] = str(tmp_path / "prompts.yaml")
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(values))
    for name in ("cat", "coffee"):
        Image.open(EXAMPLES / f"{name}.jpg").resize((288, 192)).save(tmp_path / f"{name}.png")
    return tmp_path


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Segments both photos and says, by name, whether the result was made now."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr("ovseg.pipeline.opening.DEFAULT_FOLDER", folder / "text")

    def call(*arguments: str) -> dict[str, int]:
        before = {path.stem: path.stat().st_mtime_ns for path in Path("out").glob("*.json")}
        command = ["segment", "cat.png", "coffee.png", "cat", "cup", "--model", "model.yaml", *arguments]
        done = CliRunner().invoke(build_app(), command, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return {path.stem: before.get(path.stem) != path.stat().st_mtime_ns for path in Path("out").glob("*.json")}

    return call


ALL, NONE = {"cat": True, "coffee": True}, {"cat": False, "coffee": False}


def edit_model(folder: Path) -> None:
    path = folder / "model.yaml"
    path.write_text(path.read_text().replace("short_side: 192", "short_side: 128"))


def edit_threshold(folder: Path) -> None:
    path = folder / "model.yaml"
    values = yaml.safe_load(path.read_text())
    values["background"]["margin"] = 0.6
    path.write_text(yaml.safe_dump(values))


def edit_template(folder: Path) -> None:
    (folder / "prompts.yaml").write_text('source: test\ntemplates: ["the {} is old."]\n')


def train_again(folder: Path) -> None:
    """Other weights under the same name, as a run that was trained again leaves them."""
    path = folder / "weights" / FILES[2]
    tensors = load_file(path)
    name = next(key for key in tensors if key.endswith("visual.weight"))
    tensors[name] = tensors[name] * -1
    save_file(tensors, path)


def results() -> list[object]:
    """What both results say, the numbers and the map of labels."""
    records = [json.loads(Path(f"out/{name}.json").read_text()) for name in ALL]
    maps = [Image.open(f"out/{name}.png").tobytes() for name in ALL]
    return [*((record["presence"], record["areas"]) for record in records), *maps]


def swap_photos(folder: Path) -> None:
    shutil.move("cat.png", "aside")
    shutil.move("coffee.png", "cat.png")
    shutil.move("aside", "coffee.png")


def turn_one(folder: Path) -> None:
    """Other pixels in a file of the same size and time."""
    facts = Path("cat.png").stat()
    Image.open("cat.png").rotate(180).save("turned.png")
    turned = Path("turned.png").read_bytes()
    Path("cat.png").write_bytes(turned.ljust(facts.st_size, b"\0"))
    os.utime("cat.png", ns=(facts.st_atime_ns, facts.st_mtime_ns))


def touch(folder: Path) -> None:
    os.utime("cat.png")


@pytest.mark.slow
def test_what_differs_is_done_again_and_nothing_else(run: Invoke, folder: Path) -> None:
    """Each step changes one thing under the names that the run before saw."""
    assert run() == ALL
    seen = [results()]
    steps = [
        (touch, NONE),
        (edit_model, ALL),
        (edit_threshold, ALL),
        (edit_template, ALL),
        (train_again, ALL),
        (swap_photos, ALL),
        (turn_one, {"cat": True, "coffee": False}),
    ]
    for change, expected in steps:
        change(folder)
        assert run() == expected, change.__name__
        seen.append(results())
        assert (seen[-1] == seen[-2]) == (expected == NONE), change.__name__
    shutil.rmtree("out")
    shutil.rmtree("text")
    assert run() == ALL
    assert results() == seen[-1]  # as if it had never been anything else


@pytest.mark.slow
def test_other_words_for_the_background_and_another_version_do_everything_again(
    run: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    monkeypatch.setattr("ovseg.vocabulary.labels.unrelated_background", lambda phrases: ("wall", "floor"))
    assert run() == ALL
    monkeypatch.setattr("ovseg.pipeline.segmenter.__version__", "99")
    assert run() == ALL


@pytest.mark.slow
def test_the_cache_says_what_it_holds_and_lets_go_of_it(run: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    run()
    monkeypatch.setattr(text_cache, "DEFAULT_FOLDER", Path("text").resolve())

    def cache(*arguments: str) -> str:
        return CliRunner().invoke(build_app(), ["cache", *arguments], catch_exceptions=False).stdout

    assert "text: 1 word lists, 0.1 MB of at most 256.0 MB" in cache("info")
    assert "removed 1 word lists" in cache("clear")
    assert '"entries": 0, "bytes": 0' in cache("info", "--json")
