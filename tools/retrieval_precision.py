"""How well words find photos: precision@10 of a bank, by a table of names.

    .venv/bin/python tools/retrieval_precision.py photos.bank --names ../shared/data/photos/names.csv

The table has the columns ``file`` (relative to the table) and ``name``. Every name that at least ``--least`` photos
of the bank have is a query, as it is written, with hyphens and underscores as spaces. A hit is a photo with that
very name among the first 10; the precision of a query is its hits over 10, or over the number of such photos where
there are fewer. A photo that shows the thing but has another name ("tabby" for "cat") counts as a miss.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from pathlib import Path

import numpy as np

import ovseg
from ovseg.bank import ImageBank


def named_photos(table: Path, bank: ImageBank) -> dict[str, str]:
    """The name of every photo of the bank that the table has."""
    inside = set(bank.paths)
    with table.open(newline="", encoding="utf-8") as stream:
        rows = {str((table.parent / row["file"]).resolve()): row["name"] for row in csv.DictReader(stream)}
    words = {path: name.replace("-", " ").replace("_", " ").lower().strip() for path, name in rows.items()}
    return {path: name for path, name in words.items() if path in inside}


def precision(bank: ImageBank, names: dict[str, str], query: str, *, regions: bool, k: int = 10) -> float:
    """Hits of a query among the first ``k``, over the most that are possible."""
    found = bank.search(query, k, regions=regions).paths[0]
    possible = min(k, sum(name == query for name in names.values()))
    return sum(names.get(path) == query for path in found) / possible


def main() -> None:
    """Search, count, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bank", type=Path)
    parser.add_argument("--names", type=Path, required=True)
    parser.add_argument("--least", type=int, default=5)
    options = parser.parse_args()
    bank = ovseg.ImageBank.open(options.bank)
    names = named_photos(options.names, bank)
    photos: dict[str, list[str]] = defaultdict(list)
    for path, name in names.items():
        photos[name].append(Path(path).relative_to(options.names.parent.resolve()).parts[0])
    queries = {name: max(set(folders), key=folders.count) for name, folders in photos.items()}
    queries = {name: folder for name, folder in queries.items() if len(photos[name]) >= options.least}
    print(f"{len(bank)} photos, {len(names)} in the table, {len(queries)} names with {options.least} or more")
    for how, regions in (("whole pictures", False), ("regions", True)):
        values = {name: precision(bank, names, name, regions=regions) for name in queries}
        parts = [f"all {100 * np.mean(list(values.values())):.1f}"]
        for folder in sorted(set(queries.values())):
            mine = [value for name, value in values.items() if queries[name] == folder]
            parts.append(f"{folder} {100 * np.mean(mine):.1f} ({len(mine)})")
        print(f"precision@10 by {how}: {', '.join(parts)}", flush=True)


if __name__ == "__main__":
    main()
