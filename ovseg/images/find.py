"""The image files that a path, a folder or a pattern stands for."""

from __future__ import annotations

import glob
import os
import posixpath
from pathlib import Path, PurePosixPath

from PIL import Image

from ovseg.errors import ImageError, VocabularyError
from ovseg.images.foreign import FOREIGN_SUFFIXES
from ovseg.images.web import is_address, refuse_other_address
from ovseg.storage import Stored, below, check_bucket, look, matching

_KINDS = ("jpg", "jpeg", "jfif", "png", "webp", "bmp", "tif", "tiff", "gif", "ppm", "pgm", "jp2", "avif")


IMAGE_SUFFIXES = frozenset(f".{kind}" for kind in _KINDS)
SEARCHED_SUFFIXES = IMAGE_SUFFIXES | FOREIGN_SUFFIXES


def find_images(source: str | Path) -> list[Path]:
    """The image files that a path, a folder or a glob pattern stands for, sorted.

    A folder is searched recursively for known suffixes; a file is returned as it is. Files that need another
    decoder (HEIC, raw, video) are among them, so that whoever reads them can say so.

    Raises:
        ImageError: nothing matches.
    """
    refuse_address(source)
    if not str(source):
        raise ImageError("expected an image file, folder or glob pattern, got an empty text; name one")
    path = Path(source)
    if os.path.isfile(path):  # unlike Path.is_file, it takes a name that is too long for one that is not there
        return [path]
    if os.path.isdir(path):
        candidates: list[Path] = list(path.rglob("*"))
    else:
        candidates = [Path(name) for name in glob.glob(str(source), recursive=True)]
    images = sorted(p for p in candidates if p.suffix.lower() in SEARCHED_SUFFIXES and p.is_file())
    if images:
        return images
    if os.path.isdir(path):
        raise _none_in(source)
    raise ImageError(f"no image file, folder or glob pattern matches '{source}'; check the spelling")


def find_stored(address: str) -> tuple[str, list[Stored]]:
    """What ``find_images`` finds, of an object, a folder or a pattern in storage, in the same order.

    Returns:
        The address of the folder that sub-folders are told from, and the objects.

    Raises:
        ImageError: nothing matches.
        StorageError: storage cannot be reached, lets nobody in, or has no such bucket.
    """
    check_bucket(address)
    address = address.rstrip("/")
    one = look(address)
    if one is not None:
        return posixpath.dirname(address), [one]
    found, root = below(address), address
    if not found and glob.has_magic(address):
        found, root = matching(address), _before_wildcards(address)
    if not found:
        raise ImageError(f"no object, folder or pattern in storage matches '{address}'; check the spelling")
    images = [each for each in found if PurePosixPath(each.address).suffix.lower() in SEARCHED_SUFFIXES]
    if not images:
        raise _none_in(address)
    return root, sorted(images, key=lambda each: PurePosixPath(each.address))


def _before_wildcards(address: str) -> str:
    """The folder of a pattern's names that has no wildcards."""
    parts = posixpath.dirname(address).split("/")
    fixed = next((place for place, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return "/".join(parts[:fixed])


def _none_in(source: str | Path) -> ImageError:
    return ImageError(
        f"expected images in folder '{source}', found none; known suffixes: {' '.join(sorted(IMAGE_SUFFIXES))}"
    )


def looks_like_path(text: str) -> bool:
    """Whether a word of a command line must mean a file: it has a slash, or ends as the names of pictures do."""
    return "/" in text or "\\" in text or text in {".", ".."} or Path(text).suffix.lower() in SEARCHED_SUFFIXES


def names_image(text: str) -> bool:
    """Whether a text that may be a phrase names an image: a file that is there, or an http(s) address.

    A file without a suffix or slash counts only if it holds an image: a word may also be the name of another file.

    Raises:
        ImageError: it looks like a path and names no file.
    """
    if is_address(text):
        return True
    if not looks_like_path(text):
        return os.path.isfile(text) and _holds_image(text)
    if os.path.isfile(text):
        return True
    refuse_other_address(text)
    what = "is a folder; give an image in it" if os.path.isdir(text) else "names no file; check the path"
    raise ImageError(f"'{text}' looks like an image's path and {what}, or write the words without slash and suffix")


def refuse_path(text: str, *, what: str) -> None:
    """Refuse a text that names an image, or looks so, where only words mean something.

    Raises:
        VocabularyError: it does.
    """
    if looks_like_path(text):
        raise VocabularyError(f"{what} must be words, got '{text}', which looks like a path; name the thing itself")


def _holds_image(path: str) -> bool:
    try:
        with open(path, "rb") as stream, Image.open(stream):
            return True
    except Exception:  # Pillow's parsers raise almost anything
        return False


def refuse_address(source: str | os.PathLike[str]) -> None:
    """Refuse what is an address on the web and no file."""
    refuse_other_address(source)
    if is_address(source):
        raise ImageError(f"expected a file, got the address '{source}'; download it and give the file's path")
