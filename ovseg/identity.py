"""Is this the same? What is kept is known by its content, not by its name.

Results, caches, journals, banks, concepts and training runs all ask here before they use again what lies on disk.
Two things are told apart: a *description* (plain values: configuration, weights, templates, labels), which is
compared as a whole, and the *mark* of a file, which says cheaply whether its bytes are still those that were read.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ovseg.errors import ConfigError, SpaceError
from ovseg.files import read_json, sha256_of, sha256_of_bytes, write_json

_SEAL = "digest"
_DIGITS = 24  # of a digest: 96 bits
_RECENT = 2.0  # seconds: a file changed so shortly before it was read may change again within one clock tick


def digest(*parts: Any) -> str:
    """24 hexadecimal digits over plain values: equal for equal values, on every machine.

    Raises:
        TypeError: a value has no plain form; its repr might hold an address, which no run shares with the next.
    """
    text = json.dumps(parts, sort_keys=True, default=_plain)
    return sha256_of_bytes(text.encode("utf-8", "backslashreplace"))[:_DIGITS]


def difference(kept: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first key in which two descriptions differ, with both values, for a message; None where they are alike.

    >>> difference({"model": "mini", "weights": "ab"}, {"model": "mini", "weights": "cd"})
    "weights 'ab' before and 'cd' now"
    """
    plain = json.loads(json.dumps(now, default=_plain))
    for key in {**plain, **kept}:
        before, after = kept.get(key), plain.get(key)
        if before != after:
            return f"{key} {_shown(before)} before and {_shown(after)} now"
    return None


def claim(path: str | Path, settings: Mapping[str, Any], *, what: str, advice: str) -> None:
    """Write what a folder's content is made with, or refuse a folder that was begun with something else.

    Args:
        path: the JSON file of the folder that says so.
        settings: what decides the content.
        what: is kept there, for the error.
        advice: what to do, to end the error.

    Raises:
        ConfigError: the file says something else, or cannot be read.
        OutputError: the folder cannot be written to.
    """
    if Path(path).is_file():
        kept = read_json(path, what=f"settings of {what}", advice=advice)
        if other := difference(kept, settings):
            raise ConfigError(f"'{Path(path).parent}' holds {what} of other settings: {other}; {advice}")
    write_json(path, settings)


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """A description with its own digest, to be written where a changed byte must not go unnoticed."""
    plain = json.loads(json.dumps(value, default=_plain))
    return {**plain, _SEAL: digest(plain)}


def unsealed(value: Mapping[str, Any]) -> dict[str, Any] | None:
    """The description in what ``sealed`` made; None where it is not what was sealed.

    >>> unsealed(sealed({"images": 3}))
    {'images': 3}
    >>> unsealed({**sealed({"images": 3}), "images": 4})
    """
    rest = {key: part for key, part in value.items() if key != _SEAL}
    return rest if value.get(_SEAL) == digest(rest) else None


def check_model(kept: Mapping[str, Any], now: Mapping[str, Any], *, what: str, again: str) -> None:
    """Refuse to use what another model made: vectors of two models must not be compared.

    Args:
        kept: ``Segmenter.info`` of the model that made it.
        now: that of the model at hand.
        what: was done with the kept model, to begin the message: "the bank 'x' was built".
        again: how to do it again with the model at hand, to end the message.

    Raises:
        SpaceError: names both models, and what to do.
    """
    for key in ("model", "weights", "features"):
        if kept.get(key) != now.get(key):
            raise SpaceError(
                f"{what} with {key} '{kept.get(key)}', got '{now.get(key)}'; load that model, or {again}"
            )


@dataclass(frozen=True)
class FileMark:
    """What a file's content is known by.

    Attributes:
        size: in bytes.
        stamp: what the file system says of the file (times, number); while it stays, so do the bytes. Empty where
            that is not conclusive, because the file had only just been written.
        sha256: of the bytes; hexadecimal.
    """

    size: int
    stamp: str
    sha256: str

    @classmethod
    def of(cls, path: str | Path, *, content: bytes | None = None) -> FileMark:
        """The mark of a file; its bytes are read unless the caller has them.

        Raises:
            OSError: it cannot be read.
        """
        before = os.stat(path)
        sha256 = sha256_of(path) if content is None else sha256_of_bytes(content)
        return cls(before.st_size, _stamp(before), sha256)

    def still(self, path: str | Path) -> bool:
        """Whether the file at ``path`` has these bytes; it is read only where size and stamp do not settle it."""
        try:
            found = os.stat(path)
            if found.st_size != self.size:
                return False
            return bool(self.stamp and self.stamp == _stamp(found)) or sha256_of(path) == self.sha256
        except OSError:
            return False

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def mark_files(paths: Iterable[str | Path]) -> list[dict[str, Any]]:
    """The marks of files, as plain values for a journal.

    Raises:
        OSError: a file cannot be read.
    """
    return [FileMark.of(path).to_dict() for path in paths]


def still_marked(paths: Iterable[str | Path], marks: Any) -> bool:
    """Whether files are those that ``mark_files`` described, in order; anything else than marks is no."""
    files = list(paths)
    try:
        return len(files) == len(marks) and all(
            FileMark(**mark).still(path) for path, mark in zip(files, marks, strict=True)
        )
    except TypeError:
        return False


def _stamp(found: os.stat_result) -> str:
    """Times of content and of inode, and the inode: no tool can set the second, so the first cannot be feigned."""
    if time.time() - max(found.st_mtime, found.st_ctime) < _RECENT:
        return ""
    return f"{found.st_mtime_ns}:{found.st_ctime_ns}:{found.st_ino}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    raise TypeError(f"expected plain values in a description, got {type(value).__name__}")
