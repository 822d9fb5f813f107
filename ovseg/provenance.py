"""What produced a number: model, weights, versions, commit, memory."""

from __future__ import annotations

import dataclasses
import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from ovseg.identity import digest

PACKAGES = ("ovseg", "torch", "numpy", "pillow", "open_clip_torch", "timm", "transformers")
_STATUS = Path("/proc/self/status")  # Linux


def describe_model(segmenter: Any) -> dict[str, Any]:
    """``segmenter.info`` (mapping, dataclass or method) as plain values.

    Of a segmenter without ``info`` nothing can be known but the name of its class: other weights, settings or code
    behind that name are taken for the same model.
    """
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


def names_hash(names: Sequence[str]) -> str:
    """The ``digest`` of the names of images, in any order."""
    return digest(sorted(names))


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
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+" if changed else "")


def peak_memory_mib() -> dict[str, float]:
    """Largest memory of this process so far, in MiB: resident, and on the GPU where there is one.

    macOS does not say how large the resident memory was; there it is that of this moment.
    """
    peak = {"resident": round(_peak_resident() / 2**20, 1)}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        peak["cuda"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return peak


def _peak_resident() -> int:
    """Bytes."""
    if _STATUS.exists():
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024  # "VmHWM:   81932 kB"
    import psutil  # type: ignore[import-untyped]

    memory = psutil.Process().memory_info()
    return int(getattr(memory, "peak_wset", memory.rss))  # the former on Windows only


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
