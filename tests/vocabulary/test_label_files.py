from pathlib import Path

import pytest

from ovseg.errors import VocabularyError
from ovseg.vocabulary.label_files import names_in, read_label_file

CAT_DOG = [(0, "cat"), (1, "brown dog")]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", "\ufeff# animals\ncat\n\n  brown dog \n", CAT_DOG),
        ("a.txt", "cat  # the animal\r\n'brown dog'\r\n", CAT_DOG),
        ("a.txt", "0: cat\n1: brown dog\n", CAT_DOG),
        ("a.txt", '# id name\n17:\twall\n3\t"brown dog"\n', [(17, "wall"), (3, "brown dog")]),
        ("a.txt", "2 euro coin\ncat", [(0, "2 euro coin"), (1, "cat")]),
        ("a.json", '["cat", "brown dog"]', CAT_DOG),
        ("a.json", '{"0": "cat", "1": "brown dog"}', CAT_DOG),
        ("a.json", '{"categories": [{"id": 7, "name": "cat"}]}', [(7, "cat")]),
        ("a.json", '[{"name": "cat"}, {"name": "brown dog"}]', CAT_DOG),
        ("data.yaml", "path: x\nnc: 2\nnames: ['cat', 'brown dog']\n", CAT_DOG),
        ("data.yaml", "train: y\nnames:\n  0: cat\n  1: brown dog\n", CAT_DOG),
        ("a.yml", "- cat\n- brown dog\n", CAT_DOG),
    ],
)
def test_the_usual_forms_are_read(tmp_path: Path, name: str, content: str, expected: list[tuple[int, str]]) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    assert read_label_file(tmp_path / name) == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "0: cat\n# and\ndog\n", r"a.txt' line 3: expected a number and a name, .* got 'dog'"),
        ("a.txt", "1 cat\n2 dog\n", r"line 1: expected a name, or a number with a colon, got '1 cat'"),
        ("a.txt", "# nothing\n\n", "must name at least one label, got none"),
        ("a.json", '["cat", 7]', "got 1 and 7"),
        ("a.json", '{"cat": 0}', "got 'cat' and 0"),
        ("a.json", '["cat"', "is not valid JSON"),
        ("a.json", '"cat"', "must list labels, got str"),
        ("data.yaml", "names: [no, cat]", "got 0 and False"),
        ("data.yaml", "names: [", "is not valid YAML"),
        ("data.yaml", "nc: 3", "got 'nc' and 3"),
    ],
)
def test_other_forms_are_refused_with_the_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(VocabularyError, match=message):
        read_label_file(tmp_path / name)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match=r"cannot read '.*absent.txt'"):
        read_label_file(tmp_path / "absent.txt")


def test_the_names_alone_are_read_and_no_file_has_none(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("17: wall\n3: floor\n")
    assert names_in(tmp_path / "a.txt") == ["wall", "floor"] and names_in(None) == []
