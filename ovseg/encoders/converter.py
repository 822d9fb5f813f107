"""Two small layers that read in a CLIP tower what DINO and FOUND were asked for when they were trained.

Source: Wysoczańska et al., CLIP-DINOiser, ECCV 2024, section 3.
"""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from ovseg.config import Config
from ovseg.errors import ModelError
from ovseg.hub import read_state
from ovseg.tensors import check_shape
from ovseg.weights import freeze

_ALIKE, _OBJECTS = "obj_proj", "bkg_decoder"  # as the released checkpoint calls the two layers
_RANDOM_WIDTH = 256  # channels of the affinity where weights are random: those of the release


class ConverterConfig(Config):
    """The converter of a model file.

    Attributes:
        file: safetensors, or a file of torch read as tensors alone, with ``obj_proj.weight`` (A, D, 3, 3),
            ``obj_proj.bias``, ``bkg_decoder.weight`` (1, D, 1, 1) and ``bkg_decoder.bias``; D is the width of the
            tower, other tensors are not read. See ``ovseg.own_files`` for where it lies.
        source: where the file may be had, for messages.
        block: which block it reads, counted from the last, which is 1.
        above: cells whose cosine is under this take nothing from one another.
    """

    file: str
    source: str = ""
    block: int = Field(default=3, ge=2)
    above: float = Field(default=0.2, ge=-1, le=1)


class Converter(nn.Module):
    """Which cells belong together, and which show an object.

    Args:
        width: D, channels of the tower's tokens.
        channels: A, channels of the affinity.
        kernel: side of the affinity's kernel, odd.
    """

    def __init__(self, width: int, channels: int = _RANDOM_WIDTH, *, kernel: int = 3) -> None:
        super().__init__()
        self.width = width
        self.obj_proj = nn.Conv2d(width, channels, kernel, padding=kernel // 2, padding_mode="replicate")
        self.bkg_decoder = nn.Conv2d(width, 1, 1)

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Affinity and objectness of cells.

        Args:
            maps: (B, D, h, w) tokens behind the normalisation before a feed-forward layer.

        Returns:
            (B, A, h, w) unit vectors whose dot products say which cells belong together, and (B, 1, h, w) in [0, 1]
            how likely a cell shows an object.

        Raises:
            ShapeError: the maps have other channels.
        """
        check_shape("maps", maps, "B D h w", D=self.width)
        alike = functional.normalize(self.obj_proj(maps), dim=1)
        objectness: Tensor = self.bkg_decoder(functional.normalize(maps, dim=1)).sigmoid()
        return alike, objectness


def build_converter(path: Path | None, *, width: int) -> Converter:
    """A frozen converter for a tower of ``width`` channels; None gives random weights, for tests and timing.

    Raises:
        ModelError: the file is damaged, or no converter of such a tower.
    """
    if path is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return _frozen(Converter(width))
    names = [f"{layer}.{part}" for layer in (_ALIKE, _OBJECTS) for part in ("weight", "bias")]
    state = {name: tensor for name, tensor in read_state(path).items() if name in names}
    missing = [name for name in names if name not in state]
    if missing:
        raise ModelError(f"expected the tensor '{missing[0]}' of a converter in '{path}', got none; check the file")
    alike = state[f"{_ALIKE}.weight"]
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if alike.ndim == 4:
        converter = Converter(alike.shape[1], alike.shape[0], kernel=alike.shape[3])
        if shapes == {name: tuple(tensor.shape) for name, tensor in converter.state_dict().items()}:
            if converter.width != width:
                raise ModelError(
                    f"'{path}' is a converter for towers {converter.width} channels wide, got one of {width}; "
                    "choose the tower that it was trained on"
                )
            converter.load_state_dict(state)
            return _frozen(converter)
    raise ModelError(f"the tensors in '{path}' are no converter's: {shapes}; see ConverterConfig for their shapes")


def _frozen(converter: Converter) -> Converter:
    freeze(converter)
    return converter


def pooled_over(values: Tensor, alike: Tensor, *, above: float) -> Tensor:
    """Each cell a mean over the cells that are alike, weighted by their cosines.

    Args:
        values: (B, C, h, w).
        alike: (B, A, h, w) unit vectors.
        above: cosines under this count for nothing.

    Returns:
        (B, C, h, w).
    """
    vectors = alike.flatten(2).float()
    cosines = vectors.transpose(1, 2) @ vectors  # (B, N, N), symmetric
    weights = cosines.masked_fill(cosines < above, 0)
    sums = values.flatten(2).float() @ weights
    means = sums / (weights.sum(1, keepdim=True) + 1e-6)
    return means.view_as(values).to(values.dtype)
