"""Every model file, fetched from a hub on this machine and run: narrow architectures, the rest as it really is."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.checkpoints import (
    clip_state,
    narrow,
    openclip_files,
    own_files_of,
    repositories_of,
    siglip_state,
)
from helpers.hub import point_at, serving_hub
from helpers.towers import model_config
from safetensors.torch import load, save

from ovseg.assets import asset_names
from ovseg.errors import ModelError
from ovseg.models.build import build_model
from ovseg.models.config import ModelConfig, read_model_config
from ovseg.models.download import fetch, is_local, tokenizer_repo
from ovseg.models.model import Model
from ovseg.pipeline.segmenter import Segmenter

CPU = torch.device("cpu")
NAMES = sorted(set(asset_names("configs/models")) - {"mini"})
QUICK = {
    "clipseg-rd64-refined",
    "clip-b16-proxyclip-shared",
    "siglip2-b16-naclip-shared",
    "hf-siglip2-b16-naclip-shared",
}
PHOTO = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
CLOSE = {"atol": 1e-4, "rtol": 1e-4}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def build(config: ModelConfig, weights: Path | None = None) -> Model:
    return build_model(config, device=CPU, dtype=torch.float32, weights=weights)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in NAMES]
)
def test_a_model_file_is_fetched_and_run_and_run_again_without_the_hub(
    name: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = read_model_config(name)
    repositories = repositories_of(config)
    with serving_hub(repositories) as hub, narrow():
        point_at(hub, cache, monkeypatch)
        assert not is_local(config)
        lay_own_files(config, tmp_path / "own", monkeypatch)
        fetch(config)
        assert is_local(config)
        sent = hub.sent()
        model = build(config)
        first = run(model, tmp_path / "first")
        assert hub.sent() == sent  # fetch left nothing to fetch
        hub.stop()
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        again = run(build(config), tmp_path / "second")
    np.testing.assert_array_equal(first, again)
    if config.encoder.kind != "paired":  # whose image network timm describes
        spec = model.image.spec
        assert (spec.mean, spec.std, spec.interpolation) == preprocessing(repositories[config.encoder.repo])


def lay_own_files(config: ModelConfig, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What no hub holds, where the user would lay it; without it, fetching says where that is."""
    monkeypatch.setattr("ovseg.own_files.OWN_FILES", folder)
    folder.mkdir()
    for name, content in own_files_of(config).items():
        with pytest.raises(ModelError, match=f"in the file '{name}', which is on no hub"):
            fetch(config)
        (folder / name).write_bytes(content)


def run(model: Model, cache: Path) -> np.ndarray:
    """How sure every pixel of the photo is; without a head, the vectors that it would join."""
    if model.config.encoder.kind == "paired" and model.config.head is None:
        patches = model.image.dense(torch.ones(1, 3, 56, 56)).values
        return np.concatenate([model.text().encode(["a cat"]).numpy().ravel(), patches.numpy().ravel()])
    found = Segmenter(model, device=CPU, cache=cache).segment(PHOTO, ["cat", "sofa"], background=None)
    assert found.index_map.shape == PHOTO.shape[:2] and {0, 1} >= set(np.unique(found.index_map))
    return found.score_map


def preprocessing(files: dict[str, bytes]) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    """Mean, standard deviation and interpolation, as the configuration among a repository's files states them."""
    if "open_clip_config.json" in files:
        stated = json.loads(files["open_clip_config.json"])["preprocess_cfg"]
        return tuple(stated["mean"]), tuple(stated["std"]), stated["interpolation"]
    stated = json.loads(files["preprocessor_config.json"])
    interpolation = {2: "bilinear", 3: "bicubic"}[stated["resample"]]
    return tuple(stated["image_mean"]), tuple(stated["image_std"]), interpolation


@pytest.mark.parametrize("local", [False, True])
def test_weights_without_a_tag_preprocess_as_the_file_beside_them_says(
    local: bool, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stated = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "bilinear"}
    files = openclip_files("ViT-B-16-quickgelu", stated)
    settings = {"kind": "openclip", "name": "ViT-B-16-quickgelu", "repo": "mine/tuned"}
    with serving_hub({"mine/tuned": files}) as hub, narrow():
        point_at(hub, cache, monkeypatch)
        if local:
            for name, content in files.items():
                (tmp_path / name).write_bytes(content)
        spec = build(model_config("mine", encoder=settings), tmp_path if local else None).image.spec
        assert bool(hub.asked) is not local
        assert (spec.mean, spec.std, spec.interpolation) == preprocessing(files)


@pytest.mark.parametrize("name", ["siglip2-b16-naclip-shared", "metaclip2-h14-naclip-shared"])
def test_a_tokenizer_of_the_hub_comes_with_the_model_or_lies_in_its_folder(
    name: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = read_model_config(name)
    repositories = repositories_of(config)
    words = ["a cat", "the road."]
    with serving_hub(repositories) as hub, narrow():
        point_at(hub, cache, monkeypatch)
        fetch(config)
        expected = build(config).text().encode(words)
        assert not torch.allclose(expected[0], expected[1], atol=1e-3)
        for files in repositories.values():
            for file, content in files.items():
                (tmp_path / file).write_bytes(content)
        hub.stop()
        point_at(hub, tmp_path / "empty", monkeypatch)
        torch.testing.assert_close(build(config, tmp_path).text().encode(words), expected)
        (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
        with pytest.raises(ModelError, match="expected the files of a tokenizer of transformers in"):
            build(config, tmp_path).text()
        (tmp_path / "tokenizer.json").unlink()
        (tmp_path / "tokenizer_config.json").unlink()
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(ModelError, match=r"the tokenizer of .* HF_HUB_OFFLINE is set"):
            build(config, tmp_path).text()


def test_the_tokenizers_of_the_hub_are_those_that_open_clip_names() -> None:
    import open_clip

    for name in {read_model_config(name).encoder.name for name in NAMES} & set(open_clip.list_models()):
        stated = open_clip.get_model_config(name)["text_cfg"].get("hf_tokenizer_name", "")
        assert tokenizer_repo(name) == stated
    assert tokenizer_repo("ViT-B-16-SigLIP2") == "timm/ViT-B-16-SigLIP2" and tokenizer_repo("no such") == ""


def test_a_repository_of_torch_files_alone_is_read_as_tensors(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = read_model_config("hf-siglip2-b16-naclip-shared")
    repo = config.encoder.repo
    files = dict(repositories_of(config)[repo])
    with serving_hub({repo: files}) as hub:
        point_at(hub, cache / "safe", monkeypatch)
        expected = build(config).text().encode(["a cat"])
    stream = io.BytesIO()
    torch.save(load(files.pop("model.safetensors")), stream)
    with serving_hub({repo: files | {"pytorch_model.bin": stream.getvalue()}}) as hub:
        point_at(hub, cache / "torch", monkeypatch)
        model = build(config)
        torch.testing.assert_close(model.text().encode(["a cat"]), expected)
        assert model.weights["image"] == hashlib.sha256(stream.getvalue()).hexdigest()[:16]
    stream = io.BytesIO()
    torch.save({"weight": Path()}, stream)
    with serving_hub({repo: files | {"pytorch_model.bin": stream.getvalue()}}) as hub:
        point_at(hub, cache / "code", monkeypatch)
        with pytest.raises(ModelError, match="expected a transformers model"):
            build(config)


@pytest.mark.parametrize(
    ("family", "size"),
    [("clip", (224, 224)), ("clip", (160, 288)), ("siglip", (224, 224))],  # timm resizes positions its own way
)
def test_open_clip_and_transformers_agree_on_one_checkpoint(
    family: str, size: tuple[int, int], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {
        "clip": ("clip-b16-naclip-shared", "hf-clip-b16-naclip-shared"),
        "siglip": ("siglip2-b16-naclip-shared", "hf-siglip2-b16-naclip-shared"),
    }
    first, second = (read_model_config(name) for name in names[family])
    repositories = repositories_of(first) | repositories_of(second)
    files = repositories[second.encoder.repo]
    theirs = load(files["model.safetensors"])
    state = {"clip": clip_state, "siglip": siglip_state}[family](theirs)
    repositories[first.encoder.repo] = repositories[first.encoder.repo] | {
        "open_clip_model.safetensors": save(state)
    }
    if family == "siglip":  # timm runs it with GELU itself, transformers with its approximation by tanh
        stated = json.loads(files["config.json"])
        stated["vision_config"]["hidden_act"] = "gelu"
        repositories[second.encoder.repo] = files | {"config.json": json.dumps(stated).encode()}
    with serving_hub(repositories) as hub, narrow():
        point_at(hub, cache, monkeypatch)
        ours, other = build(first), build(second)
        words = ["A Cat", "the road and a tree", "sky"]
        torch.testing.assert_close(ours.text().encode(words), other.text().encode(words), **CLOSE)
    pixels = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours.image.dense(pixels).values, other.image.dense(pixels).values, **CLOSE)
    torch.testing.assert_close(ours.image.image_vector(pixels), other.image.image_vector(pixels), **CLOSE)
