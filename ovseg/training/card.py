"""The card that a run leaves: what the weights are, from what, and how well they do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ovseg.escape import as_code, for_markdown, one_line
from ovseg.files import atomic_path
from ovseg.models.config import ModelConfig
from ovseg.training.config import TrainingConfig
from ovseg.training.data import place_of


def write_card(
    config: TrainingConfig,
    model: ModelConfig,
    rows: list[dict[str, Any]],
    manifest: list[dict[str, Any]],
    path: Path,
    *,
    remarks: Sequence[str] = (),
) -> None:
    """The model card: what it is, from what, how well, and how to run it."""
    scores = [(row["score"], row["step"]) for row in rows if "score" in row]
    validation = config.validation
    best = "not validated while training"
    if scores and validation is not None:
        score, step = max(scores)
        where = f"{as_code(validation.protocol)} ({as_code(validation.path)})"
        best = f"mIoU {100 * score:.1f} on {where}, step {step}, the best of {len(scores)} looks"
    data = [f"- {_counts(entry)}: {as_code(place_of(entry['data']))}" for entry in manifest]
    lines = [
        f"# {for_markdown(model.name)}",
        "",
        f"A head of kind `{model.head.kind if model.head else 'none'}` on the frozen encoders of "
        f"{as_code(config.model)}, recipe `{config.recipe}`, {config.schedule.steps} steps, seed {config.seed}.",
        "",
        f"Score: {best}. Last loss {rows[-1]['loss']:.4f}." if rows else "No step was run.",
        "",
        "Trained on:",
        *data,
        *(f"- note: {for_markdown(sentence)}" for sentence in remarks),
        "",
        f"The encoders' licence is {for_markdown(model.license)}; that of the trained weights also depends on the "
        "data above. Names that no mask showed rest on the encoders alone.",
        "",
        "    ovseg segment PHOTO word word --model " + one_line(config.out),
        "",
        "`config.json` trains it again, `metrics.jsonl` and `curves.png` show how it went, `data.json` and "
        "`environment.json` say from what and with which versions.",
    ]
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _counts(entry: dict[str, Any]) -> str:
    """What an entry of the manifest counts, such as "3 images, 2 classes"."""
    return ", ".join(f"{count} {what}" for what, count in entry.items() if isinstance(count, int))
