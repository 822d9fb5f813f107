from __future__ import annotations

import builtins
import importlib
import importlib.util
import socket
from typing import Any

import pytest

from ovseg.distributed import joined, worker_threads
from ovseg.errors import ClusterError, MissingDependencyError

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray")


@pytest.mark.parametrize("address", ["photos", "", "host", "host:port", "a b:1"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with (
        pytest.raises(ClusterError, match=r"expected --ray alone, 'auto' or HOST:PORT, got .*; put --ray last"),
        joined(address),
    ):
        pass


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str, *given: Any) -> Any:
        if name == "ray":
            raise ImportError(name)
        return builtins.__import__(name, *given)

    monkeypatch.setattr(importlib, "import_module", absent)
    with (
        pytest.raises(MissingDependencyError, match=r"the package 'ray', .*; pip install 'ovseg\[distributed\]'$"),
        joined("alone"),
    ):
        pass


@pytest.mark.slow
@needs_ray
def test_an_address_where_nothing_answers_is_one_sentence_at_once() -> None:
    with socket.socket() as taken:  # a port that nobody listens at
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with (
            pytest.raises(ClusterError, match=rf"expected a Ray cluster at '{address}', got none .*refused"),
            joined(address),
        ):
            pass


@pytest.mark.slow
@needs_ray
def test_auto_without_a_cluster_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with (
        pytest.raises(ClusterError, match=r"expected a Ray cluster on this machine, got none .*'ray status'"),
        joined("auto"),
    ):
        pass


@pytest.mark.parametrize(("given", "threads"), [(None, 1), ("4", 4), ("0", 1), ("2,1", 1)])
def test_a_worker_gets_the_threads_that_the_environment_says(
    given: str | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert worker_threads() == threads
