"""Label maps of numbered objects, and the views made of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.datasets import write_folder, write_objects
from helpers.toy import make_segmenter

from ovseg.errors import ConfigError
from ovseg.training.augment import Augmentation
from ovseg.training.data import IGNORED, NONE, MaskData
from ovseg.training.features import FeatureCache
from ovseg.training.objects import ObjectSource, ObjectViews


def source(root: Path, protocol: str, **values: object) -> ObjectSource:
    return ObjectSource(MaskData(protocol=protocol, path=str(root), **values))


def test_segments_have_numbers_of_their_own_over_all_images(tmp_path: Path) -> None:
    write_objects(tmp_path)
    one = source(tmp_path, "panoptic")
    names = [one.phrases[index] for index in one.class_of]
    assert names == ["sky", "cat", "dog"] * 3
    truth = one.load(2).truth
    assert truth.dtype == np.int32 and set(np.unique(truth)) == {IGNORED, 6, 7, 8}  # void is ignored
    assert truth[0, 0] == 6 and truth[12, 3] == 7 and truth[12, 25] == 8 and truth[22, 0] == IGNORED
    assert [one.phrases[index] for index in source(tmp_path, "panoptic", folds=3, held_out=0).class_of] == names[:6]


def test_pixels_without_an_object_are_none_and_crowds_are_ignored(tmp_path: Path) -> None:
    _, instances = write_objects(tmp_path)
    instances["annotations"][1]["iscrowd"] = 1  # the dog of the first image
    (tmp_path / "instances.json").write_text(json.dumps(instances))
    one = source(tmp_path, "instances")
    assert [one.phrases[index] for index in one.class_of] == ["cat", "dog"] * 3
    truth = one.load(0).truth
    assert truth[12, 3] == 0 and truth[12, 20] == IGNORED and truth[0, 0] == NONE
    assert one.load(1).truth[12, 20] == 3


def test_held_out_classes_are_not_trained_on(tmp_path: Path) -> None:
    write_objects(tmp_path)
    one = source(tmp_path, "panoptic", held_out_classes=("dog",))
    truth, _ = one.select(one.load(0).truth, None)
    assert truth[12, 3] == 1 and truth[12, 20] == IGNORED


def test_label_maps_alone_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'folder' has label maps; masks of things are learned from objects"):
        source(write_folder(tmp_path / "data"), "folder")


def test_a_view_has_a_mask_and_a_class_for_each_object_and_a_copy_in_the_cache(tmp_path: Path) -> None:
    write_objects(tmp_path / "data")
    one = source(tmp_path / "data", "panoptic")
    views = ObjectViews(
        one,
        make_segmenter().model,
        FeatureCache(tmp_path / "cache"),
        augmentation=Augmentation(mosaic=1.0, mix=0.0),
        seed=0,
    )
    plain = views.objects(1)
    rows, columns = plain.features.shape[1:]
    assert plain.masks.shape == (3, 4 * rows, 4 * columns) and plain.known.shape == plain.masks.shape[1:]
    assert [one.phrases[index] for index in plain.classes] == ["sky", "cat", "dog"]
    assert not (plain.masks.sum(0) > 1).any() and (plain.masks.any(0) == plain.known).all()
    assert plain.masks.float().mean((1, 2)).tolist() == pytest.approx([10 / 24, 100 / 768, 90 / 768], abs=0.03)
    joined = views.objects(1, 1)  # four images in one: objects of several stay apart
    assert len(joined.classes) > 3
    again = views.objects(1, 1)
    assert (again.masks == joined.masks).all() and (again.features == joined.features).all()
