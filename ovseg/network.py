"""The way to the Hugging Face hub: whether there is one, and no message for every attempt."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies


def unreachable() -> bool:
    """Whether the hub's name cannot even be looked up; its library would try for half a minute to find that out.

    Behind a proxy, which looks names up itself, the answer is always no.
    """
    from huggingface_hub.constants import ENDPOINT

    address = urlsplit(ENDPOINT)
    if address.scheme in getproxies():
        return False
    try:
        socket.getaddrinfo(address.hostname, address.port or address.scheme)
    except OSError:
        return True
    return False


@contextmanager
def quiet_attempts() -> Iterator[None]:
    """Keep the hub's library from printing each of its attempts; the error at their end says enough."""
    attempts = logging.getLogger("huggingface_hub.utils._http")
    level = attempts.level
    attempts.setLevel(logging.ERROR)
    try:
        yield
    finally:
        attempts.setLevel(level)
