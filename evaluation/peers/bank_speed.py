"""What banks cost beside their parts: ratios measured in one run, interleaved, medians.

    .venv/bin/python evaluation/peers/bank_speed.py photos/ [--images 40] [--vectors 1000000]

Reported: building a bank against the bare encoder (its forward passes alone, pixels already prepared), and against
decoding, preparing and encoding one after the other; a search through the bank against FAISS itself; an index
over synthetic vectors: seconds to build, save, open memory-mapped and search, and its recall@10; co-segmentation
of 50 images of 32 × 32 cells in float32 and bfloat16. Nothing here is asserted; machines differ.

The synthetic vectors are unit vectors of 384 dimensions around 20,000 centres, as images of a crawl lie around
what they show: centre plus Gaussian noise of 0.7 times its length. Queries are drawn the same way and are not in
the index.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from timing import Job, seconds

import ovseg
from ovseg.bank import BankOptions, ImageBank
from ovseg.bank.index import VectorIndex, exact_search
from ovseg.concepts.cosegment import cosegment
from ovseg.images.find import find_images
from ovseg.images.load import load_image
from ovseg.images.resize import prepare
from ovseg.pipeline.encode import plan_input
from ovseg.pipeline.segmenter import Segmenter

CENTRES, DIMENSIONS = 20_000, 384
PARTS = ["building", "searching", "cosegmenting", "indexing"]


@torch.inference_mode()
def building(paths: list[Path], segmenter: Segmenter, rounds: int) -> dict[str, float]:
    """Images per second of a build, of the bare encoder, and of the two steps in a row."""
    spec, model = segmenter.model.image.spec, segmenter.model

    def prepared(path: Path) -> torch.Tensor:
        pixels = load_image(path)
        size, _ = plan_input(pixels.shape[:2], segmenter.config.input, multiple=spec.granularity)
        return prepare(pixels, spec, size=size)[0]

    ready = [prepared(path) for path in paths]
    speeds: dict[str, list[float]] = {}

    def measure(name: str, job: Job) -> None:
        speeds.setdefault(name, []).append(len(paths) / seconds(job))

    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "images.txt"
        listed.write_text("\n".join(str(path.resolve()) for path in paths))
        for turn in range(rounds):
            measure("bare encoder", lambda: [model.head.pixels(model.image.dense(each)) for each in ready])
            for regions in (0, 8):
                out, options = Path(folder) / f"{turn}-{regions}", BankOptions(regions=regions)
                measure(
                    f"bank, {regions} regions",
                    lambda out=out, options=options: ImageBank.build(  # type: ignore[misc]
                        listed, out=out, segmenter=segmenter, options=options
                    ),
                )
            measure("decode, prepare, encode", lambda: [segmenter.encode(path) for path in paths])
    middle = {f"{name} (images/s)": statistics.median(values) for name, values in speeds.items()}
    for name in list(speeds)[1:]:
        ratios = [one / bare for one, bare in zip(speeds[name], speeds["bare encoder"], strict=True)]
        middle[f"{name} / bare encoder"] = statistics.median(ratios)
    return middle


def clustered(count: int, seed: int) -> NDArray[np.float32]:
    """(count, 384) unit vectors around the centres."""
    centres = np.random.default_rng(0).standard_normal((CENTRES, DIMENSIONS), dtype=np.float32)
    rng = np.random.default_rng(seed)
    rows = np.empty((count, DIMENSIONS), np.float32)
    for start in range(0, count, 65_536):
        block = rows[start : start + 65_536]
        block[:] = centres[rng.integers(0, CENTRES, len(block))]
        block += 0.7 * rng.standard_normal(block.shape, dtype=np.float32)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return rows


def searching(rounds: int) -> dict[str, float]:
    """A search through ``VectorIndex`` against the FAISS index that it holds, one query at a time and many."""
    vectors, queries = clustered(100_000, 1), clustered(64, 2)
    index = VectorIndex.build(vectors, kind="flat")
    figures = {}
    for name, asked in (("1 query", queries[:1]), ("64 queries", queries)):
        pairs = [
            (seconds(lambda: index.search(asked, 50)), seconds(lambda: index.index.search(asked, 50)))  # noqa: B023
            for _ in range(rounds)
        ]
        figures[f"search / FAISS, {name}"] = statistics.median(ours / theirs for ours, theirs in pairs)
    return figures


def indexing(count: int) -> dict[str, float]:
    """Build, save, open and search an index over many vectors that lie in a file."""
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "v.npy", clustered(count, 1))
        vectors = np.load(Path(folder) / "v.npy", mmap_mode="r")
        start = time.perf_counter()
        index = VectorIndex.build(vectors, room=Path(folder) / "parts")
        figures["build (s)"] = time.perf_counter() - start
        path, report = Path(folder) / "v.faiss", index.report
        figures["save (s)"] = seconds(lambda: index.save(path))
        figures["index (MB)"], figures["lists visited"] = path.stat().st_size / 1e6, report.effort
        start = time.perf_counter()
        index = VectorIndex.open(path, vectors=vectors, report=report.to_dict())
        figures["open (s)"] = time.perf_counter() - start
        queries = clustered(200, 2)
        truth = exact_search(queries, vectors, 10)[1]
        figures["first search (s)"] = seconds(lambda: index.search(queries[:1], 10))
        start = time.perf_counter()
        rows = np.concatenate([index.search(query[None], 10)[1] for query in queries])
        figures["search (ms)"] = 1000 * (time.perf_counter() - start) / len(queries)
        hits = [len(np.intersect1d(*pair)) for pair in zip(truth, rows, strict=True)]
        figures["recall@10, new queries"] = float(np.mean(hits)) / 10
        figures["recall@10, reported"] = report.recall
    return {f"{count} vectors, {report.kind}: {name}": value for name, value in figures.items()}


@torch.inference_mode()
def cosegmenting(rounds: int) -> dict[str, float]:
    """Seconds for 50 images of 32 × 32 cells with 512 channels, by type of the products."""
    maps = torch.nn.functional.normalize(torch.randn(50, 512, 32, 32), dim=1)
    exact = cosegment(maps)
    figures = {}
    for dtype in (torch.float32, torch.bfloat16, torch.int8):
        name = str(dtype).removeprefix("torch.")
        figures[f"co-segmentation, {name} (s)"] = statistics.median(
            seconds(lambda dtype=dtype: cosegment(maps, dtype=dtype)) for _ in range(rounds)
        )
        quick = cosegment(maps, dtype=dtype)
        figures[f"{name}: largest error of a support"] = float((exact.support - quick.support).abs().max())
        figures[f"{name}: seeds moved"] = float((exact.seeds != quick.seeds).any(1).float().mean())
    return figures


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", help="folder, image or glob")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    figures: dict[str, float] = {}
    segmenter = ovseg.load("mini")
    jobs: dict[str, Callable[[], dict[str, float]]] = {
        "building": lambda: building(find_images(options.photos)[: options.images], segmenter, options.rounds),
        "searching": lambda: searching(5 * options.rounds),
        "cosegmenting": lambda: cosegmenting(options.rounds),
        "indexing": lambda: indexing(options.vectors),
    }
    for part in options.parts:
        found = jobs[part]()
        for name, value in found.items():
            print(f"{name:60s} {value:12.4g}", flush=True)
        figures |= found
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
