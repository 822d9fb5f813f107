"""CLIPSeg of transformers as a segmenter: one pass for each label, 352 x 352 pixels.

Source: Lueddecke and Ecker, Image segmentation using text and image prompts, CVPR 2022.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from ovseg._torchvision import ensure_torchvision
from ovseg.files import sha256_of_bytes
from ovseg.identity import digest

SIDE = 352  # pixels: the resolution CLIPSeg was trained at
CHUNK = 8  # labels a pass
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of its processor
LONGEST = 77  # tokens


@dataclass
class LabelMap:
    """Index of the best label at each pixel and its probability."""

    index_map: np.ndarray[Any, np.dtype[np.int32]]
    score_map: np.ndarray[Any, np.dtype[np.float32]]


class ClipSeg:
    """CLIPSeg with the given weights, or with random ones.

    Args:
        weights: folder or hub name; None: random ones, the time is that of the real network, the scores mean
            nothing, and the name in reports says so.
        threshold: probability in [0, 1] below which a pixel is background, under protocols that have one.
    """

    def __init__(self, weights: str | None, *, threshold: float = 0.5) -> None:
        ensure_torchvision()
        from transformers import CLIPSegConfig, CLIPSegForImageSegmentation, CLIPTokenizer

        self.threshold = threshold
        self.info = {
            "name": "CLIPSeg" if weights else "CLIPSeg, random weights: speed only",
            "threshold": threshold,
        }
        if weights is None:
            torch.manual_seed(0)
            self.model = CLIPSegForImageSegmentation(CLIPSegConfig()).eval()
            self.tokenize = invented_tokens
            return
        self.model = CLIPSegForImageSegmentation.from_pretrained(weights).eval()
        self.info |= {"weights": weights, "weights content": content_of(self.model)}
        tokenizer = CLIPTokenizer.from_pretrained(weights)
        self.tokenize = lambda texts: tokenizer(texts, padding="max_length", return_tensors="pt")

    @torch.inference_mode()
    def segment(self, image: Any, labels: list[Any], *, background: Any = None) -> LabelMap:
        """The label of highest probability at each pixel; -1 below the threshold if there is a background."""
        names = [label if isinstance(label, str) else label.label for label in labels]
        array = np.asarray(image)
        pixels = prepared(array)
        best = torch.full((SIDE, SIDE), -1.0)
        index = torch.zeros((SIDE, SIDE), dtype=torch.int64)
        for start in range(0, len(names), CHUNK):
            scores = self.scores(pixels, names[start : start + CHUNK])  # (labels of the chunk, 352, 352)
            top, place = scores.max(0)
            index = torch.where(top > best, place + start, index)
            best = torch.maximum(best, top)
        if background is not None:
            index[best < self.threshold] = -1
        size = array.shape[1::-1]
        return LabelMap(enlarged(index.to(torch.int32), size), enlarged(best, size))

    def scores(self, pixels: torch.Tensor, names: list[str]) -> torch.Tensor:
        """(labels, 352, 352) probabilities."""
        tokens = self.tokenize([f"a photo of a {name}" for name in names])
        logits = self.model(pixel_values=pixels.expand(len(names), -1, -1, -1), **tokens).logits
        return torch.as_tensor(logits).reshape(len(names), SIDE, SIDE).sigmoid()


def content_of(model: torch.nn.Module) -> str:
    """What the values of the weights are known by, wherever they came from."""
    values = model.state_dict().values()
    return digest(*(sha256_of_bytes(value.contiguous().numpy().tobytes()) for value in values))


def invented_tokens(texts: list[str]) -> dict[str, torch.Tensor]:
    """Token ids of the usual length from the words' checksums: random weights need no real tokenizer."""
    rows = [[49406, *(zlib.crc32(word.encode()) % 49000 for word in text.split()), 49407] for text in texts]
    ids = torch.tensor([(row + [49407] * LONGEST)[:LONGEST] for row in rows])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def prepared(image: np.ndarray[Any, np.dtype[np.uint8]]) -> torch.Tensor:
    """(1, 3, 352, 352) float32, normalised."""
    resized = np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float32)
    normal = (resized / 255 - MEAN) / STD
    return torch.from_numpy(normal.astype(np.float32)).permute(2, 0, 1)[None]


def enlarged(values: torch.Tensor, size: tuple[int, int]) -> Any:
    """``values`` at the image's (W, H), nearest."""
    return np.asarray(Image.fromarray(values.numpy()).resize(size, Image.Resampling.NEAREST))
