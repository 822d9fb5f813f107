from __future__ import annotations

import shutil
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers.toy import make_segmenter
from PIL import Image

import ovseg
from ovseg.assets import asset_root, find_asset
from ovseg.errors import ConfigError, ImageError, ModelError, VocabularyError
from ovseg.images.load import load_image
from ovseg.models.embedded import FILES
from ovseg.pipeline.opening import load
from ovseg.pipeline.segmenter import Segmenter
from ovseg.vocabulary.labels import Concept

LABELS = ["grass", "sky", "dog"]


def picture(height: int = 60, width: int = 90, *, seed: int = 0) -> np.ndarray:
    """Blue above green with noise."""
    noise = np.random.default_rng(seed).integers(0, 60, (height, width, 3))
    image = np.where(np.arange(height)[:, None, None] < height // 2, (90, 140, 190), (60, 150, 40)) + noise
    return image.astype(np.uint8)


def changed(segmenter: Segmenter, section: str, **values: object) -> Segmenter:
    """``segmenter`` with other values in a section of its configuration."""
    part = getattr(segmenter.config, section).model_copy(update=values)
    config = segmenter.config.model_copy(update={section: part})
    return Segmenter(replace(segmenter.model, config=config), device=torch.device("cpu"))


def copied_model(folder: Path) -> Path:
    """A model file whose encoder lies, with its checksums, in a copy of the weights."""
    weights = folder / "weights"
    shutil.copytree(asset_root("models") / "mini", weights)
    values = yaml.safe_load(find_asset("configs/models", "mini").read_text(encoding="utf-8"))
    values["encoder"]["name"] = str(weights)
    path = folder / "copy.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def test_a_result_has_the_size_and_the_labels(small: Segmenter) -> None:
    result = small.segment(picture(), LABELS)
    assert result.index_map.shape == (60, 90)
    assert result.labels == tuple(LABELS)
    assert result.index_map.min() >= -1 and result.index_map.max() < 3
    assert set(result.presence) == set(LABELS)
    assert result.scores is None
    assert result.provenance["model"] == "mini"


def test_permuting_labels_permutes_the_map(small: Segmenter) -> None:
    first = small.segment(picture(), LABELS)
    second = small.segment(picture(), LABELS[::-1])
    names = np.array([*LABELS, "none"]), np.array([*LABELS[::-1], "none"])
    assert np.array_equal(names[0][first.index_map], names[1][second.index_map])
    np.testing.assert_allclose(first.score_map, second.score_map, atol=1e-5)


def test_the_weight_of_a_concept_multiplies_its_odds(small: Segmenter) -> None:
    flat = changed(small, "background", presence_slope=1.0, presence_offset=0.0)  # the best cell itself
    plain = flat.segment(picture(), LABELS).presence[LABELS[0]]
    heavy = flat.segment(picture(), [Concept(LABELS[0], weight=3), *LABELS[1:]]).presence[LABELS[0]]
    assert heavy / (1 - heavy) == pytest.approx(3 * plain / (1 - plain), rel=1e-3)


def test_without_background_every_pixel_has_a_label(small: Segmenter) -> None:
    strict = changed(small, "background", threshold=1.0, margin=1.0)
    assert strict.segment(picture(), LABELS, background=None).index_map.min() >= 0


def test_pixels_below_the_threshold_are_none(small: Segmenter) -> None:
    loose = changed(small, "background", threshold=0.0, margin=0.0).segment(picture(), LABELS, background=[])
    cut = float(np.median(loose.score_map))
    strict = changed(small, "background", threshold=cut, margin=0.0).segment(picture(), LABELS, background=[])
    assert np.array_equal(strict.index_map == -1, (loose.index_map == -1) | (loose.score_map < cut))
    assert (strict.index_map == -1).any()


def test_an_encoded_image_gives_what_the_image_gives(small: Segmenter) -> None:
    encoded = small.encode(picture())
    once, again = small.segment(encoded, LABELS), small.segment(picture(), LABELS)
    assert np.array_equal(once.index_map, again.index_map)
    assert np.array_equal(once.score_map, again.score_map)


def test_a_batch_keeps_the_order(small: Segmenter) -> None:
    images = [picture(40 + 10 * number, 60, seed=number) for number in range(4)]
    results = list(small.segment_batch(iter(images), LABELS))
    assert [result.index_map.shape[0] for result in results] == [40, 50, 60, 70]
    for image, result in zip(images, results, strict=True):
        assert np.array_equal(result.index_map, small.segment(image, LABELS).index_map)


@pytest.mark.parametrize(
    "one",
    [
        "photo.jpg",
        Path("photo.jpg"),
        picture(),
        np.zeros((8, 8, 4), np.uint8),
        Image.new("RGB", (8, 8)),
        torch.zeros(3, 8, 8),
        torch.zeros(8, 8),
    ],
)
def test_one_image_in_place_of_a_batch_is_refused(small: Segmenter, one: object) -> None:
    with pytest.raises(ImageError, match=r"images must be a list of images, got one .*; write \[image\]"):
        list(small.segment_batch(one, LABELS))  # type: ignore[arg-type]


@pytest.mark.parametrize("at", [0, 1, 4])
def test_an_image_that_cannot_be_read_raises_is_skipped_or_returned(
    small: Segmenter, tmp_path: Path, at: int
) -> None:
    images: list[Any] = [picture(height) for height in (40, 50, 60, 70, 80)]
    images[at] = tmp_path / "absent.png"
    heights = [40, 50, 60, 70, 80]
    returned = list(small.segment_batch(images, LABELS, on_error="return", batch_size=2))
    assert isinstance(returned[at], ImageError) and "absent.png" in str(returned.pop(at))
    heights.pop(at)
    skipped = list(small.segment_batch(images, LABELS, on_error="skip", batch_size=2))
    assert [each.size[0] for each in returned] == [each.size[0] for each in skipped] == heights
    done = []
    with pytest.raises(ImageError, match="absent"):
        for result in small.segment_batch(images, LABELS, batch_size=2):
            done.append(result.size[0])
    assert done == heights[:at]
    with pytest.raises(ConfigError, match="on_error must be 'raise', 'skip' or 'return', got 'ignore'"):
        list(small.segment_batch(images, LABELS, on_error="ignore"))


def test_a_result_says_which_file_it_was_made_of(small: Segmenter, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(picture()).save(path)
    for result in (
        small.segment(path, LABELS),
        small.segment(small.encode(str(path)), LABELS),
        *small.segment_batch([path], LABELS),
    ):
        assert result.to_coco()["images"][0]["file_name"] == str(path)
    assert "source" not in small.segment(picture(), LABELS).provenance


def test_small_parts_become_none_with_a_background_and_a_label_without(small: Segmenter) -> None:
    whole = small.segment(picture(), LABELS)
    cut = small.segment(picture(), LABELS, min_area=10**6)
    assert cut.index_map.max() == -1 and cut.provenance["min_area"] == 10**6
    assert whole.index_map.max() >= 0 and "min_area" not in whole.provenance
    (full,) = small.segment_batch([picture()], LABELS, background=None, min_area=30)
    assert full.index_map.min() >= 0


def test_pixels_below_a_score_become_none(small: Segmenter) -> None:
    whole = small.segment(picture(), LABELS, background=None)
    limit = float(np.median(whole.score_map))
    cut = small.segment(picture(), LABELS, background=None, min_score=limit)
    np.testing.assert_array_equal(cut.index_map == -1, whole.score_map < limit)
    assert cut.provenance["min_score"] == limit and 0 < (cut.index_map == -1).mean() < 1


@pytest.mark.slow
def test_a_pickled_segmenter_gives_the_same_result_in_a_process_of_its_own(small: Segmenter) -> None:
    expected = small.segment(picture(), LABELS)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        result = pool.submit(small.segment, picture(), LABELS).result(timeout=120)
    np.testing.assert_array_equal(result.index_map, expected.index_map)
    assert result.presence == expected.presence
    twin = deepcopy(small)  # by the same way as pickling
    assert twin.segment(picture(), ["a word that was not asked for before"]).size == (60, 90)


def test_a_misspelt_option_offers_the_nearest(small: Segmenter) -> None:
    with pytest.raises(TypeError, match=r"segment\(\) has no keyword 'refin'; did you mean 'refine'\?"):
        list(small.segment_batch([picture()], LABELS, refin=True))
    with pytest.raises(TypeError, match="did you mean 'keep_scores'"):
        ovseg.segment(picture(), LABELS, keep_score=True)


def test_a_background_that_is_no_list_is_refused(small: Segmenter) -> None:
    small.segment(picture(), LABELS, background=None)
    for wrong in (5, False, [None]):
        with pytest.raises(VocabularyError, match=r"must be a list of phrases|must be text, got None"):
            small.segment(picture(), LABELS, background=wrong)  # type: ignore[arg-type]


def test_a_background_may_come_from_a_generator(small: Segmenter) -> None:
    phrases = small.queries(LABELS, background=(word for word in ["wall"])).vocabulary.background  # type: ignore[arg-type]
    assert phrases == ("wall",)


def test_the_folder_for_text_vectors_may_be_text(tmp_path: Path) -> None:
    load(cache=str(tmp_path / "vectors")).queries(["an odd word"])
    assert any((tmp_path / "vectors").rglob("*"))


def test_kept_scores_are_probabilities_of_every_label(small: Segmenter) -> None:
    scores = small.segment(picture(), LABELS, keep_scores=True, background=None).scores
    assert scores is not None and scores.shape == (3, 60, 90)
    np.testing.assert_allclose(scores.astype(np.float32).sum(0), 1, atol=5e-3)


def test_refinement_pulls_the_border_to_the_edge_of_the_image(segmenter: Segmenter, photos: Path) -> None:
    """A red square of 28 pixels; the toy model's cells of 8 pixels do not know its sides so exactly."""
    photo = load_image(next(photos.glob("00-*")))
    truth = (photo[..., 0] > 180) & (photo[..., 1] < 90)
    overlaps = []
    for refine in (False, True):
        found = segmenter.segment(photo, ["red", "green"], background=["grey"], refine=refine).mask("red")
        overlaps.append((found & truth).sum() / (found | truth).sum())
    assert overlaps[1] > overlaps[0] + 0.05


def test_one_label_without_background_fills_the_image(small: Segmenter) -> None:
    assert (small.segment(picture(), ["grass"], background=None).index_map == 0).all()


def test_the_same_call_gives_the_same_bytes(small: Segmenter) -> None:
    first, second = (small.segment(picture(), LABELS) for _ in range(2))
    assert first.index_map.tobytes() == second.index_map.tobytes()
    assert first.score_map.tobytes() == second.score_map.tobytes()


@pytest.mark.parametrize("size", [(1, 1), (20, 8000), (3000, 200), (2, 3), (300, 31)])
def test_an_image_of_any_shape_gets_a_result_of_its_size(small: Segmenter, size: tuple[int, int]) -> None:
    result = small.segment(picture(*size), LABELS)
    assert result.index_map.shape == result.score_map.shape == size


def test_a_long_strip_keeps_its_short_side(mini: Segmenter) -> None:
    assert mini.encode(picture(20, 8000)).features.grid == (2, 640)


def test_a_strip_is_segmented_like_its_parts(small: Segmenter) -> None:
    strip = np.concatenate([picture(40, 150), np.full((40, 150, 3), 128, np.uint8)] * 2, 1)
    index = small.segment(strip, LABELS, background=None).index_map
    part = small.segment(strip[:, :300], LABELS, background=None).index_map
    assert (index[:, :100] == part[:, :100]).mean() > 0.8


def test_windows_of_the_model_file_are_used(small: Segmenter) -> None:
    tiled = changed(small, "input", window=64, overlap=32)
    whole, parts = small.encode(picture()).features, tiled.encode(picture()).features
    assert whole.values.shape == parts.values.shape
    assert not torch.allclose(whole.values, parts.values, atol=1e-3)
    assert tiled.segment(picture(), LABELS).index_map.shape == (60, 90)


def test_constants_of_a_benchmark_keep_the_networks(small: Segmenter) -> None:
    constants = {"voc21": {"background.threshold": 0.25, "input.short_side": 96.0}}
    config = small.config.model_copy(update={"datasets": constants})
    segmenter = Segmenter(replace(small.model, config=config), device=torch.device("cpu"))
    adjusted = segmenter.for_benchmark("voc21")
    assert adjusted.config.background.threshold == 0.25
    assert adjusted.config.input.short_side == 96
    assert adjusted.model.image is segmenter.model.image
    assert adjusted.info != segmenter.info
    with pytest.raises(ConfigError, match="states no constants of a paper for 'ade20k-150'"):
        segmenter.for_benchmark("ade20k-150")


def test_the_constants_of_a_paper_leave_the_networks_of_another_model(small: Segmenter) -> None:
    adjusted = small.for_benchmark("voc21", method="naclip")
    assert adjusted.model.image is small.model.image and adjusted.config.encoder == small.config.encoder
    assert (adjusted.config.scoring.over, adjusted.config.input.splice) == ("phrases", "pixels")
    assert adjusted.config.input.window is None and adjusted.config.refine.method == "pamr-released"
    assert adjusted.words is not None and len(adjusted.words) == 21 and adjusted.words[4] == ("ship",)
    assert adjusted.info["constants"] == "voc21 of naclip"
    with pytest.raises(ModelError, match="no model 'clip-b16-naclp-paper'; did you mean 'clip-b16-naclip-paper'"):
        small.for_benchmark("voc21", method="naclp")


def test_constants_that_change_the_networks_are_refused(small: Segmenter) -> None:
    config = small.config.model_copy(update={"datasets": {"voc21": {"encoder.random_weights": True}}})
    segmenter = Segmenter(replace(small.model, config=config), device=torch.device("cpu"))
    with pytest.raises(ConfigError, match="must leave the section 'encoder' alone"):
        segmenter.for_benchmark("voc21")


def test_no_labels_are_refused(small: Segmenter) -> None:
    with pytest.raises(VocabularyError, match="needs at least one label, got an empty list"):
        small.segment(picture(), [])


def test_an_empty_label_is_named(small: Segmenter) -> None:
    with pytest.raises(VocabularyError, match=r"labels\[1\] must be text, got the blank string"):
        small.segment(picture(), ["dog", " "])


def test_a_missing_image_is_named(small: Segmenter, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"no image file '.*nothing\.jpg'"):
        small.segment(tmp_path / "nothing.jpg", LABELS)


def test_an_image_of_floats_beyond_1_is_refused(small: Segmenter) -> None:
    with pytest.raises(ImageError, match="must be"):
        small.segment(np.full((4, 4, 3), 9.0), LABELS)


def test_a_device_that_is_not_here_is_named() -> None:
    with pytest.raises(ModelError, match="expected a device of this machine, got 'cuda:99'"):
        load("mini", device="cuda:99")


def test_an_unknown_model_offers_the_nearest() -> None:
    with pytest.raises(ModelError, match="no model 'minni'; did you mean 'mini'"):
        load("minni")


def test_a_name_that_is_near_none_ends_its_sentence() -> None:
    with pytest.raises(ModelError, match=r"no model 'zzz'\. ovseg\.list_models\(\) shows all"):
        load("zzz")


def test_weights_from_a_folder_give_the_same_model(mini: Segmenter) -> None:
    loaded = load("mini", device="cpu", weights=asset_root("models") / "mini")
    assert loaded.info == mini.info


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"vision\.safetensors.* in the folder '.*nowhere', got no such folder; give"
    ):
        load("mini", device="cpu", weights=tmp_path / "nowhere")
    for name in FILES[1:]:
        (tmp_path / name).touch()
    with pytest.raises(ModelError, match=r"got no vision\.safetensors; give --weights a folder with all of them"):
        load("mini", device="cpu", weights=tmp_path)


def test_a_missing_file_of_the_package_asks_for_its_installation(tmp_path: Path) -> None:
    model = copied_model(tmp_path)
    (tmp_path / "weights" / FILES[0]).unlink()
    with pytest.raises(ModelError, match=rf"got no {FILES[0]}; install the package again"):
        load(str(model), device="cpu")


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_is_found_by_the_checksum(tmp_path: Path, name: str) -> None:
    model = copied_model(tmp_path)
    content = bytearray((tmp_path / "weights" / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "weights" / name).write_bytes(content)
    with pytest.raises(ModelError, match=rf"'{name}' is damaged .*expected SHA-256"):
        load(str(model), device="cpu")


def test_a_range_and_bands_are_said_with_the_image_and_what_was_decided_is_kept(segmenter: Segmenter) -> None:
    grey = Image.fromarray(np.tile(np.array([[0, 1000, 2000]], np.uint16), (40, 20)))
    found = segmenter.segment(grey, ["red"])
    assert found.provenance["read"].startswith("values are scaled as 0..2047, the bits")
    said = {"value_range": (0, 2000), "bands": (1, 1, 1)}
    alone = segmenter.segment(grey, ["red"], **said)
    (batched,) = segmenter.segment_batch([grey], ["red"], **said)
    for result in (alone, batched):
        assert "read" not in result.provenance
        assert result.image is not None and result.image[0, :3, 0].tolist() == [0, 128, 255]
    with pytest.raises(ImageError, match="is encoded already, got a range or bands; give them to encode"):
        segmenter.segment(segmenter.encode(grey), ["red"], **said)


def test_other_fields_of_objects_count_in_both_qualities_and_are_another_segmenter() -> None:
    plain = make_segmenter()
    image = np.full((64, 128, 3), 120, np.uint8)
    image[8:40, 8:40] = (220, 30, 30)
    changed = plain.with_objects(masks="map", sharpen=False, least_score=1, most=3)
    for part in (changed.config.objects.fast, changed.config.objects.best):
        assert (part.least_score, part.most, part.masks) == (1, 3, "map")
    assert plain.config.objects.fast.least_score == 0.3
    assert len(plain.segment(image, ["red"], instances=["red"], quality="fast").instances or ()) == 1
    assert changed.segment(image, ["red"], instances=["red"]).instances == ()
    assert changed.info["settings"] != plain.info["settings"]
    with pytest.raises(ConfigError, match=r"unknown key 'fast\.leastscore'; did you mean"):
        plain.with_objects(leastscore=0.1)
    with pytest.raises(ConfigError, match="most"):
        plain.with_objects(most=0)
