"""``--ray`` of what is done to the images of banks: their rows, and their pseudo-labels, made by many workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from ovseg.bank.build import make_rows
from ovseg.bank.options import BankOptions
from ovseg.bank.store import Row
from ovseg.cli.many import over
from ovseg.errors import ClusterError
from ovseg.images.sources import Item

A = TypeVar("A")


def rows_of_many(
    address: str, load: Callable[[], Any], device: str, items: Iterable[Item], options: BankOptions
) -> Iterator[Row]:
    """The rows of ``items``, in order, from workers that open the model by ``load``.

    Raises:
        ClusterError, OvsegError: see ``distributed.spread``.
    """
    items = [replace(item, content=None) for item in items]  # bytes of a stream are read again by who needs them
    for row in over(address, partial(_row_worker, load, options), items, gpu=not device.startswith("cpu")):
        yield _whole(row)


def lines_of_many(
    address: str, make: Callable[[], Callable[[str], dict[str, Any]]], device: str, keys: list[str]
) -> Iterator[dict[str, Any]]:
    """The lines of pseudo-labels of ``keys``, in order, from workers that write the label maps.

    Raises:
        ClusterError, OvsegError: see ``distributed.spread``.
    """
    for line in over(address, partial(_line_worker, make), keys, gpu=not device.startswith("cpu")):
        yield _whole(line)


def _row_worker(load: Callable[[], Any], options: BankOptions) -> Callable[[list[Item], bool], list[Row]]:
    segmenter = load()
    return lambda items, again: list(make_rows(items, segmenter, options))


def _line_worker(make: Callable[[], Callable[[str], A]]) -> Callable[[list[str], bool], list[A]]:
    label = make()
    return lambda keys, again: [label(key) for key in keys]


def _whole(answer: A | ClusterError) -> A:
    if isinstance(answer, ClusterError):
        raise ClusterError(f"an image could not be done: {answer}; what is done is kept, run again to go on")
    return answer
