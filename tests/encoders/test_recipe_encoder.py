"""Towers, recipes, structure encoders and regions put together, and the convolutional towers."""

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from ovseg.attention import RECIPES, RecipeConfig
from ovseg.encoders.convolutional import ConvolutionalEncoder, convolutional_stride, is_convolutional
from ovseg.encoders.openclip_vit import OpenClipViT
from ovseg.encoders.recipe_encoder import RecipeEncoder
from ovseg.encoders.spec import EncoderSpec, ImageEncoder, run_encoder
from ovseg.encoders.structure import StructureEncoder, load_timm, open_network, renormalise
from ovseg.encoders.timm_eva import TimmEva
from ovseg.encoders.timm_vit import TimmViT
from ovseg.errors import ConfigError, ModelError, ShapeError
from ovseg.regions import RegionsConfig, build_regions

SPEC = EncoderSpec("tiny", "tiny-space", stride=8, channels=16, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
FINE = EncoderSpec("fine", "fine-space", stride=4, channels=32)


def encoder_of(networks, recipe, *, tower="openclip", **options):
    network = networks[tower]()
    opened = OpenClipViT(network) if hasattr(network, "transformer") else _timm(network)
    needs = RECIPES[recipe]
    structure = StructureEncoder(_fine(networks), FINE) if needs.structure else None
    regions = build_regions(RegionsConfig(source="felzenszwalb")) if needs.regions else None
    return RecipeEncoder(
        opened, SPEC, recipe=RecipeConfig(name=recipe, **options), structure=structure, regions=regions
    )


def _timm(network):
    return {"VisionTransformer": TimmViT, "Eva": TimmEva}[type(network).__name__](network)


def _fine(networks):
    """A DINO-like network with patches of 4 pixels."""
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(5)
    network = VisionTransformer(img_size=16, patch_size=4, embed_dim=32, depth=2, num_heads=4, num_classes=0)
    return open_network(network.eval().requires_grad_(False))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_follows_the_encoder_contract(name, networks, wide):
    encoder = encoder_of(networks, name, layers=2 if name == "corrclip" else 0).eval()
    assert isinstance(encoder, ImageEncoder)
    features = encoder.dense(wide)
    stride = 4 if RECIPES[name].fine else 8
    assert (features.space, features.stride, encoder.spec.stride) == ("tiny-space", stride, stride)
    assert features.values.shape == (2, 16, 24 // stride, 48 // stride)
    torch.testing.assert_close(features.values.norm(dim=1), torch.ones(2, 24 // stride, 48 // stride))
    assert torch.equal(encoder.dense(wide).values, features.values)
    torch.testing.assert_close(encoder.dense(wide[1:]).values, features.values[1:], atol=1e-5, rtol=1e-5)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert (features.structure is not None) == RECIPES[name].fine


@pytest.mark.parametrize("tower", ["timm-siglip", "timm-dinov2", "eva02", "pe-core", "dinov3"])
@pytest.mark.parametrize("name", ["plain", "naclip", "proxyclip"])
def test_recipes_run_on_towers_with_any_prefix(name, tower, networks, wide):
    features = encoder_of(networks, name, tower=tower).dense(wide)
    assert features.values.isfinite().all()


@torch.no_grad()
def test_maskclip_equals_the_layers_called_by_hand(networks, pixels):
    visual = networks["openclip"]()
    features = encoder_of(networks, "maskclip").dense(pixels)
    tokens = visual._embeds(pixels)
    for block in visual.transformer.resblocks[:-1]:
        tokens = block(tokens)
    last = visual.transformer.resblocks[-1]
    value = functional.linear(last.ln_1(tokens), last.attn.in_proj_weight[64:], last.attn.in_proj_bias[64:])
    patches = visual.ln_post(last.attn.out_proj(value))[:, 1:] @ visual.proj
    expected = functional.normalize(patches, dim=-1).transpose(1, 2).reshape(2, 16, 4, 4)
    torch.testing.assert_close(features.values, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_sclip_keeps_the_residual_and_the_feed_forward_layer(networks, pixels):
    visual = networks["openclip"]()
    tower = OpenClipViT(visual)
    tokens = tower.prefix(pixels)
    q, k, v = tower.last_block_qkv(tokens)
    weights = (q @ q.transpose(2, 3) / 8**0.5).softmax(-1) + (k @ k.transpose(2, 3) / 8**0.5).softmax(-1)
    last = visual.transformer.resblocks[-1]
    values = tokens.values + last.attn.out_proj((weights @ v).transpose(1, 2).flatten(2))
    values = values + last.mlp(last.ln_2(values))
    expected = functional.normalize(visual.ln_post(values)[:, 1:] @ visual.proj, dim=-1)
    features = encoder_of(networks, "sclip").dense(pixels)
    torch.testing.assert_close(features.values.flatten(2).transpose(1, 2), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_radseg_compares_what_leaves_the_projection_before_its_scale(networks, pixels):
    trunk = networks["timm-dinov2"]()
    tokens = TimmViT(trunk).prefix(pixels).values
    last = trunk.blocks[-1]
    q, k, v = last.attn.qkv(last.norm1(tokens)).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
    first = last.attn.proj(((q @ k.transpose(2, 3) / 8**0.5).softmax(-1) @ v).transpose(1, 2).flatten(2))
    parts = functional.normalize(first.unflatten(-1, (4, 8)), dim=-1).transpose(1, 2)
    cosines = parts @ parts.transpose(2, 3)
    weights = torch.where(cosines < 0, -torch.inf, 10 * cosines).softmax(-1)
    values = tokens + last.ls1(last.attn.proj((weights @ v).transpose(1, 2).flatten(2)))
    values = values + last.ls2(last.mlp(last.norm2(values)))
    expected = functional.normalize(trunk.norm(values)[:, 5:], dim=-1)
    features = encoder_of(networks, "radseg", tower="timm-dinov2").dense(pixels)
    torch.testing.assert_close(features.values.flatten(2).transpose(1, 2), expected, atol=1e-5, rtol=1e-5)


def test_the_branches_of_corrclip_each_pass_projection_and_normalisation(networks, wide):
    encoder = encoder_of(networks, "corrclip", layers=1)
    tokens = encoder.tower.prefix(wide, keep=True)
    structure = encoder.structure(renormalise(wide, SPEC, FINE))
    block = encoder._last_block(tokens, structure, encoder._regions_of(wide, structure))
    torch.testing.assert_close(
        block.spatial, encoder.tower.last_block_qkv(tokens.with_values(tokens.history[-2].values))[2]
    )
    attended = RECIPES["corrclip"].run(block, {})
    spatial, semantic = attended.branches
    visual, merge = encoder.tower.visual, encoder.tower.merge
    joint = visual.ln_post(merge(attended.values)) + visual.ln_post(merge(spatial.values))
    joint = joint + 0.5 * visual.ln_post(semantic.values)
    expected = functional.normalize(joint @ visual.proj, dim=-1)
    values = encoder.dense(wide).values.flatten(2).transpose(1, 2)
    torch.testing.assert_close(values, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", RECIPES)
def test_half_precision_stays_near_full(name, dtype, networks, wide):
    options = {"layers": 2} if name == "corrclip" else {}
    full = encoder_of(networks, name, **options).dense(wide).values
    half = encoder_of(networks, name, **options).to(torch.device("cpu"), dtype).dense(wide).values
    assert half.dtype == dtype
    assert (full * half.float()).sum(1).mean() > 0.95


def test_image_vectors_are_those_of_the_unchanged_tower(networks, pixels):
    encoder = encoder_of(networks, "naclip")
    expected = functional.normalize(networks["openclip"]()(pixels), dim=-1)
    torch.testing.assert_close(encoder.image_vector(pixels), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tower", ["openclip", "timm-siglip"])
def test_features_come_with_the_vector_of_the_whole_image_in_one_run(tower, networks, wide):
    encoder = encoder_of(networks, "naclip", tower=tower)
    both = encoder.dense_and_whole(wide)
    assert torch.equal(both.values, encoder.dense(wide).values)
    torch.testing.assert_close(both.whole, encoder.image_vector(wide))
    assert run_encoder(encoder, wide, whole=False).whole is None
    assert torch.equal(run_encoder(encoder, wide, whole=True).whole, both.whole)


def test_pixels_are_normalised_again_for_the_structure_encoder(wide):
    colours = wide * torch.tensor(SPEC.std)[:, None, None] + torch.tensor(SPEC.mean)[:, None, None]
    expected = (colours - torch.tensor(FINE.mean)[:, None, None]) / torch.tensor(FINE.std)[:, None, None]
    torch.testing.assert_close(renormalise(wide, SPEC, FINE), expected)


def test_the_multiple_fits_tower_and_structure_encoder(networks):
    assert encoder_of(networks, "proxyclip").spec.granularity == 8
    assert encoder_of(networks, "naclip").spec.granularity == 8


def test_a_recipe_without_its_parts_is_refused(networks):
    tower = OpenClipViT(networks["openclip"]())
    with pytest.raises(ConfigError, match="needs a section 'structure:'"):
        RecipeEncoder(tower, SPEC, recipe=RecipeConfig(name="proxyclip"))
    structure = StructureEncoder(_fine(networks), FINE)
    with pytest.raises(ConfigError, match="needs a section 'regions:'"):
        RecipeEncoder(tower, SPEC, recipe=RecipeConfig(name="corrclip"), structure=structure)


@pytest.mark.parametrize("feature", ["tokens", "key", "query+key"])
@pytest.mark.parametrize("tower", ["timm-dinov2", "dinov3", "radio"])
def test_structure_is_unit_length_per_cell(feature, tower, networks, wide):
    encoder = StructureEncoder(open_network(networks[tower]()), SPEC, feature=feature)
    maps = encoder(wide)
    assert maps.shape == (2, 32, 3, 6)
    torch.testing.assert_close(maps.norm(dim=1), torch.ones(2, 3, 6))


def test_structure_tokens_are_those_of_the_library(networks, pixels):
    network = networks["timm-dinov2"]()
    expected = functional.normalize(network.forward_features(pixels)[:, 5:], dim=-1)
    maps = StructureEncoder(open_network(network), SPEC)(pixels)
    torch.testing.assert_close(maps.flatten(2).transpose(1, 2), expected, atol=1e-5, rtol=1e-5)


def test_the_layout_of_radio_s_authors_is_read(networks, tmp_path, wide):
    network = networks["radio"]()
    named = {
        "patch_generator.embedder.weight": network.embeds.proj.weight.reshape(32, 8, 8, 3).permute(0, 3, 1, 2),
        "patch_generator.pos_embed": network.embeds.pos_embed.flatten(1, 2),
        "patch_generator.cls_token.token": torch.cat([network.embeds.cls_token, network.embeds.reg_token], 1)[0],
        **{key: value for key, value in network.state_dict().items() if key.startswith("blocks.")},
    }
    named["patch_generator.embedder.weight"] = named["patch_generator.embedder.weight"].flatten(1)
    network.embeds.proj.bias.data.zero_()  # RADIO has none
    state = {f"radio_model.model.{key}": value.contiguous() for key, value in named.items()}
    save_file({**state, "adaptor.head": torch.zeros(2)}, tmp_path / "model.safetensors")
    loaded = networks["radio"]()
    load_timm(loaded, tmp_path / "model.safetensors")
    torch.testing.assert_close(loaded(wide), network(wide))


def test_sam_gives_structure_at_any_size_but_no_keys(wide):
    from timm.models.vision_transformer_sam import VisionTransformerSAM

    network = VisionTransformerSAM(
        img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, window_size=2, global_attn_indexes=(1,)
    ).eval()
    opened = open_network(network)
    assert StructureEncoder(opened, SPEC)(wide).shape == (2, 32, 3, 6)
    with pytest.raises(ModelError, match="use feature: tokens"):
        StructureEncoder(opened, SPEC, feature="key")(wide)


def _resnet():
    from open_clip.modified_resnet import ModifiedResNet

    torch.manual_seed(0)
    return ModifiedResNet([1, 1, 1, 1], output_dim=16, heads=4, image_size=32, width=8).eval()


def _timm_model(name, pool, projection):
    from open_clip.timm_model import TimmModel

    torch.manual_seed(0)
    return TimmModel(name, embed_dim=16, image_size=64, pool=pool, proj=projection).eval()


@pytest.mark.parametrize(
    ("name", "pool", "projection"), [("convnext_atto", "", "linear"), ("fastvit_t8", "avg", None)]
)
def test_one_cell_of_a_convolutional_tower_is_a_whole_image(name, pool, projection):
    visual = _timm_model(name, pool, projection)
    encoder = ConvolutionalEncoder(visual, EncoderSpec("c", "s", stride=convolutional_stride(visual), channels=16))
    assert is_convolutional(visual) and isinstance(encoder, ImageEncoder) and encoder.spec.stride == 32
    with torch.no_grad():
        one = torch.randn(2, 3, 32, 32)
        torch.testing.assert_close(
            encoder.dense(one).values[:, :, 0, 0], encoder.image_vector(one), atol=1e-5, rtol=1e-5
        )
        features = encoder.dense(torch.randn(2, 3, 64, 96))
    assert features.values.shape == (2, 16, 2, 3)
    torch.testing.assert_close(features.values.norm(dim=1), torch.ones(2, 2, 3))


@torch.no_grad()
def test_a_clip_resnet_is_read_through_the_values_of_its_pool():
    visual = _resnet()
    encoder = ConvolutionalEncoder(visual, EncoderSpec("c", "s", stride=32, channels=16))
    pixels = torch.randn(2, 3, 64, 96)
    features = encoder.dense(pixels)
    maps = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(pixels)))))
    cell = maps[1, :, 1, 2]
    expected = functional.normalize(visual.attnpool.c_proj(visual.attnpool.v_proj(cell)), dim=0)
    torch.testing.assert_close(features.values[1, :, 1, 2], expected)
    with pytest.raises(ShapeError, match="multiples of 32"):
        encoder.dense(torch.zeros(1, 3, 40, 64))


@torch.no_grad()
@pytest.mark.parametrize("tower", ["openclip", "timm-dinov2", "dinov3"])
def test_a_second_pass_goes_on_from_what_the_first_kept(tower, networks, wide):
    encoder = encoder_of(networks, "resclip", tower=tower)
    labels = torch.randint(-1, 3, (2, 24, 48), generator=torch.Generator().manual_seed(0))
    features, entering = encoder.dense_resumable(wide)
    torch.testing.assert_close(features.values, encoder.dense(wide).values)
    resumed, whole = (encoder.dense_labelled(wide, labels, kept).values for kept in (entering, None))
    torch.testing.assert_close(resumed, whole)
    assert not torch.allclose(resumed, features.values, atol=1e-3)
    blind = encoder.dense_labelled(wide, labels[:1].expand(2, -1, -1), entering)
    torch.testing.assert_close(blind.values[0], resumed[0])
    assert not torch.allclose(blind.values[1], resumed[1], atol=1e-4)
    kept = [bool(each.values.numel()) for each in entering.history]
    assert kept == [False, True, False]  # of blocks 5 to 8 of 12, those of a tower of 3


def test_a_recipe_that_does_not_look_at_labels_refuses_them(networks, wide):
    with pytest.raises(ConfigError, match="recipe 'naclip' does not look at labels; remove 'again:'"):
        encoder_of(networks, "naclip").dense_labelled(wide, torch.zeros(2, 24, 48, dtype=torch.long))
