"""Words corrected by sight: a linear map of the features is added to the logits of words, and words are trusted as
far as the shots bear them out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ovseg.examples.shot import Lesson, Shot, View, spread_out

_UNIT = 10.0  # unit features times this, so that weights and trust are of one size
_CELLS = 30_000  # of all shots, 0.2 GB with the features of ``mini``
_STEPS = 40  # of L-BFGS; the loss is convex but for what is outside


@dataclass(frozen=True)
class LearnedSight:
    """The logit of a label: trust × logit by words + weights · features + offset.

    Attributes:
        weights: (M, C).
        offsets: (M,).
        trust: (M,); 0 for labels without a name.
    """

    weights: Tensor
    offsets: Tensor
    trust: Tensor

    def __call__(self, view: View) -> tuple[Tensor, Tensor]:
        """See ``Sight``."""
        maps = torch.einsum("mc,chw->mhw", self.weights.to(view.features), view.features)
        return self.trust.to(maps), maps + self.offsets.to(maps)[:, None, None]


@dataclass(frozen=True)
class _Cells:
    """n cells of all shots: features, logits by words, label of the shot, whether they show it, their weight."""

    features: Tensor
    text: Tensor
    label: Tensor
    inside: Tensor
    weight: Tensor


def learn(lesson: Lesson, *, ridge: float = 0.03, doubt: float = 0.03, most: int = 300) -> LearnedSight:
    """The correction of words that explains the shots best, and is no larger than they ask for.

    Of a shot, every cell that shows its label pays −log p, one that is known not to −log(1 − p), where p is the
    probability of the label among all classes. The means over both kinds count half each, however small the thing
    is (one kind counts in full where there is no other): it is to be found, and its surroundings to be told from
    it. To the sum over shots are added ``ridge``·|weights/10|² and ``doubt``·((trust − 1)² + offset²). So without
    shots words stay as they are, words that the shots contradict lose their say, and the more shots there are the
    more may be learned.

    Args:
        lesson: the shots.
        ridge: price of weights.
        doubt: price of distrust in words.
        most: cells that are looked at inside, and as many outside, of each shot; fewer where there are many shots.

    Source: a ridge head with the text as prior mean, as in "training-free" adapters of CLIP (Zhang et al.,
    Tip-Adapter, ECCV 2022), here with the logistic loss and one factor a label on the text.
    """
    few = max(1, min(most, _CELLS // (2 * len(lesson.shots))))
    with torch.inference_mode(False), torch.enable_grad():  # tensors of inference mode cannot be learned from
        cells = _gather(lesson.shots, few)
        count, channels = len(lesson.rows), cells.features.shape[1]
        rows, named = lesson.rows.clone(), lesson.named.clone().to(cells.text)
        words = cells.text.index_fill(1, lesson.beside.clone(), -torch.inf)
        weights = torch.zeros(count, channels, requires_grad=True)
        offsets, distrust = (torch.zeros(count, requires_grad=True) for _ in range(2))

        def loss() -> Tensor:
            factor = named * (1 + distrust)
            changed = factor * words[:, rows] + cells.features @ (_UNIT * weights).T + offsets
            logits = words.index_copy(1, rows, changed)
            chosen = logits.log_softmax(1).gather(1, rows[cells.label][:, None])[:, 0]
            paid = torch.where(cells.inside, chosen, torch.log1p(-chosen.exp().clamp(max=1 - 1e-6)))
            price = ridge * weights.square().sum() + doubt * (distrust.square().sum() + offsets.square().sum())
            return price - (cells.weight * paid).sum()

        _minimise(loss, [weights, offsets, distrust])
    found = (weights.detach() * _UNIT, offsets.detach(), named * (1 + distrust.detach()))
    return LearnedSight(*found)


def _minimise(loss: Callable[[], Tensor], parameters: list[Tensor]) -> None:
    optimizer = torch.optim.LBFGS(parameters, max_iter=_STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(closure)  # type: ignore[arg-type, no-untyped-call]


def _gather(shots: Sequence[Shot], most: int) -> _Cells:
    """The cells of all shots that are looked at; those inside and outside of a shot weigh the same, together 1."""
    parts: list[tuple[Tensor, ...]] = []
    features, filled = torch.empty(0), 0  # of all cells: joined at the end they would be in memory twice
    for shot in shots:
        if not filled:
            features = torch.empty(2 * most * len(shots), len(shot.view.features))
        sides = {side: (shot.inside if side else shot.outside).flatten().nonzero()[:, 0] for side in (True, False)}
        known = {side: places for side, places in sides.items() if len(places)}
        for side, places in known.items():
            kept = places[spread_out(len(places), most)]
            count = len(kept)
            features[filled : filled + count] = shot.view.features.flatten(1).T[kept].cpu()
            filled += count
            parts.append(
                (
                    shot.view.text.flatten(1).T[kept],
                    torch.full((count,), shot.label),
                    torch.full((count,), side),
                    torch.full((count,), 1 / len(known) / count),
                )
            )
    return _Cells(features[:filled], *(torch.cat(each).cpu() for each in zip(*parts, strict=True)))
