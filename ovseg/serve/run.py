"""The server's process: it listens, and stops when it has finished what it accepted."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from typing import Any

import uvicorn

from ovseg.serve.service import Service

_LAST = 2  # seconds for answers to be sent; then connections of open pages, which never end, are closed
_STEP = 0.02


class Server(uvicorn.Server):
    """Serves an application of ``create_app``.

    Args:
        app: the application.
        service: what it answers by.
        host, port: where to listen.
    """

    def __init__(self, app: Any, service: Service, *, host: str, port: int) -> None:
        config = uvicorn.Config(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=_LAST)
        super().__init__(config)
        self._service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more questions, finish those that were accepted, and close."""
        self._service.worker.stop()
        end = time.monotonic() + self._service.limits.seconds
        while self._service.worker.taken and time.monotonic() < end:
            await asyncio.sleep(_STEP)
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # it would tell of each open page
        await super().shutdown(sockets)


def run(app: Any, service: Service, *, host: str, port: int) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    Server(app, service, host=host, port=port).run()
