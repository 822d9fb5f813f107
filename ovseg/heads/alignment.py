"""The alignment of ``mini``: a vision encoder and a sentence encoder made one space.

Three kinds of evidence are added, each a dot product, so that their sum is one dot product as well:

1. a trained map: a linear layer on the pixels and a small network on the text, compared by cosine
   (as Talk2DINO does, Barsellotti et al., ICCV 2025, but with few masks instead of captions);
2. classifier prototypes: a phrase becomes the mean of the ImageNet classifier's columns, weighted by how
   near the phrase is to the names of the classes (ConSE, Norouzi et al., ICLR 2014, in weight space);
3. detector evidence: a phrase becomes a mixture of the detector's classes, if it is near one of their names.

The last two need no mask, so they carry names that no mask was ever drawn for.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ovseg.encoders.embedded.sentence import SPACE as TEXT_SPACE
from ovseg.encoders.embedded.vision import PARTS, STRIDE, part_slices
from ovseg.encoders.embedded.vision import SPACE as FEATURE_SPACE
from ovseg.encoders.spec import DenseFeatures
from ovseg.encoders.weights import load_module, load_weights
from ovseg.text import check_space

TRAINED_PARTS = ("fine", "middle", "body", "near", "mid", "far")
_TEXT, _HIDDEN, _JOINT = 384, 512, 256
_CLASSES, _THINGS, _PROTOTYPE = 1000, 80, 1280

_NEIGHBOUR_TEMPERATURE = 0.1  # of the softmax over class names
_THING_TEMPERATURE = 0.05
_THING_NEARNESS = 0.5  # centred cosine to a thing's name under which there is no detector evidence


class AlignmentHead(nn.Module):
    """Joins the features of ``MiniVision`` and the sentence vectors of ``SentenceEncoder``.

    The weights of the four evidences (prototype, detection, detection anywhere in the image, prototype of the
    whole image) are learned together with the map, which starts from them and learns what they miss.
    """

    feature_space = FEATURE_SPACE
    text_space = TEXT_SPACE
    space = "mini-alignment"

    def __init__(self) -> None:
        super().__init__()
        slices = part_slices()
        width = sum(PARTS[name] for name in TRAINED_PARTS)
        self._trained = slice(slices[TRAINED_PARTS[0]].start, slices[TRAINED_PARTS[-1]].stop)
        self._penultimate, self._detected = slices["penultimate"], slices["detected"]
        self.visual = nn.Linear(width, _JOINT)
        self.textual = nn.Sequential(nn.Linear(_TEXT, _HIDDEN), nn.GELU(), nn.Linear(_HIDDEN, _JOINT))
        self.log_scale = nn.Parameter(torch.tensor(5.0).log())
        self.log_evidence = nn.Parameter(torch.tensor([10.0, 10.0, 3.0, 3.0]).log())
        self.register_buffer("class_text", torch.zeros(_CLASSES, _TEXT))
        self.register_buffer("class_columns", torch.zeros(_CLASSES, _PROTOTYPE))
        self.register_buffer("thing_text", torch.zeros(_THINGS, _TEXT))
        self.register_buffer("text_mean", torch.zeros(_TEXT))

    @classmethod
    def load(cls, path: str | Path, *, sha256: str | None = None) -> AlignmentHead:
        """The head with the weights of a safetensors file, ready to run or to train further.

        Raises:
            ModelError: the file is missing, damaged or of another head.
        """
        head = cls()
        tensors, _ = load_weights(path, sha256=sha256)
        load_module(head, tensors, source=str(path))
        return head.eval()

    def pixels(self, features: DenseFeatures) -> DenseFeatures:
        """(B, 3440, h, w) encoder features to (B, 1616, h, w) in the joint space.

        Raises:
            SpaceError: the features come from another encoder.
        """
        check_space(features.space, self.feature_space)
        values = features.values
        joint = torch.cat([self.map_pixels(values), self.evidence(values)], 1)
        return DenseFeatures(joint, self.space, STRIDE, normalized=False, structure=features.structure)

    def map_pixels(self, values: Tensor) -> Tensor:
        """The trained part: (B, 3440, h, w) to (B, 256, h, w), of length exp(log_scale)."""
        weight = self.visual.weight[:, :, None, None]
        mapped = functional.conv2d(values[:, self._trained], weight, self.visual.bias)
        return functional.normalize(mapped, dim=1) * self.log_scale.exp()

    def evidence(self, values: Tensor) -> Tensor:
        """The untrained parts, weighted: (B, 3440, h, w) to (B, 1280 + 80, h, w)."""
        weights = self.log_evidence.exp()
        embedded, detected = values[:, self._penultimate], values[:, self._detected]
        whole = functional.normalize(embedded.mean((2, 3), keepdim=True), dim=1)
        anywhere = detected.amax((2, 3), keepdim=True)
        return torch.cat(
            [weights[0] * embedded + weights[3] * whole, weights[1] * detected + weights[2] * anywhere], 1
        )

    def phrases(self, vectors: Tensor) -> Tensor:
        """(Q, 384) unit sentence vectors to (Q, 1616) in the joint space."""
        return torch.cat([self.map_phrases(vectors), self.prototypes(vectors)], 1)

    def map_phrases(self, vectors: Tensor) -> Tensor:
        """The trained part: (Q, 384) to (Q, 256), unit length."""
        return functional.normalize(self.textual(vectors), dim=-1)

    def prototypes(self, vectors: Tensor) -> Tensor:
        """The untrained parts: (Q, 384) to (Q, 1280 + 80)."""
        centred = functional.normalize(vectors - self.text_mean, dim=-1)
        near = (centred @ self.class_text.T / _NEIGHBOUR_TEMPERATURE).softmax(-1)
        columns = functional.normalize(near @ self.class_columns, dim=-1)
        cosine = centred @ self.thing_text.T
        known = (cosine.amax(-1, keepdim=True) - _THING_NEARNESS) / (1 - _THING_NEARNESS)
        things = (cosine / _THING_TEMPERATURE).softmax(-1) * known.clamp(0, 1)
        return torch.cat([columns, things], -1)
