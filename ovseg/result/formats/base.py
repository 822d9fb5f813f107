"""What every format is made of: what is written for a photo, and for all of them together."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ovseg.result.core import SegmentationResult

TOLERANCE = 0.5  # pixels that an outline may be off


@dataclass(frozen=True)
class Place:
    """Where the files of one photo go, and where the photo is.

    Attributes:
        out: the folder of all results.
        below: the folder of this one relative to ``out``, with ``/``; empty for ``out`` itself.
        name: what its files begin with; no two photos share folder and name.
        photo: the file; it may be a copy that is gone later.
        source: path or address of the photo, as the result says it.
        lasting: whether ``photo`` stays.
        called: whether ``photo``, if it does not, has the photo's own name.
    """

    out: Path
    below: str
    name: str
    photo: Path
    source: str
    lasting: bool = True
    called: bool = False

    @property
    def folder(self) -> Path:
        """The folder of its files."""
        return self.out / self.below

    @property
    def path(self) -> str:
        """Folder and name below ``out``, with ``/``."""
        return f"{self.below}/{self.name}" if self.below else self.name

    @property
    def picture(self) -> str:
        """The photo's own name and the folder it lies in below the folder of all photos, with ``/``."""
        file = self.photo.name if self.lasting or self.called else self.name
        return f"{self.below}/{file}" if self.below else file


@dataclass(frozen=True)
class Options:
    """What a format is asked for.

    Attributes:
        tolerance: pixels that a simplified outline may be off.
        tell: called with a sentence about what a photo cannot keep, before it is written.
    """

    tolerance: float = TOLERANCE
    tell: Callable[[str], None] = lambda sentence: None


Add = Callable[["SegmentationResult", Place], None]
Open = Callable[[Path, Options], AbstractContextManager[Add]]


@dataclass(frozen=True)
class Format:
    """A format in which results are written.

    Attributes:
        name: as ``--format`` takes it.
        photo: what is written for each photo; empty for nothing.
        folder: what is written for all photos together; empty for nothing.
        cannot: what it cannot hold, and what becomes of it; empty where it holds everything. It is said before
            anything is written.
        open: called with the folder of the results; inside the block, what it gives takes one result after the
            other, and keeps none. What covers all photos has its name when the block ends without error.
        extra: the optional dependencies that it needs.
        needs_photo: whether a result must have its pixels.
        opens_photo: whether the file of the photo is opened.
        by_object: whether it has no place for what a label covers besides its objects, where these were looked for.
    """

    name: str
    photo: str
    folder: str
    cannot: str
    open: Open
    extra: str | None = None
    needs_photo: bool = False
    opens_photo: bool = False
    by_object: bool = False
