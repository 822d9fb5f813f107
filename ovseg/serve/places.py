"""Files of this machine that a client may name: those inside one folder, and no others."""

from __future__ import annotations

from pathlib import Path

from ovseg.serve.refusals import Refusal


def inside(folder: Path | None, path: str) -> Path:
    """The file or folder at ``path``, relative to ``folder``, with all links followed.

    Raises:
        Refusal: no folder is open to clients, the path leads out of it, or nothing is there (422).
    """
    if folder is None:
        raise Refusal(422, "this server opens no folder to paths; send the file, or start it with --folder DIR")
    root = folder.resolve()
    try:
        if "\0" in path or Path(path).is_absolute():
            raise ValueError
        found = (root / path).resolve(strict=True)
    except (OSError, ValueError, RuntimeError) as error:  # missing, too long, no name of a file, links in a circle
        raise Refusal(422, f"no file '{path[:100]}' in the folder of this server; give its path in it") from error
    if not found.is_relative_to(root):
        raise Refusal(422, f"no file '{path[:100]}' in the folder of this server; give its path in it")
    return found


def read_inside(folder: Path | None, path: str, *, max_bytes: int) -> bytes:
    """The bytes of a file inside the folder.

    Raises:
        Refusal: as ``inside``; it is no file (422), or too large (413).
    """
    found = inside(folder, path)
    if not found.is_file():  # a folder, or a pipe that nobody writes to
        raise Refusal(422, f"expected a file, '{path[:100]}' is none; give the path of a photo")
    with open(found, "rb") as stream:
        content = stream.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise Refusal(413, f"'{path[:100]}' has more than the limit of {max_bytes} bytes; shrink it")
    return content
