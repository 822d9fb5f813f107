"""Words corrected by sight: a linear map of the features is added to the logits of words, and words are trusted as
far as the shots bear them out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ovseg.examples.shot import Lesson, View, spread_out

_UNIT = 10.0  # unit features times this, so that weights and trust are of one size
_CELLS = 30_000  # of all shots, 0.2 GB with the features of ``mini``
_STEPS = 40  # of L-BFGS; the loss is convex but for what is outside
SHARES = (1.0, 0.85, 0.7, 0.5, 0.35, 0.2, 0.1)  # of what was learned that may be kept
_UNJUDGED = 20  # labels of one shot each of which all is kept; of more less, as more of them are wrong at a cell


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
    """n cells of all shots: features, logits by words, label, whether they show it, weight, number of the shot."""

    features: Tensor
    text: Tensor
    label: Tensor
    inside: Tensor
    weight: Tensor
    shot: Tensor

    def of(self, chosen: Tensor) -> _Cells:
        """Some of them, (n,) bool."""
        return _Cells(*(getattr(self, each.name)[chosen] for each in fields(self)))

    def paid(self, changed: Tensor, rows: Tensor) -> Tensor:
        """(n,) what each cell pays where the logits of the M labels, which are the classes ``rows``, are (n, M)."""
        logits = self.text.index_copy(1, rows, changed)
        chosen = logits.log_softmax(1).gather(1, rows[self.label][:, None])[:, 0]
        gained = torch.where(self.inside, chosen, torch.log1p(-chosen.exp().clamp(max=1 - 1e-6)))
        return -self.weight * gained


def learn(lesson: Lesson, *, ridge: float = 0.03, doubt: float = 0.03, most: int = 300) -> LearnedSight:
    """The correction of words that explains the shots best, no larger than they ask for and other shots bear out.

    Of a shot, every cell that shows its label pays −log p, one that is known not to −log(1 − p), where p is the
    probability of the label among all classes. The means over both kinds count half each, however small the thing
    is (one kind counts in full where there is no other): it is to be found, and its surroundings to be told from
    it. To the sum over shots are added ``ridge``·|weights/10|² and ``doubt``·((trust − 1)² + offset²). So without
    shots words stay as they are, words that the shots contradict lose their say, and the more shots there are the
    more may be learned.

    Many alike labels are learned too well: what fits their own shots misleads on others. So where labels have
    several shots, half of them teach and the others judge, both ways, and of every correction of words the share
    is kept by which the judges pay least (see ``share_borne_out``). Where all labels have one shot nothing judges;
    of M labels the share min(1, 20/M) is kept.

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
        cells, rows, named = _gather(lesson, few), lesson.rows.clone(), lesson.named.clone()

        def learned(part: _Cells) -> LearnedSight:
            return _fit(part, rows, named, ridge=ridge, doubt=doubt)

        shown = torch.zeros(len(lesson.shots)).index_add(0, cells.shot, cells.inside.float()) > 0
        halves = halves_of(lesson.labels, shown.tolist())
        if bool((halves >= 0).any()):
            share = share_borne_out(_paid_by_judges(cells, halves, rows, named, learned))
        else:
            share = min(1.0, _UNJUDGED / len(rows))
        return _kept(learned(cells), share, named)


def _fit(cells: _Cells, rows: Tensor, named: Tensor, *, ridge: float, doubt: float) -> LearnedSight:
    """The weights, offsets and trust of least price, as ``learn`` states it."""
    weights = torch.zeros(len(rows), cells.features.shape[1], requires_grad=True)
    offsets, distrust = (torch.zeros(len(rows), requires_grad=True) for _ in range(2))
    said = named.to(cells.text)

    def loss() -> Tensor:
        changed = said * (1 + distrust) * cells.text[:, rows] + cells.features @ (_UNIT * weights).T + offsets
        price = ridge * weights.square().sum() + doubt * (distrust.square().sum() + offsets.square().sum())
        return price + cells.paid(changed, rows).sum()

    _minimise(loss, [weights, offsets, distrust])
    return LearnedSight(weights.detach() * _UNIT, offsets.detach(), said * (1 + distrust.detach()))


def _kept(sight: LearnedSight, share: float, named: Tensor) -> LearnedSight:
    """A share of every correction of words; labels without a name, (M,) bool, have no words to go back to."""
    part = torch.where(named, share, 1.0)
    trust = torch.where(named, 1 + share * (sight.trust - 1), 0.0)
    return LearnedSight(part[:, None] * sight.weights, part * sight.offsets, trust)


def halves_of(labels: Sequence[int], shown: Sequence[bool]) -> Tensor:
    """(S,) int64: in which half of the shots that show its label each shot is, by turns.

    Args:
        labels: of each shot.
        shown: whether the shot shows it.

    Returns:
        0 or 1; −1 for a shot that belongs to both, as the only one that shows its label or one that shows it not.
    """
    counts = Counter(label for label, shows in zip(labels, shown, strict=True) if shows)
    seen: Counter[int] = Counter()
    halves = []
    for label, shows in zip(labels, shown, strict=True):
        halves.append(seen[label] % 2 if shows and counts[label] > 1 else -1)
        seen[label] += shows
    return torch.tensor(halves)


def _paid_by_judges(
    cells: _Cells, halves: Tensor, rows: Tensor, named: Tensor, learned: Callable[[_Cells], LearnedSight]
) -> Tensor:
    """(J, shares) what each shot of either half pays by each share of what all shots but its half teach."""
    paid, half = [], halves[cells.shot]
    for number in (0, 1):
        judges, sight = cells.of(half == number), learned(cells.of(half != number))
        words = judges.text[:, rows]
        full = sight.trust * words + judges.features @ sight.weights.T + sight.offsets
        least = torch.where(named, words, full)
        by_cell = torch.stack([judges.paid(torch.lerp(least, full, share), rows) for share in SHARES], dim=1)
        by_shot = torch.zeros(len(halves), len(SHARES)).index_add(0, judges.shot, by_cell)
        paid.append(by_shot[halves == number])
    return torch.cat(paid)


def share_borne_out(paid: Tensor) -> float:
    """The largest of ``SHARES`` that is about as good as the best.

    Args:
        paid: (J, shares) what each of J shots pays, at least one.

    Returns:
        The largest by which the shots pay on average no more than one standard error above the least, the error of
        the difference shot by shot (the "one standard error rule" of Breiman et al., Classification and Regression
        Trees, 1984).
    """
    more = paid - paid[:, [int(paid.mean(0).argmin())]]
    error = more.std(0, correction=0) / len(paid) ** 0.5
    return SHARES[int((more.mean(0) <= error).int().argmax())]


def _minimise(loss: Callable[[], Tensor], parameters: list[Tensor]) -> None:
    optimizer = torch.optim.LBFGS(parameters, max_iter=_STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(closure)  # type: ignore[arg-type, no-untyped-call]


def _gather(lesson: Lesson, most: int) -> _Cells:
    """The cells of all shots that are looked at; those inside and outside of a shot weigh the same, together 1."""
    parts: list[tuple[Tensor, ...]] = []
    features, filled = torch.empty(0), 0  # of all cells: joined at the end they would be in memory twice
    for number, shot in enumerate(lesson.shots):
        if not filled:
            features = torch.empty(2 * most * len(lesson.shots), len(shot.view.features))
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
                    torch.full((count,), number),
                )
            )
    text, *others = (torch.cat(each).cpu() for each in zip(*parts, strict=True))
    return _Cells(features[:filled], text.index_fill(1, lesson.beside, -torch.inf), *others)
