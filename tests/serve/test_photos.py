from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from helpers.serving import needs_server, png
from helpers.toy import make_segmenter

needs_server()

from ovseg.serve.options import Limits  # noqa: E402
from ovseg.serve.photos import Photo, PhotoCache, size_of  # noqa: E402
from ovseg.serve.refusals import Refusal  # noqa: E402


def photo(shade: int) -> Photo:
    return Photo.of(png(np.full((64, 96, 3), shade, np.uint8)), max_pixels=10_000)


def test_the_photos_used_last_are_kept() -> None:
    cache = PhotoCache(make_segmenter(), Limits(cache_photos=2))
    first = cache.encoded(photo(1))
    cache.encoded(photo(2))
    assert cache.encoded(photo(1)) is first
    cache.encoded(photo(3))
    assert len(cache) == 2 and (cache.hits, cache.misses) == (1, 3)
    assert cache.encoded(Photo(photo(1).mark)) is first
    with pytest.raises(Refusal, match=r"no photo '.*' is kept here"):
        cache.encoded(Photo(photo(2).mark))


def test_bytes_are_bounded_with_what_a_photo_collects_later() -> None:
    one = size_of(make_segmenter().encode(np.zeros((64, 96, 3), np.uint8)))
    cache = PhotoCache(make_segmenter(), Limits(cache_bytes=2 * one + 1000))
    first = cache.encoded(photo(1))
    cache.encoded(photo(2))
    assert len(cache) == 2 and cache.size == 2 * one
    first.once("collected", lambda: torch.zeros(2000))  # 8,000 bytes
    cache.encoded(photo(1))
    assert len(cache) == 1 and cache.size == one + 8000
    assert cache.encoded(photo(1)) is first  # the last one stays, whatever its size


def test_a_photo_is_known_by_its_content_and_its_pixels_are_limited() -> None:
    assert photo(1).mark == photo(1).mark != photo(2).mark
    with pytest.raises(Refusal, match="96 x 64 pixels, more than the limit of 100") as refusal:
        Photo.of(png(), max_pixels=100)
    assert refusal.value.status == 413


def test_the_size_of_nested_things_is_that_of_their_tensors_and_arrays() -> None:
    @dataclass
    class Held:
        name: str
        values: object

    held = Held("x", {"a": [torch.zeros(3), (np.zeros(2, np.uint8), "text", None)], "b": Held("y", torch.zeros(1))})
    assert size_of(held) == 12 + 2 + 4
