import base64
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovseg.errors import ImageError, OutputError, ShapeError, VocabularyError
from ovseg.result import SegmentationResult


def make_result(index_map: Any, labels: tuple[str, ...] = ("cat", "dog"), **changes: Any) -> SegmentationResult:
    indices = index_map if isinstance(index_map, np.ndarray) else np.array(index_map, dtype=np.int32)
    fields: dict[str, Any] = {
        "index_map": indices,
        "labels": labels,
        "score_map": np.full(indices.shape[:2], 0.5, np.float32),
        "presence": dict.fromkeys(labels, 0.75),
    }
    return SegmentationResult(**(fields | changes))


def test_mask_area_and_pixels_agree() -> None:
    result = make_result([[0, 0, 1], [-1, 0, -1]])
    assert result.mask("cat").tolist() == [[True, True, False], [False, True, False]]
    assert result.pixels("cat") == 3
    assert result.area("cat") == 0.5
    assert result.size == (2, 3)


@pytest.mark.parametrize("name", ["../../x", "a/b", "..", "", "/tmp/x", "a\\b"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match="a file's name without folders"):
        make_result([[0]]).save(tmp_path / "in", name=name)
    assert not list(tmp_path.iterdir())


def test_a_name_as_long_as_allowed_is_saved_and_a_longer_one_is_refused(tmp_path: Path) -> None:
    assert len(make_result([[0]]).save(tmp_path, name="é" * 110)) == 3
    with pytest.raises(OutputError, match="at most 220 bytes, got 222"):
        make_result([[0]]).save(tmp_path, name="é" * 111)


def test_a_result_is_asked_by_label_like_a_dictionary() -> None:
    result = make_result([[0, 0, -1]])
    assert result["cat"].tolist() == [[True, True, False]]
    assert "dog" in result and "cow" not in result and 0 not in result
    assert list(result) == ["cat", "dog"]
    with pytest.raises(VocabularyError, match="did you mean 'cat'"):
        result["cats"]


def test_small_parts_become_none_or_what_is_nearest() -> None:
    index_map = [[0, 0, 1, 1, -1, 0], [0, 0, 1, 1, -1, -1], [-1, 1, -1, -1, 0, 0]]  # 1 touches the rest by a corner
    result = make_result(index_map, score_map=np.linspace(0, 1, 18, dtype=np.float32).reshape(3, 6))
    assert result.without_small(1).index_map.tolist() == index_map
    assert result.without_small(2).index_map.tolist() == [
        [0, 0, 1, 1, -1, -1], [0, 0, 1, 1, -1, -1], [-1, 1, -1, -1, 0, 0]
    ]  # fmt: skip
    assert result.without_small(5).index_map.tolist() == [
        [-1, -1, 1, 1, -1, -1], [-1, -1, 1, 1, -1, -1], [-1, 1, -1, -1, -1, -1]
    ]  # fmt: skip
    filled = make_result([[0, 0, 0, 1, 0]], score_map=np.array([[0.1, 0.2, 0.3, 0.4, 0.5]], np.float32))
    again = filled.without_small(2, fill=True)
    assert again.index_map.tolist() == [[0, 0, 0, 0, 0]]
    assert again.score_map[0].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.3, 0.3])
    assert filled.without_small(9, fill=True) is filled
    with pytest.raises(ShapeError, match="min_area must be at least 0"):
        result.without_small(-1)


def test_a_notebook_shows_overlay_and_table_with_escaped_text() -> None:
    page = make_result(np.zeros((900, 1200), np.int32), labels=("<script>&", "dog"))._repr_html_()
    assert "<script>" not in page and "<td>&lt;script&gt;&amp;</td><td>100.0%</td><td>0.50</td>" in page
    assert "<td>dog</td><td>0.0%</td><td>-</td><td>0.75</td>" in page
    picture = Image.open(io.BytesIO(base64.b64decode(page.split("base64,")[1].split('"')[0])))
    assert max(picture.size) == 800


def test_table_has_a_row_per_label_in_order() -> None:
    score_map = np.array([[0.2, 0.4, 1.0]], np.float32)
    result = make_result([[1, 1, -1]], score_map=score_map)
    cat, dog = result.table()
    assert cat == ("cat", 0.0, 0.0, 0.75, None)
    assert dog.area == pytest.approx(2 / 3)
    assert dog.score == pytest.approx(0.3)


def test_an_unknown_label_is_refused_with_the_nearest() -> None:
    result = make_result([[0]])
    for ask in (result.mask, result.area, result.pixels, result.to_rle):
        with pytest.raises(VocabularyError, match=r"no label 'cats'.*did you mean 'cat'\? It has: cat, dog"):
            ask("cats")
        with pytest.raises(VocabularyError, match=r"no label '0' in this result\. It has: cat, dog"):
            ask(0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"index_map": np.zeros((2, 2), np.int64)}, r"index_map must be \(2, 2\) int32, got \(2, 2\) int64"),
        ({"index_map": np.zeros((2, 2, 1), np.int32)}, r"index_map must be \(H, W\) with at least one pixel"),
        ({"index_map": np.zeros((0, 2), np.int32)}, r"at least one pixel, got \(0, 2\)"),
        ({"index_map": np.full((2, 2), 2, np.int32)}, "index_map must have values from -1 to 1, got 2 to 2"),
        ({"score_map": np.zeros((2, 3), np.float32)}, r"score_map must be \(2, 2\) float32, got \(2, 3\)"),
        ({"score_map": np.full((2, 2), 1.5, np.float32)}, "score_map must have values from 0 to 1, got 1.5"),
        (
            {"score_map": np.full((2, 2), np.nan, np.float32)},
            "score_map must have values from 0 to 1, got nan",
        ),
        ({"scores": np.zeros((3, 2, 2), np.float16)}, r"scores must be \(2, 2, 2\) float16, got \(3, 2, 2\)"),
        ({"image": np.zeros((2, 2), np.uint8)}, r"image must be \(2, 2, 3\) uint8, got \(2, 2\) uint8"),
        ({"presence": {"dog": 1.0, "cat": 1.0}}, r"in the order \['cat', 'dog'\], got \['dog', 'cat'\]"),
    ],
)
def test_fields_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        make_result(changes.pop("index_map", [[0, 1], [1, 0]]), **changes)


def test_repr_names_what_is_there_and_no_arrays() -> None:
    result = make_result([[0, 0, -1, -1]], image=np.zeros((1, 4, 3), np.uint8))
    assert repr(result) == "SegmentationResult(1 x 4: cat 50.0%)"
    assert repr(make_result([[-1]])) == "SegmentationResult(1 x 1: none of the labels)"


def test_save_and_load_give_the_same_labels(tmp_path: Path) -> None:
    result = make_result([[0, 1, -1], [1, 1, -1]], provenance={"model": "mini", "path": Path("a")})
    paths = result.save(tmp_path / "new" / "folder", name="photo")
    assert [path.name for path in paths] == ["photo.png", "photo_overlay.png", "photo.json"]
    for source in (tmp_path / "new" / "folder", paths[-1]):
        loaded = SegmentationResult.load(source)
        np.testing.assert_array_equal(loaded.index_map, result.index_map)
        assert loaded.table() == result.table()
        assert loaded.provenance == {"model": "mini", "path": "a"}


def test_the_index_image_holds_positions_and_a_palette(tmp_path: Path) -> None:
    index_path = make_result([[0, 1, -1]]).save(tmp_path)[0]
    with Image.open(index_path) as image:
        assert image.mode == "P"
        assert np.array(image).tolist() == [[0, 1, 255]]
        assert image.convert("RGB").getpixel((0, 0)) == (0, 114, 178)


@pytest.mark.parametrize(("count", "mode", "none"), [(255, "P", 255), (256, "I;16", 65535), (400, "I;16", 65535)])
def test_many_labels_are_written_with_16_bits(tmp_path: Path, count: int, mode: str, none: int) -> None:
    labels = tuple(f"label {i}" for i in range(count))
    result = make_result([[0, count - 1, -1]], labels)
    with Image.open(result.save(tmp_path)[0]) as image:
        assert image.mode == mode
        assert np.array(image).tolist() == [[0, count - 1, none]]
    np.testing.assert_array_equal(SegmentationResult.load(tmp_path).index_map, result.index_map)


def test_load_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"no saved result '.*absent\.json'; give the folder or the JSON file"):
        SegmentationResult.load(tmp_path / "absent.json")
    with pytest.raises(ImageError, match=r"expected one result in folder .*, found 0 JSON files"):
        SegmentationResult.load(tmp_path)
    result = make_result([[0]])
    result.save(tmp_path, name="a")
    result.save(tmp_path, name="b")
    with pytest.raises(ImageError, match="found 2 JSON files; give the file"):
        SegmentationResult.load(tmp_path)
    (tmp_path / "a.png").unlink()
    with pytest.raises(ImageError, match=r"'.*a\.json', but it is incomplete or damaged"):
        SegmentationResult.load(tmp_path / "a.json")


def test_saving_under_a_file_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot write .*choose a folder you may write to"):
        make_result([[0]]).save(tmp_path / "file" / "folder")


def test_results_of_large_images_load_whatever_pillows_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_result(np.zeros((30, 30), np.int32)).save(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert SegmentationResult.load(tmp_path).size == (30, 30)


def test_a_result_of_another_image_is_not_replaced(tmp_path: Path) -> None:
    def of(source: str) -> SegmentationResult:
        return replace(make_result([[0]]), provenance={"source": source})

    of("a.jpg").save(tmp_path)
    of("a.jpg").save(tmp_path)  # the same image again
    with pytest.raises(OutputError, match=r"is the result of 'a.jpg' and is not replaced by that of 'b.jpg'"):
        of("b.jpg").save(tmp_path)
    assert SegmentationResult.load(tmp_path).provenance["source"] == "a.jpg"
    of("b.jpg").save(tmp_path, overwrite=True)
    assert SegmentationResult.load(tmp_path).provenance["source"] == "b.jpg"


def test_images_without_a_name_are_known_by_their_pixels(tmp_path: Path) -> None:
    def of(grey: int) -> SegmentationResult:
        return replace(make_result([[0]]), image=np.full((1, 1, 3), grey, np.uint8))

    of(1).save(tmp_path)
    of(1).save(tmp_path)
    with pytest.raises(OutputError, match="is no result of this image"):
        of(2).save(tmp_path)


def test_a_picture_that_is_no_result_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"mine")
    with pytest.raises(OutputError, match="belongs to no result"):
        make_result([[0]]).save(tmp_path, name="photo")
    assert (tmp_path / "photo.png").read_bytes() == b"mine"


def test_unsure_pixels_become_none() -> None:
    result = replace(make_result([[0, 0, -1]]), score_map=np.array([[0.5, 0.49, 0.9]], np.float32))
    assert result.without_unsure(0.5).index_map.tolist() == [[0, -1, -1]]
    with pytest.raises(ShapeError, match="min_score must be from 0 to 1"):
        result.without_unsure(1.5)


def test_boxes_are_those_of_connected_parts() -> None:
    result = make_result([[0, -1, -1], [-1, 0, -1], [-1, -1, -1], [0, 1, 0]])
    label, other = result.labels[:2]
    assert result.boxes(label) == [(0, 0, 2, 2), (0, 3, 1, 4), (2, 3, 3, 4)]
    assert result.boxes(other) == [(1, 3, 2, 4)]
    assert len(result.polygons(label)) == 3
    with pytest.raises(VocabularyError, match="no label 'zebra'"):
        result.boxes("zebra")
