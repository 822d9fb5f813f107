"""The bands of an image as its file holds them: chosen, scaled, and laid over white only by a stated opacity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ovseg.errors import ImageError
from ovseg.images.depth import choose_scale
from ovseg.images.reading import Reading

SAY_BANDS = "bands=(R, G, B) or bands=(GREY,) (--bands 3,2,1 on the command line)"


@dataclass(frozen=True)
class Samples:
    """An upright image in its own bands and values.

    Attributes:
        values: (H, W, C) of any number type.
        stated: the lowest and largest value that the file says its data may have; None where it says nothing.
        opacity: the band that the file states to be opacity, counted from 0; None for none.
        premultiplied: whether colours are multiplied by the opacity already.
        colours: whether the file states that its first three bands are red, green and blue.
        inverted: whether 0 is white.
        missing: the value that means "no data".
        names: of the bands, where the file names them.
    """

    values: npt.NDArray[Any]
    stated: tuple[float, float] | None = None
    opacity: int | None = None
    premultiplied: bool = False
    colours: bool = False
    inverted: bool = False
    missing: float | None = None
    names: tuple[str, ...] = ()

    def to_rgb(self, reading: Reading, *, name: str) -> tuple[npt.NDArray[np.uint8], str]:
        """(H, W, 3) uint8, and what was decided on the way that the caller should know; empty for nothing.

        Raises:
            ImageError: the bands that are colours are not known, or there is no such band, or as ``choose_scale``.
        """
        chosen, told = self._chosen(reading, name=name)
        shown = self.values[:, :, list(chosen)]
        scale = choose_scale(shown, given=reading.value_range, stated=self.stated, name=name, missing=self.missing)
        notes = [told] if told else []
        if scale is None:
            grey = shown.astype(np.uint8) * (255 if shown.dtype == np.bool_ else 1)
        else:
            grey = scale.apply(shown)
            if self.missing is not None:
                grey[shown == self.missing] = 0
            if scale.why:
                notes.append(f"values are scaled as {scale.low:g}..{scale.high:g}, {scale.why}")
        grey = 255 - grey if self.inverted else grey
        rgb = np.repeat(grey, 3, axis=2) if grey.shape[2] == 1 else grey
        if self.opacity is not None and reading.bands is None:
            rgb = self._over_white(rgb, self.values[:, :, [self.opacity]])
        return np.ascontiguousarray(rgb), "; ".join(notes)

    def chosen(self, reading: Reading, *, name: str) -> npt.NDArray[Any]:
        """(H, W, 1 or 3) in their own values: the bands that are shown.

        Raises:
            ImageError: as ``to_rgb``.
        """
        return self.values[:, :, list(self._chosen(reading, name=name)[0])]

    def _over_white(self, rgb: npt.NDArray[np.uint8], opacity: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        full = np.iinfo(opacity.dtype).max if np.issubdtype(opacity.dtype, np.integer) else 1.0
        share = (opacity.astype(np.float64) / full).clip(0, 1)
        colour = rgb if self.premultiplied else rgb * share
        over: npt.NDArray[np.uint8] = (colour + 255 * (1 - share)).clip(0, 255).round().astype(np.uint8)
        return over

    def _chosen(self, reading: Reading, *, name: str) -> tuple[tuple[int, ...], str]:
        """The bands that are shown, counted from 0, and what is to be told of the choice."""
        count = self.values.shape[2]
        if reading.bands is not None:
            if max(reading.bands) > count:
                wanted = ",".join(map(str, reading.bands))
                raise ImageError(
                    f"{name} has {count} bands ({self._named()}), got bands {wanted}; choose among these"
                )
            return tuple(band - 1 for band in reading.bands), ""
        colours = [band for band in range(count) if band != self.opacity]
        if self.colours and len(colours) > 3:
            left = ", ".join(self._name(band) for band in colours[3:])
            return tuple(colours[:3]), f"band {left} is left out, the file does not say that it is opacity"
        if len(colours) == 1 or (len(colours) == 3 and self.colours):
            return tuple(colours), ""
        if len(colours) == 3:
            return tuple(colours), f"bands {self._named()} are taken for red, green, blue; {SAY_BANDS} if not so"
        raise ImageError(
            f"{name} has {count} bands ({self._named()}), and does not say which are red, green and blue; choose "
            f"them with {SAY_BANDS}"
        )

    def _named(self) -> str:
        return ", ".join(self._name(band) for band in range(self.values.shape[2])[:20])

    def _name(self, band: int) -> str:
        named = self.names[band] if band < len(self.names) else ""
        named = named or ("opacity" if band == self.opacity else "")
        named = named or (("red", "green", "blue")[band] if self.colours and band < 3 else "")
        return f"{band + 1} {named}".strip()


def turned(values: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """(H, W, C) turned upright by the number of the EXIF orientation."""
    turns: dict[int, Callable[[npt.NDArray[Any]], npt.NDArray[Any]]] = {
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a),
    }
    return turns[orientation](values) if orientation in turns else values
