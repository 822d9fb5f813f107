"""What is asked for, as vectors: phrases today, pictures and learned vectors alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from ovseg.encoders.spec import TextEncoder
from ovseg.errors import ShapeError, VocabularyError
from ovseg.heads.base import Phrases
from ovseg.heads.prompts import encode_tokens
from ovseg.models.model import Model
from ovseg.pipeline.text_cache import TextCache
from ovseg.prefetch import chunks
from ovseg.progress import progress_bar
from ovseg.tensors import check_shape
from ovseg.vocabulary.labels import Vocabulary
from ovseg.vocabulary.spellings import phrase_for_encoder
from ovseg.vocabulary.templates import Templates

if TYPE_CHECKING:
    from ovseg.pipeline.exemplars import Exemplars
    from ovseg.pipeline.modifiers import Modifier

PhraseEncoder = Callable[[Sequence[str]], Tensor]
_MANY = 2000  # sentences above which a progress bar is shown: some ten seconds on one core


@dataclass(frozen=True)
class QueryBank:
    """Queries as vectors, and which class each stands for.

    A class is a label, or one of the things that are none of the labels. Where a query came from makes no
    difference here: text fills a bank through ``encode_vocabulary``, vectors of pictures through ``of_vectors``.

    Attributes:
        phrases: what the model's head made of Q queries; ``embeddings`` are its (Q, C) vectors.
        class_of_query: (Q,) int64; 0…L−1 for labels, L and above for what is none of them.
        vocabulary: the L labels.
        space: embedding space; compared with that of the features.
        logit_scale: factor from dot product to logit.
        modifiers: what is known of these labels besides, such as by pictures; they change the logits first.
        exemplars: boxes in the photo itself that show labels, for an ``ExemplarHead``; None for none.

    Raises:
        ShapeError: ``class_of_query`` is not (Q,).
    """

    phrases: Phrases
    class_of_query: Tensor
    vocabulary: Vocabulary
    space: str
    logit_scale: float
    modifiers: tuple[Modifier, ...] = ()
    exemplars: Exemplars | None = None

    def __post_init__(self) -> None:
        check_shape("embeddings", self.embeddings, "Q C")
        check_shape("class_of_query", self.class_of_query, "Q", Q=len(self.embeddings))

    @classmethod
    def of_vectors(
        cls, vectors: Tensor, class_of_query: Sequence[int], labels: Vocabulary, *, space: str, logit_scale: float
    ) -> QueryBank:
        """A bank of (Q, C) vectors that are in the joint space already, such as means over regions of pictures."""
        return cls(Phrases(vectors), torch.tensor(class_of_query), labels, space, logit_scale)

    @property
    def embeddings(self) -> Tensor:
        """(Q, C) vectors in the joint space."""
        return self.phrases.values

    @property
    def labels(self) -> int:
        """Number L of labels; these classes come first."""
        return len(self.vocabulary)

    @property
    def classes(self) -> int:
        """Number K of labels and of things that are none of them."""
        return int(self.class_of_query.max()) + 1


def encode_vocabulary(
    vocabulary: Vocabulary, model: Model, templates: Templates, *, cache: TextCache, device: torch.device
) -> QueryBank:
    """The phrases of a vocabulary in the joint space of a model.

    Vectors that the text encoder has made before come from the cache; the encoder is then not even loaded.
    """
    phrases, owner = phrases_of(vocabulary)

    def text() -> TextEncoder:
        """The text encoder, once it is known to read every phrase."""
        encoder = model.text()
        _refuse_unreadable(encoder, phrases, owner, vocabulary, model=model.config.name)
        return encoder

    if model.head.reads_tokens:
        encoder = text()  # quick; the text encoder itself runs inside the head
        own = getattr(encoder, "tokens", None)
        vectors = encode_tokens(encoder, phrases) if own is None else own(phrases)
    else:
        # The head is not part of the key: it comes after what is kept.
        text_side = model.weights.get("text", model.weights["image"])
        # "read": phrases are checked before they are kept; earlier versions kept what the encoder could not read.
        key = {"text": text_side, "templates": templates.templates, "phrases": phrases, "read": True}
        vectors = cache.fetch(key, lambda: encode_phrases(phrases, templates, text().encode))
    _refuse_shared(vectors, owner, vocabulary, model=model.config.name)
    vectors = vectors.to(device)
    with torch.inference_mode():
        return QueryBank(
            phrases=model.head.phrases(vectors),
            class_of_query=torch.tensor(owner),
            vocabulary=vocabulary,
            space=model.head.space,
            logit_scale=model.config.logit_scale,
        )


def phrases_of(vocabulary: Vocabulary) -> tuple[list[str], list[int]]:
    """The phrases to encode, in plain English where they are not raw, and the class of each.

    Classes 0…L−1 are the labels; background phrases and the contrasts of labels follow, one class each.
    """
    spell = str if vocabulary.raw else phrase_for_encoder
    phrases: list[str] = []
    owner: list[int] = []
    for index, group in enumerate(vocabulary.phrases):
        cleaned = list(dict.fromkeys(spell(phrase) for phrase in group))
        phrases += cleaned
        owner += [index] * len(cleaned)
    contrasts = [phrase for group in vocabulary.contrasts for phrase in group]
    rest = dict.fromkeys(spell(phrase) for phrase in (*vocabulary.background, *contrasts))
    owner += range(len(vocabulary), len(vocabulary) + len(rest))
    return [*phrases, *rest], owner


def encode_phrases(phrases: Sequence[str], templates: Templates, encode: PhraseEncoder) -> Tensor:
    """Unit mean over the prompt ensemble of the unit vectors of each phrase; a progress bar where they are many.

    Returns:
        (Q, C) float32.

    Raises:
        ShapeError: the encoder gave another number of vectors.

    Source: Radford et al., CLIP, ICML 2021, section 3.1.4.
    """
    each = len(templates.templates)
    at_once = max(1, _MANY // each)
    with progress_bar("encoding words", total=len(phrases), shown=len(phrases) > at_once) as advance:
        means = []
        for some in chunks(phrases, at_once) if phrases else [[]]:
            sentences = [sentence for phrase in some for sentence in templates.fill(phrase)]
            vectors = functional.normalize(encode(sentences).float(), dim=-1)
            if len(vectors) != len(sentences):
                raise ShapeError(f"the text encoder must give {len(sentences)} vectors, got {len(vectors)}")
            means.append(vectors.view(len(some), each, -1).mean(1))
            advance(len(some))
    return functional.normalize(torch.cat(means), dim=-1)


def _refuse_unreadable(
    encoder: TextEncoder, phrases: Sequence[str], owner: Sequence[int], vocabulary: Vocabulary, *, model: str
) -> None:
    """Refuse phrases that the encoder would turn into nonsense; one without ``unreadable`` reads every script."""
    find = getattr(encoder, "unreadable", None)
    unreadable = set(find(phrases)) if find is not None else set()
    for phrase, number in zip(phrases, owner, strict=True):
        if phrase in unreadable:
            is_label = number < len(vocabulary)
            where = f"label '{vocabulary.labels[number]}'" if is_label else "background or contrast"
            languages = getattr(encoder, "languages", "other languages")
            raise VocabularyError(
                f"{where}: expected a phrase that model '{model}' can read, got '{phrase}'; it reads {languages}: "
                "translate the phrase, or choose a model whose text encoder reads it"
            )


def _refuse_shared(vectors: Tensor, owner: Sequence[int], vocabulary: Vocabulary, *, model: str) -> None:
    """Refuse a label that can never win, as all its vectors are another's too: one question asked twice."""
    asked: list[set[int]] = [set() for _ in vocabulary.labels]
    labelled = [number for number in owner if number < len(vocabulary)]  # labels come first
    for number, vector in zip(labelled, first_alike(vectors[: len(labelled)]), strict=True):
        asked[number].add(vector)
    askers: dict[int, list[int]] = {}
    for number, mine in enumerate(asked):
        for vector in mine:
            askers.setdefault(vector, []).append(number)
    for number, mine in enumerate(asked):
        others = set.intersection(*(set(askers[vector]) for vector in mine)) - {number}
        if others:
            first, second = sorted((number, min(others)))
            raise VocabularyError(
                f"labels must ask for different things, got '{vocabulary.labels[first]}' and "
                f"'{vocabulary.labels[second]}', which are the same to model '{model}'; remove one of them"
            )


def first_alike(vectors: Tensor, *, tolerance: float = 1e-5) -> list[int]:
    """For each row the number of the first row that equals it.

    Args:
        vectors: (Q, ...).
        tolerance: largest Euclidean distance that counts as rounding.
    """
    rows = vectors.flatten(1).double()
    # Equal rows lie side by side on any line, so that only neighbours on one have to be compared.
    line = functional.normalize(torch.arange(1, rows.shape[1] + 1, dtype=torch.float64).sin(), dim=0)
    places, order = (rows @ line).sort(stable=True)
    first = torch.arange(len(rows))
    for steps in range(1, len(rows)):
        near = (places[steps:] - places[:-steps] <= tolerance).nonzero()[:, 0]
        if not len(near):
            break
        pairs = torch.stack([order[near], order[near + steps]])
        same = (rows[pairs[0]] - rows[pairs[1]]).norm(dim=1) <= tolerance
        low, high = pairs[:, same].aminmax(dim=0)
        first.scatter_reduce_(0, high, low, "amin")
    alike: list[int] = first.tolist()
    return alike
