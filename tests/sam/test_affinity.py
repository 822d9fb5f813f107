"""What SAM's last attention says of cells, against transformers' own weights and loops."""

import numpy as np
import pytest
import torch
from helpers.checkpoints import saved_sam
from helpers.toy import make_segmenter
from transformers import SamModel

from ovseg.errors import ModelError
from ovseg.models.sections import AttentionConfig, GatherConfig
from ovseg.pipeline.gather import Gathering
from ovseg.sam.affinity import cell_affinity, last_attention, limited


@pytest.fixture(scope="module")
def sam(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sam")
    return folder, saved_sam(folder)


@torch.inference_mode()
def test_the_attention_is_the_mean_of_the_heads_that_transformers_gives(sam):
    folder, _ = sam
    network = SamModel.from_pretrained(folder, attn_implementation="eager").eval()  # tells its weights
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    layer = network.vision_encoder.layers[-1]
    seen = {}
    handles = [
        layer.attn.register_forward_hook(lambda module, inputs, output: seen.update(weights=output[1])),
        layer.attn.qkv.register_forward_hook(lambda module, inputs, output: seen.update(qkv=output)),
    ]
    network.vision_encoder(pixels)
    for handle in handles:
        handle.remove()
    attention, values = last_attention(network.vision_encoder, pixels)
    torch.testing.assert_close(attention, seen["weights"].mean(0), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(values, seen["qkv"].flatten(0, 2)[:, -values.shape[1] :])


def test_only_cells_that_are_alike_take_from_one_another():
    generator = torch.Generator().manual_seed(1)
    attention, values = torch.rand(6, 6, generator=generator), torch.randn(6, 3, generator=generator)
    units = [value.double() / value.double().norm() for value in values]
    cosines = [[float(one @ other) for other in units] for one in units]
    limit = min(0.5 * sum(map(sum, cosines)) / 36, 0.9)
    slow = [
        [float(attention[i, j]) if cosines[i][j] > limit or i == j else 0.0 for j in range(6)] for i in range(6)
    ]
    expected = torch.tensor([[value / sum(row) for value in row] for row in slow])
    torch.testing.assert_close(limited(attention, values, above=0.5), expected)
    alone = limited(attention, torch.ones(6, 3), above=5.0)  # the limit never reaches 1
    torch.testing.assert_close(alone, attention / attention.sum(1, keepdim=True))


def test_a_photo_has_the_cells_that_show_it(sam):
    folder, _ = sam
    weights, grid = cell_affinity(str(folder), torch.zeros(30, 60, 3, dtype=torch.uint8), above=1.2)
    assert grid == (2, 4) and weights.shape == (8, 8)  # 64 pixels a side, 16 a cell, the lower half is padding
    torch.testing.assert_close(weights.sum(1), torch.ones(8))


def test_features_are_gathered_by_it_on_its_grid(sam):
    folder, _ = sam
    segmenter = make_segmenter()
    image = np.random.default_rng(0).integers(0, 255, (64, 128, 3), dtype=np.uint8)
    encoded = segmenter.encode(image)
    gather = GatherConfig(attention=AttentionConfig(model=str(folder)))
    found = Gathering(gather, unit=False)(encoded).features.values
    weights, (rows, columns) = cell_affinity(str(folder), torch.from_numpy(image), above=1.2)
    resize = torch.nn.functional.interpolate
    finer = resize(encoded.features.values, (rows, columns), mode="bilinear").flatten(2)
    means = torch.einsum("nm,bcm->bcn", weights, finer).view(1, -1, rows, columns)
    torch.testing.assert_close(found, resize(means, found.shape[2:], mode="bilinear"))


def test_another_network_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"config\.json"):
        cell_affinity(str(tmp_path), torch.zeros(8, 8, 3, dtype=torch.uint8), above=1.2)
