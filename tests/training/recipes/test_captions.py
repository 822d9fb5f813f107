from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.training import losses, write_table

import ovseg
from ovseg._torchvision import ensure_torchvision
from ovseg.errors import ConfigError, DatasetError
from ovseg.heads.registry import HeadConfig
from ovseg.pipeline.segmenter import Segmenter
from ovseg.training import train
from ovseg.training.features import FeatureCache
from ovseg.training.loop import make_accelerator
from ovseg.training.recipes.captions import (
    CaptionSchedule,
    CaptionsConfig,
    build_captions,
    head_weights,
    info_nce,
)

ensure_torchvision()  # before timm


@pytest.fixture
def table(folder: Path) -> Path:
    rows = []
    for number, word in enumerate(("a cat", "a dog on grass", "the sea")):
        rows += [(f"{number}.png", word), (f"{number}.png", f"{word} in the sun")]
    return write_table(folder / "captions.csv", "caption", rows)


def test_captions_teach_a_map_that_a_model_can_run(
    small: Segmenter, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ovseg.training.runs.trainable_model", lambda _: small.model)
    schedule = CaptionSchedule(steps=12, batch=3, learning_rate=1e-2)
    head = HeadConfig(kind="textmap", settings={"hidden": 32})
    config = CaptionsConfig(head=head, table=table, held_out=0.0, schedule=schedule, out=tmp_path / "run")
    task = build_captions(config, small.model, FeatureCache(tmp_path / "features"), make_accelerator(config))
    assert task.pooled.shape == (3, 1, 3440)  # no class token: one plain mean
    assert not [name for name in task.state_dict() if not name.startswith("head.")]
    train(config)
    found = losses(config.out)
    assert np.mean(found[-3:]) < 0.3 * np.mean(found[:3])
    result = ovseg.load(str(config.out), device="cpu").segment(table.parent / "images/0.png", ["cat", "sea"])
    assert result.index_map.shape == (64, 96)
    assert "3 images, 6 captions" in (config.out / "README.md").read_text()


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
    def build(config: CaptionsConfig) -> None:
        build_captions(config, small.model, FeatureCache(tmp_path), make_accelerator(config))

    with pytest.raises(DatasetError, match=r"a CSV with the columns file and caption at '.*nothing.csv'"):
        build(CaptionsConfig(table=tmp_path / "nothing.csv"))
    write_table(table, "caption", [("0.png", "a cat"), ("gone.png", "a dog")])
    with pytest.raises(DatasetError, match=r"cannot read '.*gone.png': No such file or directory; complete"):
        build(CaptionsConfig(table=table))
    with pytest.raises(ConfigError, match="trains a head of kind 'textmap', got 'adapter'"):
        build(CaptionsConfig(table=table, head=HeadConfig(kind="adapter")))
