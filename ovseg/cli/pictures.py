"""Pictures that a command is asked to write."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ovseg.errors import OutputError
from ovseg.files import atomic_path

if TYPE_CHECKING:
    from PIL import Image


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write the picture in the format that the file's suffix names.

    Raises:
        OutputError: there is no such format, or the folder cannot be written to.
    """
    from PIL import Image

    if path.suffix.lower() not in Image.registered_extensions():
        raise OutputError(f"expected a picture's name such as '{path.stem}.png', got '{path}'; change its suffix")
    with atomic_path(path) as temporary:
        picture.save(temporary)
