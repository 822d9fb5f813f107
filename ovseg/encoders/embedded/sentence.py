"""The text side of ``mini``: a sentence encoder with its tokenizer, both from files of the package."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from ovseg.encoders.embedded.minilm import MiniLM
from ovseg.errors import ModelError
from ovseg.weights import freeze, load_module, load_weights

SPACE = "all-minilm-l6-v2"
_MAX_TOKENS = 128
_BATCH = 256
_UNKNOWN = "[UNK]"


class SentenceEncoder:
    """all-MiniLM-L6-v2: any phrase to a unit vector of 384 numbers."""

    space = SPACE
    languages = "English"

    def __init__(self, model: MiniLM, tokenizer: Tokenizer) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(_MAX_TOKENS)

    @classmethod
    def load(cls, weights: str | Path, tokenizer: str | Path) -> SentenceEncoder:
        """The frozen encoder from a safetensors file and a ``tokenizer.json``.

        Raises:
            ModelError: a file is missing or damaged.
        """
        model = MiniLM()
        tensors, _ = load_weights(weights)
        load_module(model, tensors, source=str(weights))
        freeze(model)
        try:
            return cls(model, Tokenizer.from_file(str(tokenizer)))
        except Exception as error:  # the tokenizers library raises plain Exception
            raise ModelError(f"tokenizer file '{tokenizer}' cannot be read: {error}") from error

    def unreadable(self, phrases: Sequence[str]) -> list[str]:
        """The phrases with a token that the tokenizer does not know, or a letter of another script than Latin.

        Of Arabic or Cyrillic the tokenizer knows single letters, but the model was trained on English.
        """
        encoded = self.tokenizer.encode_batch(list(phrases))
        return [
            phrase
            for phrase, item in zip(phrases, encoded, strict=True)
            if _UNKNOWN in item.tokens or not all(map(_is_latin, filter(str.isalpha, phrase)))
        ]

    @torch.inference_mode()
    def encode(self, phrases: Sequence[str]) -> Tensor:
        """(n, 384) float32 unit vectors; phrases of as many tokens share a batch, so that none is padded."""
        vectors = torch.empty(len(phrases), 384)
        encoded = self.tokenizer.encode_batch(list(phrases))
        rows_of_length: dict[int, list[int]] = defaultdict(list)
        for row, item in enumerate(encoded):
            rows_of_length[len(item.ids)].append(row)
        for same in rows_of_length.values():
            for start in range(0, len(same), _BATCH):
                rows = same[start : start + _BATCH]
                ids = torch.tensor([encoded[row].ids for row in rows])
                vectors[rows] = self.model(ids, torch.ones_like(ids, dtype=torch.bool))
        return vectors


def _is_latin(letter: str) -> bool:
    return unicodedata.name(letter, "").startswith("LATIN")
