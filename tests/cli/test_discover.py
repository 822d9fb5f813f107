"""``ovseg discover`` from photos to concepts, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.toy import COLOURS, make_segmenter, paint
from typer.testing import CliRunner, Result

import ovseg
from ovseg.cli import build_app
from ovseg.errors import ConfigError

Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs a command line in a folder with ``photos/`` of red and blue squares, with the toy model."""
    toy = make_segmenter()
    for number in range(10):
        paint(tmp_path / "photos", f"{number}.png", [("red", "blue")[number % 2]], seed=number)
    (tmp_path / "words.txt").write_text("\n".join(COLOURS))
    monkeypatch.setattr(ovseg, "load", lambda name="mini", **_: toy, raising=False)
    monkeypatch.setattr("ovseg.pipeline.opening.load", lambda name="mini", **_: toy)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(build_app(), ["discover", *arguments])
        assert result.exit_code == code, (result.output, result.exception)
        return result

    return call


def test_from_photos_to_concepts_and_labels(run: Run) -> None:
    printed = run("photos", "--groups", "3", "--names", "words.txt").stdout
    assert "10 photos, 0 bad" in printed and "perhaps red" in printed and "overview.png" in printed
    groups = json.loads(Path("discovered/groups.json").read_text())["groups"]
    number = {each["proposed"][0]: each["number"] for each in groups}
    names = [f"--name={number['red']}=cup", f"--name={number['blue']}=bowl"]
    used = run("photos", *names, "--concepts", "cups.safetensors", "--pseudo-labels", "pseudo").stdout
    assert "label maps in pseudo" in used and "cup" in used
    assert set(ovseg.ConceptSet.load("cups.safetensors").names) == {"cup", "bowl"}
    assert "cup" in run("photos", "--groups", "3").stdout  # names outlive another run


@pytest.mark.slow
def test_stuff_has_groups_of_its_own_and_labels_without_names(run: Run) -> None:
    printed = run("photos", "--groups", "2", "--stuff", "3", "--pseudo-labels", "pseudo", "--unnamed").stdout
    groups = json.loads(Path("discovered/groups.json").read_text())["groups"]
    stuff = [each for each in groups if each["stuff"]]
    regions = sum(each["size"] for each in stuff)
    assert 1 <= len(stuff) <= 3 and f"{len(stuff)} groups of {regions} regions of stuff, 10 photos" in printed
    labels = json.loads(Path("pseudo/labels.json").read_text())["labels"]
    assert labels == [f"group {each['number']}" for each in groups]
    assert "10 label maps in pseudo" in printed
    for arguments in (("--stuff", "0"), ("--stuff", "many")):
        assert "Invalid value for '--stuff'" in run("photos", *arguments, code=2).stderr


def test_unnamed_groups_are_no_labels_unless_asked(run: Run) -> None:
    refused = run("photos", "--groups", "2", "--pseudo-labels", "pseudo", code=1).exception
    assert "expected named groups, got none" in str(refused)


def test_bad_photos_are_told_and_the_status_says_so(run: Run) -> None:
    Path("photos/3.png").write_bytes(b"cut")
    assert "bad: " in run("photos", code=1).stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("photos", "--groups", "few"), "--groups expects a number of at least 1, or auto, got 'few'"),
        (("photos", "--name", "cup"), "--name expects NUMBER=NAME, got 'cup'"),
        (("photos", "--name", "1=cup"), "no groups 'discovered/groups.json'; run 'ovseg discover' without"),
        (("photos", "--by", "magic"), "unknown way to propose objects 'magic'"),
    ],
)
def test_what_cannot_be_done_is_refused(run: Run, arguments: tuple[str, ...], message: str) -> None:
    refused = run(*arguments, code=1).exception
    assert isinstance(refused, ConfigError) and message in str(refused)
