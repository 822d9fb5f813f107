"""Transformer blocks of the trained heads as slow loops: one token and one attention head at a time."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def slow_norm(row: Tensor, layer: Any) -> Tensor:
    mean = row.sum() / len(row)
    variance = ((row - mean) ** 2).sum() / len(row)
    return (row - mean) / (variance + 1e-5).sqrt() * layer.weight + layer.bias


def slow_linear(row: Tensor, layer: Any) -> Tensor:
    products = torch.stack([(row * weights).sum() for weights in layer.weight])
    return products if layer.bias is None else products + layer.bias


def slow_attention(tokens: Tensor, memory: Tensor, layer: Any, allowed: Any) -> Tensor:
    size = tokens.shape[1] // layer.heads
    queries = [slow_linear(row, layer.query) for row in tokens]
    pairs = [slow_linear(row, layer.key_value) for row in memory]
    mixed = []
    for place, query in enumerate(queries):
        parts = []
        for head in range(layer.heads):
            own = slice(head * size, (head + 1) * size)
            keys = [pair[: tokens.shape[1]][own] for pair in pairs]
            values = [pair[tokens.shape[1] :][own] for pair in pairs]
            scores = [float((query[own] * key).sum()) / math.sqrt(size) for key in keys]
            powers = [math.exp(s) if allowed(place, other) else 0.0 for other, s in enumerate(scores)]
            parts.append(sum(p / sum(powers) * v for p, v in zip(powers, values, strict=True)))
        mixed.append(slow_linear(torch.cat(parts), layer.out))
    return torch.stack(mixed)


def slow_forward(row: Tensor, layers: Any) -> Tensor:
    inner = slow_linear(row, layers[0])
    bent = torch.tensor([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in inner.tolist()], dtype=row.dtype)
    return slow_linear(bent, layers[3])


def slow_block(tokens: Tensor, block: Any, allowed: Any, cross: Any = None, memory: Any = None) -> Tensor:
    normed = torch.stack([slow_norm(row, block.norm) for row in tokens])
    tokens = tokens + slow_attention(normed, normed, block.attention, allowed)
    if cross is not None:
        looking = torch.stack([slow_norm(row, cross.norm) for row in tokens])
        tokens = tokens + slow_attention(looking, memory, cross.cross, lambda *_: True)
    return tokens + torch.stack([slow_forward(slow_norm(row, block.inner_norm), block.inner) for row in tokens])
