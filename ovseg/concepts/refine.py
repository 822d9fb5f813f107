"""A concept learned again with what a person says of its seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ovseg.concepts.concept_set import ConceptReference, ConceptSet, merge_concepts
from ovseg.concepts.learn import Known, Learner
from ovseg.concepts.options import LearnOptions
from ovseg.concepts.steer import remembered
from ovseg.errors import VocabularyError
from ovseg.vocabulary.labels import Concept, Vocabulary

if TYPE_CHECKING:
    from ovseg.bank.bank import ImageBank
    from ovseg.pipeline.segmenter import Segmenter


def refine_concepts(
    concepts: ConceptSet,
    bank: ImageBank,
    *,
    accept: Sequence[str] = (),
    reject: Sequence[str] = (),
    name: str | None = None,
    segmenter: Segmenter | None = None,
    options: LearnOptions | None = None,
    progress: Callable[[str], None] | None = None,
) -> ConceptSet:
    """The set with one concept learned again; what was said of its seeds before counts on.

    Of pictures that ``learn_concepts`` was given, the features at their seeds are kept and count on as seeds.

    Args:
        concepts: as they were learned, or read from a file.
        bank: that they were learned from, or another of its model.
        accept, reject: see ``learn_concepts``. An accepted image is accepted for the seed that the set has there; a
            later decision takes the place of an earlier one about the same image or place.
        name: which concept; may be left out where there is one.
        segmenter: the bank's model; None takes the bank's own.
        options: as the set was learned; ``features`` are those of the set.
        progress: called with each name when it is begun.

    Raises:
        DatasetError, SpaceError: see ``learn_concepts``.
        VocabularyError: likewise; or there are several concepts and no name, or none of this name.
    """
    segmenter = segmenter or bank.segmenter
    concepts.check_model(segmenter.info)
    old = _chosen(concepts, name)
    learner = Learner(bank, segmenter, replace(options or LearnOptions(), features=concepts.features), k=old.k)
    said = learner.known(None, accept, reject, old.seeds).steering
    steering = remembered(old.seeds).then(said.decisions, side=learner.options.grid)
    seeds = tuple(seed for seed in old.seeds if seed.verdict == "given")
    known = Known(steering, given=None if old.given is None else (old.given, seeds))
    wanted = Vocabulary.of([Concept(old.name, synonyms=old.synonyms, not_=old.not_)]).concepts()
    again = learner.all(wanted, {old.name: known}, contexts=concepts.contexts, progress=progress)
    return merge_concepts([concepts, again])


def _chosen(concepts: ConceptSet, name: str | None) -> ConceptReference:
    if name is None and len(concepts) != 1:
        raise VocabularyError(
            f"expected the name of one of {len(concepts)} concepts, got none; they are: {', '.join(concepts.names)}"
        )
    return concepts[name or concepts.names[0]]
