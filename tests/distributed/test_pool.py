from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.ray import needs_ray
from helpers.workers import Squares, refused

import ovseg.distributed.pool
from ovseg.distributed import spread
from ovseg.errors import ClusterError, ModelError

pytestmark = needs_ray


def squares(ray: Any, make: Any, count: int) -> list[Any]:
    return list(spread(ray, make, range(count), threads=1, tell=print))


def test_answers_come_in_order_from_workers_that_open_once(ray: Any, tmp_path: Path) -> None:
    assert squares(ray, Squares(tmp_path), 9) == [0, 1, 4, 9, 16, 25, 36, 49, 64]
    assert 1 <= len(list(tmp_path.glob("opened-*"))) <= 2  # one for each of the two processors
    assert squares(ray, Squares(tmp_path), 0) == []


def test_a_killed_worker_costs_no_answer_and_doubles_none(ray: Any, tmp_path: Path) -> None:
    assert squares(ray, Squares(tmp_path, once=4), 9) == [0, 1, 4, 9, 16, 25, 36, 49, 64]
    assert (tmp_path / "killed").exists()


def test_an_item_that_kills_every_worker_is_given_up_and_the_others_are_done(ray: Any, tmp_path: Path) -> None:
    *others, last = squares(ray, Squares(tmp_path, always=3), 4)
    assert others == [0, 1, 4] and isinstance(last, ClusterError) and "3 workers were killed over it" in str(last)
    assert len(list(tmp_path.glob("opened-*"))) >= 3


def test_what_a_worker_refuses_is_told_as_in_one_process(ray: Any) -> None:
    with pytest.raises(ModelError, match=r"^no model 'x'; see 'ovseg models'$"):
        squares(ray, refused, 3)


def test_a_machine_with_another_version_is_named(ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ovseg.distributed.pool, "__version__", "99.1")
    with pytest.raises(ClusterError, match=r"expected ovseg 99\.1 on machine '.+', got .*; install"):
        squares(ray, Squares(tmp_path), 3)


def test_a_folder_that_other_machines_lack_is_named(
    ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ovseg.distributed.pool.os, "getcwd", lambda: "/absent/folder")
    with pytest.raises(ClusterError, match=r"expected the folder '/absent/folder' on machine .* share"):
        squares(ray, Squares(tmp_path), 3)


def test_items_that_kill_are_tried_one_by_one_in_the_end() -> None:
    task = ovseg.distributed.pool._Task(8, ["a", "b"])
    (second,) = task.again()
    assert (second.start, second.items, second.deaths) == (8, ["a", "b"], 1)
    assert [(each.start, each.items, each.deaths) for each in second.again()] == [(8, ["a"], 2), (9, ["b"], 2)]
