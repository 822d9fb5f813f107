"""One table of what a segmenter loses: worse photos, other words, no synonyms, absent labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ovseg.escape import for_markdown
from ovseg.evaluation.report.report import EvaluationReport
from ovseg.evaluation.run.corruptions import CORRUPTIONS, SEVERITIES
from ovseg.evaluation.run.paraphrase import REWRITINGS
from ovseg.evaluation.run.runner import evaluate_task
from ovseg.evaluation.run.task import RunOptions, Task
from ovseg.files import atomic_path, write_json

ABSENT_LABELS = 10  # given on top of those in the image


@dataclass(frozen=True)
class Condition:
    """A change and the mean IoU under it.

    Attributes:
        name: such as ``"fog:3"``, ``"plural"``, ``"no synonyms"``, ``"present+10"``.
        kind: ``"image"``, ``"words"`` or ``"labels"``.
        mean_iou: under the change, in [0, 1].
        reference: what it is relative to, in [0, 1]: the clean run, or the one with present labels only.
        absent_false_positive_rate: share of candidate labels that are absent but got pixels; NaN where none is.
    """

    name: str
    kind: str
    mean_iou: float
    reference: float
    absent_false_positive_rate: float

    @property
    def relative(self) -> float:
        """Mean IoU divided by the reference."""
        return self.mean_iou / self.reference if self.reference else float("nan")


@dataclass(frozen=True)
class RobustnessTable:
    """All conditions of one segmenter under one protocol."""

    clean: float
    conditions: tuple[Condition, ...]
    manifest: dict[str, Any]

    @property
    def word_spread(self) -> float:
        """Largest less smallest mean IoU over the paraphrases, the original words among them."""
        scores = [self.clean, *(c.mean_iou for c in self.conditions if c.kind == "words")]
        return max(scores) - min(scores)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        rows = [{**vars(condition), "relative": condition.relative} for condition in self.conditions]
        for row in rows:
            row.update({key: None for key, value in row.items() if value != value})  # NaN is not JSON
        return {
            "clean": self.clean,
            "word_spread": self.word_spread,
            "conditions": rows,
            "manifest": self.manifest,
        }

    def to_markdown(self) -> str:
        """The table, relative to clean."""
        lines = [
            f"Clean mIoU {100 * self.clean:.1f}; spread over paraphrases {100 * self.word_spread:.1f} points.",
            "",
            "| condition | mIoU | relative |",
            "|---|---|---|",
            *(f"| {for_markdown(c.name)} | {100 * c.mean_iou:.1f} | {c.relative:.2f} |" for c in self.conditions),
        ]
        return "\n".join(lines) + "\n"

    def save(self, folder: Path) -> None:
        """``robustness.json`` and ``robustness.md`` in ``folder``."""
        write_json(folder / "robustness.json", self.to_dict())
        with atomic_path(folder / "robustness.md") as temporary:
            temporary.write_text(self.to_markdown(), encoding="utf-8")


def measure_robustness(
    segmenter: Any,
    task: Task,
    *,
    out: str | Path | None = None,
    corruptions: Sequence[str] | None = None,
    options: RunOptions | None = None,
) -> RobustnessTable:
    """Evaluate clean and under each change, each with its own resumable journal below ``out``.

    Args:
        segmenter: what is measured.
        task: what is evaluated; its labels are those of the clean run, the corruptions and the paraphrases.
        out: folder; each condition gets one inside it.
        corruptions: such as ``["fog:3"]``; None: all, at all severities.
        options: of every run.
    """
    base = replace(options or RunOptions(), boundary=False, sheet=False)

    def run(name: str, changed: RunOptions, asked: Task = task) -> EvaluationReport:
        folder = None if out is None else Path(out) / name.replace(":", "-").replace(" ", "-")
        return evaluate_task(segmenter, asked, out=folder, options=replace(changed, check=changed is base))

    clean = run("clean", base)
    conditions = []
    for name, kind, changed in _changes(base, corruptions):
        conditions.append(_condition(name, kind, run(name, changed), reference=clean.mean_iou))
    present = run("present", base, replace(task, labels="present"))
    crowded = run(f"present+{ABSENT_LABELS}", base, replace(task, labels=f"present+{ABSENT_LABELS}"))
    conditions.append(_condition(f"present+{ABSENT_LABELS}", "labels", crowded, reference=present.mean_iou))
    table = RobustnessTable(clean.mean_iou, tuple(conditions), clean.manifest)
    if out is not None:
        table.save(Path(out))
    return table


def _changes(base: RunOptions, corruptions: Sequence[str] | None) -> Iterator[tuple[str, str, RunOptions]]:
    if corruptions is None:
        corruptions = [f"{name}:{severity}" for name in CORRUPTIONS for severity in SEVERITIES]
    for name in corruptions:
        yield name, "image", replace(base, corruption=name)
    for name in REWRITINGS:
        yield name, "words", replace(base, paraphrase=name)
    yield "no synonyms", "words", replace(base, synonyms=False)


def _condition(name: str, kind: str, report: EvaluationReport, *, reference: float) -> Condition:
    rate = report.scores.get("absent_false_positive_rate", float("nan"))
    return Condition(name, kind, report.mean_iou, reference, rate)
