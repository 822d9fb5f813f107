"""Label Studio's protocol: its configurations and tasks, and predictions as it draws them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.brush import decode_brush
from helpers.serving import (
    b64,
    folder_of_photos,
    make_client,
    needs_server,
    png,
    refused,
    two_squares,
)

from ovseg.pipeline.segmenter import Segmenter

needs_server()
LABELS = '<Label value="red"/><Label value="blue"/>'


def config(kind: str = "BrushLabels", labels: str = LABELS) -> str:
    drawn = f'<{kind} name="tag" toName="photo">{labels}</{kind}>'
    return f'<View><Image name="photo" value="$image"/>{drawn}</View>'


def ask(client: Any, *, kind: str = "BrushLabels", image: str = "", **more: Any) -> Any:
    source = image or "data:image/png;base64," + b64(png())
    body = {"tasks": [{"id": 1, "data": {"image": source}}], "label_config": config(kind), "project": "1.2", **more}
    return client.post("/predict", json=body)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_client(folder=folder_of_photos(tmp_path_factory.mktemp("studio")))


def test_brush_masks_are_those_of_the_segmenter(client: Any, segmenter: Segmenter) -> None:
    said = ask(client).json()
    (prediction,) = said["results"]
    expected = segmenter.segment(two_squares(), ["red", "blue"])
    assert said["model_version"] == prediction["model_version"] == "toy" and 0 < prediction["score"] <= 1
    assert [part["value"]["brushlabels"] for part in prediction["result"]] == [["red"], ["blue"]]
    for part in prediction["result"]:
        (label,) = part["value"]["brushlabels"]
        assert (part["from_name"], part["to_name"], part["type"]) == ("tag", "photo", "brushlabels")
        assert (part["original_width"], part["original_height"], part["image_rotation"]) == (96, 64, 0)
        assert part["value"]["format"] == "rle"
        mask = decode_brush(part["value"]["rle"]).reshape(64, 96, 4)[..., 3] > 0
        np.testing.assert_array_equal(mask, expected[label])


def test_outlines_and_boxes_are_in_percent(client: Any, segmenter: Segmenter) -> None:
    red = segmenter.segment(two_squares(), ["red", "blue"])
    (x0, y0, x1, y1) = red.boxes("red")[0]
    (box, *_) = ask(client, kind="RectangleLabels").json()["results"][0]["result"]
    expected = [100 * x0 / 96, 100 * y0 / 64, 100 * (x1 - x0) / 96, 100 * (y1 - y0) / 64]
    assert [box["value"][name] for name in ("x", "y", "width", "height")] == pytest.approx(expected)
    (outline, *_) = ask(client, kind="PolygonLabels").json()["results"][0]["result"]
    points = np.array(outline["value"]["points"])
    assert outline["value"]["polygonlabels"] == ["red"] and points.min() >= 0 and points.max() <= 100
    assert points[:, 0].min() == pytest.approx(expected[0]) and points[:, 1].min() == pytest.approx(expected[1])


@pytest.mark.parametrize(
    "source",
    ["photo.png", "/data/local-files/?d=sub/other.png", "http://studio.example/data/local-files/?d=photo.png"],
)
def test_photos_of_the_folder_are_read_by_local_paths(client: Any, source: str) -> None:
    assert ask(client, image=source).status_code == 200


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("http://127.0.0.1:9/x.png", "fetches no address"),
        ("s3://bucket/x.png", "fetches no address"),
        ("file:///etc/passwd", "fetches no address"),
        ("/data/local-files/?d=../secret.png", "in the folder of this server"),
        ("/etc/passwd", "in the folder of this server"),
    ],
)
def test_no_address_is_fetched_and_no_other_file_read(client: Any, source: str, told: str) -> None:
    refused(ask(client, image=source), 422, told)


def test_a_click_of_a_person_selects(monkeypatch: pytest.MonkeyPatch, client: Any, segmenter: Segmenter) -> None:
    asked: list[Any] = []
    service = client.app.state.service
    select = service.select

    def by_features(request: Any, photo: Any) -> Any:
        asked.append(request)
        return select(request.model_copy(update={"using": "features"}), photo)

    monkeypatch.setattr(service, "select", by_features)
    click = {"type": "keypointlabels", "is_positive": 1, "value": {"x": 25, "y": 50, "keypointlabels": ["blue"]}}
    off = {"type": "keypointlabels", "is_positive": 0, "value": {"x": 75, "y": 50, "keypointlabels": ["blue"]}}
    box = {"type": "rectanglelabels", "value": {"x": 0, "y": 0, "width": 50, "height": 100}}
    said = ask(client, params={"context": {"result": [click, off]}}).json()
    (part,) = said["results"][0]["result"]
    expected = segmenter.select(two_squares(), positive=[(24, 32)], negative=[(72, 32)], using="features")
    assert part["value"]["brushlabels"] == ["blue"] and asked[0].positive == [[24, 32]]
    np.testing.assert_array_equal(decode_brush(part["value"]["rle"]).reshape(64, 96, 4)[..., 0] > 0, expected.mask)
    assert ask(client, params={"context": {"result": [box]}}).status_code == 200 and asked[1].box == [0, 0, 48, 64]
    broken = {"type": "keypointlabels", "value": {"x": "left"}}
    refused(ask(client, params={"context": {"result": [broken]}}), 422, "clicks and boxes in percent")


def test_setup_and_health_answer_as_label_studio_asks(client: Any) -> None:
    assert client.post("/setup", json={"project": "1", "schema": config()}).json() == {"model_version": "toy"}
    assert client.get("/health").json()["status"] == "UP"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"tasks": 3, "label_config": config()}, "expected a list 'tasks'"),
        ({"tasks": [{}] * 101, "label_config": config()}, "at most 100 tasks, got 101"),
        ({"tasks": [], "label_config": "<View"}, "is no XML"),
        ({"tasks": [], "label_config": None}, "in XML, got something else"),
        ({"tasks": [], "label_config": '<!DOCTYPE x [<!ENTITY a "b">]><View/>'}, "in XML, got something else"),
        ({"tasks": [], "label_config": "<View/>"}, "with BrushLabels, PolygonLabels or RectangleLabels"),
        ({"tasks": [], "label_config": config(labels='<Label value="x"/>' * 2000)}, "at most 1000 labels"),
        ({"tasks": [{"data": {}}], "label_config": config()}, "in its data 'image', got none"),
        ({"tasks": [{}], "label_config": config()}, "in its data 'image', got none"),
        ({"tasks": [{"data": {"image": "photo.png"}}], "label_config": config(labels="")}, "at least one label"),
    ],
)
def test_what_cannot_be_used_is_refused(client: Any, body: dict[str, Any], told: str) -> None:
    refused(client.post("/predict", json=body), 422, told)


def test_local_files_need_a_folder(tmp_path: Path) -> None:
    refused(ask(make_client(), image="photo.png"), 422, "--folder DIR")
