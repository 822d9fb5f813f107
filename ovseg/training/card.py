"""What a run leaves for people: its curves as a picture, and a card that says what the weights are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from ovseg.files import atomic_path
from ovseg.models.config import ModelConfig
from ovseg.training.config import TrainingConfig
from ovseg.training.data import place_of

_SIZE, _MARGIN = (720, 400), 50
_COLOURS = {"loss": (200, 60, 40), "score": (40, 90, 200)}


def draw_curves(rows: list[dict[str, Any]], path: Path) -> None:
    """Loss and score over the steps as a PNG, each on a scale of its own from its least to its largest value."""
    picture = Image.new("RGB", _SIZE, "white")
    draw = ImageDraw.Draw(picture)
    width, height = _SIZE
    draw.rectangle((_MARGIN, _MARGIN, width - _MARGIN, height - _MARGIN), outline="black")
    last = max((row["step"] for row in rows), default=1)
    for place, (name, colour) in enumerate(_COLOURS.items()):
        points = [(row["step"], row[name]) for row in rows if name in row]
        if not points:
            continue
        low, high = min(value for _, value in points), max(value for _, value in points)
        line = [
            (
                _MARGIN + (width - 2 * _MARGIN) * step / last,
                height - _MARGIN - (height - 2 * _MARGIN) * (value - low) / max(high - low, 1e-9),
            )
            for step, value in points
        ]
        draw.line(line, fill=colour, width=2)
        for x, y in line if len(line) < 60 else ():
            draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)
        draw.text((_MARGIN, 10 + 16 * place), f"{name}: {low:.4g} to {high:.4g}", fill=colour)
    draw.text((width - _MARGIN - 60, height - _MARGIN + 8), f"step {last}", fill="black")
    with atomic_path(path) as temporary:
        picture.save(temporary)


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
        where = f"`{validation.protocol}` (`{validation.path}`)"
        best = f"mIoU {100 * score:.1f} on {where}, step {step}, the best of {len(scores)} looks"
    data = [f"- {_counts(entry)}: `{place_of(entry['data'])}`" for entry in manifest]
    lines = [
        f"# {model.name}",
        "",
        f"A head of kind `{model.head.kind if model.head else 'none'}` on the frozen encoders of `{config.model}`, "
        f"recipe `{config.recipe}`, {config.schedule.steps} steps, seed {config.seed}.",
        "",
        f"Score: {best}. Last loss {rows[-1]['loss']:.4f}." if rows else "No step was run.",
        "",
        "Trained on:",
        *data,
        *(f"- note: {sentence}" for sentence in remarks),
        "",
        f"The encoders' licence is {model.license}; that of the trained weights also depends on the data above. "
        "Names that no mask showed rest on the encoders alone.",
        "",
        "    ovseg segment PHOTO word word --model " + str(config.out),
        "",
        "`config.json` trains it again, `metrics.jsonl` and `curves.png` show how it went, `data.json` and "
        "`environment.json` say from what and with which versions.",
    ]
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _counts(entry: dict[str, Any]) -> str:
    """What an entry of the manifest counts, such as "3 images, 2 classes"."""
    return ", ".join(f"{count} {what}" for what, count in entry.items() if isinstance(count, int))
