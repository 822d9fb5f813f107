"""The recipe ``captions``: sentences mapped into the space of a vision encoder, from photos with captions.

Source: Barsellotti et al., "Talking to DINO", ICCV 2025, section 3: per image and attention head the patches' mean
weighted by the attention of the class token; the head most like the caption stands for the image; InfoNCE.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ovseg.encoders.recipe_encoder import RecipeEncoder
from ovseg.errors import ConfigError, DatasetError
from ovseg.files import sha256_of
from ovseg.heads.registry import HeadConfig, build_head, spaces_of
from ovseg.heads.textmap import TextMap
from ovseg.images.load import load_image
from ovseg.models.model import Model
from ovseg.training.config import CaptionsConfig
from ovseg.training.data import read_table
from ovseg.training.features import FeatureCache, encoder_key, whole_pixels
from ovseg.training.recipes.masks import fill_in
from ovseg.weights import save_weights


class CaptionsTask(nn.Module):
    """A ``TextMap`` and its InfoNCE loss over images with captions.

    Args:
        head: what is trained.
        config: the run.
        pooled: (n, heads, C) weighted means of each image's features.
        captions: (m, C') caption vectors.
        owner: (m,) the image of each caption.
        settings: the head's section of the model file.
    """

    pooled: Tensor
    captions: Tensor
    owner: Tensor

    def __init__(
        self,
        head: TextMap,
        config: CaptionsConfig,
        pooled: Tensor,
        captions: Tensor,
        owner: Tensor,
        settings: HeadConfig,
    ) -> None:
        super().__init__()
        self.head, self.config, self.settings = head, config, settings
        self.kept = round(len(pooled) * (1 - config.held_out))
        if self.kept < 2:
            raise DatasetError(f"captions need at least 2 images to train on, got {self.kept} of {len(pooled)}")
        head.mean.copy_(pooled[: self.kept].mean((0, 1)))
        self.register_buffer("pooled", pooled)
        self.register_buffer("captions", captions)
        self.register_buffer("owner", owner)

    @property
    def manifest(self) -> list[dict[str, Any]]:
        """What the run is trained on."""
        return [
            {"data": str(self.config.table), "images": self.kept, "classes": int((self.owner < self.kept).sum())}
        ]

    def forward(self, generator: torch.Generator, count: int) -> Tensor:
        """InfoNCE, both ways, of ``count`` different images and one caption of each."""
        images = torch.randperm(self.kept, generator=generator)[:count]
        drawn = torch.rand(len(self.owner), generator=generator)
        rows = torch.stack([torch.where(self.owner.cpu() == image, drawn, -1.0).argmax() for image in images])
        device = self.pooled.device
        logits = self.head.captions_to_images(self.captions[rows.to(device)], self.pooled[images.to(device)])
        return info_nce(logits)

    def parameter_groups(self) -> list[dict[str, object]]:
        """One group for AdamW."""
        schedule = self.config.schedule
        rate, decay = schedule.learning_rate, schedule.weight_decay
        return [{"params": list(self.head.parameters()), "lr": rate, "weight_decay": decay}]

    def export(self, path: Path, *, metadata: dict[str, str]) -> str:
        """Write the head's weights and return their SHA-256."""
        return save_weights(self.head.state_dict(), path, metadata={**metadata, **spaces_of(self.head)})


def info_nce(logits: Tensor) -> Tensor:
    """Mean of the cross-entropies of rows and of columns of (n, n) logits, the diagonal being the truth.

    Source: van den Oord et al., 2018, equation 4; both ways as Radford et al., CLIP, ICML 2021, figure 3.
    """
    truth = torch.arange(len(logits), device=logits.device)
    return (functional.cross_entropy(logits, truth) + functional.cross_entropy(logits.T, truth)) / 2


def build_captions(config: CaptionsConfig, model: Model, cache: FeatureCache) -> CaptionsTask:
    """The task with its data in memory.

    Raises:
        ConfigError: the head is of another kind.
        DatasetError: the table or an image is missing.
    """
    if config.head.kind != "textmap":
        raise ConfigError(f"recipe 'captions' trains a head of kind 'textmap', got '{config.head.kind}'")
    files, owner, sentences = read_captions(config.table)

    def examples() -> Iterator[tuple[Tensor, Tensor]]:
        for file in files:
            pooled = pooled_by_head(model, file)
            yield pooled, torch.arange(len(pooled))

    key = {**encoder_key(model), "captions": sha256_of(config.table), "pooling": "attention heads"}
    cells = cache.fetch(key, examples())
    pooled = torch.stack([features for features, _ in cells.images()])
    settings = fill_in(config.head, model)
    torch.manual_seed(config.seed)
    head: Any = build_head(settings, model.head, model.text)
    vectors = model.text().encode(sentences).clone()
    return CaptionsTask(head, config, pooled, vectors, torch.tensor(owner), settings)


def read_captions(table: Path) -> tuple[list[Path], list[int], list[str]]:
    """Image files, the image of each caption, and the captions of a CSV with the columns file and caption."""
    rows = read_table(table, column="caption")
    names = list(dict.fromkeys(row["file"] for row in rows))
    folder = table.parent / "images" if (table.parent / "images").is_dir() else table.parent
    number = {name: place for place, name in enumerate(names)}
    return [folder / name for name in names], [number[row["file"]] for row in rows], [r["caption"] for r in rows]


@torch.inference_mode()
def pooled_by_head(model: Model, file: Path) -> Tensor:
    """(heads, C) means of an image's features weighted by each head's attention; one plain mean without heads."""
    pixels = whole_pixels(model, load_image(file))
    dense = model.image.dense(pixels).values[0].flatten(1).float()  # (C, n)
    weights = head_weights(model.image, pixels)
    if weights is None or weights.shape[1] != dense.shape[1]:
        return dense.mean(1)[None]
    return weights.float() @ dense.T


def head_weights(encoder: object, pixels: Tensor) -> Tensor | None:
    """(heads, n) attention of the class token to the patches, rows summing to 1; None without such a token."""
    if not isinstance(encoder, RecipeEncoder):
        return None
    tokens = encoder.tower.prefix(pixels.to(encoder.dtype))
    if tokens.prefix == 0:
        return None
    query, key, _ = encoder.tower.last_block_qkv(tokens)
    scale = query.shape[-1] ** -0.5
    scores = (query[0, :, :1] @ key[0, :, tokens.prefix :].transpose(-1, -2))[:, 0] * scale
    weights: Tensor = scores.softmax(-1)
    return weights
