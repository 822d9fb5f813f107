"""The recipe of heads that read shots: what it learns, that it resumes exactly, and its run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers.toy import COLOURS, make_segmenter, paint
from helpers.training import losses, same_weights
from PIL import Image

import ovseg
from ovseg import Concept
from ovseg.errors import ConfigError, DatasetError, SpaceError
from ovseg.heads.registry import HeadConfig
from ovseg.models.config import read_model_config
from ovseg.training import train
from ovseg.training.config import Validation
from ovseg.training.data import MaskData
from ovseg.training.features import FeatureCache
from ovseg.training.loop import make_accelerator, train_steps
from ovseg.training.recipes.shots import EpisodeSchedule, ShotsConfig, ShotsTask, build_shots
from ovseg.training.runs import segmenter_of
from ovseg.weights import load_weights, save_weights

HEADS = ("multimodal", "labelanything")
SMALL = {"width": 16, "layers": 1, "attention_heads": 2, "inner": 16}


def recipe(root: Path, kind: str = "multimodal", **values: Any) -> ShotsConfig:
    schedule = {"steps": 4, "batch": 1, "learning_rate": 0.003, "warmup": 1, **values.pop("schedule", {})}
    data = values.pop("data", (MaskData(protocol="folder", path=str(root)),))
    settings = {**SMALL, **values.pop("settings", {})}
    defaults: dict[str, Any] = {"ways": 3, "shots": 2, "out": root.parent / "run", "save_every": 2}
    return ShotsConfig(
        head=HeadConfig(kind=kind, settings=settings),
        data=data,
        schedule=EpisodeSchedule(**schedule),
        **{**defaults, **values},
    )


def built(config: ShotsConfig) -> ShotsTask:
    cache = FeatureCache(config.out / "features")
    return build_shots(config, make_segmenter().model, cache, make_accelerator(config))


def write_colours(root: Path, names: str = "thing\nstuff\nother\n") -> Path:
    """Photos of red, blue and green squares on grey, whose names say nothing of their colours."""
    (root / "masks").mkdir(parents=True)
    for number in range(4):
        path = paint(root / "images", f"{number}.png", ["red", "blue", "green"], seed=number)
        pixels = np.asarray(Image.open(path)).astype(int)
        mask = np.full(pixels.shape[:2], 255, np.uint8)
        for label, colour in enumerate(("red", "blue", "green")):
            mask[(pixels == COLOURS[colour]).all(2)] = label
        Image.fromarray(mask).save(root / "masks" / f"{number}.png")
    (root / "classes.txt").write_text(names)
    return root


@pytest.mark.parametrize("kind", HEADS)
def test_colours_are_learned_from_shots(kind: str, tmp_path: Path) -> None:
    root = write_colours(tmp_path / "data")
    config = recipe(root, kind, schedule={"steps": 30, "batch": 2}, prompts={"mask": 1.0})
    task = built(config)
    steps = [loss for _, loss in train_steps(task, config, config.out)]
    assert np.mean(steps[-5:]) < 0.6 * np.mean(steps[:5])
    segmenter = segmenter_of(make_segmenter().model, task.eval())
    assert segmenter.config.examples.method == "trained" and segmenter.config.examples.beside == "auto"
    segmenter = segmenter.with_examples(beside=None)
    photo, mask = (np.asarray(Image.open(root / part / "0.png")) for part in ("images", "masks"))
    shown = [
        Concept(name, images=[photo], masks=[mask == number], use_name=False) for number, name in enumerate("abc")
    ]
    target, truth = (np.asarray(Image.open(root / part / "1.png")) for part in ("images", "masks"))
    found = segmenter.segment(target, shown, background=None, refine=False).index_map
    assert (found == truth)[truth < 255].mean() > 0.9


@pytest.mark.parametrize("kind", HEADS)
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(kind: str, folder: Path, tmp_path: Path) -> None:
    whole = recipe(folder, kind, out=tmp_path / "whole", views=2, settings={"dropout": 0.2})
    list(train_steps(built(whole), whole, whole.out))
    halved = whole.model_copy(update={"out": tmp_path / "halved"})
    steps = train_steps(built(halved), halved, halved.out)
    next(steps), next(steps), next(steps)
    steps.close()  # type: ignore[attr-defined]
    list(train_steps(built(halved), halved, halved.out))
    assert losses(halved.out) == losses(whole.out)


def test_wrong_heads_settings_and_data_are_refused(folder: Path, tmp_path: Path) -> None:
    config = recipe(folder)
    with pytest.raises(ConfigError, match="recipe 'shots' cannot train a head of kind 'adapter'"):
        built(config.model_copy(update={"head": HeadConfig(kind="adapter")}))
    with pytest.raises(ConfigError, match=r"ways must be at most 2, one fewer than head\.settings\.classes, got 3"):
        built(recipe(folder, "labelanything", settings={"classes": 3}))
    with pytest.raises(ValueError, match="ways"):
        recipe(folder, ways=1)
    with pytest.raises(ValueError, match="prompts"):
        recipe(folder, prompts={"circle": 1.0})
    alone = MaskData(protocol="folder", path=str(folder), held_out_classes=("sky", "road"))
    with pytest.raises(DatasetError, match="shows one class, 'cat'"):
        built(recipe(folder, data=(alone,)))
    scored = Validation(protocol="folder", path=str(folder))
    with pytest.raises(ConfigError, match="recipe 'shots' cannot be validated while it trains"):
        train(recipe(folder, validation=scored, out=tmp_path / "scored"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", HEADS)
def test_a_run_folder_is_loaded_and_is_the_same_when_trained_again(kind: str, tmp_path: Path) -> None:
    root = write_colours(tmp_path / "data", "cat\nroad\nsky\n")
    config = read_model_config("mini")
    small = config.model_copy(update={"input": config.input.model_copy(update={"short_side": 96})})
    model = tmp_path / "small.yaml"
    model.write_text(yaml.safe_dump(small.model_dump(mode="json")))
    values: dict[str, Any] = {"model": str(model), "features": tmp_path / "features"}
    one, other = (train(recipe(root, kind, out=tmp_path / name, **values)) for name in ("one", "other"))
    assert same_weights(one, other)
    segmenter = ovseg.load(str(one), device="cpu", cache=tmp_path / "text")
    photo, mask = (np.asarray(Image.open(root / part / "0.png")) for part in ("images", "masks"))
    shown = Concept("mug", images=[photo], masks=[mask == 0])
    by_words = segmenter.segment(photo, ["mug", "sky"]).index_map
    assert segmenter.segment(photo, [shown, "sky"]).index_map.shape == by_words.shape == photo.shape[:2]
    asked = [segmenter.with_examples(method=way).identity([shown, "sky"])["asked"] for way in ("trained", "auto")]
    assert asked[0] != asked[1]
    tensors, _ = load_weights(one / "head.safetensors")
    save_weights(tensors, one / "head.safetensors", metadata={"feature_space": "clip"})
    written = yaml.safe_load((one / "model.yaml").read_text())
    written["head"]["sha256"] = ""
    (one / "model.yaml").write_text(yaml.safe_dump(written))
    with pytest.raises(SpaceError, match="was trained with feature space 'clip'"):
        ovseg.load(str(one), device="cpu", cache=tmp_path / "text")
