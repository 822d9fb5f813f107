"""Concepts from unlabeled images: retrieve, co-segment, filter, cluster, calibrate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

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
from ovseg.concepts.look import Looker, Seen, mark_alike
from ovseg.concepts.options import LearnOptions
from ovseg.concepts.steer import Steering, read_decisions
from ovseg.errors import DatasetError, VocabularyError, did_you_mean
from ovseg.examples.calibrate import calibrate
from ovseg.identity import check_model
from ovseg.images.find import refuse_path
from ovseg.pipeline.places import Picture, pictures_of
from ovseg.regions.clusters import spherical_kmeans
from ovseg.vocabulary.labels import Concept, Vocabulary, without_pictures

if TYPE_CHECKING:
    from ovseg.bank.bank import ImageBank
    from ovseg.pipeline.segmenter import Segmenter

_LEAST_SEEDS = 3  # of a cluster that becomes a reference of its own

Decisions = Sequence[str] | Mapping[str, Sequence[str]]
"""Images that are accepted or rejected; by name where several concepts are learned."""


@dataclass(frozen=True)
class Known:
    """What is known of a concept besides its words.

    Attributes:
        steering: what a person said of the bank's images.
        pictures: that show it, and that do not.
        given: (n, C) features at the seeds of pictures that an earlier call was given, and these seeds.
    """

    steering: Steering = field(default_factory=Steering)
    pictures: Sequence[Picture] = ()
    given: tuple[Tensor, tuple[Seed, ...]] | None = None


def learn_concepts(
    names: Sequence[str | Concept],
    bank: ImageBank,
    *,
    segmenter: Segmenter | None = None,
    k: int = 50,
    contexts: Sequence[str] = (),
    options: LearnOptions | None = None,
    accept: Decisions = (),
    reject: Decisions = (),
    progress: Callable[[str], None] | None = None,
) -> ConceptSet:
    """Concepts by name from a bank of unlabeled images.

    Per concept: the k nearest images are retrieved and encoded densely; the cell with the most support in the
    other images, times its own probability by text and region, is the seed of its image; seeds that the text
    disagrees with are left out; the rest becomes one or more references; their threshold is measured on the bank.

    Args:
        names: what to learn; a ``Concept`` adds synonyms, and ``not_`` as negative examples. Its pictures count
            together with the retrieved images, as if the text were sure of their masks and of nothing else;
            ``not_images`` are negatives of the calibration.
        bank: where to look.
        segmenter: the bank's model; None takes the bank's own.
        k: images per concept; a smaller bank gives all it has.
        contexts: common surroundings, learned first and in order, which count less as matches.
        options: everything else; its ``k`` is replaced by ``k``.
        accept: images of the bank (keys, paths or names of files) that show the concept for certain, retrieved or
            not; ``"path:row,column"``, fractions of height and width, says where its seed lies. A mapping from
            names to such lists where several concepts are learned. ``refine_concepts`` goes on from a concept
            that was learned.
        reject: images that do not: they count in nothing but the calibration, as negatives. With a place, the
            cell there and those of the image that are like it do not, and the image gets another seed.
        progress: called with each concept's name when it is begun.

    Raises:
        DatasetError: the bank has fewer than two images that can be read, or no image that is accepted or rejected.
        SpaceError: ``segmenter`` is not the bank's model.
        VocabularyError: no names, one that cannot be used, places that do not fit, or accepted and rejected images
            of a concept that is not learned.
        ImageError: a picture cannot be read.

    Source: Shin et al., ReCo, NeurIPS 2022, section 3. Deviations: text weights are the probability against
    contrast phrases, averaged over regions, instead of a sigmoid of the cosine, whose range differs between models;
    and they weigh the seed itself too, or the surroundings that all images share would win (``cosegment`` is ReCo's
    own).
    """
    learner = Learner(bank, segmenter or bank.segmenter, options or LearnOptions(), k=k)
    words, shown = without_pictures(names)
    wanted = Vocabulary.of(words).concepts()
    for text in (*contexts, *(word for each in wanted for word in (each.label, *each.synonyms, *each.not_))):
        refuse_path(text, what="the name of a concept")  # the bank's search would take it for an image
    labels = [concept.label for concept in wanted]
    yes, no = _by_name(accept, labels, what="accept"), _by_name(reject, labels, what="reject")
    known = {label: learner.known(shown.get(label), yes[label], no[label]) for label in labels}
    return learner.all(wanted, known, contexts=contexts, progress=progress)


def _by_name(texts: Decisions, labels: Sequence[str], *, what: str) -> dict[str, Sequence[str]]:
    """The images that are accepted or rejected, for each concept."""
    if not isinstance(texts, Mapping):
        if len(labels) > 1 and texts:
            raise VocabularyError(
                f"{what} must say for which of {len(labels)} concepts, got a list; write "
                f"{what}={{'{labels[0]}': [...]}}"
            )
        texts = {labels[0]: texts}
    for name in texts:
        if name not in labels:
            raise VocabularyError(f"{what} names '{name}', which is not learned{did_you_mean(name, labels)}")
    return {label: texts.get(label, ()) for label in labels}


class Learner:
    """What all concepts of a call share: the model, the options and the images that stand for the rest.

    Raises:
        DatasetError, SpaceError, VocabularyError: see ``learn_concepts``.
    """

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
        self.look = Looker(bank, segmenter, options)

    def known(
        self, shown: Concept | None, accept: Sequence[str], reject: Sequence[str], seeds: Sequence[Seed] = ()
    ) -> Known:
        """What is known of a concept that has pictures, and of whose ``seeds`` a person says something.

        Raises:
            DatasetError, VocabularyError: see ``learn_concepts``.
        """
        side = self.options.grid
        if shown is not None and not shown.use_name:
            raise VocabularyError(
                f"learning '{shown.label}' retrieves images by its name, got use_name=False; leave that out, or "
                "segment with the concept itself, which needs no bank"
            )
        decisions = read_decisions(self.bank, accept, reject, seeds=seeds, side=side)
        return Known(Steering().then(decisions, side=side), () if shown is None else pictures_of(shown))

    def all(
        self,
        wanted: Sequence[Concept],
        known: Mapping[str, Known],
        *,
        contexts: Sequence[str],
        progress: Callable[[str], None] | None,
    ) -> ConceptSet:
        """Several concepts, after their contexts."""
        backgrounds: dict[str, ConceptReference] = {}
        for context in contexts:
            if progress is not None:
                progress(context)
            backgrounds[context] = self.learn(
                Concept(context), list(backgrounds.values()), known.get(context, Known())
            )
        learned = []
        for concept in wanted:
            if progress is not None:
                progress(concept.label)
            before = backgrounds.get(concept.label)
            learned.append(before or self.learn(concept, list(backgrounds.values()), known[concept.label]))
        return ConceptSet(
            references=tuple(learned),
            space=self.segmenter.model.head.space,
            features=self.look.features,
            encoder=dict(self.segmenter.info),
            contexts=tuple(contexts),
        )

    @torch.inference_mode()
    def learn(self, concept: Concept, contexts: Sequence[ConceptReference], known: Known) -> ConceptReference:
        """One concept, seeing the contexts learned before it."""
        rows = self._retrieve(concept, known.steering)
        seen, negatives = self.look.with_pictures(self.look.see(rows, concept, known.steering), known.pictures)
        # A context is what the images share besides the concept: matches with it must not make a seed.
        away = [vector for context in contexts for vector in context.embeddings]
        weights = seen.text * context_weights(seen.maps, away)
        found = support(seen.maps, weights, dtype=quick_dtype(seen.maps.device))
        # The weight counts at the seed too, not only at what it is matched with: else a road that all photos of
        # cones show would be their seed.
        cells = self._placed(best_cells(found * weights), seen.paths, known.steering)
        self._trust(seen, cells, known.steering)
        vectors = seed_features(seen.maps, cells)
        seeds = self._described(seen, cells, at_cells(found, cells), known.steering)
        purity = float(np.mean([seed.agrees for seed in seeds[: seen.retrieved]]))
        if known.given is not None:
            vectors, seeds = torch.cat([vectors, known.given[0]]), [*seeds, *known.given[1]]
        references, owner = self._references(vectors, seeds)
        seeds = [replace(seed, reference=int(number)) for seed, number in zip(seeds, owner, strict=True)]
        rejected = self.look.rows_of(sorted(known.steering.rejected))
        negatives += self.look.maps_of(rejected)
        threshold, spread, parted = self._calibrate(references, seen, negatives, exclude=[*rows, *rejected])
        given = torch.tensor([seed.verdict == "given" for seed in seeds])
        return ConceptReference(
            concept.label,
            references.cpu(),
            threshold,
            spread,
            purity,
            parted,
            (*seeds, *known.steering.besides(seen.paths)),
            synonyms=tuple(word for word in concept.synonyms if word != concept.label),
            not_=concept.not_,
            k=self.k,
            given=vectors[given].cpu() if bool(given.any()) else None,
        )

    def _placed(self, seeds: Tensor, paths: Sequence[str], steering: Steering) -> Tensor:
        """The seeds, moved to where they were accepted."""
        for number, path in enumerate(paths):
            for said in steering.places(path):
                if said.verdict == "accepted":
                    seeds[number] = torch.tensor(said.cell(self.options.grid))
        return seeds

    def _trust(self, seen: Seen, cells: Tensor, steering: Steering) -> None:
        """Make the probability certain, in place, around the seeds of images that were accepted."""
        accepted = set(steering.accepted)
        for number, path in enumerate(seen.paths[: seen.retrieved]):
            if path in accepted:
                row, column = cells[number].tolist()
                mark_alike(seen.text[number], seen.maps[number], (row, column), 1.0)
                self.look.strike(seen.text[number], steering.places(path))

    def _described(self, seen: Seen, cells: Tensor, found: Tensor, steering: Steering) -> list[Seed]:
        """The seeds at ``cells``, not yet given to references."""
        accepted = set(steering.accepted)
        places = ((cells + 0.5) / self.options.grid).tolist()
        text = at_cells(seen.text, cells)
        seeds = []
        for number, (path, (row, column)) in enumerate(zip(seen.paths, places, strict=True)):
            verdict = "given" if number >= seen.retrieved else "accepted" if path in accepted else ""
            agrees = bool(verdict) or float(text[number]) >= self.options.agreement
            seeds.append(Seed(path, row, column, float(found[number]), agrees, -1, verdict))
        return seeds

    def _references(self, vectors: Tensor, seeds: Sequence[Seed]) -> tuple[Tensor, Tensor]:
        """(R, C) references of the seeds that agree, and (n,) the reference of each; −1 for those left out."""
        agrees = torch.tensor([seed.agrees for seed in seeds])
        # Where the text agrees with hardly any seed it is no judge, and all are kept, unless a person is the judge.
        judged = int(agrees.sum()) >= 2 or any(seed.agrees and seed.verdict for seed in seeds)
        kept = agrees if judged else torch.ones_like(agrees)
        references, members = cluster(
            vectors[kept], most=self.options.max_references, gain=self.options.cluster_gain, least=_LEAST_SEEDS
        )
        owner = torch.full((len(vectors),), -1)
        owner[kept] = members
        return references, owner

    def _retrieve(self, concept: Concept, steering: Steering) -> list[int]:
        """Rows of the bank: the nearest that are not rejected, and those that are accepted."""
        query = [concept.label, *concept.synonyms]
        negative = list(concept.not_) or None
        regions = self.options.regions and "regions" in self.bank.manifest["index"]
        rejected = steering.rejected
        retrieved = self.bank.search(query, self.k + len(rejected), negative=negative, regions=regions)
        rows = [int(row) for row in retrieved.rows[0] if self.bank.paths[row] not in rejected][: self.k]
        return list(dict.fromkeys([*rows, *self.look.rows_of(steering.accepted)]))

    def _calibrate(
        self, references: Tensor, seen: Seen, negatives: Sequence[Tensor], *, exclude: Sequence[int]
    ) -> tuple[float, float, float]:
        """Threshold, spread and separation of the cosines inside and outside the concept."""
        cosine = torch.einsum("rc,kchw->krhw", references, seen.maps).amax(1)
        inside = cosine[seen.text >= 0.5]
        if len(inside) < len(seen.maps):  # too few: the surest cell of each image
            inside = cosine.flatten(1).gather(1, seen.text.flatten(1).argmax(1)[:, None]).flatten()
        outside = [cosine[seen.text < 0.1].flatten()]
        for maps in (*negatives, *self._others(set(exclude))):
            outside.append(torch.einsum("rc,chw->rhw", references, maps).amax(0).flatten())
        return calibrate(inside, torch.cat(outside))

    def _others(self, exclude: set[int]) -> list[Tensor]:
        """(C, h, w) maps of random bank images that were not retrieved; each is encoded once."""
        # One order for all concepts of a call, so that an image encoded for one serves the next.
        order = np.random.default_rng(0).permutation(len(self.bank)).tolist()
        return self.look.maps_of([row for row in order if row not in exclude][: self.options.negatives])


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
