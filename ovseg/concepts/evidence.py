"""Segmenting with learned concepts: their evidence joins the text's logits, everything else stays as it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from ovseg.concepts.concept_set import ConceptSet, feature_maps, merge_concepts
from ovseg.encoders.spec import DenseFeatures
from ovseg.errors import SpaceError
from ovseg.heads.base import FusionHead
from ovseg.images.load import ImageSource
from ovseg.pipeline.encoded import EncodedImage
from ovseg.pipeline.queries import TextBank
from ovseg.pipeline.segmenter import Labels, Segmenter
from ovseg.result import SegmentationResult
from ovseg.vocabulary.labels import Background, Vocabulary

STRENGTH = 0.6
"""Logits per unit of evidence at confidence 1. It would be 1 if evidence and text were independent; they see the
same cell."""


class ConceptSegmenter(Segmenter):
    """A segmenter that knows learned concepts besides plain labels.

    The features get one more channel per concept, its evidence in [-6, 6]; the phrases of a label that was
    learned get a weight on its channel. So a label's logit is its text logit plus strength × confidence ×
    evidence, and smoothing, background, presence and refinement work as without concepts. A concept that was not
    found adds nothing.

    Args:
        base: the segmenter that the concepts were learned with.
        concepts: the learned concepts.
        strength: see ``STRENGTH``.

    Raises:
        SpaceError: the concepts were learned with another model, or its head fuses images and text, so that
            there are no logits to add to.

    Source: the sum of logits stands for ReCo's product of the probabilities of reference and text (Shin et
    al., ReCo, NeurIPS 2022, section 3.2); there the probability of the reference is the sigmoid of its cosine,
    here that of the evidence, which ``learn.calibrate`` measures on the bank.
    """

    def __init__(self, base: Segmenter, concepts: ConceptSet, *, strength: float = STRENGTH) -> None:
        concepts.check_model(base.info)
        if isinstance(base.model.head, FusionHead):
            raise SpaceError(
                f"concepts need a model whose logits are dot products, got '{base.config.name}', whose head fuses "
                "images and text; use another model"
            )
        super().__init__(base.model, device=base.device, benchmark=base.benchmark)
        self.config = base.config.model_copy(update={"prune": None})  # it would judge a concept by its text alone
        self.base = base
        self.concepts = concepts
        self.strength = strength

    @property
    def info(self) -> dict[str, str]:
        """What identifies this segmenter: the base model's info, and the concepts."""
        return {**super().info, "concepts": self.concepts.digest, "strength": f"{self.strength:g}"}

    @property
    def space(self) -> str:
        """Embedding space of the features with their channels of evidence."""
        return f"{self.concepts.space}+concepts:{self.concepts.digest}"

    def for_benchmark(self, name: str) -> ConceptSegmenter:
        """As ``Segmenter.for_benchmark``, with the same concepts."""
        base = self.base.for_benchmark(name)
        return self if base is self.base else ConceptSegmenter(base, self.concepts, strength=self.strength)

    def with_concepts(self, concepts: ConceptSet) -> ConceptSegmenter:
        """A segmenter that knows these concepts as well; of two of a name the given one counts."""
        both = merge_concepts([self.concepts, concepts])
        return ConceptSegmenter(self.base, both, strength=self.strength)

    def encode(self, image: ImageSource, *, max_pixels: int = 200_000_000) -> EncodedImage:
        """As ``Segmenter.encode``, with the concepts' evidence."""
        return self.extend(self.base.encode(image, max_pixels=max_pixels))

    @torch.inference_mode()
    def extend(self, encoded: EncodedImage) -> EncodedImage:
        """An image that the base segmenter encoded, with the concepts' evidence."""
        if encoded.features.space == self.space:
            return encoded
        features = encoded.features
        maps = feature_maps(features, self.concepts.features)
        channels = torch.stack([concept.evidence(maps) for concept in self.concepts.references])
        values = torch.cat([features.values, channels[None].to(features.values)], dim=1)
        extended = DenseFeatures(values, self.space, features.stride, features.structure)
        return dataclasses.replace(encoded, features=extended)

    def text_bank(self, labels: Labels | None, *, background: Background = None) -> TextBank:
        """As ``Segmenter.text_bank``, with weights on the channels of evidence; None asks for all concepts."""
        plain = self.base.text_bank(self._labels(labels), background=background)
        weights = torch.zeros(len(plain.embeddings), len(self.concepts)).to(plain.embeddings)
        for number, concept in enumerate(self.concepts.references):
            if concept.found and concept.name in plain.vocabulary.labels:
                label = plain.vocabulary.labels.index(concept.name)
                mine = (plain.label_of_query == label).to(weights.device)
                weights[mine, number] = self.strength * concept.confidence / plain.logit_scale
        embeddings: Tensor = torch.cat([plain.embeddings, weights], dim=1)
        return dataclasses.replace(plain, embeddings=embeddings, space=self.space)

    def segment(
        self, image: ImageSource | EncodedImage, labels: Labels | None = None, **options: Any
    ) -> SegmentationResult:
        """As ``Segmenter.segment``; without labels, the concepts are what is looked for."""
        if isinstance(image, EncodedImage):
            image = self.extend(image)
        return super().segment(image, self._labels(labels), **options)

    def segment_batch(
        self, images: Iterable[ImageSource], labels: Labels | None = None, **options: Any
    ) -> Iterator[SegmentationResult]:
        """As ``Segmenter.segment_batch``; without labels, the concepts are what is looked for."""
        return super().segment_batch(images, self._labels(labels), **options)

    def _labels(self, labels: Labels | None) -> Labels:
        if labels is None or (not isinstance(labels, Vocabulary) and len(labels) == 0):
            return list(self.concepts.names)
        return labels
