"""SAM, SAM 2, SAM 2.1 and EdgeTAM by transformers, from a folder or the hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovseg.checkpoints import folder_of, kind_of, told_kind
from ovseg.errors import ModelError
from ovseg.images.geometry import ImageGeometry
from ovseg.sam.decoder import MaskDecoder, MaskEmbedding, Multimask, PromptEncoder
from ovseg.sam.mobile import FrameSam
from ovseg.sam.protocol import PromptedSam, Prompts, SamEmbedding, check_image
from ovseg.weights import freeze, load_module

_CLASSES = {  # by the "model_type" of config.json
    "sam": ("SamModel", "SamImageProcessor"),
    "sam2": ("Sam2Model", "Sam2ImageProcessor"),
    "sam2_video": ("Sam2Model", "Sam2ImageProcessor"),
    "edgetam": ("EdgeTamModel", "Sam2ImageProcessor"),
    "edgetam_video": ("EdgeTamModel", "Sam2ImageProcessor"),
}
_CALLS: dict[Multimask, tuple[bool, ...]] = {False: (False,), True: (True,), "all": (False, True)}
_INSTEAD = "put them there, take model: mobile-sam, or use source: felzenszwalb, which needs none"


def open_from_hub(model: str) -> PromptedSam:
    """A SAM of transformers.

    Args:
        model: repository on the hub, or a folder.

    Raises:
        ModelError: the weights are missing, or of another kind of network; says what to do.
    """
    folder = folder_of(model, what="SAM", expected="mobile-sam, a repository on the hub or a folder")
    kind = _kind(folder)
    network, processor = _opened(folder, *_CLASSES[kind])
    return from_transformers(network, processor) if kind == "sam" else StretchedSam(network, processor)


def open_transformers_sam(model: str) -> tuple[Any, Any]:
    """A frozen ``SamModel`` and its processor, from a repository or folder.

    Raises:
        ModelError: the weights are missing, or of another kind of network; says what to do.
    """
    folder = folder_of(model, what="SAM", expected="mobile-sam, a repository on the hub or a folder")
    if _kind(folder) != "sam":
        raise ModelError(f"expected the weights of SAM in '{folder}', got those of {_kind(folder)}; choose another")
    return _opened(folder, *_CLASSES["sam"])


def _kind(folder: Path) -> str:
    kind = kind_of(folder)
    if kind is None or kind not in _CLASSES:
        raise ModelError(
            f"expected the weights of SAM, SAM 2 or EdgeTAM with their config.json in '{folder}', got "
            f"{told_kind(kind)}; {_INSTEAD}"
        )
    return kind


def _opened(folder: Path, network: str, processor: str) -> tuple[Any, Any]:
    """A frozen network and a processor of transformers, by the names of their classes."""
    from ovseg._torchvision import ensure_torchvision

    ensure_torchvision()
    import transformers

    try:
        opened = getattr(transformers, network).from_pretrained(folder, use_safetensors=True)
        return freeze(opened), getattr(transformers, processor).from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"expected the weights of SAM in '{folder}', got none ({type(error).__name__}); {_INSTEAD}"
        ) from error


def from_transformers(network: Any, processor: Any) -> FrameSam:
    """The image encoder of a ``SamModel`` with our prompt encoder and mask decoder, filled with its weights.

    Args:
        network: a ``SamModel``.
        processor: its ``SamImageProcessor``.
    """
    config = network.config.mask_decoder_config
    channels = config.hidden_size
    asked = network.config.prompt_encoder_config
    rough = MaskEmbedding(channels, asked.mask_input_channels, epsilon=asked.layer_norm_eps)
    prompts = PromptEncoder(channels, mask_embed=rough)
    decoder = MaskDecoder(
        channels, heads=config.num_attention_heads, inner=config.mlp_dim, epsilon=config.layer_norm_eps
    )
    load_module(prompts, network.prompt_encoder.state_dict(), source="the prompt encoder")
    load_module(decoder, network.mask_decoder.state_dict(), source="the mask decoder")
    freeze(prompts)
    freeze(decoder)

    def prepare(image: Tensor) -> tuple[Tensor, ImageGeometry]:
        inputs = processor(image.numpy(), return_tensors="pt")
        original, resized = (_size(inputs[name][0]) for name in ("original_sizes", "reshaped_input_sizes"))
        pixels = inputs["pixel_values"]
        return pixels, ImageGeometry(original, resized, _size(pixels.shape[-2:]))

    return FrameSam(network, prepare, prompts, decoder, embed=network.get_image_embeddings)


class StretchedSam(PromptedSam):
    """SAM 2, SAM 2.1 and EdgeTAM, which stretch a photo to their square frame.

    Args:
        network: a ``Sam2Model`` or ``EdgeTamModel``.
        processor: its ``Sam2ImageProcessor``.
    """

    def __init__(self, network: Any, processor: Any) -> None:
        self._network, self._processor = network, processor

    def to(self, device: torch.device) -> StretchedSam:
        """See ``PromptedSam.to``."""
        self._network.to(device)
        return self

    @property
    def reads_masks(self) -> bool:
        """See ``PromptedSam.reads_masks``."""
        return True

    @torch.inference_mode()
    def encode(self, image: Tensor) -> SamEmbedding:
        """See ``PromptedSam.encode``."""
        pixels = self._processor(images=check_image(image).numpy(), return_tensors="pt")["pixel_values"]
        size = _size(pixels.shape[-2:])
        geometry = ImageGeometry(_size(image.shape[:2]), size, size)
        features = self._network.get_image_embeddings(pixels.to(self._network.device))
        return SamEmbedding(geometry, features, by_frame=False)

    def _answers(
        self, embedding: SamEmbedding, parts: Iterator[Prompts], *, multimask: Multimask
    ) -> Iterator[tuple[Tensor, Tensor]]:
        # transformers takes an rough mask for each image, not for each prompt
        singly = (one for part in parts for one in (part.split(1) if part.masks is not None else [part]))
        for part in (one.to(self._network.device) for one in singly):
            found = [self._answer(embedding, part, multimask=several) for several in _CALLS[multimask]]
            yield torch.cat([masks for masks, _ in found], 1), torch.cat([quality for _, quality in found], 1)

    def _answer(self, embedding: SamEmbedding, part: Prompts, *, multimask: bool) -> tuple[Tensor, Tensor]:
        output = self._network(
            image_embeddings=embedding.features,
            input_boxes=None if part.boxes is None else part.boxes[None],
            input_points=None if part.points is None else part.points[None],
            input_labels=None if part.labels is None else part.labels[None],
            input_masks=None if part.masks is None else part.masks[:, None],
            multimask_output=multimask,
        )
        return output.pred_masks[0].float(), output.iou_scores[0].float()


def _size(pair: Any) -> tuple[int, int]:
    height, width = (int(length) for length in pair)
    return height, width
