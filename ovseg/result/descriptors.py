r"""Semantic descriptors: a label map as text, row-wise run-length encoded (Text4Seg, ICLR 2025).

One line per row of a grid of cells, one ``label *count`` per run, runs separated by ``| ``. In a label,
``*``, ``|``, ``\`` and the line break are escaped by a backslash, as are blanks at its ends and a label that
is itself called ``others``.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from ovseg.errors import ShapeError, VocabularyError, did_you_mean

OTHERS = "others"
MAX_CELLS = 100_000  # of a run: far more than a row of any image, and less than memory

_RUN = re.compile(r"\s*((?:\\.|[^*|\\])+?)\s*\*\s*(\d+)\s*(?:\||$)")

IndexMap = npt.NDArray[np.int32]


def encode(index_map: IndexMap, labels: Sequence[str], *, grid: tuple[int, int]) -> str:
    """The text of a label map; see ``SegmentationResult.to_text``.

    Args:
        index_map: (H, W) int32, -1 for none.
        labels: L names.
        grid: (rows, columns) of cells; each takes the label of most of its pixels, the first of equals.
    """
    names = [_escape(label) for label in labels] + [OTHERS]  # index -1 is the last
    rows = []
    for row in _vote(index_map, len(labels), grid=grid):
        runs = [(names[index], len(list(cells))) for index, cells in itertools.groupby(row)]
        rows.append("| ".join(f"{name} *{count}" for name, count in runs))
    return "\n".join(rows)


def decode(
    text: str, *, labels: Sequence[str] | None, size: tuple[int, int] | None
) -> tuple[IndexMap, tuple[str, ...]]:
    """The (H, W) int32 label map and the names of a text; see ``SegmentationResult.from_text``."""
    rows = [list(_runs(line)) for line in text.strip("\n").split("\n")]
    found = dict.fromkeys(name for row in rows for name, _ in row if name is not None)
    names = tuple(labels) if labels is not None else tuple(found)
    for name in found:
        if name not in names:
            raise VocabularyError(
                f"the text names '{name}', which is none of the labels{did_you_mean(name, names)} "
                f"Allowed are: {', '.join(names)}"
            )
    index_of = {name: index for index, name in enumerate(names)}
    cells = [[index_of.get(name, -1) if name is not None else -1 for name in _expand(row)] for row in rows]
    widths = {len(row) for row in cells}
    if len(widths) != 1:
        raise ShapeError(f"all rows of the text must have the same number of cells, got {sorted(widths)}")
    grid = np.array(cells, dtype=np.int32)
    return (grid if size is None else _enlarge(grid, size)), names


def _vote(index_map: IndexMap, label_count: int, *, grid: tuple[int, int]) -> npt.NDArray[np.int64]:
    """(rows, columns) of the most frequent index in each cell, -1 for none."""
    rows, columns = grid
    if rows < 1 or columns < 1:
        raise ShapeError(f"grid must have at least one row and column, got {grid}")
    row_of, index_map = _cells(index_map, rows)
    column_of, turned = _cells(index_map.T, columns)
    slots = label_count + 1  # the last is none, so that a label wins a tie
    index = np.where(turned.T < 0, label_count, turned.T)
    flat = (row_of[:, None] * columns + column_of) * slots + index
    counts = np.bincount(flat.ravel(), minlength=rows * columns * slots)
    winners = counts.reshape(rows, columns, slots).argmax(axis=-1)
    return np.where(winners == label_count, -1, winners)


def _cells(lines: IndexMap, count: int) -> tuple[npt.NDArray[np.int64], IndexMap]:
    """The cell of each line of an image; an image of fewer lines than cells repeats them."""
    length = len(lines)
    if length < count:
        return np.arange(count), lines[np.arange(count) * length // count]
    starts = np.arange(count) * length // count
    return np.searchsorted(starts, np.arange(length), side="right") - 1, lines


def _enlarge(grid: IndexMap, size: tuple[int, int]) -> IndexMap:
    """(H, W) of the cell that each pixel lies in; a size below the grid's drops cells."""
    axes = []
    for count, length in zip(grid.shape, size, strict=True):
        if length < 1:
            raise ShapeError(f"size must be at least 1 x 1, got {size}")
        starts = np.arange(count) * length // count
        axes.append(np.searchsorted(starts, np.arange(length), side="right") - 1)
    return grid[np.ix_(*axes)]


def _runs(line: str) -> Iterator[tuple[str | None, int]]:
    """The (label, count) pairs of a row; the label is None for others."""
    position = 0
    while position < len(line):
        match = _RUN.match(line, position)
        if match is None:
            raise ShapeError(f"a row of the text must read 'label *count| label *count', got {line[:80]!r}")
        name, count, position = match[1], match[2], match.end()
        if len(count) > len(str(MAX_CELLS)) or int(count) > MAX_CELLS:
            raise ShapeError(f"a run of the text must have at most {MAX_CELLS} cells, got {count[:80]}")
        yield (None if name == OTHERS else _unescape(name)), int(count)


def _expand(row: list[tuple[str | None, int]]) -> list[str | None]:
    return [name for name, count in row for _ in range(count)]


def _escape(label: str) -> str:
    escaped = re.sub(r"[\\*|]", r"\\\g<0>", label).replace("\n", r"\n")
    escaped = re.sub(r"^\s|\s\Z", r"\\\g<0>", escaped)
    return "\\" + escaped if escaped == OTHERS else escaped


def _unescape(name: str) -> str:
    return re.sub(r"\\(.)", lambda match: "\n" if match[1] == "n" else match[1], name, flags=re.DOTALL)
