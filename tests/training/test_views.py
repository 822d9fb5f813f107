from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.toy import ToyEncoder, make_segmenter
from helpers.training import built, recipe, trained, write_masks, write_pseudo_labels
from PIL import Image

from ovseg.encoders.spec import DenseFeatures
from ovseg.heads.denseclip import DenseClip
from ovseg.models.model import Model
from ovseg.training.augment import Augmentation
from ovseg.training.data import MaskData, PseudoLabels, open_source
from ovseg.training.features import FeatureCache
from ovseg.training.views import FINER, View, Views, batch_of

PLAIN = Augmentation(mosaic=0, mix=0)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one whenever an image runs through the encoder."""
    from ovseg.training import views

    calls: list[int] = []
    encode = views.encode_image

    def count(*arguments: Any) -> Any:
        calls.append(1)
        return encode(*arguments)

    monkeypatch.setattr(views, "encode_image", count)
    return calls


def read_all(
    folder: Path, features: Path, *, count: int = 1, augmentation: Augmentation = PLAIN, model: Model | None = None
) -> list[View]:
    """All views of all images of a folder, as another run would read them."""
    source = open_source(MaskData(protocol="folder", path=str(folder)))
    views = Views(
        source, model or make_segmenter().model, FeatureCache(features), augmentation=augmentation, seed=0
    )
    return [views.fetch(index, view) for index in range(len(views)) for view in range(count)]


def test_views_are_computed_once_and_shared_between_folds(folder: Path, encoded: list[int]) -> None:
    model = make_segmenter().model
    built(recipe(folder), model)
    assert len(encoded) == 3
    held = MaskData(protocol="folder", path=str(folder), folds=3, held_out=1, held_out_classes=("cat",))
    task = built(recipe(folder, data=(held,)), model)
    assert len(encoded) == 3
    assert task.examples[0].source.names == ("0", "2") and task.examples[0].weights[2] == 0


def test_the_views_of_another_encoder_are_others(folder: Path, tmp_path: Path, encoded: list[int]) -> None:
    read_all(folder, tmp_path / "features")
    read_all(folder, tmp_path / "features", model=make_segmenter("other weights").model)
    assert len(encoded) == 6
    model = make_segmenter().model
    sizes = model.config.input.model_copy(update={"short_side": 128})
    larger = replace(model, config=model.config.model_copy(update={"input": sizes}))
    read_all(folder, tmp_path / "features", model=larger)
    assert len(encoded) == 9


def test_of_one_edited_mask_only_its_own_view_is_computed_again(
    folder: Path, tmp_path: Path, encoded: list[int]
) -> None:
    before = read_all(folder, tmp_path / "features")
    mask = np.array(Image.open(folder / "masks" / "1.png"))
    mask[:16] = 2
    Image.fromarray(mask).save(folder / "masks" / "1.png")
    after = read_all(folder, tmp_path / "features")
    assert len(encoded) == 4
    assert [np.array_equal(one.truth, other.truth) for one, other in zip(before, after, strict=True)] == [
        True,
        False,
        True,
    ]
    assert (after[1].truth[0] == 2).all()


def test_of_a_file_that_is_touched_nothing_is_computed_again(
    folder: Path, tmp_path: Path, encoded: list[int]
) -> None:
    read_all(folder, tmp_path / "features")
    for path in [*folder.rglob("*.png")]:
        os.utime(path, (1, 1))
    read_all(folder, tmp_path / "features")
    assert len(encoded) == 3


@pytest.mark.parametrize(
    ("augmentation", "again"), [(PLAIN, 2), (Augmentation(mosaic=0.2, mix=0), 4), (Augmentation(mosaic=0), 4)]
)
def test_views_that_may_hold_parts_of_other_images_depend_on_all_of_them(
    folder: Path, tmp_path: Path, encoded: list[int], augmentation: Augmentation, again: int
) -> None:
    """Of one edited image: its plain view and its changed one, and where images are joined every changed one."""
    read_all(folder, tmp_path / "features", count=2, augmentation=augmentation)
    assert len(encoded) == 6
    Image.fromarray(np.zeros((64, 96, 3), np.uint8)).save(folder / "images" / "1.png")
    read_all(folder, tmp_path / "features", count=2, augmentation=augmentation)
    assert len(encoded) == 6 + again


@pytest.mark.parametrize("part", ["labels", "confidence", "images"])
def test_replaced_pseudo_labels_are_read_again(folder: Path, tmp_path: Path, encoded: list[int], part: str) -> None:
    root = write_pseudo_labels(folder)

    def read() -> list[View]:
        source = open_source(PseudoLabels(pseudo_labels=root, images=folder.parent))
        cache = FeatureCache(tmp_path / "features")
        views = Views(source, make_segmenter().model, cache, augmentation=PLAIN, seed=0)
        return [views.fetch(index) for index in range(len(views))]

    before = read()
    file = folder / "images" / "2.png" if part == "images" else root / part / "0000002.png"
    array = np.asarray(Image.open(file))
    Image.fromarray(array // 2 if part == "confidence" else array[::-1].copy()).save(file)
    after = read()
    assert len(encoded) == 4
    arrays = {"labels": "truth", "confidence": "confidence", "images": "features"}
    for number, (one, other) in enumerate(zip(before, after, strict=True)):
        same = np.array_equal(getattr(one, arrays[part]), getattr(other, arrays[part]))
        assert same == (number != 2)


def test_a_window_is_cut_from_features_structure_truth_and_confidence_alike(folder: Path, tmp_path: Path) -> None:
    (view, *_) = read_all(folder, tmp_path / "features")
    view = replace(view, confidence=(np.arange(view.truth.size) % 256).astype(np.uint8).reshape(view.truth.shape))
    height, width = view.features.shape[:2]
    assert view.truth.shape == (height * FINER, width * FINER) and view.structure is not None
    part = view.window(3, 4, corner=(0.99, 0.5))
    top, left = height - 3, int(0.5 * (width - 3))
    for row in range(3):
        for column in range(4):
            assert np.array_equal(part.features[row, column], view.features[top + row, left + column])
            assert part.structure is not None
            assert np.array_equal(part.structure[row, column], view.structure[top + row, left + column])
    fine = (slice(4 * top, 4 * top + 12), slice(4 * left, 4 * left + 16))
    assert np.array_equal(part.truth, view.truth[fine])
    assert part.confidence is not None and np.array_equal(part.confidence, view.confidence[fine])  # type: ignore[index]
    dense, truth, confidence = batch_of([part, part], space="toy", stride=8)
    assert dense.values.shape == (2, 7, 3, 4) and truth.dtype == torch.int64 and truth.shape == (2, 12, 16)
    assert torch.equal(dense.values[0, :, 1, 2], torch.from_numpy(part.features[1, 2].astype(np.float32)))
    assert dense.structure is not None and torch.equal(dense.structure, dense.values)  # of the toy encoder
    assert confidence is not None and confidence[0, 0, 0] == pytest.approx(part.confidence[0, 0] / 255)


class WholeEncoder(ToyEncoder):
    """The vector of an image is its first cell."""

    def dense_and_whole(self, pixels: torch.Tensor) -> DenseFeatures:
        dense = self.dense(pixels)
        return replace(dense, whole=dense.values[:, :, 0, 0])


def test_the_vector_of_a_whole_image_is_kept_where_a_head_reads_it(folder: Path, tmp_path: Path) -> None:
    model = replace(make_segmenter().model, image=WholeEncoder())
    heads = {kind: built(recipe(folder, kind), model).examples[0].views for kind in ("fusioner", "denseclip")}
    assert heads["fusioner"].fetch(1).whole is None
    view = heads["denseclip"].fetch(1)
    assert view.whole is not None and np.array_equal(view.whole, view.features[0, 0])
    part = view.window(2, 2, corner=(0.99, 0.99))
    dense, _, _ = batch_of([part, part], space="toy", stride=8)
    assert dense.whole is not None and dense.whole.shape == (2, 7)
    assert torch.equal(dense.whole[1], torch.from_numpy(view.whole.astype(np.float32)))


def test_a_head_that_reads_whole_images_is_trained_with_their_vectors(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor | None] = []
    delta = DenseClip.delta

    def watched(self: DenseClip, *given: torch.Tensor, whole: torch.Tensor | None = None) -> torch.Tensor:
        seen.append(whole)
        return delta(self, *given, whole=whole)

    monkeypatch.setattr(DenseClip, "delta", watched)
    trained(recipe(folder, "denseclip"), replace(make_segmenter().model, image=WholeEncoder()))
    assert len(seen) == 6 and all(whole is not None and whole.shape == (2, 7) for whole in seen)


def test_a_view_of_the_same_image_elsewhere_is_the_same_entry(
    folder: Path, tmp_path: Path, encoded: list[int]
) -> None:
    read_all(folder, tmp_path / "features")
    read_all(write_masks(tmp_path / "copy", seed=0, names=("sky", "road", "cat")), tmp_path / "features")
    assert len(encoded) == 3
