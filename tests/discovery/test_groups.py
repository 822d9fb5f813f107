"""Groups of vectors: what belongs together is together, what fits none is put aside, nothing is left to chance."""

import numpy as np
import pytest

from ovseg.discovery.groups import auto_groups, group_vectors
from ovseg.errors import ConfigError, ShapeError


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def clouds(*sizes: int) -> np.ndarray:
    """Vectors about the first axes, so many about each."""
    draw = np.random.default_rng(0)
    return unit(
        np.concatenate([np.eye(16)[axis] + draw.normal(0, 0.05, (size, 16)) for axis, size in enumerate(sizes)])
    )


def test_clouds_become_groups_the_largest_first() -> None:
    vectors = clouds(5, 20, 9)
    found = group_vectors(vectors, groups=3)
    own = np.repeat([2, 0, 1], [5, 20, 9])
    assert (found.owner[found.owner >= 0] == own[found.owner >= 0]).all()
    assert (found.owner >= 0).sum() >= 30
    for number in range(3):
        mean = vectors[found.owner == number].mean(0)
        np.testing.assert_allclose(found.centres[number], mean / np.linalg.norm(mean), rtol=1e-5)


def test_of_equal_size_the_tighter_comes_first() -> None:
    draw = np.random.default_rng(1)
    loose, tight = (np.eye(8)[axis] + draw.normal(0, wide, (10, 8)) for axis, wide in ((0, 0.1), (1, 0.01)))
    found = group_vectors(unit(np.concatenate([loose, tight])), groups=2)
    assert set(found.owner[10:]) == {0}


def test_a_stranger_and_a_pair_are_of_no_group() -> None:
    stranger = unit(np.eye(16)[[0]] + np.eye(16)[[9]])
    vectors = np.concatenate([clouds(20), stranger, unit(np.eye(16)[[12, 12]])])
    found = group_vectors(vectors, groups=2)
    assert found.owner[20:].tolist() == [-1, -1, -1] and not found.cosine[20:].any()


def test_the_same_vectors_give_the_same_groups() -> None:
    vectors = unit(np.random.default_rng(2).normal(size=(200, 16)))
    one, other = (group_vectors(vectors, groups=12) for _ in range(2))
    assert np.array_equal(one.owner, other.owner) and np.array_equal(one.centres, other.centres)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_few_objects_are_no_trouble(count: int) -> None:
    found = group_vectors(unit(np.ones((count, 4))), groups=None if count else 5)
    assert len(found.owner) == count
    assert len(found.centres) <= 1


def test_the_number_is_twice_the_root_and_bounded() -> None:
    assert [auto_groups(count) for count in (0, 1, 9, 200, 30_000)] == [1, 2, 6, 28, 300]


def test_what_cannot_be_grouped_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one group, got 0"):
        group_vectors(clouds(3), groups=0)
    with pytest.raises(ShapeError, match="float32"):
        group_vectors(np.zeros((2, 3)))


def test_everything_may_have_a_group_however_small_and_far() -> None:
    vectors = np.concatenate([clouds(20), unit(-clouds(1)[:1])])
    some, everything = (group_vectors(vectors, groups=2, everything=each) for each in (False, True))
    assert some.owner[-1] == -1 and (everything.owner >= 0).all()
    assert sorted(np.bincount(everything.owner).tolist()) == [1, 20]
