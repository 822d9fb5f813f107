"""The page that segments by exported graphs in a browser, against what Python makes of the same graphs."""

from __future__ import annotations

import functools
import http.server
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.browser import chromium, foreign_requests, needs_chromium
from typer.testing import CliRunner

import ovseg
from ovseg.cli import build_app

pytest.importorskip("onnxruntime")
pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")
ROOT = Path(__file__).parents[2]
pytestmark = [
    *needs_chromium,
    pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm"),
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("page")
    if subprocess.run(["npm", "install", "--prefix", folder, "onnxruntime-web"], capture_output=True).returncode:
        pytest.skip("needs onnxruntime-web, which npm cannot fetch")
    arguments = ["export", "mini", "--out", str(folder / "page"), "--words", "cup, spoon, table"]
    done = CliRunner().invoke(build_app(), arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    dist = folder / "node_modules" / "onnxruntime-web" / "dist"
    for path in (dist / "ort.wasm.min.mjs", *dist.glob("ort-wasm-simd-threaded.*")):
        shutil.copy(path, folder / "page")
    for path in (ROOT / "examples" / "browser").iterdir():
        shutil.copy(path, folder / "page")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder / "page")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="module")
def page(served: str) -> Iterator[Any]:
    with chromium() as browser:
        page = browser.new_page()
        page.set_default_timeout(120_000)
        foreign = foreign_requests(page, served)
        page.goto(served)
        page.wait_for_function("document.getElementById('status').textContent.startsWith('Ready')")
        yield page
        assert not foreign


def test_a_photo_is_segmented_in_the_browser_as_by_the_graphs_in_python(page: Any) -> None:
    photo = ROOT / "examples" / "coffee.jpg"
    page.set_input_files("#photo", photo)
    page.wait_for_function("document.getElementById('status').textContent === 'Done.'")
    rows = page.locator("#areas tr").all_inner_texts()
    shares = {name.strip(): float(share.split()[0]) for name, share in (row.split("\t") for row in rows)}
    segmenter = ovseg.load("mini", device="cpu")
    config = segmenter.config
    background = config.background.model_copy(update={"margin": 0.0, "holes": 0.0})
    plain = config.model_copy(update={"boxes": None, "smoothing": None, "background": background})
    bare = ovseg.Segmenter(replace(segmenter.model, config=plain), device=segmenter.device)
    result = bare.segment(photo, ["cup", "spoon", "table"], refine=False)
    assert set(shares) == {"cup", "spoon", "table"} and shares["cup"] > 10
    for label, share in shares.items():
        assert abs(share - 100 * result.area(label)) < 4, (label, share, result.area(label))


def test_a_file_that_is_no_photo_is_told(page: Any, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_text("no picture")
    page.set_input_files("#photo", tmp_path / "photo.png")
    page.wait_for_function("document.getElementById('status').textContent.includes('cannot be segmented')")
