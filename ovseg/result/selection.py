"""What was selected in a photo by pointing: a mask, how sure it is, and finer and coarser readings of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ovseg.errors import ConfigError, OutputError, ShapeError, did_you_mean
from ovseg.files import atomic_paths
from ovseg.result.core import SegmentationResult
from ovseg.result.segments import Mask, Segment, cut_out
from ovseg.vocabulary.labels import Concept

if TYPE_CHECKING:
    from PIL import Image

LEVELS = ("whole", "part", "subpart")
Point = tuple[float, float]
_LABEL = "selection"
_DOT = 0.008  # radius of a click in the overlay, of the image's longer side
_ON, _OFF = (0, 158, 115), (213, 94, 0)  # of clicks, for all kinds of colour vision


@dataclass(frozen=True, eq=False)
class SelectionPrompts:
    """What was pointed at, over all rounds.

    Attributes:
        positive: x, y in pixels of the image of clicks on the thing, in their order.
        negative: the same of clicks off it.
        box: x0, y0, x1, y1 in pixels around the thing; or None.
        mask: (H, W) bool, roughly the thing; or None.
        text: what it is in words; or None.
    """

    positive: tuple[Point, ...] = ()
    negative: tuple[Point, ...] = ()
    box: tuple[float, float, float, float] | None = None
    mask: Mask | None = field(default=None, repr=False)
    text: str | Concept | None = None

    @property
    def label(self) -> str:
        """The words, or ``"selection"`` without any."""
        if self.text is None:
            return _LABEL
        return self.text if isinstance(self.text, str) else self.text.label


@dataclass(frozen=True, eq=False)
class Reading:
    """One answer to prompts.

    Attributes:
        mask: (H, W) bool.
        score: how sure it is, in [0, 1].
        logits: what the network that made it corrects in a further round; its own business.
    """

    mask: Mask = field(repr=False)
    score: float
    logits: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.mask.ndim != 2 or self.mask.dtype != bool:
            raise ShapeError(f"mask must be (H, W) bool, got {self.mask.shape} {self.mask.dtype}; convert it first")
        if not 0 <= self.score <= 1:
            raise ShapeError(f"score must be from 0 to 1, got {self.score}")


@dataclass(frozen=True, eq=False)
class Selection:
    """A part of one photo that somebody pointed at; given to ``segmenter.select(previous=...)`` to correct it.

    Attributes:
        reading: the answer.
        levels: the prompts read as the whole, a part and a part of it, by name of ``LEVELS``, the largest first.
        level: which of these the answer is; None where it answers several prompts at once.
        prompts: what was pointed at so far.
        image: (H, W, 3) uint8 RGB.
        using: what answered: the name of a SAM, or "features".
        chosen: whether somebody chose the level (``at``); the next round then stays near it.
        source: the path of the photo; empty for what is no file.

    Raises:
        ShapeError: a mask has another size than the image.
    """

    reading: Reading
    levels: Mapping[str, Reading] = field(repr=False)
    level: str | None
    prompts: SelectionPrompts
    image: npt.NDArray[np.uint8] = field(repr=False)
    using: str
    chosen: bool = False
    source: str = ""

    def __post_init__(self) -> None:
        for each in (self.reading, *self.levels.values()):
            if each.mask.shape != self.image.shape[:2]:
                raise ShapeError(f"masks must be of {self.image.shape[:2]} pixels, got {each.mask.shape}")

    def __repr__(self) -> str:
        height, width = self.mask.shape
        level = "" if self.level is None else f", {self.level}"
        return f"Selection({height} x {width}: {self.area} pixels, score {self.score:.2f}{level}, by {self.using})"

    @property
    def mask(self) -> Mask:
        """(H, W) bool, true where it is."""
        return self.reading.mask

    @property
    def score(self) -> float:
        """How sure that is, in [0, 1]."""
        return self.reading.score

    @property
    def area(self) -> int:
        """Pixels."""
        return int(np.count_nonzero(self.mask))

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """x0, y0, x1, y1 in pixels, x1 and y1 not included; None where nothing was found."""
        return None if self.segment is None else self.segment.box

    def at(self, level: str) -> Selection:
        """The same prompts read as the ``"whole"``, a ``"part"`` or a ``"subpart"``.

        Raises:
            ConfigError: there is no such level.
        """
        if level not in self.levels:
            raise ConfigError(
                f"no level '{level}' of this selection{did_you_mean(str(level), self.levels)} "
                f"It has: {', '.join(self.levels)}"
            )
        return replace(self, reading=self.levels[level], level=level, chosen=True)

    @cached_property
    def segment(self) -> Segment | None:
        """As an object of a result; None where nothing was found."""
        if not self.mask.any():
            return None
        height, width = self.mask.shape
        return Segment.of_mask(self.mask, self.prompts.label, self.score, corner=(0, 0), size=(height, width))

    def to_dict(self) -> dict[str, Any]:
        """All but the pixels, as plain values that fit into JSON."""
        return {
            "score": round(self.score, 4),
            "level": self.level,
            "levels": {name: round(each.score, 4) for name, each in self.levels.items()},
            "box": None if self.box is None else list(self.box),
            "area": self.area,
            "using": self.using,
        }

    def to_result(self, label: str | None = None) -> SegmentationResult:
        """A result with one label and one object, for files, COCO, outlines and crops.

        Args:
            label: what it is; None takes the words that it was asked by, or "selection".
        """
        name = label or self.prompts.label
        found = () if self.segment is None else (replace(self.segment, label=name),)
        return SegmentationResult(
            index_map=np.where(self.mask, np.int32(0), np.int32(-1)),
            labels=(name,),
            score_map=np.where(self.mask, np.float32(self.score), np.float32(0)),
            presence={name: self.score},
            image=self.image,
            instances=found,
            things=(name,),
            provenance={"using": self.using, "source": self.source},
        )

    def to_concept(self, label: str) -> Concept:
        """A concept with the selection as its visual example.

        Args:
            label: its name.

        Raises:
            ShapeError: nothing was found, so that there is nothing to show.
            VocabularyError: the label cannot be used.
        """
        if self.segment is None:
            raise ShapeError(f"expected a selection with pixels for the concept '{label}', got none; click again")
        return Concept(label, images=(self.image,), masks=(self.mask,))

    def overlay(self, *, opacity: float = 0.55) -> Image.Image:
        """The photo with the selection in colour and the clicks, on green and off orange, as dots.

        Args:
            opacity: of the colour, in [0, 1].

        Raises:
            ShapeError: ``opacity`` is out of range.
        """
        from PIL import ImageDraw

        picture = replace(self.to_result(), instances=None, things=()).overlay(opacity=opacity)
        draw = ImageDraw.Draw(picture)
        radius = max(2.0, _DOT * max(self.mask.shape))
        for points, colour in ((self.prompts.positive, _ON), (self.prompts.negative, _OFF)):
            for x, y in points:
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour, outline="white")
        if self.prompts.box is not None:
            draw.rectangle(self.prompts.box, outline=_ON)
        return picture

    def cutout(self, *, padding: int = 0) -> Image.Image:
        """The selection cut out of the photo, RGBA, transparent where it is not.

        Args:
            padding: pixels around its box.

        Raises:
            ShapeError: nothing was found.
        """
        if self.segment is None:
            raise ShapeError("expected a selection with pixels to cut out, got none; click again")
        return cut_out(self.image, self.segment, padding=padding)

    def save(self, path: str | Path) -> list[Path]:
        """Write the mask as ``path`` (grey PNG, 255 where it is), and beside it what ends in ``_cutout.png`` (the
        selection on transparent ground; not where nothing was found) and ``_overlay.png``; all or none.

        Args:
            path: ends in ``.png``; its folder is made if need be.

        Raises:
            OutputError: the name has another ending, or the files cannot be written.
        """
        from PIL import Image

        path = Path(path)
        if path.suffix.lower() != ".png":
            raise OutputError(f"the mask is written as a PNG, got '{path}'; let its name end in .png")
        pictures = {path: Image.fromarray(self.mask.astype(np.uint8) * 255)}
        if self.segment is not None:
            pictures[path.with_name(f"{path.stem}_cutout.png")] = self.cutout()
        pictures[path.with_name(f"{path.stem}_overlay.png")] = self.overlay()
        with atomic_paths(list(pictures)) as temporary:
            for picture, place in zip(pictures.values(), temporary, strict=True):
                picture.save(place, format="PNG")
        return list(pictures)
