"""Colours in the words of labels: what the pixels of a thing say of "red car", where words know no colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor

from ovseg.images.colour_names import COLOURS, colour_shares
from ovseg.images.geometry import ImageGeometry
from ovseg.models.sections import ColoursConfig
from ovseg.pipeline.cells import cell_shares, on_grid, with_padding
from ovseg.pipeline.encoded import EncodedImage
from ovseg.pipeline.examples import by_class
from ovseg.pipeline.logits import ClassLogits
from ovseg.pipeline.modifiers import Modifier
from ovseg.pipeline.queries import QueryBank, phrases_of
from ovseg.vocabulary.coloured import Coloured, coloured
from ovseg.vocabulary.labels import Vocabulary

_SHRUNK = 2  # pixels of the encoder's input for each pixel whose colour is named


@dataclass(frozen=True)
class Thing:
    """A thing that classes name, by a colour or without.

    Attributes:
        rows: the m classes.
        colours: of each class the colours that it says; none of a class that is the noun alone.
    """

    rows: tuple[int, ...]
    colours: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class ColourEvidence(Modifier):
    """Classes that say a colour lose where the thing has another; colour alone tells classes of one noun apart.

    What words say of "red car" and "blue car" differs by chance: both take the better logit at every cell. Then a
    class loses up to ``gain`` as the share of the thing around the cell that has its colour falls from ``enough``
    to nothing. The thing is where one of its classes is likely: cells count by that probability and, by a Gaussian
    of ``reach`` cells, by their distance, as a red car has black tyres. "car" beside "red car" is the other cars:
    it loses what "red car" does not.

    Attributes:
        rule: the weights.
        things: what the classes name.
    """

    rule: ColoursConfig
    things: tuple[Thing, ...]

    def __call__(self, logits: ClassLogits, encoded: EncodedImage) -> ClassLogits:
        """The logits with what colours say; unchanged for images that are no plain rectangle of pixels."""
        if not isinstance(encoded.geometry, ImageGeometry):
            return logits
        words = by_class(logits)
        asked = tuple(dict.fromkeys(name for thing in self.things for said in thing.colours for name in said))
        cells = encoded.once(f"colours {asked}", lambda: named_cells(encoded, asked))
        shares = dict(zip(asked, on_grid(cells.to(words), logits.grid), strict=True))
        rows = torch.tensor([row for thing in self.things for row in thing.rows])
        return logits.plus(rows, torch.cat([self._changes(thing, words, shares) for thing in self.things]))

    def _changes(self, thing: Thing, words: Tensor, shares: dict[str, Tensor]) -> Tensor:
        """(m, h, w) what the classes of a thing gain."""
        own = words[list(thing.rows)]
        others = [row for row in range(len(words)) if row not in thing.rows]
        likely = torch.sigmoid(own.amax(0) - words[others].logsumexp(0)) if others else torch.ones_like(own[0])
        fits = [
            (
                around(torch.stack([shares[name] for name in said]).sum(0), likely, reach=self.rule.reach)
                / self.rule.enough
            ).clamp(max=1)
            for said in thing.colours
            if said
        ]
        told, rest = iter(fits), 1 - torch.stack(fits).amax(0)
        fit = torch.stack([next(told) if said else rest for said in thing.colours])
        return own.amax(0) - own - self.rule.gain * (1 - fit)


def around(values: Tensor, weights: Tensor, *, reach: float) -> Tensor:
    """Weighted means of the cells around each cell.

    Args:
        values, weights: (h, w); weights in [0, 1].
        reach: standard deviation, in cells, of a Gaussian that the weights are times; 0 leaves the values.

    Returns:
        (h, w); 0 where all weights are.
    """
    if reach == 0:
        return values
    maps = torch.stack([values * weights, weights]).double().cpu().numpy()
    top, bottom = ndimage.gaussian_filter(maps, (0, reach, reach), mode="constant")
    return torch.from_numpy(top / np.maximum(bottom, 1e-12)).to(values)


def named_cells(encoded: EncodedImage, colours: Sequence[str]) -> Tensor:
    """(n, h, w) which share of each cell's pixels is called by each of n colours; padding repeats the edge."""
    geometry = encoded.geometry
    assert isinstance(geometry, ImageGeometry)
    height, width = (
        max(1, min(side, new // _SHRUNK)) for side, new in zip(geometry.original, geometry.resized, strict=True)
    )
    small = np.asarray(Image.fromarray(encoded.image).resize((width, height), Image.Resampling.BOX))
    named = colour_shares(small)[[COLOURS.index(name) for name in colours]]
    return with_padding(cell_shares(torch.from_numpy(named), encoded), encoded)


def with_colours(queries: QueryBank, rule: ColoursConfig) -> QueryBank:
    """The queries with the evidence of colours, where a class says one; else as they are."""
    things = things_of(queries.vocabulary)
    if not things:
        return queries
    return replace(queries, modifiers=(*queries.modifiers, ColourEvidence(rule, things)))


def things_of(vocabulary: Vocabulary) -> tuple[Thing, ...]:
    """The things of which classes, by their first phrases, say colours; each with all classes that name it."""
    if vocabulary.raw:
        return ()
    names: dict[int, str] = {row: label for row, label in enumerate(vocabulary.labels)}
    nameless = [row for row, label in names.items() if label in vocabulary.nameless]
    for phrase, row in zip(*phrases_of(vocabulary), strict=True):
        names.setdefault(row, phrase)
    said = {row: coloured(name) or Coloured((), name.casefold()) for row, name in names.items()}
    said = {row: each for row, each in said.items() if row not in nameless}
    found = []
    for each in said.values():
        if each.colours:
            rows = tuple(row for row, other in said.items() if each.same_thing(other.noun))
            found.append(Thing(rows, tuple(said[row].colours for row in rows)))
    return tuple(dict.fromkeys(found))
