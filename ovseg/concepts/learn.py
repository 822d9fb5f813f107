"""Concepts from unlabeled images: retrieve, co-segment, filter, cluster, calibrate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ovseg.concepts.concept_set import ConceptReference, ConceptSet, Seed
from ovseg.concepts.cosegment import (
    at_cells,
    best_cells,
    context_weights,
    quick_dtype,
    reference_of,
    seed_features,
    support,
)
from ovseg.concepts.evidence import Features, feature_maps
from ovseg.errors import DatasetError, ImageError, VocabularyError
from ovseg.examples.calibrate import calibrate
from ovseg.identity import check_model
from ovseg.images.find import refuse_path
from ovseg.pipeline.logits import class_logits
from ovseg.regions.clusters import cluster_cells, spherical_kmeans
from ovseg.vocabulary.labels import Concept, Vocabulary

if TYPE_CHECKING:
    from ovseg.bank.bank import ImageBank
    from ovseg.pipeline.encoded import EncodedImage
    from ovseg.pipeline.segmenter import Segmenter

_LEAST_SEEDS = 3  # of a cluster that becomes a reference of its own


@dataclass(frozen=True)
class LearnOptions:
    """How concepts are learned.

    Attributes:
        k: images retrieved per concept.
        grid: side, in cells, of the square grid that every image's features are brought to.
        features: "structure", "joint", or "auto": structure where the model has it.
        parts: regions per image, at most, over which the text's probability is averaged: a region of similar cells
            shows the concept as a whole or not at all.
        agreement: probability of the concept in a seed's region under which the seed is left out.
        max_references: clusters of seeds, at most.
        cluster_gain: mean cosine to the nearest reference that one more cluster must add.
        negatives: random bank images that stand for everything else in the calibration.
        regions: retrieve by region vectors, where the bank has them.
    """

    k: int = 50
    grid: int = 24
    features: str = "auto"
    parts: int = 12
    agreement: float = 0.3
    max_references: int = 3
    cluster_gain: float = 0.06
    negatives: int = 24
    regions: bool = True


@dataclass(frozen=True)
class _Seen:
    """Images of the bank on one grid: (k, C, h, w) unit maps, (k, h, w) probability by text and region, keys."""

    maps: Tensor
    text: Tensor
    paths: tuple[str, ...]


def learn_concepts(
    names: Sequence[str | Concept],
    bank: ImageBank,
    *,
    segmenter: Segmenter | None = None,
    k: int = 50,
    contexts: Sequence[str] = (),
    options: LearnOptions | None = None,
    progress: Callable[[str], None] | None = None,
) -> ConceptSet:
    """Concepts by name from a bank of unlabeled images.

    Per concept: the k nearest images are retrieved and encoded densely; the cell with the most support in the
    other images, times its own probability by text and region, is the seed of its image; seeds that the text
    disagrees with are left out; the rest becomes one or more references; their threshold is measured on the bank.

    Args:
        names: what to learn; a ``Concept`` adds synonyms, and ``not_`` as negative examples.
        bank: where to look.
        segmenter: the bank's model; None takes the bank's own.
        k: images per concept; a smaller bank gives all it has.
        contexts: common surroundings, learned first and in order, which count less as matches.
        options: everything else; its ``k`` is replaced by ``k``.
        progress: called with each concept's name when it is begun.

    Raises:
        DatasetError: the bank has fewer than two images that can be read.
        SpaceError: ``segmenter`` is not the bank's model.
        VocabularyError: no names, or one that cannot be used.

    Source: Shin et al., ReCo, NeurIPS 2022, section 3. Deviations: text weights are the probability against
    contrast phrases, averaged over regions, instead of a sigmoid of the cosine, whose range differs between models;
    and they weigh the seed itself too, or the surroundings that all images share would win (``cosegment`` is ReCo's
    own).
    """
    learner = _Learner(bank, segmenter or bank.segmenter, options or LearnOptions(), k=k)
    wanted = Vocabulary.of(names).concepts()
    for text in (*contexts, *(word for each in wanted for word in (each.label, *each.synonyms, *each.not_))):
        refuse_path(text, what="the name of a concept")  # the bank's search would take it for an image
    backgrounds: dict[str, ConceptReference] = {}
    for context in contexts:
        if progress is not None:
            progress(context)
        backgrounds[context] = learner.learn(Concept(context), list(backgrounds.values()))
    learned = []
    for concept in wanted:
        if progress is not None:
            progress(concept.label)
        known = backgrounds.get(concept.label)
        learned.append(known or learner.learn(concept, list(backgrounds.values())))
    return ConceptSet(
        references=tuple(learned),
        space=learner.segmenter.model.head.space,
        features=learner.features,
        encoder=dict(learner.segmenter.info),
        contexts=tuple(contexts),
    )


class _Learner:
    """What all concepts of a call share: the model, the options and the images that stand for the rest."""

    def __init__(self, bank: ImageBank, segmenter: Segmenter, options: LearnOptions, *, k: int) -> None:
        built = f"the bank '{bank.root}' was built"
        check_model(bank.manifest["encoder"], segmenter.info, what=built, again="build it again with this one")
        if len(bank) < 2:
            raise DatasetError(
                f"learning needs a bank of at least 2 images, '{bank.root}' has {len(bank)}; add some"
            )
        if k < 2:
            raise VocabularyError(f"k must be at least 2, got {k}; 50 is usual")
        self.bank, self.segmenter, self.options, self.k = bank, segmenter, options, k
        self._features: Features | None = None
        self._rest: dict[int, Tensor] = {}

    @property
    def features(self) -> Features:
        """Which maps are compared."""
        if self._features is None:
            chosen = self.options.features
            if chosen == "auto":
                has = self.segmenter.encode(np.zeros((64, 64, 3), np.uint8)).features.structure is not None
                chosen = "structure" if has else "joint"
            self._features = "structure" if chosen == "structure" else "joint"
        return self._features

    @torch.inference_mode()
    def learn(self, concept: Concept, contexts: Sequence[ConceptReference]) -> ConceptReference:
        """One concept, seeing the contexts learned before it."""
        rows = self._retrieve(concept)
        seen = self._see(rows, concept)
        away = [vector for context in contexts for vector in context.embeddings]
        # A context is what the images share besides the concept: matches with it must not make a seed.
        weights = seen.text * context_weights(seen.maps, away)
        found = support(seen.maps, weights, dtype=quick_dtype(seen.maps.device))
        # The weight counts at the seed too, not only at what it is matched with: else a road that all photos of
        # cones show would be their seed.
        seeds = best_cells(found * weights)
        agrees = at_cells(seen.text, seeds) >= self.options.agreement
        vectors = seed_features(seen.maps, seeds)
        # Where the text agrees with hardly any seed it is no judge, and all of them are kept.
        kept = vectors[agrees] if int(agrees.sum()) >= 2 else vectors
        references, members = cluster(
            kept, most=self.options.max_references, gain=self.options.cluster_gain, least=_LEAST_SEEDS
        )
        owner = torch.full((len(vectors),), -1)
        owner[agrees if len(kept) < len(vectors) else slice(None)] = members
        threshold, spread, parted = self._calibrate(references, seen, exclude=rows)
        side = self.options.grid
        places = ((seeds + 0.5) / side).tolist()
        described = tuple(
            Seed(path, row, column, float(score), bool(agree), int(reference))
            for path, (row, column), score, agree, reference in zip(
                seen.paths, places, at_cells(found, seeds), agrees, owner, strict=True
            )
        )
        purity = float(agrees.float().mean())
        return ConceptReference(concept.label, references.cpu(), threshold, spread, purity, parted, described)

    def _retrieve(self, concept: Concept) -> list[int]:
        query = [concept.label, *concept.synonyms]
        negative = list(concept.not_) or None
        regions = self.options.regions and "regions" in self.bank.manifest["index"]
        retrieved = self.bank.search(query, self.k, negative=negative, regions=regions)
        return [int(row) for row in retrieved.rows[0]]

    def _see(self, rows: Sequence[int], concept: Concept) -> _Seen:
        """Encode images densely; those that cannot be read any more are passed over."""
        queries = self.segmenter.queries([concept], background="auto")
        maps, text, paths = [], [], []
        for row in rows:
            try:
                encoded = self.segmenter.encode(self.bank.image(row))
            except ImageError:
                continue
            # The plain text: modifiers, such as concepts learned before, must not judge what is being learned.
            logits = class_logits(
                self.segmenter.model.head, encoded.features, queries, smoothing=self.segmenter.config.smoothing
            ).values
            maps.append(self._on_grid(encoded))
            probability = _resized(encoded.unpadded(logits.softmax(0)[:1]), self.options.grid)[0].cpu()
            text.append(over_regions(probability, maps[-1], parts=self.options.parts))
            paths.append(self.bank.paths[row])
        if len(maps) < 2:
            raise DatasetError(
                f"learning '{concept.label}' needs 2 images that can be read, got {len(maps)} of {len(rows)}; "
                "were they moved? Build the bank again"
            )
        return _Seen(torch.stack(maps), torch.stack(text), tuple(paths))

    def _on_grid(self, encoded: EncodedImage) -> Tensor:
        maps = encoded.unpadded(feature_maps(encoded.features, self.features))
        return functional.normalize(_resized(maps, self.options.grid), dim=0).cpu()

    def _calibrate(self, references: Tensor, seen: _Seen, *, exclude: Sequence[int]) -> tuple[float, float, float]:
        """Threshold, spread and separation of the cosines inside and outside the concept."""
        cosine = torch.einsum("rc,kchw->krhw", references, seen.maps).amax(1)
        inside = cosine[seen.text >= 0.5]
        if len(inside) < len(seen.maps):  # too few: the surest cell of each image
            inside = cosine.flatten(1).gather(1, seen.text.flatten(1).argmax(1)[:, None]).flatten()
        outside = [cosine[seen.text < 0.1].flatten()]
        for maps in self._others(set(exclude)):
            outside.append(torch.einsum("rc,chw->rhw", references, maps).amax(0).flatten())
        return calibrate(inside, torch.cat(outside))

    def _others(self, exclude: set[int]) -> list[Tensor]:
        """(C, h, w) maps of random bank images that were not retrieved; each is encoded once."""
        # One order for all concepts of a call, so that an image encoded for one serves the next.
        order = np.random.default_rng(0).permutation(len(self.bank)).tolist()
        chosen = [row for row in order if row not in exclude][: self.options.negatives]
        for row in chosen:
            if row not in self._rest:
                try:
                    self._rest[row] = self._on_grid(self.segmenter.encode(self.bank.image(row)))
                except ImageError:
                    continue
        return [self._rest[row] for row in chosen if row in self._rest]


def over_regions(probability: Tensor, maps: Tensor, *, parts: int) -> Tensor:
    """Each cell's mean over the region that it lies in.

    Args:
        probability: (h, w).
        maps: (C, h, w) unit; cells that are alike make a region.
        parts: regions, at most.

    Returns:
        (h, w).
    """
    owner = cluster_cells(maps, count=parts)
    sums = torch.bincount(owner.flatten(), weights=probability.flatten().float())
    return (sums / torch.bincount(owner.flatten()))[owner]


def cluster(vectors: Tensor, *, most: int, gain: float, least: int) -> tuple[Tensor, Tensor]:
    """Unit references of (n, C) unit vectors, one unless more describe them clearly better.

    Args:
        vectors: (n, C) float32 unit.
        most: clusters, at most.
        gain: mean cosine to the nearest reference that one more cluster must add.
        least: vectors of the smallest cluster.

    Returns:
        (R, C) unit references and (n,) int64 the cluster of each vector.
    """
    references = reference_of(vectors)[None]
    members = torch.zeros(len(vectors), dtype=torch.long)
    fit = float((vectors @ references.T).mean())
    for count in range(2, most + 1):
        centres, owner = spherical_kmeans(vectors, count)
        better = float((vectors @ centres.T).amax(1).mean())
        sizes = torch.bincount(owner, minlength=count)
        # Each further centre fits a little better by itself; a real second look of a thing fits much better.
        if better - fit < gain or int(sizes.min()) < least:
            break
        references, members, fit = centres, owner, better
    return references, members


def _resized(maps: Tensor, side: int) -> Tensor:
    """(C, h, w) to (C, side, side): averaged when smaller, bilinear when larger."""
    return functional.interpolate(
        maps[None].float(), size=(side, side), mode="bilinear", align_corners=False, antialias=True
    )[0]
