"""A copy of a folder in storage on this machine, for what reads files: fetched once, and again where it changed."""

from __future__ import annotations

import posixpath
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from ovseg.errors import ConfigError, StorageError
from ovseg.files import atomic_path, read_json, sha256_of_bytes, to_json
from ovseg.progress import progress_bar
from ovseg.storage.objects import Stored, below, check_bucket, fetch

FOLDER = Path.home() / ".cache" / "ovseg" / "storage"
LIMIT = 50 * 10**9  # bytes of all copies together
_INDEX = "index.json"
_SHOWN = 20  # objects above which a bar is shown


def mirror(address: str, *, folder: Path | None = None, limit: int = LIMIT) -> Path:
    """A local folder with all objects below ``address``, as they are now.

    What is there already is kept while size and stamp (ETag) in storage stay. Where all copies together would take
    more than ``limit``, those of other folders go that were used least recently.

    Args:
        address: of a folder in storage.
        folder: of all copies; None takes ``~/.cache/ovseg/storage``.
        limit: bytes of all copies together.

    Raises:
        StorageError: storage cannot be read, has nothing below the address, or more than ``limit``.
        OutputError: the copy cannot be written.
    """
    address, root = address.rstrip("/"), FOLDER if folder is None else folder
    check_bucket(address)
    found = {each.address.removeprefix(f"{address}/"): each for each in below(address)}
    found = {name: each for name, each in found.items() if not name.endswith("/")}
    if not found:
        raise StorageError(f"there is nothing below '{address}' in storage; check the spelling")
    size = sum(each.size for each in found.values())
    if size > limit:
        raise StorageError(
            f"'{address}' has {size / 1e9:.3g} GB, more than the {limit / 1e9:.3g} GB that copies on this machine "
            "may take; give a folder below it, or fetch it yourself and give the local folder"
        )
    place = root / sha256_of_bytes(address.encode())[:16]
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / ".lock"):  # another process may want the same
        _make_room(root, place, limit - size)
        _update(place, found, title=posixpath.basename(address))
    return place / posixpath.basename(address)


def _update(place: Path, found: Mapping[str, Stored], *, title: str) -> None:
    kept = _index(place)
    folder = place / title
    now = {name: [each.size, each.stamp] for name, each in found.items()}
    same = {name for name, mark in now.items() if mark[1] and kept.get(name) == mark and (folder / name).is_file()}
    _write_index(place, {name: now[name] for name in same})  # before anything changes: a kill then hides nothing
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.relative_to(folder).as_posix() not in same:
            path.unlink()
    todo = [name for name in now if name not in same]
    with progress_bar(f"fetching {title}", total=len(todo), shown=len(todo) > _SHOWN) as advance:
        for name in todo:
            fetch(found[name].address, folder / name)
            advance()
    _write_index(place, now)


def _make_room(root: Path, place: Path, left: int) -> None:
    """Let go of other copies, those used least recently first, until they take no more than ``left`` bytes."""
    others = [each for each in root.iterdir() if (each / _INDEX).is_file() and each != place]
    sizes = {each: sum(mark[0] for mark in _index(each).values()) for each in others}
    for each in sorted(others, key=lambda each: (each / _INDEX).stat().st_mtime):
        if sum(sizes.values()) <= left:
            return
        shutil.rmtree(each)
        del sizes[each]


def _index(place: Path) -> dict[str, Any]:
    """By name size and stamp of each file of a copy; none where it is damaged."""
    try:
        found = read_json(place / _INDEX, what="index", advice="it is made again")
    except (OSError, ConfigError):
        return {}
    whole = isinstance(found, dict) and all(isinstance(mark, list) and len(mark) == 2 for mark in found.values())
    return found if whole else {}


def _write_index(place: Path, marks: Mapping[str, Any]) -> None:
    with atomic_path(place / _INDEX) as temporary:
        temporary.write_text(to_json(dict(marks)), encoding="utf-8")
