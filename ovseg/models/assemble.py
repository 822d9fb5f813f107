"""What the builders of CLIP-like models share: a tower with the recipe, structure and regions of a model file."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ovseg.attention import RecipeConfig
from ovseg.encoders.converter import build_converter
from ovseg.encoders.recipe_encoder import RecipeEncoder
from ovseg.encoders.reduction.registry import TokenReduction
from ovseg.encoders.spec import EncoderSpec, Triple
from ovseg.encoders.structure import build_structure
from ovseg.encoders.tower import ViTTower
from ovseg.errors import ConfigError
from ovseg.hub import content_of, find_weights
from ovseg.models.config import ModelConfig
from ovseg.models.download import STRUCTURE_FOLDER, find_own_of
from ovseg.regions import build_regions
from ovseg.sam.load import sam_mark

CLIP_MEAN: Triple = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Triple = (0.26862954, 0.26130258, 0.27577711)
RANDOM = "random"  # what weights are known by that no file holds; they come from a fixed seed


def assemble(
    tower: ViTTower, spec: EncoderSpec, config: ModelConfig, weights: Path | None
) -> tuple[RecipeEncoder, dict[str, str]]:
    """A tower with the recipe, the structure encoder, the regions and the converter of a model file.

    Returns:
        The encoder, and what the weights of the other parts are known by, where there are such parts.
    """
    encoder = config.encoder
    tower.position_offset = encoder.position_offset
    if encoder.norm_epsilon is not None:
        _set_epsilon(tower, encoder.norm_epsilon)
    if encoder.exact_gelu:
        _use_exact_gelu(tower)
    structure, marks = None, {}
    if encoder.structure is not None:
        path = None if encoder.random_weights else _structure_file(config, weights)
        structure = build_structure(encoder.structure, path)
        marks["structure"] = mark_of(path)
    regions, whole = None, False
    if encoder.regions is not None:
        whole = encoder.regions.from_image
        regions = build_regions(encoder.regions)
        if encoder.regions.model:
            marks["regions"] = sam_mark(encoder.regions.model)
    recipe = encoder.recipe or RecipeConfig(name="plain")
    converter = None
    if encoder.converter is not None:
        path = None if encoder.random_weights else find_own_of(config, encoder.converter.file, weights)
        converter = build_converter(path, width=_width(tower)), encoder.converter
        marks["converter"] = mark_of(path)
    built = RecipeEncoder(
        tower,
        spec,
        recipe=recipe,
        structure=structure,
        regions=regions,
        regions_of_whole=whole,
        converter=converter,
    )
    if encoder.tokens is not None:
        if built.keeps_history:
            raise ConfigError(
                f"encoder.tokens: recipe '{recipe.name}' reads what entered earlier blocks, where tokens would be "
                "missing; remove 'tokens:', or choose another recipe"
            )
        tower.walk = TokenReduction(encoder.tokens, len(tower.blocks))
    return built, marks


def _width(tower: ViTTower) -> int:
    """Channels of the tower's tokens."""
    norms = (layer for layer in tower.blocks[-1].modules() if isinstance(layer, nn.LayerNorm))
    return int(next(norms).normalized_shape[0])


def _set_epsilon(tower: ViTTower, epsilon: float) -> None:
    for layer in tower.modules():
        if isinstance(layer, nn.LayerNorm):
            layer.eps = epsilon


def _use_exact_gelu(tower: ViTTower) -> None:
    quick = [name for name, layer in tower.named_modules() if type(layer).__name__.startswith("QuickGELU")]
    if not quick:
        raise ConfigError("exact_gelu does nothing here, as the tower has no x·sigmoid(1.702x); remove it")
    for name in quick:
        tower.set_submodule(name, nn.GELU())


def mark_of(path: Path | None) -> str:
    """What the weights of a file are known by."""
    return RANDOM if path is None else content_of(path)


def _structure_file(config: ModelConfig, weights: Path | None) -> Path:
    structure = config.encoder.structure
    assert structure is not None
    folder = None if weights is None else weights / STRUCTURE_FOLDER
    return find_weights(
        structure.repo,
        folder,
        what=f"structure encoder '{structure.name}'",
        sha256=structure.sha256,
        folder=STRUCTURE_FOLDER,
    )
