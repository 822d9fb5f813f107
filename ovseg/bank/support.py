"""Region support: a region borrows from the bank's regions that look like it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ovseg.bank.index import VectorIndex, Vectors
from ovseg.bank.vectors import describe_regions
from ovseg.encoders.spec import DenseFeatures
from ovseg.heads.base import Head
from ovseg.pipeline.encoded import EncodedImage
from ovseg.pipeline.logits import ClassLogits, class_logits
from ovseg.pipeline.modifiers import Modifier


@dataclass(frozen=True)
class RegionSupport(Modifier):
    """Logits that are partly those of similar regions of a bank; made by ``ImageBank.support``.

    Attributes:
        index: of the bank's region vectors.
        bank: what the bank's content is known by.
        head: of the bank's model.
        smoothing: of the bank's model.
        neighbours: regions of the bank that support one region.
        share: of the support in the logits, in [0, 1].
        regions: regions per image, at most.

    Source: CorrCLIP v2, the retrieval stage; there a second encoder makes the keys, here the joint features are
    keys and values, so that any model and one index serve.
    """

    index: VectorIndex
    bank: str
    head: Head
    smoothing: float | None
    neighbours: int = 20
    share: float = 0.5
    regions: int = 12

    @property
    def info(self) -> Mapping[str, str]:
        """The bank's content and the three numbers."""
        return {"support": f"{self.bank}:{self.neighbours}:{self.share:g}:{self.regions}"}

    def __call__(self, logits: ClassLogits, encoded: EncodedImage) -> ClassLogits:
        """Mixes the logits of the image's features with those of the regions that support it."""
        supported = replace(encoded.features, values=self.supported(encoded.features)[None])
        by_query = logits.class_of_row is not None
        borrowed = class_logits(self.head, supported, logits.queries, smoothing=self.smoothing, by_query=by_query)
        return replace(logits, values=torch.lerp(logits.values, borrowed.values, self.share))

    def supported(self, features: DenseFeatures) -> Tensor:
        """(D, h, w): per cell the unit mean of the bank regions that are nearest to its region."""
        owner, means = describe_regions(features, self.regions)
        support = torch.from_numpy(support_vectors(means.numpy(), self.index, neighbours=self.neighbours))
        values = features.values[0].float()
        return support[owner].T.reshape(values.shape).to(values)


def support_vectors(queries: Vectors, index: VectorIndex, *, neighbours: int) -> Vectors:
    """(n, D) float32: unit mean of the nearest vectors of each of (n, D) queries."""
    _, rows = index.search(queries, neighbours)
    means = np.stack([index.vectors[line[line >= 0]].mean(0) for line in rows])
    unit: Vectors = (means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-9)).astype(np.float32)
    return unit
