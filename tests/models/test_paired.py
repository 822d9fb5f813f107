"""Encoders without a common space, and what the installed libraries say about the weights of the model files."""

import json

import pytest
import torch
from helpers.towers import model_config
from safetensors.torch import save_file
from torch.nn import functional

from ovseg._torchvision import ensure_torchvision
from ovseg.assets import asset_names
from ovseg.errors import ConfigError, ModelError
from ovseg.models.build import build_model
from ovseg.models.config import read_model_config
from ovseg.models.download import is_local

ensure_torchvision()
TEXT = {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 1}
CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 8, "patch_size": 8},
    "text_cfg": TEXT,
}
CHANNELS = 64  # of timm's test_vit


@pytest.fixture(scope="module", autouse=True)
def tiny_clip(tmp_path_factory):
    import open_clip

    folder = tmp_path_factory.mktemp("architectures")
    (folder / "ovseg-tiny-text.json").write_text(json.dumps(CLIP), encoding="utf-8")
    open_clip.add_model_config(folder)


def config_of(*, head=None, **encoder):
    settings = {"kind": "paired", "name": "test_vit", "text": {"name": "ovseg-tiny-text"}, "random_weights": True}
    return model_config("pair", encoder={**settings, **encoder}, head=head)


@torch.no_grad()
def test_the_image_side_is_the_network_s_last_tokens_and_the_text_side_another_model_s():
    model = build_model(config_of())
    pixels = torch.randn(2, 3, 160, 160)
    dense = model.image.dense(pixels)
    expected = functional.normalize(model.image.tower.trunk.forward_features(pixels)[:, 1:], dim=-1)
    torch.testing.assert_close(dense.values.flatten(2).transpose(1, 2), expected, atol=1e-5, rtol=1e-5)
    assert (dense.space, model.text().space) == ("timm:test_vit", "openclip:ovseg-tiny-text/random")
    assert (model.head.feature_space, model.head.text_space) == (dense.space, model.text().space)
    assert model.text().encode(["a cat"]).shape == (1, 16)
    with pytest.raises(ModelError, match="'pair' has none; train one with the recipe 'captions'"):
        model.head.pixels(dense)


def test_a_text_map_joins_the_two():
    widths = {"features": CHANNELS, "text": 16, "joint": 16}
    model = build_model(config_of(head={"kind": "textmap", "settings": {"widths": widths}}))
    pixels = model.head.pixels(model.image.dense(torch.randn(1, 3, 32, 64)))
    phrases = model.head.phrases(model.text().encode(["a cat", "a dog"]))
    assert pixels.values.shape == (1, CHANNELS, 2, 4) and phrases.values.shape == (2, CHANNELS)
    assert pixels.space == "timm:test_vit|textmap"


def test_weights_come_from_a_folder_and_its_folder_text(tmp_path):
    import open_clip

    from ovseg.encoders.structure import create_timm

    torch.manual_seed(3)
    image, text = create_timm("test_vit"), open_clip.create_model("ovseg-tiny-text", pretrained=None)
    save_file(image.state_dict(), tmp_path / "model.safetensors")
    config = config_of(random_weights=False)
    with pytest.raises(ModelError, match="the text side of model 'pair'"):
        build_model(config, weights=tmp_path)
    (tmp_path / "text").mkdir()
    state = {key: value.contiguous() for key, value in text.state_dict().items()}
    save_file(state, tmp_path / "text" / "model.safetensors")
    model = build_model(config, weights=tmp_path)
    assert torch.equal(model.image.tower.trunk.patch_embed.proj.weight, image.patch_embed.proj.weight)
    ids = open_clip.get_tokenizer("ovseg-tiny-text")(["a cat"], context_length=12)
    with torch.no_grad():
        expected = functional.normalize(text.eval().encode_text(ids), dim=-1)
    torch.testing.assert_close(model.text().encode(["a cat"]), expected)


def test_a_pair_needs_a_text_tower_and_an_image_network_that_opens():
    with pytest.raises(ConfigError, match="needs a section 'text:'"):
        build_model(config_of(text=None))
    with pytest.raises(ModelError, match="expected a transformer with a last block to open"):
        build_model(config_of(name="samvit_base_patch16_224"))


def test_a_pair_is_local_only_with_both_files(monkeypatch):
    import huggingface_hub

    here = {"image-repo"}
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda repo, name: "file" if repo in here else None
    )
    config = config_of(repo="image-repo", text={"name": "ovseg-tiny-text", "repo": "text-repo"})
    assert not is_local(config)
    here.add("text-repo")
    assert is_local(config)


# What timm's list of pretrained weights says, by its short names. Where an entry says nothing, timm fills in a
# default: nothing is learnt from that, so those weights (OpenAI's ViT, LAION, SigLIP 2, DINO) are left out.
NAMES = {
    "apache-2.0": "Apache-2.0",
    "apple-amlr": "Apple Machine Learning Research Model License",
    "apple-ascl": "Apple Sample Code License",
    "cc-by-nc-4.0": "CC-BY-NC-4.0",
    "dinov3-license": "DINOv3 License",
    "mit": "MIT",
    "nvidia-open-model-license": "NVIDIA Open Model License",
}
STATED = {
    "timm/vit_base_patch14_reg4_dinov2.lvd142m": "vit_base_patch14_reg4_dinov2.lvd142m",
    "timm/samvit_base_patch16.sa1b": "samvit_base_patch16.sa1b",
    "timm/vit_base_patch16_dinov3.lvd1689m": "vit_base_patch16_dinov3.lvd1689m",
    "timm/naflexvit_base_patch16_radio_v3.c_radio": "naflexvit_base_patch16_radio_v3.c_radio",
    "timm/vit_base_patch16_clip_224.metaclip_2pt5b": "vit_base_patch16_clip_224.metaclip_2pt5b",
    "timm/vit_huge_patch14_clip_224.metaclip2_worldwide": "vit_huge_patch14_clip_224.metaclip2_worldwide",
    "timm/resnet50_clip.openai": "resnet50_clip.openai",
    "timm/PE-Core-B-16": "vit_pe_core_base_patch16_224.fb",
    "timm/MobileCLIP2-B-OpenCLIP": "vit_base_mci_224.apple_mclip2_dfndr2b",
    "timm/MobileCLIP2-S0-OpenCLIP": "fastvit_mci0.apple_mclip2_dfndr2b",
    "apple/DFN2B-CLIP-ViT-B-16": "vit_base_patch16_clip_224.dfn2b",
}
RESEARCH_ONLY = {"apple-amlr", "cc-by-nc-4.0"}


@pytest.mark.parametrize("name", asset_names("configs/models"))
def test_licences_are_those_that_timm_states(name):
    import timm

    config = read_model_config(name)
    parts = (config.encoder, config.encoder.structure, config.encoder.text)
    for repo in [part.repo for part in parts if part is not None and part.repo in STATED]:
        stated = timm.get_pretrained_cfg(STATED[repo]).license
        assert NAMES[stated] in config.license
        assert not (config.commercial and stated in RESEARCH_ONLY)


PAIRS = [name for name in asset_names("configs/models") if read_model_config(name).encoder.kind == "paired"]


@pytest.mark.parametrize("name", PAIRS)
def test_every_pair_names_weights_that_timm_and_open_clip_know(name):
    import timm
    from open_clip.pretrained import get_pretrained_cfg

    config = read_model_config(name)
    text = config.encoder.text
    assert timm.get_pretrained_cfg(config.encoder.name).hf_hub_id == config.encoder.repo
    assert get_pretrained_cfg(text.name, text.weights)["hf_hub"].rstrip("/") == text.repo
