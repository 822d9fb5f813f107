from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ovseg.errors import ConfigError, DatasetError
from ovseg.evaluation import RunOptions, evaluate
from ovseg.evaluation.data.protocol import Expected, load_protocol


def test_limit_spreads_evenly(folder: Path, oracle: Callable[..., Any]) -> None:
    report = evaluate(oracle(), "folder", data=folder, limit=3)
    assert [row.name for row in report.rows] == ["000", "002", "005"]
    with pytest.raises(DatasetError, match="limit must be at least 1 image, got 0"):
        evaluate(oracle(), "folder", data=folder, limit=0)


def test_options_without_a_use_are_refused(folder: Path, oracle: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="no few-shot protocol and has no fold and no shots"):
        evaluate(oracle(), "folder", data=folder, options=RunOptions(fold=1, shots=2))
    with pytest.raises(DatasetError, match="one set without splits, so it has no split 'test'"):
        evaluate(oracle(), "folder", data=folder, options=RunOptions(split="test"))
    with pytest.raises(ConfigError, match="batch_size must be at least 1 image, got 0"):
        RunOptions(batch_size=0)


def test_too_few_files_are_refused_unless_a_part_is_asked_for(folder: Path, oracle: Callable[..., Any]) -> None:
    protocol = load_protocol("folder").model_copy(update={"expected": Expected(files={"val": 7})})
    with pytest.raises(DatasetError, match="must have 7 images, found 6"):
        evaluate(oracle(), protocol, data=folder)
    assert evaluate(oracle(), protocol, data=folder, limit=2).mean_iou == 1
