"""The page in a browser: every step of a visit, on a wide screen and a narrow one, and nothing asked of the web."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.browser import chromium, foreign_requests, needs_chromium
from helpers.serving import make_client, needs_server, png
from helpers.toy import paint_photos

needs_server()
pytest.importorskip("gradio", reason="needs pip install 'ovseg[serve]'")
pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")
pytestmark = needs_chromium
WAIT = 60_000  # milliseconds, at most


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from ovseg.serve.page.mount import mount_page
    from ovseg.serve.run import Server, listen

    folder = tmp_path_factory.mktemp("open")
    paint_photos(folder / "photos")
    app = make_client(folder=folder).app
    mount_page(app, app.state.service)
    server, bound = Server(app, app.state.service), listen("127.0.0.1", 0)
    port = bound.getsockname()[1]
    running = threading.Thread(target=server.run, args=([bound],))
    running.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}/"
    server.should_exit = True
    running.join(20)
    assert not running.is_alive()  # pages that are open do not hold it


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture(params=[1440, 390])
def page(request: pytest.FixtureRequest, browser: Any, url: str) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": request.param, "height": 900})
    page.set_default_timeout(WAIT)
    foreign = foreign_requests(page, url)
    page.goto(url)
    page.wait_for_selector("#find")
    yield page
    assert page.evaluate("document.documentElement.scrollWidth") <= request.param
    page.close()
    assert not foreign


def give(page: Any, path: Path, *, place: str = "#photo") -> None:
    page.set_input_files(f"{place} input[type=file]", path)


def says(page: Any, place: str, text: str) -> None:
    page.wait_for_function(f"document.querySelector('{place}')?.innerText.includes('{text}')")


def painted(page: Any, place: str) -> None:
    """Wait until a picture is there: before that a click on it has no place in it."""
    page.wait_for_function(f"(one => one?.complete && one.naturalWidth > 0)(document.querySelector('{place}'))")


def test_a_visit_from_photo_to_download(page: Any, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(png())
    give(page, tmp_path / "photo.png")
    page.wait_for_selector("#photo img")
    page.fill("#words textarea, #words input", "red, blue")
    page.keyboard.press("Enter")
    says(page, "#status", "Found: red")
    says(page, "#table", "blue")
    painted(page, "#result img")
    shown = page.locator("#result img")
    box = shown.bounding_box()
    shown.click(position={"x": box["width"] * 0.25, "y": box["height"] * 0.4})
    says(page, "#status", "Selected: ")
    page.fill("#name textarea, #name input", "my thing")
    page.click("#keep")
    says(page, "#status", "Kept as my thing")
    says(page, "#kept", "my thing")
    page.click("#find")
    says(page, "#status", "Found: ")
    says(page, "#table", "my thing")
    with page.expect_download() as coming:
        page.click("#download")
    coming.value.save_as(tmp_path / "all.zip")
    names = zipfile.ZipFile(tmp_path / "all.zip").namelist()
    assert sorted(names) == ["_annotations.coco.json", "result.json", "result.png", "result_overlay.png"]


def test_a_folder_becomes_a_bank_that_is_searched_and_learned_from(page: Any) -> None:
    page.get_by_role("tab", name="Folder").click()
    page.fill("#folder textarea, #folder input", "photos")
    page.click("#build")
    says(page, "#bank-status", "A bank of 24 photos")
    page.fill("#query textarea, #query input", "red")
    page.click("#search")
    page.wait_for_selector("#nearest img")
    assert "red" in page.inner_text("#nearest")
    page.fill("#concept textarea, #concept input", "red")
    page.click("#learn")
    says(page, "#learned", "confidence")
    page.locator("#seeds button img").first.click()
    says(page, "#learned", "Chosen: ")
    page.get_by_role("button", name="This does not").click()
    says(page, "#learned", "0 show it, 1 do not")
    page.get_by_role("button", name="Learn again").click()
    says(page, "#learned", "confidence")


def test_a_folder_outside_of_what_is_open_is_refused(page: Any) -> None:
    page.get_by_role("tab", name="Folder").click()
    page.fill("#folder textarea, #folder input", "../..")
    page.click("#build")
    page.wait_for_selector(".toast-body")
    assert "Traceback" not in page.inner_text(".toast-body")
    assert "No bank yet" in page.inner_text("#bank-status")


def test_two_models_are_shown_side_by_side(page: Any, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(png())
    page.get_by_role("tab", name="Compare").click()
    give(page, tmp_path / "photo.png", place="#compared")
    page.wait_for_selector("#compared img")
    page.fill("#compare-words textarea, #compare-words input", "red, blue")
    page.keyboard.press("Enter")
    page.wait_for_selector("#left img")
    page.wait_for_selector("#right img")
    left, right = (page.locator(f"#{side}").bounding_box() for side in ("left", "right"))
    assert left["x"] + left["width"] <= right["x"] or left["y"] + left["height"] <= right["y"]


def test_a_wrong_file_is_told_in_a_sentence(page: Any, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_text("no picture")
    give(page, tmp_path / "photo.png")
    page.wait_for_selector("#photo img", state="attached")
    page.fill("#words textarea, #words input", "red")
    page.click("#find")
    page.wait_for_selector(".toast-body")
    told = page.inner_text(".toast-body")
    assert "expected an image" in told and "Traceback" not in told


def test_the_keyboard_alone_is_enough(page: Any, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(png())
    give(page, tmp_path / "photo.png")
    page.wait_for_selector("#photo img")
    page.focus("#words textarea, #words input")
    page.keyboard.type("red")
    page.keyboard.press("Enter")
    says(page, "#status", "Found: red")
    page.focus("#place textarea, #place input")
    page.keyboard.type("24, 32")
    page.keyboard.press("Enter")
    says(page, "#status", "Selected: ")


def test_the_page_gives_out_no_file_of_this_machine(url: str) -> None:
    import httpx

    for path in ("/etc/passwd", __file__, str(Path.cwd() / "pyproject.toml"), "../../etc/passwd"):
        for way in ("gradio_api/file=", "gradio_api/file/", "file="):
            assert httpx.get(url + way + path).status_code in {403, 404}


def test_no_address_is_fetched_for_a_client(url: str) -> None:
    import httpx

    for path in ("gradio_api/file=http://127.0.0.1:9/x", "gradio_api/proxy=http://127.0.0.1:9/x"):
        assert httpx.get(url + path).status_code == 403
    seen: list[str] = []
    with socket.socket() as trap:
        trap.bind(("127.0.0.1", 0))
        trap.listen()
        trap.settimeout(0.5)
        address = f"http://127.0.0.1:{trap.getsockname()[1]}/x.png"
        config = httpx.get(url + "config").json()
        for number in range(len(config["dependencies"])):
            picture = {"path": address, "url": address, "meta": {"_type": "gradio.FileData"}}
            body = {"data": [picture] * 7, "fn_index": number, "session_hash": "abc", "trigger_id": 1}
            httpx.post(url + "gradio_api/queue/join", json=body)
        with contextlib.suppress(TimeoutError):
            seen.append(str(trap.accept()[1]))
    assert not seen
