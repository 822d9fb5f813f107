from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.datasets import Oracle, Unsure, write_folder, write_rows
from PIL import Image

from ovseg.errors import ConfigError
from ovseg.evaluation import EvaluationReport, RunOptions, Task, evaluate, load_protocol
from ovseg.evaluation.data.protocol import Expected, Protocol
from ovseg.evaluation.run.baselines import make_baseline

ROOT = Path(__file__).parents[3]
OPTIONS = RunOptions(sheet=False)
MORTAL = """
import os, signal, sys
from helpers.datasets import Unsure
from ovseg.evaluation import RunOptions, evaluate

class Mortal(Unsure):
    def segment(self, image, labels, *, background=None):
        if len(self.asked) == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().segment(image, labels)

evaluate(Mortal(3), "folder", data=sys.argv[1], out=sys.argv[2], options=RunOptions(sheet=False))
"""


def again(data: Path | str, out: Path, **options: Any) -> tuple[EvaluationReport, int]:
    """The report of a run that may go on with what ``out`` holds, and how many images were segmented for it."""
    segmenter = Oracle(4)
    segmenter.reads_examples = True
    report = evaluate(segmenter, options.pop("protocol", "folder"), data=data, out=out, options=OPTIONS, **options)
    return report, len(segmenter.asked)


def fresh(data: Path | str, protocol: str | Protocol = "folder") -> EvaluationReport:
    return evaluate(Oracle(4), protocol, data=data, options=OPTIONS)


def lasting(report: EvaluationReport) -> dict[str, Any]:
    """All of a report but times and memory."""
    values = report.to_dict()
    for key in ("seconds_per_image", "peak_memory_mib"):
        del values["manifest"][key]
    for row in values["images"]:
        del row["seconds"]
    return values


def turn_over(path: Path) -> None:
    """Replace an image file by its mirror image."""
    picture = Image.open(path)
    mirrored = np.asarray(picture)[::-1]
    Image.fromarray(mirrored).save(path)


def test_out_holds_report_and_sheet_and_is_not_done_twice(folder: Path, tmp_path: Path) -> None:
    first = evaluate(Oracle(4), "folder", data=folder, out=tmp_path / "out")
    names = {"report.json", "report.md", "sheet.jpg", "rows-00000.jsonl"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    second, segmented = again(folder, tmp_path / "out")
    assert segmented == 0 and lasting(second) == lasting(first)


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_of_a_corrected_file_the_row_is_made_again_and_it_alone(folder: Path, tmp_path: Path, kind: str) -> None:
    before, _ = again(folder, tmp_path / "out")
    original = (folder / kind / "003.png").read_bytes()
    turn_over(folder / kind / "003.png")
    after, segmented = again(folder, tmp_path / "out")
    assert segmented == 1 and after.mean_iou != before.mean_iou
    assert lasting(after) == lasting(fresh(folder))
    (folder / kind / "003.png").write_bytes(original)
    restored, segmented = again(folder, tmp_path / "out")
    assert segmented == 0 and lasting(restored) == lasting(before)


def test_of_other_data_with_the_same_names_every_row_is_made_again(folder: Path, tmp_path: Path) -> None:
    again(folder, tmp_path / "out")
    other = write_folder(tmp_path / "other")
    for path in (other / "masks").iterdir():
        turn_over(path)
    report, segmented = again(other, tmp_path / "out")
    assert segmented == 6 and lasting(report) == lasting(fresh(other))


def test_the_same_bytes_elsewhere_or_at_another_time_are_the_same_data(folder: Path, tmp_path: Path) -> None:
    first, _ = again(folder, tmp_path / "out")
    shutil.copytree(folder, tmp_path / "copy")
    os.utime(tmp_path / "copy" / "masks" / "001.png", (1, 1))
    report, segmented = again(tmp_path / "copy", tmp_path / "out")
    assert segmented == 0 and lasting(report) == lasting(first)


def test_an_added_image_is_the_only_one_that_is_segmented(folder: Path, tmp_path: Path) -> None:
    again(folder, tmp_path / "out")
    for kind in ("images", "masks"):
        shutil.copy(folder / kind / "003.png", folder / kind / "new.png")
    report, segmented = again(folder, tmp_path / "out")
    assert segmented == 1 and lasting(report) == lasting(fresh(folder))


def test_a_longer_list_of_the_split_adds_its_images(folder: Path, tmp_path: Path) -> None:
    values = load_protocol("folder").model_dump()
    layout = {"images": "images/{name}.png", "masks": "masks/{name}.png", "names": "{split}.txt"}
    protocol = Protocol.model_validate({**values, "layouts": [layout]})
    for names, segmented in ((["001", "004"], 2), (["001", "003", "004"], 1), (["003"], 0)):
        (folder / "val.txt").write_text("\n".join(names))
        report, count = again(folder, tmp_path / "out", protocol=protocol)
        assert count == segmented and lasting(report) == lasting(fresh(folder, protocol))


def test_a_list_of_classes_belongs_to_the_run(folder: Path, tmp_path: Path) -> None:
    again(folder, tmp_path / "out")
    (folder / "classes.txt").write_text("sky\ncat\nroad\n")
    with pytest.raises(ConfigError, match="holds rows of another run: protocol content '"):
        again(folder, tmp_path / "out")


def few_shot() -> Protocol:
    values = load_protocol("folder").model_dump()
    values.update(classes_from=[], classes=["sky", "road", "cat"])
    values["background"] = {"class_name": "sky", "phrases": "auto"}
    values["episodes"] = {"kind": "few-shot", "folds": [[2]], "shots": 2, "count": 1}
    return Protocol.model_validate(values)


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_a_visual_example_that_changes_makes_its_episode_again(folder: Path, tmp_path: Path, kind: str) -> None:
    report, _ = again(folder, tmp_path / "out", protocol=few_shot())
    (query,) = (row.name.partition("-")[2].partition("@")[0] for row in report.rows)
    support = next(name for name in ("001", "003", "005") if name != query)  # the others that show a cat
    turn_over(folder / kind / f"{support}.png")
    assert again(folder, tmp_path / "out", protocol=few_shot())[1] == 1


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_tile_that_changes_makes_its_mosaics_again(tmp_path: Path, suffix: str) -> None:
    for number, name in enumerate(("abacus", "kite", "owl", "urn")):
        (tmp_path / "data" / name).mkdir(parents=True)
        mask = np.zeros((6, 8), np.uint8)
        mask[number:5] = 255
        Image.fromarray(mask).convert("RGB").save(tmp_path / "data" / name / "0.jpg")
        Image.fromarray(mask).convert("RGB").save(tmp_path / "data" / name / "0.png")
    protocol = load_protocol("mosaic-4")
    episodes = protocol.episodes.model_copy(update={"count": 2, "tile": 8})  # type: ignore[union-attr]
    protocol = protocol.model_copy(update={"episodes": episodes, "expected": Expected()})
    for segmented in (2, 0):
        assert again(tmp_path / "data", tmp_path / "out", protocol=protocol)[1] == segmented
    turn_over(tmp_path / "data" / "owl" / f"0.{suffix}")
    assert again(tmp_path / "data", tmp_path / "out", protocol=protocol)[1] == 2


def test_hub_data_is_known_by_the_fingerprint_of_its_library(tmp_path: Path) -> None:
    values = load_protocol("folder").model_dump()
    protocol = Protocol.model_validate({**values, "classes_from": [], "classes": ["sky", "road", "cat"]})
    data = f"hf://{write_rows(tmp_path / 'saved', [0, 1, 2])}"
    first, _ = again(data, tmp_path / "out", protocol=protocol)
    second, segmented = again(data, tmp_path / "out", protocol=protocol)
    assert segmented == 0 and lasting(second) == lasting(first)
    shutil.rmtree(tmp_path / "saved")
    write_rows(tmp_path / "saved", [0, 1, 3])
    with pytest.raises(ConfigError, match=r"holds rows of another run: data '.*' before and '.*' now; choose"):
        again(data, tmp_path / "out", protocol=protocol)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"labels": "present"}, "labels 'all' before and 'present' now"),
        ({"options": RunOptions(boundary=False)}, "option boundary True before and False now"),
        ({"options": RunOptions(corruption="fog:3")}, "option corruption None before and 'fog:3' now"),
        ({"benchmark": few_shot()}, "protocol content '.*' before and '.*' now"),
    ],
)
def test_rows_of_another_run_are_refused_with_both_sides(
    folder: Path, tmp_path: Path, options: dict[str, Any], told: str
) -> None:
    again(folder, tmp_path / "out")
    reader = Oracle(4)
    reader.reads_examples = True
    with pytest.raises(ConfigError, match=f"holds rows of another run: {told}; choose another --out"):
        evaluate(reader, **{"benchmark": "folder", "data": folder, "out": tmp_path / "out", **options})


def test_a_model_is_known_by_all_that_its_info_says(folder: Path, tmp_path: Path) -> None:
    segmenter = Oracle(4)
    segmenter.info = {"model": "mini", "weights": "ab", "settings": "a"}
    evaluate(segmenter, "folder", data=folder, out=tmp_path / "out", options=OPTIONS)
    segmenter.info = {"model": "mini", "weights": "ab", "settings": "b"}
    with pytest.raises(ConfigError, match="another run: model settings 'a' before and 'b' now"):
        evaluate(segmenter, "folder", data=folder, out=tmp_path / "out", options=OPTIONS)


def test_the_majority_over_other_truth_is_another_segmenter(folder: Path, tmp_path: Path) -> None:
    def evaluate_majority() -> None:
        majority = make_baseline("majority", None, Task("folder", folder), OPTIONS)
        evaluate(majority, "folder", data=folder, out=tmp_path / "out", options=OPTIONS)

    evaluate_majority()
    Image.fromarray(np.full((12, 16), 2, np.uint8)).save(folder / "masks" / "004.png")
    with pytest.raises(ConfigError, match="another run: model areas '"):
        evaluate_majority()


def test_a_journal_of_an_earlier_version_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "rows-00000.jsonl").write_text('{"run": "ab12"}\n')
    with pytest.raises(ConfigError, match="another run: another version of ovseg wrote them; choose another --out"):
        again(folder, tmp_path / "out")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 0.5, 0.77, 0.999])
def test_a_journal_cut_off_at_any_byte_gives_the_same_report(folder: Path, tmp_path: Path, share: float) -> None:
    whole = evaluate(Unsure(3), "folder", data=folder, out=tmp_path / "out", options=OPTIONS)
    journal = tmp_path / "out" / "rows-00000.jsonl"
    content = journal.read_bytes()
    journal.write_bytes(content[: int(share * len(content))])
    report = evaluate(Unsure(3), "folder", data=folder, out=tmp_path / "out", options=OPTIONS)
    assert lasting(report) == lasting(whole) == lasting(EvaluationReport.load(tmp_path / "out" / "report.json"))
    assert len(journal.read_text().splitlines()) == 7


def test_a_damaged_line_of_the_journal_is_named(folder: Path, tmp_path: Path, oracle: Callable[..., Any]) -> None:
    again(folder, tmp_path / "out")
    journal = tmp_path / "out" / "rows-00000.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    for damaged in ('{"name": 3}\n', '{"name": "000", "pairs": 3}\n', '{"na\n', "[]\n"):
        journal.write_text("".join([*lines[:3], damaged, *lines[4:]]))
        with pytest.raises(ConfigError, match=r"line 4 of '.*rows-00000.jsonl' (is damaged|must be an object)"):
            again(folder, tmp_path / "out")
    journal.write_bytes(b"\xff\n")
    with pytest.raises(ConfigError, match=r"cannot read '.*rows-00000.jsonl' .* delete it to start anew"):
        again(folder, tmp_path / "out")


ONCE = ((2, 2),)  # (image that it is killed at, rows that are kept then)
AGAIN = ((0, 0), (1, 1), (3, 4))  # while it segments the first, the second, the fifth image


@pytest.mark.parametrize("kills", [ONCE, pytest.param(AGAIN, marks=pytest.mark.slow)], ids=["once", "again"])
def test_a_run_that_is_killed_gives_the_report_of_an_undisturbed_one(
    folder: Path, tmp_path: Path, kills: tuple[tuple[int, int], ...]
) -> None:
    undisturbed = evaluate(Unsure(3), "folder", data=folder, out=tmp_path / "undisturbed", options=OPTIONS)
    program = tmp_path / "mortal.py"
    program.write_text(MORTAL)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    journal = tmp_path / "out" / "rows-00000.jsonl"
    for killed_at, done in kills:
        command = [sys.executable, str(program), str(folder), str(tmp_path / "out"), str(killed_at)]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        kept = journal.read_text().splitlines()[1:] if journal.exists() else []
        assert len(kept) == done and not (tmp_path / "out" / "report.json").exists()
    segmenter = Unsure(3)
    report = evaluate(segmenter, "folder", data=folder, out=tmp_path / "out", options=OPTIONS)
    assert len(segmenter.asked) == 6 - kills[-1][1] and lasting(report) == lasting(undisturbed)
    saved = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("out", "undisturbed")]
    assert saved[0]["scores"] == saved[1]["scores"] and saved[0]["interval"] == saved[1]["interval"]


def test_a_file_that_vanishes_during_a_run_is_named(folder: Path) -> None:
    def segment(image: Any, labels: Any) -> Any:
        (folder / "masks" / "004.png").unlink(missing_ok=True)
        return SimpleNamespace(index_map=np.zeros(image.shape[:2], int))

    with pytest.raises(Exception, match=r"cannot read '.*004.png': No such file.*; complete the data"):
        evaluate(SimpleNamespace(segment=segment), "folder", data=folder)
