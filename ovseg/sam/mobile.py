"""MobileSAM from the package's files, and every SAM whose prompts and masks work alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from ovseg.assets import asset_root
from ovseg.images.geometry import ImageGeometry
from ovseg.images.resize import exact_size
from ovseg.sam.decoder import MaskDecoder, MaskEmbedding, Multimask, PromptEncoder
from ovseg.sam.protocol import OUTSIDE, PromptedSam, Prompts, SamEmbedding, check_image
from ovseg.sam.tiny_vit import ImageEncoder
from ovseg.weights import check_sum, freeze, load_module, load_weights

MOBILE_SAM = "mobile-sam"
WEIGHTS_FILE, MASKS_FILE = "mobile_sam.safetensors", "rough_masks.safetensors"
SHA256 = {
    WEIGHTS_FILE: "b00d9ab242d30a552f4e2a0cd3189ff4654e70a6ce4bfcc0cbc7922e002c42a4",
    MASKS_FILE: "e8713ca11e76eb6a965d119cdd8fdcf9b8e63b692b8dcb6b9f0e578552ef71c7",
}
SIDE = 1024  # of the square frame
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of ImageNet, in levels of 0 to 255

Prepare = Callable[[Tensor], tuple[Tensor, ImageGeometry]]
"""From a checked photo to the pixels of the frame, and how the photo lies in it."""


class FrameSam(PromptedSam):
    """A SAM of an image encoder, a prompt encoder and a mask decoder.

    Args:
        network: the frozen image encoder.
        prepare: see ``Prepare``.
        embed: the encoder's features of what ``prepare`` gives, (1, C, h, w).
        prompts, decoder: frozen.
    """

    def __init__(
        self,
        network: nn.Module,
        prepare: Prepare,
        prompts: PromptEncoder,
        decoder: MaskDecoder,
        *,
        embed: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._network, self._prepare, self._embed = network, prepare, embed or network
        self.prompts, self.decoder = prompts, decoder

    def to(self, device: torch.device) -> FrameSam:
        """See ``PromptedSam.to``."""
        for module in (self._network, self.prompts, self.decoder):
            module.to(device)
        return self

    @property
    def _device(self) -> torch.device:
        return self.prompts.no_mask_embed.weight.device

    @property
    def reads_masks(self) -> bool:
        """See ``PromptedSam.reads_masks``."""
        return self.prompts.mask_embed is not None

    @torch.inference_mode()
    def encode(self, image: Tensor) -> SamEmbedding:
        """See ``PromptedSam.encode``."""
        pixels, geometry = self._prepare(check_image(image))
        features = self._embed(pixels.to(self._device))
        cells = features[0].flatten(1).T + self.prompts.no_mask_embed.weight
        return SamEmbedding(geometry, cells.contiguous())

    def _answers(
        self, embedding: SamEmbedding, parts: Iterator[Prompts], *, multimask: Multimask
    ) -> Iterator[tuple[Tensor, Tensor]]:
        side = embedding.geometry.padded[0]
        cells = round(len(embedding.features) ** 0.5)  # in a row, and in a column
        places = self.prompts.places(cells, cells)
        # enlarging a mask to the photo reads one cell beyond its border
        rows, columns = (min(cells, length * cells // side + 1) for length in embedding.geometry.resized)
        shape = {"shape": (cells, cells), "grid": (rows, columns)}
        for part in (one.to(self._device) for one in parts):
            tokens = self.prompts(part.boxes, part.points, part.labels, side=side)
            seen = embedding.features
            if part.masks is not None and self.prompts.mask_embed is not None:
                # instead of what stands for no mask
                seen = seen - self.prompts.no_mask_embed.weight + self.prompts.mask_embed(part.masks)
            logits, quality = self.decoder(tokens, seen, places, **shape, multimask=multimask)
            right, bottom = 4 * (cells - columns), 4 * (cells - rows)
            yield functional.pad(logits, (0, right, 0, bottom), value=OUTSIDE), quality


def load_mobile_sam() -> FrameSam:
    """MobileSAM from the package's files; half a second, 80 MB.

    Raises:
        ModelError: the file is missing or its checksum differs.
    """
    folder = asset_root("models") / MOBILE_SAM
    for file, mark in SHA256.items():
        check_sum(folder / file, mark)
    tensors, _ = load_weights(folder / WEIGHTS_FILE)
    rough, _ = load_weights(folder / MASKS_FILE)
    tensors |= {f"prompt_encoder.mask_embed.{name}": value for name, value in rough.items()}
    encoder, prompts, decoder = ImageEncoder(), PromptEncoder(mask_embed=rough_masks()), MaskDecoder()
    parts = {"image_encoder": encoder, "prompt_encoder": prompts, "mask_decoder": decoder}
    for name, module in parts.items():
        own = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
        load_module(module, own, source=f"'{folder}'")
        freeze(module)
    for weight in encoder.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)

    return FrameSam(encoder, frame, prompts, decoder)


def rough_masks() -> MaskEmbedding:
    """What reads rough masks as prompts, of SAM's own size."""
    return MaskEmbedding(256, 16, epsilon=1e-6)


def frame(image: Tensor) -> tuple[Tensor, ImageGeometry]:
    """A photo in the frame: its longer side 1024, the rest of the square empty.

    Args:
        image: (H, W, 3) uint8.

    Returns:
        (1, 3, 1024, 1024) float32, channels last, and the geometry.
    """
    height, width = image.shape[:2]
    size = exact_size((height, width), short_side=SIDE, max_long_side=SIDE)
    picture = Image.fromarray(image.numpy()).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    resized = torch.from_numpy(np.array(picture))
    values = (resized.float() - torch.tensor(_MEAN)) / torch.tensor(_STD)
    padded = functional.pad(values, (0, 0, 0, SIDE - size[1], 0, SIDE - size[0]))
    return padded.permute(2, 0, 1)[None], ImageGeometry((height, width), size, (SIDE, SIDE))
