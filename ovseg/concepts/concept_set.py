"""Learned concepts: a few unit vectors with their calibration, in one small file that any machine can use."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ovseg.concepts.evidence import ConceptEvidence, Features
from ovseg.errors import ModelError, SpaceError, VocabularyError, did_you_mean
from ovseg.files import parse_json
from ovseg.heads.base import FusionHead
from ovseg.identity import check_model, digest
from ovseg.tensors import check_shape
from ovseg.weights import load_weights, save_weights

if TYPE_CHECKING:
    from PIL import Image

    from ovseg.pipeline.modifiers import Modifier
    from ovseg.pipeline.segmenter import Segmenter

ENOUGH = 20
"""Images in which seed and text agree that make a concept sure."""
ABSENT = 0.2
"""Confidence under which the bank is taken not to show the concept; its references are then left unused."""
_SUREST = 6.0  # logits: the tails of the bank's cosines say little about images of another kind
_FORMAT = "ovseg-concepts-4"
_READABLE = ("ovseg-concepts-3", _FORMAT)  # the third had no verdicts


@dataclass(frozen=True)
class Seed:
    """Where a reference comes from.

    Attributes:
        path: key of the bank's image, or the name of a picture that was given.
        row, column: position as fractions of the image's height and width; −1 for an image that was rejected whole.
        support: mean best match in the other images, in [-1, 1].
        agrees: whether the text finds the concept there too, or a person says so.
        reference: number of the concept's reference that it went into; −1 for none.
        verdict: what a person said: "accepted", "rejected", "given" (of a picture with the concept); else empty.
    """

    path: str
    row: float
    column: float
    support: float
    agrees: bool
    reference: int
    verdict: str = ""


@dataclass(frozen=True)
class ConceptReference:
    """One learned concept.

    Attributes:
        name: the label.
        embeddings: (R, C) float32 unit; several where the seeds fall into clusters.
        threshold: cosine at which a cell is as likely inside as outside, measured on the bank.
        spread: cosine difference that makes inside e times as likely against outside.
        purity: estimated share of the retrieved images that show the concept.
        separation: how well the threshold parts the bank's cells: true minus false positive rate.
        seeds: one per image that was looked at, then what was rejected, and what was accepted and is gone.
        synonyms: further words that it was learned by.
        not_: words that it was kept apart from.
        k: images retrieved.
        given: (n, C) float32 unit, features at the seeds of pictures that were given; None without.
    """

    name: str
    embeddings: Tensor
    threshold: float
    spread: float
    purity: float
    separation: float
    seeds: tuple[Seed, ...]
    synonyms: tuple[str, ...] = ()
    not_: tuple[str, ...] = ()
    k: int = 50
    given: Tensor | None = None

    def __post_init__(self) -> None:
        check_shape("embeddings", self.embeddings, "R C")
        if self.given is not None:
            check_shape("given", self.given, "n C", C=self.embeddings.shape[1])

    @property
    def confidence(self) -> float:
        """In [0, 1]: that the bank shows this concept and the references find it.

        The separation, times the purity or, where that is more, the images that show the concept over ``ENOUGH``:
        a few good ones are worth having, however many others were retrieved with them.
        """
        shown = min(1.0, sum(seed.agrees for seed in self.seeds) / ENOUGH)
        return max(self.purity, shown) * max(0.0, self.separation)

    @property
    def found(self) -> bool:
        """Whether the bank contains the concept, as far as can be told without labels."""
        return self.confidence >= ABSENT

    def cosine(self, maps: Tensor) -> Tensor:
        """(h, w): the best cosine of each cell of (C, h, w) unit maps with any reference."""
        return torch.einsum("rc,chw->rhw", self.embeddings.to(maps), maps).amax(0)

    def evidence(self, maps: Tensor) -> Tensor:
        """(h, w) in [-6, 6]: logarithm of how much likelier a cell is inside than outside, by ``calibrate``."""
        return ((self.cosine(maps) - self.threshold) / self.spread).clamp(-_SUREST, _SUREST)


@dataclass(frozen=True)
class ConceptSet:
    """Learned concepts and the space they live in.

    Attributes:
        references: one per concept, in order.
        space: embedding space of the model's joint features.
        features: which maps the embeddings are compared with: "structure" or "joint".
        encoder: what identifies the model: ``Segmenter.info``.
        contexts: contexts that were eliminated while learning.
    """

    references: tuple[ConceptReference, ...]
    space: str
    features: Features
    encoder: dict[str, str]
    contexts: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.references)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the concepts, in order."""
        return tuple(reference.name for reference in self.references)

    def __getitem__(self, name: str) -> ConceptReference:
        for reference in self.references:
            if reference.name == name:
                return reference
        raise VocabularyError(
            f"no concept '{name}'{did_you_mean(name, self.names)} There are: {', '.join(self.names)}"
        )

    @property
    def digest(self) -> str:
        """24 hexadecimal digits over everything that these concepts are made of."""
        given = [[] if each.given is None else each.given.tolist() for each in self.references]
        return digest(
            self._header(), [each.embeddings.tolist() for each in self.references], *([given] if any(given) else [])
        )

    def check_model(self, info: Mapping[str, str]) -> None:
        """Refuse a model other than the one the concepts were learned with.

        Raises:
            SpaceError: says both and what to do.
        """
        check_model(
            self.encoder,
            info,
            what="the concepts were learned",
            again="learn them again with 'ovseg concept learn'",
        )

    def joined(self, segmenter: Segmenter) -> tuple[Modifier, ...]:
        """The modifiers of ``segmenter`` with these concepts joined to those it knows; see ``with_concepts``.

        Raises:
            SpaceError: it is another model, or one whose head fuses images and text, so that logits do not add up.
        """
        self.check_model(segmenter.info)
        if isinstance(segmenter.model.head, FusionHead):
            raise SpaceError(
                f"concepts need a model whose logits are dot products, got '{segmenter.config.name}', whose head "
                "fuses images and text; use another model"
            )
        known = [each for each in segmenter.added if isinstance(each, ConceptEvidence)]
        others = [each for each in segmenter.added if not isinstance(each, ConceptEvidence)]
        return (*others, ConceptEvidence(merge_concepts([*(each.concepts for each in known), self])))

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file of a few kB with a JSON header, whole or not at all.

        Raises:
            OutputError: the folder cannot be written to.
        """
        tensors = {f"concept-{number}": each.embeddings for number, each in enumerate(self.references)}
        given = {f"given-{number}": each.given for number, each in enumerate(self.references)}
        tensors |= {name: vectors for name, vectors in given.items() if vectors is not None}
        header = {
            "format": _FORMAT,
            "digest": self.digest,
            "concepts": json.dumps(self._header(), ensure_ascii=False),
        }
        save_weights(tensors, path, metadata=header, bits=32)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> ConceptSet:
        """The concepts in a file that ``save`` wrote.

        Raises:
            ModelError: the file is missing, damaged or of another kind.
        """
        if not Path(path).is_file():
            raise ModelError(f"no concepts file '{path}'; 'ovseg concept learn' makes one")
        tensors, metadata = load_weights(path)
        if metadata.get("format") not in _READABLE:
            raise ModelError(
                f"'{path}' must be a concepts file ({_FORMAT}), got {metadata.get('format')}; learn it again"
            )
        header = parse_json(
            metadata.get("concepts", ""),
            source=f"the header of '{path}'",
            advice="learn it again",
            error=ModelError,
        )
        changed = ModelError(f"'{path}' has changed since it was written; copy it again, or learn it again")
        try:
            concepts = cls._of_header(tensors, header)
        except (KeyError, TypeError, ValueError, AttributeError) as error:  # what a changed byte does to JSON
            raise changed from error
        if concepts.digest != metadata.get("digest"):
            raise changed
        return concepts

    @classmethod
    def _of_header(cls, tensors: dict[str, Tensor], header: dict[str, Any]) -> ConceptSet:
        references = tuple(
            ConceptReference(
                embeddings=tensors[f"concept-{number}"],
                seeds=tuple(Seed(**seed) for seed in values.pop("seeds")),
                given=tensors.get(f"given-{number}"),
                synonyms=tuple(values.pop("synonyms", ())),
                not_=tuple(values.pop("not_", ())),
                **values,
            )
            for number, values in enumerate(header.pop("references"))
        )
        return cls(references=references, contexts=tuple(header.pop("contexts")), **header)

    def show(self, segmenter: Segmenter, *, images: int = 20, side: int = 160) -> Image.Image:
        """A picture of why: per concept its retrieved images, seeds and co-segmented masks.

        Args:
            segmenter: the model that the concepts were learned with.
            images: how many images per concept, at most.
            side: pixels of a tile.

        Raises:
            SpaceError: another model.
        """
        from ovseg.concepts.picture import concept_picture

        self.check_model(segmenter.info)
        return concept_picture(self, segmenter, images=images, side=side)

    def _header(self) -> dict[str, Any]:
        return {
            "references": [_described(each) for each in self.references],
            "space": self.space,
            "features": self.features,
            "encoder": self.encoder,
            "contexts": list(self.contexts),
        }


def _described(reference: ConceptReference) -> dict[str, Any]:
    """A concept but for its vectors; what has no value is left out, as in files of the third format."""
    fields = ("name", "threshold", "spread", "purity", "separation")
    described = {name: getattr(reference, name) for name in fields}
    described |= {name: list(words) for name in ("synonyms", "not_") if (words := getattr(reference, name))}
    if reference.k != ConceptReference.k:
        described["k"] = reference.k
    seeds = [asdict(seed) for seed in reference.seeds]
    return described | {
        "seeds": [{key: part for key, part in seed.items() if key != "verdict" or part} for seed in seeds]
    }


def merge_concepts(sets: Sequence[ConceptSet]) -> ConceptSet:
    """Several sets of one model as one; of two concepts of a name the later counts.

    Raises:
        SpaceError: the sets are of different models or features.
    """
    first = sets[0]
    for other in sets[1:]:
        first.check_model(other.encoder)
        if other.features != first.features:
            raise SpaceError(
                f"the sets compare '{first.features}' and '{other.features}' features; learn one again"
            )
    merged = {each.name: each for concepts in sets for each in concepts.references}
    contexts = tuple(dict.fromkeys(name for concepts in sets for name in concepts.contexts))
    return ConceptSet(tuple(merged.values()), first.space, first.features, first.encoder, contexts)
