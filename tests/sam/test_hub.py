"""SAMs of transformers, from a folder, behind the protocol."""

import json

import pytest
import torch
from helpers.checkpoints import sam2_config, saved_sam, saved_with_draws

from ovseg._torchvision import ensure_torchvision
from ovseg.errors import ModelError, ShapeError
from ovseg.sam import load_sam, to_image
from ovseg.sam.hub import open_from_hub
from ovseg.sam.load import sam_mark, sam_repo
from ovseg.sam.protocol import check_prompts

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
    four, _ = ours.masks(embedding, points=POINTS, multimask="all")
    torch.testing.assert_close(four[:, 1:], logits, atol=1e-4, rtol=1e-4)
    assert four.shape[1] == 4
    none, _ = ours.masks(embedding, boxes=torch.zeros(0, 4))
    assert none.shape == (0, 1, 16, 16)


def rough_masks(count):
    """(n, 16, 16) logits, each another."""
    return 3 * torch.randn(count, 16, 16, generator=torch.Generator().manual_seed(4))


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["sam", "sam2"])
def test_rough_masks_are_read_as_the_networks_of_transformers_read_them(kind, sam_folder, tmp_path, image):
    ensure_torchvision()
    from transformers import Sam2Model, SamModel
    from transformers.models.sam2.image_processing_sam2 import Sam2ImageProcessor

    folder = sam_folder[0] if kind == "sam" else tmp_path
    if kind == "sam2":
        torch.manual_seed(0)
        processor = Sam2ImageProcessor(size={"height": 64, "width": 64})
        saved_with_draws(Sam2Model(sam2_config()), processor, folder)
    ours = open_from_hub(str(folder))
    network = {"sam": SamModel, "sam2": Sam2Model}[kind].from_pretrained(folder)
    embedding, rough = ours.encode(image), rough_masks(3)
    assert ours.reads_masks
    logits, quality = ours.masks(embedding, boxes=BOXES, points=POINTS, rough=rough, batch=2)
    plain, _ = ours.masks(embedding, boxes=BOXES, points=POINTS)
    prompts = check_prompts(BOXES, POINTS, None).in_frame(embedding.geometry)
    inputs = network_inputs(kind, folder, image)
    for row in range(3):
        expected = network(
            **inputs,
            input_boxes=prompts.boxes[row][None, None],
            input_points=prompts.points[row][None, None],
            input_labels=prompts.labels[row][None, None],
            input_masks=rough[row][None, None],
            multimask_output=False,
        )
        shown = (slice(None), slice(None), slice(0, 13)) if kind == "sam" else ()
        theirs = expected.pred_masks[0][shown] if shown else expected.pred_masks[0]
        found = embedding.inside(logits[row : row + 1]) if kind == "sam" else logits[row : row + 1]
        torch.testing.assert_close(found, theirs, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(quality[row], expected.iou_scores[0, 0], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(logits, plain, atol=1e-3)


def network_inputs(kind, folder, image):
    from transformers import SamImageProcessor
    from transformers.models.sam2.image_processing_sam2 import Sam2ImageProcessor

    processor = {"sam": SamImageProcessor, "sam2": Sam2ImageProcessor}[kind].from_pretrained(folder)
    return {"pixel_values": processor(images=image.numpy(), return_tensors="pt")["pixel_values"]}


def test_rough_masks_that_do_not_fit_are_refused(sam_folder, image):
    sam = open_from_hub(str(sam_folder[0]))
    embedding = sam.encode(image)
    with pytest.raises(ShapeError, match=r"rough must be \(n=3, h=16, w=16\), got \(2, 16, 16\)"):
        sam.masks(embedding, boxes=BOXES, rough=rough_masks(2))
    with pytest.raises(ShapeError, match="rough must be finite"):
        sam.masks(embedding, boxes=BOXES, rough=rough_masks(3) / 0)
    sam.prompts.mask_embed = None  # as of a network without them
    with pytest.raises(ModelError, match="made without prompts by masks"):
        sam.masks(embedding, boxes=BOXES, rough=rough_masks(3))


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
