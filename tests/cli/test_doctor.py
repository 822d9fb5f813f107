"""``ovseg doctor``: what it finds whole, damaged and missing."""

from __future__ import annotations

import importlib.util
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import ovseg
from ovseg import own_files
from ovseg.cli import build_app, doctor
from ovseg.pipeline import text_cache
from ovseg.runtimes import attach
from ovseg.sam import mobile


def run(*arguments: str) -> Any:
    return CliRunner().invoke(build_app(), ["doctor", *arguments])


@pytest.fixture(autouse=True)
def own_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(text_cache, "DEFAULT_FOLDER", tmp_path / "text")
    monkeypatch.setattr(own_files, "OWN_FILES", tmp_path / "files")
    monkeypatch.setattr(attach, "CACHE", tmp_path / "graphs")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def test_a_sound_installation_is_told_in_a_few_lines(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.safetensors").write_bytes(b"x" * 3 * 2**20)
    done = run()
    assert done.exit_code == 0
    assert f"ovseg {ovseg.__version__}" in done.stdout and "the 7 files in the package are whole" in done.stdout
    assert f"text vectors: {tmp_path / 'text'}, 3.0 MB" in done.stdout
    assert len(done.stdout.splitlines()) < 18


def test_json_says_the_same_for_machines(tmp_path: Path) -> None:
    said = json.loads(run("--json").stdout)
    assert set(said["weights"].values()) == {"whole"} and "mobile-sam/mobile_sam.safetensors" in said["weights"]
    assert said["versions"]["ovseg"] and said["device"].startswith(("cpu", "cuda", "mps"))
    assert said["caches"]["models of the hub"] == {"folder": str(tmp_path / "hub"), "bytes": 0}


def test_a_damaged_file_is_named_and_changes_the_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(mobile.SHA256, mobile.WEIGHTS_FILE, "0" * 64)
    done = run()
    assert done.exit_code == 1 and "weights file 'mobile_sam.safetensors' is damaged" in done.stdout


def test_a_missing_extra_is_told_with_its_use_and_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == "gradio" else find("json"))
    done = run()
    assert "missing   ovseg serve: pip install 'ovseg[serve]' (no gradio here)" in done.stdout
    assert done.stdout.count("\nmissing") == 1 and done.exit_code == 0


def test_every_extra_of_the_package_is_known() -> None:
    project = tomllib.loads((Path(ovseg.__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert set(doctor.EXTRAS) == set(project["optional-dependencies"]) - {"dev", "docs"}
