from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ovseg import provenance
from ovseg.provenance import describe_model, names_hash, peak_memory_mib


@pytest.mark.slow
def test_the_peak_counts_memory_that_was_given_back() -> None:
    before = peak_memory_mib()["resident"]
    wanted = int(before) + 200
    del_me = np.ones(wanted * 2**20, np.uint8)
    del del_me
    assert peak_memory_mib()["resident"] >= wanted


def test_where_linux_does_not_tell_the_peak_psutil_does(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    monkeypatch.setattr(provenance, "_STATUS", Path("no such file"))
    resident = peak_memory_mib()["resident"]
    assert resident == pytest.approx(psutil.Process().memory_info().rss / 2**20, rel=0.1)
    windows = SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=3 * 2**20, peak_wset=7 * 2**20))
    monkeypatch.setattr(psutil, "Process", lambda: windows)
    assert peak_memory_mib()["resident"] == 7


def test_provenance_needs_no_module_that_only_unix_has() -> None:
    program = "import sys; sys.modules['resource'] = None; import ovseg.provenance, ovseg.evaluation.run.runner"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(provenance.__file__).parents[1])


def test_names_of_images_are_known_in_any_order() -> None:
    assert names_hash(["a", "b"]) == names_hash(["b", "a"])
    assert len({names_hash(["a", "b"]), names_hash(["ab"]), names_hash(["a\nb"]), names_hash(["a"])}) == 4


@dataclass
class Info:
    model: str
    folder: Path


@pytest.mark.parametrize(
    ("info", "wanted"),
    [
        ({"model": "mini", "weights": "ab"}, {"name": "mini", "model": "mini", "weights": "ab"}),
        ({"name": "oracle"}, {"name": "oracle"}),
        (lambda: {"name": "called"}, {"name": "called"}),
        (Info("mini", Path("w")), {"name": "mini", "model": "mini", "folder": "w"}),
        ({"name": "odd", "object": object()}, {"name": "odd", "object": "object"}),
        ("my model", {"name": "my model"}),
        (None, {"name": "SimpleNamespace"}),
    ],
)
def test_a_model_is_described_by_what_its_info_says_as_plain_values(info: Any, wanted: dict[str, Any]) -> None:
    assert describe_model(SimpleNamespace(info=info)) == wanted


def test_the_commit_is_that_of_the_checkout_with_a_plus_where_files_differ() -> None:
    root = Path(provenance.__file__).parents[1]
    if not (root / ".git").exists():
        pytest.skip("needs a checkout")
    run = ("git", "-C", str(root))
    head = subprocess.run([*run, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert str(provenance.git_commit()).removesuffix("+") == head
