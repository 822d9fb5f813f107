"""``torch.compile`` for the transformer blocks of an encoder."""

from __future__ import annotations

import torch
from torch import nn

from ovseg.encoders.spec import ImageEncoder
from ovseg.encoders.tower import ViTTower
from ovseg.errors import ModelError


def compile_blocks(encoder: ImageEncoder, *, device: torch.device) -> None:
    """Compile, in place, every block of the encoder's towers that runs unchanged; the last one is a recipe's.

    Blocks of one kind share their machine code, in which the sizes are variables: the first image waits for the
    compiler, later ones of other sizes do not. Features stay the same to rounding.

    Args:
        encoder: a frozen encoder made of transformer towers.
        device: where it runs.

    Raises:
        ModelError: it has no such tower, or nothing on this machine compiles for ``device``.
    """
    parts = encoder.modules() if isinstance(encoder, nn.Module) else ()
    towers = [part for part in parts if isinstance(part, ViTTower)]
    if not towers:
        raise ModelError(
            f"expected an encoder with transformer blocks to compile, got {type(encoder).__name__}; leave out "
            "compile=True"
        )
    _try_compiler(device)
    for tower in towers:
        for block in list(tower.blocks)[:-1]:
            block.compile(dynamic=True)


def _try_compiler(device: torch.device) -> None:
    try:
        torch.compile(torch.neg)(torch.ones(2, device=device))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"expected a compiler that torch.compile can use for '{device.type}', got none ({reason}); install "
            "one (g++ for the CPU, Triton for CUDA), or leave out compile=True"
        ) from error
