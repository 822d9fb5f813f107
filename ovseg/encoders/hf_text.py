"""Text towers of Hugging Face CLIP and SigLIP models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ovseg.encoders.openclip_text import refuse_long, with_unknown_tokens

_BATCH = 256


class HuggingFaceText:
    """Phrases to unit vectors by the text tower of a transformers model.

    Args:
        model: the model; only its text side is used.
        tokenizer: its tokenizer.
        space: space of the vectors.
        pad_to_length: pad every phrase to the context length, as SigLIP was trained.

    A tokenizer whose files state ``do_lower_case`` reads lower case; transformers 5 leaves that to its caller.
    """

    def __init__(self, model: Any, tokenizer: Any, *, space: str, pad_to_length: bool = False) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self._space = space
        self._pad_to_length = pad_to_length
        self._lower = bool(getattr(tokenizer, "init_kwargs", {}).get("do_lower_case"))

    @property
    def space(self) -> str:
        """Embedding space of the vectors."""
        return self._space

    @property
    def context_length(self) -> int:
        """Tokens that the tower reads, with those that mark start and end."""
        return int(self.model.config.text_config.max_position_embeddings)

    def unreadable(self, phrases: Sequence[str]) -> list[str]:
        """The phrases with a token that the tokenizer does not know; see ``with_unknown_tokens``."""
        read = self._read(phrases)
        unknown = set(with_unknown_tokens(self.tokenizer, read))
        return [phrase for phrase, text in zip(phrases, read, strict=True) if text in unknown]

    def _read(self, phrases: Sequence[str]) -> list[str]:
        return [phrase.lower() if self._lower else phrase for phrase in phrases]

    @torch.inference_mode()
    def encode(self, phrases: Sequence[str]) -> Tensor:
        """(n, C) float32 unit vectors on the CPU.

        Raises:
            VocabularyError: a phrase is longer than the tower reads; it is named.
        """
        if not phrases:
            return torch.empty(0, self._encode([""]).shape[-1])
        batches = [phrases[start : start + _BATCH] for start in range(0, len(phrases), _BATCH)]
        return functional.normalize(torch.cat([self._encode(batch) for batch in batches]), dim=-1)

    def _encode(self, phrases: Sequence[str]) -> Tensor:
        read = self._read(phrases)
        lengths = [len(ids) for ids in self.tokenizer(read)["input_ids"]]
        limit = self.context_length
        refuse_long([phrase for phrase, size in zip(phrases, lengths, strict=True) if size > limit], limit)
        sizes = {"padding": "max_length", "max_length": limit} if self._pad_to_length else {"padding": True}
        inputs = self.tokenizer(read, return_tensors="pt", **sizes).to(self.model.device)
        pooled: Tensor = self.model.get_text_features(**inputs).pooler_output
        return pooled.float().cpu()
