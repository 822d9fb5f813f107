import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ovseg.errors import ShapeError, VocabularyError
from ovseg.result import SegmentationResult

names = st.text(min_size=1, max_size=12).filter(lambda name: name.strip() != "")
awkward = ("a*b", "c|d", "two\nlines", "back\\slash", "\\n", "others", " edge ", "*3| ")


def make_result(index_map: object, labels: tuple[str, ...]) -> SegmentationResult:
    indices = np.array(index_map, dtype=np.int32)
    ones = np.ones(indices.shape, np.float32)
    return SegmentationResult(indices, labels, ones, dict.fromkeys(labels, 1.0))


def slow_vote(index_map: np.ndarray, rows: int, columns: int, count: int) -> list[list[int]]:
    """The definition, cell by cell, for images of at least one pixel per cell."""
    height, width = index_map.shape
    voted: list[list[int]] = []
    for i in range(rows):
        voted.append([])
        for j in range(columns):
            cell = index_map[
                i * height // rows : (i + 1) * height // rows,
                j * width // columns : (j + 1) * width // columns,
            ]
            counts = [(cell == index).sum() for index in [*range(count), -1]]
            winner = int(np.argmax(counts))
            voted[-1].append(-1 if winner == count else winner)
    return voted


def test_a_row_is_run_length_encoded() -> None:
    result = make_result([[-1, -1, 0, 1], [0, 0, 0, 0]], ("brown dog", "cat"))
    assert result.to_text((2, 4)) == "others *2| brown dog *1| cat *1\nbrown dog *4"


def test_the_vote_equals_its_definition() -> None:
    generator = np.random.default_rng(0)
    for height, width, grid in [(17, 23, (4, 5)), (16, 16, (16, 16)), (40, 9, (16, 3))]:
        index_map = generator.integers(-1, 3, (height, width)).astype(np.int32)
        text = make_result(index_map, ("a", "b", "c")).to_text(grid)
        voted = SegmentationResult.from_text(text, labels=("a", "b", "c")).index_map
        assert voted.tolist() == slow_vote(index_map, *grid, count=3)


@given(
    arrays.arrays(np.int32, st.tuples(st.integers(1, 24), st.integers(1, 24)), elements=st.integers(-1, 3)),
    st.lists(names, min_size=4, max_size=4, unique=True),
)
def test_text_is_lossless_at_its_grid(index_map: np.ndarray, labels: list[str]) -> None:
    text = make_result(index_map, tuple(labels)).to_text()
    again = SegmentationResult.from_text(text)
    assert again.size == (16, 16)
    assert again.to_text() == text
    assert set(again.labels) <= set(labels)


def test_awkward_labels_survive() -> None:
    index_map = [[-1, *range(len(awkward))]]
    text = make_result(index_map, awkward).to_text((1, 9))
    again = SegmentationResult.from_text(text)
    assert again.labels == awkward
    assert again.index_map.tolist() == index_map


def test_size_enlarges_the_grid_to_the_image() -> None:
    index_map = np.kron([[0, 1], [-1, 0]], np.ones((10, 15))).astype(np.int32)
    result = make_result(index_map, ("a", "b"))
    again = SegmentationResult.from_text(result.to_text(2), labels=("a", "b"), size=(20, 30))
    np.testing.assert_array_equal(again.index_map, index_map)
    assert again.presence == {"a": 1.0, "b": 1.0}


def test_blanks_around_runs_do_not_matter() -> None:
    loose = SegmentationResult.from_text("  cat*2 |  others * 1|\ncat *3 ")
    assert loose.index_map.tolist() == [[0, 0, -1], [0, 0, 0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat", r"must read 'label \*count\| label \*count', got 'cat'"),
        ("cat *2\ncat *3", r"all rows of the text must have the same number of cells, got \[2, 3\]"),
        ("cat *two", r"must read 'label"),
        ("cat *99999999999", r"must have at most 100000 cells, got 99999999999"),
        (f"cat *{'9' * 5000}", r"must have at most 100000 cells, got 9999"),
    ],
)
def test_text_of_another_form_is_refused(text: str, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        SegmentationResult.from_text(text)


def test_labels_out_of_the_list_and_bad_sizes_are_refused() -> None:
    with pytest.raises(VocabularyError, match=r"names 'cats'.*did you mean 'cat'\? Allowed are: cat, dog"):
        SegmentationResult.from_text("cats *2", labels=("cat", "dog"))
    with pytest.raises(ShapeError, match=r"size must be at least 1 x 1, got \(0, 4\)"):
        SegmentationResult.from_text("cat *2", size=(0, 4))
    with pytest.raises(ShapeError, match=r"grid must have at least one row and column, got \(0, 0\)"):
        make_result([[0]], ("cat",)).to_text(0)
