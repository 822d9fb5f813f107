"""The recipe ``captions``: sentences mapped into the space of a vision encoder, from photos with captions.

Source: Barsellotti et al., "Talking to DINO", ICCV 2025, section 3: per image and attention head the patches' mean
weighted by the attention of the class token; the head most like the caption stands for the image; InfoNCE.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional

from ovseg.encoders.recipe_encoder import RecipeEncoder
from ovseg.errors import ConfigError, DatasetError
from ovseg.heads.registry import HeadConfig, build_head
from ovseg.heads.textmap import TextMap
from ovseg.images.load import load_image
from ovseg.models.model import Model
from ovseg.training.config import Above0, Positive, Schedule, Share, TrainingConfig
from ovseg.training.data import read_table
from ovseg.training.features import Arrays, FeatureCache, encoder_pixels
from ovseg.training.lesson import check_share
from ovseg.training.recipe import Recipe, Task, fill_in


class CaptionSchedule(Schedule):
    """The same with defaults for captions, those of Talk2DINO."""

    batch: Positive = 128
    kind: Literal["one-cycle", "cosine", "poly"] = "cosine"
    learning_rate: Above0 = 1e-4
    weight_decay: float = 0.0


class CaptionsConfig(TrainingConfig):
    """A map from sentences to image features, trained with captions only (Talk2DINO).

    Attributes:
        head: kind ``textmap`` and its settings.
        table: CSV with the columns ``file`` and ``caption``; images are beside it or in ``images/``.
        held_out: share of the images, the last ones, kept for measuring retrieval.
    """

    recipe: Literal["captions"] = "captions"
    head: HeadConfig = HeadConfig(kind="textmap")
    table: Path
    held_out: Share = 0.1
    schedule: CaptionSchedule = CaptionSchedule()


class CaptionsTask(Task):
    """A ``TextMap`` and its InfoNCE loss over images with captions.

    Args:
        head: what is trained.
        config: the run.
        pooled: (n, heads, C) weighted means of each image's features.
        captions: (m, C') caption vectors.
        owner: (m,) the image of each caption.
        settings: the head's section of the model file.
        device: where the data are kept.

    Raises:
        DatasetError: fewer than two images are left to train on.
    """

    def __init__(
        self,
        head: TextMap,
        config: CaptionsConfig,
        *,
        pooled: Tensor,
        captions: Tensor,
        owner: Tensor,
        settings: HeadConfig,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.head, self.config, self.settings = head, config, settings
        self.kept = round(len(pooled) * (1 - config.held_out))
        if self.kept < 2:
            raise DatasetError(f"captions need at least 2 images to train on, got {self.kept} of {len(pooled)}")
        head.mean.copy_(pooled[: self.kept].mean((0, 1)))
        self.pooled, self.captions, self.owner = pooled.to(device), captions.to(device), owner
        trained_on = int((owner < self.kept).sum())
        self.manifest = [{"data": str(config.table), "images": self.kept, "captions": trained_on}]

    def forward(self, generator: torch.Generator, count: int) -> Tensor:
        """InfoNCE, both ways, of ``count`` different images and one caption of each."""
        images = torch.randperm(self.kept, generator=generator)[:count]
        drawn = torch.rand(len(self.owner), generator=generator)
        rows = torch.stack([torch.where(self.owner == image, drawn, -1.0).argmax() for image in images])
        device = self.pooled.device
        return info_nce(
            self.head.captions_to_images(self.captions[rows.to(device)], self.pooled[images.to(device)])
        )

    def parameter_groups(self) -> list[dict[str, Any]]:
        """One group for AdamW."""
        schedule = self.config.schedule
        rate, decay = schedule.learning_rate, schedule.weight_decay
        return [{"params": list(self.head.parameters()), "lr": rate, "weight_decay": decay}]


def info_nce(logits: Tensor) -> Tensor:
    """Mean of the cross-entropies of rows and of columns of (n, n) logits, the diagonal being the truth.

    Source: van den Oord et al., 2018, equation 4; both ways as Radford et al., CLIP, ICML 2021, figure 3.
    """
    truth = torch.arange(len(logits), device=logits.device)
    return (functional.cross_entropy(logits, truth) + functional.cross_entropy(logits.T, truth)) / 2


def captions_identity(config: CaptionsConfig, model: Model, cache: FeatureCache) -> dict[str, str]:
    """The content of the table and of its images."""
    files, _, _ = read_captions(config.table)
    return {"table": cache.contents(((file.name, [file]) for file in files), cache.content(config.table))}


def build_captions(
    config: CaptionsConfig, model: Model, cache: FeatureCache, accelerator: Accelerator
) -> CaptionsTask:
    """The task with its data in memory.

    Raises:
        ConfigError: the head is of another kind.
        DatasetError: the table or an image is missing.
    """
    if config.head.kind != "textmap":
        raise ConfigError(f"recipe 'captions' trains a head of kind 'textmap', got '{config.head.kind}'")
    why = "a caption is only told from those of other photos"
    check_share(config.schedule.batch, processes=accelerator.num_processes, least=2, why=why)
    files, owner, captions = read_captions(config.table)
    key = {"encoder": model.encoder_digest, "pooling": "attention heads"}

    def fetch(number: int) -> Arrays:
        file = files[number]
        return cache.fetch(key, [file], lambda: {"pooled": pooled_by_head(model, file).half().numpy()})

    cache.fill("photos with captions", len(files), fetch, accelerator=accelerator)
    pooled = torch.stack([torch.from_numpy(fetch(number)["pooled"].copy()) for number in range(len(files))])
    settings = fill_in(config.head, model)
    torch.manual_seed(config.seed)
    head: Any = build_head(settings, model.head, model.text)
    return CaptionsTask(
        head,
        config,
        pooled=pooled.float(),
        captions=model.text().encode(captions).clone(),
        owner=torch.tensor(owner),
        settings=settings,
        device=accelerator.device,
    )


def read_captions(table: Path) -> tuple[list[Path], list[int], list[str]]:
    """Image files, the image of each caption, and the captions of a CSV with the columns file and caption."""
    rows = read_table(table, column="caption")
    names = list(dict.fromkeys(name for name, _ in rows))
    folder = table.parent / "images" if (table.parent / "images").is_dir() else table.parent
    number = {name: place for place, name in enumerate(names)}
    return [folder / name for name in names], [number[name] for name, _ in rows], [caption for _, caption in rows]


@torch.inference_mode()
def pooled_by_head(model: Model, file: Path) -> Tensor:
    """(heads, C) means of an image's features weighted by each head's attention; one plain mean without heads."""
    pixels = encoder_pixels(model, load_image(file))
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


CAPTIONS = Recipe(CaptionsConfig, captions_identity, build_captions)
