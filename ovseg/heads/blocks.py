"""Transformer blocks of the trained heads, normalised before each step."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class Attention(nn.Module):
    """Scaled dot-product attention with several heads; ``bias`` is that of queries, keys and values.

    Source: Vaswani et al., NeurIPS 2017, section 3.2.
    """

    def __init__(self, width: int, heads: int, *, bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=bias)
        self.key_value = nn.Linear(width, 2 * width, bias=bias)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, memory: Tensor, allowed: Tensor | None = None) -> Tensor:
        """What ``tokens`` (B, T, W) read from ``memory`` (B, M, W).

        ``allowed`` (T, M) bool, or (B, 1, T, M) for images apart, says which tokens may look at which.
        """
        query = self.query(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, T, d)
        pairs = self.key_value(memory).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        key, value = pairs.unbind(0)
        read = functional.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        mixed: Tensor = self.out(read.transpose(1, 2).flatten(2))
        return mixed


class FeedForward(nn.Sequential):
    """Two layers with GELU between them."""

    def __init__(self, width: int, inner: int, dropout: float) -> None:
        super().__init__(nn.Linear(width, inner), nn.GELU(), nn.Dropout(dropout), nn.Linear(inner, width))


class Block(nn.Module):
    """Self-attention and feed-forward, each added to its input."""

    def __init__(self, width: int, *, heads: int, inner: int, dropout: float = 0.0, bias: bool = True) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads, bias=bias)
        self.inner_norm = nn.LayerNorm(width)
        self.inner = FeedForward(width, inner, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, allowed: Tensor | None = None) -> Tensor:
        """(B, T, W) to the same; ``allowed`` as of ``Attention``, (T, T) or (B, 1, T, T)."""
        normed = self.norm(tokens)
        tokens = tokens + self.dropout(self.attention(normed, normed, allowed))
        mixed: Tensor = tokens + self.dropout(self.inner(self.inner_norm(tokens)))
        return mixed


class CrossBlock(nn.Module):
    """A decoder layer: tokens look at each other, then at a memory, then feed forward; no biases in attention."""

    def __init__(self, width: int, *, heads: int, inner: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.itself = Block(width, heads=heads, inner=inner, dropout=dropout, bias=False)
        self.norm = nn.LayerNorm(width)
        self.cross = Attention(width, heads, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, memory: Tensor) -> Tensor:
        """(B, T, W) tokens and (B, M, W) memory, normalised already, to (B, T, W)."""
        block = self.itself
        normed = block.norm(tokens)
        tokens = tokens + block.dropout(block.attention(normed, normed))
        tokens = tokens + self.dropout(self.cross(self.norm(tokens), memory))
        mixed: Tensor = tokens + block.dropout(block.inner(block.inner_norm(tokens)))
        return mixed
