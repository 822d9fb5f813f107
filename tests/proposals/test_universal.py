"""Masks of universal segmenters, from a hub, against transformers' own processing, whatever they'd call them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers.hub import Hub, Repository, point_at, serving_hub
from helpers.mask_models import written
from helpers.universal_models import KINDS, universal_files
from safetensors.torch import load
from torch.nn import functional

from ovseg.checkpoints import mark_of
from ovseg.errors import ModelError, ShapeError
from ovseg.files import sha256_of
from ovseg.proposals.universal import load_universal, universal_masks


@pytest.fixture(autouse=True)
def nothing_in_memory() -> Iterator[None]:
    load_universal.cache_clear()
    yield
    load_universal.cache_clear()


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    rough = torch.randint(0, 256, (1, 3, 6, 9), dtype=torch.uint8, generator=draw).float()
    return functional.interpolate(rough, (48, 75), mode="bilinear")[0].permute(1, 2, 0).to(torch.uint8).contiguous()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving_hub({}) as made:
        point_at(made, tmp_path / "cache", monkeypatch)
        yield made


def serve(hub: Hub, name: str, files: dict[str, bytes]) -> None:
    hub.repositories[name] = Repository(files)


def of_transformers(kind: str, folder: Path, image: torch.Tensor):
    """Network outputs, the processor and the inputs, by transformers' own classes."""
    import transformers

    family = "Eomt" if kind.startswith("eomt") else {"mask2former": "Mask2Former", "oneformer": "OneFormer"}[kind]
    name = "EomtDinov3" if kind == "eomt_dinov3" else family
    network = getattr(transformers, f"{name}ForUniversalSegmentation").from_pretrained(folder)
    without = {"class_info_file": None} if kind == "oneformer" else {}
    processor = getattr(transformers, f"{family}ImageProcessor").from_pretrained(folder, **without)
    if kind == "oneformer":
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        whole = transformers.OneFormerProcessor(processor, tokenizer)
        inputs = whole(images=image.numpy(), task_inputs=["panoptic"], return_tensors="pt")
    else:
        inputs = processor(image.numpy(), return_tensors="pt")
    inputs = {name: inputs[name] for name in ("pixel_values", "pixel_mask", "task_inputs") if name in inputs}
    with torch.no_grad():
        return network(**inputs), processor, inputs


@pytest.mark.parametrize("kind", KINDS)
def test_masks_and_scores_are_those_of_transformers_own_forward_pass(
    kind: str, image: torch.Tensor, hub: Hub, tmp_path: Path
) -> None:
    files = universal_files(kind)
    serve(hub, "somebody/universal", files)
    (tmp_path / "folder").mkdir()
    output, _, inputs = of_transformers(kind, written(files, tmp_path / "folder"), image)
    expected = []
    for classes, logits in zip(output.class_queries_logits[0], output.masks_queries_logits[0], strict=True):
        frame = tuple(inputs["pixel_values"].shape[-2:])
        fine = functional.interpolate(logits[None, None], frame, mode="bilinear", align_corners=False)
        if kind.startswith("eomt"):
            fine = fine[..., :41, :64]  # 48 x 75 pixels of which the longer side is 64
        fine = functional.interpolate(fine, (48, 75), mode="bilinear", align_corners=False)[0, 0]
        something = 1 - classes.softmax(0)[-1]
        mask = fine > 0
        if mask.any():
            expected.append((float(something), mask, float(something * fine[mask].sigmoid().mean())))
    expected.sort(key=lambda each: -each[0])
    found = list(universal_masks(image, model="somebody/universal", least_score=0.0))
    assert len(found) == len(expected) >= 3
    assert len({round(score, 4) for _, score in found}) > 1
    for (mask, score), (_, theirs, sure) in zip(found, expected, strict=True):
        assert mask.shape == (48, 75) and mask.dtype == torch.bool
        assert (mask ^ theirs).float().mean() < 1e-3
        assert score == pytest.approx(sure, abs=1e-4)
    least = sorted(score for _, score in found)[1]
    some = [score for _, score in universal_masks(image, model="somebody/universal", least_score=least)]
    assert some == [score for _, score in found if score >= least]


def test_eomts_masks_are_those_of_its_own_post_processing(image: torch.Tensor, tmp_path: Path) -> None:
    folder = written(universal_files("eomt"), tmp_path)
    output, processor, _ = of_transformers("eomt", folder, image)
    (whole,) = processor.post_process_instance_segmentation(output, target_sizes=[(48, 75)], threshold=0.0)
    # theirs names each query and paints all of them one over the other, the last query on top
    last = whole["segments_info"][-1]
    named = output.class_queries_logits[0].softmax(-1)
    found = {
        round(float(score), 4): mask for mask, score in universal_masks(image, model=str(folder), least_score=0)
    }
    scores = [round(last["score"] / float(row[:-1].max()) * float(1 - row[-1]), 4) for row in named]
    own = [found[score] for score in scores if score in found]
    assert any(torch.equal(mask, whole["segmentation"] == last["id"]) for mask in own)


def test_what_is_no_universal_segmenter_is_refused_in_one_sentence(
    image: torch.Tensor, hub: Hub, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"expected a repository .* or a folder, got '/no/such/folder'"):
        universal_masks(image, model="/no/such/folder")
    with pytest.raises(ModelError, match=r"no repository .*/nobody/nothing, or it is private; check the name"):
        universal_masks(image, model="nobody/nothing")
    with pytest.raises(ModelError, match=r"got no config\.json; give a repository"):
        universal_masks(image, model=str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(ModelError, match=r"Mask2Former, OneFormer or EoMT .* got 'clip'"):
        universal_masks(image, model=str(tmp_path))
    (tmp_path / "config.json").write_bytes(universal_files("eomt")["config.json"])
    with pytest.raises(ModelError, match="expected the weights of EomtForUniversalSegmentation"):
        universal_masks(image, model=str(tmp_path))
    with pytest.raises(ShapeError, match="image must be"):
        universal_masks(image[..., :1], model=str(tmp_path))


def test_weights_that_a_repository_has_as_a_torch_file_alone_are_read_too(
    image: torch.Tensor, hub: Hub, tmp_path: Path
) -> None:
    """As that of OneFormer on COCO with a Swin-L."""
    files = dict(universal_files("eomt"))
    serve(hub, "somebody/safe", dict(files))
    torch.save(load(files.pop("model.safetensors")), tmp_path / "pytorch_model.bin")
    serve(hub, "somebody/torch", files | {"pytorch_model.bin": (tmp_path / "pytorch_model.bin").read_bytes()})
    safe, unsafe = ([s for _, s in universal_masks(image, model=f"somebody/{name}")] for name in ("safe", "torch"))
    assert safe and safe == unsafe
    digest = sha256_of(tmp_path / "pytorch_model.bin")[:16]
    assert mark_of("somebody/torch") == mark_of(str(tmp_path)) == digest
    assert mark_of("somebody/else") == "somebody/else"


def test_a_gated_checkpoint_says_where_to_accept_its_licence(image: torch.Tensor, hub: Hub) -> None:
    serve(hub, "somebody/gated", universal_files("eomt"))
    hub.repositories["somebody/gated"].gated = True
    with pytest.raises(ModelError, match=r"gated; accept .* at .*/somebody/gated .*auth login"):
        universal_masks(image, model="somebody/gated")


def test_an_eomt_for_classes_and_a_folder_that_lacks_files_are_refused(image: torch.Tensor, tmp_path: Path) -> None:
    written(universal_files("eomt", do_split_image=True), tmp_path)
    with pytest.raises(ModelError, match="for semantic segmentation, whose masks are of classes"):
        universal_masks(image, model=str(tmp_path))
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match=r"expected preprocessor_config\.json in .* fetch the model again"):
        universal_masks(image, model=str(tmp_path))
    other = tmp_path / "oneformer"
    other.mkdir()
    written(universal_files("oneformer"), other)
    (other / "tokenizer_config.json").unlink()
    with pytest.raises(ModelError, match="OneFormer's tokenizer"):
        universal_masks(image, model=str(other))
