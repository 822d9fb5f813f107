"""SAMs of transformers, from a folder, behind the protocol."""

import json

import pytest
import torch
from helpers.checkpoints import sam2_config, saved_sam, saved_with_draws

from ovseg._torchvision import ensure_torchvision
from ovseg.errors import ModelError
from ovseg.sam import load_sam, to_image
from ovseg.sam.hub import open_from_hub
from ovseg.sam.load import sam_mark, sam_repo

BOXES = torch.tensor([[4.0, 5.0, 40.0, 30.0], [0.0, 0.0, 50.0, 40.0], [20.0, 3.0, 30.0, 38.0]])
POINTS = torch.tensor([[20.0, 10.0], [1.0, 2.0], [49.0, 39.0]])


@pytest.fixture(scope="module")
def image():
    return torch.randint(0, 256, (40, 50, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def sam_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sam")
    return folder, saved_sam(folder)


@torch.inference_mode()
def test_a_sam_of_transformers_gives_the_masks_that_its_own_code_gives(sam_folder, image):
    from transformers import SamImageProcessor, SamProcessor

    folder, network = sam_folder
    ours = load_sam(str(folder))
    embedding = ours.encode(image)
    processor = SamProcessor(SamImageProcessor.from_pretrained(folder))
    inputs = processor(image.numpy(), input_boxes=[BOXES.tolist()], return_tensors="pt")
    expected = network(
        pixel_values=inputs["pixel_values"], input_boxes=inputs["input_boxes"].float(), multimask_output=False
    )
    logits, quality = ours.masks(embedding, boxes=BOXES, batch=2)
    assert logits.shape == (3, 1, 16, 16)
    shown = embedding.inside(logits)
    assert shown.shape == (3, 1, 13, 16)  # 51 of 64 rows
    torch.testing.assert_close(shown, expected.pred_masks[0, :, :, :13], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(quality, expected.iou_scores[0], atol=1e-4, rtol=1e-4)
    sizes = inputs["original_sizes"], inputs["reshaped_input_sizes"]
    whole = processor.image_processor.post_process_masks(
        [expected.pred_masks[0]], *sizes, pad_size={"height": 64, "width": 64}
    )
    assert torch.equal(torch.stack(list(to_image(embedding, logits[:, 0]))), whole[0][:, 0])


@torch.inference_mode()
def test_a_sam2_of_transformers_gives_the_masks_that_its_own_code_gives(tmp_path, image):
    ensure_torchvision()
    from transformers import Sam2Model, Sam2Processor
    from transformers.models.sam2.image_processing_sam2 import Sam2ImageProcessor

    torch.manual_seed(0)
    processor = Sam2ImageProcessor(size={"height": 64, "width": 64})
    network = saved_with_draws(Sam2Model(sam2_config()), processor, tmp_path)
    ours = open_from_hub(str(tmp_path))
    embedding = ours.encode(image)
    inputs = Sam2Processor(processor)(
        images=image.numpy(), input_points=[[[point] for point in POINTS.tolist()]], return_tensors="pt"
    )
    expected = network(
        pixel_values=inputs["pixel_values"], input_points=inputs["input_points"], multimask_output=True
    )
    logits, quality = ours.masks(embedding, points=POINTS, multimask=True, batch=2)
    torch.testing.assert_close(logits, expected.pred_masks[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(quality, expected.iou_scores[0], atol=1e-4, rtol=1e-4)
    whole = Sam2Processor(processor).post_process_masks(expected.pred_masks, inputs["original_sizes"])[0]
    assert torch.equal(torch.stack(list(to_image(embedding, logits[:, 1]))), whole[:, 1])
    again, _ = ours.masks(embedding, points=POINTS, earlier=logits[:, 0], batch=2)
    four, _ = ours.masks(embedding, points=POINTS, multimask="all")
    torch.testing.assert_close(four[:, 1:], logits, atol=1e-4, rtol=1e-4)
    assert ours.reads_masks and four.shape[1] == 4
    for row in range(3):
        theirs = network(
            pixel_values=inputs["pixel_values"],
            input_points=inputs["input_points"][:, row : row + 1],
            input_masks=logits[row : row + 1, :1],
            multimask_output=False,
        )
        torch.testing.assert_close(again[row], theirs.pred_masks[0, 0], atol=1e-4, rtol=1e-4)
    none, _ = ours.masks(embedding, boxes=torch.zeros(0, 4))
    assert none.shape == (0, 1, 16, 16)


def test_another_network_is_refused_by_name(tmp_path):
    with pytest.raises(ModelError, match=r"expected mobile-sam, .* or a folder, got '.*/missing/folder'"):
        load_sam(f"{tmp_path}/missing/folder")
    with pytest.raises(ModelError, match=r"got no config.json; put them there, take model: mobile-sam"):
        open_from_hub(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(ModelError, match=r"SAM 2 or EdgeTAM .* got 'clip'"):
        open_from_hub(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "sam"}))
    with pytest.raises(ModelError, match="got none"):
        open_from_hub(str(tmp_path))


def test_weights_are_known_by_their_content(sam_folder):
    folder, _ = sam_folder
    assert sam_repo("mobile-sam") == "" and sam_repo("a/b") == "a/b"
    assert sam_mark("mobile-sam") == "b00d9ab242d30a55" and sam_mark("nobody/nothing") == "nobody/nothing"
    assert len(sam_mark(str(folder))) == 16
