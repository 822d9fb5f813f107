"""Nearest neighbours by inner product: a FAISS index chosen by size, its recall measured, opened memory-mapped."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
from numpy.typing import NDArray

from ovseg.bank import disk
from ovseg.bank.rows import Vectors, blocks, gather, take
from ovseg.errors import ConfigError, DatasetError, ShapeError

Kind = Literal["auto", "flat", "ivf", "ivfpq", "disk", "hnsw"]

KINDS = ("auto", "flat", "ivf", "ivfpq", "disk", "hnsw")
FLAT_LIMIT = 100_000
IVF_LIMIT = 2_000_000
IVFPQ_LIMIT = 5_000_000
_RERANK = 10  # candidates per wanted neighbour that compressed codes bring to the exact re-ranking
_RERANK_MOST = 80  # of an index on disk, whose codes are shorter
_RERANK_BYTES = 1 << 26  # of candidates' vectors that are in memory at once
_WIDTHS = {"ivfpq": 4, "disk": 8}  # dimensions that share a byte of a compressed vector
_TRAIN_PER_LIST = 40
_TRAIN_BYTES = 1 << 30  # of the vectors that an index on disk learns from
_LEAST_GAIN = 0.001  # of recall, for visiting twice as many lists on disk
_QUERIES = 200
_GPU_MOST = 2048  # neighbours that FAISS finds on a GPU


@dataclass(frozen=True)
class IndexReport:
    """What was chosen and what it measured.

    Attributes:
        kind: flat, ivf, ivfpq, disk or hnsw.
        vectors: N.
        dimensions: D.
        lists: inverted lists; 0 without them.
        effort: lists visited per query (ivf, ivfpq, disk) or efSearch (hnsw); 0 for flat.
        recall: share of the true 10 nearest that are found, on a sample of queries.
        megabytes: size of the index.
        rerank: candidates for each wanted neighbour whose exact products are computed (ivfpq, disk).
    """

    kind: str
    vectors: int
    dimensions: int
    lists: int
    effort: int
    recall: float
    megabytes: float
    rerank: int = _RERANK

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a manifest; ``rerank`` where it was chosen."""
        values = asdict(self)
        return values if self.kind == "disk" else {name: values[name] for name in values if name != "rerank"}


def choose_kind(count: int) -> str:
    """The index for ``count`` vectors: exact while that is quick, then lists, then compressed, then on disk too."""
    limits = {"flat": FLAT_LIMIT, "ivf": IVF_LIMIT, "ivfpq": IVFPQ_LIMIT}
    return next((kind for kind, limit in limits.items() if count <= limit), "disk")


def check_kind(kind: str) -> None:
    """Refuse what is no kind of index.

    Raises:
        ConfigError: says which there are.
    """
    if kind not in KINDS:
        raise ConfigError(f"expected an index kind of {', '.join(KINDS)}, got '{kind}'")


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
    def build(
        cls, vectors: Vectors, *, kind: Kind = "auto", recall: float = 0.95, room: str | Path | None = None
    ) -> VectorIndex:
        """An index over (N, D) float32 ``vectors`` whose recall@10 reaches ``recall``, if it can.

        Training uses a sample, rows are added in blocks: a memory-mapped array is never loaded whole.

        Args:
            vectors: what is searched.
            kind: one of ``KINDS``; "auto" chooses by size.
            recall: what is aimed at.
            room: folder in which an index on disk is made; a build that was killed goes on with what lies there.

        Raises:
            ConfigError: unknown ``kind``, or an index on disk without ``room``.
            ShapeError: ``vectors`` is not (N, D) float32.
            OutputError: the disk is full.
        """
        check_kind(kind)
        if vectors.ndim != 2 or vectors.dtype != np.float32:
            raise ShapeError(f"vectors must be (N, D) float32, got {vectors.shape} {vectors.dtype}")
        count, dimensions = vectors.shape
        chosen = choose_kind(count) if kind == "auto" else kind
        chosen = chosen if count >= _TRAIN_PER_LIST * 4 else "flat"  # too few to train anything
        lists = _list_count(count, chosen)
        if chosen != "disk":
            index = _in_memory(vectors, chosen, lists)
        elif room is None:
            raise ConfigError(f"an index of {count} vectors is made on disk; say in which folder, by room=")
        else:
            index = _on_disk(vectors, lists, Path(room))
        built = cls(index, vectors, IndexReport(chosen, count, dimensions, lists, _first_effort(chosen), 1.0, 0.0))
        built._tune(recall)
        return built

    def save(self, path: str | Path) -> None:
        """Write the index file, whole or not at all; the vectors are a file of their own, as are lists on disk.

        Raises:
            OutputError: the folder cannot be written to, or the disk is full.
        """
        write = disk.save_lists if self.report.kind == "disk" else disk.write_index
        write(self.index, path)

    @classmethod
    def open(cls, path: str | Path, *, vectors: Vectors, report: dict[str, Any]) -> VectorIndex:
        """The saved index, memory-mapped: opening does not read it.

        Raises:
            DatasetError: the file is missing, damaged, or does not fit ``vectors``.
        """
        try:
            if report["kind"] == "disk":
                index = disk.open_lists(path)
            else:
                index = faiss.read_index(str(path), getattr(faiss, "IO_FLAG_MMAP_IFC", faiss.IO_FLAG_MMAP))
        except RuntimeError as error:
            raise DatasetError(
                f"index '{path}' is missing or damaged; build the bank again, its vectors are kept"
            ) from error
        if index.ntotal != len(vectors):
            raise DatasetError(
                f"index '{path}' must hold {len(vectors)} vectors, got {index.ntotal}; build the bank again"
            )
        if index.d != vectors.shape[1]:
            raise DatasetError(
                f"index '{path}' must be of {vectors.shape[1]} dimensions, got {index.d}: it belongs to vectors of "
                "another encoder; build the bank again"
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
        # Compressed codes lose the order of near neighbours; exact products of many times as many restore it.
        if self.report.kind not in _WIDTHS:
            return self._nearest(queries, k)
        _, candidates = self._nearest(queries, min(self.report.rerank * k, len(self)))
        return rerank(queries, candidates, self.vectors, k)

    @cached_property
    def _on_gpu(self) -> Any | None:
        """A copy of the index on all GPUs, made by the first search; None without a GPU that takes it."""
        if getattr(faiss, "get_num_gpus", lambda: 0)() == 0 or self.report.kind in {"hnsw", "disk"}:
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
        return self._recall(*self._questions(k))

    def _questions(self, k: int) -> tuple[Vectors, NDArray[np.int64]]:
        """Queries and their true k nearest; none for an exact index."""
        if self.report.kind == "flat":
            return np.zeros((0, self.report.dimensions), np.float32), np.zeros((0, k), np.int64)
        queries = _query_sample(self.vectors)
        return queries, exact_search(queries, self.vectors, k)[1]

    def _recall(self, queries: Vectors, truth: NDArray[np.int64]) -> float:
        if len(queries) == 0:
            return 1.0
        found = self.search(queries, truth.shape[1])[1]
        hits = sum(len(np.intersect1d(a, b)) for a, b in zip(truth, found, strict=True))
        return hits / truth.size

    def _tune(self, target: float) -> None:
        """Double the effort until the recall reaches ``target`` or everything is visited.

        On disk it is also left when it gains next to nothing, as what the codes have lost is not found by visiting
        more lists; then as few candidates are taken as reach the target.
        """
        questions, on_disk = self._questions(10), self.report.kind == "disk"
        if on_disk:
            self.report = replace(self.report, rerank=_RERANK_MOST)
        effort, recall = self.report.effort, self._recall(*questions)
        limit = self.report.lists if self.report.lists else 4096
        gain = 1.0
        while recall < target and effort < limit and self.report.kind != "flat" and gain >= _LEAST_GAIN * on_disk:
            effort = min(2 * effort, limit)
            _set_effort(self.index, self.report.kind, effort)
            self.__dict__.pop("_on_gpu", None)  # the copy keeps the effort that it was made with
            before, recall = recall, self._recall(*questions)
            gain = recall - before
        if on_disk:
            recall = self._fewest_candidates(questions, min(target, recall))
        small = len(self) <= FLAT_LIMIT and not on_disk
        size = len(faiss.serialize_index(self.index)) if small else _estimate(self.report)
        self.report = replace(self.report, effort=effort, recall=recall, megabytes=size / 1e6)

    def _fewest_candidates(self, questions: tuple[Vectors, NDArray[np.int64]], target: float) -> float:
        """Set the smallest ``rerank`` that reaches ``target``, which the most of them do; the recall comes back."""
        rerank, recall = _RERANK, 0.0
        while recall < target:
            self.report = replace(self.report, rerank=rerank)
            rerank, recall = 2 * rerank, self._recall(*questions)
        return recall


def exact_search(queries: Vectors, vectors: Vectors, k: int) -> tuple[Vectors, NDArray[np.int64]]:
    """Exact nearest rows by inner product, over blocks of a possibly memory-mapped array."""
    k = min(k, len(vectors))
    best = np.full((len(queries), k), -np.inf, np.float32)
    rows = np.full((len(queries), k), -1, np.int64)
    start = 0
    for block in blocks(vectors):
        products, found = faiss.knn(queries, np.ascontiguousarray(block), k, metric=faiss.METRIC_INNER_PRODUCT)
        merged = np.concatenate([best, products], axis=1)
        owner = np.concatenate([rows, np.where(found >= 0, found + start, -1)], axis=1)
        order = np.argsort(-merged, axis=1, kind="stable")[:, :k]
        best, rows = np.take_along_axis(merged, order, 1), np.take_along_axis(owner, order, 1)
        start += len(block)
    return best, rows


def rerank(
    queries: Vectors, candidates: NDArray[np.int64], vectors: Vectors, k: int
) -> tuple[Vectors, NDArray[np.int64]]:
    """The k best of each query's candidates by exact product.

    Args:
        queries: (n, D) float32.
        candidates: (n, c) int64 rows of ``vectors``; −1 for none.
        vectors: (N, D) float32, in memory or memory-mapped; no more than the candidates are read.
        k: how many; at most c come back.

    Returns:
        (n, k) float32 products, descending, and (n, k) int64 rows; −∞ and −1 where there are fewer.
    """
    products = np.empty(candidates.shape, np.float32)
    step = max(1, _RERANK_BYTES // max(4 * candidates.shape[1] * vectors.shape[1], 1))
    for start in range(0, len(queries), step):
        some = slice(start, start + step)
        near = gather(vectors, np.maximum(candidates[some], 0).ravel())
        near = near.reshape(*candidates[some].shape, vectors.shape[1])
        products[some] = np.einsum("nd,ncd->nc", queries[some], near)
    products = np.where(candidates >= 0, products, -np.inf).astype(np.float32)
    order = np.argsort(-products, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(products, order, 1), np.take_along_axis(candidates, order, 1)


def _in_memory(vectors: Vectors, kind: str, lists: int) -> Any:
    """An index of all vectors that is built in memory."""
    index = _make(kind, vectors.shape[1], lists)
    # Centres are learned from a sample: more rows would not move them, and all rows may not fit into memory.
    if not index.is_trained:
        index = _trained(index, _sample(vectors, max(_TRAIN_PER_LIST * lists, 20_000)))
    for block in blocks(vectors):
        index.add(np.ascontiguousarray(block))
    return index


def _on_disk(vectors: Vectors, lists: int, room: Path) -> Any:
    """An index of all vectors whose lists lie in ``room``."""
    count, dimensions = vectors.shape
    wanted = min(count, max(_TRAIN_PER_LIST * lists, 20_000), _TRAIN_BYTES // (4 * dimensions))
    rows = np.random.default_rng(0).choice(count, wanted, replace=False, shuffle=False)
    sample = take(vectors, np.sort(rows))

    def train() -> Any:
        return _trained(_make("disk", dimensions, lists), sample)

    settings = f"{lists} lists, {_codes(dimensions, 'disk')} codes"
    return disk.build_lists(vectors, sample, train, settings=settings, room=room)


def _make(kind: str, dimensions: int, lists: int) -> Any:
    inner = faiss.METRIC_INNER_PRODUCT
    if kind in _WIDTHS:
        codes, width = _codes(dimensions, kind), _WIDTHS[kind]
        padding = (
            "" if codes * width == dimensions else f"Pad{codes * width},"
        )  # with zeros, which no product notices
        return faiss.index_factory(dimensions, f"{padding}IVF{lists},PQ{codes}x8", inner)
    makers: dict[str, Callable[[], Any]] = {
        "flat": lambda: faiss.IndexFlatIP(dimensions),
        "ivf": lambda: faiss.index_factory(dimensions, f"IVF{lists},Flat", inner),
        "hnsw": lambda: faiss.index_factory(dimensions, "HNSW32", inner),
    }
    return makers[kind]()


def _codes(dimensions: int, kind: str) -> int:
    """Bytes per vector of a product quantizer."""
    return -(-dimensions // _WIDTHS[kind])


def _trained(index: Any, sample: Vectors) -> Any:
    if len(sample) < 256:  # a product quantizer with 8 bits wants this many
        sample = np.tile(sample, (math.ceil(256 / len(sample)), 1))
    lists: Any = faiss.downcast_index(faiss.extract_index_ivf(index))
    lists.cp.min_points_per_centroid, lists.cp.niter = 1, 10
    if hasattr(lists, "pq"):
        lists.pq.cp.min_points_per_centroid, lists.pq.cp.niter = 1, 10
        lists.do_polysemous_training = False  # a slow ordering of the codes that only polysemous search uses
    index.train(sample)
    return index


def _set_effort(index: Any, kind: str, effort: int) -> None:
    if kind in {"ivf", "ivfpq", "disk"}:
        faiss.ParameterSpace().set_index_parameter(index, "nprobe", effort)
    elif kind == "hnsw":
        index.hnsw.efSearch = effort


def _first_effort(kind: str) -> int:
    return {"flat": 0, "hnsw": 32}.get(kind, 4)


def _list_count(count: int, kind: str) -> int:
    """About 4·√N lists, on disk half as many, as each is a read; but never fewer than 40 vectors for each."""
    factor = {"ivf": 4, "ivfpq": 4, "disk": 2}.get(kind)
    return max(1, min(int(factor * math.sqrt(count)), count // _TRAIN_PER_LIST)) if factor else 0


def _estimate(report: IndexReport) -> float:
    """Bytes of the index, by kind."""
    compressed = report.kind in _WIDTHS
    each = _codes(report.dimensions, report.kind) if compressed else 4 * report.dimensions
    graph = 2 * 32 * 4 if report.kind == "hnsw" else 0
    return report.vectors * (each + 8 + graph) + report.lists * report.dimensions * 4


def _sample(vectors: Vectors, count: int) -> Vectors:
    rows = np.random.default_rng(0).permutation(len(vectors))[:count]
    return take(vectors, np.sort(rows))


def _query_sample(vectors: Vectors) -> Vectors:
    rows = _sample(vectors, _QUERIES)
    noise = np.random.default_rng(1).standard_normal(rows.shape).astype(np.float32)
    moved = rows + 0.3 * noise / np.sqrt(max(rows.shape[1], 1))
    unit: Vectors = (moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-9)).astype(np.float32)
    return unit
