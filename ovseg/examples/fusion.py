"""Words and sight as one logit, for methods that do not weigh them; scores that are no logits are calibrated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ovseg.config import choose
from ovseg.examples.calibrate import calibrate
from ovseg.examples.prototypes import Scores
from ovseg.examples.shot import Lesson, View, showing

_HALFWAY = 2.0  # shots at which sight weighs as much as words where its say grows with them

# words t and sight s, both logits (M, h, w), and n shots (M, 1, 1) to one logit
Rule = Callable[[Tensor, Tensor, Tensor], Tensor]

RULES: dict[str, Rule] = {
    "growing": lambda t, s, n: torch.lerp(t, s, n / (n + _HALFWAY)),  # λ = n/(n + n₀), as RNS gives shots more say
    "product": lambda t, s, n: (t + s) / 2,  # the geometric mean of the odds
    "maximum": lambda t, s, n: torch.maximum(t, s),
    "sight": lambda t, s, n: s,
}


@dataclass(frozen=True)
class FusedSight:
    """Scores as logits of the odds of a label against all other classes, put together with those of words.

    Attributes:
        scores: of a method.
        threshold, spread: (M, 1, 1), score at which a cell is as likely inside as outside, and the difference that
            makes inside e times as likely.
        lesson: what was learned from, for its labels and counts.
        rule: a name of ``RULES``.
    """

    scores: Scores
    threshold: Tensor
    spread: Tensor
    lesson: Lesson
    rule: str

    def __call__(self, view: View) -> tuple[Tensor, Tensor]:
        """See ``Sight``."""
        odds = ((self.scores(view) - self.threshold) / self.spread).clamp(-6, 6)
        words = view.text[self.lesson.rows]
        sight = odds + _others(view.text, self.lesson.rows)
        named = self.lesson.named.to(view.text)[:, None, None]
        counts = torch.tensor([float(len(self.lesson.of_label(m))) for m in range(len(self.lesson.rows))])
        together = RULES[self.rule](words, sight, counts[:, None, None])
        # what words said is taken out and what both say is put in, so that words stay shared out over cells
        evidence = torch.where(named > 0, together - words, sight)
        return named[:, 0, 0], evidence


def fuse(make: Callable[[Lesson], Scores], lesson: Lesson, *, rule: str, calibrated: bool = True) -> FusedSight:
    """The scores that a method makes of a lesson, put together with words.

    Where a label has several shots, each is scored by what the others teach, so that the calibration is that of new
    pictures; the scores of a lone shot with itself are higher than those of others will be.

    Args:
        make: the method.
        lesson: the shots.
        rule: a name of ``RULES``.
        calibrated: whether scores become log odds by what the shots score; else they are log odds already.

    Raises:
        ConfigError: there is no such rule.
    """
    choose("fusion of words and sight", rule, RULES)
    lesson = replace(lesson, shots=list(lesson.shots))  # looked at again and again
    labels = range(len(lesson.rows))
    measured = [_measure(make, lesson, label) if calibrated else (0.0, 1.0, 1.0) for label in labels]
    threshold, spread, _ = (torch.tensor(each)[:, None, None] for each in zip(*measured, strict=True))
    return FusedSight(make(lesson), threshold, spread, lesson, rule)


def _measure(make: Callable[[Lesson], Scores], lesson: Lesson, label: int) -> tuple[float, float, float]:
    """Threshold, spread and separation of one label on its own shots."""
    shots = lesson.of_label(label)
    shown = showing(shots)
    alone = replace(lesson, rows=lesson.rows[label : label + 1], named=lesson.named[label : label + 1])
    inside, outside = [], []
    for shot in shots:
        others = [each for each in shots if each is not shot]
        teachers = others if any(each is not shot for each in shown) else shots
        scores = make(replace(alone, shots=[replace(each, label=0) for each in teachers]))(shot.view)[0]
        inside.append(scores[shot.inside])
        outside.append(scores[shot.outside])
    return calibrate(torch.cat(inside), torch.cat(outside))


def _others(text: Tensor, rows: Tensor) -> Tensor:
    """(M, h, w): for each of the rows the logarithm of the summed odds of all other classes; 0 without others."""
    if len(text) == 1:
        return torch.zeros_like(text)
    hidden = text[None].repeat(len(rows), 1, 1, 1)
    hidden[torch.arange(len(rows)), rows] = -torch.inf
    return hidden.logsumexp(1)
