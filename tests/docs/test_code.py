"""The code of the documents: what a page shows is run as it stands, or the page says why it is not.

The blocks of a page are run in order, in one folder of example photos and with one set of names.
"""

from __future__ import annotations

import importlib.util
import itertools
import re
import runpy
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer.main
from helpers.clips import write_clip
from helpers.documents import ROOT, Block, blocks, indented, pages
from helpers.serving import make_client, needs_server
from PIL import Image, ImageChops, ImageDraw, ImageOps
from typer.testing import CliRunner

import ovseg
from ovseg.cli import build_app
from ovseg.pipeline.segmenter import Segmenter

API = sorted((ROOT / "docs" / "api").glob("*.md"))
PACKAGES = ["ovseg"] + [
    f"ovseg.{name}"
    for name in (
        "attention",
        "bank",
        "concepts",
        "discovery",
        "evaluation",
        "examples",
        "large",
        "refine",
        "regions",
        "result",
        "result.formats",
        "runtimes",
        "sam",
        "training",
        "video",
        "vocabulary",
    )
]
LANGUAGES = {"python", "bash", "yaml", "json", "math", "text"}
COMMANDS = typer.main.get_command(build_app())
MOST_NOT_RUN = 32  # of some 60, for want of data sets, training or weights; a block that can be run should be
NEEDED = {"large-pictures.md": ("rasterio", "geo"), "video.md": ("av", "video")}  # what pages say that they need
RUN = {
    page: [each for each in blocks(page) if each.language in {"python", "bash"} and not each.reason]
    for page in pages()
}
NAMES = [pytest.param(page, id=page.relative_to(ROOT).as_posix()) for page in pages()]
TO_RUN = [each for each in NAMES if RUN[each.values[0]]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the photos and the labelled data that pages speak of."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    cup, cat, temple, flower = (
        Image.open(ROOT / "examples" / f"{name}.jpg") for name in ("coffee", "cat", "temple", "flower")
    )
    mask = Image.new("L", cup.size)
    ImageDraw.Draw(mask).ellipse((180, 60, 400, 290), fill=1)
    shown = {"photo": cup, "mug": cup, "shelf": cup, "kitchen": ImageOps.mirror(cup), "hand": ImageOps.mirror(cup)}
    photos = {"photos/cat": cat, "photos/coffee": cup, "photos/lake": temple}
    labelled = {f"{data}/images/{name}": cup for data in ("my-data", "my-photos") for name in "ab"}
    others = {"temple": temple, "street": temple, "cup": cup, "other-mug": flower, "cones/blue": flower}
    for name, photo in (shown | photos | labelled | others).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        photo.save(tmp_path / f"{name}.jpg")
    temple.save(tmp_path / "scene.tif")
    for data in ("my-data", "my-photos"):
        (tmp_path / data / "masks").mkdir()
        (tmp_path / data / "classes.txt").write_text("table\ncup\ncat\n")
        for name, drawn in (("a", mask), ("b", mask.point(lambda value: value * 2))):
            drawn.save(tmp_path / data / "masks" / f"{name}.png")
    for name, drawn in (("mug", mask), ("shelf", mask), ("hand", ImageOps.mirror(mask))):
        drawn.save(tmp_path / f"{name}.png")
    lay_out_clip(tmp_path, cup.resize((160, 120)), mask.resize((160, 120), Image.Resampling.NEAREST))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lay_out_clip(folder: Path, photo: Image.Image, mask: Image.Image) -> None:
    """A clip of three frames as a file, where it can be written, and as a folder; two things on the first one."""
    frames = [ImageChops.offset(photo, 4 * number, 0) for number in range(3)]
    ImageDraw.Draw(mask).rectangle((0, 90, 30, 119), fill=2)
    mask.save(folder / "first.png")
    (folder / "frames").mkdir()
    for number, frame in enumerate(frames):
        frame.save(folder / "frames" / f"{number:02d}.jpg")
    if importlib.util.find_spec("av") is not None:
        write_clip(folder / "clip.mp4", [np.asarray(frame) for frame in frames])


@pytest.fixture
def opened(mini: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default model, once and on photos of half the size, wherever a model is opened."""
    half = mini.config.input.model_copy(update={"short_side": 256})
    model = replace(mini.model, config=mini.config.model_copy(update={"input": half}))
    small = Segmenter(model, device=torch.device("cpu"), cache=tmp_path / "cache")
    for home in (
        "ovseg",
        "ovseg.pipeline.opening",
        "ovseg.discovery.discovery",
        "ovseg.discovery.cosalient",
        "ovseg.video.segment",
    ):
        monkeypatch.setattr(f"{home}.load", lambda *given, **named: small, raising=False)
    monkeypatch.setattr("ovseg.api._loaded", lambda model: small)


def show(block: Block, names: dict[str, object], curl: Callable[[list[str]], None] | None = None) -> None:
    """Run one block; ``curl`` does what that command is asked."""
    if block.language == "python":
        exec(compile("\n" * (block.line - 1) + block.code, str(block.page), "exec"), names)
        return
    for words in block.commands():
        if curl is not None and words[0] == "curl":
            curl(words[1:])
            continue
        assert words[0] == "ovseg", f"{block.place}: {words[0]} is no command of ovseg; say why it is not run"
        result = CliRunner().invoke(build_app(), words[1:], catch_exceptions=False)
        assert result.exit_code == 0, (block.place, words, result.output)


def curl_to_a_server() -> Callable[[list[str]], None]:
    """A server of the photos of this folder that answers what the arguments of ``curl`` ask."""
    needs_server()
    segmenter = ovseg.load("mini")
    bank = ovseg.ImageBank.build("photos", out="served.bank", segmenter=segmenter)
    client = make_client(segmenter=segmenter, bank=bank, folder=Path.cwd())

    def ask(words: list[str]) -> None:
        (address,) = (word for word in words if word.startswith("localhost:8000/"))
        given = list(itertools.pairwise(words))
        headers = dict(value.split(": ", 1) for option, value in given if option == "-H")
        body = "".join(value for option, value in given if option == "-d")
        fields = []
        for name, value in (value.split("=", 1) for option, value in given if option == "-F"):
            path = Path(value.removeprefix("@"))
            fields.append((name, (path.name, path.read_bytes()) if value.startswith("@") else (None, value)))
        method = "POST" if fields or body else "GET"
        address = address.removeprefix("localhost:8000")
        answer = client.request(method, address, headers=headers, content=body or None, files=fields or None)
        assert answer.status_code == 200, (words, answer.text)

    return ask


@pytest.mark.slow
@pytest.mark.parametrize("page", TO_RUN)
def test_the_code_of_a_page_runs_as_it_stands(page: Path, folder: Path, opened: None) -> None:
    if page.name in NEEDED:
        module, extra = NEEDED[page.name]
        pytest.importorskip(module, reason=f"needs pip install 'ovseg[{extra}]'")
    names: dict[str, object] = {}
    curl = curl_to_a_server() if any("curl" in block.code for block in RUN[page]) else None
    for block in RUN[page]:
        show(block, names, curl)


def test_a_page_that_is_wrong_fails(folder: Path) -> None:
    page = folder / "page.md"
    page.write_text("```python\nnumber = 1\n```\n\n<!-- not run: needs a moon -->\n```bash\nmake moon\n```\n")
    first, second = blocks(page)
    assert (first.line, first.reason, second.line, second.reason) == (2, "", 7, "needs a moon")
    names: dict[str, object] = {}
    show(first, names)
    assert names["number"] == 1
    with pytest.raises(ZeroDivisionError):
        show(Block(page, 1, "python", "1 / 0\n", ""), {})
    with pytest.raises(AssertionError, match="make is no command of ovseg; say why"):
        show(Block(ROOT / "page.md", 1, "bash", "make moon\n", ""), {})
    with pytest.raises(AssertionError, match="--colour"):
        show(Block(ROOT / "page.md", 1, "bash", "ovseg segment photo.jpg cat --colour red\n", ""), {})


@pytest.mark.parametrize("page", NAMES)
def test_every_command_that_is_shown_can_be_read(page: Path) -> None:
    for block in [*blocks(page), indented(page)]:
        for words in block.commands() if block.language == "bash" else ():
            if words[0] == "ovseg":
                read(words[1:])


def read(words: list[str]) -> None:
    """Parse the arguments of ``ovseg``, without running the command."""
    command: Any = COMMANDS
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    assert not hasattr(command, "commands") or not words or words[0].startswith("-"), f"no command {words[0]}"
    command.make_context("ovseg", [each for each in words if each != "<"])


def test_a_command_that_cannot_be_read_is_noticed() -> None:
    read(["bank", "build", "photos", "--out", "photos.bank"])
    for wrong in (["segment", "a.jpg", "--colour", "red"], ["segment", "a.jpg", "--format", "tif"], ["paint", "a"]):
        with pytest.raises(Exception, match=r"No such option|is not one of|no command"):
            read(wrong)


def test_every_block_says_what_it_is_and_few_are_not_run() -> None:
    every = [block for page in pages() for block in blocks(page)]
    assert [block.place for block in every if block.language not in LANGUAGES] == []
    skipped = [block for block in every if block.reason]
    assert len(skipped) <= MOST_NOT_RUN, [block.place for block in skipped]
    assert all(block.reason.startswith("needs ") for block in skipped)


@pytest.mark.parametrize("page", NAMES)
def test_every_link_leads_somewhere(page: Path) -> None:
    site = runpy.run_path(str(ROOT / "tools" / "docs_site.py"))
    site["site_links"](page.read_text("utf-8"), source=page, page="a/b.md", pages={}, picture=Path.as_posix)


def test_formulas_become_mathml_and_other_code_stays() -> None:
    pytest.importorskip("latex2mathml", reason="needs pip install 'ovseg[docs]'")
    formulas = runpy.run_path(str(ROOT / "tools" / "docs_site.py"))["formulas"]
    drawn = formulas("a\n\n```math\n\\frac{a}{b}\n```\n\n```python\nx\n```\n")
    assert (
        drawn.startswith('a\n\n<div class="formula"><math')
        and "<mfrac><mrow><mi>a</mi></mrow><mrow><mi>b</mi>" in drawn
    )
    assert drawn.endswith("</math></div>\n\n```python\nx\n```\n")


def test_links_of_the_repository_become_links_of_the_site(tmp_path: Path) -> None:
    site_links = runpy.run_path(str(ROOT / "tools" / "docs_site.py"))["site_links"]
    (tmp_path / "docs" / "tasks").mkdir(parents=True)
    for name in ("README.md", "docs/tasks/count.md", "cat.jpg", "make.py"):
        (tmp_path / name).write_text("")
    pages = {tmp_path / "README.md": "overview.md", tmp_path / "docs/tasks/count.md": "tasks/count.md"}

    def rewritten(text: str) -> str:
        source = tmp_path / "docs/tasks/count.md"
        return site_links(
            text, source=source, page="tasks/count.md", pages=pages, picture=lambda file: f"pictures/{file.name}"
        )

    assert rewritten("[a](../../README.md#limits)") == "[a](../overview.md#limits)"
    assert rewritten("![a cat](../../cat.jpg)") == "![a cat](../pictures/cat.jpg)"
    assert rewritten("[how](../../make.py), [`../../make.py`](../../make.py)") == "how (`make.py`), `../../make.py`"
    for alone in ("`[a](b.md)`", "```text\n[a](b.md)\n```", "[a](https://a.b/c.md)", "[a](#b)"):
        assert rewritten(alone) == alone
    with pytest.raises(FileNotFoundError, match=r"links to 'gone\.md'"):
        rewritten("[a](gone.md)")


def test_the_api_pages_have_every_public_name() -> None:
    shown = set(re.findall(r"^::: ([\w.]+)$", "".join(each.read_text("utf-8") for each in API), re.MULTILINE))
    for package in PACKAGES:
        names = {name for name in importlib.import_module(package).__all__ if not name.startswith("__")}
        whole = {package} & shown
        assert whole or not [each for each in names if not {f"{package}.{each}", f"ovseg.{each}"} & shown], package
