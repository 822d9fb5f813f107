from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.towers import build_network, model_config
from torch import Tensor, nn
from torch.nn import functional

import ovseg
from ovseg.attention import RecipeConfig
from ovseg.encoders.openclip_vit import OpenClipViT
from ovseg.encoders.recipe_encoder import RecipeEncoder
from ovseg.encoders.spec import DenseFeatures, EncoderSpec
from ovseg.errors import ConfigError, ModelError
from ovseg.heads.base import IdentityHead
from ovseg.models.config import EncoderConfig
from ovseg.models.model import Model
from ovseg.pipeline.segmenter import Segmenter
from ovseg.runtimes import export_model, read_exported
from ovseg.runtimes.attach import with_runtime
from ovseg.runtimes.engines import choose_engine

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
SPEC = EncoderSpec("cells", "cells", 8, 12)


class Cells(nn.Module):
    """A strided convolution whose cells are unit vectors."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 12, 8, stride=8)
        self.requires_grad_(False)

    spec = SPEC

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        values = functional.normalize(self.conv(pixels), dim=1)
        return values, values[:, :4]

    def dense(self, pixels: Tensor) -> DenseFeatures:
        values, structure = self(pixels)
        return DenseFeatures(values, "cells", 8, structure=structure)


class Whole(Cells):
    """Its cells depend on how many there are, read as a Python number."""

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        values, structure = super().forward(pixels)
        return values * float(values.shape[2]), structure


def model(encoder: Any, **weights: str) -> Model:
    config = model_config("cells", encoder=EncoderConfig(kind="cells", name="cells"))
    return Model(config, encoder, ovseg.load, IdentityHead("cells"), {"image": "seed 0", **weights})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_model(model(Cells()), tmp_path_factory.mktemp("out") / "cells", only_images=True).folder


@pytest.mark.parametrize("size", [(1, 8, 16), (2, 40, 24), (5, 64, 8)])
def test_a_graph_gives_the_features_of_any_size_and_number_of_images(exported: Path, size: tuple[int, ...]) -> None:
    pixels = torch.randn(size[0], 3, *size[1:], generator=torch.Generator().manual_seed(1))
    moved = with_runtime(model(Cells()), exported)
    found, expected = moved.image.dense(pixels), Cells().dense(pixels)
    torch.testing.assert_close(found.values, expected.values, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.structure, expected.structure, atol=1e-5, rtol=0)
    assert (found.space, found.stride) == ("cells", 8) and moved.image.spec == SPEC


def test_the_json_says_how_photos_are_prepared_and_what_may_vary(exported: Path) -> None:
    content = json.loads((exported / "model.json").read_text())
    assert content["preprocessing"]["mean"] == list(SPEC.mean) and content["preprocessing"]["multiple"] == 8
    assert content["license"] == "MIT" and content["model"] == "cells"
    assert content["graphs"]["image"]["inputs"] == {"pixels": {"0": "images", "2": "height", "3": "width"}}
    assert content["graphs"]["image"]["largest_difference"] < 1e-5


def test_a_model_is_known_by_its_runtime_but_banks_stay_good(exported: Path) -> None:
    plain = model(Cells())
    moved = with_runtime(plain, exported)
    assert moved.info != plain.info and moved.encoder_digest == plain.encoder_digest
    assert with_runtime(plain, "torch") is plain


def test_a_graph_is_kept_and_made_anew_where_it_is_damaged(tmp_path: Path) -> None:
    plain = model(Cells())
    with_runtime(plain, "onnx", cache=tmp_path)
    (folder,) = tmp_path.iterdir()
    before = (folder / "image.onnx").stat().st_mtime_ns
    with_runtime(plain, "onnx", cache=tmp_path)
    assert (folder / "image.onnx").stat().st_mtime_ns == before
    (folder / "image.onnx").write_bytes(b"half a file")
    with_runtime(plain, "onnx", cache=tmp_path)
    assert read_exported(folder).model == "cells"


def test_an_export_of_other_weights_is_refused(exported: Path) -> None:
    other = replace(model(Cells()), weights={"image": "seed 1"})
    with pytest.raises(ModelError, match="exported from other weights or settings"):
        with_runtime(other, exported)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "model.json").unlink(), "without 'model.json'"),
        (lambda folder: (folder / "model.json").write_text("{"), "model.json"),
        (lambda folder: (folder / "model.json").write_text('{"format": "ovseg-export-1"}'), "got 'ovseg-export-1'"),
        (lambda folder: (folder / "model.json").write_text('{"format": "ovseg-export-2"}'), "does not say all"),
        (lambda folder: (folder / "image.onnx").unlink(), "is missing"),
        (lambda folder: (folder / "image.onnx").write_bytes(b"x"), "not the one that was exported"),
        (
            lambda folder: (folder / "model.json").write_text(
                (folder / "model.json").read_text().replace('"image.onnx"', '"../image.onnx"')
            ),
            "outside its folder",
        ),
    ],
)
def test_folders_that_hold_no_whole_export_are_refused(
    exported: Path, tmp_path: Path, change: Any, message: str
) -> None:
    for path in exported.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    change(tmp_path)
    with pytest.raises(ModelError, match=message):
        read_exported(tmp_path)


def test_a_size_that_was_taken_for_a_constant_never_passes(tmp_path: Path) -> None:
    """Exporters write the height of the traced image as a number; inputs of other sizes show it."""
    with pytest.raises(ModelError, match=r"must give PyTorch's numbers within 0\.001, got"):
        with_runtime(model(Whole()), "onnx", cache=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_transformer_tower_with_a_recipe_is_exported_at_any_size(tmp_path: Path) -> None:
    tower = OpenClipViT(build_network("openclip"))
    spec = EncoderSpec("tiny", "tiny", tower.stride, 16)
    encoder = RecipeEncoder(tower, spec, recipe=RecipeConfig(name="naclip")).eval()
    moved = with_runtime(model(encoder), "onnx", cache=tmp_path)
    pixels = torch.randn(1, 3, 56, 24, generator=torch.Generator().manual_seed(3))
    expected = encoder.dense(pixels).values
    torch.testing.assert_close(moved.image.dense(pixels).values, expected, atol=1e-4, rtol=0)


def test_what_a_runtime_cannot_take_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="expected runtime auto, torch, openvino, onnx or a folder"):
        with_runtime(model(Cells()), "onyx")
    with pytest.raises(ConfigError, match="expected the format onnx or openvino, got 'tflite'"):
        export_model(model(Cells()), tmp_path / "x", kind="tflite")
    with pytest.raises(ModelError, match="no single network"):
        export_model(model(object.__new__(type("Plain", (), {"spec": SPEC}))), tmp_path / "x", only_images=True)
    with pytest.raises(ModelError, match=r"runs on the CPU, got device 'cuda'|expected a device of this machine"):
        ovseg.load("mini", runtime="onnx", device="cuda")
    with pytest.raises(ModelError, match="expected float32 for ONNX Runtime, got bfloat16"):
        with_runtime(model(Cells()), "onnx", dtype=torch.bfloat16, cache=tmp_path)
    assert choose_engine("auto") in ("openvino", "onnx")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("section", "named"),
    [
        ({"tokens": {"name": "tome", "merged": 0.06}}, r"fewer tokens \(encoder.tokens 'tome'\)"),
        ({"tokens": {"name": "stop"}}, r"fewer tokens \(encoder.tokens 'stop'\)"),
        ({"tokens": {"name": "transform", "after": 6}}, r"fewer tokens \(encoder.tokens 'transform'\)"),
        ({"tokens": {"after": 4}}, r"fewer tokens \(encoder.tokens 'expedit'\)"),
        ({"regions": {"source": "cuts"}}, "beside features it needs regions of the image"),
    ],
)
def test_a_file_that_asks_the_tower_for_more_than_features_is_refused(
    section: dict[str, Any], named: str, tmp_path: Path
) -> None:
    asked = model_config("asking", encoder=EncoderConfig(kind="cells", name="cells", **section))
    refused = replace(model(Cells()), config=asked)
    with pytest.raises(ModelError, match=f"'asking' cannot be exported: .*{named}"):
        export_model(refused, tmp_path / "x")
    for runtime in ("onnx", "openvino"):
        with pytest.raises(ModelError, match=f"'asking' cannot be exported: .*{named}"):
            with_runtime(refused, runtime, cache=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_mini_says_the_same_in_every_runtime(
    mini: Segmenter, tmp_path: Path, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(runtime if runtime == "openvino" else "onnxruntime")
    monkeypatch.setattr("ovseg.runtimes.attach.CACHE", tmp_path)
    moved = Segmenter(with_runtime(mini.model, runtime, cache=tmp_path), device=torch.device("cpu"))
    photo = Path(__file__).parents[2] / "examples" / "coffee.jpg"
    ours, theirs = moved.segment(photo, ["cup", "table"]), mini.segment(photo, ["cup", "table"])
    assert (ours.index_map != theirs.index_map).mean() < 1e-4
    np.testing.assert_allclose(ours.score_map, theirs.score_map, atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_words_and_head_are_graphs_too_and_the_vocabulary_stays_open(
    mini: Segmenter, tmp_path: Path, kind: str
) -> None:
    from ovseg.runtimes.engines import ENGINES

    pytest.importorskip(kind if kind == "openvino" else "onnxruntime")
    exported = export_model(mini.model, tmp_path / "mini", kind=kind, templates=mini.wording.templates.templates)
    engines = {name: ENGINES[kind](exported.path(name)) for name in ("image", "text", "head")}
    pixels = torch.randn(1, 3, 96, 160, generator=torch.Generator().manual_seed(4))
    encoder: Any = mini.model.text()
    vectors = []
    for phrase in ("zebra crossing", "a phrase that nobody traced the graph with"):
        ids = np.array([encoder.tokenizer.encode(phrase).ids])
        vectors.append(engines["text"].run([ids, np.ones_like(ids, dtype=bool)])[0])
    text = np.concatenate(vectors)
    expected = encoder.encode(["zebra crossing", "a phrase that nobody traced the graph with"])
    np.testing.assert_allclose(text, expected.numpy(), atol=1e-5)
    values = engines["image"].run([pixels.numpy()])[0]
    logits = engines["head"].run([values, text])[0]
    with torch.inference_mode():
        joint = mini.model.head.pixels(mini.model.image.dense(pixels)).values
        phrases = mini.model.head.phrases(expected).values
        wanted = torch.einsum("bchw,qc->bqhw", joint, phrases) * mini.config.logit_scale
    np.testing.assert_allclose(logits, wanted.numpy(), atol=1e-3)
