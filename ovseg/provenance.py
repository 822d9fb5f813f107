"""What produced a number: model, weights, versions, commit, memory."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import resource
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("ovseg", "torch", "numpy", "pillow", "open_clip_torch", "timm", "transformers")
_UNITS_PER_MIB = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss is bytes on macOS, KiB elsewhere


def describe_model(segmenter: Any) -> dict[str, Any]:
    """``segmenter.info`` (mapping, dataclass or method) as plain values; else the class's name."""
    info = getattr(segmenter, "info", None)
    info = info() if callable(info) else info
    if info is None:
        return {"name": type(segmenter).__qualname__}
    if dataclasses.is_dataclass(info) and not isinstance(info, type):
        info = dataclasses.asdict(info)
    elif hasattr(info, "model_dump"):
        info = info.model_dump()
    if not isinstance(info, dict):
        return {"name": str(info)}
    plain: dict[str, Any] = json.loads(json.dumps(info, default=_plain))
    return {"name": plain.get("model", type(segmenter).__qualname__), **plain}


def run_id(*parts: Any) -> str:
    """Hexadecimal SHA-256 over plain values: equal for equal runs, on every machine."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=_plain).encode()).hexdigest()


def names_hash(names: Sequence[str]) -> str:
    """Hexadecimal SHA-256 over the names of the images, in any order."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()


def environment() -> dict[str, Any]:
    """Versions, commit and platform of this process."""
    return {
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "commit": git_commit(),
    }


def git_commit() -> str | None:
    """The checkout's commit, with "+" where files differ from it; None outside a checkout."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+" if changed else "")


def peak_memory_mib() -> dict[str, float]:
    """Largest memory of this process so far, in MiB: resident, and on the GPU where there is one."""
    peak = {"resident": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _UNITS_PER_MIB, 1)}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        peak["cuda"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return peak


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True
    )
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _plain(value: Any) -> str:
    """Paths as text; other objects by their type, because their repr may hold an address."""
    return str(value) if isinstance(value, Path) else type(value).__qualname__
