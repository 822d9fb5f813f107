"""Region support: a region borrows from the bank's regions that look like it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ovseg.bank.index import VectorIndex
from ovseg.bank.rows import Vectors
from ovseg.bank.vectors import describe_regions, region_keys
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
        keys: of the same regions by a second encoder, by which the nearest are then found; None takes ``index``.
        neighbours: regions of the bank that support one region.
        share: of the support in the logits, in [0, 1].
        regions: regions per image, at most.

    Source: CorrCLIP v2, the retrieval stage. There a second encoder makes the keys, as ``keys="structure"`` of
    ``BankOptions`` does here; without, joint features are keys and values, so that any model and one index serve.
    On purpose: regions are clusters of cells that look alike, where the paper takes masks.
    """

    index: VectorIndex
    bank: str
    head: Head
    smoothing: float | None
    keys: VectorIndex | None = None
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
        keys, index = (means, self.index) if self.keys is None else (region_keys(features, owner), self.keys)
        found = support_vectors(keys.numpy(), index, self.index.vectors, neighbours=self.neighbours)
        support = torch.from_numpy(found)
        values = features.values[0].float()
        return support[owner].T.reshape(values.shape).to(values)


def support_vectors(queries: Vectors, index: VectorIndex, values: Vectors, *, neighbours: int) -> Vectors:
    """The unit mean of the values of the nearest rows of each query.

    Args:
        queries: (n, S) float32.
        index: of N keys (N, S).
        values: (N, D) float32, a row for each key.
        neighbours: how many.

    Returns:
        (n, D) float32.
    """
    _, rows = index.search(queries, neighbours)
    means = np.stack([values[line[line >= 0]].mean(0) for line in rows])
    unit: Vectors = (means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-9)).astype(np.float32)
    return unit
