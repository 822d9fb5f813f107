import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile
from helpers import toy
from helpers.toy import make_segmenter
from helpers.web import serving
from PIL import Image

from ovseg import files
from ovseg.bank import BankOptions, ImageBank, Region, store
from ovseg.bank.duplicates import Fingerprints, find_pairs
from ovseg.bank.index import VectorIndex
from ovseg.bank.pseudo_labels import write_pseudo_labels
from ovseg.bank.search import region_vector
from ovseg.errors import (
    ConfigError,
    DatasetError,
    ImageError,
    OutputError,
    ShapeError,
    SpaceError,
    VocabularyError,
)
from ovseg.files import write_json
from ovseg.identity import sealed
from ovseg.journal import read_journal
from ovseg.pipeline.segmenter import Segmenter
from ovseg.vocabulary.labels import Concept

TESTS = Path(__file__).parents[1]
PROGRAM = f"""
import sys, time
sys.path.insert(0, {str(TESTS)!r})
from helpers import toy
from ovseg.bank import build
from ovseg.bank import BankOptions, ImageBank
from ovseg.bank.pseudo_labels import write_pseudo_labels
segmenter = toy.make_segmenter()
encode = segmenter.encode_batch
segmenter.encode_batch = lambda images: (time.sleep(0.02), encode(images))[1]
job, source, out = sys.argv[1:]
print("ready", flush=True)
if job == "build":
    ImageBank.build(source, out=out, segmenter=segmenter, options=BankOptions(shard_size=3))
elif job == "build in one shard":
    build._FLUSH_SECONDS = 0.05
    ImageBank.build(source, out=out, segmenter=segmenter)
elif job == "add":
    ImageBank.open(out, segmenter=segmenter).add(source)
else:
    write_pseudo_labels(ImageBank.open(source), out, segmenter=segmenter, labels=["red", "green"])
"""


def kill_at(moment: float | Callable[[], bool], *arguments: str) -> None:
    """Start a job and kill it so many seconds after it began, or as soon as something is true."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    process.stdout.readline()
    if callable(moment):
        while not moment() and process.poll() is None:
            time.sleep(0.005)
    else:
        time.sleep(moment)
    process.send_signal(signal.SIGKILL)
    process.wait()


def contents(bank: ImageBank) -> tuple[object, bytes]:
    table = bank.table.drop_columns(["stamp"])  # says when a file was read, not what is in it
    return table.to_pydict(), np.ascontiguousarray(bank.vectors).tobytes()


def test_vectors_are_the_unit_mean_of_the_features(bank: ImageBank, segmenter: Segmenter) -> None:
    values = segmenter.encode(bank.paths[3]).features.values[0].flatten(1).mean(1).numpy()
    np.testing.assert_allclose(bank.vectors[3], values / np.linalg.norm(values), rtol=1e-5)
    assert len(bank) == 24


def test_search_by_text_finds_the_named_colour(bank: ImageBank) -> None:
    found = bank.search("red", k=7)
    assert all("red" in Path(path).name for path in found.paths[0])
    assert (np.diff(found.cosine) <= 0).all()
    assert [bank.paths[row] for row in found.rows[0]] == list(found.paths[0])


def test_a_query_with_a_comma_is_one_phrase(bank: ImageBank) -> None:
    assert bank.search("a square, all red", k=7).paths == bank.search("red", k=7).paths


def test_search_equals_brute_force(bank: ImageBank) -> None:
    found = bank.search(Path(bank.paths[5]), k=24)
    order = np.argsort(-(bank.vectors @ bank.vectors[5]), kind="stable")
    np.testing.assert_allclose(found.cosine[0], (bank.vectors @ bank.vectors[5])[order], rtol=1e-5)
    assert found.rows[0, 0] == 5


def test_an_image_finds_itself_and_k_may_exceed_the_bank(bank: ImageBank) -> None:
    found = bank.search(bank.image(11), k=1000)
    assert found.rows.shape == (1, 24)
    assert found.rows[0, 0] == 11


def test_a_negative_query_keeps_away(bank: ImageBank) -> None:
    both = bank.search(["red", "green"], k=3).paths[0]
    assert all("red-green" in path for path in both)
    without = bank.search({"red": 1.0}, k=4, negative="green").paths[0]
    assert not any("green" in Path(path).name for path in without)


def test_a_region_of_an_image_is_a_query(segmenter: Segmenter, tmp_path: Path, bank: ImageBank) -> None:
    pixels = np.full((64, 128, 3), 120, np.uint8)
    pixels[:, 64:] = (220, 30, 30)
    found = bank.search(Region(pixels, (0, 72, 64, 128)), k=3)
    assert all("red" in Path(path).name for path in found.paths[0])
    with pytest.raises(ShapeError, match="inside 64 x 128"):
        bank.search(Region(pixels, (0, 0, 65, 10)))


def test_a_box_is_rows_and_then_columns(segmenter: Segmenter) -> None:
    """Red is below and to the left; the box with the larger rows and the smaller columns shows it."""
    pixels = np.full((64, 128, 3), 120, np.uint8)
    pixels[32:, :64] = (220, 30, 30)
    encoded = segmenter.encode(pixels)
    assert int(region_vector(encoded, (40, 0, 64, 24)).argmax()) == 0
    assert int(region_vector(encoded, (0, 40, 24, 64)).argmax()) == 6
    expected = encoded.features.values[0, :, 5:8, 0:3].flatten(1).mean(1)
    np.testing.assert_allclose(region_vector(encoded, (40, 0, 64, 24)), expected / expected.norm(), rtol=1e-5)


def test_a_text_that_names_an_image_is_that_image_and_not_words(
    bank: ImageBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(bank.paths[0], "cat.png")
    shutil.copy(bank.paths[0], "plain")
    (tmp_path / "red").write_text("a file that is called like a colour")
    found = bank.search(Path("cat.png"), 4)
    assert found.cosine[0, 0] == pytest.approx(1)
    for query in ("cat.png", "./cat.png", str(tmp_path / "cat.png"), "plain", ["cat.png"], {"cat.png": 2}):
        np.testing.assert_array_equal(bank.search(query, 4).cosine, found.cosine)
    words = bank.search("red", 4)  # the file of that name holds no image
    (tmp_path / "red").unlink()
    np.testing.assert_array_equal(bank.search("red", 4).rows, words.rows)
    with serving() as server:
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert bank.search(f"{server.address}/cat.png", 1).cosine.shape == (1, 1)
        assert server.asked == ["/cat.png"]


@pytest.mark.parametrize(
    "query", ["gone.jpg", "photos/cat", "a\\b", "GONE.HEIC", "black/white", "./", "ftp://a/b.png"]
)
def test_a_text_that_looks_like_a_path_and_names_nothing_is_refused_by_name(bank: ImageBank, query: str) -> None:
    for asked in (query, [query], {query: 1.0}, ["red", query]):
        with pytest.raises(ImageError, match=re.escape(f"'{query}'")):
            bank.search(asked)
    with pytest.raises(ImageError, match=re.escape(f"'{query}'")):
        bank.search("red", negative=query)


def test_k_below_one_and_a_cancelled_query_are_refused(bank: ImageBank) -> None:
    with pytest.raises(ShapeError, match="at least 1, got 0"):
        bank.search("red", k=0)
    with pytest.raises(ShapeError, match="the same"):
        bank.search("red", negative="red")


def test_bad_images_are_recorded_and_skipped(photos: Path, segmenter: Segmenter, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    shutil.copytree(photos, folder)
    (folder / "empty.jpg").touch()
    (folder / "noise.png").write_bytes(os.urandom(500))
    cut = (folder / "00-red-green.png").read_bytes()
    (folder / "cut.png").write_bytes(cut[: len(cut) // 2])
    bank = ImageBank.build(folder, out=tmp_path / "bank", segmenter=segmenter)
    assert len(bank) == 24
    reasons = {Path(path).name: reason for path, reason in bank.bad_images()}
    assert set(reasons) == {"empty.jpg", "noise.png", "cut.png"}
    assert "0 bytes" in reasons["empty.jpg"]


def test_a_file_name_that_is_not_utf8_is_a_bad_image(photos: Path, segmenter: Segmenter, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    shutil.copy(photos / "00-red-green.png", folder / "a.png")
    try:
        shutil.copy(photos / "00-red-green.png", folder / os.fsdecode(b"b\xff.png"))
    except OSError:
        pytest.skip("this file system takes no such names")
    bank = ImageBank.build(folder, out=tmp_path / "bank", segmenter=segmenter).add(folder)
    assert len(bank) == 1
    ((path, reason),) = bank.bad_images()
    assert path.endswith(r"b\udcff.png")
    assert reason == "the file name is not UTF-8; rename the file"


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"regions": 2}, "built with regions 8, got regions 2"),
        ({"recall": 0.9}, "built with recall 0.95, got recall 0.9"),
        ({"kind": "flat", "regions": 0}, "built with index auto, regions 8, got index flat, regions 0"),
    ],
)
def test_other_options_than_those_of_the_bank_are_refused(
    other: dict[str, object], said: str, photos: Path, bank: ImageBank, segmenter: Segmenter
) -> None:
    before = contents(ImageBank.open(bank.root)), bank.manifest
    with pytest.raises(ConfigError, match=f"{said}; give the same, choose another folder, or delete this one"):
        ImageBank.build(photos, out=bank.root, segmenter=segmenter, options=BankOptions(**other))
    again = ImageBank.open(bank.root)
    assert (contents(again), again.manifest) == before


def test_an_interrupted_build_goes_on_with_its_own_options_only(
    photos: Path, segmenter: Segmenter, tmp_path: Path
) -> None:
    def stop(_: int) -> None:
        if len(store.shard_paths(tmp_path / "b")) == 3:
            raise KeyboardInterrupt

    options = BankOptions(regions=2, shard_size=1)
    with pytest.raises(KeyboardInterrupt):
        ImageBank.build(photos, out=tmp_path / "b", segmenter=segmenter, options=options, progress=stop)
    with pytest.raises(ConfigError, match="built with regions 2, got regions 8"):
        ImageBank.build(photos, out=tmp_path / "b", segmenter=segmenter, options=BankOptions())
    bank = ImageBank.build(photos, out=tmp_path / "b", segmenter=segmenter)
    assert (bank.manifest["regions"], len(bank)) == (2, 24)


def test_a_query_that_is_no_text_is_called_a_query(bank: ImageBank) -> None:
    with pytest.raises(VocabularyError, match="the query must be text, got the blank string"):
        bank.search(["red", " "])


def test_pseudo_labels_that_cannot_be_written_are_called_so(
    bank: ImageBank, segmenter: Segmenter, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot write the pseudo-labels '.*file.*choose another folder"):
        write_pseudo_labels(bank, tmp_path / "file", segmenter=segmenter, labels=["red"])


def test_an_empty_bank_answers_with_nothing(segmenter: Segmenter, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad.png").write_bytes(b"no picture")
    bank = ImageBank.build(tmp_path / "in", out=tmp_path / "bank", segmenter=segmenter)
    assert len(bank) == 0
    assert bank.search("red", k=5).rows.shape == (1, 0)
    assert bank.duplicates() == []
    with pytest.raises(ImageError, match="found none"):
        (tmp_path / "none").mkdir()
        ImageBank.build(tmp_path / "none", out=tmp_path / "bank2", segmenter=segmenter)


def test_add_remove_and_add_again(photos: Path, segmenter: Segmenter, tmp_path: Path) -> None:
    half, rest = tmp_path / "half", tmp_path / "rest"
    for number, path in enumerate(sorted(photos.iterdir())):
        target = half if number < 12 else rest
        target.mkdir(exist_ok=True)
        shutil.copy(path, target)
    bank = ImageBank.build(half, out=tmp_path / "bank", segmenter=segmenter).add(rest)
    assert len(bank) == 24
    gone = bank.paths[2]
    bank = bank.remove([gone])
    assert len(bank) == 23
    assert gone not in bank.paths
    assert gone not in bank.search("red", k=100).paths[0]
    assert len(bank.add(half)) == 24
    with pytest.raises(DatasetError, match="is not in the bank"):
        bank.remove(["nowhere.png"])


def test_merging_equals_building_at_once(photos: Path, segmenter: Segmenter, tmp_path: Path) -> None:
    paths = sorted(photos.iterdir())
    for name, part in (("a", paths[:10]), ("b", paths[8:])):
        (tmp_path / f"{name}.txt").write_text("\n".join(map(str, part)))
        ImageBank.build(tmp_path / f"{name}.txt", out=tmp_path / name, segmenter=segmenter)
    merged = ImageBank.merge([tmp_path / "a", tmp_path / "b"], out=tmp_path / "ab")
    whole = ImageBank.build(photos, out=tmp_path / "whole", segmenter=segmenter)
    assert contents(merged) == contents(whole)


def test_merging_keeps_the_largest_number_of_regions(photos: Path, segmenter: Segmenter, tmp_path: Path) -> None:
    for regions, name in ((1, "00-red-green.png"), (3, "01-green-blue.png")):
        options = BankOptions(regions=regions)
        ImageBank.build(photos / name, out=tmp_path / str(regions), segmenter=segmenter, options=options)
    merged = ImageBank.merge([tmp_path / "1", tmp_path / "3"], out=tmp_path / "both")
    assert merged.manifest["regions"] == 3


def test_tar_shards_give_the_same_vectors(
    photos: Path, bank: ImageBank, segmenter: Segmenter, tmp_path: Path
) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for path in sorted(photos.iterdir()):
            tar.add(path, arcname=path.name)
    from_tar = ImageBank.build(tmp_path / "s.tar", out=tmp_path / "bank", segmenter=segmenter)
    assert np.array_equal(from_tar.vectors, bank.vectors)
    assert np.array_equal(from_tar.image(4), bank.image(4))


def test_copies_and_leaks_are_found(photos: Path, segmenter: Segmenter, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "in")
    shutil.copy(photos / "03-yellow-white.png", tmp_path / "in" / "copy.png")
    Image.open(photos / "08-blue-yellow.png").save(tmp_path / "in" / "near.jpg", quality=90)
    bank = ImageBank.build(tmp_path / "in", out=tmp_path / "bank", segmenter=segmenter)
    pairs = {(Path(p.first).name, Path(p.second).name): p.exact for p in bank.duplicates()}
    assert pairs == {("03-yellow-white.png", "copy.png"): True, ("08-blue-yellow.png", "near.jpg"): False}
    (tmp_path / "test").mkdir()
    shutil.copy(photos / "01-green-blue.png", tmp_path / "test" / "renamed.png")
    (leak,) = bank.verify(tmp_path / "test")
    assert (Path(leak.first).name, Path(leak.second).name, leak.exact) == ("renamed.png", "01-green-blue.png", True)


def test_hash_and_vector_together_make_a_near_copy() -> None:
    def turned(cosine: float) -> list[float]:
        return [cosine, (1 - cosine**2) ** 0.5]

    changed = [(0.86, 4), (0.84, 0), (0.86, 5), (0.98, 12), (0.98, 13), (0.96, 12)]
    vectors = np.asarray([turned(cosine) for cosine, _ in changed], np.float32)
    hashes = np.asarray([(1 << bits) - 1 for _, bits in changed], np.uint64)
    names = [str(number) for number in range(len(changed))]
    bank = Fingerprints(names, names, hashes, vectors)
    query = Fingerprints(["q"], ["q"], np.zeros(1, np.uint64), np.asarray([[1, 0]], np.float32))
    pairs = find_pairs(query, bank, VectorIndex.build(vectors), same=False)
    assert [pair.second for pair in pairs] == ["0", "3"]


@pytest.mark.parametrize("suffix", ["faiss", "npy", "parquet"])
def test_a_file_cut_by_one_byte_is_named(suffix: str, bank: ImageBank, tmp_path: Path) -> None:
    shutil.copytree(bank.root, tmp_path / "bank")
    path = next((tmp_path / "bank").glob(f"images-*.{suffix}"))
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(DatasetError, match=f"{path.name}.*must have"):
        ImageBank.open(tmp_path / "bank")


def test_a_missing_shard_a_changed_file_and_no_bank_are_clear(bank: ImageBank, tmp_path: Path) -> None:
    shutil.copytree(bank.root, tmp_path / "bank")
    vectors = next((tmp_path / "bank").glob("images-*.npy"))
    content = bytearray(vectors.read_bytes())
    content[-1] ^= 1
    vectors.write_bytes(content)
    with pytest.raises(DatasetError, match="has changed"):
        ImageBank.open(tmp_path / "bank").verify()
    (tmp_path / "bank" / "shards" / "000000.parquet").unlink()
    with pytest.raises(DatasetError, match=r"misses 'shards/000000\.parquet'"):
        ImageBank.open(tmp_path / "bank")
    with pytest.raises(DatasetError, match="no bank at"):
        ImageBank.open(tmp_path / "nothing")


def test_another_model_is_refused(bank: ImageBank, photos: Path, segmenter: Segmenter) -> None:
    other = make_segmenter("others")
    with pytest.raises(SpaceError, match="weights 'image-toy-weights', got 'image-others'"):
        ImageBank.open(bank.root, segmenter=other)
    with pytest.raises(SpaceError, match="was built with"):
        ImageBank.build(photos, out=bank.root, segmenter=other)


def test_the_same_model_at_another_size_is_refused(bank: ImageBank, segmenter: Segmenter) -> None:
    sizes = segmenter.config.input.model_copy(update={"short_side": 96})
    config = segmenter.config.model_copy(update={"input": sizes})
    larger = Segmenter(replace(segmenter.model, config=config), device=segmenter.device)
    with pytest.raises(SpaceError, match="was built with features"):
        ImageBank.open(bank.root, segmenter=larger)


def test_a_second_writer_is_refused(photos: Path, bank: ImageBank, segmenter: Segmenter) -> None:
    with store.writing(bank.root), pytest.raises(OutputError, match="another process is writing"):
        ImageBank.build(photos, out=bank.root, segmenter=segmenter)


def test_regions_find_what_the_whole_picture_hides(photos: Path, segmenter: Segmenter, tmp_path: Path) -> None:
    bank = ImageBank.build(photos, out=tmp_path / "b", segmenter=segmenter, options=BankOptions(regions=4))
    found = bank.search("white", k=7, regions=True)
    assert all("white" in Path(path).name for path in found.paths[0])
    assert found.cosine[0, 0] > bank.search("white", k=1).cosine[0, 0]
    assert len(set(found.rows[0].tolist())) == 7
    with pytest.raises(DatasetError, match="no regions"):
        without = BankOptions(regions=0)
        ImageBank.build(photos, out=tmp_path / "c", segmenter=segmenter, options=without).search(
            "red", regions=True
        )


@pytest.mark.slow
def test_a_build_killed_at_ten_instants_goes_on_to_the_same_bank(
    photos: Path, segmenter: Segmenter, tmp_path: Path
) -> None:
    options = BankOptions(shard_size=3)
    undisturbed = ImageBank.build(photos, out=tmp_path / "whole", segmenter=segmenter, options=options)
    for seconds in np.random.default_rng().uniform(0.0, 0.8, 10):
        kill_at(seconds, "build", str(photos), str(tmp_path / "killed"))
    resumed = ImageBank.build(photos, out=tmp_path / "killed", segmenter=segmenter, options=options)
    assert contents(resumed) == contents(undisturbed)
    assert not list((tmp_path / "killed").rglob(".*.parquet"))


@pytest.mark.slow
def test_a_killed_build_of_few_images_does_not_start_from_the_beginning(
    photos: Path, segmenter: Segmenter, tmp_path: Path
) -> None:
    root = tmp_path / "killed"
    kill_at(lambda: bool(store.shard_paths(root)), "build in one shard", str(photos), str(root))
    kept = sum(len(store.shard_keys(path)) for path in store.shard_paths(root))
    assert 0 < kept < 24  # although a whole shard holds 64 images
    encoded: list[int] = []
    resumed = ImageBank.build(photos, out=root, segmenter=segmenter, progress=encoded.append)
    assert len(encoded) == 24 - kept
    assert contents(resumed) == contents(ImageBank.build(photos, out=tmp_path / "whole", segmenter=segmenter))


@pytest.mark.parametrize("place", ["shard", "vectors", "index"])
def test_a_full_disk_is_said_and_what_was_written_goes_on(
    place: str, photos: Path, segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(module: object, name: str, error: Exception, *, after: int) -> None:
        real, calls = getattr(module, name), []

        def full(*arguments: object, **options: object) -> object:
            calls.append(1)
            to_memory = isinstance(arguments[1], faiss.VectorIOWriter)  # how FAISS measures an index
            if len(calls) > after and not to_memory:
                raise error
            return real(*arguments, **options)

        monkeypatch.setattr(module, name, full)

    no_space = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    {
        "shard": lambda: fill(pq, "write_table", no_space, after=2),
        "vectors": lambda: fill(os, "posix_fallocate", no_space, after=0),
        "index": lambda: fill(faiss, "write_index", RuntimeError("in fwrite: No space left"), after=0),
    }[place]()
    options = BankOptions(shard_size=3)
    with pytest.raises(OutputError, match=r"cannot write .*[Nn]o space left.*is the disk full"):
        ImageBank.build(photos, out=tmp_path / "bank", segmenter=segmenter, options=options)
    monkeypatch.undo()
    kept = len(store.shard_paths(tmp_path / "bank"))
    assert kept == (2 if place == "shard" else 8)
    with pytest.raises(DatasetError, match="did not finish"):
        ImageBank.open(tmp_path / "bank")
    encoded: list[int] = []
    again = ImageBank.build(
        photos, out=tmp_path / "bank", segmenter=segmenter, options=options, progress=encoded.append
    )
    assert len(encoded) == 24 - 3 * kept
    assert contents(again) == contents(
        ImageBank.build(photos, out=tmp_path / "whole", segmenter=segmenter, options=options)
    )
    assert not list((tmp_path / "bank").rglob(".*.npy"))


@pytest.mark.slow
def test_an_addition_killed_at_ten_instants_leaves_a_bank_and_then_completes(
    photos: Path, segmenter: Segmenter, tmp_path: Path
) -> None:
    half = tmp_path / "half.txt"
    half.write_text("\n".join(str(path) for path in sorted(photos.iterdir())[:9]))
    options = BankOptions(shard_size=3)
    ImageBank.build(half, out=tmp_path / "bank", segmenter=segmenter, options=options)
    for seconds in np.random.default_rng().uniform(0.0, 0.7, 10):
        kill_at(seconds, "add", str(photos), str(tmp_path / "bank"))
        assert len(ImageBank.open(tmp_path / "bank", segmenter=segmenter)) in {9, 24}
    resumed = ImageBank.open(tmp_path / "bank", segmenter=segmenter).add(photos)
    whole = ImageBank.build(photos, out=tmp_path / "whole", segmenter=segmenter, options=options)
    assert contents(resumed) == contents(whole)


@pytest.mark.slow
def test_pseudo_labels_killed_at_ten_instants_complete_to_the_same_files(
    bank: ImageBank, segmenter: Segmenter, tmp_path: Path
) -> None:
    for seconds in np.random.default_rng().uniform(0.0, 0.7, 10):
        kill_at(seconds, "pseudo", str(bank.root), str(tmp_path / "killed"))
    for name in ("killed", "whole"):
        write_pseudo_labels(bank, tmp_path / name, segmenter=segmenter, labels=["red", "green"])
    files = {
        name: {
            path.relative_to(tmp_path / name): re.sub(rb'"stamp": "[^"]*"', b"", path.read_bytes())
            for path in (tmp_path / name).rglob("*")
            if path.is_file() and not path.name.startswith(".")
        }
        for name in ("killed", "whole")
    }
    assert files["killed"] == files["whole"]


def test_adding_again_encodes_only_what_changed(photos: Path, segmenter: Segmenter, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    bank = ImageBank.build(folder, out=tmp_path / "bank", segmenter=segmenter)
    first, second, third, fourth = sorted(folder.iterdir())[:4]
    os.utime(first)  # touched, not changed
    swapped = second.read_bytes()
    second.write_bytes(third.read_bytes())
    third.write_bytes(swapped)
    toy.paint(folder, fourth.name, ["white"], seed=7)
    encoded: list[int] = []
    bank = bank.add(folder, progress=encoded.append)
    assert len(encoded) == 3 and len(bank) == 24
    whole = ImageBank.build(folder, out=tmp_path / "whole", segmenter=segmenter)
    for path in bank.paths:
        mine, fresh = bank.paths.index(path), whole.paths.index(path)
        assert np.array_equal(bank.vectors[mine], whole.vectors[fresh])
    bank.add(folder, progress=encoded.append)
    assert len(encoded) == 3


def test_a_bad_image_that_was_mended_is_taken(photos: Path, segmenter: Segmenter, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    photo = next(photos.glob("00-*"))
    shutil.copy(photo, folder / "a.png")
    (folder / "b.png").write_bytes(b"cut")
    bank = ImageBank.build(folder, out=tmp_path / "bank", segmenter=segmenter)
    assert [Path(path).name for path, _ in bank.bad_images()] == ["b.png"]
    shutil.copy(photo, folder / "b.png")
    mended = bank.add(folder)
    assert len(mended) == 2 and not mended.bad_images()


def test_pseudo_labels_of_swapped_photos_are_made_again(photos: Path, segmenter: Segmenter, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    large = folder / "large.png"
    Image.open(next(photos.glob("02-*"))).resize((120, 60)).save(large)
    bank = ImageBank.build(folder, out=tmp_path / "bank", segmenter=segmenter)
    calls: list[int] = []

    def run(out: str) -> dict[str, bytes]:
        write_pseudo_labels(
            bank, tmp_path / out, segmenter=segmenter, labels=["red", "blue"], progress=calls.append
        )
        rows = read_journal(tmp_path / out / "manifest-000.jsonl")
        return {row["path"]: (tmp_path / out / "labels" / row["name"]).read_bytes() for row in rows}

    before = run("labels")
    small = next(folder.glob("00-*"))
    small.rename(folder / "aside"), large.rename(small), (folder / "aside").rename(large)
    assert len(calls) == 25
    after = run("labels")
    assert len(calls) == 27  # the two, and no other
    assert after == run("fresh")
    assert after[str(small.resolve())] == before[str(large.resolve())]


def test_pseudo_labels_of_a_changed_template_are_refused(
    bank: ImageBank, segmenter: Segmenter, tmp_path: Path
) -> None:
    write_pseudo_labels(bank, tmp_path, segmenter=segmenter, labels=["red"])
    config = segmenter.config.model_copy(update={"templates": "short3"})
    other = Segmenter(replace(segmenter.model, config=config), device=segmenter.device)
    with pytest.raises(ConfigError, match="pseudo-labels of other settings: segmenter"):
        write_pseudo_labels(bank, tmp_path, segmenter=other, labels=["red"])


def test_photos_that_were_moved_are_neither_encoded_again_nor_doubled(
    photos: Path, segmenter: Segmenter, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    bank = ImageBank.build(folder, out=tmp_path / "bank", segmenter=segmenter)
    folder.rename(tmp_path / "moved")
    assert bank.changed_images() == bank.paths
    encoded: list[object] = []
    fresh = toy.make_segmenter()
    fresh.encode_batch = encoded.append  # type: ignore[method-assign, assignment]
    moved = ImageBank.open(bank.root, segmenter=fresh).add(tmp_path / "moved")
    assert not encoded and len(moved) == 24 and not moved.changed_images()
    assert {Path(path).name for path in moved.paths} == {Path(path).name for path in bank.paths}
    for path in bank.paths:
        place = moved.paths.index(str(tmp_path / "moved" / Path(path).name))
        assert np.array_equal(moved.vectors[place], bank.vectors[bank.paths.index(path)])


def test_copies_that_are_both_there_stay_two_images(photos: Path, segmenter: Segmenter, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        shutil.copy(next(photos.glob("00-*")), tmp_path / name)
    bank = ImageBank.build(tmp_path / "a.png", out=tmp_path / "bank", segmenter=segmenter).add(tmp_path / "b.png")
    assert [Path(path).name for path in bank.paths] == ["a.png", "b.png"]


def test_refreshing_lets_go_of_what_is_gone_and_encodes_what_changed(
    photos: Path, segmenter: Segmenter, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    (folder / "bad.png").write_bytes(b"cut")
    bank = ImageBank.build(folder, out=tmp_path / "bank", segmenter=segmenter)
    first, second, *_ = sorted(folder.glob("0*"))
    first.unlink()
    toy.paint(folder, second.name, ["white"], seed=7)
    assert bank.changed_images() == [str(first.resolve()), str(second.resolve())]
    encoded: list[int] = []
    again = bank.refresh(progress=encoded.append)
    assert len(encoded) == 1 and len(again) == 23 and not again.changed_images()
    assert [Path(path).name for path, _ in again.bad_images()] == ["bad.png"]
    assert Path(again.search("white", k=1).paths[0][0]).name in {
        second.name,
        *(p.name for p in photos.glob("*white*")),
    }
    whole = ImageBank.build(folder, out=tmp_path / "whole", segmenter=segmenter)
    place = again.paths.index(str(second.resolve()))
    assert np.array_equal(again.vectors[place], whole.vectors[whole.paths.index(str(second.resolve()))])


def test_range_and_bands_belong_to_the_bank(tmp_path: Path, segmenter: Segmenter) -> None:
    bands = np.tile(np.array([1000, 500, 250, 2000], np.uint16), (40, 40, 1))
    (tmp_path / "photos").mkdir()
    options = {"photometric": "minisblack", "planarconfig": "contig"}
    tifffile.imwrite(tmp_path / "photos/a.tif", bands, **options)
    refused = ImageBank.build(tmp_path / "photos", out=tmp_path / "none", segmenter=segmenter)
    assert len(refused) == 0 and "a.tif' has 4 bands (1, 2, 3, 4)" in refused.bad_images()[0][1]
    said = BankOptions(value_range=(0, 1000), bands=(4, 2, 3))
    bank = ImageBank.build(tmp_path / "photos", out=tmp_path / "bank", segmenter=segmenter, options=said)
    assert bank.image(0)[0, 0].tolist() == [255, 128, 64]
    assert "clips 33.3% of them" in dict(bank.notes())[bank.paths[0]]
    tifffile.imwrite(tmp_path / "photos/b.tif", bands // 2, **options)
    added = bank.add(tmp_path / "photos")
    assert added.image(1)[0, 0].tolist() == [255, 64, 32]  # 125 of 1000
    with pytest.raises(ConfigError, match=r"was built with bands \(4, 2, 3\), got bands \(1, 2, 3\)"):
        other = BankOptions(value_range=(0, 1000), bands=(1, 2, 3))
        ImageBank.build(tmp_path / "photos", out=bank.root, segmenter=segmenter, options=other)


def flipped(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0x55
    path.write_bytes(content)


@pytest.mark.parametrize("place", [0, 0.5, -1])
def test_one_changed_byte_of_any_file_is_noticed_at_opening_and_named(
    bank: ImageBank, tmp_path: Path, place: float
) -> None:
    files = sorted(path.relative_to(bank.root) for path in bank.root.rglob("*.*") if path.suffix)
    assert {path.suffix for path in files} == {".json", ".parquet", ".npy", ".faiss"}
    for file in files:
        root = tmp_path / f"bank of {file.name}"
        shutil.copytree(bank.root, root)
        at = int(place * (root / file).stat().st_size) if place > 0 else int(place)
        flipped(root / file, at)
        if file.name == "build.json":  # read only when a build goes on
            ImageBank.open(root)
            continue
        with pytest.raises(DatasetError, match=re.escape(file.name)) as told:
            ImageBank.open(root)
        assert "again" in str(told.value)


def test_what_is_too_large_to_be_read_at_opening_is_known_by_its_ends_and_verified_on_demand(
    bank: ImageBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photos: Path, segmenter: Segmenter
) -> None:
    monkeypatch.setattr(store, "_QUICK", 0)
    monkeypatch.setattr(files.sha256_of_ends, "__kwdefaults__", {"most": 100})
    root = tmp_path / "b"
    shutil.copytree(bank.root, root)
    manifest = store.read_manifest(root)
    described = {name: store.describe_file(root / name) for name in manifest["files"]}
    write_json(root / store.MANIFEST, sealed({**manifest, "files": described}))
    vectors = next(path for path in root.glob("images-*.npy"))
    flipped(vectors, vectors.stat().st_size // 2)
    assert len(ImageBank.open(root)) == 24
    with pytest.raises(DatasetError, match=rf"'{vectors.name}' of the bank .* has changed.*from the shards"):
        ImageBank.open(root, verify=True)
    with pytest.raises(DatasetError, match=vectors.name):
        ImageBank.merge([root], out=tmp_path / "merged")
    mended = ImageBank.build(photos, out=root, segmenter=segmenter)  # as the message says
    np.testing.assert_array_equal(ImageBank.open(root, verify=True).vectors, bank.vectors)
    assert mended.paths == bank.paths
    flipped(vectors := next(root.glob("images-*.npy")), vectors.stat().st_size - 1)
    with pytest.raises(DatasetError, match=vectors.name):
        ImageBank.open(root)


def test_a_changed_shard_is_not_vouched_for_by_the_next_manifest(
    bank: ImageBank, tmp_path: Path, photos: Path, segmenter: Segmenter
) -> None:
    root = tmp_path / "b"
    shutil.copytree(bank.root, root)
    shard = store.shard_paths(root)[0]
    flipped(shard, shard.stat().st_size // 2)
    with pytest.raises(DatasetError, match=rf"{shard.name}' of the bank .* (changed|damaged)"):
        ImageBank.build(photos, out=root, segmenter=segmenter)
    (root / store.MANIFEST).unlink()  # a build that was not finished: only the pages know
    with pytest.raises(DatasetError, match=rf"'{shard.name}' of the bank .* is missing or damaged"):
        ImageBank.build(photos, out=root, segmenter=segmenter)


def test_a_changed_note_of_a_build_is_noticed(photos: Path, segmenter: Segmenter, tmp_path: Path) -> None:
    root = tmp_path / "b"
    ImageBank.build(photos, out=root, segmenter=segmenter)
    (root / store.MANIFEST).unlink()
    note = root / "build.json"
    note.write_text(note.read_text().replace("0.95", "0.85"))
    with pytest.raises(DatasetError, match=r"build\.json' has changed since it was written"):
        ImageBank.build(photos, out=root, segmenter=segmenter)


def test_mirrored_turned_and_grey_copies_are_found_and_named(segmenter: Segmenter, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    small = [Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)) for _ in range(9)]
    photos = [each.resize((90, 60), Image.Resampling.BICUBIC) for each in small]
    turns = Image.Transpose
    copies = {
        "a-mirrored.png": photos[0].transpose(turns.FLIP_LEFT_RIGHT),
        "b-upside-down.png": photos[1].transpose(turns.ROTATE_180),
        "c-left.png": photos[2].transpose(turns.ROTATE_90),
        "d-right.png": photos[3].transpose(turns.ROTATE_270).resize((30, 45)),
        "e-grey.jpg": photos[4].convert("L"),
        "f-grey-mirrored.jpg": photos[5].convert("L").transpose(turns.FLIP_LEFT_RIGHT),
        "g-other.png": photos[6],
        "h-flat.png": Image.new("RGB", (90, 60), "white"),
    }
    for folder, pictures in (("bank", copies), ("test", {f"{n}.png": each for n, each in enumerate(photos[:6])})):
        (tmp_path / folder).mkdir()
        for name, each in pictures.items():
            each.save(tmp_path / folder / name)
    Image.new("RGB", (50, 50), "grey").save(tmp_path / "test/6.png")  # flat ones are no copies of one another
    bank = ImageBank.build(tmp_path / "bank", out=tmp_path / "b", segmenter=segmenter)
    found = {
        Path(pair.first).name: (Path(pair.second).name, pair.change) for pair in bank.verify(tmp_path / "test")
    }
    assert found == {
        "0.png": ("a-mirrored.png", "mirrored left to right"),
        "1.png": ("b-upside-down.png", "turned by 180 degrees"),
        "2.png": ("c-left.png", "turned by 90 degrees counterclockwise"),
        "3.png": ("d-right.png", "turned by 90 degrees clockwise"),
        "4.png": ("e-grey.jpg", ""),
        "5.png": ("f-grey-mirrored.jpg", "mirrored left to right"),
    }
    both = bank.add(tmp_path / "test").duplicates()
    assert {(Path(pair.first).name, Path(pair.second).name) for pair in both} == {
        (second, first) for first, (second, _) in found.items()
    }


def test_a_concept_as_a_query_is_words_whatever_it_looks_like(
    bank: ImageBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = bank.search("red", 5)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "red").write_bytes(Path(bank.paths[-1]).read_bytes())  # a picture by that name
    np.testing.assert_array_equal(bank.search(Concept("red"), 5).cosine, expected.cosine)
    assert bank.search("red", 1).cosine[0, 0] != expected.cosine[0, 0]
    assert len(bank.search(Concept("/no/such.png"), 2).paths[0]) == 2
