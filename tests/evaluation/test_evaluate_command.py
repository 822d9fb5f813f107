from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from helpers.datasets import ObjectOracle, write_objects
from typer.testing import CliRunner

from ovseg.cli import evaluate as command
from ovseg.errors import ConfigError, DatasetError


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, oracle: Callable[..., Any]) -> Callable[..., Any]:
    monkeypatch.setattr(command, "_load", lambda model, **chosen: oracle(4 if model == "mini" else 0))
    app = typer.Typer()
    app.callback()(lambda: None)
    command.register(app)
    return lambda *arguments: CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


def test_the_command_writes_a_report(run: Callable[..., Any], folder: Path, tmp_path: Path) -> None:
    done = run("folder", "--data", folder, "--out", tmp_path / "out", "--limit", 4, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout.splitlines()[-1])["manifest"]["images"] == 4
    assert (tmp_path / "out" / "report.md").exists()


def test_two_reports_are_compared(run: Callable[..., Any], folder: Path, tmp_path: Path) -> None:
    for model in ("mini", "best"):
        run("folder", "--data", folder, "--model", model, "--out", tmp_path / model)
    done = run("--compare", tmp_path / "mini" / "report.json", tmp_path / "best" / "report.json", "--json")
    assert json.loads(done.stdout)["mean_iou"]["difference"] > 0


def test_a_bank_is_searched_for_the_evaluated_images(
    run: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"bank": "b", "bank_images": 9, "count": 1, "images": ["000"]}
    found["pairs"] = [{"image": "000", "bank_image": "copy.jpg", "cosine": 1.0, "exact": False}]
    given: list[Any] = []
    monkeypatch.setattr("ovseg.evaluation.run.runner.find_leaks", lambda *what: given.append(what) or found)
    done = run("folder", "--data", folder, "--bank", "photos.bank", "--limit", 2)
    assert given[0][0] == Path("photos.bank") and given[0][2] == [0, 5]
    assert "**1 are near-copies of 1 evaluated images**: `copy.jpg` = `000`" in done.stdout


def test_a_missing_baseline_is_told_before_the_run(run: Callable[..., Any], folder: Path, tmp_path: Path) -> None:
    done = run("folder", "--data", folder, "--baseline", tmp_path / "none.json", "--out", tmp_path / "out")
    assert isinstance(done.exception, ConfigError) and "no report" in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_a_fall_below_the_baseline_is_the_exit_status(
    run: Callable[..., Any], folder: Path, tmp_path: Path
) -> None:
    run("folder", "--data", folder, "--model", "best", "--out", tmp_path / "best")
    held = ("folder", "--data", folder, "--baseline", tmp_path / "best" / "report.json")
    assert run(*held, "--margin", 99).exit_code == 0
    done = run(*held)
    assert done.exit_code == 1 and "mIoU fell from 100.0" in done.stderr


def test_checking_the_data_says_what_is_wrong(run: Callable[..., Any], folder: Path) -> None:
    assert "is complete for 'folder'" in run("folder", "--data", folder, "--check-data").stdout
    (folder / "masks" / "002.png").write_bytes(b"cut")
    done = run("folder", "--data", folder, "--check-data")
    assert done.exit_code == 1 and "cannot read the mask" in done.stdout


def test_checking_the_data_counts_its_classes(run: Callable[..., Any], folder: Path) -> None:
    (folder / "classes.txt").write_text("sky\nroad\ncat\ndog\n")
    done = run("folder", "--data", folder, "--check-data")
    # six masks of 192 pixels, two of each ignored; three cats of 25
    assert "       3           75   6.58%  cat" in done.stdout
    assert "       0            0   0.00%  dog" in done.stdout
    assert "       6           12   1.04%  ignored (of all pixels)" in done.stdout
    assert "problem: the last class, 'dog', is in no mask" in done.stdout and done.exit_code == 1
    done = run("folder", "--data", folder, "--check-data", "--absent", "dog", "--json")
    found = json.loads(done.stdout)
    assert (found["problems"], found["remarks"], found["empty"], done.exit_code) == ([], [], ["dog"], 0)


def test_an_evaluation_tells_what_is_remarkable_before_it_begins(run: Callable[..., Any], folder: Path) -> None:
    (folder / "classes.txt").write_text("sky\nroad\ncat\ndog\nbus\n")
    done = run("folder", "--data", folder)
    assert "note: 2 of 5 classes are in no mask: dog, bus" in done.stderr
    assert "- data: 2 of 5 classes are in no mask: dog, bus" in done.stdout


def test_checking_the_data_refuses_a_split_that_an_evaluation_refuses(
    run: Callable[..., Any], folder: Path
) -> None:
    for also in ([], ["--check-data"]):
        done = run("folder", "--data", folder, "--split", "test", *also)
        assert isinstance(done.exception, DatasetError) and "has no split 'test'" in str(done.exception)


def test_without_data_the_protocols_are_listed(run: Callable[..., Any]) -> None:
    assert "PASCAL VOC 2012 without background" in run().stdout
    assert isinstance(run("voc20").exception, ConfigError)


def test_objects_are_evaluated_in_the_quality_that_is_asked_for(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_objects(tmp_path / "data")
    segmenter = ObjectOracle()
    monkeypatch.setattr(command, "_load", lambda model, **chosen: segmenter)
    done = run("panoptic", "--data", tmp_path / "data", "--quality", "fast", "--json")
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["scores"]["panoptic_quality"] == told["by_class"]["PQ"]["cat"] == 1
    assert told["manifest"]["options"]["quality"] == "fast"
    assert {each["quality"] for each in segmenter.asked} == {"fast"}
    done = run("instances", "--data", tmp_path / "data", "--check-data")
    assert done.exit_code == 0, done.output  # no object is sky, and no id can be wrong by one
    assert "complete for 'instances'" in done.stdout
    done = run("panoptic", "--data", tmp_path / "data", "--quality", "good")
    assert isinstance(done.exception, ConfigError)


def test_a_bound_on_memory_goes_to_the_model(
    monkeypatch: pytest.MonkeyPatch, oracle: Callable[..., Any], folder: Path
) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr("ovseg.load", lambda model, **chosen: [seen.update(chosen), oracle(4)][1])
    app = typer.Typer()
    app.callback()(lambda: None)
    command.register(app)
    done = CliRunner().invoke(app, ["evaluate", "folder", "--data", str(folder), "--max-memory", "1.5GiB"])
    assert done.exit_code == 0 and seen["max_memory"] == "1.5GiB"
