from __future__ import annotations

import html
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.datasets import NAMES, Oracle
from markdown_it import MarkdownIt
from typer.testing import CliRunner

from ovseg.cli import build_app, main
from ovseg.cli.output import echo
from ovseg.escape import as_code, for_html, for_json, for_markdown, for_terminal, one_line
from ovseg.evaluation import compare_reports, evaluate
from ovseg.evaluation.report.report import leak_line
from ovseg.progress import progress_bar, remark
from ovseg.result import SegmentationResult

EVIL = [
    "a | b",
    "<script>alert(1)</script>",
    "**bold** _it_ `code` ~~gone~~ [x](http://y) ![i](j) # $x$",
    "two\nlines\r\nand\x0bmore\u2028here",
    "\x1b[31mred\x1b[0m\x07\x9b2J\x7f",
    "\u202egnp.exe\u2069",
    "a\\|b\\",
    "&lt;&amp;",
    "``x`",
    " `",
]
UNSEEN = set("\x1b\x07\x9b\x7f\r\x0b\u2028\u202e\u2069")


@pytest.mark.parametrize("text", EVIL)
def test_nothing_unseen_reaches_a_terminal(text: str) -> None:
    assert not UNSEEN & set(for_terminal(text)) and for_terminal(text).count("\n") == text.count("\n")
    assert not (UNSEEN | {"\n"}) & set(one_line(text))
    assert json.loads(for_json(json.dumps(text, ensure_ascii=False))) == text
    assert not (UNSEEN | {"\n"}) & set(for_json(json.dumps(text, ensure_ascii=False)))


def test_characters_are_written_out_as_python_does() -> None:
    assert one_line("a\x1b[1m\nb\x9b\u202e") == r"a\x1b[1m\nb\x9b\u202e"
    assert for_terminal("a\tb\nc\rd") == "a\tb\nc\\rd"
    for plain in ("café 猫 🐱‍👤 naïve", "potted plant", "it's 50 %"):
        assert one_line(plain) == for_terminal(plain) == plain


@pytest.mark.parametrize("text", EVIL)
def test_markdown_shows_the_text_and_nothing_else(text: str) -> None:
    page = f"| a | b |\n|---|---|\n| {for_markdown(text)} | {as_code(text)} |\n"
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(page)
    cells = [token for token in tokens if token.type == "inline"]
    assert len(cells) == 4  # two headings, two cells
    plain, code = cells[2:]
    assert plain.children is not None and {child.type for child in plain.children} <= {"text", "text_special"}
    assert "".join(child.content for child in plain.children) == one_line(text).strip()  # as cells are
    assert code.children is not None and [child.type for child in code.children] == ["code_inline"]
    assert code.children[0].content == one_line(text)


@pytest.mark.parametrize("text", EVIL)
def test_html_shows_the_text_and_nothing_else(text: str) -> None:
    assert html.unescape(for_html(text)) == one_line(text) and not set("<>\"'\n\x1b") & set(for_html(text))


def named(folder: Path, *names: str) -> Path:
    (folder / "classes.txt").unlink()
    listed = [{"id": number, "name": name} for number, name in enumerate(names)]
    (folder / "categories.json").write_text(json.dumps({"ignore": 255, "categories": listed}))
    return folder


class Red(Oracle):
    """Finds the classes by their position, whatever they are called."""

    def segment(self, image: Any, labels: list[Any], *, background: Any = None) -> Any:
        result = super().segment(image, list(NAMES), background=background)
        result.presence = None
        return result


@pytest.fixture
def evil(folder: Path) -> Path:
    return named(folder, "a | <script>x</script>", "**b**\nnext", "\x1b[31mred")


def test_the_report_of_any_labels_is_one_table(evil: Path, tmp_path: Path) -> None:
    segmenter = Red(4)
    segmenter.info = {"name": "mo`del | \x1b[2J"}
    report = evaluate(segmenter, "folder", data=evil, out=tmp_path / "out")
    for text in ((tmp_path / "out" / "report.md").read_text(), compare_reports(report, report).to_markdown()):
        assert "\x1b" not in text and "<script>" not in text
        tokens = MarkdownIt("commonmark").enable("table").parse(text)
        rows = [token for token in tokens if token.type == "tr_open"]
        cells = [token for token in tokens if token.type in {"td_open", "th_open"}]
        assert len(cells) == 2 * len(rows)
        told = {"".join(c.content for c in token.children or []) for token in tokens if token.type == "inline"}
        wanted = {"a | <script>x</script>", r"**b**\nnext", r"\x1b[31mred"}
        assert wanted <= {each.removesuffix(" (IoU)") for each in told}


def test_names_of_files_in_a_leak_are_shown_as_they_are() -> None:
    pairs = [{"image": "a|b`", "bank_image": "<b>\x1b.jpg"}]
    told = leak_line({"bank": "x`y", "bank_images": 2, "count": 1, "images": ["a"], "pairs": pairs})
    assert "``x`y``" in told and r"`<b>\x1b.jpg` = `` a\|b` ``" in told


def test_checking_data_prints_any_labels_on_their_own_line(evil: Path) -> None:
    done = CliRunner().invoke(build_app(), ["evaluate", "folder", "--data", str(evil), "--check-data"])
    assert "\x1b" not in done.output
    lines = done.stdout.splitlines()
    assert [line.split("  ")[-1] for line in lines[1:4]] == [
        "a | <script>x</script>",
        r"**b**\nnext",
        r"\x1b[31mred",
    ]


def test_errors_notes_and_bars_are_one_harmless_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ovseg", "evaluate", "no\x1b[31m\x9bne", "--data", "x"])
    with pytest.raises(SystemExit) as left:
        main()
    shown = capsys.readouterr().err
    assert left.value.code == 2 and "\x1b" not in shown and r"no\x1b[31m\x9bne" in shown
    remark("a\x1b[31m\nb")
    echo("c\x1bd\ne", err=True)
    assert capsys.readouterr().err == "note: a\\x1b[31m\\nb\nc\\x1bd\ne\n"
    with progress_bar("t\x1b[31mitle", total=1) as advance:
        advance(note="n\x1b[31mote")
    assert "\x1b[31m" not in capsys.readouterr().err


def test_a_result_in_a_notebook_shows_any_label() -> None:
    labels = ("<script>x</script>", "a\x1b\nb")
    result = SegmentationResult(
        index_map=np.zeros((4, 4), np.int32),
        labels=labels,
        score_map=np.ones((4, 4), np.float32),
        presence=dict.fromkeys(labels, 1.0),
    )
    page = result._repr_html_()
    assert "<script>" not in page and "&lt;script&gt;x&lt;/script&gt;" in page and r"a\x1b\nb" in page
    assert result.overlay().size[0] >= 4


def test_the_card_of_a_run_shows_any_path(tmp_path: Path, oracle: Callable[..., Any]) -> None:
    from ovseg.models.config import read_model_config
    from ovseg.training.card import write_card
    from ovseg.training.config import TrainingConfig

    config = TrainingConfig(recipe="masks", out=Path("runs/a\x1b[31m"))
    manifest = [{"data": {"path": "da|ta`\x1b"}, "images": 3}]
    write_card(
        config,
        read_model_config("mini"),
        [{"step": 1, "loss": 0.5}],
        manifest,
        tmp_path / "card.md",
        remarks=["<b>|"],
    )
    text = (tmp_path / "card.md").read_text()
    assert "\x1b" not in text and "- note: &lt;b&gt;\\|" in text and r"``da\|ta`\x1b``" in text
