"""Many images, read ahead of the model and handed out in lists."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from inspect import signature
from os import PathLike, fsdecode
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from PIL.Image import Image
from torch import Tensor

from ovseg.errors import ConfigError, ImageError, did_you_mean
from ovseg.images.load import ImageSource, Picture, read_image
from ovseg.images.reading import Reading
from ovseg.pipeline.memory import Asked
from ovseg.prefetch import chunks, prefetch

if TYPE_CHECKING:
    from ovseg.pipeline.segmenter import Labels, Segmenter

ItemT = TypeVar("ItemT")
Read = tuple[str, Picture | ImageError]


def read_ahead(images: Iterable[ImageSource], reading: Reading, *, size: int) -> Iterator[list[Read]]:
    """Lists of ``size`` images, decoded in a thread: the path, if any, and the picture or why there is none."""
    read = prefetch(lambda source: _read(source, reading), images, ahead=size)
    return chunks(read, size)


def stream(
    segmenter: Segmenter,
    images: Iterable[ImageSource],
    labels: Labels | None,
    *,
    batch_size: int,
    reading: Reading,
    on_error: str,
    options: dict[str, Any],
) -> Iterator[Any]:
    """See ``Segmenter.segment_batch``."""
    refuse_single(images)
    check_options(segmenter.segment, options)
    if on_error not in {"raise", "skip", "return"}:
        raise ConfigError(f"on_error must be 'raise', 'skip' or 'return', got {on_error!r}; choose one")
    for some in _portions(segmenter, images, labels, batch_size=batch_size, reading=reading, options=options):
        pictures = [found.pixels for _, found in some if isinstance(found, Picture)]
        encoded = iter(segmenter.encode_batch(pictures))
        for source, found in some:
            if isinstance(found, Picture):
                one = replace(next(encoded), source=source, note=found.note)
                yield segmenter.segment(one, labels, **options)
            elif on_error == "raise":
                raise found
            elif on_error == "return":
                yield found


def _portions(
    segmenter: Segmenter,
    images: Iterable[ImageSource],
    labels: Labels | None,
    *,
    batch_size: int,
    reading: Reading,
    options: dict[str, Any],
) -> Iterator[list[Read]]:
    """``read_ahead``; where memory is bounded one after the other, and as many together as there is room for."""
    memory = segmenter.memory
    if memory is None:
        yield from read_ahead(images, reading, size=batch_size)
        return
    queries = segmenter.queries(labels, background=options.get("background", "auto"))
    asked, reading = Asked.of(queries, **options), segmenter.reading_within(reading, queries, **options)
    some: list[Read] = []
    for found in (_read(source, reading) for source in images):
        some.append(found)
        sizes = [each.pixels.shape[:2] for _, each in some if isinstance(each, Picture)]
        room = min((memory.photos((height, width), asked) for height, width in sizes), default=batch_size)
        if len(some) >= min(room, batch_size):
            yield some
            some = []
    if some:
        yield some


def check_options(function: Callable[..., Any], options: Iterable[str]) -> None:
    """Refuse keywords that ``function`` does not take.

    Raises:
        TypeError: with the nearest keyword that there is.
    """
    known = [name for name, one in signature(function).parameters.items() if one.kind is one.KEYWORD_ONLY]
    for name in options:
        if name not in known:
            hint = did_you_mean(name, known)
            raise TypeError(f"{function.__name__}() has no keyword '{name}'{hint} It takes: {', '.join(known)}")


def path_of(image: Any) -> str:
    """The path of an image that is a file, empty for any other."""
    return fsdecode(image) if isinstance(image, str | PathLike) else ""


def refuse_single(images: Any) -> None:
    """Refuse one image where a list of them is expected.

    Raises:
        ImageError: it is one.
    """
    single_array = isinstance(images, np.ndarray) and images.shape[2:] in {(), (1,), (3,), (4,)}
    single_tensor = isinstance(images, Tensor) and images.ndim < 4
    if isinstance(images, str | bytes | PathLike | Image) or single_array or single_tensor:
        raise ImageError(f"images must be a list of images, got one {type(images).__name__}; write [image]")


def _read(source: ImageSource, reading: Reading) -> Read:
    try:
        return path_of(source), read_image(source, reading)
    except ImageError as error:
        return path_of(source), error
