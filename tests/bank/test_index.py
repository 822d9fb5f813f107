from pathlib import Path

import faiss
import numpy as np
import pytest

from ovseg.bank.index import VectorIndex, choose_kind, exact_search
from ovseg.errors import ConfigError, DatasetError, ShapeError


def unit_vectors(count: int, dimensions: int = 16, *, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((50, dimensions))
    rows = centres[rng.integers(0, 50, count)] + 0.6 * rng.standard_normal((count, dimensions))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_exact_search_equals_sorting_all_products() -> None:
    vectors, queries = unit_vectors(300), unit_vectors(7, seed=1)
    products, rows = exact_search(queries, vectors, 5)
    order = np.argsort(-(queries @ vectors.T), axis=1)[:, :5]
    assert (rows == order).all()
    np.testing.assert_allclose(products, np.take_along_axis(queries @ vectors.T, order, 1), rtol=1e-5)


def test_exact_search_numbers_the_rows_of_later_blocks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ovseg.bank.rows.BLOCK", 7)
    vectors, queries = unit_vectors(45), unit_vectors(6, seed=1)
    _, rows = exact_search(queries, vectors, 9)
    assert (rows == np.argsort(-(queries @ vectors.T), axis=1)[:, :9]).all()
    assert rows.max() > 40


@pytest.mark.parametrize("kind", ["flat", "ivf", "ivfpq", "disk", "hnsw"])
def test_every_kind_reaches_the_recall_it_reports(kind: str, tmp_path: Path) -> None:
    vectors = unit_vectors(4000)
    index = VectorIndex.build(vectors, kind=kind, recall=0.9, room=tmp_path / "parts")
    assert index.report.kind == kind
    assert index.report.recall >= 0.9
    queries = unit_vectors(50, seed=2)
    truth = exact_search(queries, vectors, 10)[1]
    index.save(tmp_path / "index.faiss")
    opened = VectorIndex.open(tmp_path / "index.faiss", vectors=vectors, report=index.report.to_dict())
    products, rows = opened.search(queries, 10)
    hits = [len(set(a) & set(b)) for a, b in zip(truth.tolist(), rows.tolist(), strict=True)]
    assert np.mean(hits) >= 8
    assert (np.diff(products, axis=1) <= 1e-6).all()
    np.testing.assert_allclose(products[0, 0], queries[0] @ vectors[rows[0, 0]], rtol=1e-4)


def test_compressed_vectors_have_a_byte_for_four_dimensions_whatever_their_number() -> None:
    vectors = unit_vectors(1000, 26)
    index = VectorIndex.build(vectors, kind="ivfpq", recall=0.9)
    assert faiss.extract_index_ivf(index.index).code_size == 7  # not 2, the largest divisor
    assert index.report.recall >= 0.9


def test_k_larger_than_the_index_gives_everything() -> None:
    index = VectorIndex.build(unit_vectors(7))
    products, rows = index.search(unit_vectors(2, seed=1), 50)
    assert products.shape == rows.shape == (2, 7)
    assert sorted(rows[0]) == list(range(7))


def test_an_empty_index_finds_nothing() -> None:
    index = VectorIndex.build(np.zeros((0, 16), np.float32))
    assert index.search(unit_vectors(2), 5)[1].shape == (2, 0)


def test_the_kind_follows_the_size() -> None:
    sizes = [0, 100_000, 100_001, 3_000_000, 5_000_001]
    assert [choose_kind(n) for n in sizes] == ["flat", "flat", "ivf", "ivfpq", "disk"]


def test_bad_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="got 'tree'"):
        VectorIndex.build(unit_vectors(3), kind="tree")  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="float32"):
        VectorIndex.build(np.zeros((3, 2)))  # type: ignore[arg-type]
    index = VectorIndex.build(unit_vectors(9))
    with pytest.raises(ShapeError, match=r"\(n, 16\)"):
        index.search(np.zeros((1, 5), np.float32), 1)
    index.save(tmp_path / "i.faiss")
    with pytest.raises(DatasetError, match="must hold 8 vectors, got 9"):
        VectorIndex.open(tmp_path / "i.faiss", vectors=unit_vectors(8), report=index.report.to_dict())


class FakeGpu:
    """Counts the searches that it answers in place of a GPU, and holds no more neighbours than one."""

    def __init__(self, index: object) -> None:
        self.index, self.searches = index, 0

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        assert k <= 2048
        self.searches += 1
        return self.index.search(queries, k)  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize("kind", ["flat", "ivf", "ivfpq"])
def test_a_gpu_answers_where_there_is_one(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, queries = unit_vectors(3000), unit_vectors(5, seed=1)
    index = VectorIndex.build(vectors, kind=kind)  # type: ignore[arg-type]
    products, rows = index.search(queries, 10)
    made: list[FakeGpu] = []
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", lambda index: made.append(FakeGpu(index)) or made[-1])
    moved = VectorIndex(index.index, vectors, index.report)
    assert not made  # opening a bank copies nothing
    found = [moved.search(queries, 10) for _ in range(2)]
    assert [gpu.searches for gpu in made] == [2]
    assert all((each[1] == rows).all() and (each[0] == products).all() for each in found)
    assert moved.search(queries, 2500)[1].shape == (5, 2500)  # more than a GPU finds


def test_a_gpu_that_refuses_an_index_leaves_it_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(index: object) -> object:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", refuse)
    assert VectorIndex.build(unit_vectors(9)).search(unit_vectors(2, seed=1), 3)[1].shape == (2, 3)
