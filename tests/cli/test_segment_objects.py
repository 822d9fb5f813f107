"""Objects on the command line: counts, crops, panoptic pictures, and what cannot be asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

import ovseg
from ovseg.cli import build_app
from ovseg.errors import OvsegError
from ovseg.result import Segment, SegmentationResult
from ovseg.result.panoptic import picture_to_ids
from ovseg.vocabulary.labels import Vocabulary, check_things

Invoke = Callable[..., Result]


class Counting:
    """Finds the upper half of every image the first label, and two objects of it."""

    side_by_side = True

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def identity(self, labels: list[str], **options: Any) -> dict[str, str]:
        return {"labels": str(labels)}

    def segment_batch(self, images: list[np.ndarray], labels: list[str], **options: Any) -> Any:
        return (self.segment(image, labels, **options) for image in images)

    def segment(self, image: np.ndarray, labels: list[str], **options: Any) -> SegmentationResult:
        self.calls.append(options)
        size = image.shape[:2]
        index_map = np.full(size, -1, np.int32)
        index_map[: size[0] // 2] = 0
        square = np.ones((size[0] // 2, size[1] // 2), bool)
        pair = tuple(
            Segment.of_mask(square, labels[0], 0.9 - n / 10, corner=(0, n * size[1] // 2), size=size)
            for n in (0, 1)
        )
        things = check_things(Vocabulary.of(labels), options.get("instances", False))
        return SegmentationResult(
            index_map,
            tuple(labels),
            np.full(size, 0.5, np.float32),
            dict.fromkeys(labels, 0.9),
            instances=pair if things else None,
            things=things,
            provenance={"m": 1},
        )


@pytest.fixture
def segmenter(monkeypatch: pytest.MonkeyPatch) -> Counting:
    fake = Counting()
    monkeypatch.setattr(ovseg, "load", lambda *_, **__: fake, raising=False)
    return fake


@pytest.fixture
def invoke(segmenter: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    monkeypatch.chdir(tmp_path)
    for name, colour in (("a.png", (90, 120, 40)), ("b.png", (10, 20, 30))):
        Image.new("RGB", (60, 40), colour).save(name)
    return lambda *arguments: CliRunner().invoke(build_app(), ["segment", *map(str, arguments)])


def test_objects_are_counted_in_the_table_and_listed_in_json(invoke: Invoke, segmenter: Counting) -> None:
    done = invoke("a.png", "cat", "sky", "--instances", "--quality", "fast")
    assert done.exit_code == 0
    assert segmenter.calls[-1]["instances"] is True and segmenter.calls[-1]["quality"] == "fast"
    heading, cat, sky = (line.split() for line in done.stdout.splitlines()[:3])
    assert heading[-1] == "count" and cat[-1] == "2" and sky[-1] == "0.90"  # the sky is no thing: no count
    (document,) = map(json.loads, invoke("b.png", "cat", "--instances", "--json").stdout.splitlines())
    assert document["labels"][0]["objects"] == 2
    assert [each["box"] for each in document["instances"]] == [[0, 0, 30, 20], [30, 0, 60, 20]]


def test_without_objects_there_is_no_column_for_them(invoke: Invoke, segmenter: Counting) -> None:
    assert "count" not in invoke("a.png", "cat").stdout
    assert "instances" not in segmenter.calls[-1]


def test_a_result_with_objects_is_not_taken_for_one_without(invoke: Invoke, segmenter: Counting) -> None:
    for arguments in ((), ("--instances",), ("--instances",), ("--instances", "--quality", "best")):
        invoke("a.png", "cat", *arguments)
    assert len(segmenter.calls) == 3  # the same call is not done twice


def test_crops_are_written_also_for_results_that_are_done(invoke: Invoke, segmenter: Counting) -> None:
    assert invoke("a.png", "cat", "--instances").exit_code == 0
    assert invoke("a.png", "cat", "--crops").exit_code == 0
    assert len(segmenter.calls) == 1
    crops = sorted(Path("out/a_crops").glob("*.png"))
    assert [path.name for path in crops] == ["001_cat.png", "002_cat.png"]
    with Image.open(crops[0]) as crop:
        assert (crop.mode, crop.size, crop.getpixel((3, 3))) == ("RGBA", (30, 20), (90, 120, 40, 255))


def test_panoptic_pictures_and_one_file_for_all(invoke: Invoke) -> None:
    assert invoke("a.png", "b.png", "cat", "sky", "--instances", "--format", "panoptic").exit_code == 0
    document = json.loads(Path("out/_panoptic.coco.json").read_text())
    assert [row["file_name"] for row in document["annotations"]] == ["a_panoptic.png", "b_panoptic.png"]
    assert [(row["name"], row["isthing"]) for row in document["categories"]] == [("cat", 1), ("sky", 0)]
    ids = picture_to_ids(np.asarray(Image.open("out/b_panoptic.png")))
    info = {row["id"]: row["area"] for row in document["annotations"][1]["segments_info"]}
    assert info == {1: 600, 2: 600} == {number: int((ids == number).sum()) for number in (1, 2)}
    assert SegmentationResult.load("out/a.json").instances is not None


def test_labels_without_objects_are_refused_before_the_model_is_loaded(invoke: Invoke, segmenter: Counting) -> None:
    done = invoke("a.png", "sky", "road", "--instances")
    assert isinstance(done.exception, OvsegError) and "got sky, road, only areas" in str(done.exception)
    assert segmenter.calls == []


def test_objects_of_named_labels_alone_are_found(invoke: Invoke, segmenter: Counting) -> None:
    done = invoke("a.png", "cat", "dog", "sky", "--instances-of", " sky, cat,sky")
    assert done.exit_code == 0, done.output
    assert segmenter.calls[-1]["instances"] == ["sky", "cat"]
    counted = {line.split()[0]: len(line.split()) for line in done.stdout.splitlines()[1:4]}
    assert counted["sky"] == counted["cat"] == counted["dog"] + 1  # the dog is not counted
    for other in (("--instances",), ("--instances-of", "cat"), ("--instances", "--instances-of", "cat,sky")):
        invoke("a.png", "cat", "dog", "sky", *other)
    assert [call["instances"] for call in segmenter.calls[1:]] == [True, ["cat"], ["cat", "sky"]]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ("dogs", "instances asks for 'dogs', which is none of the labels; did you mean 'dog'"),
        (" ,", "--instances-of expects labels with commas between, got ' ,'"),
    ],
)
def test_named_labels_that_are_none_are_refused_before_the_model_is_loaded(
    invoke: Invoke, segmenter: Counting, names: str, told: str
) -> None:
    done = invoke("a.png", "cat", "dog", "--instances-of", names)
    assert isinstance(done.exception, OvsegError) and told in str(done.exception)
    assert segmenter.calls == []
