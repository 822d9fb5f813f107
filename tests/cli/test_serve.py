"""``ovseg serve``: what it starts with, and what it refuses before it loads a model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.serving import needs_server
from helpers.toy import make_segmenter
from typer.testing import CliRunner

import ovseg
from ovseg.cli import build_app
from ovseg.errors import ConfigError, MissingDependencyError


def run(*arguments: object) -> Any:
    return CliRunner().invoke(build_app(), ["serve", "--no-page", *map(str, arguments)])


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    needs_server()
    from ovseg.serve import run as running

    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(ovseg, "load", lambda model, **chosen: make_segmenter())
    monkeypatch.setattr(running, "run", lambda app, service, **given: seen.append({"service": service, **given}))
    return seen


def test_it_listens_on_this_machine_alone_unless_told(started: list[dict[str, Any]], tmp_path: Path) -> None:
    done = run("--folder", tmp_path, "--port", 8123)
    assert done.exit_code == 0 and "toy answers at http://127.0.0.1:8123/" in done.stdout
    assert (started[0]["host"], started[0]["port"]) == ("127.0.0.1", 8123)
    access = started[0]["service"].access
    assert access.folder == tmp_path and access.hosts == ("127.0.0.1", "[::1]", "localhost")
    assert "--token" not in done.output


def test_an_open_door_is_told(started: list[dict[str, Any]]) -> None:
    assert "give --token" in run("--host", "0.0.0.0").output
    assert "give --token" not in run("--host", "0.0.0.0", "--token", "sesame").output


@pytest.mark.parametrize("missing", ["fastapi", "uvicorn", "python_multipart"])
def test_a_missing_extra_is_told_by_name(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_server()
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setattr(ovseg, "load", lambda model, **chosen: pytest.fail("the model was loaded"))
    done = run()
    assert isinstance(done.exception, MissingDependencyError)
    assert "pip install 'ovseg[serve]'" in str(done.exception)


def test_a_folder_that_is_none_and_limits_of_nothing_are_refused(
    started: list[dict[str, Any]], tmp_path: Path
) -> None:
    wrong = run("--folder", tmp_path / "none").exception
    assert isinstance(wrong, ConfigError) and "--folder must be a folder" in str(wrong)
    assert "queue must be above 0, got 0" in str(run("--queue", 0).exception)
