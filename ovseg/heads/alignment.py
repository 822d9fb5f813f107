"""The alignment of ``mini``: a vision encoder and a sentence encoder made one space.

Three kinds of evidence are added, each a dot product, so that their sum is one dot product as well:

1. a trained map: a linear layer on the features and a small network on the text, compared by cosine
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
from ovseg.encoders.spec import DenseFeatures, check_space
from ovseg.heads.base import Phrases
from ovseg.pooled import Pooled
from ovseg.weights import fill_module

TRAINED_PARTS = ("fine", "middle", "body", "near", "mid", "far")
_TEXT, _HIDDEN, _JOINT = 384, 512, 256
_CLASSES, _THINGS, _PROTOTYPE = 1000, 80, 1280

_NEIGHBOUR_TEMPERATURE = 0.1  # of the softmax over class names
_THING_TEMPERATURE = 0.05
_THING_NEARNESS = 0.5  # centred cosine to a thing's name under which there is no detector evidence


class AlignmentHead(nn.Module):
    """Joins the features of ``MiniVision`` and the sentence vectors of ``SentenceEncoder``.

    The weights of the evidences (prototype, detection, detection anywhere in the image, prototype of the whole
    image, and an offset for names that detector or classifier knows) are learned together with the map, which
    starts from them and learns what they miss.
    """

    feature_space = FEATURE_SPACE
    text_space = TEXT_SPACE
    space = "mini-alignment"
    reads_tokens = False
    class_text: Tensor
    class_columns: Tensor
    thing_text: Tensor
    text_mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        slices = part_slices()
        width = sum(PARTS[name] for name in TRAINED_PARTS)
        self._trained = slice(slices[TRAINED_PARTS[0]].start, slices[TRAINED_PARTS[-1]].stop)
        self._penultimate, self._detected = slices["penultimate"], slices["detected"]
        over = (1, 2)  # cells, channels being last
        self.pooled, self.largest = Pooled(over=over), Pooled(over=over, largest=True)
        self.visual = nn.Linear(width, _JOINT)
        self.textual = nn.Sequential(nn.Linear(_TEXT, _HIDDEN), nn.GELU(), nn.Linear(_HIDDEN, _JOINT))
        self.log_scale = nn.Parameter(torch.tensor(5.0).log())
        self.log_evidence = nn.Parameter(torch.tensor([5.0, 10.0, 1.0, 1.0, 1.0, 0.5]).log())
        self.register_buffer("class_text", torch.zeros(_CLASSES, _TEXT))
        self.register_buffer("class_columns", torch.zeros(_CLASSES, _PROTOTYPE))
        self.register_buffer("thing_text", torch.zeros(_THINGS, _TEXT))
        self.register_buffer("text_mean", torch.zeros(_TEXT))

    @classmethod
    def load(cls, path: str | Path) -> AlignmentHead:
        """The head with the weights of a safetensors file, ready to run or to train further.

        Raises:
            ModelError: the file is missing, damaged or of another head.
        """
        return fill_module(cls(), path).eval()

    def pixels(self, features: DenseFeatures) -> DenseFeatures:
        """(B, 3440, h, w) encoder features to (B, 1618, h, w) in the joint space.

        Raises:
            SpaceError: the features come from another encoder.
        """
        check_space(features.space, self.feature_space)
        values = features.values
        joint = torch.cat([self.map_features(values), self.evidence(values)], 1)
        return DenseFeatures(joint, self.space, STRIDE, structure=features.structure)

    def map_features(self, values: Tensor) -> Tensor:
        """The trained part: (B, 3440, h, w) to (B, 256, h, w), of length exp(log_scale)."""
        mapped = self.visual(_channels_last(values)[..., self._trained])
        return _channels_first(functional.normalize(mapped, dim=-1) * self.log_scale.exp())

    def evidence(self, values: Tensor) -> Tensor:
        """The untrained parts, weighted: (B, 3440, h, w) to (B, 1280 + 80 + 2, h, w)."""
        weights, values = self.log_evidence.exp(), _channels_last(values)
        embedded, detected = values[..., self._penultimate], values[..., self._detected]
        whole = functional.normalize(self.pooled(embedded), dim=-1)
        anywhere = self.largest(detected)
        offsets = weights[4:].expand(*values.shape[:3], 2)
        classes = weights[0] * embedded + weights[3] * whole
        things = weights[1] * detected + weights[2] * anywhere
        return _channels_first(torch.cat([classes, things, offsets], -1))

    def trained_part(self, cells: Tensor) -> Tensor:
        """The channels that the trained map reads: (n, 3440) to (n, 2080)."""
        return cells[:, self._trained]

    def untrained_part(self, cells: Tensor) -> Tensor:
        """What ``prototypes`` are compared with, unweighted: (n, 3440) to (n, 1280 + 80 + 2)."""
        offsets = cells.new_zeros(len(cells), 2)
        return torch.cat([cells[:, self._penultimate], cells[:, self._detected], offsets], 1)

    def evidence_parts(self, cells: Tensor, prototypes: Tensor) -> Tensor:
        """The six evidences of one image before they are weighted and added.

        Args:
            cells: (n, 3440), all cells of the image.
            prototypes: (L, 1280 + 80 + 2) from ``prototypes``.

        Returns:
            (n, L, 6): prototype, detection, detection anywhere, whole image, and the two offsets.
        """
        columns, things, offsets = torch.split(prototypes, [_PROTOTYPE, _THINGS, 2], dim=1)
        embedded, detected = cells[:, self._penultimate], cells[:, self._detected]
        whole = functional.normalize(embedded.mean(0, keepdim=True), dim=1)
        shape = (len(cells), len(prototypes))
        anywhere = detected.amax(0, keepdim=True) @ things.T
        return torch.stack(
            [
                embedded @ columns.T,
                detected @ things.T,
                anywhere.expand(shape),
                (whole @ columns.T).expand(shape),
                offsets[:, 0].expand(shape),
                offsets[:, 1].expand(shape),
            ],
            -1,
        )

    def fresh(self) -> AlignmentHead:
        """A copy with new random maps and the same tables, to train from the start."""
        head = AlignmentHead()
        tables = {name: buffer for name, buffer in self.named_buffers()}
        head.load_state_dict({**head.state_dict(), **tables})
        return head

    def phrases(self, vectors: Tensor) -> Phrases:
        """(Q, 384) unit sentence vectors to (Q, 1618) in the joint space."""
        return Phrases(torch.cat([self.map_phrases(vectors), self.prototypes(vectors)], 1))

    def detector_classes(self, queries: Tensor) -> Tensor:
        """(Q, 1618) queries in the joint space to (Q, 80): what share of each of the detector's classes each is."""
        start = _JOINT + _PROTOTYPE
        return queries[:, start : start + _THINGS]

    def map_phrases(self, vectors: Tensor) -> Tensor:
        """The trained part: (Q, 384) to (Q, 256), unit length."""
        return functional.normalize(self.textual(vectors), dim=-1)

    def prototypes(self, vectors: Tensor) -> Tensor:
        """The untrained parts: (Q, 384) to (Q, 1280 + 80 + 2).

        The last two numbers lower names that the detector or the classifier knows, so that names which have
        only the trained map can win.
        """
        centred = functional.normalize(vectors - self.text_mean, dim=-1)
        nearness = centred @ self.class_text.T
        columns = (nearness / _NEIGHBOUR_TEMPERATURE).softmax(-1) @ self.class_columns
        columns = functional.normalize(columns, dim=-1)
        cosine = centred @ self.thing_text.T
        known = (cosine.amax(-1, keepdim=True) - _THING_NEARNESS) / (1 - _THING_NEARNESS)
        things = (cosine / _THING_TEMPERATURE).softmax(-1) * known.clamp(0, 1)
        offsets = torch.cat([things.sum(-1, keepdim=True), nearness.amax(-1, keepdim=True)], -1)
        return torch.cat([columns, things, -offsets], -1)


def _channels_last(maps: Tensor) -> Tensor:
    """(B, C, h, w) as (B, h, w, C), which is how the encoder lays them out; nothing is copied."""
    return maps.permute(0, 2, 3, 1)


def _channels_first(cells: Tensor) -> Tensor:
    """(B, h, w, C) as (B, C, h, w); nothing is copied."""
    return cells.permute(0, 3, 1, 2)
