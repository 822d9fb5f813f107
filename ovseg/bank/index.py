"""Nearest neighbours by inner product: a FAISS index chosen by size, its recall measured, opened memory-mapped."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
from numpy.typing import NDArray

from ovseg.errors import ConfigError, DatasetError, OutputError, ShapeError
from ovseg.files import atomic_path

Vectors = NDArray[np.float32]
Kind = Literal["auto", "flat", "ivf", "ivfpq", "hnsw"]

KINDS = ("auto", "flat", "ivf", "ivfpq", "hnsw")
FLAT_LIMIT = 100_000
IVF_LIMIT = 2_000_000
_RERANK = 10  # candidates per wanted neighbour that compressed codes bring to the exact re-ranking
_TRAIN_PER_LIST = 40
_QUERIES = 200
_BLOCK = 65_536  # rows of a memory-mapped file that are read at once
_GPU_MOST = 2048  # neighbours that FAISS finds on a GPU


@dataclass(frozen=True)
class IndexReport:
    """What was chosen and what it measured.

    Attributes:
        kind: flat, ivf, ivfpq or hnsw.
        vectors: N.
        dimensions: D.
        lists: inverted lists; 0 without them.
        effort: lists visited per query (ivf, ivfpq) or efSearch (hnsw); 0 for flat.
        recall: share of the true 10 nearest that are found, on a sample of queries.
        megabytes: size of the index.
    """

    kind: str
    vectors: int
    dimensions: int
    lists: int
    effort: int
    recall: float
    megabytes: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        return asdict(self)


def choose_kind(count: int) -> str:
    """The index for ``count`` vectors: exact while that is quick, then lists, then compressed lists."""
    if count <= FLAT_LIMIT:
        return "flat"
    return "ivf" if count <= IVF_LIMIT else "ivfpq"


class VectorIndex:
    """A FAISS index over the rows of a vector file.

    Args:
        index: the FAISS index (inner product).
        vectors: (N, D) float32 rows, in memory or memory-mapped; unit length makes products cosines.
        report: what it is.
    """

    def __init__(self, index: Any, vectors: Vectors, report: IndexReport) -> None:
        self.index = index
        self.vectors = vectors
        self.report = report
        _set_effort(index, report.kind, report.effort)

    def __len__(self) -> int:
        return len(self.vectors)

    @classmethod
    def build(cls, vectors: Vectors, *, kind: Kind = "auto", recall: float = 0.95) -> VectorIndex:
        """An index over (N, D) float32 ``vectors`` whose recall@10 reaches ``recall``, if it can.

        Training uses a sample, rows are added in blocks: a memory-mapped array is never loaded whole.

        Raises:
            ConfigError: unknown ``kind``.
            ShapeError: ``vectors`` is not (N, D) float32.
        """
        if kind not in KINDS:
            raise ConfigError(f"expected an index kind of {', '.join(KINDS)}, got '{kind}'")
        if vectors.ndim != 2 or vectors.dtype != np.float32:
            raise ShapeError(f"vectors must be (N, D) float32, got {vectors.shape} {vectors.dtype}")
        count, dimensions = vectors.shape
        chosen = choose_kind(count) if kind == "auto" else kind
        chosen = chosen if count >= _TRAIN_PER_LIST * 4 else "flat"  # too few to train anything
        lists = _list_count(count) if chosen.startswith("ivf") else 0
        index = _make(chosen, dimensions, lists)
        # Centres are learned from a sample: more rows would not move them, and all rows may not fit into memory.
        if not index.is_trained:
            index = _trained(index, _sample(vectors, max(_TRAIN_PER_LIST * lists, 20_000)))
        for block in _blocks(vectors):
            index.add(np.ascontiguousarray(block))
        built = cls(index, vectors, IndexReport(chosen, count, dimensions, lists, _first_effort(chosen), 1.0, 0.0))
        built._tune(recall)
        return built

    def save(self, path: str | Path) -> None:
        """Write the index file, whole or not at all; the vectors are a file of their own.

        Raises:
            OutputError: the folder cannot be written to, or the disk is full.
        """
        with atomic_path(path) as temporary:
            try:
                faiss.write_index(self.index, str(temporary))
            except RuntimeError as error:
                reason = str(error).splitlines()[-1]
                raise OutputError(f"cannot write '{path}': {reason}; is the disk full?") from error

    @classmethod
    def open(cls, path: str | Path, *, vectors: Vectors, report: dict[str, Any]) -> VectorIndex:
        """The saved index, memory-mapped: opening does not read it.

        Raises:
            DatasetError: the file is missing, damaged, or does not fit ``vectors``.
        """
        try:
            index = faiss.read_index(str(path), getattr(faiss, "IO_FLAG_MMAP_IFC", faiss.IO_FLAG_MMAP))
        except RuntimeError as error:
            raise DatasetError(
                f"index '{path}' is missing or damaged; build the bank again, its vectors are kept"
            ) from error
        if index.ntotal != len(vectors):
            raise DatasetError(
                f"index '{path}' must hold {len(vectors)} vectors, got {index.ntotal}; build the bank again"
            )
        return cls(index, vectors, IndexReport(**report))

    def search(self, queries: Vectors, k: int) -> tuple[Vectors, NDArray[np.int64]]:
        """The nearest rows of each query by inner product, the best first; on a GPU where FAISS has one.

        Args:
            queries: (n, D) float32.
            k: how many; at most N come back.

        Returns:
            (n, min(k, N)) float32 exact products and (n, min(k, N)) int64 rows; −1 where a list index found
            fewer.
        """
        if queries.ndim != 2 or queries.shape[1] != self.report.dimensions:
            raise ShapeError(f"queries must be (n, {self.report.dimensions}), got {queries.shape}")
        k = min(k, len(self))
        if k < 1:
            return np.zeros((len(queries), 0), np.float32), np.zeros((len(queries), 0), np.int64)
        queries = np.ascontiguousarray(queries, np.float32)
        # Compressed codes lose the order of near neighbours; exact products of ten times as many restore it.
        if self.report.kind != "ivfpq":
            return self._nearest(queries, k)
        _, candidates = self._nearest(queries, min(_RERANK * k, len(self)))
        reranked: tuple[Vectors, NDArray[np.int64]] = _rerank(queries, candidates, self.vectors, k)
        return reranked

    @cached_property
    def _on_gpu(self) -> Any | None:
        """A copy of the index on all GPUs, made by the first search; None without a GPU that takes it."""
        if getattr(faiss, "get_num_gpus", lambda: 0)() == 0 or self.report.kind == "hnsw":
            return None
        try:
            return faiss.index_cpu_to_all_gpus(self.index)
        except RuntimeError:  # too large for its memory, or codes of a length that it does not have
            return None

    def _nearest(self, queries: Vectors, k: int) -> tuple[Vectors, NDArray[np.int64]]:
        gpu = self._on_gpu if k <= _GPU_MOST else None
        found: tuple[Vectors, NDArray[np.int64]] = (self.index if gpu is None else gpu).search(queries, k)
        return found

    def measure(self, k: int = 10) -> float:
        """Recall@k against exact search, on a sample of rows moved a little so that none finds itself."""
        queries = _query_sample(self.vectors)
        if len(queries) == 0 or self.report.kind == "flat":
            return 1.0
        truth = exact_search(queries, self.vectors, k)[1]
        found = self.search(queries, k)[1]
        hits = sum(len(np.intersect1d(a, b)) for a, b in zip(truth, found, strict=True))
        return hits / truth.size

    def _tune(self, target: float) -> None:
        """Double the effort until the recall reaches ``target`` or everything is visited."""
        effort, recall = self.report.effort, self.measure()
        limit = self.report.lists if self.report.lists else 4096
        while recall < target and effort < limit and self.report.kind != "flat":
            effort = min(2 * effort, limit)
            _set_effort(self.index, self.report.kind, effort)
            self.__dict__.pop("_on_gpu", None)  # the copy keeps the effort that it was made with
            recall = self.measure()
        size = len(faiss.serialize_index(self.index)) if len(self) <= FLAT_LIMIT else _estimate(self.report)
        values = self.report.to_dict() | {"effort": effort, "recall": recall, "megabytes": size / 1e6}
        self.report = IndexReport(**values)


def exact_search(queries: Vectors, vectors: Vectors, k: int) -> tuple[Vectors, NDArray[np.int64]]:
    """Exact nearest rows by inner product, over blocks of a possibly memory-mapped array."""
    k = min(k, len(vectors))
    best = np.full((len(queries), k), -np.inf, np.float32)
    rows = np.full((len(queries), k), -1, np.int64)
    start = 0
    for block in _blocks(vectors):
        products, found = faiss.knn(queries, np.ascontiguousarray(block), k, metric=faiss.METRIC_INNER_PRODUCT)
        merged = np.concatenate([best, products], axis=1)
        owner = np.concatenate([rows, np.where(found >= 0, found + start, -1)], axis=1)
        order = np.argsort(-merged, axis=1, kind="stable")[:, :k]
        best, rows = np.take_along_axis(merged, order, 1), np.take_along_axis(owner, order, 1)
        start += len(block)
    return best, rows


def _rerank(queries: Vectors, candidates: NDArray[np.int64], vectors: Vectors, k: int) -> Any:
    """Exact products of the candidates, the k best of each query."""
    products = np.einsum("nd,ncd->nc", queries, vectors[np.maximum(candidates, 0)])
    products = np.where(candidates >= 0, products, -np.inf).astype(np.float32)
    order = np.argsort(-products, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(products, order, 1), np.take_along_axis(candidates, order, 1)


def _make(kind: str, dimensions: int, lists: int) -> Any:
    inner = faiss.METRIC_INNER_PRODUCT
    makers: dict[str, Callable[[], Any]] = {
        "flat": lambda: faiss.IndexFlatIP(dimensions),
        "ivf": lambda: faiss.index_factory(dimensions, f"IVF{lists},Flat", inner),
        "ivfpq": lambda: faiss.index_factory(dimensions, f"IVF{lists},PQ{_codes(dimensions)}x8", inner),
        "hnsw": lambda: faiss.index_factory(dimensions, "HNSW32", inner),
    }
    return makers[kind]()


def _codes(dimensions: int) -> int:
    """Bytes per vector of a product quantizer: the largest divisor of D of at most D/4."""
    return next(codes for codes in range(max(1, dimensions // 4), 0, -1) if dimensions % codes == 0)


def _trained(index: Any, sample: Vectors) -> Any:
    if len(sample) < 256:  # a product quantizer with 8 bits wants this many
        sample = np.tile(sample, (math.ceil(256 / len(sample)), 1))
    index.cp.min_points_per_centroid, index.cp.niter = 1, 10
    if hasattr(index, "pq"):
        index.pq.cp.min_points_per_centroid, index.pq.cp.niter = 1, 10
        index.do_polysemous_training = False  # a slow ordering of the codes that only polysemous search uses
    index.train(sample)
    return index


def _set_effort(index: Any, kind: str, effort: int) -> None:
    if kind in {"ivf", "ivfpq"}:
        faiss.ParameterSpace().set_index_parameter(index, "nprobe", effort)
    elif kind == "hnsw":
        index.hnsw.efSearch = effort


def _first_effort(kind: str) -> int:
    return {"flat": 0, "hnsw": 32}.get(kind, 4)


def _list_count(count: int) -> int:
    """About 4·√N lists, but never fewer than 40 vectors for each."""
    return max(1, min(int(4 * math.sqrt(count)), count // _TRAIN_PER_LIST))


def _estimate(report: IndexReport) -> float:
    """Bytes of the index, by kind."""
    each = _codes(report.dimensions) if report.kind == "ivfpq" else 4 * report.dimensions
    graph = 2 * 32 * 4 if report.kind == "hnsw" else 0
    return report.vectors * (each + 8 + graph) + report.lists * report.dimensions * 4


def _sample(vectors: Vectors, count: int) -> Vectors:
    rows = np.random.default_rng(0).permutation(len(vectors))[:count]
    return np.ascontiguousarray(vectors[np.sort(rows)])


def _query_sample(vectors: Vectors) -> Vectors:
    rows = _sample(vectors, _QUERIES)
    noise = np.random.default_rng(1).standard_normal(rows.shape).astype(np.float32)
    moved = rows + 0.3 * noise / np.sqrt(max(rows.shape[1], 1))
    unit: Vectors = (moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-9)).astype(np.float32)
    return unit


def _blocks(vectors: Vectors) -> Iterator[Vectors]:
    for start in range(0, len(vectors), _BLOCK):
        yield vectors[start : start + _BLOCK]
