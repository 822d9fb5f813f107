"""The default model, loaded once for all tests, and the fixtures of ``tests/helpers``."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch
from helpers.datasets import categories, folder, maps, oracle, real_data
from helpers.ray import ray
from helpers.storage import memory_store, s3_store, store
from helpers.towers import clip_model, networks, pixels, siglip_model, wide
from helpers.toy import bank, photos, segmenter

from ovseg.pipeline.opening import load
from ovseg.pipeline.segmenter import Segmenter

__all__ = [  # fixtures of the helpers
    "bank",
    "categories",
    "clip_model",
    "folder",
    "maps",
    "memory_store",
    "networks",
    "oracle",
    "photos",
    "pixels",
    "ray",
    "real_data",
    "s3_store",
    "segmenter",
    "siglip_model",
    "store",
    "wide",
]


def pytest_configure() -> None:
    """Processes of one run share the cores: with all threads in each they would wait for each other."""
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if processes > 1:
        threads = max(1, torch.get_num_threads() // processes)
        torch.set_num_threads(threads)
        os.environ["OMP_NUM_THREADS"] = str(threads)  # of the processes that tests start


@pytest.fixture(scope="session")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    return load("mini", device="cpu", cache=tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="session")
def small(mini: Segmenter, tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    """``mini`` at a size that takes no time."""
    sizes = mini.config.input.model_copy(update={"short_side": 128, "max_long_side": 320})
    config = mini.config.model_copy(update={"input": sizes})
    model = replace(mini.model, config=config)
    return Segmenter(model, device=torch.device("cpu"), cache=tmp_path_factory.mktemp("text"))
