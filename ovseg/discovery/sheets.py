"""Pictures of groups: a sheet of members for each, and all groups on one page."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ovseg.errors import ImageError
from ovseg.escape import one_line
from ovseg.files import atomic_path
from ovseg.images.load import read_image
from ovseg.images.sheets import captioned, grid, headline, object_tile, stack
from ovseg.images.sources import read_key

if TYPE_CHECKING:
    from ovseg.discovery.discovery import Discovery, Group, Member
    from ovseg.discovery.found import FoundObjects, PhotoObjects
    from ovseg.result.segments import Segment

_SHOWN, _ON_OVERVIEW = 60, 8  # members on a group's sheet, and on the overview
_SIDE, _COLUMNS = 120, 10
_MOST_ROWS = 100  # groups on the overview


def write_sheets(made: Discovery, found: FoundObjects) -> None:
    """Write ``group-NUMBER.png`` for each group and ``overview.png``; sheets of groups that are gone are removed.

    Raises:
        OutputError: the folder cannot be written to.
    """
    photos = {photo.path: photo for photo in found.photos}
    rows: list[Image.Image] = []
    names = {f"group-{group.number}.png" for group in made.groups}
    for group in made.groups:
        tiles = list(_tiles(group, photos))
        title = title_of(group)
        with atomic_path(made.root / f"group-{group.number}.png") as temporary:
            sheet = grid(tiles, columns=_COLUMNS)
            stack([headline(title, width=max(sheet.width, 640)), sheet]).save(temporary)
        if len(rows) < _MOST_ROWS:
            row = grid(tiles[:_ON_OVERVIEW], columns=_ON_OVERVIEW)
            rows.append(stack([headline(title, width=_ON_OVERVIEW * (_SIDE + 4)), row]))
    with atomic_path(made.root / "overview.png") as temporary:
        stack(rows).save(temporary)
    for path in made.root.glob("group-*.png"):
        if path.name not in names:
            path.unlink(missing_ok=True)


def title_of(group: Group) -> str:
    """What is said of a group in one line."""
    what = "regions of stuff" if group.stuff else "objects"
    title = f"group {group.number}: {len(group.members)} {what} in {group.photos} photos, tightness "
    title += f"{group.tightness:.2f}"
    if group.name:
        return f"{title}, named {one_line(group.name)}"
    if group.proposed:
        return f"{title}, perhaps {', '.join(map(one_line, group.proposed))}"
    return title


def _tiles(group: Group, photos: dict[str, PhotoObjects]) -> Iterator[Image.Image]:
    for member in group.members[:_SHOWN]:
        segment = photos[member.path].parts(stuff=group.stuff).segments[member.object]
        yield captioned(_tile(member, segment), f"{member.cosine:.2f}")


def _tile(member: Member, segment: Segment) -> Image.Image:
    """The object in its surroundings; a grey square where its photo is gone or has changed."""
    pixels = _pixels(member.path)
    if pixels is None or list(pixels.shape[:2]) != list(segment.rle["size"]):
        return Image.new("RGB", (_SIDE, _SIDE), (200, 200, 200))
    return object_tile(pixels, segment.mask(), segment.box, side=_SIDE)


@lru_cache(maxsize=4)
def _pixels(path: str) -> NDArray[np.uint8] | None:
    try:
        return read_image(read_key(path)).pixels
    except ImageError:
        return None
