"""Vocabularies to text banks: every phrase as a vector in the space of the pixels, kept on disk between runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from ovseg.heads.base import Phrases
from ovseg.tensors import check_shape
from ovseg.vocabulary.labels import Vocabulary
from ovseg.vocabulary.spellings import phrase_for_encoder
from ovseg.vocabulary.templates import Templates

PhraseEncoder = Callable[[Sequence[str]], Tensor]


@dataclass(frozen=True)
class TextBank:
    """Phrases as vectors, and which label each stands for.

    Attributes:
        embeddings: (Q, C) float32.
        label_of_query: (Q,) int64; 0…L−1 for labels, L and above for background phrases.
        vocabulary: the labels and phrases.
        templates: name of the prompt ensemble.
        space: embedding space; compared with that of the features.
        logit_scale: factor from dot product to logit.
        phrases: what the model's head returned, for heads that fuse.
    """

    embeddings: Tensor
    label_of_query: Tensor
    vocabulary: Vocabulary
    templates: str
    space: str
    logit_scale: float
    phrases: Phrases | None = None

    def __post_init__(self) -> None:
        check_shape("embeddings", self.embeddings, "Q C")
        check_shape("label_of_query", self.label_of_query, "Q", Q=self.embeddings.shape[0])

    @property
    def classes(self) -> int:
        """Number of labels plus background phrases."""
        return int(self.label_of_query.max()) + 1


def queries(vocabulary: Vocabulary) -> tuple[list[str], list[int]]:
    """The phrases to encode, cleaned, and the class of each.

    Classes 0…L−1 are the labels; background phrases and the contrasts of labels follow, one class each.
    """
    phrases: list[str] = []
    owner: list[int] = []
    for index, group in enumerate(vocabulary.phrases):
        cleaned = list(dict.fromkeys(phrase_for_encoder(phrase) for phrase in group))
        phrases += cleaned
        owner += [index] * len(cleaned)
    contrasts = [phrase for group in vocabulary.contrasts for phrase in group]
    rest = dict.fromkeys(phrase_for_encoder(phrase) for phrase in (*vocabulary.background, *contrasts))
    owner += range(len(vocabulary), len(vocabulary) + len(rest))
    return [*phrases, *rest], owner


def encode_phrases(phrases: Sequence[str], templates: Templates, encode: PhraseEncoder) -> Tensor:
    """Unit mean over the prompt ensemble of the unit vectors of each phrase.

    Returns:
        (Q, C) float32. Source: Radford et al., CLIP, ICML 2021, section 3.1.4.
    """
    sentences = [sentence for phrase in phrases for sentence in templates.fill(phrase)]
    vectors = functional.normalize(encode(sentences).float(), dim=-1)
    return functional.normalize(vectors.view(len(phrases), len(templates.templates), -1).mean(1), dim=-1)
