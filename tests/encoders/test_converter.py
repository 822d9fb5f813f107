"""CLIP-DINOiser's converter against float64 loops written from its formulas, and on wrong files."""

import pytest
import torch
from helpers.towers import twelve_blocks
from safetensors.torch import save_file
from torch.nn import functional

from ovseg.attention import RecipeConfig
from ovseg.encoders.converter import ConverterConfig, build_converter, pooled_over
from ovseg.encoders.openclip_vit import OpenClipViT
from ovseg.encoders.recipe_encoder import RecipeEncoder
from ovseg.encoders.spec import EncoderSpec
from ovseg.errors import ConfigError, ModelError

SPEC = EncoderSpec("tiny", "tiny-space", stride=8, channels=16)
WIDTH = 16  # of twelve_blocks


def converter_state(width=WIDTH):
    draw = torch.Generator().manual_seed(3)
    shapes = {"obj_proj.weight": (5, width, 3, 3), "obj_proj.bias": (5,)}
    shapes |= {"bkg_decoder.weight": (1, width, 1, 1), "bkg_decoder.bias": (1,)}
    return {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


@pytest.fixture
def path(tmp_path):
    save_file(converter_state(), tmp_path / "converter.safetensors")
    return tmp_path / "converter.safetensors"


def encoder_with(path, recipe="maskclip-released", **options):
    config = ConverterConfig(file=str(path), **options)
    tower = OpenClipViT(twelve_blocks())
    converter = build_converter(path, width=WIDTH), config
    return RecipeEncoder(tower, SPEC, recipe=RecipeConfig(name=recipe), converter=converter)


def read_by_hand(visual, pixels, block):
    """(1 + h·w, D) behind the second normalisation of a block, and (h·w, C) values of the last block, not unit."""
    tokens = OpenClipViT(visual).embed(pixels)[0].values
    for number, layer in enumerate(visual.transformer.resblocks[:-1]):
        if number == block:
            normed = layer.ln_1(tokens)
            inside = layer.ln_2(tokens + layer.attn(normed, normed, normed, need_weights=False)[0])
        tokens = layer(tokens)
    last = visual.transformer.resblocks[-1]
    value = functional.linear(last.ln_1(tokens), last.attn.in_proj_weight[-WIDTH:], last.attn.in_proj_bias[-WIDTH:])
    tokens = tokens + last.attn.out_proj(value)
    tokens = tokens + last.mlp(last.ln_2(tokens))
    return inside[0], (visual.ln_post(tokens) @ visual.proj)[0, 1:]


@torch.no_grad()
@pytest.mark.parametrize("block", [3, 2])
def test_features_are_pooled_over_cells_that_the_converter_finds_alike(path, wide, block):
    inside, values = read_by_hand(twelve_blocks(), wide[:1], 12 - block)
    state, rows, columns = converter_state(), 3, 6
    # the tokens of random towers are much alike, so their mean is taken away
    state["obj_proj.bias"] = -state["obj_proj.weight"].sum((2, 3)) @ inside[1:].mean(0)
    save_file(state, path)
    found = encoder_with(path, block=block).dense(wide[:1])
    cells = inside[1:].double().view(rows, columns, WIDTH)
    vectors, objects = [], []
    for y in range(rows):
        for x in range(columns):
            near = [
                [cells[min(max(y + dy, 0), rows - 1), min(max(x + dx, 0), columns - 1)] for dx in (-1, 0, 1)]
                for dy in (-1, 0, 1)
            ]
            window = torch.stack([torch.stack(line) for line in near]).permute(2, 0, 1)  # (D, 3, 3)
            vector = (state["obj_proj.weight"].double() * window).sum((1, 2, 3)) + state["obj_proj.bias"]
            vectors.append(vector / vector.norm())
            unit = cells[y, x] / cells[y, x].norm()
            raw = unit @ state["bkg_decoder.weight"].double().flatten() + state["bkg_decoder.bias"]
            objects.append(1 / (1 + (-raw).exp()))
    counts = []
    for place, vector in enumerate(vectors):
        cosines = [float(vector @ other) for other in vectors]
        kept = [value if value >= 0.2 else 0.0 for value in cosines]
        counts.append(sum(value > 0 for value in kept))
        slow = sum(w * v for w, v in zip(kept, values.double(), strict=True)) / sum(kept)
        answer = found.values[0].flatten(1)[:, place].double()
        torch.testing.assert_close(answer, slow / slow.norm(), atol=1e-4, rtol=1e-4)
    assert 1 < sum(counts) / len(counts) < 17
    torch.testing.assert_close(
        found.objectness[0].flatten().double(), torch.cat(objects).double(), atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(found.structure.norm(dim=1), torch.ones(1, rows, columns))


def test_the_weighted_mean_of_two_cells_is_as_worked_out_by_hand():
    values = torch.tensor([[[[1.0, 5.0, 9.0]]]])
    alike = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]).T.view(1, 2, 1, 3)
    found = pooled_over(values, alike, above=0.7)
    # cosines: 1, 0.6, 0 / 0.6, 1, 0.8 / 0, 0.8, 1
    assert found.flatten().tolist() == pytest.approx([1, (5 + 0.8 * 9) / 1.8, (0.8 * 5 + 9) / 1.8], abs=1e-4)


def test_the_file_may_be_one_of_torch_with_more_in_it(path, tmp_path, wide):
    other = tmp_path / "last.pt"
    torch.save({"epoch": 1, "model_state_dict": converter_state() | {"clip.weight": torch.ones(1)}}, other)
    first, second = (encoder_with(file).dense(wide).values for file in (path, other))
    assert torch.equal(first, second)


def test_random_weights_are_those_of_every_run(wide):
    first, second = (build_converter(None, width=8)(torch.ones(1, 8, 2, 3)) for _ in range(2))
    assert torch.equal(first[0], second[0]) and first[0].shape == (1, 256, 2, 3) and first[1].shape == (1, 1, 2, 3)


def test_wrong_converters_are_refused(path, tmp_path):
    with pytest.raises(ModelError, match="for towers 16 channels wide, got one of 32"):
        build_converter(path, width=32)
    part = tmp_path / "part.safetensors"
    save_file({name: tensor for name, tensor in converter_state().items() if "bkg" not in name}, part)
    with pytest.raises(ModelError, match=r"expected the tensor 'bkg_decoder.weight' of a converter in '.*part"):
        build_converter(part, width=WIDTH)
    for wrong in (torch.ones(5, WIDTH), torch.ones(5, WIDTH, 3, 5)):
        save_file(converter_state() | {"obj_proj.weight": wrong}, part)
        with pytest.raises(ModelError, match="are no converter's"):
            build_converter(part, width=WIDTH)
    with pytest.raises(ConfigError, match="12 blocks, got block 13"):
        encoder_with(path, block=13)
