"""Whatever a JSON file holds, its reader ends in one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.datasets import Oracle, write_folder
from helpers.training import write_masks, write_pseudo_labels

from ovseg.bank.pseudo_labels import report as report_of_labels
from ovseg.bank.store import read_json as read_of_bank
from ovseg.cli.jobs import Job, is_done
from ovseg.config import read_yaml
from ovseg.discovery import Discovery
from ovseg.errors import ConfigError, DatasetError, ImageError, OvsegError
from ovseg.evaluation import EvaluationReport, RunOptions, compare_reports, evaluate, load_protocol
from ovseg.evaluation.data.datasets import open_dataset
from ovseg.files import parse_json, read_json
from ovseg.journal import read_journal
from ovseg.result import SegmentationResult
from ovseg.training.data import PseudoLabels, PseudoLabelSource
from ovseg.training.runs import read_result
from ovseg.vocabulary.label_files import read_label_file

DEEP = "[" * 200_000
BAD = {
    "deep": DEEP.encode(),
    "deep object": b'{"a":' * 100_000,
    "cut": b'{"a": [1, 2',
    "empty": b"",
    "no UTF-8": b'{"a": "\xff"}',
    "long number": b'{"a": ' + b"9" * 5000 + b"}",
    "no object": b"[1, 2]",
    "nothing": b"null",
    "a number": b"NaN",
    "two": b"{} {}",
}


def categories(path: Path) -> Any:
    folder = write_folder(path.parent / "data", images=1)
    (folder / "categories.json").write_bytes(path.read_bytes())
    return open_dataset(load_protocol("folder"), folder)


def labels_of_pseudo_labels(path: Path) -> Any:
    (path.parent / "labels.json").write_bytes(path.read_bytes())
    return PseudoLabelSource(PseudoLabels(pseudo_labels=path.parent))


def a_run(path: Path) -> Any:
    (path.parent / "result.json").write_bytes(path.read_bytes())
    return read_result(path.parent)


def groups(path: Path) -> Any:
    (path.parent / "groups.json").write_bytes(path.read_bytes())
    return Discovery.open(path.parent)


READERS: dict[str, Callable[[Path], Any]] = {
    "report": EvaluationReport.load,
    "journal": lambda path: read_journal(path) if path.write_bytes(path.read_bytes() + b"\n") else None,
    "bank": read_of_bank,
    "result": SegmentationResult.load,
    "labels": read_label_file,
    "categories": categories,
    "pseudo-labels": labels_of_pseudo_labels,
    "training": a_run,
    "groups": groups,
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_ends_in_one_sentence(tmp_path: Path, reader: str, kind: str) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(BAD[kind])
    if (reader, kind) == ("labels", "long number"):
        return  # refused by what it is, not by how it is read
    with pytest.raises(OvsegError) as caught:
        READERS[reader](path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700


@pytest.mark.parametrize("kind", BAD)
def test_a_result_that_cannot_be_read_is_made_again(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.json").write_bytes(BAD[kind])
    assert not is_done(Job(tmp_path / "a.jpg", tmp_path, "a"), {})


def test_the_reader_says_what_and_why(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(DatasetError, match=r"^no thing '.*a.json'; fetch it$"):
        read_json(path, what="thing", advice="fetch it", error=DatasetError)
    path.write_text(DEEP)
    with pytest.raises(ConfigError, match=r"^the thing '.*a.json' is nested too deep to be read; fetch it$"):
        read_json(path, what="thing", advice="fetch it")
    path.write_text("[]")
    with pytest.raises(ConfigError, match="must be a JSON object, got list; fetch it"):
        read_json(path, what="thing", advice="fetch it")
    path.write_text('{"a": 1}')
    assert read_json(path, what="thing", advice="fetch it") == {"a": 1}
    with pytest.raises(ImageError, match=r"it is cut off or not JSON \(Expecting value.*\); go"):
        parse_json("", source="it", advice="go", error=ImageError)


@pytest.mark.parametrize("text", [DEEP, "a: 2001-99-99", "a: [", "\x00"])
def test_yaml_from_outside_ends_in_one_sentence_too(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"nested too deep|is not valid YAML"):
        read_yaml(path)
    with pytest.raises(OvsegError):
        read_label_file(path)


# reports with values that no evaluation writes


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    data = write_folder(tmp_path_factory.mktemp("data") / "folder")
    values: dict[str, Any] = evaluate(Oracle(4), "folder", data=data).to_dict()
    return values


def changed(written: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    values: Any = json.loads(json.dumps(written))
    here, (*sections, key) = values, [int(part) if part.isdigit() else part for part in place.split("/")]
    for section in sections:
        here = here[section]
    if value is KeyError:
        del here[key]
    else:
        here[key] = value
    return values  # type: ignore[no-any-return]


ABSURD: list[tuple[str, Any]] = [
    *((place, value) for place in ("mean_iou", "iou/sky") for value in (-1e308, 1e308, float("inf"), "x", [])),
    *((key, KeyError) for key in ("mean_iou", "interval", "pixel_accuracy", "scores", "iou", "manifest", "names")),
    ("images", KeyError),
    ("interval", []),
    ("interval", {"a": 1}),
    ("scores/mean_class_accuracy", -1e308),
    ("names", []),
    ("names", ["sky", "road"]),
    ("names", [1, 2, 3]),
    ("names", None),
    ("manifest", []),
    ("manifest/scored", [0, 7]),
    ("manifest/scored", [-1e308]),
    ("manifest/scored", []),
    ("manifest/seconds_per_image", "soon"),
    ("manifest/leaks", {"count": 1}),
    ("manifest/remarks", [1]),
    ("images/0", 7),
    ("images/0/pairs", "-1e308,-1e308,-1e308"),
    ("images/0/pairs", "nan,0,1"),
    ("images/0/pairs", "0,0,inf"),
    ("images/0/pairs", "3,0,1"),
    ("images/0/pairs", "0,-2,1"),
    ("images/0/pairs", "0,0,-5"),
    ("images/0/pairs", "0.5,0,5"),
    ("images/0/pairs", "1,2"),
    ("images/0/asked", "9"),
    ("images/0/claimed", "-7"),
    ("images/0/seconds", float("nan")),
    ("images/0/boundary", "9,1,1,1,1,1,1"),
    ("images/0/calibration", "nan,nan,nan"),
    ("images/0/name", KeyError),
]


@pytest.mark.parametrize(("place", "value"), ABSURD, ids=lambda part: str(part)[:40])
def test_absurd_reports_are_refused_in_one_sentence(
    written: dict[str, Any], tmp_path: Path, place: str, value: Any
) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(changed(written, place, value)))
    with pytest.raises(ConfigError, match=r"is incomplete or not as it was written \(.*\); run it again") as caught:
        EvaluationReport.load(path)
    assert "\n" not in str(caught.value)


def test_a_report_of_numbers_that_are_all_absurd_is_refused(written: dict[str, Any], tmp_path: Path) -> None:
    def absurd(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: absurd(item) for key, item in value.items()}
        if isinstance(value, list):
            return [absurd(item) for item in value]
        return -1e308 if isinstance(value, int | float) else value

    (tmp_path / "report.json").write_text(json.dumps(absurd(written)))
    with pytest.raises(ConfigError, match="run it again"):
        EvaluationReport.load(tmp_path / "report.json")


def test_reports_that_only_say_they_are_of_one_protocol_are_not_compared(
    written: dict[str, Any], tmp_path: Path
) -> None:
    other = changed(written, "names", ["sky", "cat", "road"])
    other["iou"] = dict(zip(other["names"], written["iou"].values(), strict=True))
    for name, values in (("a", written), ("b", other)):
        (tmp_path / name).write_text(json.dumps(values))
    first, second = (EvaluationReport.load(tmp_path / name) for name in ("a", "b"))
    with pytest.raises(ConfigError, match="name one protocol, but A has 3 classes and B 3, or they are named"):
        compare_reports(first, second)


def test_a_report_in_which_nothing_counts_is_not_compared(written: dict[str, Any], tmp_path: Path) -> None:
    values = json.loads(json.dumps(written))
    for row in values["images"]:
        row["pairs"] = row["boundary"] = row["calibration"] = ""
    (tmp_path / "a").write_text(json.dumps(values))
    report = EvaluationReport.load(tmp_path / "a")
    with pytest.raises(ConfigError, match="no pixel of the images of A counts, so there is nothing to compare"):
        compare_reports(report, report)


def test_rows_of_classes_that_are_not_there_are_a_damaged_journal(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data")
    evaluate(Oracle(4), "folder", data=data, out=tmp_path / "out", options=RunOptions(sheet=False))
    path = tmp_path / "out" / "rows-00000.jsonl"
    first, second, *rest = path.read_text().splitlines()
    row = {**json.loads(second), "pairs": "7,0,3"}
    path.write_text("\n".join([first, json.dumps(row), *rest]) + "\n")
    with pytest.raises(
        ConfigError, match=r"line 2 of '.*' is damaged .*pairs of '.*' must hold class indices below 3"
    ):
        evaluate(Oracle(4), "folder", data=data, out=tmp_path / "out", options=RunOptions(sheet=False))


@pytest.mark.parametrize(
    "content",
    [
        '{"categories": [{"id": 1.5, "name": "sky"}]}',
        '{"categories": [{"id": Infinity, "name": "sky"}]}',
        '{"categories": [{"id": true, "name": "sky"}]}',
        '{"categories": [{"id": 0, "name": null}]}',
        '{"categories": [{"id": 0, "name": ["sky"]}]}',
        '{"categories": [7]}',
        '{"categories": 7}',
        '{"ignore": ["a"], "categories": [{"id": 0, "name": "sky"}]}',
        '{"ignore": {}, "categories": [{"id": 0, "name": "sky"}]}',
    ],
)
def test_categories_of_other_kinds_are_refused(tmp_path: Path, content: str) -> None:
    folder = write_folder(tmp_path / "data", images=1)
    (folder / "categories.json").write_text(content)
    with pytest.raises(DatasetError, match="is not a list of categories"):
        open_dataset(load_protocol("folder"), folder)


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("labels.json", '{"labels": 7}', "must list labels"),
        ("labels.json", '{"labels": ["a"], "synonyms": []}', "must list labels"),
        ("labels.json", '{"labels": ["a"], "synonyms": {"a": 7}}', "must list labels"),
        ("manifest-000.jsonl", '{"path": "a", "name": 7}\n', "line 1 of .* is no line of pseudo-labels"),
        ("manifest-000.jsonl", '{"path": "a", "name": "a", "pixels": [1], "height": 1, "width": 1}\n', "no line"),
        ("manifest-000.jsonl", '{"error": "x"}\n', "no line"),
    ],
)
def test_pseudo_labels_that_say_something_else_are_refused(
    tmp_path: Path, file: str, content: str, told: str
) -> None:
    folder = write_masks(tmp_path / "data", seed=0, names=("sky", "road", "cat"))
    root = write_pseudo_labels(folder)
    assert report_of_labels(root).images == 3
    (root / file).write_text(content)
    for read in (report_of_labels, lambda place: PseudoLabelSource(PseudoLabels(pseudo_labels=place))):
        with pytest.raises(DatasetError, match=told):
            read(root)  # type: ignore[operator]
