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

    images: list[str] = []
    labels: list[str] = []
    for argument in arguments:
        if is_address(argument) or os.path.isfile(argument):
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
def sources_of(arguments: list[str]) -> Iterator[list[str | Copy]]:
    """The arguments with copies in place of ``-`` (the image on standard input) and of addresses.

    Standard input is named by its content, so that results of different images are different files, and that of the
    same image is found again.
    """
    from tempfile import TemporaryDirectory

    from ovseg.cli.jobs import Copy
    from ovseg.errors import ImageError
    from ovseg.images.web import is_address

    if "-" in arguments and len(arguments) > 1:
        raise ImageError(f"expected '-' alone, got {arguments}; read standard input in a call of its own")
    with TemporaryDirectory() as folder:
        if "-" in arguments:
            yield [_standard_input(Path(folder))]
        else:
            yield [Copy.of_address(each, Path(folder)) if is_address(each) else each for each in arguments]


def _standard_input(folder: Path) -> Copy:
    import sys

    from ovseg.cli.jobs import Copy
    from ovseg.files import sha256_of_bytes

    content = sys.stdin.buffer.read()
    name = f"stdin-{sha256_of_bytes(content)[:12]}"
    (folder / name).write_bytes(content)
    return Copy(folder / name, name, name)
