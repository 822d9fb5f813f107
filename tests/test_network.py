"""No half minute of attempts where the hub has no address, and no message about each."""

from __future__ import annotations

import logging
import socket

import pytest

from ovseg.network import quiet_attempts, unreachable


def nowhere(*_: object) -> None:
    raise socket.gaierror(-2, "Name or service not known")


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ovseg.network.getproxies", dict)


def test_a_hub_without_an_address_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert not unreachable()
    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    assert unreachable()


def test_behind_a_proxy_the_address_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    monkeypatch.setattr("ovseg.network.getproxies", lambda: {"https": "http://proxy:3128"})
    assert not unreachable()


def test_attempts_are_not_printed_and_other_warnings_are(caplog: pytest.LogCaptureFixture) -> None:
    attempts, others = (logging.getLogger(f"huggingface_hub.{name}") for name in ("utils._http", "file_download"))
    with quiet_attempts():
        attempts.warning("Retrying in 1s [Retry 1/5].")
        others.warning("the disk is nearly full")
    attempts.warning("after")
    assert "Retrying" not in caplog.text
    assert "nearly full" in caplog.text and "after" in caplog.text
