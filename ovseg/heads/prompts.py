"""Learned contexts: vectors placed between the start of a phrase and its words, inside a frozen text encoder.

Source: Zhou et al., CoOp, IJCV 2022, section 3.2; used by DenseCLIP (Rao et al., CVPR 2022, section 3.2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ovseg.encoders.embedded.sentence import SentenceEncoder
from ovseg.encoders.openclip_text import OpenClipText, refuse_long
from ovseg.encoders.spec import TextEncoder
from ovseg.errors import ConfigError

LONGEST = 32  # tokens of a phrase, with those that mark start and end


def encode_tokens(text: TextEncoder, phrases: Sequence[str]) -> Tensor:
    """(Q, LONGEST) int64 token ids, −1 after the last, for heads that run the text encoder themselves.

    Raises:
        VocabularyError: a phrase has more tokens.
        ConfigError: the text encoder cannot take contexts.
    """
    ids = [_ids_of(text, phrase) for phrase in phrases]
    refuse_long([phrase for phrase, row in zip(phrases, ids, strict=True) if len(row) > LONGEST], LONGEST)
    tokens = torch.full((len(phrases), LONGEST), -1)
    for row, numbers in zip(tokens, ids, strict=True):
        row[: len(numbers)] = torch.tensor(numbers)
    return tokens


def context_width(text: TextEncoder) -> int:
    """Channels of a token of the text encoder.

    Raises:
        ConfigError: the text encoder cannot take contexts.
    """
    return int(_opened(text)[0].weight.shape[1])


def encode_with_contexts(text: TextEncoder, tokens: Tensor, contexts: Tensor, *, unit: bool = True) -> Tensor:
    """Vectors of phrases whose first token is followed by contexts; gradients reach the contexts only.

    Args:
        text: the frozen text encoder.
        tokens: (n, T) int64, −1 after the last.
        contexts: (m, W), the same for all phrases.
        unit: bring the vectors to unit length; those of the sentence encoder have it anyway.

    Returns:
        (n, C) float32.

    Raises:
        ConfigError: the text encoder cannot take contexts.
    """
    embedding, run = _opened(text)
    ids = tokens[:, : int((tokens >= 0).sum(1).max())].to(embedding.weight.device)
    gap = ids.new_zeros(len(ids), len(contexts))
    places = slice(1, 1 + len(contexts))

    def place(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        filled = output.clone()
        filled[:, places] = contexts.to(output)
        return filled

    handle = embedding.register_forward_hook(place)
    try:
        vectors = run(torch.cat([ids[:, :1], gap, ids[:, 1:]], 1))
    finally:
        handle.remove()
    return functional.normalize(vectors.float(), dim=-1) if unit else vectors.float()


def _ids_of(text: TextEncoder, phrase: str) -> list[int]:
    if isinstance(text, SentenceEncoder):
        return list(text.tokenizer.encode(phrase).ids)
    if isinstance(text, OpenClipText):
        ids: list[int] = text.tokenizer([phrase], context_length=text.context_length)[0].tolist()
        while ids[-1] == 0:
            ids.pop()
        return ids
    raise _closed(text)


def _opened(text: TextEncoder) -> tuple[nn.Embedding, Callable[[Tensor], Tensor]]:
    """The word embedding of a text encoder, and the function from ids (−1: padding) to vectors."""
    if isinstance(text, SentenceEncoder):
        model = text.model
        return model.words, lambda ids: model(ids.clamp_min(0), ids >= 0)
    if isinstance(text, OpenClipText) and hasattr(text.model, "token_embedding"):
        clip, length = text.model, text.context_length
        # the pooled token is the one with the largest id, so contexts and padding are zeros
        return clip.token_embedding, lambda ids: clip.encode_text(
            functional.pad(ids.clamp_min(0), (0, length - ids.shape[1]))
        )
    raise _closed(text)


def _closed(text: TextEncoder) -> ConfigError:
    return ConfigError(
        f"learned contexts need the sentence encoder of 'mini' or an open_clip text tower, got "
        f"{type(text).__name__}; set head.settings.contexts to 0"
    )
