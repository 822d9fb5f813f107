"""The way to the Hugging Face hub: whether there is one, and no message for every attempt."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies

from ovseg.errors import ModelError


def unreachable() -> bool:
    """Whether the hub's name cannot even be looked up; its library would try for half a minute to find that out.

    Behind a proxy, which looks names up itself, the answer is always no.

    Raises:
        ModelError: ``HF_ENDPOINT`` is no web address.
    """
    address = urlsplit(page_of())
    if address.scheme not in {"http", "https"}:
        raise ModelError(f"expected HF_ENDPOINT to begin with https://, got '{page_of()}'")
    if address.scheme in getproxies():
        return False
    try:
        socket.getaddrinfo(address.hostname, address.port or address.scheme)
    except OSError:
        return True
    return False


def page_of(repo: str = "") -> str:
    """Web address of a repository of the hub in use, which ``HF_ENDPOINT`` may name; without one, of that hub."""
    from huggingface_hub.constants import ENDPOINT

    return f"{ENDPOINT}/{repo}".rstrip("/")


@contextmanager
def quiet_attempts() -> Iterator[None]:
    """Keep the hub's library from printing each of its attempts; the error at their end says enough.

    That it waits because the hub asked it to is told, as that may take minutes.
    """
    attempts = logging.getLogger("huggingface_hub.utils._http")
    attempts.addFilter(_is_told)
    try:
        yield
    finally:
        attempts.removeFilter(_is_told)


def _is_told(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR or record.getMessage().startswith("Rate limited")
