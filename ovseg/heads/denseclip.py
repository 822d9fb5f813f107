"""DenseCLIP: phrases that look at the image before they are compared, and score maps that a decoder refines.

Source: Rao et al., "DenseCLIP: Language-Guided Dense Prediction with Context-Aware Prompting", CVPR 2022, sections
3.2 and 3.3; what the paper leaves open is as in the authors' code, whose numbers the tests hold. Deviations: its
decoder has one output channel per training class and so a closed vocabulary; here the same small pyramid decodes
the score map of each phrase by itself. Features have unit length, which the first normalisation undoes; so has the
text where no contexts are learned, or the head below needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ovseg.encoders.spec import DenseFeatures, TextEncoder
from ovseg.heads.base import SCORES, Head, IdentityHead, Phrases
from ovseg.heads.blocks import CrossBlock
from ovseg.heads.prompts import encode_with_contexts
from ovseg.heads.stacked import StackedHead, StackedSettings, inputs_of

_CHUNK = 64  # phrases decoded at once, so that memory does not grow with the vocabulary


class DenseClipSettings(StackedSettings):
    """A ``DenseClip``; the defaults are the paper's.

    Attributes:
        prompting: "post" moves the text vectors after the text encoder, "pre" the contexts before it.
        contexts: learned vectors inside the text encoder; 0 leaves it alone (only "post").
        context_width: channels of the text encoder's tokens; filled in when training starts.
        width, layers, attention_heads, dropout: of the decoder in which the text looks at the image.
        gamma: starting weight of what it adds to the text.
        temperature: divides the cosine; None takes the dot product and scale of the head below as they are.
        auxiliary: weight of the loss on the score maps.
        pyramid: channels of the decoder; 0 answers with the score maps.
        finest: grid of the answer, in cells per cell of the features.
    """

    prompting: Literal["post", "pre"] = "post"
    contexts: int = 8
    context_width: int = 0
    width: int = 256
    layers: int = 3
    attention_heads: int = 4
    dropout: float = 0.1
    gamma: float = 1e-4
    temperature: float | None = 0.07
    auxiliary: float = 0.4
    pyramid: int = 64
    finest: Literal[1, 2] = 2


class DenseClip(StackedHead):
    """Score maps s = cosine(pixel, t), t = text + γ·Δ(text, image), and a pyramid that refines them.

    The text looks at the cells and at the image as a whole: the tower's own image vector (of CLIP, the class
    token), or the mean of the cells for ``mini`` and convolutional towers, which have none at every size.
    """

    reads_whole = True

    def __init__(self, base: Head, settings: DenseClipSettings, text: Callable[[], TextEncoder]) -> None:
        super().__init__(base, settings, kind="denseclip")
        self.settings = settings
        self.reads_tokens = settings.contexts > 0
        self._text = text
        width = settings.width
        self.before = settings.prompting == "pre" and self.reads_tokens
        if self.reads_tokens:
            self.contexts = nn.Parameter(torch.randn(settings.contexts, settings.context_width) * 0.02)
        query, target = (settings.context_width,) * 2 if self.before else (self.phrase_width, self.widths.joint)
        self.memory_in = nn.Sequential(
            nn.LayerNorm(self.feature_width), nn.Linear(self.feature_width, width), nn.LayerNorm(width)
        )
        self.query_in = nn.Sequential(nn.LayerNorm(query), nn.Linear(query, width))
        self.decoder = nn.ModuleList(
            CrossBlock(width, heads=settings.attention_heads, inner=4 * width, dropout=settings.dropout)
            for _ in range(settings.layers)
        )
        self.delta_out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, target))
        self.gamma = nn.Parameter(torch.full((target,), settings.gamma))
        self.pyramid = None
        if settings.pyramid:
            self.pyramid = PhrasePyramid(self.feature_width, settings.pyramid, finest=settings.finest)
            if settings.residual:
                nn.init.zeros_(self.pyramid.out.weight)

    def phrases(self, vectors: Tensor) -> Phrases:
        """(Q, C) vectors, or (Q, T) tokens where there are contexts, to what ``fuse`` takes."""
        if not self.reads_tokens:
            return super().phrases(vectors)
        encoded = super().phrases(self._encode(vectors, self.contexts))
        return replace(encoded, tokens=vectors) if self.before else encoded

    def fuse(self, features: DenseFeatures, phrases: Phrases) -> DenseFeatures:
        """(B, Q, finest·h, finest·w) logits."""
        logits = self.graded(features, phrases)[0][1]
        finer = logits.shape[-1] // features.values.shape[-1]
        structure = features.structure if finer == 1 else None
        return DenseFeatures(logits, SCORES, features.stride // finer, structure=structure)

    def graded(self, features: DenseFeatures, phrases: Phrases) -> list[tuple[float, Tensor]]:
        """The decoded logits, and the score maps with the auxiliary weight."""
        visual, joint = inputs_of(features), features.values
        answers = [self.scores(joint, self.prompted(visual, phrases, whole=features.whole))]
        if self.pyramid is not None:
            decoded = self.pyramid(visual, answers[0] * (self.settings.temperature or 0.07))
            answers.insert(0, decoded + _resize(answers[0], decoded.shape[-2:]) if self.residual else decoded)
        if self.residual and not self.before:
            below = self.scores(joint, phrases.values[None])
            answers = [self.corrected(_resize(below, maps.shape[-2:]), maps, phrases) for maps in answers]
        return list(zip((1.0, self.settings.auxiliary), answers, strict=False))

    def scores(self, joint: Tensor, text: Tensor) -> Tensor:
        """(B, D, h, w) cells and (B, Q, D) text to (B, Q, h, w) logits."""
        if self.settings.temperature is None:
            return self.base_scale * torch.einsum("bdhw,bqd->bqhw", joint, text.expand(len(joint), -1, -1))
        cells, words = functional.normalize(joint, dim=1), functional.normalize(text, dim=-1)
        return torch.einsum("bdhw,bqd->bqhw", cells, words.expand(len(cells), -1, -1)) / self.settings.temperature

    def prompted(self, visual: Tensor, phrases: Phrases, *, whole: Tensor | None = None) -> Tensor:
        """Text vectors that have looked at the image.

        Args:
            visual: (B, C, h, w) inputs of the image.
            phrases: Q rows from ``phrases``.
            whole: (B, C) the image as a whole; None takes the mean of the cells.

        Returns:
            (B, Q, D).
        """
        if phrases.tokens is None:
            return phrases.values + self.gamma * self.delta(visual, inputs_of(phrases), whole=whole)
        moved = self.contexts + self.gamma * self.delta(visual, self.contexts, whole=whole)  # (B, m, W)
        encoded = [self._encode(phrases.tokens, contexts) for contexts in moved]
        return torch.stack([self.base.phrases(vectors).values for vectors in encoded])

    def delta(self, visual: Tensor, queries: Tensor, *, whole: Tensor | None = None) -> Tensor:
        """What the queries (n, C') read from [whole; cells] (B, C, h, w), see ``prompted``: (B, n, C'')."""
        cells = visual.flatten(2).transpose(1, 2)
        first = cells.mean(1) if whole is None else whole.to(cells)
        memory = self.memory_in(torch.cat([first[:, None], cells], 1))
        tokens = self.query_in(queries).expand(len(visual), -1, -1)
        for block in self.decoder:
            tokens = block(tokens, memory)
        read: Tensor = self.delta_out(tokens)
        return read

    def _encode(self, tokens: Tensor, contexts: Tensor) -> Tensor:
        # the length of a text weighs it against what it reads from the image; a cosine does not see it otherwise
        unit = self.settings.temperature is None or not isinstance(self.base, IdentityHead)
        return encode_with_contexts(self._text(), tokens, contexts, unit=unit).to(contexts)


class PhrasePyramid(nn.Module):
    """A feature pyramid over [features; score map of one phrase], the same weights for every phrase.

    Source: Lin et al., feature pyramid networks, CVPR 2017, section 3. The levels are the features resampled, as
    frozen encoders give one grid.
    """

    def __init__(self, inputs: int, width: int, *, finest: int) -> None:
        super().__init__()
        self.factors = (finest, finest / 2, finest / 4)
        self.reduce = nn.Conv2d(inputs, width, 1)
        self.score = nn.Parameter(torch.randn(width) * 0.1)
        self.lateral = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in self.factors)
        self.smooth = nn.Conv2d(width, width, 3, padding=1)
        self.out = nn.Conv2d(width, 1, 1, bias=False)

    def forward(self, visual: Tensor, scores: Tensor) -> Tensor:
        """(B, C, h, w) and (B, Q, h, w) to (B, Q, finest·h, finest·w)."""
        reduced = self.reduce(visual)
        return torch.cat([self._decode(reduced, part) for part in torch.split(scores, _CHUNK, 1)], 1)

    def _decode(self, reduced: Tensor, scores: Tensor) -> Tensor:
        # a 1×1 convolution of the concatenation is the sum of its two parts
        joined = functional.relu(reduced[:, None] + scores[:, :, None] * self.score[:, None, None]).flatten(0, 1)
        grids = [[max(1, round(side * factor)) for side in scores.shape[-2:]] for factor in self.factors]
        levels = [lateral(_resize(joined, grid)) for lateral, grid in zip(self.lateral, grids, strict=True)]
        merged = levels[-1]
        for level in reversed(levels[:-1]):
            merged = level + _resize(merged, list(level.shape[-2:]))
        decoded: Tensor = self.out(functional.relu(self.smooth(functional.relu(merged))))
        return decoded.view(*scores.shape[:2], *decoded.shape[-2:])


def _resize(maps: Tensor, grid: Sequence[int]) -> Tensor:
    if tuple(maps.shape[-2:]) == tuple(grid):
        return maps
    return functional.interpolate(maps, size=grid, mode="bilinear", antialias=grid[0] < maps.shape[-2])
