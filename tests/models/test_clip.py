"""Models from configurations: open_clip and Hugging Face towers, their text side, and every model file."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.towers import model_config
from torch.nn import functional

from ovseg.assets import asset_names
from ovseg.attention import find_recipe
from ovseg.encoders.hf_text import HuggingFaceText
from ovseg.encoders.openclip_text import OpenClipText
from ovseg.encoders.spec import ImageEncoder, TextEncoder
from ovseg.errors import ConfigError, ModelError, VocabularyError
from ovseg.files import sha256_of
from ovseg.heads.registry import HeadConfig
from ovseg.identity import digest
from ovseg.images.resize import prepare
from ovseg.models.assemble import assemble
from ovseg.models.build import BUILDERS, build_model
from ovseg.models.catalogue import list_models
from ovseg.models.config import ModelConfig, for_benchmark, read_model_config
from ovseg.models.trained import with_head
from ovseg.pipeline.segmenter import Segmenter
from ovseg.regions import build_regions
from ovseg.sam.load import sam_mark
from ovseg.vocabulary.templates import Templates

CPU = torch.device("cpu")
TINY = {
    "ovseg-tiny-vit": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 8, "patch_size": 8},
        "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 1},
    },
    "ovseg-tiny-conv": {
        "embed_dim": 16,
        "vision_cfg": {
            "timm_model_name": "convnext_atto",
            "timm_pool": "",
            "timm_proj": "linear",
            "image_size": 64,
        },
        "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 1},
    },
}


@pytest.fixture(scope="module", autouse=True)
def tiny_architectures(tmp_path_factory):
    import open_clip

    folder = tmp_path_factory.mktemp("architectures")
    for name, facts in TINY.items():
        (folder / f"{name}.json").write_text(json.dumps(facts), encoding="utf-8")
    open_clip.add_model_config(folder)


def config_of(name="ovseg-tiny-vit", **encoder):
    settings = {"kind": "openclip", "name": name, "random_weights": True, **encoder}
    return model_config("tiny", encoder=settings)


def build(config, weights=None):
    return build_model(config, device=CPU, dtype=torch.float32, weights=weights)


def test_image_and_text_share_one_space_and_one_set_of_weights(wide):
    import open_clip

    model = build(config_of(recipe={"name": "naclip"}))
    text = model.text()
    assert isinstance(model.image, ImageEncoder) and isinstance(text, TextEncoder)
    assert model.image.spec.space == text.space == model.head.space == "openclip:ovseg-tiny-vit/random"
    assert (model.image.spec.stride, model.image.spec.channels) == (8, 16)
    assert model.image.dense(wide).values.shape == (2, 16, 3, 6)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        whole = open_clip.create_model("ovseg-tiny-vit", pretrained=None).eval()
    with torch.no_grad():
        ids = open_clip.get_tokenizer("ovseg-tiny-vit")(["a cat", "two dogs"], context_length=12)
        expected = functional.normalize(whole.encode_text(ids), dim=-1)
        torch.testing.assert_close(text.encode(["a cat", "two dogs"]), expected)
        square = torch.randn(1, 3, 32, 32)
        vector = functional.normalize(whole.encode_image(square), dim=-1)
        torch.testing.assert_close(model.image.image_vector(square), vector, atol=1e-5, rtol=1e-5)


def test_the_text_tower_waits_until_it_is_asked_for(monkeypatch):
    import ovseg.models.clip as clip_build

    made = []
    create = clip_build.create_openclip
    monkeypatch.setattr(clip_build, "create_openclip", lambda *args: made.append(1) or create(*args))
    model = build(config_of())
    assert len(made) == 1 and not hasattr(model.image.tower, "text")
    assert model.text() is model.text()
    assert len(made) == 2


def test_recipes_and_structure_networks_tell_features_apart():
    digests = [
        build(config_of(recipe={"name": name})).encoder_digest for name in ("naclip", "maskclip", "clearclip")
    ]
    assert len(set(digests)) == 3
    again = build(config_of(recipe={"name": "naclip"}))
    assert again.encoder_digest == digests[0]
    # the text side decides no feature of an image
    other = replace(again, weights={**again.weights, "text": "other"})
    assert other.encoder_digest == again.encoder_digest and other.info["weights"] != again.info["weights"]
    trained = replace(again, weights={**again.weights, "structure": "another file"})
    assert trained.encoder_digest != again.encoder_digest
    assert trained.info["features"] != again.info["features"]


def test_the_weights_of_a_structure_network_are_known_by_their_bytes(tmp_path):
    import timm
    from safetensors.torch import save_file

    name = "vit_tiny_patch16_224"
    structure = {"name": name}
    tower = build(config_of()).image.tower
    marks = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = timm.create_model(name, pretrained=False, num_classes=0).state_dict()
        save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "structure.safetensors")
        config = config_of(random_weights=False, recipe={"name": "proxyclip"}, structure=structure)
        folder = tmp_path / str(seed)
        (folder / "structure").mkdir(parents=True)
        shutil.copy(tmp_path / "structure.safetensors", folder / "structure" / "model.safetensors")
        spec = replace(build(config_of()).image.spec, stride=tower.stride)
        marks.append(assemble(tower, spec, config, folder)[1])
        assert marks[-1] == {"structure": sha256_of(tmp_path / "structure.safetensors")}
    assert marks[0] != marks[1]


@pytest.mark.parametrize("suffix", ["model.safetensors", "open_clip_pytorch_model.bin"])
def test_weights_come_from_a_local_folder(suffix, tmp_path, wide):
    import open_clip
    from safetensors.torch import save_file

    torch.manual_seed(7)
    whole = open_clip.create_model("ovseg-tiny-vit", pretrained=None)
    state = {key: value.contiguous() for key, value in whole.state_dict().items()}
    save = save_file if suffix.endswith("safetensors") else torch.save
    save(state, tmp_path / suffix)
    model = build(config_of(random_weights=False, weights="mine"), weights=tmp_path)
    assert model.image.spec.space == "openclip:ovseg-tiny-vit/mine"
    assert torch.equal(model.image.tower.visual.proj, whole.visual.proj)
    assert model.weights == {"image": sha256_of(tmp_path / suffix), "objects": sam_mark("mobile-sam")}


def test_weights_of_another_architecture_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"visual.proj": torch.zeros(3, 3)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="does not hold the weights of open_clip's 'ovseg-tiny-vit'"):
        build(config_of(random_weights=False), weights=tmp_path)


def test_a_phrase_over_the_context_length_is_refused_by_name():
    text = build(config_of()).text()
    assert text.encode(["one two three four five six seven eight nine ten"]).shape == (1, 16)
    assert text.encode([]).shape == (0, 16)
    long = "one two three four five six seven eight nine ten eleven"
    with pytest.raises(VocabularyError, match=r"at most 12 tokens, got 'one two .* eleven'"):
        text.encode(["cat", long])


def test_text_vectors_do_not_depend_on_their_neighbours():
    text = build(config_of()).text()
    phrases = ["cat", "a photo of a very small dog", "sky"]
    alone = torch.cat([text.encode([phrase]) for phrase in phrases])
    torch.testing.assert_close(text.encode(phrases), alone)
    torch.testing.assert_close(alone.norm(dim=1), torch.ones(3))


def test_a_convolutional_tower_takes_no_recipe():
    model = build(config_of("ovseg-tiny-conv"))
    assert (model.image.spec.stride, model.image.spec.channels) == (32, 16)
    assert model.image.dense(torch.randn(1, 3, 64, 96)).values.shape == (1, 16, 2, 3)
    with pytest.raises(ConfigError, match="has no attention for the recipe 'naclip'"):
        build(config_of("ovseg-tiny-conv", recipe={"name": "naclip"}))


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(ModelError, match="open_clip has no model 'ViT-B-61'; did you mean 'ViT-B-"):
        build(config_of("ViT-B-61"))
    with pytest.raises(ModelError, match="timm has no architecture 'vit_tiny_patch16_225'; did you mean"):
        build(config_of(structure={"name": "vit_tiny_patch16_225"}, recipe={"name": "proxyclip"}))
    with pytest.raises(ConfigError, match="unknown recipe 'naclp'"):
        build(config_of(recipe={"name": "naclp"}))
    with pytest.raises(ConfigError, match="unknown region source 'slik'; did you mean 'slic'"):
        build(config_of(regions={"source": "slik"}, recipe={"name": "plain"}))


def test_a_structure_encoder_comes_with_the_model(wide):
    structure = {"name": "test_vit"}
    model = build(config_of(structure=structure, recipe={"name": "proxyclip"}))
    assert model.image.spec.granularity == 16
    assert model.image.dense(torch.randn(1, 3, 32, 64)).values.shape == (1, 16, 2, 4)


def _save_huggingface(model, folder, tokenizer):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    facts = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (folder / "preprocessor_config.json").write_text(json.dumps(facts), encoding="utf-8")


def _tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = {word: number for number, word in enumerate(["<pad>", "cat", "dog", "a", "photo", "of"])}
    words |= {"<start>": 97, "<end>": 98, "<unk>": 50}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 97), ("<end>", 98)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<end>", unk_token="<unk>", eos_token="<end>", bos_token="<start>"
    )


def test_a_huggingface_folder_becomes_a_model(tmp_path, clip_model, wide):
    _save_huggingface(clip_model, tmp_path, _tokenizer())
    config = config_of("tiny", kind="huggingface", recipe={"name": "clearclip"}, random_weights=False)
    model = build(config, weights=tmp_path)
    assert model.image.spec.mean == (0.1, 0.2, 0.3)
    assert model.image.dense(wide).values.shape == (2, 16, 3, 6)
    text = model.text()
    assert isinstance(text, HuggingFaceText) and isinstance(text, TextEncoder)
    ids = torch.tensor([[97, 1, 98]])
    with torch.no_grad():
        expected = functional.normalize(clip_model.get_text_features(ids).pooler_output, dim=-1)
    vectors = text.encode(["cat", "a photo of a dog"])
    torch.testing.assert_close(vectors[:1], expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(VocabularyError, match="at most 77 tokens, got 'cat cat"):
        text.encode(["cat " * 80])


def test_a_siglip_folder_becomes_a_model(tmp_path, siglip_model, wide):
    _save_huggingface(siglip_model, tmp_path, _tokenizer())
    config = config_of("tiny", kind="huggingface", recipe={"name": "maskclip"}, random_weights=False)
    model = build(config, weights=tmp_path)
    assert model.image.dense(wide).values.shape == (2, 32, 3, 6)
    assert model.text().encode(["cat"]).shape == (1, 32)


def test_a_folder_without_a_model_is_refused(tmp_path):
    config = config_of("tiny", kind="huggingface", random_weights=False)
    with pytest.raises(ModelError, match=r"\(config\.json, model\.safetensors and .* got no config\.json"):
        build(config, weights=tmp_path / "nowhere")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="expected a transformers model with safetensors"):
        build(config, weights=tmp_path)


FILES = asset_names("configs/models")


@pytest.mark.parametrize("name", FILES)
def test_every_model_file_names_things_that_exist(name):
    config = read_model_config(name)
    assert config.name == name and config.encoder.kind in BUILDERS
    Templates.named(config.templates)
    if config.encoder.recipe is not None:
        recipe = find_recipe(config.encoder.recipe)
        gathers = config.gather is not None and config.gather.regions is not None
        looks = recipe.structure or (gathers and not config.gather.regions.from_image)
        assert looks == (config.encoder.structure is not None)
        assert recipe.regions == (config.encoder.regions is not None)
    if config.encoder.regions is not None:
        build_regions(config.encoder.regions)
    for benchmark in config.datasets:
        assert benchmark in asset_names("evaluation/benchmarks")
        assert for_benchmark(config, benchmark) != config


@pytest.mark.parametrize("name", [name for name in FILES if read_model_config(name).encoder.kind == "openclip"])
def test_every_open_clip_file_names_weights_that_open_clip_knows(name):
    import open_clip
    import timm
    from open_clip.pretrained import get_pretrained_cfg

    config = read_model_config(name)
    facts = get_pretrained_cfg(config.encoder.name, config.encoder.weights)
    assert facts["hf_hub"].rstrip("/") == config.encoder.repo
    architecture = open_clip.get_model_config(config.encoder.name)
    assert bool(facts.get("quick_gelu", False)) == bool(architecture.get("quick_gelu", False))
    if config.encoder.structure is not None:
        assert timm.get_pretrained_cfg(config.encoder.structure.name).hf_hub_id == config.encoder.structure.repo


def test_wrong_keys_for_a_benchmark_are_refused():
    config = read_model_config("clip-b16-sclip-paper")
    assert for_benchmark(config, "voc21").logit_scale == 65
    assert for_benchmark(config, "cityscapes-19").input.short_side == 560
    with pytest.raises(ConfigError, match=r"states no constants of a paper for 'fss-1000'. It does for: voc21"):
        for_benchmark(config, "fss-1000")
    wrong = config.model_copy(update={"datasets": {"voc21": {"input.short_sid": 3.0}}})
    with pytest.raises(ConfigError, match="did you mean 'short_side'"):
        for_benchmark(wrong, "voc21")


def test_models_that_were_not_fetched_are_not_local(monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repo, name: None)
    local = {info.name: info.local for info in list_models()}
    assert not any(local[name] for name in FILES if name != "mini")


def test_openclip_text_takes_a_bare_model():
    class Model(torch.nn.Module):
        context_length = 4

        def __init__(self):
            super().__init__()
            self.table = torch.nn.Embedding(10, 3)

        def encode_text(self, ids):
            return self.table(ids).sum(1)

    def tokenizer(phrases, context_length):
        rows = [[1, *range(2, 2 + len(phrase.split())), 9] for phrase in phrases]
        return torch.tensor([(row + [0] * context_length)[:context_length] for row in rows])

    text = OpenClipText(Model(), tokenizer, space="s")
    assert text.encode(["a b", "c"]).shape == (2, 3)
    with pytest.raises(VocabularyError, match="got 'a b c'"):
        text.encode(["a b c"])


def test_a_model_file_of_an_earlier_run_that_states_its_task_is_read():
    values = config_of().model_dump()
    assert ModelConfig.model_validate({**values, "task": "segmentation"}) == config_of()
    with pytest.raises(ValueError, match="task"):
        ModelConfig.model_validate({**values, "task": "detection"})


def test_smoothing_and_windows_averaged_in_pixels_exclude_each_other():
    values = config_of().model_dump()
    values["input"] |= {"splice": "pixels"}
    assert ModelConfig.model_validate(values).input.splice == "pixels"
    with pytest.raises(ValueError, match="smoothing needs cells on one grid"):
        ModelConfig.model_validate(values | {"smoothing": 0.3})


def test_denseclip_on_clip_reads_the_class_token():
    below = build(config_of(recipe={"name": "naclip"}))
    settings = {"widths": {"features": 16, "text": 16, "joint": 16}, "width": 8, "layers": 1, "contexts": 0}
    torch.manual_seed(0)
    model = with_head(below, HeadConfig(kind="denseclip", settings={**settings, "gamma": 1.0}), device=CPU)
    photo = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    segmenter = Segmenter(model, device=CPU)
    encoded = segmenter.encode(photo)
    pixels = prepare(photo, below.image.spec, size=encoded.geometry.resized)[0]
    torch.testing.assert_close(encoded.features.whole, below.image.image_vector(pixels))
    torch.testing.assert_close(encoded.features.values, below.image.dense(pixels).values)
    asked = segmenter.queries(["cat", "dog"])
    mean = replace(encoded, features=replace(encoded.features, whole=None))
    assert not torch.equal(segmenter.logits(encoded, asked).values, segmenter.logits(mean, asked).values)
    assert Segmenter(below, device=CPU).encode(photo).features.whole is None


def test_fields_that_are_younger_than_what_users_kept_leave_a_model_known_as_before():
    model = build(config_of())
    encoder = model.config.encoder.model_dump()
    assert encoder.pop("converter") is None and encoder.pop("tokens") is None
    assert model.encoder_digest == digest(encoder, model.config.input, {"image": "random"})


def test_boxes_of_a_detector_that_is_not_there_are_refused():
    from ovseg.models.sections import BoxesConfig

    with pytest.raises(ConfigError, match=r"'boxes:' needs a model with a detector, which .* has not; remove it"):
        build(config_of().model_copy(update={"boxes": BoxesConfig()}))
