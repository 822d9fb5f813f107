"""Encoders without a common space, and what the installed libraries say about the weights of the model files."""

import json
import math

import numpy as np
import pytest
import torch
from helpers.towers import model_config
from safetensors.torch import save_file
from torch.nn import functional

from ovseg._torchvision import ensure_torchvision
from ovseg.assets import asset_names
from ovseg.attention.structured import resize_numbers
from ovseg.errors import ConfigError, ModelError
from ovseg.heads.prototypes import save_prototypes
from ovseg.images.resize import prepare
from ovseg.models.assemble import CLIP_MEAN, CLIP_STD
from ovseg.models.build import build_model
from ovseg.models.clip import create_openclip
from ovseg.models.config import ModelConfig, read_model_config
from ovseg.models.download import find_own_of, is_local
from ovseg.pipeline.segmenter import Segmenter
from ovseg.regions.superpixels import felzenszwalb

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


def prototypes_segmenter(folder):
    """A pair with a head of prototypes, superpixels, and CLIP's look at the whole image; and its entries."""
    draw = torch.Generator().manual_seed(0)
    keys, values = torch.randn(6, 16, generator=draw), torch.randn(6, CHANNELS, generator=draw)
    save_prototypes(folder / "mine.safetensors", keys, values)
    head = {"kind": "prototypes", "weights": str(folder / "mine.safetensors")}
    head["settings"] = {"neighbours": 2, "scale": 10.0}
    text = {"name": "ovseg-tiny-text", "whole": True}
    values_of = config_of(head=head, text=text).model_dump() | {
        "whole": {"share": 0.2, "pull": 0.0, "distance": 0.0},
        "gather": {"regions": {"source": "felzenszwalb"}},
        "input": {"short_side": 64, "max_long_side": 96},
        "logit_scale": 10.0,
    }
    model = build_model(ModelConfig.model_validate(values_of))
    return Segmenter(model, device=torch.device("cpu"), cache=folder / "cache"), keys.half(), values.half()


@torch.inference_mode()
def test_prototypes_and_the_whole_image_are_mixed_as_the_loops_say(tmp_path):
    segmenter, keys, values = prototypes_segmenter(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    image[:, 48:] = (20, 200, 40)
    encoded = segmenter.encode(image)
    queries = segmenter.queries(["cat", "road"], background=None)
    words = segmenter.model.text().encode(["a photo of a cat.", "a photo of a road."]).double()
    spec = segmenter.model.image.spec
    pixels, _ = prepare(image, spec, size=(64, 96))
    colours = pixels * torch.tensor(spec.std)[:, None, None] + torch.tensor(spec.mean)[:, None, None]
    seen = (colours - torch.tensor(CLIP_MEAN)[:, None, None]) / torch.tensor(CLIP_STD)[:, None, None]
    square = functional.interpolate(seen, (32, 32), mode="bicubic", antialias=True)
    whole = create_openclip("ovseg-tiny-text", None).eval().encode_image(square, normalize=True)[0]
    torch.testing.assert_close(encoded.vector, whole, atol=1e-4, rtol=1e-4)
    dense = segmenter.model.image.dense(pixels).values[0].double()
    regions = resize_numbers(felzenszwalb(torch.from_numpy(image), dense), dense.shape[1:])
    assert 1 < len(regions.unique()) < regions.numel()
    found = segmenter.logits(encoded, queries).values
    for row, word in enumerate(words):
        likeness = functional.cosine_similarity(word[None], keys.double())
        prototype = values[likeness.topk(2).indices].double().mean(0)
        fit = float(word @ whole.double())
        for y in range(dense.shape[1]):
            for x in range(dense.shape[2]):
                mean = dense[:, regions == regions[y, x]].mean(1)
                local = float(functional.cosine_similarity(mean, prototype, dim=0))
                slow = 10 * (0.8 / (1 + math.exp(-local)) + 0.2 * fit)
                assert float(found[row, y, x]) == pytest.approx(slow, abs=1e-3)


def test_a_file_of_ones_own_is_found_beside_the_model_file(tmp_path, monkeypatch):
    monkeypatch.setattr("ovseg.own_files.OWN_FILES", tmp_path / "none")
    config = read_model_config("dinov2-l14-clip-l14-freeda")
    with pytest.raises(
        ModelError, match=r"'freeda-prototypes.safetensors', which is on no hub \(made by .*; lay it into"
    ):
        find_own_of(config, config.head.weights)
    mine = config.model_copy(update={"name": "mine"})
    (tmp_path / "mine.yaml").write_text(json.dumps(mine.model_dump()), encoding="utf-8")  # JSON is YAML
    assert read_model_config(str(tmp_path / "mine.yaml")).head.weights == "freeda-prototypes.safetensors"
    (tmp_path / "freeda-prototypes.safetensors").touch()
    found = read_model_config(str(tmp_path / "mine.yaml"))
    assert find_own_of(found, found.head.weights) == tmp_path / "freeda-prototypes.safetensors"


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
