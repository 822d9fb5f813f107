"""A tower, a recipe and, where the recipe asks for it, a structure encoder and regions: one image encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import lcm

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from ovseg.attention import Attended, LastBlock, RecipeConfig, find_recipe
from ovseg.attention.feedback import patch_labels
from ovseg.attention.structured import resize_numbers
from ovseg.encoders.converter import Converter, ConverterConfig, pooled_over
from ovseg.encoders.spec import DenseFeatures, EncoderSpec, as_features
from ovseg.encoders.structure import StructureEncoder, renormalise
from ovseg.encoders.tower import TowerTokens, ViTTower, as_maps
from ovseg.errors import ConfigError
from ovseg.regions import RegionSource


class RecipeEncoder(nn.Module):
    """Dense features of a frozen tower whose last block runs by a recipe.

    Args:
        tower: the opened tower.
        spec: preprocessing and space of the tower.
        recipe: what its last block attends to.
        structure: structure encoder, for recipes that need one.
        regions: region source, for recipes that need one.
        regions_of_whole: whether the source looks at the image alone; see ``whole_regions``.
        converter: pools the features over cells that are alike and adds the objectness; with its settings.

    Raises:
        ConfigError: the recipe is unknown, or needs something that is not there.
    """

    def __init__(
        self,
        tower: ViTTower,
        spec: EncoderSpec,
        *,
        recipe: RecipeConfig,
        structure: StructureEncoder | None = None,
        regions: RegionSource | None = None,
        regions_of_whole: bool = False,
        converter: tuple[Converter, ConverterConfig] | None = None,
    ) -> None:
        super().__init__()
        self.tower = tower
        self.structure = structure
        self._tower_spec = spec
        self._config = recipe
        self._recipe = find_recipe(recipe)
        self._regions = regions
        self._regions_of_whole = regions_of_whole
        self.converter = None if converter is None else converter[0]
        self._conversion = None if converter is None else converter[1]
        self.keeps_history = self._recipe.history or converter is not None
        _check_converter(self._conversion, depth=len(tower.blocks), structure=structure is not None)
        _check_parts(recipe.name, "structure", wanted=self._recipe.structure, there=structure is not None)
        _check_parts(recipe.name, "regions", wanted=self._recipe.regions, there=regions is not None)

    @property
    def spec(self) -> EncoderSpec:
        """Preprocessing, space and licence; the stride is that of the features."""
        if self.structure is None:
            return self._tower_spec
        fine = self.structure.spec.stride
        multiple = lcm(self.tower.stride, fine)
        return replace(self._tower_spec, stride=fine if self._recipe.fine else self.tower.stride, multiple=multiple)

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return next(self.tower.parameters()).dtype

    def whole_regions(self, image: npt.NDArray[np.uint8]) -> Tensor | None:
        """(H, W) int32 regions of a whole (H, W, 3) image, −1 outside every one, from which windows may be cut.

        None where the recipe needs no regions, or they come from features of a window.
        """
        if self._regions is None or not self._recipe.regions or not self._regions_of_whole:
            return None
        return self._regions(torch.from_numpy(image), torch.zeros(0, 1, 1))

    def dense(self, pixels: Tensor, regions: Tensor | None = None) -> DenseFeatures:
        """Features of ``pixels`` (B, 3, H, W), normalised; H and W multiples of ``spec.granularity``.

        Args:
            pixels: as said.
            regions: (B, H, W) integers, where they are known already; None asks the region source.

        Returns:
            values (B, C, h, w), unit length over C, in the encoder's dtype; ``structure`` where grids agree.

        Raises:
            ShapeError: the sizes do not fit.
        """
        return as_features(self(pixels, regions), pixels, self.spec.space)

    def forward(self, pixels: Tensor, regions: Tensor | None = None) -> tuple[Tensor, ...]:
        """What ``dense`` returns as plain tensors, for export: values, then structure, objectness, if any."""
        pixels = pixels.to(self.dtype)
        return self._maps(self.tower.prefix(pixels, keep=self.keeps_history), pixels, regions)

    def dense_and_whole(self, pixels: Tensor, regions: Tensor | None = None) -> DenseFeatures:
        """What ``dense`` returns with ``image_vector`` as ``whole``, for one more run of the last block."""
        pixels = pixels.to(self.dtype)
        tokens = self.tower.prefix(pixels, keep=self.keeps_history)
        whole = functional.normalize(self.tower.pool(self.tower.whole_block(tokens)), dim=-1)
        return replace(as_features(self._maps(tokens, pixels, regions), pixels, self.spec.space), whole=whole)

    def dense_resumable(self, pixels: Tensor) -> tuple[DenseFeatures, TowerTokens]:
        """What ``dense`` returns, and the tokens entering the last block, with the history that its recipe read."""
        pixels = pixels.to(self.dtype)
        tokens, read = self.tower.prefix(pixels, keep=self.keeps_history), set[int]()
        maps = self._maps(tokens, pixels, None, read=read)
        return as_features(maps, pixels, self.spec.space), tokens.keeping(read)

    def dense_labelled(self, pixels: Tensor, labels: Tensor, entering: TowerTokens | None = None) -> DenseFeatures:
        """What ``dense`` returns in a second pass: (B, H, W) integer ``labels`` are those that the first gave.

        With what ``dense_resumable`` gave of the same pixels, only the last block runs.

        Raises:
            ConfigError: the recipe does not look at labels.
        """
        if not self._recipe.labels:
            raise ConfigError(f"recipe '{self._config.name}' does not look at labels; remove 'again:'")
        pixels = pixels.to(self.dtype)
        tokens = self.tower.prefix(pixels, keep=self.keeps_history) if entering is None else entering
        maps = self._maps(tokens, pixels, None, labels=patch_labels(labels, tokens.grid))
        return as_features(maps, pixels, self.spec.space)

    def _maps(
        self,
        tokens: TowerTokens,
        pixels: Tensor,
        regions: Tensor | None,
        *,
        labels: Tensor | None = None,
        read: set[int] | None = None,
    ) -> tuple[Tensor, ...]:
        """Maps of the last block; the numbers of the blocks whose history it reads are added to ``read``."""
        structure = self._structure_of(pixels)
        if structure is not None and regions is not None:
            regions = resize_numbers(regions, (structure.shape[-2], structure.shape[-1])).to(pixels.device)
        else:
            regions = self._regions_of(pixels, structure)
        read = set() if read is None else read
        block = replace(self._last_block(tokens, structure, regions, read), labels=labels)
        attended = self._recipe.run(block, self._config.options)
        values = self._finish(attended, tokens)
        if self.converter is not None:
            return self._converted(values, tokens, read)
        values = functional.normalize(values, dim=1)
        # A structure on another grid cannot say which cells of the values belong together.
        if structure is None or structure.shape[-2:] != values.shape[-2:]:
            return (values,)
        return values, functional.normalize(structure, dim=1) if self._recipe.lengths else structure

    def _converted(self, values: Tensor, tokens: TowerTokens, read: set[int]) -> tuple[Tensor, ...]:
        """Values pooled as the converter says, its affinity as structure, and its objectness."""
        assert self.converter is not None and self._conversion is not None
        number = len(self.tower.blocks) - self._conversion.block
        read.add(number)
        inside = self.tower.inside(tokens, number)[:, tokens.prefix :]
        alike, objectness = self.converter(as_maps(inside, tokens.grid))
        pooled = pooled_over(values, alike, above=self._conversion.above)
        return functional.normalize(pooled, dim=1), alike, objectness

    def image_vector(self, pixels: Tensor) -> Tensor:
        """Image vectors of ``pixels``: (B, C), unit length, from the unchanged tower."""
        return functional.normalize(self.tower.image_vector(pixels.to(self.dtype)), dim=-1)

    def _structure_of(self, pixels: Tensor) -> Tensor | None:
        if self.structure is None:
            return None
        seen = renormalise(pixels, self._tower_spec, self.structure.spec)
        features: Tensor = self.structure.read(seen) if self._recipe.lengths else self.structure(seen)
        return features

    def _last_block(
        self,
        tokens: TowerTokens,
        structure: Tensor | None,
        regions: Tensor | None,
        read: set[int] | None = None,
    ) -> LastBlock:
        read = set() if read is None else read
        q, k, v = self.tower.last_block_qkv(tokens)
        spatial = None
        if self._config.layers:
            # CorrCLIP takes the values of its spatial branch from the mean of late layers, whose tokens still
            # know their place: with 12 blocks and 5 layers, from what blocks 6 to 10 gave.
            depth = len(self.tower.blocks)
            numbers = range(max(0, depth - 1 - self._config.layers), depth - 1)
            read.update(numbers)
            late = [tokens.history[number].values for number in numbers]
            spatial = self.tower.last_block_qkv(tokens.with_values(torch.stack(late).mean(0)))[2]
        return LastBlock(
            q,
            k,
            v,
            tokens.prefix,
            tokens.grid,
            structure=structure,
            regions=regions,
            spatial=spatial,
            tower=_Around(self.tower, tokens, read),
        )

    def _regions_of(self, pixels: Tensor, structure: Tensor | None) -> Tensor | None:
        """(B, hs, ws) regions on the structure grid, each cell taking that of its upper left pixel."""
        if self._regions is None or structure is None:
            return None
        numbers = [
            resize_numbers(self._regions(image, features), (structure.shape[-2], structure.shape[-1]))
            for image, features in zip(self._as_images(pixels), structure, strict=True)
        ]
        return torch.stack(numbers).to(pixels.device)

    def _as_images(self, pixels: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 RGB on the CPU, the normalisation undone."""
        mean, std = (
            torch.tensor(values)[:, None, None] for values in (self._tower_spec.mean, self._tower_spec.std)
        )
        colours = (pixels.float().cpu() * std + mean) * 255
        return colours.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)

    def _finish(self, attended: Attended, tokens: TowerTokens) -> Tensor:
        recipe, tower = self._recipe, self.tower
        target = tokens
        if (attended.prefix, attended.grid) != (tokens.prefix, tokens.grid):
            target = TowerTokens(attended.values, attended.prefix, attended.grid)
        update = _merged(tower, attended.values)
        leaving = tower.complete(update, target, residual=recipe.residual, feed_forward=recipe.feed_forward)
        normed = tower.normalise(leaving)
        for branch in attended.branches:
            normed = normed + branch.weight * tower.normalise(_merged(tower, branch.values))
        return as_maps(tower.to_space(normed[:, attended.prefix :]), attended.grid)


@dataclass(frozen=True)
class _Around:
    """A tower and the tokens that enter its last block: what a recipe sees of them (``OpenTower``).

    ``read`` collects the numbers of the blocks whose history was asked for.
    """

    tower: ViTTower
    tokens: TowerTokens
    read: set[int]

    @property
    def depth(self) -> int:
        return len(self.tower.blocks)

    def entering(self, number: int) -> Tensor:
        self.read.add(number % self.depth)
        return self.tokens.history[number].values

    def patch_qkv(self, patches: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.tower.last_block_qkv(replace(self.tokens, values=patches, prefix=0))

    def project(self, attended: Tensor) -> Tensor:
        return self.tower.block_project(self.tower.blocks[-1], attended)

    def merge(self, attended: Tensor) -> Tensor:
        return self.tower.merge(attended)

    def mean_attention(self, blocks: Sequence[int]) -> Tensor:
        self.read.update(blocks)
        return self.tower.mean_attention(self.tokens, blocks)

    def region_tokens(self, regions: Tensor) -> Tensor:
        self.read.update(range(self.depth))
        return self.tower.region_tokens(self.tokens, regions)


def _merged(tower: ViTTower, values: Tensor) -> Tensor:
    """(B, N, D) behind the output projection, which (B, heads, N, d) are still to pass."""
    return values if values.ndim == 3 else tower.merge(values)


def _check_converter(config: ConverterConfig | None, *, depth: int, structure: bool) -> None:
    if config is None:
        return
    if config.block > depth:
        raise ConfigError(f"the converter reads one of the tower's {depth} blocks, got block {config.block}")
    if structure:
        raise ConfigError("a converter says which cells belong together, and so does 'structure:'; keep one")


def _check_parts(name: str, section: str, *, wanted: bool, there: bool) -> None:
    if wanted and not there:
        raise ConfigError(
            f"recipe '{name}' needs a section '{section}:' in the encoder of the model file, got none"
        )
