"""Text towers of open_clip models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ovseg.errors import VocabularyError

_BATCH = 256
Tokenizer = Callable[..., Tensor]


class OpenClipText:
    """Phrases to unit vectors by the text tower of an open_clip model.

    Args:
        model: the model; only its text side is used.
        tokenizer: its tokenizer.
        space: space of the vectors.
    """

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, *, space: str) -> None:
        self.model: Any = model
        self.tokenizer = tokenizer
        self._space = space

    @property
    def space(self) -> str:
        """Embedding space of the vectors."""
        return self._space

    @property
    def context_length(self) -> int:
        """Tokens that the tower reads, with those that mark start and end."""
        return int(self.model.context_length)

    def unreadable(self, phrases: Sequence[str]) -> list[str]:
        """The phrases with a token that the tokenizer does not know; see ``with_unknown_tokens``."""
        return with_unknown_tokens(getattr(self.tokenizer, "tokenizer", None), phrases)

    @torch.inference_mode()
    def encode(self, phrases: Sequence[str]) -> Tensor:
        """(n, C) float32 unit vectors on the CPU.

        Raises:
            VocabularyError: a phrase is longer than the tower reads; it is named.
        """
        if not phrases:
            return torch.empty(0, int(self.model.encode_text(self._ids([""])).shape[-1]))
        batches = [phrases[start : start + _BATCH] for start in range(0, len(phrases), _BATCH)]
        vectors = [self.model.encode_text(self._ids(batch)).float().cpu() for batch in batches]
        return functional.normalize(torch.cat(vectors), dim=-1)

    def _ids(self, phrases: Sequence[str]) -> Tensor:
        length = self.context_length
        longer = self.tokenizer(["", *phrases], context_length=length + 1)
        over = (longer[1:, length] != longer[0, length]).tolist()  # an empty phrase ends in padding
        refuse_long([phrase for phrase, long in zip(phrases, over, strict=True) if long], length)
        device = next(self.model.parameters()).device
        return self.tokenizer(list(phrases), context_length=length).to(device)


def with_unknown_tokens(tokenizer: Any, phrases: Sequence[str]) -> list[str]:
    """The phrases that a transformers tokenizer reads as its token for the unknown, at least in part.

    The tokenizers of CLIP, and other ones by bytes, read every script; what they state as the unknown ends a text.
    """
    unknown = getattr(tokenizer, "unk_token_id", None)
    if unknown is None or unknown in {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id}:
        return []
    read = tokenizer(list(phrases))["input_ids"]
    return [phrase for phrase, ids in zip(phrases, read, strict=True) if unknown in ids]


def refuse_long(phrases: Sequence[str], limit: int) -> None:
    """Refuse phrases that a text tower would cut.

    Raises:
        VocabularyError: names the first.
    """
    if phrases:
        raise VocabularyError(
            f"expected phrases of at most {limit} tokens, got '{phrases[0]}', which is longer; "
            "say it in fewer words"
        )
