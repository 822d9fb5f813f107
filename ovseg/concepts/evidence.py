"""What learned concepts know about an image, added to its logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn import functional

from ovseg.encoders.spec import DenseFeatures
from ovseg.errors import SpaceError
from ovseg.pipeline.encoded import EncodedImage
from ovseg.pipeline.logits import ClassLogits
from ovseg.pipeline.modifiers import Modifier

if TYPE_CHECKING:
    from ovseg.concepts.concept_set import ConceptSet

Features = Literal["structure", "joint"]
STRENGTH = 0.6
"""Logits per unit of evidence at confidence 1. It would be 1 if evidence and text were independent; they see the
same cell."""


@dataclass(frozen=True)
class ConceptEvidence(Modifier):
    """The logit of a label that was learned gets strength × confidence × evidence.

    The evidence, in [-6, 6], is shared out over similar cells as the logits were. Labels that were not learned, and
    concepts that the bank did not show, keep the logit of their text.

    Attributes:
        concepts: what was learned.
        strength: see ``STRENGTH``.

    Source: the sum of logits stands for ReCo's product of the probabilities of reference and text (Shin et
    al., ReCo, NeurIPS 2022, section 3.2); there the probability of the reference is the sigmoid of its cosine,
    here that of the evidence, which ``calibrate`` measures on the bank.
    """

    concepts: ConceptSet
    strength: float = STRENGTH

    @property
    def info(self) -> Mapping[str, str]:
        """The concepts' content, and the strength."""
        return {"concepts": self.concepts.digest, "strength": f"{self.strength:g}"}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the concepts."""
        return self.concepts.names

    def __call__(self, logits: ClassLogits, encoded: EncodedImage) -> ClassLogits:
        """Adds the evidence of every label that was learned.

        Raises:
            SpaceError: the logits are on another grid than the features that the concepts are compared with.
        """
        labels = logits.queries.vocabulary.labels
        learned = [each for each in self.concepts.references if each.found and each.name in labels]
        if not learned:
            return logits
        if logits.grid != encoded.features.grid:
            raise SpaceError(
                f"concepts need logits on the {encoded.features.grid} cells of the features, got {logits.grid}; "
                "use a model whose head makes no maps of its own"
            )
        maps = feature_maps(encoded.features, self.concepts.features)
        evidence = torch.stack([self.strength * each.confidence * each.evidence(maps) for each in learned])
        rows = torch.tensor([labels.index(each.name) for each in learned])
        return logits.plus(rows, logits.smooth(evidence))


def feature_maps(dense: DenseFeatures, which: Features) -> Tensor:
    """(C, h, w) float32 unit maps of one image: structure or joint features.

    Raises:
        SpaceError: the model has no structure features.
    """
    if which == "joint":
        return functional.normalize(dense.values[0].float(), dim=0)
    if dense.structure is None:
        raise SpaceError("this model has no structure features; learn with features='joint'")
    return functional.normalize(dense.structure[0].float(), dim=0)
