"""Compiled blocks give the features of eager ones, whatever the size."""

import os
import shutil

import pytest
import torch

import ovseg
from ovseg.attention import RecipeConfig
from ovseg.encoders.compiled import compile_blocks
from ovseg.encoders.openclip_vit import OpenClipViT
from ovseg.encoders.recipe_encoder import RecipeEncoder
from ovseg.encoders.spec import EncoderSpec
from ovseg.encoders.timm_eva import TimmEva
from ovseg.encoders.timm_vit import TimmViT
from ovseg.errors import ModelError

CPU = torch.device("cpu")
SPEC = EncoderSpec("tiny", "tiny-space", stride=8, channels=16)
OPENERS = {"openclip": OpenClipViT, "timm-clip": TimmViT, "dinov3": TimmEva}
needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="needs a C++ compiler"
)


def encoder_of(network, name):
    return RecipeEncoder(OPENERS[name](network), SPEC, recipe=RecipeConfig(name="naclip")).eval()


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("name", OPENERS)
@torch.inference_mode()
def test_compiled_features_equal_eager_ones_at_any_size(name, networks, pixels, wide):
    eager, compiled = (encoder_of(networks[name](), name) for _ in range(2))
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    compile_blocks(compiled, device=CPU)
    for images in (pixels, wide, torch.cat([wide, wide], 2), pixels[:1]):
        torch.testing.assert_close(compiled.dense(images).values, eager.dense(images).values, atol=1e-4, rtol=1e-4)
    assert (
        counters["stats"]["unique_graphs"] == 3
    )  # the trial, batches of one, larger ones: for all blocks and sizes


@pytest.mark.slow
def test_without_a_compiler_the_error_says_what_to_install(networks, monkeypatch):
    def refuse(function):
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found")

    monkeypatch.setattr(torch, "compile", refuse)
    encoder = encoder_of(networks["openclip"](), "openclip")
    with pytest.raises(ModelError, match=r"for 'cpu', got none \(InvalidCxxCompiler.*install one \(g\+\+"):
        compile_blocks(encoder, device=CPU)


def test_a_model_without_transformer_blocks_says_to_leave_it_out():
    with pytest.raises(ModelError, match=r"with transformer blocks to compile, got .* leave out"):
        ovseg.load("mini", device="cpu", compile=True)
