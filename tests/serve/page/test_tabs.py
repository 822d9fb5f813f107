"""What the tabs of the page do with what a visitor gives, without a browser."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.serving import LABELS, needs_server, png, two_squares
from helpers.toy import COLOURS, make_segmenter, paint
from PIL import Image

from ovseg.pipeline.segmenter import Segmenter

needs_server()
gr = pytest.importorskip("gradio", reason="needs pip install 'ovseg[serve]'")

from ovseg.serve.options import Access, Limits  # noqa: E402
from ovseg.serve.page.banks import BanksTab, Shelf  # noqa: E402
from ovseg.serve.page.compare import CompareTab  # noqa: E402
from ovseg.serve.page.desk import Desk, InTurn  # noqa: E402
from ovseg.serve.page.words import Session, WordsTab  # noqa: E402
from ovseg.serve.service import Service  # noqa: E402


def make_desk(folder: Path | None = None, segmenter: Segmenter | None = None, **limits: Any) -> Desk:
    toy = segmenter or make_segmenter()
    return Desk(Service(toy, access=Access(folder=folder), limits=Limits(**limits)))


def clicked(*index: int) -> Any:
    return SimpleNamespace(index=index if len(index) > 1 else index[0])


@pytest.fixture
def photo(tmp_path: Path) -> str:
    (tmp_path / "photo.png").write_bytes(png())
    return str(tmp_path / "photo.png")


@pytest.fixture
def tab(monkeypatch: pytest.MonkeyPatch) -> Iterator[WordsTab]:
    desk = make_desk()
    select = desk.service.segmenter.select
    monkeypatch.setattr(
        desk.service.segmenter, "select", lambda image, **given: select(image, using="features", **given)
    )
    with gr.Blocks():
        yield WordsTab(desk, gr.State(Session()))


def test_words_give_overlay_table_and_a_zip(tab: WordsTab, photo: str, segmenter: Segmenter) -> None:
    overlay, rows, status, download, session = tab.find(photo, "red, blue", 0, False, [], Session())
    expected = segmenter.segment(two_squares(), LABELS)
    np.testing.assert_array_equal(np.array(overlay), np.array(expected.overlay()))
    shares = [f"{row.area:.1%}" for row in expected.table()]
    assert [row[:2] for row in rows] == [["red", shares[0]], ["blue", shares[1]]] and rows[0][3] == ""
    assert status == f"Found: red {shares[0]}, blue {shares[1]}" and session.photo is not None
    with zipfile.ZipFile(download.value["path"] if isinstance(download.value, dict) else download.value) as zipped:
        names = set(zipped.namelist())
        stored = np.array(Image.open(zipped.open("result.png"))).astype(int)
    assert names == {"result.png", "result_overlay.png", "result.json", "_annotations.coco.json"}
    np.testing.assert_array_equal(np.where(stored == 255, -1, stored), expected.index_map)


def test_a_strict_score_and_objects_are_passed_on(
    tab: WordsTab, photo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    segment = tab._desk.service.segmenter.segment

    def listen(image: Any, labels: Any, **options: Any) -> Any:
        given.update(options)
        return segment(image, labels)

    monkeypatch.setattr(tab._desk.service.segmenter, "segment", listen)
    tab.find(photo, "red", 0.5, True, [], Session())
    assert given == {"instances": True, "min_score": 0.5}


def test_a_click_selects_and_what_is_kept_is_found_in_the_next_photo(
    tab: WordsTab, photo: str, tmp_path: Path
) -> None:
    overlay, status, session = tab.click(photo, "the thing", "what fits best", Session(), clicked(24, 32))
    expected = make_segmenter().select(two_squares(), positive=[(24, 32)], using="features")
    np.testing.assert_array_equal(np.array(overlay), np.array(expected.overlay()))
    share = expected.area / expected.mask.size
    assert session.positive == ((24.0, 32.0),) and status.startswith(f"Selected: {share:.1%}")
    _, _, session = tab.typed("70, 32", photo, "not the thing", "whole", session)
    assert session.negative == ((70.0, 32.0),)
    boxes, emptied, status, session = tab.keep("my thing", session)
    assert (boxes.choices, boxes.value, emptied) == ([("my thing", "my thing")], ["my thing"], "")
    assert "Kept as **my thing**" in status
    later = two_squares()[:, ::-1]
    (tmp_path / "later.png").write_bytes(png(later))
    *_, after = tab.find(str(tmp_path / "later.png"), "blue", 0, False, ["my thing"], session)
    assert after.positive == () and after.kept == session.kept  # another photo: its clicks are new
    result = tab._desk.service.segmenter.segment(later, ["blue", session.kept[0]])
    assert result["my thing"][20:44, 60:84].all() and not result["my thing"][20:44, 12:36].any()


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda tab, photo: tab.find(None, "red", 0, False, [], Session()), "give a photo first"),
        (lambda tab, photo: tab.find(photo, " , ", 0, False, [], Session()), "write what to find"),
        (
            lambda tab, photo: tab.find(photo, ",".join(map(str, range(1001))), 0, False, [], Session()),
            "at most 1000",
        ),
        (lambda tab, photo: tab.find(__file__, "red", 0, False, [], Session()), "Pillow cannot read"),
        (
            lambda tab, photo: tab.typed("left", photo, "the thing", "whole", Session()),
            "such as 120, 80, got 'left'",
        ),
        (lambda tab, photo: tab.typed("999, 1", photo, "the thing", "whole", Session()), "must lie in the image"),
        (lambda tab, photo: tab.typed("nan, 1", photo, "the thing", "whole", Session()), "must lie in the image"),
        (lambda tab, photo: tab.keep("x", Session()), "select something first"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_sentence(tab: WordsTab, photo: str, act: Any, message: str) -> None:
    with pytest.raises(gr.Error) as told:
        act(tab, photo)
    assert message in str(told.value.message) and not told.value.print_exception


def test_a_blank_name_is_refused_and_forgotten_clicks_are_gone(tab: WordsTab, photo: str) -> None:
    _, _, session = tab.click(photo, "the thing", "whole", Session(), clicked(24, 32))
    with pytest.raises(gr.Error, match="blank"):
        tab.keep("  ", session)
    _, session = tab.forget(session)
    assert session.positive == () and session.selection is None


def test_photos_over_the_limits_are_refused(photo: str) -> None:
    for limits, message in (
        ({"max_bytes": 100}, "limit of 100 bytes"),
        ({"max_pixels": 100}, "limit of 100; shrink"),
    ):
        with pytest.raises(gr.Error, match=message):
            make_desk(**limits).photo(photo)  # type: ignore[arg-type]


def test_files_of_visitors_are_gone_when_the_server_ends(tab: WordsTab, photo: str) -> None:
    tab.find(photo, "red", 0, False, [], Session())
    folder = tab._desk.folder
    assert list(folder.iterdir())
    tab._desk.service.close()
    assert not folder.exists()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve pictures with red and a green square, in ``root/photos``; beside the root a secret, linked to."""
    root = tmp_path / "root"
    for number in range(12):
        paint(root / "photos", f"{number:02d}.png", ["red", "green"] if number % 2 else ["blue"], seed=number)
    secret = paint(tmp_path, "secret.png", list(COLOURS)[:1], seed=1)
    (root / "photos" / "link.png").symlink_to(secret)
    return root


@pytest.fixture
def banks(folder: Path) -> Iterator[BanksTab]:
    with gr.Blocks():
        yield BanksTab(make_desk(folder), gr.State(Session()))


def silent(*given: Any, **named: Any) -> None:
    """A progress bar that nobody sees."""


def test_a_folder_is_searched_learned_from_and_corrected(banks: BanksTab) -> None:
    steps: list[Any] = []
    status, shelf = banks.build("photos", Shelf(), lambda step, desc: steps.append(step))
    assert status == "A bank of 12 photos." and steps[-1] == (12, 12)  # the link leads out, and is left out
    found = banks.search("red", None, shelf)
    assert len(found) == 12 and all(int(caption.split()[1][:2]) % 2 for _, caption in found[:6])
    tiles, status, shelf, session = banks.learn("red", shelf, Session())
    assert len(tiles) == len(shelf.seeds) > 0 and status.startswith("**red**: confidence")
    assert session.concepts is not None and session.concepts.names == ("red",)
    _, shelf = banks.choose(shelf, clicked(0))
    path = shelf.seeds[0].path
    _, shelf = banks.reject(shelf)
    assert (shelf.accept, shelf.reject) == ((), (path,))
    status, shelf = banks.accept(shelf)
    assert (shelf.accept, shelf.reject) == ((path,), ()) and status.startswith("1 show it, 0 do not")
    _, _, after, session = banks.refine(shelf, session)
    assert [seed.verdict for seed in after.seeds if seed.path == path] == ["accepted"]
    assert session.concepts is not None and session.concepts is after.concepts


@pytest.mark.parametrize("place", ["..", "/", "../secret.png", "none", "photos/01.png", "photos/link.png", "\0"])
def test_only_folders_inside_the_open_one_become_banks(banks: BanksTab, place: str) -> None:
    with pytest.raises(gr.Error):
        banks.build(place, Shelf(), silent)


def test_what_the_second_tab_cannot_do_is_told(banks: BanksTab, folder: Path) -> None:
    with pytest.raises(gr.Error, match="build a bank first"):
        banks.search("red", None, Shelf())
    with pytest.raises(gr.Error, match="learn a concept first"):
        banks.refine(Shelf(), Session())
    with pytest.raises(gr.Error, match="click on one of the photos first"):
        banks.accept(Shelf())
    _, shelf = banks.build("photos", Shelf(), silent)
    with pytest.raises(gr.Error, match="looks like a path"):
        banks.learn(str(folder / "photos" / "01.png"), shelf, Session())
    with pytest.raises(gr.Error, match="neither"):
        banks.search(" ", None, shelf)


def test_long_work_waits_its_turn_in_the_workers_thread() -> None:
    import threading

    desk = make_desk(queue=1)
    turn, threads = InTurn(desk.service), []
    encode = desk.service.segmenter.encode
    desk.service.segmenter.encode = lambda *given: (
        threads.append(threading.current_thread().name),
        encode(*given),
    )[1]  # type: ignore[method-assign]
    begun, end = threading.Event(), threading.Event()
    desk.service.worker.submit(lambda: (begun.set(), end.wait(10)))
    assert begun.wait(10)
    threading.Timer(0.05, end.set).start()
    assert turn.encode(two_squares()).image.shape == (64, 96, 3)
    assert threads[0].startswith("ovseg-model") and turn.config.name == "toy"


def test_two_models_answer_side_by_side(photo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import ovseg

    loaded: list[str] = []
    monkeypatch.setattr(ovseg, "load", lambda name, **given: (loaded.append(name), make_segmenter())[1])
    with gr.Blocks():
        tab = CompareTab(make_desk())
    for _ in range(2):
        left, right = tab.compare(photo, "red, blue", "toy", "mini")
        np.testing.assert_array_equal(np.array(left), np.array(right))
    assert loaded == ["mini"]
    with pytest.raises(gr.Error, match="write what to find"):
        tab.compare(photo, "", "toy", "mini")


def test_concepts_of_the_second_tab_count_in_the_first(banks: BanksTab, photo: str) -> None:
    _, shelf = banks.build("photos", Shelf(), silent)
    *_, session = banks.learn("red", shelf, Session())
    with gr.Blocks():
        words = WordsTab(banks._desk, gr.State(Session()))
    _, rows, *_ = words.find(photo, "red", 0, False, [], replace(session, kept=()))
    plain, *_ = words.find(photo, "red", 0, False, [], Session())[1]
    assert rows[0][0] == plain[0] == "red" and float(rows[0][1][:-1]) > 0
