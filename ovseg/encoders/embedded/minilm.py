"""all-MiniLM-L6-v2, a sentence encoder, as a small BERT: words and phrases to unit vectors of 384 numbers.

Source: Devlin et al., BERT, NAACL 2019; Wang et al., MiniLM, NeurIPS 2020; Reimers and Gurevych,
Sentence-BERT, EMNLP 2019 (mean pooling). Weights: sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_WIDTH, _LAYERS, _HEADS, _INNER = 384, 6, 12, 1536
_VOCABULARY, _POSITIONS = 30522, 512
_EPSILON = 1e-12


class _Block(nn.Module):
    """One post-norm transformer layer."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(_WIDTH, 3 * _WIDTH)
        self.out = nn.Linear(_WIDTH, _WIDTH)
        self.attention_norm = nn.LayerNorm(_WIDTH, eps=_EPSILON)
        self.up = nn.Linear(_WIDTH, _INNER)
        self.down = nn.Linear(_INNER, _WIDTH)
        self.output_norm = nn.LayerNorm(_WIDTH, eps=_EPSILON)

    def forward(self, tokens: Tensor, allowed: Tensor) -> Tensor:
        heads = self.qkv(tokens).unflatten(-1, (3, _HEADS, -1)).permute(2, 0, 3, 1, 4)  # (3, B, heads, T, d)
        query, key, value = heads.unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        tokens = self.attention_norm(tokens + self.out(mixed.transpose(1, 2).flatten(2)))
        return self.output_norm(  # type: ignore[no-any-return]
            tokens + self.down(functional.gelu(self.up(tokens)))
        )


class MiniLM(nn.Module):
    """Sentence encoder: token ids to the unit mean of the last layer's tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(_VOCABULARY, _WIDTH)
        self.positions = nn.Embedding(_POSITIONS, _WIDTH)
        self.segment = nn.Parameter(torch.zeros(_WIDTH))
        self.norm = nn.LayerNorm(_WIDTH, eps=_EPSILON)
        self.blocks = nn.ModuleList(_Block() for _ in range(_LAYERS))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Unit sentence vectors.

        Args:
            ids: (B, T) int64 token ids, T ≤ 512.
            mask: (B, T) bool, True where a token is real and not padding.

        Returns:
            (B, 384) float, unit length.
        """
        positions = self.positions.weight[: ids.shape[1]]
        tokens = self.norm(self.words(ids) + positions + self.segment)
        allowed = mask[:, None, None, :]
        for block in self.blocks:
            tokens = block(tokens, allowed)
        weights = mask.unsqueeze(-1).to(tokens.dtype)
        pooled = (tokens * weights).sum(1) / weights.sum(1)
        return functional.normalize(pooled, dim=-1)
