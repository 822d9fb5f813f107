"""Features against queries: the logit of every class at every cell, shared out over cells that look alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ovseg.backends.answers import AnsweringHead, ExemplarHead, FoundMask
from ovseg.encoders.spec import DenseFeatures, check_space
from ovseg.errors import ShapeError
from ovseg.heads.base import FusionHead, Head
from ovseg.models.sections import QualityConfig
from ovseg.pipeline.encoded import EncodedImage
from ovseg.pipeline.queries import QueryBank
from ovseg.refine import affinity, pool_cells
from ovseg.tensors import check_shape

_FEW = 16  # queries are few where there are so many times as many channels
POOL = 2  # cells take from squares of 2×2 cells, so only those are compared with text: a quarter of the cost


@dataclass(frozen=True)
class NamedMasks:
    """n masks of an image and what they show, as a head with mask queries finds them.

    Attributes:
        masks: (n, h', w') logits on a grid of their own, of the same extent as the cells.
        classes: (n, K) probabilities of the classes, rows add to 1.
        objectness: (n,) in [0, 1], how sure it is that the mask shows one thing.
    """

    masks: Tensor
    classes: Tensor
    objectness: Tensor

    def __post_init__(self) -> None:
        check_shape("masks", self.masks, "n h w")
        check_shape("classes", self.classes, "n K", n=len(self.masks))
        check_shape("objectness", self.objectness, "n", n=len(self.masks))


@dataclass(frozen=True)
class ClassLogits:
    """The logits of an image for a vocabulary. Nothing changes them in place; modifiers return new ones.

    Attributes:
        values: (R, h, w) float32, a row for each class or for each query. Of the classes the first L are the
            labels, the rest are none of them.
        stride: pixels of the encoder's input per cell; not always a whole number.
        queries: what was asked for.
        sharing: (h·w, n) how much each cell takes from each square of cells, rows add to 1; None where cells are
            left alone.
        class_of_row: (R,) class of each row, where rows are queries; None where they are the K classes in order.
        found: gives the masks of a head with mask queries, made when they are first asked for; None without.
        apart: whether each row is judged by itself, rather than one against the others.
        objects: what an ``AnsweringHead`` found; None for other heads.
    """

    values: Tensor
    stride: float
    queries: QueryBank
    sharing: Tensor | None = None
    class_of_row: Tensor | None = None
    found: Callable[[], NamedMasks] | None = None
    apart: bool = False
    objects: tuple[FoundMask, ...] | None = None

    def __post_init__(self) -> None:
        check_shape("values", self.values, "K h w")

    @property
    def labels(self) -> int:
        """Number L of labels."""
        return self.queries.labels

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) cells."""
        return self.values.shape[1], self.values.shape[2]

    def smooth(self, maps: Tensor) -> Tensor:
        """Maps (M, h, w) shared out over cells as these logits were, so that both may be added."""
        if self.sharing is None:
            return maps
        return (pool_cells(maps, POOL).flatten(1) @ self.sharing.T).view_as(maps)

    def plus(self, rows: Tensor, amounts: Tensor) -> ClassLogits:
        """With ``amounts`` (n, h, w) or (n, 1, 1) added to the classes ``rows`` (n,)."""
        amounts = amounts.to(self.values).expand(-1, *self.grid)
        if self.class_of_row is not None:
            member, source = (self.class_of_row[:, None] == rows.to(self.class_of_row)).nonzero().T
            rows, amounts = member, amounts[source.to(amounts.device)]
        return replace(self, values=self.values.index_add(0, rows.to(self.values.device), amounts))

    def without(self, rows: Tensor) -> ClassLogits:
        """With the classes where ``rows`` (K,) or (L,) bool is true made impossible."""
        gone = torch.zeros(self.queries.classes, dtype=torch.bool, device=self.values.device)
        gone[: len(rows)] = rows.to(gone.device)
        if self.class_of_row is not None:
            gone = gone[self.class_of_row.to(gone.device)]
        return replace(self, values=self.values.masked_fill(gone[:, None, None], -torch.inf))

    def probabilities(self, values: Tensor) -> Tensor:
        """Softmax over the rows of (R, ...) values, and of each class its most probable row: (K, ...).

        Where rows are queries, the probabilities of classes add to less than 1. Rows that are judged by themselves
        have the sigmoid of their values.
        """
        shares = values.sigmoid() if self.apart else values.softmax(0)
        if self.class_of_row is None:
            return shares
        return best_query(shares.flatten(1), self.class_of_row, classes=self.queries.classes).view(
            -1, *values.shape[1:]
        )


def class_logits(
    head: Head,
    features: DenseFeatures,
    queries: QueryBank,
    *,
    smoothing: float | None = None,
    by_query: bool = False,
) -> ClassLogits:
    """Logits of every class at every cell: the largest of its queries', then shared out over similar cells.

    Args:
        head: of the model that made features and queries; one that fuses answers with maps of its own.
        features: of one image, (1, C, h, w), in the space of the queries.
        queries: Q queries of K classes.
        smoothing: temperature of the affinity between cells; None leaves the cells alone. So does a fused map
            that is finer than the structure.
        by_query: a row for each query in place of each class.

    Raises:
        SpaceError: features and queries are in different spaces.
        ShapeError: more than one image.
    """
    check_space(features.space, queries.space)
    if features.values.shape[0] != 1:
        raise ShapeError(f"features must be of one image, (1, C, h, w), got {tuple(features.values.shape)}")
    if isinstance(head, FusionHead):
        fused = head.fuse(features, queries.phrases.to(features.values.device))
        best, owner = _rows(fused.values[0].flatten(1).float(), queries, by_query=by_query)
        whole = ClassLogits(best.view(-1, *fused.grid), fused.stride, queries, _sharing(fused, smoothing), owner)
        return replace(whole, values=whole.smooth(whole.values))
    sharing = _sharing(features, smoothing)
    scores = _scores(features.values[0], queries, pooled=sharing is not None)
    best, owner = _rows(scores, queries, by_query=by_query)
    shared = best if sharing is None else best @ sharing.T
    return ClassLogits(shared.view(-1, *features.grid), features.stride, queries, sharing, owner)


def answered_logits(
    head: AnsweringHead, encoded: EncodedImage, queries: QueryBank, objects: QualityConfig
) -> ClassLogits:
    """As ``class_logits``, from the score maps of a model that finds objects of its own, with these.

    Args:
        head: of the model that made features and queries.
        encoded: the image.
        queries: Q queries of K classes.
        objects: which of the model's objects may be asked for.

    Raises:
        SpaceError: features and queries are in different spaces.
        VocabularyError: a label is shown by boxes of another picture.
    """
    check_space(encoded.features.space, queries.space)
    phrases = queries.phrases.to(encoded.features.values.device)
    asked: dict[str, Any] = {"least_score": objects.least_score, "most": objects.most}
    if queries.exemplars is None:
        answer = head.answer(encoded.features, phrases, encoded, **asked)
    else:
        assert isinstance(head, ExemplarHead)
        prompts = queries.exemplars.prompts(encoded, queries)
        answer = head.answer_shown(encoded.features, phrases, encoded, prompts, **asked)
    best, _ = _rows(answer.maps.flatten(1), queries, by_query=False)
    values = best.view(-1, *answer.maps.shape[1:])
    return ClassLogits(values, answer.stride, queries, objects=answer.objects)


def _scores(cells: Tensor, queries: QueryBank, *, pooled: bool) -> Tensor:
    """(Q, n) logits of the queries at (C, h, w) cells, or the means over squares of cells that sharing takes."""
    vectors = queries.embeddings.to(cells)
    # Dot products are linear: means of the scores are scores of the means. Few scores are quicker to pool.
    first = pooled and len(vectors) > len(cells) // _FEW
    scores = (vectors @ (pool_cells(cells, POOL) if first else cells).flatten(1)).float() * queries.logit_scale
    if pooled and not first:
        return pool_cells(scores.view(-1, *cells.shape[1:]), POOL).flatten(1)
    return scores


def _rows(scores: Tensor, queries: QueryBank, *, by_query: bool) -> tuple[Tensor, Tensor | None]:
    """(Q, n) scores as rows, and the class of each row where rows are queries."""
    if by_query:
        return scores, queries.class_of_query.to(scores.device)
    return best_query(scores, queries.class_of_query, classes=queries.classes), None


def best_query(logits: Tensor, class_of_query: Tensor, *, classes: int) -> Tensor:
    """Per class the maximum over its queries.

    Args:
        logits: (Q, n).
        class_of_query: (Q,) int64 in [0, classes).
        classes: K.

    Returns:
        (K, n).
    """
    if classes == logits.shape[0]:
        return logits
    owner = class_of_query.to(logits.device)[:, None].expand_as(logits)
    empty = torch.full((classes, logits.shape[1]), -torch.inf, dtype=logits.dtype, device=logits.device)
    return empty.scatter_reduce(0, owner, logits, reduce="amax")


def _sharing(features: DenseFeatures, temperature: float | None) -> Tensor | None:
    """How much each cell takes from each square of cells; None where the cells are left alone."""
    if temperature is None or features.structure is None:
        return None
    return affinity(features.structure[0], temperature=temperature, pool=POOL).float()
