"""Many images, read ahead of the model and handed out in lists."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from inspect import signature
from itertools import chain
from os import PathLike, fsdecode
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from PIL.Image import Image
from torch import Tensor

from ovseg.errors import ConfigError, ImageError, did_you_mean
from ovseg.images.load import ImageSource, Picture, read_image
from ovseg.images.reading import Reading
from ovseg.pipeline.memory import Asked, Memory
from ovseg.pipeline.queries import QueryBank
from ovseg.pipeline.side_by_side import side_by_side
from ovseg.prefetch import chunks, prefetch
from ovseg.result import SegmentationResult

if TYPE_CHECKING:
    from ovseg.pipeline.segmenter import Segmenter
    from ovseg.pipeline.wording import Labels

ItemT = TypeVar("ItemT")
Read = tuple[str, Picture | ImageError]


def read_ahead(images: Iterable[ImageSource], reading: Reading, *, size: int) -> Iterator[list[Read]]:
    """Lists of ``size`` images, decoded in a thread: the path, if any, and the picture or why there is none."""
    with closing(prefetch(lambda source: _read(source, reading), images, ahead=size)) as read:
        yield from chunks(read, size)


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
    queries = segmenter.queries(labels, background=options.get("background", "auto"))
    segment = partial(_segment, segmenter, queries=queries, options=options)
    doing: Generator[list[SegmentationResult | ImageError], None, None]
    if segmenter.side_by_side:
        doing = side_by_side(lambda source: segment([_read(source, reading)]), images)
    elif segmenter.memory is not None:
        asked, within = Asked.of(queries, **options), segmenter.reading_within(reading, queries, **options)
        read = (_read(source, within) for source in images)
        doing = (segment(some) for some in _with_room(segmenter.memory, read, asked, most=batch_size))
    else:
        doing = (segment(some) for some in read_ahead(images, reading, size=batch_size))
    with closing(doing) as portions:
        for one in chain.from_iterable(portions):
            if not isinstance(one, ImageError) or on_error == "return":
                yield one
            elif on_error == "raise":
                raise one


def _segment(
    segmenter: Segmenter, some: list[Read], *, queries: QueryBank, options: dict[str, Any]
) -> list[SegmentationResult | ImageError]:
    """The results of images that are encoded together, and the errors of those that could not be read."""
    pictures = [found.pixels for _, found in some if isinstance(found, Picture)]
    encoded = iter(segmenter.encode_batch(pictures))
    return [
        found
        if isinstance(found, ImageError)
        else segmenter.segment(replace(next(encoded), source=source, note=found.note), queries, **options)
        for source, found in some
    ]


def _with_room(memory: Memory, read: Iterable[Read], asked: Asked, *, most: int) -> Iterator[list[Read]]:
    """Lists of as many images as there is room for together, ``most`` at most."""
    some: list[Read] = []
    for found in read:
        some.append(found)
        sizes = [each.pixels.shape[:2] for _, each in some if isinstance(each, Picture)]
        room = min((memory.photos((height, width), asked) for height, width in sizes), default=most)
        if len(some) >= min(room, most):
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
