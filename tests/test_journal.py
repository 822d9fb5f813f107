"""Lines of a journal that no longer count are removed, and the others stay as they were."""

from pathlib import Path

from ovseg.journal import Journal, keep_lines, read_journal


def test_lines_that_are_not_kept_are_gone_from_the_file(tmp_path: Path) -> None:
    with Journal(tmp_path / "a.jsonl") as journal:
        for number in range(4):
            journal.append({"number": number, "name": "ä"})
    kept = keep_lines(tmp_path / "a.jsonl", lambda row: row["number"] % 2 == 1)
    assert [row["number"] for row in kept] == [1, 3]
    assert read_journal(tmp_path / "a.jsonl") == kept


def test_nothing_is_written_where_all_are_kept_or_there_are_none(tmp_path: Path) -> None:
    with Journal(tmp_path / "a.jsonl") as journal:
        journal.append({"number": 0})
    before = (tmp_path / "a.jsonl").stat().st_ino
    assert len(keep_lines(tmp_path / "a.jsonl", lambda row: True)) == 1
    assert (tmp_path / "a.jsonl").stat().st_ino == before
    assert keep_lines(tmp_path / "none.jsonl", lambda row: True) == []
    assert not (tmp_path / "none.jsonl").exists()
