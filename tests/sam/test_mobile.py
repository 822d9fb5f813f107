"""MobileSAM from the package, against numbers of its authors' code on examples/cat.jpg (451 × 300 pixels)."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ovseg.assets import asset_root
from ovseg.errors import ModelError, ShapeError
from ovseg.regions import RegionsConfig, build_regions
from ovseg.sam import load_sam, to_image
from ovseg.sam import mobile as mobile_module
from ovseg.sam.mobile import frame, load_mobile_sam
from ovseg.sam.protocol import OUTSIDE

CAT = Path(__file__).parents[2] / "examples" / "cat.jpg"
BOX = torch.tensor([[2.0, 5.0, 395.0, 298.0]])
POINT = torch.tensor([[220.0, 150.0]])
# every 32nd channel of the cell in row 20, column 30
EMBEDDING = [0.073, -0.005, 0.103, 0.007, -0.033, 0.014, -0.073, -0.018]
# every 32nd logit of every 32nd row, from 16 on
OF_BOX = [
    [-6.83, 8.08, 8.74, 8.83, 8.51, 8.56, 3.26, -10.45],
    [-5.93, 6.71, 7.64, 8.51, 6.41, 8.76, -6.48, -10.28],
    [2.32, 7.44, 8.1, 4.28, 9.35, 4.05, -6.5, -9.5],
    [3.49, 5.0, 6.07, 8.62, 8.89, 7.87, -6.18, -9.35],
    [1.79, 2.57, 1.36, 7.82, 7.82, 2.14, -2.89, -9.22],
]
OF_POINT = [  # the second of three, the one of the best predicted overlap
    [-7.38, 9.0, 9.37, 9.35, 8.25, 7.94, 3.21, -8.92],
    [-6.64, 6.69, 6.44, 7.97, 5.85, 8.68, -6.2, -8.83],
    [2.63, 7.84, 8.5, 4.49, 9.61, 5.09, -5.59, -6.22],
    [3.19, 4.87, 5.54, 8.63, 9.15, 7.6, -6.07, -5.77],
    [0.59, 1.88, 1.13, 7.63, 7.63, 1.56, -2.9, -5.61],
]


@pytest.fixture(scope="module")
def image():
    return torch.from_numpy(np.array(Image.open(CAT).convert("RGB")))


@pytest.fixture(scope="module")
def embedding(image):
    return load_sam().encode(image)


def test_the_embedding_is_that_of_the_authors(embedding):
    features = embedding.features - load_sam().prompts.no_mask_embed.weight
    assert features.shape == (4096, 256)
    assert features[20 * 64 + 30, ::32].tolist() == pytest.approx(EMBEDDING, abs=2e-3)


def test_masks_are_those_of_the_authors(embedding):
    logits, quality = load_sam().masks(embedding, boxes=BOX)
    assert logits.shape == (1, 1, 256, 256) and quality.item() == pytest.approx(0.9756, abs=2e-3)
    shown = embedding.inside(logits)
    assert shown.shape[-2:] == (171, 256)
    torch.testing.assert_close(shown[0, 0, 16::32, 16::32], torch.tensor(OF_BOX), atol=0.15, rtol=0.02)
    assert (logits[..., 176:, :] == OUTSIDE).all()  # what lies in the padding is not drawn
    (mask,) = to_image(embedding, logits[:, 0])
    assert mask.shape == (300, 451) and abs(int(mask.sum()) - 95_642) < 200
    logits, quality = load_sam().masks(embedding, points=POINT, multimask=True)
    assert logits.shape == (1, 3, 256, 256)
    assert quality[0].tolist() == pytest.approx([0.9638, 0.9880, 0.9715], abs=2e-3)
    shown = embedding.inside(logits)
    torch.testing.assert_close(shown[0, 1, 16::32, 16::32], torch.tensor(OF_POINT), atol=0.15, rtol=0.02)


def test_prompts_do_not_depend_on_those_beside_them(embedding):
    boxes = torch.cat([BOX, BOX / 2, BOX / 3, BOX, BOX / 4])
    together, qualities = load_sam().masks(embedding, boxes=boxes, batch=4)
    alone, quality = load_sam().masks(embedding, boxes=boxes[4:])
    torch.testing.assert_close(together[4:], alone, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(qualities[4:], quality, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together[0], together[3], atol=1e-3, rtol=1e-3)
    none, _ = load_sam().masks(embedding, boxes=boxes[:0])
    assert none.shape == (0, 1, 256, 256)


def test_an_upright_photo_lies_in_the_frame_upright():
    pixels, geometry = frame(torch.full((40, 10, 3), 255, dtype=torch.uint8))
    assert geometry.resized == (1024, 256) and pixels.shape == (1, 3, 1024, 1024)
    assert pixels[0, 0, 1023, 255].item() == pytest.approx((255 - 123.675) / 58.395, abs=1e-4)
    assert (pixels[..., 256:] == 0).all()


def test_an_upright_photo_has_masks_of_its_own_shape(image):
    upright = image.transpose(0, 1).contiguous()
    network = load_sam()
    embedding = network.encode(upright)
    logits, _ = network.masks(embedding, boxes=BOX[:, [1, 0, 3, 2]])
    (mask,) = to_image(embedding, logits[:, 0])
    assert mask.shape == (451, 300) and (logits[..., 176:] == OUTSIDE).all()
    assert abs(int(mask.sum()) - 95_642) < 6_000  # the cat on its side


@pytest.mark.slow
def test_regions_by_sam_need_no_download(image):
    config = RegionsConfig(source="sam", options={"points_per_side": 4})
    assert config.repo == "" and config.model == "mobile-sam" and config.from_image
    regions = build_regions(config)(image, torch.zeros(1, 1, 1))
    assert regions.shape == (300, 451) and regions.dtype == torch.int32
    cat = regions[100:200, 150:300]
    assert (cat >= 0).float().mean() > 0.95 and regions.max() >= 2


def test_a_missing_or_damaged_file_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(mobile_module, "asset_root", lambda top: tmp_path / top)
    with pytest.raises(ModelError, match=r"no weights file .*mobile_sam.safetensors'.* install the package again"):
        load_mobile_sam()
    folder = tmp_path / "models" / "mobile-sam"
    folder.mkdir(parents=True)
    (folder / "mobile_sam.safetensors").write_bytes(b"half a file")
    with pytest.raises(ModelError, match=r"damaged or not the published one.* install the package again"):
        load_mobile_sam()
    shutil.copy(asset_root("models") / "mobile-sam" / "mobile_sam.safetensors", folder)
    with pytest.raises(ModelError, match=r"no weights file .*rough_masks.safetensors'.* install the package again"):
        load_mobile_sam()


def test_a_picture_of_another_form_is_refused():
    with pytest.raises(ShapeError, match=r"image must be \(H, W, 3\) uint8, got \(4, 4\)"):
        load_sam().encode(torch.zeros(4, 4, dtype=torch.uint8))


def test_a_rough_mask_is_read_as_transformers_reads_it(embedding):
    from transformers import SamPromptEncoderConfig
    from transformers.models.sam.modeling_sam import SamMaskEmbedding

    sam = load_sam()
    assert sam.reads_masks and sam.prompts.mask_embed is not None
    theirs = SamMaskEmbedding(SamPromptEncoderConfig()).eval()
    theirs.load_state_dict(sam.prompts.mask_embed.state_dict())
    readings, _ = sam.masks(embedding, points=POINT, multimask=True)
    with torch.inference_mode():
        expected = theirs(readings[:, :1])[0].flatten(1).T
        torch.testing.assert_close(sam.prompts.mask_embed(readings[:, 0])[0], expected, atol=1e-4, rtol=1e-4)
    again, _ = sam.masks(embedding, points=POINT, rough=readings[:, 0])
    alone, _ = sam.masks(embedding, points=POINT)
    smallest = int((readings[0, 0] > 0).sum())  # the part that the point may mean
    assert smallest < int((again > 0).sum()) < int((alone > 0).sum())


def test_all_four_masks_are_the_one_and_the_three(embedding):
    sam = load_sam()
    one, sure_one = sam.masks(embedding, boxes=BOX)
    three, sure = sam.masks(embedding, boxes=BOX, multimask=True)
    four, all_sure = sam.masks(embedding, boxes=BOX, multimask="all")
    torch.testing.assert_close(four, torch.cat([one, three], 1))
    torch.testing.assert_close(all_sure, torch.cat([sure_one, sure], 1))
