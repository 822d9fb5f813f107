"""Mask queries on frozen cells: each query answers with a mask and with a vector that is compared with text.

The compact form of FrozenSeg (Chen et al., 2024): the pixel decoder with compiled operators gives way to plain
transformer blocks over queries and cells together, as in EoMT (Kerssies et al., CVPR 2025) and PMT (2026), which
train on cached features of a frozen encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from ovseg.encoders.spec import DenseFeatures
from ovseg.errors import ConfigError, ShapeError
from ovseg.heads.base import Head, Phrases
from ovseg.heads.blocks import Attention, Block
from ovseg.heads.stacked import StackedHead, StackedSettings, inputs_of
from ovseg.tensors import check_shape

SAM_CHANNELS = 256  # of a SAM's embedding
_SURELY_SEEN = 0.99  # trust from which a phrase is one of the names that were trained on


class MaskQueriesSettings(StackedSettings):
    """A ``MaskQueries``.

    Attributes:
        queries: at most so many things are found in an image.
        width, layers, attention_heads, inner: of the transformer; the width is a multiple of 4.
        dropout: in the transformer.
        upsamplings: steps that double the grid of the masks.
        sam: name of a SAM of ``ovseg.sam`` whose embedding the queries and cells also read; empty for none.
        agnostic: find things without names: all objects are of one class, and the map below names them.
        fusion: how a query's own class probabilities p are mixed with those of the map below inside its mask, m:
            "nearness": share · p + (1 − share) · m, share = ``own`` times the trust in the label (0 up to the
            cosine ``trust`` to the nearest name trained on, 1 at that name);
            "geometric": p^(1 − a) m^a with a = 0.4 for names trained on, 0.8 for others (FC-CLIP, equation 7).
        own: largest share of a query's own probabilities under "nearness"; without ``residual`` they count alone.
        labels: what the label map comes from: the masks of the "queries", or the map "below" alone.
    """

    inputs: Literal["joint", "encoder"] = "encoder"
    trust: float | None = Field(default=0.8, ge=-1, lt=1)
    queries: int = Field(default=50, gt=0)
    width: int = Field(default=192, gt=0, multiple_of=4)
    layers: int = Field(default=3, gt=0)
    attention_heads: int = Field(default=6, gt=0)
    inner: int = Field(default=384, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    upsamplings: int = Field(default=1, ge=0, le=4)
    sam: str = ""
    agnostic: bool = False
    fusion: Literal["nearness", "geometric"] = "nearness"
    own: float = Field(default=0.5, ge=0, le=1)
    labels: Literal["queries", "below"] = "below"

    @model_validator(mode="after")
    def _fits(self) -> MaskQueriesSettings:
        if self.width % self.attention_heads:
            raise ValueError(f"width {self.width} must be a multiple of attention_heads {self.attention_heads}")
        if self.fusion == "geometric" and (self.trust is None or not self.residual):
            raise ValueError("fusion: geometric needs trust and residual, to know names and to have two answers")
        return self


@dataclass(frozen=True)
class QueryAnswer:
    """What n queries say of B images.

    Attributes:
        masks: (B, n, h', w') logits on a grid ``upsamplings`` times as fine as the cells.
        vectors: (B, n, D) unit vectors in the space of the text inputs.
    """

    masks: Tensor
    vectors: Tensor


class MaskQueries(StackedHead):
    """Learned queries that find masks among frozen cells and name them by cosine with text.

    ``pixels`` and ``phrases`` stay those of the head below, times its scale, so that its dense map is there as
    before; ``answers`` adds the masks.

    Deviations from FrozenSeg: no multi-scale pixel decoder; SAM's map is added to the cells, which show the same
    places, where the paper lets them attend; the queries read SAM's cells by one cross-attention in place of means
    over their masks.
    """

    def __init__(self, base: Head, settings: MaskQueriesSettings) -> None:
        super().__init__(base, settings, kind="maskqueries")
        width = settings.width
        self.settings = settings
        self.cells_in = nn.Sequential(nn.LayerNorm(self.feature_width), nn.Linear(self.feature_width, width))
        self.queries = nn.Parameter(torch.randn(settings.queries, width))
        self.blocks = nn.ModuleList(
            Block(width, heads=settings.attention_heads, inner=settings.inner, dropout=settings.dropout)
            for _ in range(settings.layers)
        )
        self.norm = nn.LayerNorm(width)
        self.upscale = nn.Sequential(*(_Doubling(width) for _ in range(settings.upsamplings)))
        self.to_mask = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
        )
        self.pooled_in = nn.Linear(width, width)
        self.to_vector = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, self.phrase_width))
        self.marks = nn.Parameter(torch.randn(1 + settings.agnostic, self.phrase_width))  # void, and any thing
        self.log_scale = nn.Parameter(torch.tensor(1 / 0.07).log())
        if settings.sam:
            self.sam_cells = nn.Conv2d(SAM_CHANNELS, width, 1)
            self.sam_tokens = nn.Sequential(
                nn.Conv2d(SAM_CHANNELS, width, 3, stride=2, padding=1), nn.GroupNorm(1, width), nn.ReLU()
            )
            self.sam_norm = nn.LayerNorm(width)
            self.sam_read = Attention(width, settings.attention_heads)

    def pixels(self, features: DenseFeatures) -> DenseFeatures:
        """(B, C, h, w) encoder features to those of the head below, times its scale, with this head's inputs."""
        joint = super().pixels(features)
        inputs = joint.values if joint.inputs is None else joint.inputs
        return DenseFeatures(
            joint.values * self.base_scale, self.space, joint.stride, structure=joint.structure, inputs=inputs
        )

    def answers(
        self, features: DenseFeatures, sam: Tensor | None = None, *, closed: Sequence[bool] | None = None
    ) -> list[QueryAnswer]:
        """What the queries say; the last answer is the one that counts.

        Args:
            features: from ``pixels``.
            sam: (B, 256, a, b) embedding of the same images by the SAM that the settings name.
            closed: for training: whether each block lets a query look only at the cells of its mask so far (all,
                where that is empty). An answer before each block then comes first. None: one answer, all open.

        Raises:
            ShapeError: ``sam`` is missing, has another form, or the head reads none; or ``closed`` is not one flag
                for each block.
        """
        if closed is not None and len(closed) != len(self.blocks):
            raise ShapeError(f"closed must have a flag for each of {len(self.blocks)} blocks, got {len(closed)}")
        maps = inputs_of(features).to(self.queries)
        self._check_sam(sam, images=len(maps))
        grid = (maps.shape[-2], maps.shape[-1])
        cells = self.cells_in(maps.flatten(2).transpose(1, 2))  # (B, h·w, W)
        cells = cells + sine_positions(grid, cells.shape[-1]).to(cells)
        queries = self.queries.expand(len(maps), -1, -1)
        if sam is not None:
            own = functional.interpolate(self.sam_cells(sam), size=grid, mode="bilinear")
            cells = cells + own.flatten(2).transpose(1, 2)
            queries = queries + self.sam_read(self.sam_norm(queries), self._sam_memory(sam))
        found = []
        for number, block in enumerate(self.blocks):
            allowed = None
            if closed is not None:
                found.append(self._answer(queries, cells, grid))
                allowed = open_cells(found[-1].masks, grid) if closed[number] else None
            tokens = block(torch.cat([queries, cells], 1), allowed)
            queries, cells = tokens[:, : queries.shape[1]], tokens[:, queries.shape[1] :]
        return [*found, self._answer(queries, cells, grid)]

    def class_logits(self, vectors: Tensor, names: Tensor) -> Tensor:
        """Cosine of (..., D) vectors with (K, D) text inputs, times the learned scale: (..., K)."""
        cosine = vectors @ functional.normalize(names, dim=-1).to(vectors).T
        return cosine * self.log_scale.exp().clamp(max=100)

    def reads(self, phrases: Phrases) -> bool:
        """Whether phrases have what vectors are compared with; those made of pictures may not."""
        return not self.apart or phrases.inputs is not None

    def training_logits(self, vectors: Tensor) -> Tensor:
        """(..., N + 1) logits of the names trained on, or of "any thing" alone, and of nothing, which is last."""
        names = self.marks[1:] if self.settings.agnostic else self._known_inputs()
        return torch.cat([self.class_logits(vectors, names), self.class_logits(vectors, self.marks[:1])], -1)

    def objectness(self, vectors: Tensor) -> Tensor:
        """(..., D) to (...): how sure it is that a query found something, whatever labels are asked for."""
        return 1 - self.training_logits(vectors).softmax(-1)[..., -1]

    def fused(self, own: Tensor, below: Tensor, trust: Tensor) -> Tensor:
        """The class probabilities of queries, mixed by ``fusion``.

        Args:
            own: (n, K) of the queries themselves, rows add to 1.
            below: (n, K) of the map below inside their masks, rows add to 1.
            trust: (K,) in [0, 1] how near each class is to the names trained on.

        Returns:
            (n, K), rows add to 1.
        """
        if self.settings.fusion == "geometric":
            power = torch.where(trust >= _SURELY_SEEN, 0.4, 0.8).to(own)
            logs = (1 - power) * own.clamp_min(1e-12).log() + power * below.clamp_min(1e-12).log()
            return logs.softmax(-1)
        share = trust * (self.settings.own if self.residual else 1.0)
        mixed = share * own + (1 - share) * below
        return mixed / mixed.sum(-1, keepdim=True).clamp_min(1e-12)

    def _known_inputs(self) -> Tensor:
        if not len(self.known):
            raise ConfigError("a head of kind 'maskqueries' must be trained before it can be used; ovseg train")
        return self.known if self.apart else self.base.phrases(self.known).values

    def _answer(self, queries: Tensor, cells: Tensor, grid: tuple[int, int]) -> QueryAnswer:
        queries, cells = self.norm(queries), self.norm(cells)
        maps = cells.transpose(1, 2).reshape(len(cells), -1, *grid)  # (B, W, h, w)
        masks = torch.einsum("bnd,bdhw->bnhw", self.to_mask(queries), self.upscale(maps)) / queries.shape[-1] ** 0.5
        inside = functional.interpolate(masks.detach(), size=grid, mode="bilinear").flatten(2) > 0
        weights = inside.to(cells) / inside.sum(-1, keepdim=True).clamp_min(1)
        vectors = self.to_vector(queries + self.pooled_in(weights @ cells))
        return QueryAnswer(masks, functional.normalize(vectors, dim=-1))

    def _sam_memory(self, sam: Tensor) -> Tensor:
        maps = self.sam_tokens(sam)
        tokens: Tensor = maps.flatten(2).transpose(1, 2)
        return tokens + sine_positions((maps.shape[-2], maps.shape[-1]), maps.shape[1]).to(tokens)

    def _check_sam(self, sam: Tensor | None, *, images: int) -> None:
        if not self.settings.sam and sam is not None:
            raise ShapeError("this head reads no SAM, got sam=; set head.settings.sam and train it")
        if self.settings.sam:
            if sam is None:
                raise ShapeError(f"this head reads the embedding of '{self.settings.sam}', got sam=None")
            check_shape("sam", sam, "B C a b", B=images, C=SAM_CHANNELS)


class _Doubling(nn.Module):
    """A transposed convolution that doubles the grid, then one by channel; of PMT, after Mask2Former's FPN."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.doubled = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.mix = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm = nn.LayerNorm(width)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, W, h, w) to (B, W, 2h, 2w)."""
        maps = self.mix(functional.gelu(self.doubled(maps)))
        normed: Tensor = self.norm(maps.movedim(1, -1)).movedim(-1, 1)
        return normed


def sine_positions(grid: tuple[int, int], width: int) -> Tensor:
    """(h·w, width) sines and cosines of the places of cells, from half a wave to 16 waves across the image.

    Source: as in DETR (Carion et al., ECCV 2020, appendix A.4), whose waves are up to 10000 images long.
    """
    rates = 0.5 * 32 ** torch.linspace(0, 1, width // 4)
    waves = []
    for axis, cells in enumerate(grid):
        angles = 2 * torch.pi * (torch.arange(cells) + 0.5)[:, None] / cells * rates
        wave = torch.cat([angles.sin(), angles.cos()], 1)  # (cells, width / 2)
        waves.append(wave[:, None].expand(-1, grid[1], -1) if axis == 0 else wave[None].expand(grid[0], -1, -1))
    return torch.cat(waves, -1).flatten(0, 1)


def open_cells(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Which tokens may look at which: a query only at the cells of its mask, everything else at all.

    Args:
        masks: (B, n, h', w') logits; a query whose mask is empty looks at all cells.
        grid: (h, w) of the cells.

    Returns:
        (B, 1, n + h·w, n + h·w) bool; queries come first.

    Source: Cheng et al., Mask2Former, CVPR 2022, section 3.2.1, as EoMT applies it to joint tokens.
    """
    inside = functional.interpolate(masks.detach(), size=grid, mode="bilinear").flatten(2) > 0
    inside = inside | ~inside.any(-1, keepdim=True)
    count = masks.shape[1]
    allowed = torch.ones(
        len(masks), 1, count + inside.shape[-1], count + inside.shape[-1], dtype=torch.bool, device=masks.device
    )
    allowed[:, 0, :count, count:] = inside
    return allowed


def class_trust(phrases: Phrases, class_of_phrase: Tensor, *, classes: int) -> Tensor:
    """(K,) trust in each class, that of its most trusted phrase; 1 where nothing was said."""
    trust = torch.ones(len(phrases)) if phrases.trust is None else phrases.trust.cpu().float()
    return torch.zeros(classes).scatter_reduce(0, class_of_phrase.cpu(), trust, reduce="amax")
