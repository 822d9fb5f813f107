"""Vocabularies to text banks: every phrase as a vector in the space of the pixels, kept on disk between runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from torch.nn import functional

from ovseg.assets import find_asset
from ovseg.config import Config, load_config
from ovseg.encoders.weights import load_weights, save_weights
from ovseg.errors import ModelError, OutputError, SpaceError
from ovseg.tensors import check_shape
from ovseg.vocabulary import Vocabulary, phrase_for_encoder

PhraseEncoder = Callable[[Sequence[str]], Tensor]


class Templates(Config):
    """A prompt ensemble: sentences with ``{}`` where the phrase goes (``prompts/templates/*.yaml``)."""

    source: str
    templates: tuple[str, ...]

    @classmethod
    def named(cls, name: str) -> Templates:
        """The ensemble ``name``, or that of a YAML file.

        Raises:
            ConfigError: there is no such file, or a key is wrong.
        """
        return load_config(cls, find_asset("prompts/templates", name))

    def fill(self, phrase: str) -> list[str]:
        """One sentence per template."""
        return [template.replace("{}", phrase) for template in self.templates]


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
    """

    embeddings: Tensor
    label_of_query: Tensor
    vocabulary: Vocabulary
    templates: str
    space: str
    logit_scale: float

    def __post_init__(self) -> None:
        check_shape("embeddings", self.embeddings, "Q C")
        check_shape("label_of_query", self.label_of_query, "Q", Q=self.embeddings.shape[0])

    @property
    def classes(self) -> int:
        """Number of labels plus background phrases."""
        return int(self.label_of_query.max()) + 1


def check_space(features: str, bank: str) -> None:
    """Refuse a dot product between two spaces.

    Raises:
        SpaceError: names both spaces.
    """
    if features != bank:
        raise SpaceError(
            f"features are in '{features}' but the text bank is in '{bank}'; encode the image with the bank's "
            "model, or pass these features as structure="
        )


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


class TextCache:
    """Text vectors on disk, keyed by everything that decides them; safe under several processes.

    A hit costs one small file; the text encoder is not even loaded. Files are written beside and renamed,
    so two processes that miss at once both write the same whole file.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def fetch(self, key: dict[str, object], make: Callable[[], Tensor]) -> Tensor:
        """The tensor stored under ``key``, or ``make()``, which is then stored."""
        if self.folder is None:
            return make()
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
        path = self.folder / f"{digest}.safetensors"
        if path.is_file():
            try:
                return load_weights(path)[0]["vectors"]
            except (ModelError, KeyError):
                path.unlink(missing_ok=True)
        vectors = make()
        try:
            save_weights({"vectors": vectors}, path, bits=32)
        except OutputError:
            self.folder = None  # a read-only home: go on without a cache
        return vectors
