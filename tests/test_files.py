from __future__ import annotations

from pathlib import Path

import pytest

from ovseg.errors import ConfigError, OutputError
from ovseg.files import atomic_paths, sha256_of_bytes, sha256_of_ends
from ovseg.journal import Journal, read_journal
from ovseg.prefetch import chunks, prefetch


def test_files_that_belong_together_appear_together(tmp_path: Path) -> None:
    paths = [tmp_path / "a.png", tmp_path / "a.json"]
    with atomic_paths(paths) as temporaries:
        for temporary, text in zip(temporaries, ("picture", "record"), strict=True):
            temporary.write_text(text)
        assert not any(path.exists() for path in paths)
    assert [path.read_text() for path in paths] == ["picture", "record"]
    assert sorted(tmp_path.iterdir()) == sorted(paths)


def test_a_full_disk_leaves_neither_a_lone_picture_nor_its_half(tmp_path: Path) -> None:
    paths = [tmp_path / "a.png", tmp_path / "a.json"]
    with pytest.raises(OutputError, match="is the disk full"), atomic_paths(paths) as temporaries:
        temporaries[0].write_text("picture")
        raise OSError(28, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_the_last_file_never_stands_beside_files_that_it_does_not_describe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever renaming a crash stops at, the record of the earlier run is gone or everything is of one run."""
    import os

    paths = [tmp_path / "a.png", tmp_path / "a_overlay.png", tmp_path / "a.json"]
    for after in range(3):
        for path in paths:
            path.write_text("old")
        renamed: list[object] = []

        def crash(source: object, target: object, *, real=os.replace, done=renamed, last=after) -> None:
            if len(done) == last:
                raise KeyboardInterrupt
            done.append(target)
            real(source, target)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("ovseg.files.os.replace", crash)
            with atomic_paths(paths) as temporaries:
                for temporary in temporaries:
                    temporary.write_text("new")
        assert not paths[-1].exists()
        assert renamed == paths[:after]


def test_a_journal_gives_its_whole_lines_back_and_goes_on_after_half_of_one(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rows.jsonl"
    assert read_journal(path) == []
    with Journal(path) as journal:
        journal.append({"n": 1, "name": "é"})
        assert read_journal(path) == [{"n": 1, "name": "é"}]  # on disk at once
        journal.append({"n": 2})
    with path.open("a") as stream:
        stream.write('{"n": 3, "na')  # as a kill leaves it
    assert [row["n"] for row in read_journal(path)] == [1, 2]
    with Journal(path) as journal:
        journal.append({"n": 4})
    assert [row["n"] for row in read_journal(path)] == [1, 2, 4]


@pytest.mark.parametrize(("line", "said"), [("{nonsense", "is damaged"), ("[1]", "must be an object")])
def test_a_damaged_line_of_a_journal_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"n": 1}\n' + line + "\n")
    with pytest.raises(ConfigError, match=f"line 2 of .* {said}"):
        read_journal(path)


def test_prefetching_keeps_the_order_and_stays_a_little_ahead() -> None:
    taken: list[int] = []

    def source():
        for number in range(10):
            taken.append(number)
            yield number

    ahead = []
    for done in prefetch(lambda number: number * number, source(), ahead=2):
        ahead.append(len(taken) - len(ahead))
        assert done == (len(ahead) - 1) ** 2
    assert len(ahead) == 10 and max(ahead) <= 4


def test_an_error_ahead_is_raised_when_its_turn_comes() -> None:
    def half(number: int) -> int:
        if number == 2:
            raise ValueError("two")
        return number

    done = prefetch(half, [0, 1, 2, 3])
    assert [next(done), next(done)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(done)


def test_chunks_hold_every_item_once_and_take_no_more_than_they_need() -> None:
    source = iter(range(7))
    taken = chunks(source, 3)
    assert next(taken) == [0, 1, 2] and next(source) == 3
    assert list(taken) == [[4, 5, 6]]
    assert list(chunks([], 3)) == []


def test_the_ends_of_a_file_are_its_first_and_last_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a"

    def ends(content: bytes) -> str:
        path.write_bytes(content)
        return sha256_of_ends(path, most=3)

    assert ends(b"abc--xyz") == sha256_of_bytes(b"abcxyz") == ends(b"abc++xyz")
    assert ends(b"abcde") == sha256_of_bytes(b"abcde") and ends(b"ab") == sha256_of_bytes(b"ab")
    assert ends(b"") == sha256_of_bytes(b"")
