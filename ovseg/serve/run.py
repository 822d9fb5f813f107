"""The server's process: it listens, and stops when it has finished what it accepted."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from typing import Any

import uvicorn

from ovseg.errors import ConfigError
from ovseg.serve.service import Service

_LAST = 2  # seconds for answers to be sent; then connections of open pages, which never end, are closed
_STEP = 0.02


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound to a name or address of this machine; port 0 takes a free one.

    Raises:
        ConfigError: the port is taken, or the name is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise ConfigError(
            f"cannot listen at {host}, port {port}: {error.strerror}; choose another --port or --host"
        ) from error
    return bound


class Server(uvicorn.Server):
    """Serves an application of ``create_app``; ``run(sockets=[listen(...)])`` returns when it was stopped.

    Args:
        app: the application.
        service: what it answers by.
    """

    def __init__(self, app: Any, service: Service) -> None:
        super().__init__(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=_LAST))
        self._service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more questions, finish those that were accepted, and close; a second Ctrl-C does not wait."""
        self._service.worker.stop()
        end = time.monotonic() + self._service.limits.seconds
        while self._service.worker.taken and time.monotonic() < end and not self.force_exit:
            await asyncio.sleep(_STEP)
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # it would tell of each open page
        await super().shutdown(sockets)
