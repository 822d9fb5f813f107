"""A small Ray of this machine alone."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import ovseg

needs_ray = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray"),
]


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """The module ``ray``, joined to a small cluster."""
    with small_cluster() as joined:
        yield joined


@contextmanager
def small_cluster() -> Iterator[Any]:
    """The module ``ray``, with two processors and little memory inside the block."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = importlib.import_module("ray")
    logging.getLogger("ray").setLevel(logging.ERROR)
    seen = [
        Path(__file__).parents[1],
        Path(ovseg.__file__).parents[1],
        *filter(None, [os.environ.get("PYTHONPATH")]),
    ]
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", os.pathsep.join(map(str, seen)))  # its workers find helpers, and this ovseg
        ray.init(
            address="local",
            num_cpus=2,
            object_store_memory=80_000_000,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        importlib.import_module("ray._private.worker")._worker_logs_enabled = False  # late news of killed workers
    try:
        yield ray
    finally:
        ray.shutdown()
