from __future__ import annotations

from pathlib import Path

import numpy as np

from ovseg.large.kept import KeptScores
from ovseg.large.objects import SceneObject

SHAPE = (2, 3, 4)


def scores(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(SHAPE).astype(np.float16)


def opened(folder: Path, asked: str = "cat") -> KeptScores:
    return KeptScores(folder, settings={"asked": asked}, shape=SHAPE)


def test_scores_are_there_again_in_the_next_run(tmp_path: Path) -> None:
    car = SceneObject("car", 0.7, (1, 2, 4, 4), 5, {"size": [2, 3], "counts": "05"})
    with opened(tmp_path / "kept") as kept:
        kept.add(2, scores(2), [car])
        kept.add(0, None)
    with opened(tmp_path / "kept") as kept:
        assert [number in kept for number in range(4)] == [True, False, True, False] and len(kept) == 2
        assert np.array_equal(kept.scores(2), scores(2)) and kept.scores(0) is None
        assert kept.objects(2) == [car] and kept.objects(0) == []
        kept.remove()
    assert not (tmp_path / "kept").exists()


def test_scores_of_other_settings_are_not_used(tmp_path: Path) -> None:
    with opened(tmp_path) as kept:
        kept.add(0, scores(0))
    with opened(tmp_path, "dog") as kept:
        assert len(kept) == 0


def test_scores_that_did_not_reach_the_disk_whole_are_made_again(tmp_path: Path) -> None:
    with opened(tmp_path) as kept:
        kept.add(0, scores(0))
        kept.add(1, scores(1))
    content = bytearray((tmp_path / "scores.bin").read_bytes())
    content[-1] ^= 1
    (tmp_path / "scores.bin").write_bytes(content)
    with open(tmp_path / "windows.jsonl", "a") as stream:
        stream.write('{"window": 3, "dig')  # cut off by a kill
    with opened(tmp_path) as kept:
        assert 0 in kept and 1 not in kept and 3 not in kept
