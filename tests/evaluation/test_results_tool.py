from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ovseg.evaluation import evaluate, load_protocol


@pytest.fixture(scope="module")
def tool() -> dict[str, Any]:
    return runpy.run_path(str(Path(__file__).parents[2] / "tools" / "results.py"))


def test_the_table_is_made_from_the_files_and_marks_training_images(
    tool: dict[str, Any], folder: Path, tmp_path: Path, oracle: Callable[..., Any]
) -> None:
    for name in ("camvid11", "coco-panoptic-133"):
        evaluate(oracle(), "folder", data=folder).save(tmp_path / name / "report.json")
        evaluate(oracle(2), "folder", data=folder).without_images().save(tmp_path / name / "majority.json")
    page = tool["results_table"](tmp_path)
    rows = [line for line in page.splitlines() if line.startswith("| [")]
    assert [row.split("](")[1].split("/")[0] for row in rows] == ["camvid11", "coco-panoptic-133"]
    assert rows[1].count("*") == 1 and "*" not in rows[0]
    assert "| 6 | 100.0 [100.0, 100.0] |" in rows[0] and rows[0].endswith("| – | – |")
    assert "`tools/cross_validate.py`" in page
    assert "ovseg evaluate camvid11 --data camvid/val --out results/camvid11" in page


def test_every_entry_has_a_protocol_and_label_mode_and_a_limit_only_shrinks(tool: dict[str, Any]) -> None:
    for entry in tool["ENTRIES"]:
        protocol = load_protocol(entry.benchmark)
        assert entry.labels in {"all", "present", *protocol.subsets}
    clothing = next(entry for entry in tool["ENTRIES"] if entry.name == "clothing")
    assert [clothing.task(Path("d"), limit).limit for limit in (None, 3, 999)] == [60, 3, 60]


def test_a_closed_set_has_no_baseline_without_background(tool: dict[str, Any]) -> None:
    by_name = {entry.name: tool["baselines_of"](entry) for entry in tool["ENTRIES"]}
    assert "no-background" in by_name["clothing"] and "no-background" not in by_name["camvid11"]
