"""Photos and results in object storage: what comes of them is what comes of a local folder."""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from helpers.datasets import write_folder
from helpers.documents import ROOT
from helpers.storage import HAS_S3, WHY_NO_S3, Store
from PIL import Image
from typer.testing import CliRunner

import ovseg
import ovseg.bank.pseudo_labels
import ovseg.cli.jobs
import ovseg.cli.many
import ovseg.images.sources
import ovseg.storage.shelf
from ovseg.cli import build_app
from ovseg.cli.segment import Run
from ovseg.errors import ConfigError, ImageError, OutputError, OvsegError, StorageError
from ovseg.pipeline.segmenter import Segmenter
from ovseg.storage import fetch

Invoke = Callable[..., Result]
LABELS = ("cat", "cup")
LABELS_OF = ("--label", "cat", "--label", "cup")


def encoded(name: str, *, side: int = 96, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.open(ROOT / "examples" / f"{name}.jpg").resize((side, side * 2 // 3)).save(stream, kind)
    return stream.getvalue()


PHOTOS = {
    "cat.png": encoded("cat"),
    "below/b c.png": encoded("coffee"),
    "below/b c.ppm": encoded("temple", kind="PPM"),
    "bad.jpg": b"no image",
    "empty.png": b"",
    "notes.txt": b"x",
}


@pytest.fixture
def invoke(small: Segmenter, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """The command line, with photos in the local folder ``photos`` and in that of the bucket."""
    return prepared(small, store, tmp_path, monkeypatch)


def prepared(small: Segmenter, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    for name, content in PHOTOS.items():
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(content)
        store.write(f"photos/{name}", content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ovseg, "load", lambda *_, **__: small)
    return lambda *arguments: CliRunner().invoke(build_app(), list(map(str, arguments)))


def local_files(folder: str) -> dict[str, bytes]:
    paths = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def comparable(files: dict[str, bytes], source: str) -> dict[str, Any]:
    """The files, without what must differ: where a photo lies, and the stamp that it is known by there."""
    kept: dict[str, Any] = {}
    for name, content in files.items():
        kept[name] = content
        if name.endswith(".json") and b'"provenance"' in content:
            kept[name] = json.loads(content)
            assert kept[name]["provenance"]["source"].startswith(source)
            kept[name]["provenance"]["source"] = kept[name]["provenance"]["source"].removeprefix(source)
            del kept[name]["provenance"]["made"]["image"]["stamp"]
    return kept


def test_results_are_those_of_the_local_run(invoke: Invoke, store: Store) -> None:
    formats = ("--format", "coco", "--format", "geojson")
    here = invoke("segment", "photos", *LABELS, "--out", "results", *formats, "--json")
    there = invoke(
        "segment", f"{store.address}/photos", *LABELS, "--out", f"{store.address}/results", *formats, "--json"
    )
    assert here.exit_code == there.exit_code == 1  # two are no images
    assert there.stdout == here.stdout.replace('"photos/', f'"{store.address}/photos/').replace(
        '"results/', f'"{store.address}/results/'
    ).replace("'photos/", f"'{store.address}/photos/")
    assert f"3 of 5 images done, results in {store.address}/results" in there.stderr
    assert f"expected an image, but '{store.address}/photos/bad.jpg' begins with" in there.stderr
    assert f"'{store.address}/photos/empty.png' is empty (0 bytes)" in there.stderr
    made = comparable(store.contents("results"), f"{store.address}/photos")
    coco = made.pop("_annotations.coco.json").replace(f"{store.address}/photos".encode(), b"photos")
    expected = comparable(local_files("results"), "photos")
    assert coco == expected.pop("_annotations.coco.json") and made == expected
    assert {"below/b c.png.json", "below/b c.ppm_overlay.png", "cat.png"} <= set(made)
    assert sorted(path.name for path in Path().iterdir()) == ["photos", "results"]  # nothing beside


def test_photos_or_results_alone_may_be_in_storage(invoke: Invoke, store: Store) -> None:
    invoke("segment", "photos", *LABELS, "--out", "results")
    invoke("segment", "photos", *LABELS, "--out", f"{store.address}/results")
    invoke("segment", f"{store.address}/photos", *LABELS, "--out", "other")
    expected = comparable(local_files("results"), "photos")
    assert comparable(store.contents("results"), "photos") == expected
    assert comparable(local_files("other"), f"{store.address}/photos") == expected


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses of photos whose bytes were read."""
    names, fetch, read = [], ovseg.cli.jobs.fetch_object, ovseg.images.sources.read

    def counting(function: Callable[..., Any]) -> Callable[..., Any]:
        def count(address: str, *given: Any) -> Any:
            names.append(address)
            return function(address, *given)

        return count

    monkeypatch.setattr(ovseg.cli.jobs, "fetch_object", counting(fetch))
    monkeypatch.setattr(ovseg.images.sources, "read", counting(read))
    return names


def test_what_is_done_is_not_read_again_and_what_changed_is_done_again(
    invoke: Invoke, store: Store, fetched: list[str]
) -> None:
    def again(*options: str) -> tuple[set[str], set[str]]:
        """Which photos were read, and whose records are new."""
        before = store.contents("results")
        fetched.clear()
        done = invoke("segment", f"{store.address}/photos", *LABELS, "--out", f"{store.address}/results", *options)
        assert done.exit_code == 1
        new = {name for name, content in store.contents("results").items() if before.get(name) != content}
        read = {name.removeprefix(f"{store.address}/photos/") for name in fetched}
        return read, {name for name in new if name.endswith(".json")}

    bad = {"bad.jpg", "empty.png"}
    assert again() == (set(PHOTOS) - {"notes.txt"}, {"cat.json", "below/b c.png.json", "below/b c.ppm.json"})
    assert again() == (bad, set())
    other = PHOTOS["below/b c.ppm"][::-1][: -len(b"P6\n96 64\n255\n")]
    store.write("photos/below/b c.ppm", b"P6\n96 64\n255\n" + other)  # as many bytes as before
    assert again() == (bad | {"below/b c.ppm"}, {"below/b c.ppm.json"})
    assert again() == (bad, set())
    assert again("--min-area", "3")[1] == {"cat.json", "below/b c.png.json", "below/b c.ppm.json"}
    store.remove("results/cat_overlay.png")
    assert again("--min-area", "3")[0] == bad | {"cat.png"} and "cat_overlay.png" in store.contents("results")


def test_an_object_that_is_written_anew_with_the_same_bytes_is_not_done_again(
    small: Segmenter, memory_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    invoke = prepared(small, memory_store, tmp_path, monkeypatch)
    command = ("segment", f"{memory_store.address}/photos/cat.png", "cat", "--out", f"{memory_store.address}/out")
    assert invoke(*command).exit_code == 0
    memory_store.write("photos/cat.png", PHOTOS["cat.png"])  # a new time, which is its stamp
    assert "already done with these settings" in invoke(*command).stderr


def test_a_killed_run_goes_on_and_leaves_no_record_beside_other_files(
    invoke: Invoke, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, command = (
        ovseg.storage.shelf.put,
        ["segment", f"{store.address}/photos", *LABELS, "--out", f"{store.address}/out"],
    )

    def killed(path: Path, address: str) -> None:
        if address.endswith("b c.ppm_overlay.png"):
            raise KeyboardInterrupt
        put(path, address)

    def slow(address: str, path: Path) -> None:  # the next photos are on their way here when the run ends
        time.sleep(0.1)
        fetch(address, path)

    def kill(*options: str) -> set[str]:
        with monkeypatch.context() as patched:
            patched.setattr(ovseg.storage.shelf, "put", killed)
            patched.setattr(ovseg.cli.jobs, "fetch_object", slow)
            assert isinstance(invoke(*command, *options).exception, KeyboardInterrupt | SystemExit)
        files = store.contents("out")
        return {name for name in files if name.endswith(".json") and "index" in json.loads(files[name])}

    assert kill() == {"below/b c.png.json"}
    first = store.contents("out")["below/b c.png.json"]
    assert invoke(*command).exit_code == 1
    whole = store.contents("out")
    assert first == whole["below/b c.png.json"] and len(whole) == 9
    assert kill("--overwrite") == {"below/b c.png.json", "cat.json"}  # the old record does not describe the new PNG
    assert invoke(*command).exit_code == 1
    assert store.contents("out") == whole


def test_files_of_others_are_not_replaced(invoke: Invoke, store: Store) -> None:
    store.write("out/cat.png", b"mine")
    refused = invoke("segment", f"{store.address}/photos/cat.png", "cat", "--out", f"{store.address}/out")
    assert (
        refused.exit_code == 1 and f"'{store.address}/out/cat.png' or 'cat_overlay.png' is there" in refused.stderr
    )
    assert store.contents("out") == {"cat.png": b"mine"}


def test_a_photo_that_vanishes_is_reported_and_the_others_are_done(
    invoke: Invoke, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = Run.identity

    def vanishing(run: Run) -> dict[str, str]:  # after the folder was listed
        store.remove("photos/cat.png")
        return identity(run)

    monkeypatch.setattr(Run, "identity", vanishing)
    done = invoke("segment", f"{store.address}/photos", *LABELS)
    assert done.exit_code == 1 and "2 of 5 images done" in done.stderr
    assert f"error: there is no '{store.address}/photos/cat.png' in storage, or no longer" in done.stderr


def test_results_below_the_photos_are_no_photos(invoke: Invoke, store: Store) -> None:
    command = ("segment", f"{store.address}/photos", *LABELS, "--out", f"{store.address}/photos/out")
    for _ in range(2):
        assert "3 of 5 images done" in invoke(*command).stderr
    refused = invoke(
        "segment", f"{store.address}/photos/out", *LABELS, "--out", f"{store.address}/photos/out"
    ).exception
    assert isinstance(refused, OutputError) and "expected images outside of --out" in str(refused)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (("segment", "{}/none", "cat"), ImageError, "no object, folder or pattern in storage matches '{}/none'"),
        (("segment", "{}x/photos", "cat"), StorageError, "there is no bucket 'bucketx'"),
        (("segment", "photos", "cat", "--out", "{}x/out"), StorageError, "there is no bucket 'bucketx'"),
        (("segment", "photos", "cat", "--out", "{}/o", "--format", "yolo"), OutputError, "--format yolo makes its"),
        (("bank", "build", "photos", "--out", "{}/bank"), OutputError, "expected a local folder for the bank, got"),
        (("bank", "build", "{}/none", "--out", "b"), ImageError, "no object, folder or pattern in storage"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    arguments: tuple[str, ...], kind: type[OvsegError], message: str, invoke: Invoke, store: Store
) -> None:
    refused = invoke(*(each.replace("{}", store.address) for each in arguments)).exception
    assert isinstance(refused, kind) and message.replace("{}", store.address) in str(refused)


def test_pictures_read_by_windows_need_a_local_folder(invoke: Invoke, store: Store) -> None:
    refused = invoke("segment", "photos/cat.png", "cat", "--scale", "1", "--out", f"{store.address}/out")
    assert refused.exit_code == 1 and f"needs a local folder for --out, got '{store.address}/out'" in refused.stderr


def workers_here(address: str, make: Any, items: Any, **_: Any) -> Any:
    """``many.over`` in this process: workers get copies of what is here, and answers are copies of theirs."""
    work = make()
    return [answer for item in deepcopy(items) for answer in deepcopy(work([item], False))]


def test_workers_read_and_write_storage_themselves(
    invoke: Invoke, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ovseg.cli.many, "over", workers_here)
    for out, options in (("one", ()), ("many", ("--ray",))):
        done = invoke("segment", f"{store.address}/photos", *LABELS, "--out", f"{store.address}/{out}", *options)
        assert done.exit_code == 1 and "3 of 5 images done" in done.stderr
    assert store.contents("one") == store.contents("many") and len(store.contents("one")) == 9


@pytest.fixture
def in_a_process(
    s3_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``ovseg`` as its own process, as a cluster needs it, with the photos in storage."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name, content in PHOTOS.items():
        s3_store.write(f"photos/{name}", content)
    command = [sys.executable, "-m", "ovseg"]
    return lambda *arguments: subprocess.run(
        [*command, *arguments], capture_output=True, text=True, cwd=tmp_path, check=False
    )


@pytest.mark.slow
@pytest.mark.skipif(not HAS_S3 or importlib.util.find_spec("ray") is None, reason=f"needs Ray, and {WHY_NO_S3[6:]}")
def test_a_cluster_writes_into_storage_what_one_process_does(
    s3_store: Store, in_a_process: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    for out, options in (("one", ()), ("many", ("--ray",))):
        where = ["--out", f"{s3_store.address}/{out}"]
        done = in_a_process("segment", f"{s3_store.address}/photos", *LABELS, *where, *options)
        assert done.returncode == 1 and "3 of 5 images done" in done.stderr, done.stderr
    assert s3_store.contents("one") == s3_store.contents("many") and len(s3_store.contents("one")) == 9


@pytest.mark.slow
@pytest.mark.skipif(not HAS_S3 or importlib.util.find_spec("ray") is None, reason=f"needs Ray, and {WHY_NO_S3[6:]}")
def test_a_cluster_writes_the_pseudo_labels_of_one_process(
    s3_store: Store, in_a_process: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    def run(*command: str) -> None:
        done = in_a_process(*command)
        assert done.returncode == 0, done.stderr

    run("bank", "build", f"{s3_store.address}/photos", "--out", "p.bank")
    for out, options in (("one", ()), ("many", ("--ray",))):
        run("pseudo-label", "p.bank", *LABELS_OF, "--out", f"{s3_store.address}/{out}", *options)
    assert s3_store.contents("one") == s3_store.contents("many") and len(s3_store.contents("one")) == 2 * 3 + 2


def test_a_bank_of_storage_has_the_vectors_of_the_local_one(
    invoke: Invoke, store: Store, fetched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    invoke("bank", "build", "photos", "--out", "local.bank")
    built = invoke("bank", "build", f"{store.address}/photos", "--out", "stored.bank")
    assert built.exit_code == 0 and "stored.bank: 3 images, 2 bad" in built.stdout
    local, stored = ovseg.ImageBank.open("local.bank"), ovseg.ImageBank.open("stored.bank")
    assert [
        f"{store.address}/{Path(path).relative_to(Path.cwd()).as_posix()}" for path in local.paths
    ] == stored.paths
    np.testing.assert_array_equal(local.vectors, stored.vectors)
    assert [reason for _, reason in stored.bad_images()] == [
        reason.replace(f"{Path.cwd()}/", f"{store.address}/") for _, reason in local.bad_images()
    ]
    assert len(fetched) == 5
    fetched.clear()
    assert "already complete" in invoke("bank", "build", f"{store.address}/photos", "--out", "stored.bank").stderr
    assert not fetched and not stored.changed_images()
    store.write("photos/cat.png", PHOTOS["below/b c.png"])
    assert stored.changed_images() == [f"{store.address}/photos/cat.png"]
    fetched.clear()
    invoke("bank", "build", f"{store.address}/photos", "--out", "stored.bank")
    assert set(fetched) == {f"{store.address}/photos/cat.png"}
    again = ovseg.ImageBank.open("stored.bank")
    rows = {path: again.vectors[row] for row, path in enumerate(again.paths)}
    np.testing.assert_array_equal(
        rows[f"{store.address}/photos/cat.png"], rows[f"{store.address}/photos/below/b c.png"]
    )


def test_a_bank_is_the_same_by_way_of_workers(
    invoke: Invoke, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ovseg.cli.bank_many

    invoke("bank", "build", f"{store.address}/photos", "--out", "one.bank")
    monkeypatch.setattr(ovseg.cli.bank_many, "over", workers_here)
    invoke("bank", "build", f"{store.address}/photos", "--out", "many.bank", "--ray")
    one, many = ovseg.ImageBank.open("one.bank"), ovseg.ImageBank.open("many.bank")
    assert one.table.equals(many.table) and len(one) == 3
    np.testing.assert_array_equal(one.vectors, many.vectors)


def test_storage_that_fails_in_the_middle_ends_a_build_and_makes_no_image_bad(
    small: Segmenter, memory_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    invoke = prepared(small, memory_store, tmp_path, monkeypatch)
    with monkeypatch.context() as patched:
        patched.setattr(
            type(memory_store.files), "cat_file", lambda *_, **__: (_ for _ in ()).throw(TimeoutError())
        )
        stopped = invoke("bank", "build", f"{memory_store.address}/photos", "--out", "p.bank").exception
    assert isinstance(stopped, StorageError) and "run again to go on" in str(stopped)
    assert (
        "p.bank: 3 images, 2 bad"
        in invoke("bank", "build", f"{memory_store.address}/photos", "--out", "p.bank").stdout
    )


def pseudo_labels(files: dict[str, bytes], source: str) -> dict[str, Any]:
    """The files of pseudo-labels, without what must differ: names and stamps that say where a photo lies."""
    lines = [json.loads(line) for name, each in files.items() if "manifest" in name for line in each.splitlines()]
    names = {line["name"]: line["path"].removeprefix(source) for line in lines if "name" in line}
    kept = {
        name.replace(Path(name).name, names.get(Path(name).name, Path(name).name)): content
        for name, content in files.items()
        if not name.startswith(("manifest", "worker"))
    }
    for line in lines:
        line["path"] = line["path"].removeprefix(source)
        if "name" in line:
            del line["name"], line["image"]["stamp"]
    return {**kept, "lines": lines}


def test_pseudo_labels_are_those_of_the_local_run_and_a_repeat_writes_nothing(
    invoke: Invoke, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = f"{store.address}/pseudo"
    invoke("bank", "build", "photos", "--out", "local.bank")
    invoke("bank", "build", f"{store.address}/photos", "--out", "stored.bank")
    here = invoke("pseudo-label", "local.bank", *LABELS_OF, "--out", "pseudo")
    there = invoke("pseudo-label", "stored.bank", *LABELS_OF, "--out", out)
    assert here.exit_code == there.exit_code == 0, there.exception
    assert f"3 label maps in {out}, 0 failed" in there.stdout
    assert there.stdout == here.stdout.replace("in pseudo,", f"in {out},")
    made = pseudo_labels(store.contents("pseudo"), store.address)
    expected = pseudo_labels(local_files("pseudo"), str(Path.cwd()))
    assert made == expected and len(made["lines"]) == 3
    assert {"labels//photos/cat.png", "confidence//photos/below/b c.ppm", "labels.json"} <= set(made)
    before, written = store.contents("pseudo"), []
    with monkeypatch.context() as patched:
        for module in (ovseg.bank.pseudo_labels, ovseg.storage.shelf):
            patched.setattr(module, "put", lambda path, address: written.append(address))
        assert invoke("pseudo-label", "stored.bank", *LABELS_OF, "--out", out).exit_code == 0
    assert not written and store.contents("pseudo") == before
    refused = invoke("pseudo-label", "stored.bank", "--label", "dog", "--out", out).exception
    assert isinstance(refused, ConfigError) and "pseudo-labels" in str(refused)


def test_workers_write_pseudo_labels_into_storage(
    invoke: Invoke, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ovseg.cli.bank_many

    invoke("bank", "build", f"{store.address}/photos", "--out", "stored.bank")
    monkeypatch.setattr(ovseg.cli.bank_many, "over", workers_here)
    formats = ("--format", "coco", "--format", "areas")
    for out, options in (("one", ()), ("many", ("--ray",))):
        done = invoke(
            "pseudo-label", "stored.bank", *LABELS_OF, "--out", f"{store.address}/{out}", *formats, *options
        )
        assert done.exit_code == 0, done.exception
    assert store.contents("one") == store.contents("many") and len(store.contents("one")) == 2 * 3 + 2 + 2


def test_pseudo_labels_that_were_stopped_go_on_and_a_broken_photo_is_reported(
    invoke: Invoke, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    invoke("bank", "build", f"{store.address}/photos", "--out", "stored.bank")
    command = ("pseudo-label", "stored.bank", *LABELS_OF, "--out", f"{store.address}/pseudo")
    label, asked = ovseg.bank.pseudo_labels.Labeller.label, []

    def stopping(labeller: Any, key: str) -> Any:
        asked.append(Path(key).name)
        if len(asked) == 3:
            raise StorageError("cannot reach the storage")
        return label(labeller, key)

    monkeypatch.setattr(ovseg.bank.pseudo_labels.Labeller, "label", stopping)
    assert isinstance(invoke(*command).exception, StorageError)
    assert len(store.contents("pseudo")["manifest-000.jsonl"].splitlines()) == 2
    store.write("photos/cat.png", b"no image any more")
    done = invoke(*command)
    assert done.exit_code == 0 and asked[3:] in (["cat.png"], [asked[2], "cat.png"], ["cat.png", asked[2]])
    assert "2 label maps in" in done.stdout and "1 failed" in done.stdout
    errors = [json.loads(each) for each in store.contents("pseudo")["manifest-000.jsonl"].splitlines()]
    said = [each["error"] for each in errors if "error" in each]
    assert len(said) == 1 and f"expected an image, but '{store.address}/photos/cat.png' begins with" in said[0]


def test_formats_whose_folder_is_made_anew_are_refused_for_pseudo_labels(invoke: Invoke, store: Store) -> None:
    command = ("pseudo-label", "b", "--label", "cat", "--out", f"{store.address}/p", "--format", "yolo")
    assert "--format yolo makes its folder anew" in str(invoke(*command).exception)


@pytest.fixture
def data(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A data set in the bucket and the same in the local folder ``data``; copies go into the folder of the test."""
    monkeypatch.setattr("ovseg.storage.copies.FOLDER", tmp_path / "copies")
    for path in write_folder(tmp_path / "data", images=3).rglob("*"):
        if path.is_file():
            store.write(f"data/{path.relative_to(tmp_path / 'data').as_posix()}", path.read_bytes())
    return f"{store.address}/data"


def test_scores_of_a_data_set_in_storage_are_those_of_the_local_one(
    invoke: Invoke, store: Store, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = f"{store.address}/run"
    options = ("--no-boundary", "--json")
    here = invoke("evaluate", "folder", "--data", "data", "--out", "run", *options)
    there = invoke("evaluate", "folder", "--data", data, "--out", out, *options)
    assert here.exit_code == there.exit_code == 0, there.exception
    one, many = json.loads(here.stdout), json.loads(there.stdout)
    assert one["scores"] == many["scores"]
    assert set(store.contents("run")) == {name for name in local_files("run") if ".lock" not in name}
    written: list[str] = []
    monkeypatch.setattr("ovseg.storage.copies.fetch", lambda *_: pytest.fail("nothing is fetched again"))
    put = ovseg.storage.shelf.put
    monkeypatch.setattr(
        ovseg.storage.shelf, "put", lambda path, address: [written.append(path.name), put(path, address)]
    )
    again = invoke("evaluate", "folder", "--data", data, "--out", out, *options)
    assert json.loads(again.stdout)["scores"] == many["scores"]
    assert not [name for name in written if name.startswith("rows")]  # every image was done


def test_an_evaluation_that_was_stopped_goes_on_in_storage(
    invoke: Invoke, store: Store, data: str, small: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment, asked = Segmenter.segment, []

    def stopping(segmenter: Segmenter, *given: Any, **named: Any) -> Any:
        asked.append(1)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return segment(segmenter, *given, **named)

    monkeypatch.setattr(Segmenter, "segment", stopping)
    command = ("evaluate", "folder", "--data", data, "--out", f"{store.address}/run", "--no-boundary")
    assert isinstance(invoke(*command).exception, KeyboardInterrupt | SystemExit)
    rows = [content for name, content in store.contents("run").items() if name.startswith("rows")]
    assert len(rows) == 1 and rows[0].count(b"\n") >= 2
    assert invoke(*command).exit_code == 0
    assert "report.json" in store.contents("run")


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (("--data", "{}/none"), StorageError, "there is nothing below '{}/none' in storage"),
        (("--data", "{}x/data"), StorageError, "there is no bucket 'bucketx'"),
        (("--data", "data", "--out", "{}x/run"), StorageError, "there is no bucket 'bucketx'"),
        (("--data", "data", "--out", "{}/run", "--ray"), ConfigError, "a local folder for --out with --ray"),
    ],
)
def test_what_cannot_be_evaluated_is_one_sentence(
    options: tuple[str, ...], kind: type[OvsegError], message: str, invoke: Invoke, store: Store, data: str
) -> None:
    refused = invoke("evaluate", "folder", *(each.replace("{}", store.address) for each in options)).exception
    assert isinstance(refused, kind) and message.replace("{}", store.address) in str(refused)


def test_a_broken_object_of_a_data_set_is_named(invoke: Invoke, store: Store, data: str) -> None:
    store.write("data/images/001.png", b"broken")
    refused = invoke("evaluate", "folder", "--data", data).exception
    assert isinstance(refused, OvsegError) and "001.png" in str(refused)
