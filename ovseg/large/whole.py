"""One view of the picture as a whole for all of its windows."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ovseg.pipeline.segmenter import Segmenter
from ovseg.pooled import Pooled


def with_one_view(segmenter: Segmenter, windows: Iterable[npt.NDArray[np.uint8]]) -> Segmenter:
    """A segmenter whose networks take every window for a part of one picture.

    Layers that look at an input as a whole (``Pooled``) make of a cell something else in every window that holds
    it, and so seams. Here each gives for any window the mean of what it gave for some. A network without such
    layers is left alone.

    Args:
        segmenter: the model; its networks stay as they are.
        windows: (H, W, 3) uint8 each, from all over the picture; none are asked for if there are no such layers.
    """
    if not _pooled(segmenter.model.image, segmenter.model.head):
        return segmenter
    image, head = copy.deepcopy((segmenter.model.image, segmenter.model.head))
    model = replace(segmenter.model, image=image, head=head)
    ours = Segmenter(model, device=segmenter.device, benchmark=segmenter.benchmark, modifiers=segmenter.added)
    layers = _pooled(image, head)
    seen: dict[nn.Module, list[Tensor]] = {layer: [] for layer in layers}
    with _hooked(layers, lambda layer, given, found: seen[layer].append(found.mean(0, keepdim=True))):
        for window in windows:
            ours.encode_batch([window])
    means = {layer: torch.stack(values).mean(0) for layer, values in seen.items() if values}
    for layer in means:
        layer.register_forward_hook(lambda layer, given, found: means[layer].expand_as(found))
    return ours


def _pooled(*parts: Any) -> list[nn.Module]:
    """The layers of networks, or of the networks that plain objects hold, that look at an input as a whole."""
    found: dict[nn.Module, None] = {}
    for part in parts:
        networks = [part] if isinstance(part, nn.Module) else list(getattr(part, "__dict__", {}).values())
        for network in networks:
            if isinstance(network, nn.Module):
                found |= {layer: None for layer in network.modules() if isinstance(layer, Pooled)}
    return list(found)


@contextmanager
def _hooked(layers: Iterable[nn.Module], hook: Any) -> Iterator[None]:
    handles = [layer.register_forward_hook(hook) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
