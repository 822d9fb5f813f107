from __future__ import annotations

from pathlib import Path

import pytest

from ovseg import Concept
from ovseg.cli.examples import with_examples
from ovseg.errors import ImageError, VocabularyError


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "b.jpg", "a.png", "b.png", "with,comma.jpg"):
        Path(name).touch()


def test_examples_become_concepts_in_the_place_of_their_label(files: None) -> None:
    found = with_examples(["table", "mug", "wall"], ["mug=a.jpg,a.png", "mug=b.jpg,b.png", "cup=a.jpg,1,2,3,4.5"])
    mug = Concept("mug", images=["a.jpg", "b.jpg"], masks=["a.png", "b.png"])
    assert found == ["table", mug, "wall", Concept("cup", images=["a.jpg"], boxes=[(1.0, 2.0, 3.0, 4.5)])]


def test_points_whole_images_and_names_with_commas(files: None) -> None:
    found = with_examples([], ["mug=a.jpg,7,8", "cup=with,comma.jpg", "jar=a.jpg"])
    assert found == [
        Concept("mug", images=["a.jpg"], points=[(7.0, 8.0)]),
        Concept("cup", images=["with,comma.jpg"]),
        Concept("jar", images=["a.jpg"]),
    ]


@pytest.mark.parametrize("text", ["mug", "=a.jpg", "mug="])
def test_what_is_no_example_is_refused(files: None, text: str) -> None:
    with pytest.raises(VocabularyError, match=r"--example must be LABEL=IMAGE, .*, got '"):
        with_examples([], [text])


def test_missing_files_and_mixed_places_are_refused(files: None) -> None:
    with pytest.raises(ImageError, match=r"no file 'c.png' for --example"):
        with_examples([], ["mug=a.jpg,c.png"])
    with pytest.raises(VocabularyError, match=r"examples of 'mug' must say in one way .* boxes and masks"):
        with_examples([], ["mug=a.jpg,a.png", "mug=b.jpg,1,2,3,4"])
