"""Masks by a Mask2Former, OneFormer or EoMT that was trained on named masks; what it calls them is not asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ovseg.checkpoints import folder_of, kind_of, open_network, told_kind
from ovseg.errors import ModelError
from ovseg.hub import has_tokenizer
from ovseg.images.geometry import ImageGeometry, Size
from ovseg.proposals.masks import Masks
from ovseg.tensors import check_shape

EXPECTED = "a repository on the hub, such as facebook/mask2former-swin-tiny-coco-panoptic, or a folder"
_CLASSES = {  # by the "model_type" of config.json
    "mask2former": ("Mask2FormerForUniversalSegmentation", "Mask2FormerImageProcessor"),
    "oneformer": ("OneFormerForUniversalSegmentation", "OneFormerImageProcessor"),
    "eomt": ("EomtForUniversalSegmentation", "EomtImageProcessor"),
    "eomt_dinov3": ("EomtDinov3ForUniversalSegmentation", "EomtImageProcessor"),
}
_TASK = "the task is panoptic"  # of the three that OneFormer is told by words


def universal_masks(image: Tensor, *, model: str, least_score: float = 0.3) -> Masks:
    """What the queries of a universal segmenter draw, things and stuff alike, whatever it would call them.

    Args:
        image: (H, W, 3) uint8 RGB.
        model: as of ``load_universal``.
        least_score: of the masks that are given, in [0, 1].

    Yields:
        A mask, which others may overlap, and 1 − the probability that its query shows nothing, times the mean
        probability of the mask's pixels; the queries that most probably show something come first.

    Raises:
        ShapeError: the image has another form.
        ModelError: weights are missing, or of another kind of network.

    Source: Yu et al., FC-CLIP, NeurIPS 2023, whose instances have this score with a class's probability in place of
    that of any.
    """
    check_shape("image", image, "H W c", c=3)
    answer = load_universal(model).ask(image)
    return _drawn(answer, least_score)


@dataclass(frozen=True)
class QueryMasks:
    """What a universal segmenter says of one photo.

    Attributes:
        something: (Q,) float32 in [0, 1], how probably a query shows something.
        logits: (Q, h, w) float32, over 0 inside the query's mask; of the network's frame, padding included.
        geometry: how the photo lies in the frame.
    """

    something: Tensor
    logits: Tensor
    geometry: ImageGeometry

    def of_image(self, query: int) -> Tensor:
        """(H, W) float32 logits of the photo's pixels: enlarged to the frame and then to the photo, as released."""
        framed = _resized(self.logits[query][None, None], self.geometry.padded)
        rows, columns = self.geometry.resized
        return _resized(framed[..., :rows, :columns], self.geometry.original)[0, 0]


@dataclass(frozen=True)
class Universal:
    """A frozen universal segmenter on the CPU.

    Attributes:
        network: of transformers.
        processor: its image processor.
        task: (1, T) int64 tokens of what to do, for a network that is told; else None.
        pads: whether its processor fills a photo up to a square; the others pad only to other photos of a batch.
    """

    network: Any
    processor: Any
    task: Tensor | None
    pads: bool

    @torch.inference_mode()
    def ask(self, image: Tensor) -> QueryMasks:
        """What it says of (H, W, 3) uint8 pixels."""
        told = {} if self.task is None else {"task_inputs": ["panoptic"]}
        pixels = image.cpu().numpy()
        inputs = self.processor(pixels, return_tensors="pt", input_data_format="channels_last", **told)
        seen = {name: inputs[name] for name in ("pixel_values", "pixel_mask") if name in inputs}
        if self.task is not None:
            seen["task_inputs"] = self.task
        output = self.network(**seen)
        something = 1 - output.class_queries_logits[0].float().softmax(-1)[:, -1]  # the last class is none of them
        height, width = seen["pixel_values"].shape[-2:]
        original, frame = (int(image.shape[0]), int(image.shape[1])), (int(height), int(width))
        geometry = ImageGeometry(original, self._resized(original, frame), frame)
        return QueryMasks(something, output.masks_queries_logits[0].float(), geometry)

    def _resized(self, original: Size, frame: Size) -> Size:
        """(H, W) of the part of the frame that shows the photo."""
        if not self.pads:
            return frame
        from transformers.image_transforms import get_size_with_aspect_ratio

        asked = self.processor.size
        height, width = get_size_with_aspect_ratio(original, asked["shortest_edge"], asked["longest_edge"])
        return int(height), int(width)


@lru_cache(maxsize=1)
def load_universal(model: str) -> Universal:
    """A frozen universal segmenter on the CPU; the last one asked for stays in memory.

    Args:
        model: repository on the hub or folder of a Mask2Former, OneFormer or EoMT that was trained for panoptic or
            instance segmentation: ``facebook/mask2former-swin-tiny-coco-panoptic`` (its card says licence "other"),
            ``shi-labs/oneformer_coco_swin_large`` (MIT), ``tue-mps/coco_panoptic_eomt_base_640_2x`` (code MIT).

    Raises:
        ModelError: the weights are missing, or of another kind of network; says what to do.
    """
    folder = folder_of(model, what=f"'{model}'", expected=EXPECTED, give="the folder in place of the name")
    kind = kind_of(folder)
    if kind is None or kind not in _CLASSES:
        raise ModelError(
            f"expected the weights of Mask2Former, OneFormer or EoMT with their config.json in '{folder}', got "
            f"{told_kind(kind)}; give {EXPECTED}"
        )
    name, reader = _CLASSES[kind]
    network, processor = open_network(folder, name), _processor(folder, reader)
    task = _task(folder, network) if kind == "oneformer" else None
    return Universal(network, processor, task, pads=kind.startswith("eomt") and bool(processor.do_pad))


def _processor(folder: Path, name: str) -> Any:
    import transformers

    # OneFormer's would fetch the names of its classes from the hub
    without = {"class_info_file": None} if name.startswith("OneFormer") else {}
    try:
        made = getattr(transformers, name).from_pretrained(folder, local_files_only=True, **without)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"expected preprocessor_config.json in '{folder}', got none that {name} reads; fetch the model again"
        ) from error
    if getattr(made, "do_split_image", False):
        raise ModelError(
            f"'{folder}' holds an EoMT for semantic segmentation, whose masks are of classes and not of objects; "
            "give one for panoptic or instance segmentation"
        )
    return made


def _task(folder: Path, network: Any) -> Tensor:
    """(1, T) the task in tokens, filled up by 0, as OneFormer's own processor has them."""
    if not has_tokenizer(folder):
        raise ModelError(
            f"expected the files of OneFormer's tokenizer in '{folder}', got none; fetch the model again"
        )
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    length = network.config.task_seq_len
    told = tokenizer(_TASK, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    tokens: Tensor = told["input_ids"] * told["attention_mask"]
    return tokens


@torch.inference_mode()
def _drawn(answer: QueryMasks, least_score: float) -> Iterator[tuple[Tensor, float]]:
    """The masks of the photo's size, one after the other."""
    order = answer.something.argsort(descending=True, stable=True)
    for query in order[answer.something[order] >= least_score].tolist():
        logits = answer.of_image(query)
        mask = logits > 0
        if bool(mask.any()):
            score = float(answer.something[query] * logits[mask].sigmoid().mean())
            if score >= least_score:
                yield mask, score


def _resized(maps: Tensor, size: Size) -> Tensor:
    return functional.interpolate(maps, size, mode="bilinear", align_corners=False)
