from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

import ovseg
from ovseg._torchvision import ensure_torchvision
from ovseg.errors import ConfigError, DatasetError
from ovseg.heads.registry import HeadConfig
from ovseg.pipeline.segmenter import Segmenter
from ovseg.training.checkpoint import read_log
from ovseg.training.config import CaptionSchedule, CaptionsConfig
from ovseg.training.features import FeatureCache
from ovseg.training.loop import METRICS, train_steps
from ovseg.training.recipes.captions import build_captions, head_weights, info_nce
from ovseg.training.runs import finish

ensure_torchvision()  # before timm


@pytest.fixture
def table(folder: Path) -> Path:
    path = folder / "captions.csv"
    with open(path, "w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["file", "caption"])
        for number, word in enumerate(("a cat", "a dog on grass", "the sea")):
            rows.writerows([[f"{number}.png", word], [f"{number}.png", f"{word} in the sun"]])
    return path


def test_captions_teach_a_map_that_a_model_can_run(small: Segmenter, table: Path, tmp_path: Path) -> None:
    schedule = CaptionSchedule(steps=12, batch=3, learning_rate=1e-2)
    head = HeadConfig(kind="textmap", settings={"hidden": 32})
    config = CaptionsConfig(head=head, table=table, held_out=0.0, schedule=schedule, out=tmp_path / "run")
    config.out.mkdir()
    task = build_captions(config, small.model, FeatureCache(tmp_path / "features"))
    assert task.pooled.shape == (3, 1, 3440)  # no class token: one plain mean
    list(train_steps(task, config, config.out))
    found = [row["loss"] for row in read_log(config.out / METRICS)]
    assert np.mean(found[-3:]) < 0.3 * np.mean(found[:3])
    finish(config, small.model, task)
    result = ovseg.load(str(config.out), device="cpu").segment(table.parent / "images/0.png", ["cat", "sea"])
    assert result.index_map.shape == (64, 96)


def test_info_nce_equals_loops() -> None:
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    total = 0.0
    for place in range(4):
        for row in (logits[place], logits[:, place]):
            total -= float((row[place].exp() / row.exp().sum()).log()) / 8
    assert float(info_nce(logits)) == pytest.approx(total, rel=1e-9)


def test_attention_heads_weigh_the_patches_of_a_tower_with_a_class_token() -> None:
    from timm.models.vision_transformer import VisionTransformer

    from ovseg.attention import RecipeConfig
    from ovseg.encoders.recipe_encoder import RecipeEncoder
    from ovseg.encoders.spec import EncoderSpec
    from ovseg.encoders.timm_vit import TimmViT

    torch.manual_seed(0)
    network = VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4, num_classes=0)
    tower = TimmViT(network.eval())
    spec = EncoderSpec("toy", "toy", stride=8, channels=32)
    encoder = RecipeEncoder(tower, spec, recipe=RecipeConfig(name="maskclip")).eval()
    pixels = torch.randn(1, 3, 24, 40)
    with torch.no_grad():
        weights = head_weights(encoder, pixels)
        assert weights is not None and weights.shape == (4, 15)
        tokens = network.norm_pre(tower.prefix(pixels).values)
        normed = network.blocks[-1].norm1(tokens)[0]
        qkv = network.blocks[-1].attn.qkv(normed).view(16, 3, 4, 8)
        for head in range(4):
            scores = torch.stack([(qkv[0, 0, head] * qkv[patch, 1, head]).sum() / 8**0.5 for patch in range(1, 16)])
            torch.testing.assert_close(weights[head], scores.exp() / scores.exp().sum())


def test_bad_tables_and_heads_are_named(small: Segmenter, table: Path, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    with pytest.raises(DatasetError, match=r"a CSV with the columns file and caption at '.*nothing.csv'"):
        build_captions(CaptionsConfig(table=tmp_path / "nothing.csv"), small.model, cache)
    table.write_text("file,sentence\n1.png,cat\n")
    with pytest.raises(DatasetError, match="must have the columns file and caption, got file, sentence"):
        build_captions(CaptionsConfig(table=table), small.model, cache)
    with pytest.raises(ConfigError, match="trains a head of kind 'textmap', got 'adapter'"):
        build_captions(CaptionsConfig(table=table, head=HeadConfig(kind="adapter")), small.model, cache)
