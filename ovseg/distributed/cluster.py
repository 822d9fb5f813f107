"""Joining a Ray cluster, or starting one of this machine alone."""

from __future__ import annotations

import importlib
import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ovseg.errors import ClusterError, require

ALONE = "alone"
"""The address that means a Ray of this machine's own, for the time of a call."""

_PATIENCE = 5  # seconds until an address that does not answer is given up; Ray itself takes minutes


def check_address(address: str) -> str:
    """``address``, as ``joined`` takes it.

    Raises:
        ClusterError: it is none.
    """
    if address in (ALONE, "auto") or re.fullmatch(r"[^\s:/]+:\d{1,5}", address):
        return address
    raise ClusterError(
        f"expected --ray alone, 'auto' or HOST:PORT, got '{address}'; put --ray last, or before another option"
    )


@contextmanager
def joined(address: str) -> Iterator[Any]:
    """The module ``ray``, connected inside the block; a connection that is there already is used, and kept.

    Args:
        address: ``ALONE``, ``"auto"`` for the cluster that this machine is part of, or ``"HOST:PORT"``.

    Raises:
        MissingDependencyError: Ray is not installed.
        ClusterError: the address is none, nothing answers there, or it is another version of Ray or Python.
    """
    check_address(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report to its makers
    ray = require("ray", extra="distributed")
    with _quiet():
        if ray.is_initialized():
            yield ray
            return
        logging.getLogger("ray").setLevel(logging.ERROR)
        _connect(ray, address)
        try:
            yield ray
        finally:
            ray.shutdown()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Ray from writing about killed workers to standard output, where the answers of a command go."""
    worker = importlib.import_module("ray._private.worker")
    before = getattr(worker, "_worker_logs_enabled", True)
    worker._worker_logs_enabled = False  # type: ignore[attr-defined]  # no option does it
    try:
        yield
    finally:
        worker._worker_logs_enabled = before  # type: ignore[attr-defined]


def _connect(ray: Any, address: str) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address == ALONE:
            ray.init(address="local", include_dashboard=False, **quiet)
            return
        if address != "auto":
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
        ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ValueError, OverflowError) as error:
        why = str(error).strip().partition("\n")[0].rstrip(".")
        where = "on this machine" if address in (ALONE, "auto") else f"at '{address}'"
        raise ClusterError(
            f"expected a Ray cluster {where}, got none that can be joined ({why}); 'ray status' says what runs"
        ) from error


def worker_threads() -> int:
    """Processors that each worker gets: what ``OMP_NUM_THREADS`` says, else 1."""
    given = os.environ.get("OMP_NUM_THREADS", "1")
    return max(1, int(given)) if given.isdigit() else 1
