"""Words and sight as one logit, for methods that do not weigh them; scores that are no logits are calibrated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic

import torch
from torch import Tensor

from ovseg.config import choose
from ovseg.examples.calibrate import calibrate
from ovseg.examples.shot import Comparison, Lesson, Shot, TaughtT, View, showing, spread_out

_HALFWAY = 2.0  # shots at which sight weighs as much as words where its say grows with them
_MEASURED = 20  # shots of a label that are scored by what the others teach

# words t and sight s, both logits (M, h, w), and n shots (M, 1, 1) to one logit
Rule = Callable[[Tensor, Tensor, Tensor], Tensor]

RULES: dict[str, Rule] = {
    "growing": lambda t, s, n: torch.lerp(t, s, n / (n + _HALFWAY)),  # λ = n/(n + n₀), as RNS gives shots more say
    "product": lambda t, s, n: (t + s) / 2,  # the geometric mean of the odds
    "maximum": lambda t, s, n: torch.maximum(t, s),
    "sight": lambda t, s, n: s,
}


@dataclass(frozen=True)
class FusedSight(Generic[TaughtT]):
    """Scores as logits of the odds of a label against all other classes, put together with those of words.

    Attributes:
        method: gives the scores.
        taught: what it keeps of the shots of each of M labels.
        threshold, spread: (M, 1, 1), score at which a cell is as likely inside as outside, and the difference that
            makes inside e times as likely.
        rows, named: (M,) as of the lesson.
        nameless: (n,) the classes of ``View.text`` whose names say nothing.
        counts: (M,) how many shots each label has.
        rule: a name of ``RULES``.
    """

    method: Comparison[TaughtT]
    taught: Sequence[TaughtT]
    threshold: Tensor
    spread: Tensor
    rows: Tensor
    named: Tensor
    nameless: Tensor
    counts: Tensor
    rule: str

    def __call__(self, view: View) -> tuple[Tensor, Tensor]:
        """See ``Sight``."""
        scores = self.method.scores(view, self.taught)
        odds = ((scores - self.threshold) / self.spread).clamp(-6, 6)
        words = view.text[self.rows]
        sight = odds + _others(view.text.index_fill(0, self.nameless.to(view.text.device), -torch.inf), self.rows)
        named = self.named.to(view.text)[:, None, None]
        together = RULES[self.rule](words, sight, self.counts.to(view.text)[:, None, None])
        # what words said is taken out and what both say is put in, so that words stay shared out over cells
        evidence = torch.where(named > 0, together - words, sight)
        return named[:, 0, 0], evidence


def fuse(method: Comparison[TaughtT], lesson: Lesson, *, rule: str, calibrated: bool = True) -> FusedSight[TaughtT]:
    """The scores that a method makes of a lesson, put together with words.

    Where a label has several shots, each is scored by what the others teach, so that the calibration is that of new
    pictures; the scores of a lone shot with itself are higher than those of others will be. The shots of one label
    are looked at before those of the next, and let go of.

    Args:
        method: gives the scores.
        lesson: the shots.
        rule: a name of ``RULES``.
        calibrated: whether scores become log odds by what the shots score; else they are log odds already.

    Raises:
        ConfigError: there is no such rule.
    """
    choose("fusion of words and sight", rule, RULES)

    def learned(shots: Sequence[Shot]) -> tuple[TaughtT, tuple[float, float, float]]:
        return method.describe(shots), _measure(method, shots) if calibrated else (0.0, 1.0, 1.0)

    each_label = [learned(lesson.of_label(label)) for label in range(len(lesson.rows))]
    taught, measured = zip(*each_label, strict=True)
    threshold, spread, _ = (torch.tensor(each)[:, None, None] for each in zip(*measured, strict=True))
    nameless = torch.cat([lesson.rows[~lesson.named], lesson.beside])
    return FusedSight(method, taught, threshold, spread, lesson.rows, lesson.named, nameless, lesson.counts, rule)


def _measure(method: Comparison[TaughtT], shots: Sequence[Shot]) -> tuple[float, float, float]:
    """Threshold, spread and separation of a label on its own shots; of many, on some that are evenly taken."""
    shots = [shots[place] for place in spread_out(len(shots), _MEASURED).tolist()]
    shown = list(showing(shots))
    inside, outside = [], []
    for shot in shots:
        others = [each for each in shots if each is not shot]
        teachers = others if any(each is not shot for each in shown) else shots
        scores = method.scores(shot.view, [method.describe(teachers)])[0]
        inside.append(scores[shot.inside])
        outside.append(scores[shot.outside])
    return calibrate(torch.cat(inside), torch.cat(outside))


def _others(text: Tensor, rows: Tensor) -> Tensor:
    """(M, h, w): for each of the rows the logarithm of the summed odds of all other classes; 0 without others.

    Classes of −∞ are none.
    """
    hidden = text[None].repeat(len(rows), 1, 1, 1)
    hidden[torch.arange(len(rows)), rows] = -torch.inf
    return hidden.logsumexp(1).nan_to_num(neginf=0)
