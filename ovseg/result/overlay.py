"""Labels drawn over the photo: colours, outlines, and a legend in a strip of its own."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from ovseg.errors import ShapeError
from ovseg.escape import one_line
from ovseg.result.lettering import Font, choose_font, drawable, shortened
from ovseg.result.numbers import write_numbers
from ovseg.result.segments import Boxed, edges

MAX_LEGEND_ENTRIES = 20

IndexMap = npt.NDArray[np.int32]
Colours = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

# Okabe and Ito's colours for all kinds of colour vision, then Tol's muted ones.
_FIRST_COLOURS: tuple[Colour, ...] = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (213, 94, 0),
    (86, 180, 233),
    (240, 228, 66),
    (136, 34, 85),
    (51, 34, 136),
    (153, 153, 51),
    (170, 68, 153),
    (17, 119, 51),
)
_GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))
_PAPER: Colour = (250, 250, 248)
_INK: Colour = (32, 33, 36)
_FAINT: Colour = (112, 114, 118)


def palette(count: int) -> Colours:
    """(count, 3) uint8 RGB, one colour per label position, the same on every call.

    The first twelve can be told apart with any colour vision. The rest go around the hues of OKLCH by the
    golden angle in three lightnesses, so that neighbours differ in both.
    """
    extra = np.arange(max(0, count - len(_FIRST_COLOURS)))
    lightness = np.array([0.72, 0.5, 0.85])[extra % 3] - 0.02 * (extra // 60 % 5)
    chroma = np.array([0.15, 0.13, 0.11])[extra % 3] * (1 - 0.25 * (extra // 3 % 2))
    generated = _oklch_to_rgb(lightness, chroma, extra * _GOLDEN_ANGLE)
    return np.concatenate([np.array(_FIRST_COLOURS, dtype=np.uint8), generated])[:count]


def draw(
    index_map: IndexMap,
    labels: Sequence[str],
    *,
    image: Colours | None,
    opacity: float = 0.55,
    instances: Sequence[Boxed] = (),
    instance_map: IndexMap | None = None,
) -> Image.Image:
    """The photo under its labels' colours, and the legend below it (right of it, if it is upright).

    Args:
        index_map: (H, W) int32; position in ``labels``, -1 for none.
        labels: L names; those without a pixel are left out of the legend.
        image: (H, W, 3) uint8 RGB; light grey if None.
        opacity: of the colours, in [0, 1].
        instances: objects, outlined and numbered over the labels.
        instance_map: (H, W) int32 number of the object at each pixel, from 1, 0 for none; goes with ``instances``.

    Returns:
        An RGB image; the photo is at its top left, unscaled. Photos too small for a legend have none.

    Raises:
        ShapeError: ``opacity`` is out of range.
    """
    if not 0 <= opacity <= 1:
        raise ShapeError(f"opacity must be from 0 to 1, got {opacity}")
    colours = palette(len(labels))
    seen = _seen(index_map, labels, instances, instance_map)
    painted = _painted(index_map, seen, colours, image, opacity, instances, instance_map)
    counts = Counter(each.label for each in instances)
    return _Legend.of(seen, labels, colours, counts=counts).beside(painted)


def draw_frame(
    index_map: IndexMap,
    labels: Sequence[str],
    *,
    image: Colours,
    instances: Sequence[Boxed] = (),
    instance_map: IndexMap | None = None,
    ids: Sequence[int] = (),
) -> Image.Image:
    """As ``draw``, of one frame of a clip: all are of one size, as the legend lists every label, with no shares.

    Args:
        index_map, labels, image, instances, instance_map: see ``draw``.
        ids: the numbers that are written into the objects, in their order.
    """
    colours = palette(len(labels))
    seen = _seen(index_map, labels, instances, instance_map)
    painted = _painted(index_map, seen, colours, image, 0.55, instances, instance_map, ids=ids)
    return _Legend.of_all(labels, colours, shape=index_map.shape).beside(painted)


def _seen(
    index_map: IndexMap, labels: Sequence[str], instances: Sequence[Boxed], instance_map: IndexMap | None
) -> IndexMap:
    """(H, W) the label of each pixel, that of the object where there is one."""
    if instance_map is None:
        return index_map
    label_of = np.array([-1, *(labels.index(each.label) for each in instances)], dtype=np.int32)
    return np.where(instance_map > 0, label_of[instance_map], index_map)


def _painted(
    index_map: IndexMap,
    seen: IndexMap,
    colours: Colours,
    image: Colours | None,
    opacity: float,
    instances: Sequence[Boxed],
    instance_map: IndexMap | None,
    *,
    ids: Sequence[int] | None = None,
) -> Image.Image:
    """The photo with labels in colour, and objects outlined and numbered."""
    if instance_map is None:
        return _paint(seen, colours, borders=seen, image=image, opacity=opacity)
    borders = np.where(instance_map > 0, instance_map + len(colours), index_map)
    painted = _paint(seen, colours, borders=borders, image=image, opacity=opacity)
    write_numbers(painted, instances, instance_map, size=_font_size(index_map.shape), ids=ids)
    return painted


def _paint(
    index_map: IndexMap, colours: Colours, *, borders: IndexMap, image: Colours | None, opacity: float
) -> Image.Image:
    """The photo tinted where there is a label, paler where there is none, with white outlines."""
    photo = Image.fromarray(np.full((*index_map.shape, 3), 225, np.uint8) if image is None else image)
    table = np.concatenate([colours, np.array([[255, 255, 255]], dtype=np.uint8)])  # -1 is the last
    tinted = Image.blend(photo, Image.fromarray(table[index_map]), opacity)
    pale = Image.blend(photo, photo.convert("L").convert("RGB"), 0.6)
    painted = Image.composite(tinted, pale, Image.fromarray(index_map >= 0))
    white = Image.new("RGB", painted.size, "white")
    return Image.composite(white, painted, _outlines(borders))


def _outlines(index_map: IndexMap) -> Image.Image:
    """A mask ("L", 0 or 215) of the lines between unequal neighbours, thicker on larger images."""
    outlines = np.where(edges(index_map), np.uint8(215), np.uint8(0))
    thickness = min(5, round(_scale(index_map.shape) / 450)) | 1  # odd, so that lines lie in their middle
    return Image.fromarray(_thickened(outlines, thickness // 2))


def _thickened(lines: npt.NDArray[np.uint8], reach: int) -> npt.NDArray[np.uint8]:
    """The largest value within ``reach`` pixels, down and up, then across; Pillow's own filter takes far longer."""
    tall = lines.copy()
    for shift in range(1, reach + 1):
        np.maximum(tall[shift:], lines[:-shift], out=tall[shift:])
        np.maximum(tall[:-shift], lines[shift:], out=tall[:-shift])
    wide = tall.copy()
    for shift in range(1, reach + 1):
        np.maximum(wide[:, shift:], tall[:, :-shift], out=wide[:, shift:])
        np.maximum(wide[:, :-shift], tall[:, shift:], out=wide[:, :-shift])
    return wide


@dataclass(frozen=True)
class _Entry:
    text: str
    share: str
    colour: Colour | None


@dataclass(frozen=True)
class _Legend:
    """The entries of a legend and the measures, in pixels, that they are drawn by."""

    entries: list[_Entry]
    font_size: int
    font: Font

    @classmethod
    def of(
        cls, index_map: IndexMap, labels: Sequence[str], colours: Colours, *, counts: Mapping[str, int]
    ) -> _Legend:
        """The labels that have pixels, the largest first; the rest are counted."""
        areas = np.bincount((index_map + 1).ravel(), minlength=len(labels) + 1)[1:]
        order = [int(i) for i in np.argsort(-areas, kind="stable") if areas[i]]
        font_size = _font_size(index_map.shape)
        shown = {i: _counted(one_line(labels[i]), counts.get(labels[i], 0)) for i in order[:MAX_LEGEND_ENTRIES]}
        font = choose_font(shown.values(), size=font_size)
        entries = [
            _Entry(
                drawable(shown[i], font),
                _percent(areas[i] / index_map.size),
                (int(colours[i, 0]), int(colours[i, 1]), int(colours[i, 2])),
            )
            for i in shown
        ]
        if len(order) > MAX_LEGEND_ENTRIES:
            entries.append(_Entry(f"+{len(order) - MAX_LEGEND_ENTRIES} more", "", None))
        if not entries:
            entries.append(_Entry("none of the labels", "", None))
        return cls(entries, font_size, font)

    @classmethod
    def of_all(cls, labels: Sequence[str], colours: Colours, *, shape: tuple[int, ...]) -> _Legend:
        """The first labels in their order, whether or not they have pixels; the rest are counted."""
        font_size = _font_size(shape)
        shown = [one_line(label) for label in labels[:MAX_LEGEND_ENTRIES]]
        font = choose_font(shown, size=font_size)
        entries = [
            _Entry(drawable(label, font), "", (int(red), int(green), int(blue)))
            for label, (red, green, blue) in zip(shown, colours, strict=False)
        ]
        if len(labels) > len(shown):
            entries.append(_Entry(f"+{len(labels) - len(shown)} more", "", None))
        return cls(entries, font_size, font)

    def beside(self, photo: Image.Image) -> Image.Image:
        """The photo with the legend in a strip below, or to the right of an upright photo."""
        upright = photo.height > photo.width
        strip = self._right_strip(photo.height) if upright else self._bottom_strip(photo.width)
        if strip is None:
            return photo
        corner = (photo.width, 0) if upright else (0, photo.height)
        canvas = Image.new("RGB", (corner[0] + strip.width, corner[1] + strip.height), _PAPER)
        if not upright:
            canvas = canvas.resize((photo.width, canvas.height))
        canvas.paste(photo)
        canvas.paste(strip, corner)
        return canvas

    def _bottom_strip(self, width: int) -> Image.Image | None:
        room = width - 2 * self._margin + self.font_size  # the last column needs no gap after it
        if room < 7 * self.font_size:
            return None
        cell = min(room, self._cell_width())
        columns = min(len(self.entries), room // cell)
        rows = math.ceil(len(self.entries) / columns)
        # Spread over the strip, but not so far that the eye loses the row.
        cell = max(cell, min(room // columns, round(1.25 * cell)))
        return self._draw((width, rows * self._row_height + 2 * self._margin), cell=cell, columns=columns)

    def _right_strip(self, height: int) -> Image.Image | None:
        rows = (height - 2 * self._margin) // self._row_height
        if rows < 1:
            return None
        columns = math.ceil(len(self.entries) / rows)
        cell = self._cell_width()
        return self._draw((columns * cell + 2 * self._margin, height), cell=cell, columns=columns)

    def _draw(self, size: tuple[int, int], *, cell: int, columns: int) -> Image.Image:
        strip = Image.new("RGB", size, _PAPER)
        pen = ImageDraw.Draw(strip)
        for position, entry in enumerate(self.entries):
            row, column = divmod(position, columns)
            left = self._margin + column * cell
            self._draw_entry(pen, entry, (left, self._margin + row * self._row_height), cell)
        return strip

    def _draw_entry(self, pen: ImageDraw.ImageDraw, entry: _Entry, corner: tuple[int, int], cell: int) -> None:
        side = self.font_size
        left, middle = corner[0], corner[1] + self._row_height / 2
        if entry.colour is not None:
            box = (left, round(middle - side / 2), left + side, round(middle + side / 2))
            pen.rounded_rectangle(box, radius=side // 5, fill=entry.colour)
            left += round(1.45 * side)
        font = self.font
        share_width = font.getlength(f" {entry.share}")
        room = corner[0] + cell - side - left - share_width
        text = shortened(entry.text, font, room=room)
        pen.text((left, middle), text, fill=_INK, font=font, anchor="lm")
        pen.text((left + font.getlength(f"{text} "), middle), entry.share, fill=_FAINT, font=font, anchor="lm")

    def _cell_width(self) -> int:
        """Room for the longest entry, its swatch and a gap; long texts count as 11 font sizes."""
        font = self.font
        longest = max(
            min(font.getlength(entry.text), 11 * self.font_size) + font.getlength(f" {entry.share}")
            for entry in self.entries
        )
        return math.ceil(longest + 2.6 * self.font_size)

    @property
    def _margin(self) -> int:
        return round(0.7 * self.font_size)

    @property
    def _row_height(self) -> int:
        return round(1.6 * self.font_size)


def _counted(label: str, objects: int) -> str:
    return f"{objects} × {label}" if objects else label


def _font_size(shape: tuple[int, ...]) -> int:
    return min(96, max(12, round(_scale(shape) / 32)))


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.095 else f"{share:.1%}" if share >= 0.0005 else "<0.1%"


def _scale(shape: tuple[int, ...]) -> float:
    """A length that stands for the size of an image: the side of a square of its area."""
    return math.sqrt(shape[0] * shape[1])


def _oklch_to_rgb(lightness: npt.NDArray[Any], chroma: npt.NDArray[Any], hue: npt.NDArray[Any]) -> Colours:
    """(n, 3) uint8 sRGB, clipped to the gamut. Source: Ottosson, A perceptual color space, 2020."""
    lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=1)
    to_lms = np.array(
        [
            [1, 0.3963377774, 0.2158037573],
            [1, -0.1055613458, -0.0638541728],
            [1, -0.0894841775, -1.2914855480],
        ]
    )
    to_linear = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = np.clip((lab @ to_lms.T) ** 3 @ to_linear.T, 0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray((srgb * 255).round(), dtype=np.uint8)
