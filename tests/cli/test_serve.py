"""``ovseg serve``: what it starts with, and what it refuses before it loads a model."""

from __future__ import annotations

import socket
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


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    needs_server()
    from ovseg.serve import run as running

    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(ovseg, "load", lambda model, **chosen: make_segmenter())

    def run_server(self: running.Server, sockets: Any) -> None:
        (bound,) = sockets
        seen.append({"service": self._service, "address": bound.getsockname()})
        bound.close()

    monkeypatch.setattr(running.Server, "run", run_server)
    return seen


def test_it_listens_on_this_machine_alone_unless_told(started: list[dict[str, Any]], tmp_path: Path) -> None:
    port = free_port()
    done = run("--folder", tmp_path, "--port", port)
    assert done.exit_code == 0 and f"toy answers at http://127.0.0.1:{port}/" in done.stdout
    assert started[0]["address"] == ("127.0.0.1", port)
    access = started[0]["service"].access
    assert access.folder == tmp_path and access.hosts == ("127.0.0.1", "[::1]", "localhost")
    assert "--token" not in done.output


def test_an_open_door_is_told(started: list[dict[str, Any]]) -> None:
    everywhere = ["--host", "0.0.0.0", "--port", free_port()]
    assert "give --token" in run(*everywhere).output
    assert "give --token" not in run(*everywhere, "--token", "sesame").output
    assert started[1]["service"].access.token == "sesame" and started[1]["service"].access.hosts is None


def test_a_port_that_is_taken_is_told_before_the_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    needs_server()
    monkeypatch.setattr(ovseg, "load", lambda model, **chosen: pytest.fail("the model was loaded"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run("--port", taken.getsockname()[1])
    assert isinstance(done.exception, ConfigError) and "choose another --port" in str(done.exception)


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


def test_a_bound_on_memory_goes_to_the_model(
    started: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(ovseg, "load", lambda model, **chosen: [seen.update(chosen), make_segmenter()][1])
    assert run("--port", free_port(), "--max-memory", "2GB").exit_code == 0 and seen["max_memory"] == "2GB"
