"""A table of what each label covers: a row for each photo and label."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ovseg.result.formats.base import Add, Format, Options, Place
from ovseg.result.formats.spool import open_text
from ovseg.result.tables import COLUMNS, table_rows

if TYPE_CHECKING:
    from ovseg.result.core import SegmentationResult

FILE = "_areas.csv"


@contextmanager
def _areas(out: Path, options: Options) -> Iterator[Add]:
    with open_text(out / FILE, newline="") as stream:
        table = csv.DictWriter(stream, ["photo", *COLUMNS], lineterminator="\n")
        table.writeheader()

        def add(result: SegmentationResult, place: Place) -> None:
            table.writerows({"photo": place.source, **row} for row in table_rows(result))

        yield add


AREAS = Format("areas", "", FILE, "pixels or outlines: it is a table of how much each label covers", _areas)
