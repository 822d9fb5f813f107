"""The rebuilt last block of every family against the library's own forward, at its own size and at others."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ovseg.encoders.openclip_vit import OpenClipViT
from ovseg.encoders.timm_eva import TimmEva
from ovseg.encoders.timm_vit import TimmNaFlex, TimmViT
from ovseg.encoders.tower import TowerTokens, as_maps, resize_positions
from ovseg.errors import ModelError, ShapeError
from ovseg.models.huggingface import open_huggingface

FAMILIES = [
    "openclip",
    "openclip-average",
    "openclip-late-norm",
    "timm-clip",
    "timm-siglip",
    "timm-dinov2",
    "timm-qknorm",
    "timm-stem",
    "radio",
    "eva02",
    "eva-fused",
    "pe-core",
    "dinov3",
    "dinov3-any-size",
    "eva-mixed",
]
TIMM = [name for name in FAMILIES if not name.startswith("openclip")]
PREFIXES = {"timm-siglip": 0, "timm-dinov2": 5, "dinov3": 5, "dinov3-any-size": 5, "radio": 8}
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def opened(network):
    kinds = {"VisionTransformer": TimmViT, "NaFlexVit": TimmNaFlex, "Eva": TimmEva}
    return OpenClipViT(network) if hasattr(network, "transformer") else kinds[type(network).__name__](network)


class CaptureAttention(TorchFunctionMode):
    """Keeps what every call of scaled_dot_product_attention was given."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is functional.scaled_dot_product_attention:
            self.calls.append(args[:3])
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_unchanged_block_gives_the_image_vector_of_the_library(name, networks, pixels):
    network = networks[name]()
    tower = opened(network)
    torch.testing.assert_close(tower.image_vector(pixels), network(pixels), **CLOSE)


@pytest.mark.parametrize("name", TIMM)
def test_the_unchanged_block_gives_the_tokens_of_the_library(name, networks, pixels):
    network = networks[name]()
    tower = opened(network)
    tokens = tower.prefix(pixels)
    assert (tokens.prefix, tokens.grid) == (PREFIXES.get(name, 1), (4, 4))
    torch.testing.assert_close(
        tower.normalise(tower.whole_block(tokens)), network.forward_features(pixels), **CLOSE
    )


@pytest.mark.parametrize("name", [name for name in TIMM if name != "timm-stem"])
def test_another_size_equals_the_library_set_to_that_size(name, networks, wide):
    network = networks[name]()
    resized = copy.deepcopy(network)
    if name not in {"radio", "dinov3-any-size"}:  # which take any size by themselves
        resized.set_input_size(img_size=(24, 48))
    torch.testing.assert_close(opened(network).image_vector(wide), resized(wide), **CLOSE)


@pytest.mark.parametrize("name", FAMILIES)
def test_another_size_leaves_the_network_as_it_was(name, networks, pixels, wide):
    network = networks[name]()
    before = copy.deepcopy(network.state_dict())
    tower = opened(network)
    first = tower.image_vector(pixels)
    tower.image_vector(wide)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert torch.equal(tower.image_vector(pixels), first)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


@pytest.mark.parametrize("name", TIMM)
def test_queries_keys_and_values_are_those_that_the_library_uses(name, networks, pixels):
    network = networks[name]()
    with CaptureAttention() as seen:
        network.forward_features(pixels)
    tower = opened(network)
    for ours, theirs in zip(tower.last_block_qkv(tower.prefix(pixels)), seen.calls[-1], strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


@pytest.mark.parametrize("name", FAMILIES)
def test_patches_are_projected_as_if_pooled_alone(name, networks, wide):
    tower = opened(networks[name]())
    tokens = tower.prefix(wide)
    attended = functional.scaled_dot_product_attention(*tower.last_block_qkv(tokens))
    whole = tower.complete(tower.merge(attended), tokens, residual=True, feed_forward=True)
    maps = as_maps(tower.project(whole[:, tokens.prefix :]), tokens.grid)
    assert maps.shape == (2, tower.channels, 3, 6)
    leaving = tower.whole_block(tokens)
    place = tokens.prefix + 2 * 6 + 4  # row 2, column 4
    torch.testing.assert_close(maps[:, :, 2, 4], tower.project(leaving[:, place : place + 1])[:, 0], **CLOSE)


def test_an_attention_pool_sees_each_patch_alone(networks, wide):
    network = networks["timm-siglip"]()
    tower = opened(network)
    leaving = tower.whole_block(tower.prefix(wide))
    torch.testing.assert_close(
        tower.project(leaving)[:, 7], network.attn_pool(network.norm(leaving[:, 7:8])), **CLOSE
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_a_batch_of_two_equals_two_of_one(name, networks, wide):
    tower = opened(networks[name]())
    both = tower.prefix(wide).values
    torch.testing.assert_close(both[1:], tower.prefix(wide[1:]).values, **CLOSE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", FAMILIES)
def test_towers_run_in_half_precision(name, dtype, networks, wide):
    tower = opened(networks[name]()).to(dtype)
    vectors = tower.image_vector(wide.to(dtype))
    assert vectors.dtype == dtype and vectors.isfinite().all()


def test_the_history_holds_what_enters_each_block(networks, pixels):
    network = networks["timm-clip"]()
    tokens = opened(network).prefix(pixels, keep=True)
    first = network.norm_pre(network._pos_embed(network.patch_embed(pixels)))
    second = network.blocks[0](first)
    torch.testing.assert_close(tokens.history[0].values, first, **CLOSE)
    torch.testing.assert_close(tokens.history[1].values, second, **CLOSE)
    assert len(tokens.history) == len(network.blocks)
    assert torch.equal(tokens.history[-1].values, tokens.values)
    assert opened(network).prefix(pixels).history == ()


@pytest.mark.parametrize("name", [name for name in FAMILIES if PREFIXES.get(name, 1)])
def test_the_copy_of_a_region_that_is_the_image_is_the_class_token(name, networks, wide):
    tower = opened(networks[name]())
    tokens = tower.prefix(wide, keep=True)
    copies = tower.region_tokens(tokens, torch.zeros(2, *tokens.grid, dtype=torch.long))
    torch.testing.assert_close(copies, tower.whole_block(tokens)[:, :1], **CLOSE)


def test_the_mean_attention_of_blocks_is_that_of_the_library(networks, pixels):
    network = networks["timm-clip"]()
    with CaptureAttention() as seen:
        network.forward_features(pixels)
    tower = opened(network)
    tokens = tower.prefix(pixels, keep=True)
    weights = [(q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(-1) for q, k, _ in seen.calls]
    found = tower.mean_attention(tokens, range(len(weights)))
    torch.testing.assert_close(found, torch.stack(weights).mean(0), **CLOSE)
    torch.testing.assert_close(tower.mean_attention(tokens, [0]), weights[0], **CLOSE)
    with pytest.raises(ShapeError, match="at least one block"):
        tower.mean_attention(tokens, [])


def test_a_copy_sees_its_region_alone(networks, wide):
    tower = opened(networks["openclip"]())
    tokens = tower.prefix(wide, keep=True)
    regions = torch.zeros(2, *tokens.grid, dtype=torch.long)
    regions[:, 1:, 2:] = 1
    before = tower.region_tokens(tokens, regions)
    elsewhere = [entering.values.clone() for entering in tokens.history]
    for values in elsewhere:
        values[:, 1, ::2] += 1  # the first patch, which is of region 0
    history = tuple(map(TowerTokens.with_values, tokens.history, elsewhere))
    after = tower.region_tokens(replace(tokens, history=history), regions)
    torch.testing.assert_close(after[:, 1], before[:, 1], **CLOSE)
    assert (after[:, 0] - before[:, 0]).abs().max() > 1e-3
    with pytest.raises(ModelError, match="needs a class token"):
        tower.region_tokens(replace(tokens, prefix=0), regions)


def test_huggingface_towers_equal_the_library_at_any_size(clip_model, siglip_model, pixels, wide):
    for model in (clip_model, siglip_model):
        tower = open_huggingface(model)
        for images in (pixels, wide):
            output = model.vision_model(images, interpolate_pos_encoding=True)
            projected = getattr(model, "visual_projection", torch.nn.Identity())(output.pooler_output)
            torch.testing.assert_close(tower.image_vector(images), projected, **CLOSE)


def test_huggingface_queries_keys_and_values_are_those_that_the_library_uses(clip_model, wide):
    with CaptureAttention() as seen:
        clip_model.vision_model(wide, interpolate_pos_encoding=True)
    tower = open_huggingface(clip_model)
    for ours, theirs in zip(tower.last_block_qkv(tower.prefix(wide)), seen.calls[-1], strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


def openclip_from_huggingface(model):
    """The same image tower in open_clip's layout."""
    from open_clip.model import QuickGELU
    from open_clip.transformer import VisionTransformer

    visual = VisionTransformer(32, 8, width=32, layers=3, heads=4, mlp_ratio=2, output_dim=16, act_layer=QuickGELU)
    vision = model.vision_model
    state = {
        "conv1.weight": vision.embeddings.patch_embedding.weight,
        "class_embedding": vision.embeddings.class_embedding,
        "positional_embedding": vision.embeddings.position_embedding.weight,
        "proj": model.visual_projection.weight.T,
    }
    for ours, theirs in (("ln_pre", vision.pre_layrnorm), ("ln_post", vision.post_layernorm)):
        state |= {f"{ours}.{key}": value for key, value in theirs.state_dict().items()}
    for number, layer in enumerate(vision.encoder.layers):
        block, attention = f"transformer.resblocks.{number}", layer.self_attn
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        state[f"{block}.attn.in_proj_weight"] = torch.cat([part.weight for part in parts])
        state[f"{block}.attn.in_proj_bias"] = torch.cat([part.bias for part in parts])
        pairs = {
            "attn.out_proj": attention.out_proj,
            "ln_1": layer.layer_norm1,
            "ln_2": layer.layer_norm2,
            "mlp.c_fc": layer.mlp.fc1,
            "mlp.c_proj": layer.mlp.fc2,
        }
        for ours, theirs in pairs.items():
            state |= {f"{block}.{ours}.{key}": value for key, value in theirs.state_dict().items()}
    visual.load_state_dict(state)
    return visual.eval()


@torch.no_grad()
def test_open_clip_and_huggingface_agree_on_the_same_weights(clip_model, pixels, wide):
    ours, theirs = OpenClipViT(openclip_from_huggingface(clip_model)), open_huggingface(clip_model)
    for images in (pixels, wide):
        torch.testing.assert_close(ours.image_vector(images), theirs.image_vector(images), **CLOSE)
        ours.position_offset = theirs.position_offset = None
        values = [
            tower.project(tower.merge(tower.last_block_qkv(tower.prefix(images))[2])) for tower in (ours, theirs)
        ]
        torch.testing.assert_close(values[0], values[1], **CLOSE)
        ours.position_offset = theirs.position_offset = 0.1
        torch.testing.assert_close(ours.image_vector(images), theirs.image_vector(images), **CLOSE)


def test_positions_keep_their_prefix_and_constants_stay_constant():
    positions = torch.cat([torch.tensor([[7.0, 8.0]]), torch.full((12, 2), 3.0)])
    resized = resize_positions(positions, 1, old=(3, 4), new=(5, 2))
    assert resized.shape == (11, 2)
    assert resized[0].tolist() == [7.0, 8.0]
    torch.testing.assert_close(resized[1:], torch.full((10, 2), 3.0))
    assert resize_positions(positions, 1, old=(3, 4), new=(3, 4)) is positions


def test_positions_with_an_offset_are_sampled_a_little_closer():
    ramp = torch.arange(8.0)[:, None]  # one column of eight positions
    for new, offset in ((16, 0.1), (16, 0.9), (12, 0.1)):
        resized = resize_positions(ramp, 0, old=(8, 1), new=(new, 1), offset=offset)
        assert resized.shape == (new, 1)
        # cubic convolution keeps a straight line to a few hundredths, away from the borders
        assert resized[new // 2, 0] == pytest.approx((new // 2 + 0.5) * 8 / (new + offset) - 0.5, abs=0.06)


def test_pixels_that_are_no_whole_patches_are_refused(networks):
    tower = opened(networks["openclip"]())
    with pytest.raises(ShapeError, match=r"multiples of 8, got \(30, 32\)"):
        tower.prefix(torch.zeros(1, 3, 30, 32))


def test_other_blocks_and_pools_are_refused():
    from open_clip.transformer import VisionTransformer
    from timm.models.vision_transformer import ParallelScalingBlock
    from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer

    pooled = VisionTransformer(32, 8, 32, 2, 4, 2, output_dim=16, attentional_pool=True, attn_pooler_heads=2)
    with pytest.raises(ModelError, match="no attention pool"):
        OpenClipViT(pooled)
    parallel = TimmVisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=1, num_heads=4, block_fn=ParallelScalingBlock
    )
    with pytest.raises(ModelError, match="got ParallelScalingBlock"):
        TimmViT(parallel)
