"""How objects are proposed and cut out, side by side: PQ on panoptic data and mask AP on instances.

python evaluation/peers/objects_table.py --panoptic coco-train100 --instances coco-things-val --out results/objects
python evaluation/peers/objects_table.py --instances coco-things-val --rows parts detector --limit 5

Each row is a segmenter: "parts", connected parts of the label map, and "watershed" and "affinity", the same parts
split; "cuts", normalised cuts of the features, named by the label map; "detector", the boxes of the model's own
detector, cut out of the label map; "sam", the same boxes cut out by a SAM, which also corrects the label map, and
"parts, sam" with connected parts in their place; "everywhere", masks of a SAM asked at 8 × 8 points, named by the
label map, which they correct; "queries", those of a trained head, for a --model that has one. With
--out each writes its reports in folders of its own, from which a killed run goes on; a SAM takes seconds an image.
The protocols are coco-panoptic and coco-instances, or those that --protocols names.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import ovseg
from ovseg.errors import OvsegError
from ovseg.evaluation import EvaluationReport, RunOptions, Task
from ovseg.evaluation.run.runner import evaluate_task

ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "parts": ("fast", {"proposals": "parts", "masks": "map"}),
    "watershed": ("fast", {"proposals": "watershed", "masks": "map"}),
    "affinity": ("fast", {"proposals": "affinity", "masks": "map"}),
    "cuts": ("fast", {"proposals": "cuts", "masks": "map"}),
    "detector": ("fast", {"proposals": "detector", "masks": "map"}),
    "sam": ("best", {"proposals": "detector", "masks": "mobile-sam"}),
    "parts, sam": ("best", {"proposals": "parts", "masks": "mobile-sam"}),
    "everywhere": ("best", {"proposals": "sam", "masks": "mobile-sam"}),
    "queries": ("fast", {"proposals": "queries", "masks": "map"}),
}
USUAL = ("parts", "cuts", "detector", "sam", "everywhere")
COLUMNS = {
    "PQ": ("panoptic", "panoptic_quality"),
    "PQ things": ("panoptic", "panoptic_quality_things"),
    "PQ, oracle names": ("panoptic", "panoptic_quality_oracle_names"),
    "AP": ("instances", "average_precision"),
    "AP50": ("instances", "average_precision_50"),
    "AR100": ("instances", "average_recall_100"),
    "AP, any name": ("instances", "average_precision_any_name"),
}


def measure(
    segmenter: Any, row: str, tasks: dict[str, Task], *, least_score: float, out: Path | None
) -> dict[str, EvaluationReport]:
    """The reports of one row, by kind of data."""
    quality, fields = ROWS[row]
    chosen = segmenter.with_objects(**fields)
    options = RunOptions(quality=quality, least_score=least_score, progress=True, boundary=False, sheet=False)
    folders = {kind: None if out is None else out / row / kind for kind in tasks}
    return {kind: evaluate_task(chosen, task, out=folders[kind], options=options) for kind, task in tasks.items()}


def show(rows: dict[str, dict[str, EvaluationReport]], kinds: list[str]) -> str:
    """The reports as a Markdown table; scores in percent."""
    columns = {name: place for name, place in COLUMNS.items() if place[0] in kinds}
    lines = [
        f"| proposals | {' | '.join(columns)} | {' | '.join(f's an image, {kind}' for kind in kinds)} |",
        "|---" * (1 + len(columns) + len(kinds)) + "|",
    ]
    for row, reports in rows.items():
        scores = [reports[kind].scores[key] for kind, key in columns.values()]
        seconds = [f"{reports[kind].manifest['seconds_per_image']:.2f}" for kind in kinds]
        cells = ["–" if math.isnan(score) else f"{100 * score:.1f}" for score in scores] + seconds
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Evaluate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--panoptic", metavar="DIR", help="folder of panoptic data")
    parser.add_argument("--instances", metavar="DIR", help="folder of objects")
    parser.add_argument("--protocols", nargs=2, default=["coco-panoptic", "coco-instances"], metavar="NAME")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=USUAL)
    parser.add_argument("--labels", default="all", help="all, present, present+N or a subset")
    parser.add_argument("--limit", type=int, help="only so many images of each")
    parser.add_argument("--least-score", type=float, default=0.04, help="of AP; see ovseg evaluate")
    parser.add_argument("--model", default="mini", help="a name from 'ovseg models'")
    parser.add_argument("--out", type=Path, help="folder for the reports and table.md")
    given = parser.parse_args()
    folders = {"panoptic": given.panoptic, "instances": given.instances}
    tasks = {
        kind: Task(protocol, folder, limit=given.limit, labels=given.labels)
        for (kind, folder), protocol in zip(folders.items(), given.protocols, strict=True)
        if folder is not None
    }
    if not tasks:
        parser.error("expected --panoptic DIR, --instances DIR or both, got neither")
    try:
        segmenter = ovseg.load(given.model)
        options = {"least_score": given.least_score, "out": given.out}
        table = show({row: measure(segmenter, row, tasks, **options) for row in given.rows}, list(tasks))
    except OvsegError as error:
        parser.exit(2, f"error: {error}\n")
    if given.out is not None:
        (given.out / "table.md").write_text(table + "\n", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
