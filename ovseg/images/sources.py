"""Where a bank's images come from: folders, globs, list files, tar archives, storage and Hugging Face data sets.

Every image has a key, from which it can be read again: a path, ``archive.tar::member``, an address in storage
(``s3://bucket/a.jpg``) or ``hf://name:split#row``.
"""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ovseg.errors import DatasetError, ImageError
from ovseg.files import sha256_of_bytes
from ovseg.identity import FileMark
from ovseg.images.find import IMAGE_SUFFIXES, find_images, find_stored, refuse_address
from ovseg.images.hub import HubName, image_column, is_hub
from ovseg.images.web import is_address
from ovseg.storage import Stored, is_stored, look, read

_MEMBER = "::"


@dataclass(frozen=True)
class Item:
    """One image of a source: its key, its bytes where the source is read as a stream, or what was listed."""

    key: str
    content: bytes | None = None
    stored: Stored | None = None

    def read(self) -> bytes:
        """The encoded image.

        Raises:
            ImageError: the file is gone or cannot be read.
        """
        return self.content if self.content is not None else read_key(self.key)

    def mark(self, content: bytes) -> FileMark:
        """What the bytes that were read are known by."""
        if self.stored is None:
            return mark_key(self.key, content)
        return FileMark(len(content), self.stored.steady_stamp(), sha256_of_bytes(content))


def iterate(source: str | Path) -> Iterator[Item]:
    """The images of ``source`` in a fixed order.

    Args:
        source: folder, image, glob, ``.txt`` list of paths (relative to the list), ``.tar`` shard or a glob of
            them, a folder, object or pattern in storage (``s3://bucket/photos``), or ``hf://name:split``.

    Raises:
        ImageError: nothing matches.
        DatasetError: an archive or data set cannot be read.
        StorageError: storage cannot be reached, lets nobody in, or has no such bucket.
    """
    text = str(source)
    if is_stored(text):
        yield from (Item(each.address, stored=each) for each in find_stored(text)[1])
        return
    if not is_hub(text):
        refuse_address(text)
    if is_hub(text):
        yield from _hub_items(text)
    elif text.endswith(".tar"):
        yield from _tar_items(text)
    elif text.endswith(".txt"):
        yield from _listed(Path(text))
    else:
        for path in find_images(text):
            yield Item(str(path.resolve()))


def is_file_key(key: str) -> bool:
    """Whether a key is the path of a file of its own."""
    return not is_hub(key) and not is_stored(key) and _MEMBER not in key


def key_exists(key: str) -> bool:
    """Whether the file, archive or object behind a key is there; rows of data sets always count as there."""
    if is_stored(key):
        return look(key) is not None
    return is_hub(key) or os.path.isfile(key.partition(_MEMBER)[0])


def mark_key(key: str, content: bytes) -> FileMark:
    """What the bytes behind a key are known by; members of archives and rows of data sets have no stamp."""
    if is_file_key(key):
        with contextlib.suppress(OSError):
            return FileMark.of(key, content=content)
    return FileMark(len(content), "", sha256_of_bytes(content))


def still_marked(key: str, mark: FileMark) -> bool:
    """Whether the bytes behind a key are those that were marked."""
    if is_file_key(key):
        return mark.still(key)
    try:
        if is_stored(key) and (found := look(key)) and found.is_marked(mark):
            return True
        return sha256_of_bytes(read_key(key)) == mark.sha256
    except ImageError:
        return False


def read_key(key: str) -> bytes:
    """The encoded image behind a key.

    Raises:
        ImageError: it is gone or cannot be read.
    """
    if is_hub(key):
        name, _, row = key.rpartition("#")
        return _encoded(_hub_images(name), int(row))
    if is_stored(key):
        return read(key)
    refuse_address(key)
    archive, found, member = key.partition(_MEMBER)
    try:
        if not found:
            return Path(key).read_bytes()
        with tarfile.open(archive) as tar:
            stream = tar.extractfile(member)
            return stream.read() if stream is not None else b""
    except (OSError, KeyError, tarfile.TarError) as error:
        raise ImageError(f"cannot read '{key}' ({error}); was it moved since the bank was built?") from error


def _listed(path: Path) -> Iterator[Item]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ImageError(f"cannot read the list '{path}' ({error}); give a text file, one path per line") from error
    for line in lines:
        if is_address(line.strip()) or is_stored(line.strip()):
            yield Item(line.strip())  # one on the web is refused by name when it is read
        elif line.strip():
            yield Item(str((path.parent / line.strip()).resolve()))


def _tar_items(pattern: str) -> Iterator[Item]:
    import glob

    archives = sorted(glob.glob(pattern))
    if not archives:
        raise ImageError(f"no tar archive matches '{pattern}'; check the spelling")
    for archive in archives:
        try:
            with tarfile.open(archive) as tar:
                for member in tar:
                    if member.isfile() and Path(member.name).suffix.lower() in IMAGE_SUFFIXES:
                        stream = tar.extractfile(member)
                        content = stream.read() if stream is not None else b""
                        yield Item(f"{Path(archive).resolve()}{_MEMBER}{member.name}", content)
        except (tarfile.TarError, OSError) as error:
            raise DatasetError(f"'{archive}' is not a whole tar archive: {error}; fetch it again") from error


def _hub_items(name: str) -> Iterator[Item]:
    rows = _hub_images(name)
    for row in range(len(rows)):
        yield Item(f"{name}#{row}")


@lru_cache(maxsize=2)
def _hub_images(name: str) -> Any:
    """The images of a data set, undecoded; kept open, as its rows are read one by one."""
    return image_column(HubName.parse(name).open())


def _encoded(dataset: Any, row: int) -> bytes:
    (value,) = dataset[row].values()
    if value.get("bytes") is not None:
        return bytes(value["bytes"])
    return io.FileIO(value["path"]).readall()
