"""Region support: a region borrows from the bank's regions that look like it."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from ovseg.bank.bank import ImageBank
from ovseg.bank.build import describe_regions
from ovseg.bank.index import VectorIndex, Vectors
from ovseg.identity import check_encoder
from ovseg.images.load import ImageSource
from ovseg.pipeline.encoded import EncodedImage
from ovseg.pipeline.segmenter import Segmenter


class SupportedSegmenter(Segmenter):
    """A segmenter whose features are half their own and half those of similar regions of a bank.

    Logits are linear in the features, so mixing features mixes the logits of the two by the same shares.

    Args:
        base: the bank's model.
        bank: a bank with region vectors.
        neighbours: regions that support one region.
        share: of the support, in [0, 1].
        regions: clusters per image.

    Raises:
        SpaceError: the bank was built with another model.
        DatasetError: the bank has no regions.

    Source: CorrCLIP v2, the retrieval stage; there a second encoder makes the keys, here the joint features are
    keys and values, so that any model and one index serve.
    """

    def __init__(
        self, base: Segmenter, bank: ImageBank, *, neighbours: int = 20, share: float = 0.5, regions: int = 12
    ) -> None:
        check_encoder(bank.manifest, base.info, root=bank.root)
        super().__init__(base.model, device=base.device, benchmark=base.benchmark)
        self.config = base.config
        self.base = base
        self.bank = bank
        self.index, _ = bank.regions
        self.neighbours = neighbours
        self.share = share
        self.regions = regions

    @property
    def info(self) -> dict[str, str]:
        """What identifies this segmenter: the base model's info, and the support."""
        return {**super().info, "support": f"{len(self.index)}:{self.neighbours}:{self.share:g}"}

    def for_benchmark(self, name: str) -> SupportedSegmenter:
        """As ``Segmenter.for_benchmark``, with the same support."""
        base = self.base.for_benchmark(name)
        if base is self.base:
            return self
        return SupportedSegmenter(
            base, self.bank, neighbours=self.neighbours, share=self.share, regions=self.regions
        )

    @torch.inference_mode()
    def encode(self, image: ImageSource, *, max_pixels: int = 200_000_000) -> EncodedImage:
        """As ``Segmenter.encode``, with the support of the bank mixed in."""
        encoded = self.base.encode(image, max_pixels=max_pixels)
        values = encoded.features.values[0].float()
        mixed = (1 - self.share) * values + self.share * self._support(encoded, values)
        features = dataclasses.replace(encoded.features, values=mixed[None])
        return dataclasses.replace(encoded, features=features)

    def _support(self, encoded: EncodedImage, values: Tensor) -> Tensor:
        """(D, h, w): per cell the unit mean of the bank regions that are nearest to its region."""
        owner, means = describe_regions(encoded.features, self.regions)
        support = torch.from_numpy(support_vectors(means.numpy(), self.index, neighbours=self.neighbours))
        return support[owner].T.reshape(values.shape).to(values)


def support_vectors(queries: Vectors, index: VectorIndex, *, neighbours: int) -> Vectors:
    """(n, D) float32: unit mean of the nearest vectors of each of (n, D) queries."""
    _, rows = index.search(queries, neighbours)
    means = np.stack([index.vectors[line[line >= 0]].mean(0) for line in rows])
    unit: Vectors = (means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-9)).astype(np.float32)
    return unit
