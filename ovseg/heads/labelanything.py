"""Label Anything: masks, boxes and points in pictures become one vector for each label, compared with all cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from ovseg.examples.shot import Lesson
from ovseg.heads.base import Head
from ovseg.heads.blocks import Attention, Block, CrossBlock
from ovseg.heads.maskqueries import sine_positions
from ovseg.heads.shots import KINDS, SeenShot, ShotHead, ShotSettings, still


class LabelAnythingSettings(ShotSettings):
    """A ``LabelAnything``.

    Attributes:
        classes: rows of the bank of class embeddings; row 0 is the background, so one label fewer can be shown.
    """

    layers: int = Field(default=1, gt=0)
    classes: int = Field(default=100, gt=1)


@dataclass(frozen=True)
class ClassVectors:
    """What the shots say of the labels.

    Attributes:
        vectors: (1 + S, W), the background and S labels that are shown.
        label: (S,) numbers of these labels.
        count: number M of labels.
    """

    vectors: Tensor
    label: Tensor
    count: int


class LabelAnything(ShotHead):
    """The evidence is the cosine of cells with the vector of a label, less that with the vector of the background.

    Of a shot, what points at the label becomes tokens (corners of a box, a point) or an embedding of each cell (a
    mask), with the row of the label in a bank, drawn at random in training so that rows mean nothing. Tokens and
    cells look at each other and are pooled; the vectors of all shots of all labels look at each other; their means
    are the classes. These and the cells of a new picture look at each other, and are compared.

    Source: Label Anything (De Marinis et al., ECAI 2025, arXiv 2407.02075; pasqualedem/LabelAnything). On purpose:
    what was pointed at and what was not are pooled apart, the latter as shots of the background; a label's name
    is one more shot of it; some cells of a shot stand for all; no upsampling, so that the answer lies on the cells;
    cosines; labels without pictures are left to words.
    """

    def __init__(self, base: Head, settings: LabelAnythingSettings) -> None:
        super().__init__(base, settings, kind="labelanything")
        width = settings.width
        self.most = settings.classes - 1
        self.bank = nn.Parameter(0.1 * torch.randn(settings.classes, width))
        self.kind_marks = nn.Parameter(0.1 * torch.randn(len(KINDS), 2, width))
        self.cell_marks = nn.Parameter(0.1 * torch.randn(3, width))  # inside a mask, outside, without a mask
        self.word_mark = nn.Parameter(torch.zeros(width))
        self.reading = nn.ModuleList(TwoWay(settings) for _ in range(settings.layers))
        self.comparing = nn.ModuleList(
            Block(width, heads=settings.attention_heads, inner=settings.inner, dropout=settings.dropout)
            for _ in range(settings.layers)
        )
        for block in self.comparing:
            assert isinstance(block, Block)
            still(block)
        self.deciding = nn.ModuleList(TwoWay(settings) for _ in range(settings.layers))
        self.mix = nn.Conv2d(width, width, 3, padding=1, bias=False)
        nn.init.zeros_(self.mix.weight)

    def taught(self, lesson: Lesson, shots: Sequence[SeenShot]) -> ClassVectors:
        """The vectors of the background and of all labels that are shown."""
        shown = sorted({shot.label for shot in shots if bool((shot.inside > 0).any())})
        device = self.bank.device
        drawn = torch.randperm(len(self.bank) - 1)[: len(shown)] if self.training else torch.arange(len(shown))
        rows = 1 + drawn
        row_of = dict(zip(shown, rows.tolist(), strict=True))
        examples, owner = [self.bank[0]], [0]
        for shot in shots:
            if shot.label in row_of:
                for row, vector in self.vectors_of(shot, row_of[shot.label]):
                    examples.append(vector + self.bank[row])
                    owner.append(1 + shown.index(shot.label) if row else 0)
        if lesson.words is not None:
            for label, vector in zip(lesson.words.label.tolist(), lesson.words.vectors.to(self.bank), strict=True):
                if label in row_of and bool(lesson.named[label]):
                    examples.append(self.words_in(vector) + self.word_mark + self.bank[row_of[label]])
                    owner.append(1 + shown.index(label))
        tokens = torch.stack(examples)[None]
        for block in self.comparing:
            tokens = block(tokens)
        members = functional.one_hot(torch.tensor(owner, device=device), 1 + len(shown)).T.to(tokens)
        vectors = members @ tokens[0] / members.sum(1, keepdim=True)
        return ClassVectors(vectors, torch.tensor(shown, dtype=torch.int64, device=device), len(lesson.rows))

    def vectors_of(self, shot: SeenShot, row: int) -> list[tuple[int, Tensor]]:
        """Rows of the bank and (W,) vectors that a shot gives: of its label, and of the background."""
        positions = sine_positions(shot.grid, shot.cells.shape[1]).to(shot.cells)
        at = positions[
            shot.places[:, 0].to(positions.device) * shot.grid[1] + shot.places[:, 1].to(positions.device)
        ]
        inside = shot.inside[:, None]
        tokens = self.kind_marks[KINDS.index(shot.kind)] + self.bank[row]
        if shot.kind == "mask":
            cells = shot.cells + inside * self.cell_marks[0] + (1 - inside) * self.cell_marks[1]
        else:
            cells = shot.cells + self.cell_marks[2]
            if bool((shot.inside > 0).any()):
                corners = shot.places[(shot.inside > 0).cpu()]
                ends = torch.stack([corners.amin(0), corners.amax(0)])
                tokens = tokens + positions[ends[:, 0] * shot.grid[1] + ends[:, 1]]
        tokens, cells, at = tokens[None], cells[None], at[None]
        for block in self.reading:
            tokens, cells = block(tokens, cells, at)
        found = []
        for number, weights, counted in ((row, shot.inside, True), (0, 1 - shot.inside, shot.known)):
            if counted and bool((weights > 0).any()):
                pooled = weights @ cells[0] / weights.sum()
                found.append((number, pooled + tokens[0].mean(0) if number else pooled))
        return found

    def evidence(self, cells: Tensor, grid: tuple[int, int], taught: ClassVectors) -> Tensor:
        """(M, h, w) logits that are added to those by words; 0 for labels without pictures."""
        found = cells.new_zeros(taught.count, *grid)
        if not len(taught.label):
            return found
        classes, tokens = taught.vectors[None], cells[None]
        at = sine_positions(grid, cells.shape[1]).to(cells)[None]
        for block in self.deciding:
            classes, tokens = block(classes, tokens, at)
        maps = tokens.transpose(1, 2).reshape(1, -1, *grid)
        maps = functional.normalize(maps + self.mix(maps), dim=1)
        scores = self.log_scale.exp() * torch.einsum(
            "kd,dhw->khw", functional.normalize(classes[0], dim=1), maps[0]
        )
        return found.index_add(0, taught.label, scores[1:] - scores[:1])


class TwoWay(nn.Module):
    """Tokens look at each other and at cells, then the cells look at the tokens.

    Source: the decoder of Segment Anything (Kirillov et al., ICCV 2023, appendix A).
    """

    def __init__(self, settings: ShotSettings) -> None:
        super().__init__()
        width = settings.width
        self.tokens = CrossBlock(
            width, heads=settings.attention_heads, inner=settings.inner, dropout=settings.dropout
        )
        self.cell_norm = nn.LayerNorm(width)
        self.cells = Attention(width, settings.attention_heads)
        still(self.tokens)
        nn.init.zeros_(self.cells.out.weight)
        nn.init.zeros_(self.cells.out.bias)

    def forward(self, tokens: Tensor, cells: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, W) tokens, (B, n, W) cells and their positions to both anew."""
        tokens = self.tokens(tokens, self.cell_norm(cells) + positions)
        return tokens, cells + self.cells(self.cell_norm(cells) + positions, tokens)
