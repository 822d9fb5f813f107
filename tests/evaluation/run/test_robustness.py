from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ovseg.evaluation import (
    Task,
)
from ovseg.evaluation.run.robustness import measure_robustness


def test_robustness_is_relative_to_clean(folder: Path, tmp_path: Path, oracle: Callable[..., Any]) -> None:
    class Literal(oracle):  # type: ignore[misc, valid-type]
        """Knows the classes by their first three letters, so that plurals and capitals may pass."""

        def segment(self, image: Any, labels: list[str], *, background: Any = None) -> Any:
            return super().segment(image, [label.lower()[:3].replace("roa", "road") for label in labels])

    task = Task("folder", folder)
    table = measure_robustness(Literal(), task, out=tmp_path, corruptions=["noise:5"])
    by_name = {condition.name: condition for condition in table.conditions}
    assert table.clean == 1
    assert by_name["noise:5"].relative < 0.5
    assert by_name["capitals"].relative == by_name["plural"].relative == 1
    assert by_name["photo"].mean_iou == 0 and table.word_spread == 1
    assert "present+10" in by_name and "| noise:5 |" in table.to_markdown()
    assert (tmp_path / "robustness.json").exists()


def test_robustness_is_measured_under_the_setting_of_the_task(folder: Path, oracle: Callable[..., Any]) -> None:
    segmenter = oracle(3)
    segmenter.for_benchmark = lambda name: oracle()
    table = measure_robustness(segmenter, Task("folder", folder, setting="paper"), corruptions=[])
    assert table.clean == 1 and table.manifest["setting"] == "paper"
