from __future__ import annotations

from pathlib import Path

import pytest

from ovseg.journal import Journal, read_journal
from ovseg.training.checkpoint import TrainingError, cut_metrics, flatten, refuse_other_run, settings_of
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


def test_metrics_after_the_checkpoint_are_dropped_and_the_others_keep_every_digit(tmp_path: Path) -> None:
    rows = [{"step": step, "loss": 1 / (2 + step)} for step in range(1, 6)]
    with Journal(tmp_path / "metrics.jsonl") as journal:
        for row in rows:
            journal.append(row)
    cut_metrics(tmp_path / "metrics.jsonl", 3)
    assert read_journal(tmp_path / "metrics.jsonl") == rows[:3]
    cut_metrics(tmp_path / "nothing.jsonl", 3)
    assert not (tmp_path / "nothing.jsonl").exists()
