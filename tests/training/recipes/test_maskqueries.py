"""The recipe of mask queries: what it learns, that it resumes exactly, and its run folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers.datasets import write_objects
from helpers.toy import COLOURS, make_segmenter
from helpers.training import losses, same_weights
from PIL import Image

import ovseg
from ovseg.errors import ConfigError, DatasetError
from ovseg.heads.registry import HeadConfig
from ovseg.models.config import read_model_config
from ovseg.result.panoptic import ids_to_picture
from ovseg.training import train
from ovseg.training.data import MaskData
from ovseg.training.features import FeatureCache
from ovseg.training.loop import make_accelerator, train_steps
from ovseg.training.recipes.maskqueries import (
    MaskQueriesConfig,
    MaskQueriesTask,
    QueriesSchedule,
    build_maskqueries,
    maskqueries_identity,
)
from ovseg.training.runs import segmenter_of

SMALL = {"queries": 6, "width": 32, "layers": 2, "attention_heads": 2, "inner": 32}


def recipe(root: Path, *, settings: dict[str, Any] | None = None, **values: Any) -> MaskQueriesConfig:
    schedule = {"steps": 4, "batch": 1, "learning_rate": 0.003, "warmup": 1, **values.pop("schedule", {})}
    data = values.pop("data", (MaskData(protocol="panoptic", path=str(root)),))
    defaults: dict[str, Any] = {"points": 128, "out": root.parent / "run", "save_every": 2}
    return MaskQueriesConfig(
        head=HeadConfig(kind="maskqueries", settings={**SMALL, **(settings or {})}),
        data=data,
        schedule=QueriesSchedule(**schedule),
        **{**defaults, **values},
    )


def built(config: MaskQueriesConfig) -> MaskQueriesTask:
    cache = FeatureCache(config.out / "features")
    return build_maskqueries(config, make_segmenter().model, cache, make_accelerator(config))


def write_squares(root: Path, places: Sequence[tuple[int, int]]) -> Path:
    """Photos of a red square on the left and a blue one on the right, at these rows, on a field that is void."""
    for folder in ("images", "panoptic"):
        (root / folder).mkdir(parents=True)
    images, annotations = [], []
    for number, (red, blue) in enumerate(places):
        ids = np.zeros((64, 96), np.int32)
        ids[red : red + 32, 8:40] = 1
        ids[blue : blue + 32, 56:88] = 2
        pixels = np.full((64, 96, 3), 120, np.uint8)
        pixels[ids == 1], pixels[ids == 2] = COLOURS["red"], COLOURS["blue"]
        Image.fromarray(pixels).save(root / "images" / f"{number}.png")
        ids_to_picture(ids).save(root / "panoptic" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": 64, "width": 96})
        info = [{"id": each, "category_id": each} for each in (1, 2)]
        annotations.append({"image_id": number, "file_name": f"{number}.png", "segments_info": info})
    categories = [{"id": each, "name": name, "isthing": 1} for each, name in ((1, "red"), (2, "blue"))]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "panoptic.json").write_text(json.dumps(content))
    return root


@pytest.mark.slow
def test_two_squares_are_learned(tmp_path: Path) -> None:
    root = write_squares(tmp_path / "data", [(0, 32), (32, 0), (16, 8)])
    config = recipe(root, settings={"layers": 1, "queries": 4}, schedule={"steps": 80, "learning_rate": 0.005})
    task = built(config)
    steps = [loss for _, loss in train_steps(task, config, config.out)]
    assert np.mean(steps[-5:]) < 0.3 * np.mean(steps[:5])
    model = make_segmenter().model
    segmenter = segmenter_of(model, task.eval())
    photo = np.asarray(Image.open(root / "images" / "0.png"))
    result = segmenter.segment(photo, ["red", "blue"], instances=["red", "blue"], quality="fast")
    assert result.instances is not None
    best = {each.label: each for each in reversed(result.instances)}
    for label, left, top in (("red", 8, 0), ("blue", 56, 32)):
        mask, truth = best[label].mask(), np.zeros((64, 96), bool)
        truth[top : top + 32, left : left + 32] = True
        assert (mask & truth).sum() / (mask | truth).sum() > 0.6


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    root = write_squares(tmp_path / "data", [(0, 32)])
    whole = recipe(root, out=tmp_path / "whole", views=2)
    list(train_steps(built(whole), whole, whole.out))
    halved = whole.model_copy(update={"out": tmp_path / "halved"})
    steps = train_steps(built(halved), halved, halved.out)
    next(steps), next(steps), next(steps)
    steps.close()  # type: ignore[attr-defined]
    list(train_steps(built(halved), halved, halved.out))
    assert losses(halved.out) == losses(whole.out)


def test_blocks_open_one_after_the_other_and_are_all_open_at_the_end(tmp_path: Path) -> None:
    root = write_squares(tmp_path / "data", [(0, 32)])
    task = built(recipe(root))
    generator = torch.Generator().manual_seed(0)
    for progress, expected in ((0.0, [True, True]), (1 / 3 + 1e-6, [False, True]), (0.7, [False, False])):
        task.progress = progress
        assert task._closed(generator) == expected
    never = built(recipe(root, anneal=False, out=tmp_path / "never"))
    assert never._closed(generator) == [False, False]


def test_things_without_names_need_none(tmp_path: Path) -> None:
    root = write_squares(tmp_path / "data", [(0, 32)])
    config = recipe(root, settings={"agnostic": True})
    task = built(config)
    assert all(np.isfinite(loss) for _, loss in train_steps(task, config, config.out))
    segmenter = segmenter_of(make_segmenter().model, task.eval())
    encoded = segmenter.encode(np.full((64, 96, 3), 120, np.uint8))
    found = segmenter.logits(encoded, segmenter.queries(["red", "green"])).found
    assert found is not None and found().classes.shape == (6, 2)


def test_names_of_several_sources_are_one_list_and_what_is_held_out_is_none_of_it(tmp_path: Path) -> None:
    first, second = write_squares(tmp_path / "a", [(0, 32)]), tmp_path / "b"
    write_objects(second)
    data = (
        MaskData(protocol="panoptic", path=str(first)),
        MaskData(protocol="panoptic", path=str(second), held_out_classes=("dog",)),
        MaskData(protocol="instances", path=str(second), held_out_classes=("dog",)),
    )
    task = built(recipe(first, data=data))
    assert task.head.known.shape == (4, 7)  # red, blue, sky, cat
    pairs = zip(task.views, task.name_of, strict=True)
    named = [dict(zip(one.source.phrases, names.tolist(), strict=True)) for one, names in pairs]
    assert named[0] == {"red": 0, "blue": 1}
    assert named[1]["cat"] == named[2]["cat"] >= 2 and named[1]["dog"] == named[2]["dog"] == -1
    assert [row["objects"] for row in task.manifest] == [2, 9, 6]


def test_wrong_heads_and_data_are_refused(tmp_path: Path) -> None:
    root = write_squares(tmp_path / "data", [(0, 32)])
    config = recipe(root)
    with pytest.raises(ConfigError, match="trains a head of kind 'maskqueries', got 'adapter'"):
        built(config.model_copy(update={"head": HeadConfig(kind="adapter")}))
    everything = MaskData(protocol="panoptic", path=str(root), held_out_classes=("red", "blue"))
    with pytest.raises(DatasetError, match="left to train on"):
        built(recipe(root, data=(everything,)))
    sam = recipe(root, settings={"sam": "mobile-sam"})
    known = [set(maskqueries_identity(each, make_segmenter().model, FeatureCache(None))) for each in (sam, config)]
    assert known[0] - known[1] == {"weights of the SAM"}


@pytest.mark.slow
def test_a_run_folder_is_loaded_finds_objects_and_is_the_same_when_trained_again(tmp_path: Path) -> None:
    root = write_squares(tmp_path / "data", [(0, 32), (32, 0)])
    config = read_model_config("mini")
    small = config.model_copy(update={"input": config.input.model_copy(update={"short_side": 128})})
    model = tmp_path / "small.yaml"
    model.write_text(yaml.safe_dump(small.model_dump(mode="json")))
    values: dict[str, Any] = {
        "model": str(model),
        "settings": {"sam": "mobile-sam"},
        "schedule": {"steps": 3, "batch": 1},
    }
    values["features"] = tmp_path / "features"
    one = train(recipe(root, out=tmp_path / "one", **values))
    other = train(recipe(root, out=tmp_path / "other", **values))
    assert same_weights(one, other)
    segmenter = ovseg.load(str(one), device="cpu", cache=tmp_path / "text")
    assert segmenter.config.objects.fast.proposals == segmenter.config.objects.best.proposals == "queries"
    photo = np.array(Image.open(root / "images" / "0.png"))
    for quality in ("fast", "best"):
        unsure = segmenter.with_objects(least_score=0.0, most=3)
        result = unsure.segment(photo, ["red", "blue"], instances=["red"], quality=quality)
        assert result.instances is not None and 0 < len(result.instances) <= 3
        assert {each.label for each in result.instances} == {"red"}
    found = segmenter.logits(segmenter.encode(photo), segmenter.queries(["red"])).found
    assert found is not None and found().masks.shape[0] == 6
