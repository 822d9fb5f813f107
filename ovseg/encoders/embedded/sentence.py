"""The text side of ``mini``: a sentence encoder with its tokenizer, both from files of the package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from ovseg.encoders.embedded.minilm import MiniLM
from ovseg.encoders.weights import freeze, load_module, load_weights
from ovseg.errors import ModelError

SPACE = "all-minilm-l6-v2"
_MAX_TOKENS = 128
_BATCH = 256


class SentenceEncoder:
    """all-MiniLM-L6-v2: any phrase to a unit vector of 384 numbers."""

    space = SPACE

    def __init__(self, model: MiniLM, tokenizer: Tokenizer) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.tokenizer.enable_padding(pad_id=0)
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

    @torch.inference_mode()
    def encode(self, phrases: Sequence[str]) -> Tensor:
        """(n, 384) float32 unit vectors; phrases of similar length share a batch."""
        vectors = torch.empty(len(phrases), 384)
        order = sorted(range(len(phrases)), key=lambda row: len(phrases[row]))
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            batch = self.tokenizer.encode_batch([phrases[row] for row in rows])
            ids = torch.tensor([item.ids for item in batch])
            mask = torch.tensor([item.attention_mask for item in batch], dtype=torch.bool)
            vectors[rows] = self.model(ids, mask)
        return vectors
