"""Indices whose lists lie on disk: what they find, how they are made in parts, and what happens to damaged ones."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from helpers.toy import make_segmenter

from ovseg.bank import BankOptions, ImageBank, disk, rows
from ovseg.bank import index as index_module
from ovseg.bank.index import VectorIndex, exact_search, rerank
from ovseg.errors import ConfigError, DatasetError, OutputError

TESTS = Path(__file__).parents[1]
PROGRAM = """
import sys, time
import numpy as np
from ovseg.bank import disk, rows
from ovseg.bank.index import VectorIndex
vectors, room = sys.argv[1:]
disk.PART, rows.BLOCK = 500, 200
make = disk._part
disk._part = lambda *arguments: (time.sleep(0.3), make(*arguments))[1]
VectorIndex.build(np.load(vectors, mmap_mode="r"), kind="disk", room=room)
"""


def unit_vectors(count: int, dimensions: int = 16, *, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((50, dimensions))
    drawn = centres[rng.integers(0, 50, count)] + 0.6 * rng.standard_normal((count, dimensions))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "PART", 500)
    monkeypatch.setattr(rows, "BLOCK", 200)
    monkeypatch.setattr(rows, "SCATTERED", 90)


@pytest.fixture
def few_vectors_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists also for the 24 images of the toy bank."""
    monkeypatch.setattr("ovseg.bank.index._TRAIN_PER_LIST", 2)


def built(vectors: np.ndarray, room: Path, **options: Any) -> VectorIndex:
    return VectorIndex.build(vectors, kind="disk", room=room, **options)


def saved(vectors: np.ndarray, folder: Path) -> dict[str, Any]:
    index = built(vectors, folder / "parts")
    index.save(folder / "i.faiss")
    return index.report.to_dict()


def parts(room: Path) -> dict[str, int]:
    """Name of each part in a room, and the number of its file, which is another when it is made again."""
    return {path.name: path.stat().st_ino for path in room.glob("part-*")}


def test_the_nearest_by_brute_force_are_found_after_a_move(tmp_path: Path) -> None:
    vectors, queries = unit_vectors(4000), unit_vectors(50, seed=2)
    report = saved(vectors, tmp_path / "built")
    assert report["kind"] == "disk" and report["recall"] >= 0.95
    moved = shutil.move(tmp_path / "built", tmp_path / "moved")
    shutil.rmtree(moved / "parts")
    (moved / "i.lists").chmod(0o444)
    products, found = VectorIndex.open(moved / "i.faiss", vectors=vectors, report=report).search(queries, 10)
    truth = exact_search(queries, vectors, 10)[1]
    assert np.mean([len(set(a) & set(b)) for a, b in zip(truth, found, strict=True)]) >= 9
    np.testing.assert_allclose(products, np.einsum("nd,nkd->nk", queries, vectors[found]), rtol=1e-5)
    assert (np.diff(products, axis=1) <= 0).all()


def test_every_list_visited_and_every_row_a_candidate_is_brute_force(tmp_path: Path) -> None:
    vectors, queries = unit_vectors(700), unit_vectors(9, seed=2)
    index = built(vectors, tmp_path)
    faiss.ParameterSpace().set_index_parameter(index.index, "nprobe", index.report.lists)
    found = index.search(queries, 90)[1]  # the fewest candidates are ten times as many: all 700
    assert (found == np.argsort(-(queries @ vectors.T), axis=1)[:, :90]).all()


def test_reranking_puts_candidates_in_the_order_of_their_exact_products(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.array([[1, 0], [0, 1], [0.6, 0.8], [-1, 0]], np.float32)
    queries = np.array([[1, 0], [0, 1]], np.float32)
    candidates = np.array([[3, 1, 2, -1], [3, 0, 1, 2]])
    for size in (1 << 20, 1):  # all queries at once, and one by one
        monkeypatch.setattr("ovseg.bank.index._RERANK_BYTES", size)
        products, found = rerank(queries, candidates, vectors, 3)
        assert found.tolist() == [[2, 1, 3], [1, 2, 3]]
        np.testing.assert_allclose(products, [[0.6, 0, -1], [1, 0.8, 0]])
    products, found = rerank(queries[:1], candidates[:1], vectors, 9)
    assert found.tolist() == [[2, 1, 3, -1]] and products[0, 3] == -np.inf


def test_a_byte_stands_for_eight_dimensions_whatever_their_number(tmp_path: Path) -> None:
    vectors, queries = unit_vectors(2000, 1618 // 16), unit_vectors(20, 1618 // 16, seed=1)  # 101, a prime
    report = saved(vectors, tmp_path)
    assert (tmp_path / "i.lists").stat().st_size == 2000 * (13 + 8)
    assert report["megabytes"] == pytest.approx((2000 * (13 + 8) + report["lists"] * 101 * 4) / 1e6)
    shutil.rmtree(tmp_path / "parts")
    products, found = VectorIndex.open(tmp_path / "i.faiss", vectors=vectors, report=report).search(queries, 10)
    truth = exact_search(queries, vectors, 10)[1]
    assert np.mean([len(set(a) & set(b)) for a, b in zip(truth, found, strict=True)]) >= 9
    np.testing.assert_allclose(products, np.einsum("nd,nkd->nk", queries, vectors[found]), rtol=1e-5)


def test_the_fewest_candidates_that_reach_the_recall_are_taken(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((4000, 64)).astype(np.float32)  # no neighbour is much nearer
    index = built(vectors, tmp_path, recall=0.97)
    assert index.report.rerank > 10 and index.report.recall >= 0.97
    index.report = type(index.report)(**index.report.to_dict() | {"rerank": index.report.rerank // 2})
    assert index.measure() < 0.97


def test_lists_joined_from_parts_equal_those_of_one_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, queries = unit_vectors(2300), unit_vectors(20, seed=1)
    many = built(vectors, tmp_path / "many")
    assert len(parts(tmp_path / "many")) == 5
    monkeypatch.setattr(disk, "PART", 10_000)
    one = built(vectors, tmp_path / "one")
    assert len(parts(tmp_path / "one")) == 1
    assert one.report == many.report
    for left, right in zip(many.index.search(queries, 30), one.index.search(queries, 30), strict=True):
        np.testing.assert_array_equal(left, right)
    assert (tmp_path / "many/joined.lists").read_bytes() == (tmp_path / "one/joined.lists").read_bytes()


def test_the_joined_lists_are_those_that_faiss_joins(tmp_path: Path) -> None:
    from faiss.contrib.ondisk import merge_ondisk

    vectors = unit_vectors(1200)
    index = built(vectors, tmp_path)
    theirs: Any = faiss.read_index(str(next(tmp_path.glob("trained-*"))))
    order = sorted(tmp_path.glob("part-*"), key=lambda path: path.stat().st_mtime_ns)
    merge_ondisk(theirs, [str(path) for path in order], str(tmp_path / "theirs.lists"))
    assert (tmp_path / "theirs.lists").read_bytes() == (tmp_path / "joined.lists").read_bytes()
    assert index.index.ntotal == theirs.ntotal == 1200


def test_a_build_killed_at_its_third_part_keeps_the_first_two(tmp_path: Path) -> None:
    vectors = unit_vectors(2500)
    np.save(tmp_path / "v.npy", vectors)
    room = tmp_path / "room"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path / "v.npy"), str(room)], env=environment)
    while len(parts(room)) < 2 and process.poll() is None:
        time.sleep(0.01)
    time.sleep(0.1)  # into the making of the third
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = parts(room)
    assert 2 <= len(before) < 5
    resumed = built(vectors, room)
    after = parts(room)
    noted = [name for name in before if after[name] == before[name]]
    assert len(after) == 5 and len(noted) >= 2
    whole = built(vectors, tmp_path / "whole")
    assert (room / "joined.lists").read_bytes() == (tmp_path / "whole/joined.lists").read_bytes()
    assert resumed.report == whole.report


@pytest.mark.parametrize("damage", ["cut", "bit", "note", "trained"])
def test_a_damaged_part_is_made_again(damage: str, tmp_path: Path) -> None:
    vectors = unit_vectors(1500)
    whole = built(vectors, tmp_path)
    lists, before = (tmp_path / "joined.lists").read_bytes(), parts(tmp_path)
    pattern = {"note": "parts.json", "trained": "trained-*"}.get(damage, "part-*")
    path = sorted(tmp_path.glob(pattern))[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content[:-1] if damage == "cut" else content)
    again = built(vectors, tmp_path)
    after = parts(tmp_path)
    # a trained index that is made again is the same, byte for byte, so that its parts are still good
    kept = {"note": 0, "trained": 3}.get(damage, 2)
    assert sum(after[name] == before[name] for name in before) == kept
    assert (tmp_path / "joined.lists").read_bytes() == lists
    assert again.report == whole.report


def test_other_vectors_find_no_part_of_theirs(tmp_path: Path) -> None:
    vectors = unit_vectors(1500)
    built(vectors, tmp_path / "room")
    vectors[700:] = unit_vectors(800, seed=5)
    again = built(vectors, tmp_path / "room")
    fresh = built(vectors, tmp_path / "fresh")
    assert (tmp_path / "room/joined.lists").read_bytes() == (tmp_path / "fresh/joined.lists").read_bytes()
    assert again.report == fresh.report


class Watched(np.ndarray):
    """An array that notes how many rows it is asked for at a time."""

    asked: list[int]

    def __getitem__(self, key: Any) -> Any:
        found = np.asarray(self)[key]
        self.asked.append(len(found) if found.ndim > 1 else 1)
        return found


def test_no_more_than_a_block_of_rows_is_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = unit_vectors(5000).view(Watched)
    vectors.asked = []
    sizes = []
    train = index_module._trained
    monkeypatch.setattr("ovseg.bank.index._TRAIN_BYTES", 1000 * 16 * 4)
    monkeypatch.setattr(
        index_module, "_trained", lambda index, sample: (sizes.append(len(sample)), train(index, sample))[1]
    )
    built(vectors, tmp_path)
    assert sizes == [1000]  # of 5,000: the sample is bounded too
    assert max(vectors.asked) == rows.BLOCK
    in_blocks = [asked for asked in vectors.asked if asked == rows.BLOCK]
    # Two whole blocks in each of ten parts, for their digests and codes; 25 for the truth that it is tuned by.
    assert len(in_blocks) == 2 * 20 + 25


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="counts pages as Linux does")
def test_what_was_read_of_a_mapped_file_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mapped() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssFile"))

    monkeypatch.setattr(rows, "BLOCK", 1024)
    np.save(tmp_path / "v.npy", np.ones((32_768, 256), np.float32))  # 32 MB
    vectors = np.load(tmp_path / "v.npy", mmap_mode="r")
    before = mapped()
    assert sum(float(block.sum()) for block in rows.blocks(vectors)) == vectors.size
    taken = rows.take(vectors, np.arange(0, 32_768, 3))
    assert (taken == 1).all() and len(taken) == 10_923
    assert (rows.gather(vectors, np.arange(32_768)[::-50]) == 1).all()
    assert mapped() - before < 4000  # kB: where nothing is given back, 32,000


def test_a_changed_copy_of_a_mapped_file_is_not_given_back(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.zeros((2000, 8), np.float32))
    vectors = np.load(tmp_path / "v.npy", mmap_mode="c")
    vectors[:] = 7
    list(rows.blocks(vectors))
    assert (vectors == 7).all()


def test_lists_that_are_missing_cut_or_of_other_vectors_are_refused(tmp_path: Path) -> None:
    vectors = unit_vectors(600)
    report, path = saved(vectors, tmp_path), tmp_path / "i.faiss"
    with pytest.raises(DatasetError, match="must hold 599 vectors, got 600; build the bank again"):
        VectorIndex.open(path, vectors=vectors[:599], report=report)
    with pytest.raises(
        DatasetError, match="must be of 24 dimensions, got 16: it belongs to vectors of another enc"
    ):
        VectorIndex.open(path, vectors=unit_vectors(600, 24), report=report)
    lists = tmp_path / "i.lists"
    whole = lists.read_bytes()
    lists.write_bytes(whole[:-1])
    with pytest.raises(DatasetError, match=rf"must have {len(whole)} bytes, got {len(whole) - 1}; copy both files"):
        VectorIndex.open(path, vectors=vectors, report=report)
    lists.unlink()
    with pytest.raises(DatasetError, match=rf"must have {len(whole)} bytes, got 0"):
        VectorIndex.open(path, vectors=vectors, report=report)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DatasetError, match="is missing or damaged; build the bank again"):
        VectorIndex.open(path, vectors=vectors, report=report)


def test_no_folder_and_no_room_on_the_disk_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = unit_vectors(600)
    with pytest.raises(ConfigError, match="600 vectors is made on disk; say in which folder, by room="):
        VectorIndex.build(vectors, kind="disk")
    usage = type(shutil.disk_usage(tmp_path))(100, 90, 10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OutputError, match=r"need 6000 bytes in '.*', got 10 that are free; make room"):
        built(vectors, tmp_path)  # a code of two bytes and a number of eight for each vector


def test_too_few_vectors_for_lists_are_searched_exactly(tmp_path: Path) -> None:
    assert built(unit_vectors(100), tmp_path / "room").report.kind == "flat"
    assert not (tmp_path / "room").exists()


@pytest.fixture
def own(bank: ImageBank, tmp_path: Path) -> Iterator[ImageBank]:
    """A copy of the toy bank that may be changed."""
    shutil.copytree(bank.root, tmp_path / "own")
    yield ImageBank.open(tmp_path / "own", segmenter=make_segmenter())


def lists_of(bank: ImageBank) -> list[str]:
    return sorted(name for name in bank.manifest["files"] if name.endswith(".lists"))


@pytest.mark.usefixtures("few_vectors_do")
def test_a_bank_gets_lists_on_disk_without_encoding_and_answers_as_before(own: ImageBank, photos: Path) -> None:
    exact = own.search("red", k=7)
    own.segmenter.encode_batch = None  # type: ignore[assignment]
    listed = own.reindex("disk", recall=0.9)
    assert listed.index.report.kind == "disk" and listed.manifest["options"]["recall"] == 0.9
    found = listed.search("red", k=7)
    assert found.paths == exact.paths
    np.testing.assert_allclose(found.cosine, exact.cosine, rtol=1e-6)
    assert "images-0002.lists" in lists_of(listed)
    assert not (own.root / "parts").exists()
    assert not [path for path in own.root.iterdir() if "-0001" in path.name]
    ImageBank.open(own.root, verify=True)
    back = own.reindex("flat")
    assert not lists_of(back) and not list(own.root.glob("*.lists"))


@pytest.mark.usefixtures("few_vectors_do")
def test_lists_on_disk_follow_what_is_removed_and_added(own: ImageBank, photos: Path) -> None:
    listed = own.reindex("disk")
    gone = listed.paths[5]
    fewer = listed.remove([gone])
    assert fewer.index.report.kind == "disk" and fewer.index.index.ntotal == 23
    assert gone not in fewer.search("red", k=23).paths[0]
    again = fewer.add(photos)
    assert len(again) == 24 and again.index.index.ntotal == 24
    assert sorted(again.paths) == sorted(listed.paths)
    assert again.search(Path(gone), k=1).paths[0] == (gone,)


@pytest.mark.usefixtures("few_vectors_do")
def test_a_bank_is_built_with_lists_on_disk_when_asked_to(photos: Path, tmp_path: Path) -> None:
    bank = ImageBank.build(
        photos, out=tmp_path / "b", segmenter=make_segmenter(), options=BankOptions(kind="disk", regions=2)
    )
    assert lists_of(bank) == ["images-0001.lists", "regions-0001.lists"]
    assert len(bank.search("red", k=5, regions=True).paths[0]) == 5


@pytest.mark.usefixtures("few_vectors_do")
def test_a_bank_whose_new_index_breaks_off_is_as_it_was(own: ImageBank, monkeypatch: pytest.MonkeyPatch) -> None:
    before = own.search("red", k=7).paths
    monkeypatch.setattr(disk, "_joined", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        own.reindex("disk")
    assert len(parts(own.root / "parts" / "images")) == 1
    assert ImageBank.open(own.root, verify=True).index.report.kind == "flat"
    monkeypatch.undo()
    monkeypatch.setattr("ovseg.bank.index._TRAIN_PER_LIST", 2)
    made: list[int] = []
    make = disk._part
    monkeypatch.setattr(
        disk, "_part", lambda trained, vectors, start: (made.append(len(vectors)), make(trained, vectors, start))[1]
    )
    listed = own.reindex("disk")
    assert made == [listed.manifest["index"]["regions"]["vectors"]]  # the part of the images was there
    assert listed.search("red", k=7).paths == before


@pytest.mark.usefixtures("few_vectors_do")
def test_lists_of_another_bank_are_refused(own: ImageBank, photos: Path, tmp_path: Path) -> None:
    listed = own.reindex("disk")
    for number, path in enumerate(sorted(photos.glob("*.png"))):
        (tmp_path / "mirrored").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "mirrored" / f"{99 - number}.png")
    other = ImageBank.build(tmp_path / "mirrored", out=tmp_path / "other", segmenter=make_segmenter())
    other = other.reindex("disk")
    name = lists_of(listed)[0]
    assert (other.root / name).stat().st_size == (listed.root / name).stat().st_size
    shutil.copy(other.root / name, listed.root / name)
    with pytest.raises(
        DatasetError, match=rf"'{name}' of the bank '.*' has changed since it was built; copy it ag"
    ):
        ImageBank.open(listed.root)
    os.truncate(listed.root / name, 100)
    with pytest.raises(
        DatasetError, match=rf"'{name}' of the bank '.*' must have \d+ bytes, got 100: it is cut short"
    ):
        ImageBank.open(listed.root)
    ImageBank.build(photos, out=listed.root, segmenter=make_segmenter())  # makes it anew
    assert ImageBank.open(listed.root, verify=True).index.report == listed.index.report


def test_a_half_written_shard_is_refused_by_name(own: ImageBank) -> None:
    shard = sorted((own.root / "shards").glob("*.parquet"))[0]
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(
        DatasetError, match=rf"'{shard.name}' of the bank '.*' is missing or damaged; copy the bank"
    ):
        own.reindex("disk")


def test_no_such_kind_changes_nothing(own: ImageBank) -> None:
    with pytest.raises(ConfigError, match=r"expected an index kind of auto, .*, got 'tree'"):
        own.reindex("tree")  # type: ignore[arg-type]
    assert ImageBank.open(own.root).manifest == own.manifest


def test_reports_of_other_kinds_are_those_of_earlier_banks(bank: ImageBank) -> None:
    names = ["kind", "vectors", "dimensions", "lists", "effort", "recall", "megabytes"]
    assert list(bank.manifest["index"]["images"]) == names
