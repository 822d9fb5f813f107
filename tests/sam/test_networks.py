"""The embedded networks compute what timm and transformers compute."""

import runpy
from pathlib import Path

import pytest
import torch

from ovseg._torchvision import ensure_torchvision
from ovseg.images.geometry import ImageGeometry
from ovseg.sam.decoder import MaskDecoder, MaskEmbedding, PromptEncoder
from ovseg.sam.mobile import FrameSam
from ovseg.sam.protocol import SamEmbedding
from ovseg.sam.tiny_vit import ImageEncoder

CELLS = (8, 8)


@pytest.fixture(scope="module")
def tool():
    return runpy.run_path(str(Path(__file__).parents[2] / "tools" / "make_sam.py"))


def randomly_filled(module, seed=0):
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                scale = 0.5 if value.ndim < 2 else value[0].numel() ** -0.5
                drawn = scale * torch.randn(value.shape, generator=draw)
                value.copy_(drawn.abs() + 0.5 if name.endswith("running_var") else drawn)
    return module.eval()


@torch.inference_mode()
def test_the_image_encoder_equals_that_of_timm_with_its_batch_norms_folded(tool):
    reference = randomly_filled(tool["TimmEncoder"]())
    state = {name.removeprefix("trunk."): value for name, value in reference.state_dict().items()}
    ours = ImageEncoder().eval()
    ours.load_state_dict(tool["fold"](state))
    ours = ours.to(memory_format=torch.channels_last)
    pixels = torch.randn(1, 3, 192, 320, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(ours(pixels), reference(pixels), atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def pair():
    """transformers' prompt encoder and mask decoder, narrow, and ours with the same weights."""
    ensure_torchvision()
    from transformers import SamConfig
    from transformers.models.sam.modeling_sam import SamMaskDecoder
    from transformers.models.sam.modeling_sam import SamPromptEncoder as TheirPrompts

    config = SamConfig(
        vision_config={"num_pos_feats": 16},
        prompt_encoder_config={"hidden_size": 32, "image_size": 128, "patch_size": 16},
        mask_decoder_config={"hidden_size": 32, "mlp_dim": 48, "num_attention_heads": 4, "iou_head_hidden_dim": 32},
    )
    config.mask_decoder_config._attn_implementation = "eager"
    theirs = randomly_filled(TheirPrompts(config)), randomly_filled(SamMaskDecoder(config.mask_decoder_config), 1)
    prompts, decoder = (
        PromptEncoder(32, mask_embed=MaskEmbedding(32, 16, epsilon=1e-6)).eval(),
        MaskDecoder(32, heads=4, inner=48, epsilon=1e-6).eval(),
    )
    prompts.load_state_dict(theirs[0].state_dict())
    decoder.load_state_dict(theirs[1].state_dict())
    return theirs, (prompts, decoder)


BOXES = torch.tensor([[10.0, 12.0, 100.0, 90.0], [0.0, 0.0, 128.0, 128.0], [64.0, 3.0, 65.0, 5.0]])
POINTS = torch.tensor([[[5.0, 6.0], [50.0, 60.0]], [[0.0, 0.0], [127.0, 1.0]], [[30.5, 2.25], [31.0, 2.0]]])
LABELS = torch.tensor([[1, 0], [1, 1], [0, 1]])


@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("given", ["boxes", "points", "both"])
@torch.inference_mode()
def test_masks_equal_those_of_transformers(pair, given, multimask):
    (their_prompts, their_decoder), (prompts, decoder) = pair
    boxes = None if given == "points" else BOXES
    points, labels = (None, None) if given == "boxes" else (POINTS, LABELS)
    features = torch.randn(1, 32, *CELLS, generator=torch.Generator().manual_seed(2))
    places = prompts.places(*CELLS)
    sparse, dense = their_prompts(*(None if part is None else part[None] for part in (points, labels, boxes)), None)
    tokens = prompts(boxes, points, labels, side=128)
    torch.testing.assert_close(tokens, sparse[0], atol=1e-5, rtol=1e-5)
    expected, quality = their_decoder(features, places.T.view(1, 32, *CELLS), sparse, dense, multimask)
    cells = features.flatten(2)[0].T + prompts.no_mask_embed.weight
    found, overlap = decoder(tokens, cells, places, shape=CELLS, grid=CELLS, multimask=multimask)
    assert found.shape == (3, 3 if multimask else 1, 32, 32)
    torch.testing.assert_close(found, expected[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(overlap, quality[0], atol=1e-5, rtol=1e-5)
    part, _ = decoder(tokens, cells, places, shape=CELLS, grid=(5, 7), multimask=multimask)
    torch.testing.assert_close(part, found[..., :20, :28])  # what lies in the padding need not be drawn


@pytest.mark.parametrize("multimask", [False, True])
@torch.inference_mode()
def test_a_rough_mask_is_read_as_transformers_reads_it(pair, multimask):
    (their_prompts, their_decoder), (prompts, decoder) = pair
    draw = torch.Generator().manual_seed(3)
    features, rough = torch.randn(1, 32, *CELLS, generator=draw), 5 * torch.randn(3, 32, 32, generator=draw)
    places = prompts.places(*CELLS)
    image = features.repeat(3, 1, 1, 1)
    sparse, dense = their_prompts(POINTS[:, None], LABELS[:, None], None, rough[:, None])
    wide = places.T.view(1, 32, *CELLS).repeat(3, 1, 1, 1)
    expected, quality = their_decoder(image, wide, sparse, dense, multimask)
    embedding = SamEmbedding(ImageGeometry((128, 128), (128, 128), (128, 128)), None)
    sam = FrameSam(torch.nn.Identity(), lambda photo: (features, embedding.geometry), prompts, decoder)
    seen = sam.encode(torch.zeros(128, 128, 3, dtype=torch.uint8))
    assert sam.reads_masks
    found, overlap = sam.masks(seen, points=POINTS, point_labels=LABELS, rough=rough, multimask=multimask, batch=2)
    torch.testing.assert_close(found, expected[:, 0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(overlap, quality[:, 0], atol=1e-4, rtol=1e-4)
    without, _ = sam.masks(seen, points=POINTS, point_labels=LABELS, multimask=multimask)
    assert (without - found).abs().max() > 0.01
