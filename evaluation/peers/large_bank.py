"""An index larger than it may be in memory: built, searched and measured beside exact search.

    .venv/bin/python evaluation/peers/large_bank.py [--count 10000000] [--dimensions 256] [--memory 4]

Writes a file of synthetic vectors, makes an index of kind "disk" of it as ``ovseg bank build`` does (tuned to a
recall of 0.95 on queries of its own), and prints seconds, bytes on disk, recall@10 of new queries, milliseconds a
query (one at a time; after the files were dropped from the page cache, and again), and the largest resident memory
of each step: of the process as a whole (VmHWM), and of what is its own and no page of a mapped file (anonymous).

Leaves with status 1 where a step took more than ``--memory`` GB (10⁹ bytes) as a whole, or where the recall of new
queries is below ``--recall``. It needs Linux, and disk for 4 · D + 100 bytes a vector.

The vectors, drawn block by block, lie as images of a crawl do: unit vectors about 50,000 centres, some of which are
far more frequent than others, and which themselves lie about 1,000 themes; the noise about a centre is 0.6 of its
length, more in some directions than in others. Queries are drawn the same way and are not in the index.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from ovseg.bank.build import open_vectors
from ovseg.bank.index import VectorIndex, exact_search
from ovseg.bank.rows import BLOCK, give_back

THEMES, CENTRES = 1_000, 50_000
Rows = NDArray[np.float32]


class World:
    """What the vectors are drawn from: the same for every seed of a block.

    Args:
        dimensions: D.
    """

    def __init__(self, dimensions: int) -> None:
        rng = np.random.default_rng(0)
        themes = _unit(rng.standard_normal((THEMES, dimensions), dtype=np.float32))
        spread = _unit(rng.standard_normal((CENTRES, dimensions), dtype=np.float32))
        self.centres = _unit(themes[rng.integers(0, THEMES, CENTRES)] + 0.7 * spread)
        weights = (10.0 + np.arange(CENTRES)) ** -0.8
        self._shares = np.cumsum(weights / weights.sum())
        turn, _ = np.linalg.qr(rng.standard_normal((dimensions, dimensions)))
        widths = 1 / (1 + np.arange(dimensions) / 16)
        self._noise = (0.6 * turn * widths / np.linalg.norm(widths)).T.astype(np.float32)

    def draw(self, count: int, *seed: int) -> Rows:
        """(count, D) float32 unit vectors."""
        rng = np.random.default_rng(seed)
        owner = np.minimum(np.searchsorted(self._shares, rng.random(count)), CENTRES - 1)
        noise = rng.standard_normal((count, len(self._noise)), dtype=np.float32) @ self._noise
        return _unit(self.centres[owner] + noise)


def _unit(rows: Rows) -> Rows:
    unit: Rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def write_vectors(path: Path, world: World, count: int) -> None:
    """A ``.npy`` file of ``count`` vectors, block by block."""
    rows = np.lib.format.open_memmap(path, "w+", np.float32, (count, len(world._noise)))
    for number, start in enumerate(range(0, count, BLOCK)):
        piece = rows[start : start + BLOCK]
        piece[:] = world.draw(len(piece), 1, number)
        give_back(rows)
    rows.flush()


def resident() -> dict[str, int]:
    """Bytes of this process in memory: its own now (RssAnon), and the most in all (VmHWM)."""
    lines = (line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return {name: 1024 * int(value.split()[0]) for name, value in lines if name in {"RssAnon", "VmHWM"}}


@dataclass
class Meter:
    """Seconds and the largest memory of each step.

    Attributes:
        figures: by name.
        most: bytes that the process took in any step.
    """

    figures: dict[str, float] = field(default_factory=dict)
    most: int = 0

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure what is done inside."""
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
        own, done = [0], threading.Event()

        def watch() -> None:
            while not done.wait(0.02):
                own[0] = max(own[0], resident()["RssAnon"])

        watcher = threading.Thread(target=watch)
        watcher.start()
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            done.set()
            watcher.join()
        whole = resident()["VmHWM"]
        self.most = max(self.most, whole)
        self.note(f"{name} (s)", seconds)
        self.note(f"{name}: memory (GB)", whole / 1e9)
        self.note(f"{name}: of it anonymous (GB)", own[0] / 1e9)

    def note(self, name: str, value: float) -> None:
        """Keep and print a figure."""
        self.figures[name] = float(value)
        print(f"{name:50s} {value:12.4g}", flush=True)


def drop_from_cache(*paths: Path) -> None:
    """Ask Linux to forget the pages of files that nobody maps."""
    for path in paths:
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def one_by_one(index: VectorIndex, queries: Rows) -> tuple[NDArray[np.int64], list[float]]:
    """The 10 nearest rows of each query, and the milliseconds that each took."""
    found, times = [], []
    for query in queries:
        start = time.perf_counter()
        found.append(index.search(query[None], 10)[1][0])
        times.append(1000 * (time.perf_counter() - start))
    return np.stack(found), times


def measure(folder: Path, options: argparse.Namespace) -> Meter:
    """All figures, as they are printed; the index and its vectors stay in ``folder``."""
    meter = Meter()
    world = World(options.dimensions)
    path, saved = folder / "vectors.npy", folder / "index.faiss"
    with meter.step("write vectors"):
        write_vectors(path, world, options.count)
    vectors = open_vectors(path)
    queries = world.draw(options.queries, 2)
    with meter.step("exact search of all queries"):
        cosines, truth = exact_search(queries, vectors, 100)
    for rank in (1, 10, 100):
        meter.note(f"cosine with neighbour {rank}", cosines[:, min(rank, options.count) - 1].mean())
    with meter.step("build"):
        index = VectorIndex.build(vectors, kind="disk", room=folder / "parts")
        index.save(saved)
    report = index.report.to_dict()
    for name in ("lists", "effort", "rerank", "recall"):
        meter.note(f"index: {name}", report[name])
    _sizes(meter, folder)
    del index, vectors
    drop_from_cache(path, saved.with_suffix(".lists"))
    with meter.step("open"):
        index = VectorIndex.open(saved, vectors=open_vectors(path), report=report)
    for name, asked in (("not in the page cache", queries), ("in the page cache", queries)):
        with meter.step(f"search, {name}"):
            rows, times = one_by_one(index, asked)
        meter.note(f"search, {name}: median (ms)", float(np.median(times)))
        meter.note(f"search, {name}: 95 % within (ms)", float(np.percentile(times, 95)))
    hits = [len(np.intersect1d(*pair)) for pair in zip(truth[:, :10], rows, strict=True)]
    meter.note("recall@10 of new queries", sum(hits) / rows.size)
    meter.note("largest memory of any step (GB)", meter.most / 1e9)
    return meter


def _sizes(meter: Meter, folder: Path) -> None:
    sizes: dict[str, Callable[[], Any]] = {
        "vectors": lambda: [folder / "vectors.npy"],
        "index": lambda: [folder / "index.faiss"],
        "lists": lambda: [folder / "index.lists"],
        "parts, until the index is finished": lambda: (folder / "parts").iterdir(),
    }
    for name, files in sizes.items():
        meter.note(f"{name} (GB)", sum(path.stat().st_size for path in files()) / 1e9)


def main() -> int:
    """Measure and print; 1 where memory or recall miss what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000_000)
    parser.add_argument("--dimensions", type=int, default=256)
    parser.add_argument("--memory", type=float, default=4.0, help="GB that the process may take")
    parser.add_argument("--recall", type=float, default=0.9, help="recall@10 that new queries must reach")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="keep everything here; a run that was killed goes on")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    faiss.omp_set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        meter = measure(folder, options)
    if options.json:
        options.json.write_text(json.dumps(meter.figures, indent=2) + "\n")
    recall = meter.figures["recall@10 of new queries"]
    missed = [f"memory: {meter.most / 1e9:.2f} GB, may be {options.memory}"] * (meter.most > options.memory * 1e9)
    missed += [f"recall: {recall:.3f}, must be {options.recall}"] * (recall < options.recall)
    print("; ".join(missed) or "memory and recall are as asked for", file=sys.stderr)
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
