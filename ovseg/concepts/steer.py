"""What a person said of the seeds of a concept: accepted and rejected photos, and places in them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ovseg.concepts.concept_set import Seed
from ovseg.errors import DatasetError, VocabularyError, did_you_mean
from ovseg.escape import one_line

if TYPE_CHECKING:
    from ovseg.bank.bank import ImageBank

_PLACE = re.compile(r"(?P<key>.+):(?P<row>[-+.\w]+),(?P<column>[-+.\w]+)", re.DOTALL)
_WHOLE = -1.0  # row and column of a seed whose photo was rejected whole

Place = tuple[float, float]
Verdict = Literal["accepted", "rejected"]


@dataclass(frozen=True)
class Decision:
    """One thing that a person said.

    Attributes:
        path: key of the bank's image.
        verdict: "accepted" or "rejected".
        place: row and column as fractions of the image's height and width; None for the image, whose seed is then
            wherever it is found, and which is rejected whole.
    """

    path: str
    verdict: Verdict
    place: Place | None = None

    def cell(self, side: int) -> tuple[int, int]:
        """Row and column of the place on a grid of ``side`` × ``side`` cells."""
        assert self.place is not None
        row, column = self.place
        return min(side - 1, int(row * side)), min(side - 1, int(column * side))

    @property
    def seed(self) -> Seed:
        """As a concept's file keeps what is no seed: what was rejected, and images that were not there."""
        row, column = self.place or (_WHOLE, _WHOLE)
        return Seed(self.path, row, column, 0.0, False, -1, self.verdict)


@dataclass(frozen=True)
class Steering:
    """All that was said of one concept."""

    decisions: tuple[Decision, ...] = ()

    @property
    def accepted(self) -> list[str]:
        """Keys of the images that count for certain."""
        return list(dict.fromkeys(each.path for each in self.decisions if each.verdict == "accepted"))

    @property
    def rejected(self) -> set[str]:
        """Keys of the images that are rejected whole."""
        return {each.path for each in self.decisions if each.verdict == "rejected" and each.place is None}

    def besides(self, paths: Sequence[str]) -> tuple[Seed, ...]:
        """What was said besides that the seeds in the images ``paths`` are accepted, for the concept's file."""
        here = set(paths)
        return tuple(each.seed for each in self.decisions if each.verdict == "rejected" or each.path not in here)

    def places(self, path: str) -> list[Decision]:
        """What was said of places in an image, the rejected ones first: what was accepted there counts on."""
        here = [each for each in self.decisions if each.path == path and each.place is not None]
        return sorted(here, key=lambda each: each.verdict != "rejected")

    def then(self, later: Iterable[Decision], *, side: int) -> Steering:
        """With later decisions in place of earlier ones about the same image or cell."""
        kept = list(self.decisions)
        for new in later:
            kept = [old for old in kept if not _overrules(new, old, side)] + [new]
        return Steering(tuple(kept))


def remembered(seeds: Sequence[Seed]) -> Steering:
    """What was said before, as the seeds of a concept's file keep it."""
    decisions = []
    for seed in seeds:
        place = None if seed.row == _WHOLE else (seed.row, seed.column)
        if seed.verdict == "accepted":
            decisions.append(Decision(seed.path, "accepted", place))
        elif seed.verdict == "rejected":
            decisions.append(Decision(seed.path, "rejected", place))
    return Steering(tuple(decisions))


def read_decisions(
    bank: ImageBank,
    accept: Sequence[str],
    reject: Sequence[str],
    *,
    seeds: Sequence[Seed] = (),
    side: int,
) -> list[Decision]:
    """What is accepted and rejected, checked.

    Args:
        bank: the images that keys are looked up in.
        accept, reject: keys, paths or names of its images, each perhaps with ``:row,column`` as fractions of the
            image's height and width.
        seeds: those that the person saw; an image that is accepted is accepted for its seed.
        side: cells of the grid, to tell places apart.

    Raises:
        DatasetError: the bank has no such image; the nearest is offered.
        VocabularyError: a place that is none, or one thing accepted and rejected at once.
    """
    for name, texts in (("accept", accept), ("reject", reject)):
        if isinstance(texts, str):
            raise VocabularyError(f"{name} must be a list of images, got {texts!r}; write [{texts!r}]")
    accepted = [_at_its_seed(_read(text, "accepted", bank, seeds), seeds) for text in accept]
    rejected = [_read(text, "rejected", bank, seeds) for text in reject]
    for yes in accepted:
        for no in rejected:
            if _overrules(no, yes, side):
                raise VocabularyError(
                    f"'{one_line(yes.path)}' is accepted and rejected at once; keep one, or say which place is "
                    "meant as 'path:row,column'"
                )
    return [*accepted, *rejected]


def _read(text: str, verdict: Verdict, bank: ImageBank, seeds: Sequence[Seed]) -> Decision:
    found = _PLACE.fullmatch(str(text))
    if found is None or str(text) in bank.paths:
        return Decision(_key_of(str(text), bank, seeds), verdict)
    try:
        row, column = float(found["row"]), float(found["column"])
    except ValueError:
        return Decision(
            _key_of(str(text), bank, seeds), verdict
        )  # a file may be called so; else it is refused by name
    if not all(math.isfinite(part) and 0 <= part <= 1 for part in (row, column)):
        raise VocabularyError(
            f"the place in '{one_line(str(text))}' must be row and column as fractions in [0, 1] of the image's "
            f"height and width, got {found['row']},{found['column']}; 'ovseg concept show --json' prints those of "
            "all seeds"
        )
    return Decision(_key_of(found["key"], bank, seeds), verdict, (row, column))


def _key_of(text: str, bank: ImageBank, seeds: Sequence[Seed]) -> str:
    """The key of the image that a text stands for: a key, a path, or the name of a file that no other image has, or
    no other among those that the person saw."""
    for key in (text, str(Path(text).resolve())):
        if key in bank.paths:
            return key
    names = [Path(key).name for key in bank.paths]
    alike = [key for key, name in zip(bank.paths, names, strict=True) if name == text]
    seen = {seed.path for seed in seeds}.intersection(alike)
    for keys in (alike, list(seen)):
        if len(keys) == 1:
            return keys[0]
    shown = one_line(text)
    if alike:
        raise DatasetError(
            f"'{shown}' is the name of {len(alike)} images of the bank '{bank.root}', '{one_line(alike[0])}' and "
            f"'{one_line(alike[1])}' among them; give the whole path"
        )
    near = did_you_mean(Path(text).name, names)
    raise DatasetError(
        f"the bank '{bank.root}' has no image '{shown}'{one_line(near)} bank.paths lists all of them"
    )


def _at_its_seed(decision: Decision, seeds: Sequence[Seed]) -> Decision:
    """An accepted image with the place of the seed that was seen there."""
    here = [seed for seed in seeds if seed.path == decision.path and seed.verdict != "rejected"]
    if decision.place is not None or not here:
        return decision
    return Decision(decision.path, decision.verdict, (here[0].row, here[0].column))


def _overrules(new: Decision, old: Decision, side: int) -> bool:
    """Whether a decision takes the place of another."""
    if new.path != old.path:
        return False
    if (new.verdict, new.place) == ("rejected", None) or new.verdict == old.verdict == "accepted":
        return True  # nothing of a rejected image counts, and an image has one seed
    if new.place is None or old.place is None:
        return new.verdict == "accepted" and old.place is None  # a struck place stays so in an accepted image
    return new.cell(side) == old.cell(side)
