"""Which arguments of a command are images, and copies of those that are no files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ovseg.cli.output import echo

if TYPE_CHECKING:
    from ovseg.cli.jobs import Copy


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The arguments that name files or folders, and those that are labels."""
    from ovseg.images.find import find_images, looks_like_path
    from ovseg.images.web import is_address
    from ovseg.storage import is_stored

    images: list[str] = []
    labels: list[str] = []
    for argument in arguments:
        if is_address(argument) or is_stored(argument) or os.path.isfile(argument):
            images.append(argument)
        elif looks_like_path(argument):
            find_images(argument)  # where nothing matches, it says so
            images.append(argument)
        else:
            labels.append(argument)
            if os.path.isdir(argument):
                echo(f"'{argument}' is taken for a label; the folder is '{argument}/'", err=True)
    return images, labels


@contextmanager
def sources_of(arguments: list[str], out: str) -> Iterator[list[str | Copy]]:
    """The arguments with copies in place of ``-`` (the image on standard input), of addresses, and of all images
    that an address in storage stands for; those below ``out`` are results of an earlier run and left out.

    Standard input is named by its content, so that results of different images are different files, and that of the
    same image is found again.
    """
    from tempfile import TemporaryDirectory

    from ovseg.cli.jobs import Copy
    from ovseg.errors import ImageError
    from ovseg.images.web import is_address
    from ovseg.storage import is_stored

    if "-" in arguments and len(arguments) > 1:
        raise ImageError(f"expected '-' alone, got {arguments}; read standard input in a call of its own")
    with TemporaryDirectory() as folder:
        if "-" in arguments:
            yield [_standard_input(Path(folder))]
        else:
            plain = [each for each in arguments if not is_stored(each)]
            copies = _copies_of([each for each in arguments if is_stored(each)], Path(folder), out)
            yield [*(Copy.of_address(each, Path(folder)) if is_address(each) else each for each in plain), *copies]


def _copies_of(addresses: list[str], folder: Path, out: str) -> list[Copy]:
    """Copies of all images in storage that addresses stand for, with their sub-folders."""
    from ovseg.cli.jobs import Copy
    from ovseg.errors import OutputError
    from ovseg.images.find import find_stored

    if not addresses:
        return []
    listed = [find_stored(each) for each in addresses]
    found = dict.fromkeys(each for _, objects in listed for each in objects)
    root = os.path.commonpath([root for root, _ in listed])
    ours = f"{out.rstrip('/')}/"
    kept = [each for each in found if not each.address.startswith(ours)]
    if not kept:
        raise OutputError(
            f"expected images outside of --out '{out}', got only such as '{next(iter(found)).address}', which "
            "count as its results; choose another folder for --out"
        )
    below = (os.path.relpath(os.path.dirname(each.address), root) for each in kept)
    return [Copy.of_object(each, where, folder) for each, where in zip(kept, below, strict=True)]


def _standard_input(folder: Path) -> Copy:
    import sys

    from ovseg.cli.jobs import Copy
    from ovseg.files import sha256_of_bytes

    content = sys.stdin.buffer.read()
    name = f"stdin-{sha256_of_bytes(content)[:12]}"
    (folder / name).write_bytes(content)
    return Copy(folder / name, name, name)
