from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ovseg.errors import ConfigError, DatasetError
from ovseg.evaluation import RunOptions, Task, evaluate
from ovseg.evaluation.data.shown import ShownDataset
from ovseg.evaluation.run.predictor import Predictor
from ovseg.evaluation.run.task import open_task


def opened(folder: Path, **options: Any) -> ShownDataset:
    dataset, _ = open_task(Task("folder", folder), RunOptions(**options))
    assert isinstance(dataset, ShownDataset)
    return dataset


def test_images_that_show_a_class_are_not_scored(folder: Path) -> None:
    dataset = opened(folder, shots=1)
    used = {place for places in dataset.shots.values() for place in places}
    assert used and used.isdisjoint(dataset.asked) and len(used) + len(dataset.asked) == 6
    assert all(len(places) == 1 for places in dataset.shots.values())
    supports = dataset.supports()
    for index, places in dataset.shots.items():
        (support,), (place,) = supports[index], places
        np.testing.assert_array_equal(support.mask, dataset.base.load(place).truth == index)
        assert support.mask.mean() >= 0.005


def test_the_seed_draws_and_nothing_else(folder: Path) -> None:
    assert opened(folder, shots=1, seed=3).shots == opened(folder, shots=1, seed=3).shots
    assert len({str(opened(folder, shots=1, seed=seed).shots) for seed in range(6)}) > 1


def test_every_class_reaches_the_segmenter_with_its_pictures(folder: Path, oracle: Callable[..., Any]) -> None:
    seen: list[list[Any]] = []

    class Shown(oracle):  # type: ignore[misc, valid-type]
        reads_examples = True

        def segment(self, image: Any, labels: list[Any], *, background: Any = None) -> Any:
            seen.append(labels)
            return super().segment(image, labels)

    for names in (True, False):
        seen.clear()
        options = RunOptions(shots=1, seed=1, names=names)
        report = evaluate(Shown(), "folder", data=folder, options=options)
        dataset = opened(folder, shots=1, seed=1)
        assert len(seen) == len(dataset.asked) == len(report.rows)
        with_pictures = [label for label in seen[0] if getattr(label, "images", ())]
        assert len(with_pictures) == len(dataset.shots)
        assert all(label.use_name is names for label in with_pictures)


def test_too_many_shots_and_protocols_without_a_use_for_them(folder: Path, oracle: Callable[..., Any]) -> None:
    scarce = opened(folder, shots=5)
    (told,) = scarce.notes
    assert told.startswith("fewer than 5 images show") and "cat (2)" in told
    assert scarce.asked and len(scarce.shots) == len(opened(folder, shots=1).shots)
    with pytest.raises(ConfigError, match="'coco-panoptic' counts objects and takes no visual examples"):
        open_task(Task("coco-panoptic", folder), RunOptions(shots=1))
    with pytest.raises(ConfigError, match=r"cannot be used: this segmenter does not say that it reads them"):
        evaluate(oracle(), "folder", data=folder, options=RunOptions(shots=1))


def test_an_image_is_never_its_own_example(folder: Path, oracle: Callable[..., Any]) -> None:
    dataset = opened(folder, shots=1)
    (place, *_), *_ = dataset.shots.values()
    dataset.asked = (place,)
    example = dataset.load(0)
    with pytest.raises(DatasetError, match="is one of its own visual examples, so its truth would leak"):
        Predictor(oracle(), dataset.protocol).predict(example, list(dataset.shots))
