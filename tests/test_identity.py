from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from ovseg.errors import SpaceError
from ovseg.identity import (
    FileMark,
    check_model,
    difference,
    digest,
    mark_files,
    sealed,
    still_marked,
    unsealed,
)

LONG_AGO = time.time() - 1000


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that was written long before anyone looks at it."""
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"first")
    monkeypatch.setattr("ovseg.identity.time.time", lambda: time.monotonic() + 1e9 + LONG_AGO)
    return path


def test_equal_values_have_equal_digests_whatever_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": (2, 3)}) == digest({"b": [2, 3], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    assert len(digest("x")) == 24


def test_a_value_whose_text_would_hold_an_address_is_refused() -> None:
    with pytest.raises(TypeError, match="plain values in a description, got object"):
        digest({"a": object()})


def test_a_difference_names_the_first_key_and_both_values() -> None:
    assert difference({"a": 1, "b": 2}, {"a": 1, "b": 2}) is None
    assert difference({"a": 1, "b": 2}, {"a": 1, "b": 3}) == "b 2 before and 3 now"
    assert difference({"a": 1}, {"a": 1, "c": "x"}) == "c None before and 'x' now"
    assert difference({"gone": 1}, {}) == "gone 1 before and None now"
    assert difference({"a": [1, 2]}, {"a": (1, 2)}) is None  # as JSON would bring it back


def test_a_file_that_did_not_change_is_known_unread(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = FileMark.of(old)
    assert mark.stamp
    monkeypatch.setattr("ovseg.identity.sha256_of", lambda path: pytest.fail("it was read"))
    assert mark.still(old)


def test_a_touched_file_is_read_and_known_again(old: Path) -> None:
    mark = FileMark.of(old)
    os.utime(old, (1, 1))
    assert FileMark.of(old).stamp != mark.stamp
    assert mark.still(old)


def test_a_change_of_equal_length_with_the_old_time_put_back_is_seen(old: Path) -> None:
    mark, facts = FileMark.of(old), old.stat()
    old.write_bytes(b"other")
    os.utime(old, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert old.stat().st_mtime_ns == facts.st_mtime_ns and old.stat().st_size == facts.st_size
    assert not mark.still(old)


def test_another_file_of_equal_length_moved_into_the_place_is_seen(old: Path) -> None:
    mark = FileMark.of(old)
    other = old.with_name("other.jpg")
    other.write_bytes(b"other")
    os.utime(other, ns=(old.stat().st_atime_ns, old.stat().st_mtime_ns))
    other.replace(old)
    assert not mark.still(old)


def test_a_file_that_was_just_written_is_not_trusted_by_its_times(tmp_path: Path) -> None:
    path = tmp_path / "new.jpg"
    path.write_bytes(b"first")
    assert FileMark.of(path).stamp == ""
    assert FileMark.of(path).still(path)


def test_a_copy_and_a_missing_file(old: Path) -> None:
    mark = FileMark.of(old, content=old.read_bytes())
    copy = old.with_name("copy.jpg")
    copy.write_bytes(old.read_bytes())
    assert mark == FileMark.of(old) and mark.still(copy)
    assert not mark.still(old.with_name("none.jpg"))


def test_marks_of_several_files_hold_in_order(old: Path) -> None:
    other = old.with_name("mask.png")
    other.write_bytes(b"mask")
    marks = mark_files([old, other])
    assert still_marked([old, other], marks)
    assert not still_marked([other, old], marks)
    assert not still_marked([old], marks)
    for nonsense in (None, [1, 2], [{"size": 5}, {"size": 4}]):
        assert not still_marked([old, other], nonsense)


def test_another_model_is_refused_with_both_named() -> None:
    kept = {"model": "mini", "weights": "a", "features": "f"}
    check_model(kept, {**kept, "templates": "other"}, what="it was built", again="build it again")
    with pytest.raises(SpaceError, match="weights 'a', got 'b'; load that model, or build it again"):
        check_model(kept, {**kept, "weights": "b"}, what="it was built", again="build it again")


def test_a_sealed_description_opens_only_as_it_was_sealed() -> None:
    closed = json.loads(json.dumps(sealed({"images": 3, "range": (0.5, 1), "name": "ä"})))
    assert unsealed(closed) == {"images": 3, "range": [0.5, 1], "name": "ä"}
    for change in ({"images": 4}, {"more": 1}, {"digest": "0"}, {"range": [0.5, 2]}):
        assert unsealed({**closed, **change}) is None
    assert unsealed({"images": 3}) is None
