from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ovseg.journal import Journal, read_journal
from ovseg.training.checkpoint import (
    TrainingError,
    cut_metrics,
    flatten,
    more_steps,
    read_checkpoint,
    refuse_other_run,
    settings_of,
)
from ovseg.training.config import Schedule, TrainingConfig


def test_nested_values_have_dotted_keys() -> None:
    assert flatten({"a": {"b": 1}, "c": [{"d": 2}, 3], "e": []}) == {"a.b": 1, "c.0.d": 2, "c.1": 3}
    config = TrainingConfig(recipe="toy", schedule=Schedule(steps=7), out=Path("here"), features=Path("there"))
    found = settings_of(config)
    assert found["schedule.steps"] == 7 and found["recipe"] == "toy"
    assert not {"out", "features", "save_every"} & set(found)


def test_the_first_setting_that_differs_is_named_with_both_values() -> None:
    kept, now = {"seed": 0, "data.0 content": "abc"}, {"seed": 0, "data.0 content": "def"}
    told = r"'run/last.pt' is of another run: data.0 content 'abc' before and 'def' now; choose another out folder"
    with pytest.raises(TrainingError, match=told):
        refuse_other_run(kept, now, path=Path("run/last.pt"))
    with pytest.raises(TrainingError, match="another version of ovseg wrote it"):
        refuse_other_run(None, now, path=Path("run/last.pt"))
    refuse_other_run(kept, dict(kept), path=Path("run/last.pt"))


@pytest.mark.parametrize("kept", [0, 10, 400])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "last.pt"
    torch.save({"run": {}, "task": {"weight": torch.zeros(100)}}, path)
    assert read_checkpoint(path, {})["task"]["weight"].shape == (100,)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(TrainingError, match=r"last.pt' is damaged \(.*\); remove it to start anew"):
        read_checkpoint(path, {})


def test_metrics_after_the_checkpoint_are_dropped_and_the_others_keep_every_digit(tmp_path: Path) -> None:
    rows = [{"step": step, "loss": 1 / (2 + step)} for step in range(1, 6)]
    with Journal(tmp_path / "metrics.jsonl") as journal:
        for row in rows:
            journal.append(row)
    cut_metrics(tmp_path / "metrics.jsonl", 3)
    assert read_journal(tmp_path / "metrics.jsonl") == rows[:3]
    cut_metrics(tmp_path / "nothing.jsonl", 0)
    assert not (tmp_path / "nothing.jsonl").exists()


def test_a_step_is_never_there_twice_and_never_missing(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with Journal(path) as journal:
        for step, loss in ((1, 0.5), (2, 0.4), (1, 0.5), (2, 0.3), (4, 0.1)):
            journal.append({"step": step, "loss": loss})
    cut_metrics(path, 2)
    assert read_journal(path) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.3}]
    with pytest.raises(TrainingError, match=r"must hold the 4 steps that 'last.pt' has done, got none of step 3"):
        cut_metrics(path, 4)
    assert len(read_journal(path)) == 2
    with pytest.raises(TrainingError, match="got none of step 1"):
        cut_metrics(tmp_path / "nothing.jsonl", 3)


def test_only_more_steps_make_a_run_the_same_run() -> None:
    kept = {"schedule.steps": 6, "seed": 0}
    assert more_steps(kept, {"schedule.steps": 7, "seed": 0})
    assert not more_steps(kept, kept) and not more_steps(kept, {"schedule.steps": 5, "seed": 0})
    assert not more_steps(kept, {"schedule.steps": 7, "seed": 1})
    assert not more_steps(None, kept) and not more_steps({"seed": 0}, kept)
