"""What a model that answers with masks says: a score map for each phrase, and objects where it has some.

One whose answer needs no more than its features is a ``FusionHead``. One that also finds objects, or has to look at
the photo itself, is an ``AnsweringHead``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ovseg.encoders.openclip_text import refuse_long, with_unknown_tokens
from ovseg.encoders.spec import DenseFeatures
from ovseg.heads.base import Head, Phrases
from ovseg.images.photo import Photo
from ovseg.proposals.boxes import mask_box

_SURE = 1e-6  # probabilities this near to 0 and 1 have the last finite logits


@dataclass(frozen=True)
class FoundMask:
    """One object.

    Attributes:
        phrase: which it is, counted from 0.
        score: in [0, 1].
        corner: row and column of the window's first pixel in the photo.
        window: (a, b) bool, the object's pixels; the window is as small as it can be.
    """

    phrase: int
    score: float
    corner: tuple[int, int]
    window: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Answer:
    """What a model says of a photo.

    Attributes:
        maps: (Q, h, w) float32 logits.
        stride: pixels of the encoder's input per cell of the maps; need not be a whole number.
        objects: those of all phrases, in no order.
    """

    maps: Tensor
    stride: float
    objects: tuple[FoundMask, ...]


@runtime_checkable
class AnsweringHead(Head, Protocol):
    """A head that finds objects of its own; see ``Head`` for the rest."""

    def answer(
        self, features: DenseFeatures, phrases: Phrases, photo: Photo, *, least_score: float, most: int
    ) -> Answer:
        """What the model says of one photo.

        Args:
            features: (1, D, h, w) of ``pixels``.
            phrases: of ``phrases``.
            photo: what the features are of.
            least_score: objects of lower scores are left out.
            most: of the others, so many are kept, the surest.
        """


@dataclass(frozen=True)
class BoxPrompts:
    """Boxes of a photo that show what a phrase means, and such that do not.

    Attributes:
        corners: (n, 4) float32 left, top, right, bottom as shares of the photo.
        shows: (n,) int64, 1 where the box shows it, 0 where it does not.
    """

    corners: Tensor
    shows: Tensor


@runtime_checkable
class ExemplarHead(AnsweringHead, Protocol):
    """A head that is also shown what a phrase means, by boxes in the photo itself.

    Attributes:
        unnamed: the phrase that stands for what is shown and has no name.
    """

    unnamed: str

    def answer_shown(
        self,
        features: DenseFeatures,
        phrases: Phrases,
        photo: Photo,
        prompts: Sequence[BoxPrompts | None],
        *,
        least_score: float,
        most: int,
    ) -> Answer:
        """As ``answer``, with boxes for each phrase, or None."""


class TokenReader:
    """The text side of a model whose network reads the words itself: phrases to numbers of tokens.

    Args:
        tokenizer: of transformers.
        space: of what the network makes of them.
        longest: tokens that the network reads of a phrase, with those that mark start and end.
    """

    def __init__(self, tokenizer: Any, *, space: str, longest: int) -> None:
        self.tokenizer, self.longest = tokenizer, longest
        self._space = space

    @property
    def space(self) -> str:
        """Embedding space of what the network makes of the tokens."""
        return self._space

    def unreadable(self, phrases: Sequence[str]) -> list[str]:
        """The phrases with a token that the tokenizer does not know."""
        return with_unknown_tokens(self.tokenizer, phrases)

    def tokens(self, phrases: Sequence[str]) -> Tensor:
        """(Q, T) int64 numbers of tokens, −1 after the last.

        Raises:
            VocabularyError: a phrase is longer than the network reads; it is named.
        """
        ids = self.tokenizer(list(phrases))["input_ids"] if phrases else []
        refuse_long([text for text, row in zip(phrases, ids, strict=True) if len(row) > self.longest], self.longest)
        tokens = torch.full((len(ids), max(map(len, ids), default=1)), -1)
        for row, numbers in zip(tokens, ids, strict=True):
            row[: len(numbers)] = torch.tensor(numbers)
        return tokens

    def encode(self, phrases: Sequence[str]) -> Tensor:
        """The tokens as float32, which tell phrases apart; the network makes its own vectors of them."""
        return self.tokens(phrases).float()


def as_inputs(tokens: Tensor, *, padding: int) -> dict[str, Tensor]:
    """(n, T) tokens with −1 after the last as a network of transformers takes them."""
    known = tokens >= 0
    return {"input_ids": tokens.where(known, torch.tensor(padding)), "attention_mask": known.long()}


def as_logits(probabilities: Tensor) -> Tensor:
    """The log odds of probabilities, finite."""
    return probabilities.float().logit(_SURE)


def found_mask(mask: Tensor, phrase: int, score: float) -> list[FoundMask]:
    """The object of an (H, W) bool mask; none where it is empty."""
    box = mask_box(mask)
    if box is None:
        return []
    x0, y0, x1, y1 = box
    return [FoundMask(phrase, min(1.0, score), (y0, x0), mask[y0:y1, x0:x1].cpu().numpy().copy())]


def in_portions(ask: Callable[[Phrases], Tensor], phrases: Phrases, *, size: int) -> Tensor:
    """What ``ask`` says of ``size`` phrases at a time, one below the other."""
    return torch.cat([ask(phrases[start : start + size]) for start in range(0, len(phrases), size)])
