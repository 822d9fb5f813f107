"""Clicks on the segments of a data set, and what is reported of them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.datasets import OBJECT_NAMES, write_folder, write_objects
from typer.testing import CliRunner

from ovseg.cli import build_app
from ovseg.cli import evaluate as command
from ovseg.errors import ConfigError
from ovseg.evaluation import Task
from ovseg.evaluation.run.clicks import click_through, measure_clicks


class Pointing:
    """Selects in ``write_objects`` what has the red of the first click, but for some columns on the left, of which
    each further click gives one back."""

    def __init__(self, *, lost: int = 0) -> None:
        self.lost = lost
        self.info = {"name": f"pointing-{lost}"}
        self.encoded = 0
        self.using: set[Any] = set()

    def encode(self, image: Any) -> Any:
        self.encoded += 1
        return image

    def select(
        self, encoded: Any, *, positive: Any = (), negative: Any = (), previous: Any = None, using: Any = None
    ) -> Any:
        self.using.add(using)
        count = 1 if previous is None else previous.count + 1
        (x, y), *_ = (*positive, *negative)
        whole = encoded[..., 0] == encoded[int(y), int(x), 0] if previous is None else previous.whole
        mask = whole.copy()
        mask[:, np.flatnonzero(whole.any(0))[: max(0, self.lost - count + 1)]] = False
        return SimpleNamespace(mask=mask, whole=whole, count=count)


@pytest.mark.parametrize("protocol", ["panoptic", "instances"])
def test_every_segment_is_clicked_until_it_is_good(tmp_path: Path, protocol: str) -> None:
    write_objects(tmp_path, images=2)
    perfect = measure_clicks(Pointing(), Task(protocol, tmp_path), using="features")
    labels = [row.label for row in perfect.segments]
    assert set(labels) == (set(OBJECT_NAMES) if protocol == "panoptic" else set(OBJECT_NAMES) - {"sky"})
    assert all(row.overlaps == (1.0,) for row in perfect.segments)  # nothing is left to click on
    assert perfect.scores["noc_90"] == 1 and perfect.scores["iou_after_5"] == 1
    losing = Pointing(lost=2)
    report = measure_clicks(losing, Task(protocol, tmp_path), using="sam", out=tmp_path / "out")
    cat = next(row for row in report.segments if row.label == "cat")  # ten columns
    assert cat.overlaps == pytest.approx((0.8, 0.9, 1.0))
    assert losing.encoded == 2 and losing.using == {"sam"}
    saved = json.loads((tmp_path / "out" / "clicks.json").read_text())
    assert saved["scores"] == report.scores and len(saved["segments"]) == len(report.segments)
    assert "| IoU after 1 |" in (tmp_path / "out" / "clicks.md").read_text()


def test_small_segments_and_void_do_not_count(tmp_path: Path) -> None:
    panoptic, _ = write_objects(tmp_path, images=1)
    height, width = (panoptic["images"][0][side] for side in ("height", "width"))
    report = measure_clicks(Pointing(), Task("panoptic", tmp_path))
    assert all(row.share > 0.01 for row in report.segments)
    assert next(row.share for row in report.segments if row.label == "cat") == 100 / (height * width)


def test_clicking_ends_after_twenty() -> None:
    truth = np.zeros((9, 9), bool)
    truth[2:7, 2:7] = True
    assert click_through(lambda click: np.zeros_like(truth), truth) == (0.0,) * 20
    found = truth.copy()
    found[2, 2] = False  # 24 of 25: good, but five clicks are made
    assert click_through(lambda click: found, truth) == (24 / 25,) * 5


def test_what_cannot_be_clicked_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "folder")
    with pytest.raises(ConfigError, match="which 'folder' has not; use coco-panoptic"):
        measure_clicks(Pointing(), Task("folder", tmp_path / "folder"))
    with pytest.raises(ConfigError, match="a segmenter with encode and select, got SimpleNamespace"):
        measure_clicks(SimpleNamespace(segment=1), Task("panoptic", tmp_path))


def test_the_command_prints_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_objects(tmp_path, images=2)
    monkeypatch.setattr(command, "_load", lambda model, **chosen: Pointing())
    arguments = ["evaluate", "panoptic", "--data", str(tmp_path), "--clicks", "--using", "features"]
    done = CliRunner().invoke(build_app(), arguments)
    assert done.exit_code == 0, done.output
    assert (
        "by `features` of `pointing-0`" in done.stdout and "| 100.0 | 100.0 | 100.0 | 1.00 | 1.00 |" in done.stdout
    )
    scores = json.loads(CliRunner().invoke(build_app(), [*arguments, "--json"]).stdout.splitlines()[-1])["scores"]
    assert scores["failed_85"] == 0
    alone = CliRunner().invoke(build_app(), [each for each in arguments if each != "--clicks"])
    assert isinstance(alone.exception, ConfigError) and "without --clicks" in str(alone.exception)


class Stopping(Pointing):
    """Stops at the second image, as if it were killed."""

    def encode(self, image: Any) -> Any:
        if self.encoded == 1:
            raise KeyboardInterrupt
        return super().encode(image)


def test_clicks_that_were_stopped_go_on(tmp_path: Path) -> None:
    write_objects(tmp_path, images=3)
    task, out = Task("panoptic", tmp_path), tmp_path / "out"
    whole = measure_clicks(Pointing(lost=2), task)
    with pytest.raises(KeyboardInterrupt):
        measure_clicks(Stopping(lost=2), task, out=out)
    further = Pointing(lost=2)
    assert measure_clicks(further, task, out=out).segments == whole.segments
    assert further.encoded == 2  # the first image was done
    (tmp_path / "images" / "001.png").write_bytes((tmp_path / "images" / "002.png").read_bytes())
    again = Pointing(lost=2)
    measure_clicks(again, task, out=out)
    assert again.encoded == 1  # that of the changed file


def test_clicks_of_another_model_are_not_taken_for_ones_own(tmp_path: Path) -> None:
    write_objects(tmp_path, images=1)
    task, out = Task("panoptic", tmp_path), tmp_path / "out"
    measure_clicks(Pointing(), task, out=out)
    with pytest.raises(ConfigError, match="holds rows of another run: model name"):
        measure_clicks(Pointing(lost=2), task, out=out)
    (out / "clicked-00000.jsonl").write_text((out / "clicked-00000.jsonl").read_text().splitlines()[0] + "\n{}\n")
    with pytest.raises(ConfigError, match=r"line 2 of .* is damaged"):
        measure_clicks(Pointing(), task, out=out)
