"""The API: answers are the model's own, and every refusal is one sentence with its status."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.serving import LABELS, b64, folder_of_photos, make_client, needs_server, png, refused, two_squares
from helpers.toy import within
from PIL import Image
from pycocotools import mask as coco_masks

from ovseg.bank import ImageBank
from ovseg.files import sha256_of_bytes
from ovseg.pipeline.segmenter import Segmenter
from ovseg.vocabulary.labels import Concept

needs_server()


@pytest.fixture(scope="module")
def client() -> Any:
    return make_client()


def form(client: Any, content: bytes | None = None, place: str = "/segment", **fields: Any) -> Any:
    file = png() if content is None else content
    return client.post(place, files={"file": ("photo.png", file, "image/png")}, data=fields)


def index_of(answer: Any) -> Any:
    """The index map in a JSON answer, -1 for none."""
    stored = np.array(Image.open(io.BytesIO(base64.b64decode(answer.json()["index_png"])))).astype(int)
    return np.where(stored == answer.json()["none"], -1, stored)


@pytest.mark.parametrize("background", ["auto", "none"])
def test_a_form_answers_what_the_segmenter_does(client: Any, segmenter: Segmenter, background: str) -> None:
    answer = form(client, labels="red, blue", background=background)
    expected = segmenter.segment(two_squares(), LABELS, background=None if background == "none" else "auto")
    said = answer.json()
    assert answer.status_code == 200 and said["labels"] == LABELS and said["size"] == [64, 96]
    assert said["presence"] == expected.presence
    assert said["areas"] == {row.label: row.area for row in expected.table()}
    np.testing.assert_array_equal(index_of(answer), expected.index_map)
    assert (index_of(answer)[20:44, 12:36] == 0).all() and (index_of(answer)[20:44, 60:84] == 1).all()
    assert said["photo"] == answer.headers["X-Ovseg-Photo"] == sha256_of_bytes(png())


def test_json_answers_as_a_form_does(client: Any) -> None:
    answer = client.post("/segment", json={"image": b64(png()), "labels": LABELS})
    assert answer.json() == form(client, labels="red,blue").json()
    with_head = client.post("/segment", json={"image": "data:image/png;base64," + b64(png()), "labels": LABELS})
    assert with_head.json() == answer.json()


def test_repeated_fields_and_lists_in_json_are_the_same_labels(client: Any) -> None:
    one = form(client, labels="red,blue").json()
    assert form(client, labels=["red", "blue"]).json() == form(client, labels='["red", "blue"]').json() == one


def test_the_formats_hold_what_the_result_holds(client: Any, segmenter: Segmenter) -> None:
    expected = segmenter.segment(two_squares(), LABELS)
    answers = {kind: form(client, labels="red,blue", format=kind) for kind in ("png", "overlay", "coco", "rle")}
    stored = np.array(Image.open(io.BytesIO(answers["png"].content))).astype(int)
    np.testing.assert_array_equal(np.where(stored == 255, -1, stored), expected.index_map)
    shown = np.array(Image.open(io.BytesIO(answers["overlay"].content)))
    np.testing.assert_array_equal(shown, np.array(expected.overlay()))
    assert answers["coco"].json() == json.loads(json.dumps(expected.to_coco()))
    rle = answers["rle"].json()["red"]
    np.testing.assert_array_equal(coco_masks.decode(rle).astype(bool), expected["red"])


def test_geojson_is_what_a_file_of_it_holds(client: Any, segmenter: Segmenter, tmp_path: Path) -> None:
    image = two_squares()
    image[28:36, 20:28] = 120  # a hole
    found = form(client, png(image), labels="red", format="geojson").json()
    (feature,) = found["features"]
    outer = np.array(feature["geometry"]["coordinates"][0])
    assert feature["properties"]["label"] == "red" and (outer[0] == outer[-1]).all()
    assert abs(outer[:, 0].min() - 8) <= 4 and abs(outer[:, 1].max() - 48) <= 4
    Image.fromarray(image).save(tmp_path / "squares.png")
    segmenter.segment(tmp_path / "squares.png", ["red"]).export("geojson", tmp_path / "out")
    (written,) = (tmp_path / "out").rglob("*.geojson")
    assert json.loads(written.read_text()) == found


def test_objects_are_found_when_they_are_asked_for(client: Any) -> None:
    fields = {"image": b64(png()), "labels": LABELS, "instances": ["red"], "quality": "fast"}
    said = client.post("/segment", json=fields).json()
    assert [each["label"] for each in said["instances"]] == ["red"] and said["things"] == ["red"]
    x0, y0, x1, y1 = said["instances"][0]["box"]
    assert abs(x0 - 8) <= 4 and abs(y0 - 16) <= 4 and abs(x1 - 40) <= 4 and abs(y1 - 48) <= 4


def test_a_label_may_be_shown_by_a_photo_that_was_sent_before(client: Any, segmenter: Segmenter) -> None:
    photo = form(client, labels="red").json()["photo"]
    mask = np.zeros((64, 96), bool)
    mask[16:48, 8:40] = True
    drawn = b64(png(np.repeat(mask[..., None].astype(np.uint8) * 255, 3, 2)))
    example = {"label": "thing", "photo": photo, "mask": drawn}
    said = client.post("/segment", json={"image": b64(png()), "labels": ["blue"], "examples": [example]})
    concept = Concept("thing", images=(two_squares(),), masks=(mask,))
    expected = segmenter.segment(two_squares(), ["blue", concept])
    assert said.status_code == 200 and said.json()["labels"] == ["blue", "thing"]
    np.testing.assert_array_equal(index_of(said), expected.index_map)


def test_examples_are_given_to_the_model_as_concepts(monkeypatch: pytest.MonkeyPatch) -> None:
    client = make_client()
    service, given = client.app.state.service, []
    segment = service.segmenter.segment

    def listen(image: Any, labels: Any, **rest: Any) -> Any:
        given.extend(labels)
        return segment(image, ["red"])

    monkeypatch.setattr(service.segmenter, "segment", listen)
    places = [{"label": "box", "box": [8, 16, 40, 48]}, {"label": "dot", "point": [24, 32]}, {"label": "all"}]
    examples = json.dumps([{**each, "image": b64(png())} for each in places])
    assert form(client, labels="red,dot", examples=examples).status_code == 200
    red, dot, box, everything = given
    assert red == "red" and [each.label for each in (dot, box, everything)] == ["dot", "box", "all"]
    assert box.boxes == ((8, 16, 40, 48),) and dot.points == ((24, 32),) and not everything.points
    np.testing.assert_array_equal(everything.images[0], two_squares())
    twice = json.dumps([{"label": "x", "image": b64(png()), "point": [1, 2], "box": [1, 2, 3, 4]}])
    refused(form(client, labels="red", examples=twice), 422, "one of box, point and mask for 'x'")


def test_examples_are_bounded_together() -> None:
    client = make_client(limits={"max_pixels": 2 * 64 * 96})
    examples = [{"label": "red", "image": b64(png()), "point": [24, 32]} for _ in range(3)]
    asked = {"image": b64(png()), "labels": ["blue"]}
    answer = client.post("/segment", json=asked | {"examples": examples})
    refused(answer, 413, "more than the limit of 12288 pixels together")
    assert client.app.state.service.photos.misses == 0


def test_a_second_request_of_a_photo_encodes_nothing() -> None:
    client = make_client()
    photos = client.app.state.service.photos
    first = form(client, labels="red")
    again = form(client, labels="blue")
    by_mark = client.post("/segment", json={"photo": first.json()["photo"], "labels": ["blue"]})
    assert again.json() == by_mark.json() and (photos.misses, photos.hits) == (1, 2)


def test_a_mark_of_no_photo_is_not_found(client: Any) -> None:
    refused(client.post("/segment", json={"photo": "0" * 64, "labels": ["red"]}), 404, "send the file again")


def test_a_click_selects_as_the_segmenter_does(client: Any, segmenter: Segmenter) -> None:
    expected = segmenter.select(two_squares(), positive=[(24, 32)], negative=[(70, 32)], using="features")
    fields = {"positive": [[24, 32]], "negative": [[70, 32]], "using": "features"}
    said = client.post("/select", json={"image": b64(png()), **fields}).json()
    np.testing.assert_array_equal(coco_masks.decode(said["rle"]).astype(bool), expected.mask)
    assert said["area"] == expected.area and said["box"] == list(expected.box or ())
    again = client.post("/select", json={"photo": said["photo"], "format": "png", "level": "part", **fields})
    mask = np.array(Image.open(io.BytesIO(again.content))) > 0
    np.testing.assert_array_equal(mask, expected.at("part").mask)
    written = form(client, place="/select", positive="24,32", negative="70,32", using="features")
    assert written.json() == said
    boxed = form(client, place="/select", box="6,14,42,50", using="features", format="cutout")
    assert Image.open(io.BytesIO(boxed.content)).mode == "RGBA"


def test_a_click_outside_is_refused(client: Any) -> None:
    fields = {"image": b64(png()), "positive": [[500, 2]], "using": "features"}
    refused(client.post("/select", json=fields), 422, "must lie in the image of 96 x 64 pixels")
    refused(form(client, place="/select", positive="1,2,3"), 422, "'positive.0' cannot be read")
    refused(client.post("/select", json={"image": b64(png())}), 422, "got nothing")


def test_a_bank_is_searched_by_words_and_by_photo(bank: ImageBank, segmenter: Segmenter, photos: Path) -> None:
    client = make_client(bank=bank, segmenter=segmenter, folder=photos)
    found = client.post("/search", json={"text": "red", "count": 3}).json()["found"]
    expected = bank.search("red", 3)
    assert [each["path"] for each in found] == [Path(path).name for path in expected.paths[0]]
    assert found[0]["cosine"] == pytest.approx(float(expected.cosine[0, 0]), abs=1e-6)
    content = (photos / found[0]["path"]).read_bytes()
    alike = form(client, content, "/search", count="1").json()["found"]
    assert alike[0]["path"] == found[0]["path"] and alike[0]["cosine"] == pytest.approx(1, abs=1e-4)
    by_path = client.post("/search", json={"path": found[0]["path"], "count": 1}).json()["found"]
    assert by_path == alike


@pytest.mark.parametrize(
    "text", ["/etc/hostname", "/etc", "../none.png", "http://127.0.0.1:1/x.png", "photo.png", "photo"]
)
def test_a_text_is_words_and_never_a_file_or_an_address(
    bank: ImageBank, segmenter: Segmenter, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("photo.png", "photo"):
        (tmp_path / name).write_bytes(png())
    client = make_client(bank=bank, segmenter=segmenter)
    monkeypatch.setattr(segmenter, "encode", lambda *given, **named: pytest.fail("a picture was read"))
    found = client.post("/search", json={"text": text, "count": 2})
    assert found.status_code == 200 and len(found.json()["found"]) == 2
    assert client.post("/search", json={"text": "red", "without": text, "count": 2}).status_code == 200


def test_a_search_without_a_bank_says_how_to_give_one(client: Any) -> None:
    refused(client.post("/search", json={"text": "red"}), 422, "start it with --bank DIR")


def test_health_models_and_the_description_are_told(client: Any) -> None:
    assert client.get("/health").json()["status"] == "UP"
    models = client.get("/models").json()
    assert models["serving"] == "toy" and models["models"][0]["name"] == "mini"
    document = client.get("/openapi.json").json()
    body = document["paths"]["/segment"]["post"]["requestBody"]["content"]
    assert body["application/json"]["example"] == {"path": "street.jpg", "labels": ["road", "car"]}
    assert "file" in body["multipart/form-data"]["schema"]["properties"]
    assert "#/components/schemas/Example" in json.dumps(body) and "Example" in document["components"]["schemas"]
    assert "error" in json.dumps(document["paths"]["/select"]["post"]["responses"]["422"])


def test_metrics_count_requests_and_the_cache() -> None:
    client = make_client()
    form(client, labels="red")
    form(client, labels="blue")
    form(client, b"nonsense", labels="blue")
    client.get("/nothing/here")
    lines = client.get("/metrics").text.splitlines()
    for line in (
        'ovseg_requests_total{path="/segment",status="200"} 2',
        'ovseg_requests_total{path="/segment",status="415"} 1',
        'ovseg_requests_total{path="page",status="404"} 1',
        'ovseg_request_seconds_count{path="/segment"} 3',
        "ovseg_cache_hits_total 1",
        "ovseg_cache_misses_total 2",
        "ovseg_cache_photos 1",
        "ovseg_queue_taken 0",
        "ovseg_queue_places 16",
    ):
        assert line in lines, lines


def bomb() -> bytes:
    """A PNG of a few bytes whose header promises 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><image href="file:///etc/passwd"/></svg>'
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"


@pytest.mark.parametrize(
    ("content", "status", "told"),
    [
        (bomb(), 413, "60000 x 60000 pixels, more than the limit of 50000000"),
        (b"", 415, "got 0 bytes"),
        (b"just text", 415, "begins with b'just tex'"),
        (SVG, 415, "expected an image"),
        (EPS, 415, "got the format EPS"),
        (png()[:100], 415, "cut off or damaged"),
    ],
)
def test_what_is_no_photo_is_refused(client: Any, content: bytes, status: int, told: str) -> None:
    refused(form(client, content, labels="red"), status, told)
    refused(client.post("/segment", json={"image": b64(content), "labels": ["red"]}), status, told)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, "at least one label, got an empty list"),
        ({"labels": ["x"] * 2000}, "expected at most 1000 labels, got 2000"),
        ({"labels": [f"thing {n}" for n in range(100_000)]}, "expected at most 1000 labels, got 100000"),
        ({"labels": ["red"], "background": ["x"] * 1000}, "expected at most 1000 labels, got 1001"),
        ({"labels": "red"}, "'labels' cannot be read"),
        ({"labels": ["red", "red"]}, "must all be different"),
        ({"labels": ["red; blue"]}, "must be one label"),
        ({"labels": ["r" * 600]}, "at most 500 characters"),
        ({"labels": ["red"], "lables": ["x"]}, "'lables' cannot be read: extra inputs"),
        ({"labels": ["red"], "format": "tiff"}, "'format' cannot be read"),
        ({"labels": ["red"], "min_score": 2}, "'min_score' cannot be read"),
        ({"labels": ["red"], "instances": ["sky"]}, "asks for 'sky'"),
        ({"labels": ["red"], "photo": "0" * 64}, "got image and photo"),
        ({"labels": ["red"], "path": "photo.png"}, "got image and path"),
        ({"labels": ["red"], "examples": [{"label": "x"}]}, "expected one photo"),
    ],
)
def test_fields_that_cannot_be_used_are_refused(client: Any, fields: dict[str, Any], told: str) -> None:
    refused(client.post("/segment", json={"image": b64(png()), **fields}), 422, told)


@pytest.mark.parametrize(
    ("body", "kind", "status", "told"),
    [
        (b'{"labels": ["red"', "application/json", 422, "the body is cut off or not JSON"),
        (b"[" * 100_000, "application/json", 422, "nested too deep"),
        (b"[1]", "application/json", 422, "must be a JSON object, got list"),
        (b"\xff\xfe{}", "application/json", 422, "is not UTF-8"),
        (b'{"image": "%%%", "labels": ["red"]}', "application/json; charset=utf-7", 422, "in base64"),
        (
            b'{"min_score": NaN, "image": "", "labels": ["red"]}',
            "application/json",
            422,
            "'min_score' cannot be read",
        ),
        (b"labels=red", "application/x-www-form-urlencoded", 415, "got 'application/x-www-form-urlencoded'"),
        (b"", "", 415, "got ''"),
        (b"--x--", "multipart/form-data", 422, "the form cannot be read"),
        (b"nonsense", "multipart/form-data; boundary=x", 422, "the form cannot be read"),
    ],
)
def test_bodies_that_cannot_be_read_are_refused(
    client: Any, body: bytes, kind: str, status: int, told: str
) -> None:
    refused(client.post("/segment", content=body, headers={"Content-Type": kind}), status, told)


def test_a_form_with_the_wrong_parts_is_refused(client: Any) -> None:
    refused(client.post("/segment", files={"photo": png()}), 422, "in the part 'file', got a file in 'photo'")
    refused(client.post("/segment", files=[("file", png()), ("file", png())]), 422, "Too many files")
    refused(form(client, labels="red", format=["png", "json"]), 422, "'format' must come once")
    refused(client.post("/segment", data={"labels": "red"}, files={"x": (None, b"1")}), 422, "'x' cannot be read")


@pytest.mark.parametrize("path", ["photo.png", "sub/other.png", "sub/../photo.png", "within.png"])
def test_photos_inside_the_folder_may_be_named(tmp_path: Path, path: str) -> None:
    client = make_client(folder=folder_of_photos(tmp_path))
    assert client.post("/segment", json={"path": path, "labels": ["red"]}).status_code == 200


def test_without_a_folder_no_path_is_read(client: Any) -> None:
    refused(client.post("/segment", json={"path": "photo.png", "labels": ["red"]}), 422, "--folder DIR")


def test_a_file_of_the_folder_has_the_same_limit(tmp_path: Path) -> None:
    client = make_client(folder=folder_of_photos(tmp_path), limits={"max_bytes": 120})
    refused(client.post("/segment", json={"path": "photo.png", "labels": ["red"]}), 413, "limit of 120 bytes")


def test_an_unknown_path_is_one_sentence(client: Any) -> None:
    refused(client.get("/nothing"), 404, "Not Found")
    refused(client.get("/segment"), 405, "Method Not Allowed")


def test_a_fault_of_our_own_is_told_without_its_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    client = make_client()
    monkeypatch.setattr(client.app.state.service, "segment", lambda *given: 1 / 0)
    refused(form(client, labels="red"), 500, "this server failed; its log says why")


def test_answers_are_the_same_within_a_bound_on_memory_and_what_does_not_fit_is_refused(
    client: Any, segmenter: Segmenter
) -> None:
    bounded = within(segmenter, 200_000_000)
    kept = make_client(segmenter=bounded)
    assert form(kept, labels="red,blue").json() == form(client, labels="red,blue").json()
    large = np.zeros((1200, 1600, 3), np.uint8)
    told = "the file has 1600 x 1200 pixels, which need at least"
    refused(form(kept, png(large), labels="red,blue"), 413, told, "got max_memory=200 MB")
    assert len(kept.app.state.service.photos) == 1
    refused(form(kept, place="/select", positive="[[20, 20]]"), 413, "and objects, got max_memory=200 MB")
