"""A chromium that pages are tried in, and the requests of a page that lead elsewhere."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
needs_chromium = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium, such as Debian's package"),
]


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


def foreign_requests(page: Any, url: str) -> list[str]:
    """The addresses besides ``url`` that the page asks for from now on; the list grows."""
    foreign: list[str] = []
    page.on(
        "request",
        lambda asked: None if asked.url.startswith((url, "data:", "blob:")) else foreign.append(asked.url),
    )
    return foreign
