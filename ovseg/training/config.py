"""What a training run reads from YAML (``configs/training/*.yaml``)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ovseg.config import Config

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]


class MaskData(Config):
    """Images with masks.

    Attributes:
        protocol: the benchmark file that says how the folder is laid out and what its classes are called.
        path: the folder; relative paths start from the working directory.
        folds: number of parts for cross-validation; image i is in part i mod folds.
        held_out: the part that is not trained on; None trains on all.
        held_out_classes: class names whose masks are not trained on.
    """

    protocol: str
    path: Path
    folds: Positive = 1
    held_out: int | None = None
    held_out_classes: tuple[str, ...] = ()


class NamedData(Config):
    """Images with one name each, from a CSV with the columns ``file`` and ``name``.

    Attributes:
        table: the CSV; files are relative to its folder.
        weight: factor on their loss.
        cells: how many cells of an image, those that look most like its name, stand for the object.
    """

    table: Path
    weight: float = 0.3
    cells: Positive = 24


class Schedule(Config):
    """Optimisation: AdamW with a one-cycle learning rate.

    Attributes:
        steps: optimiser steps.
        batch: cells per step, over all processes.
        learning_rate: of the maps.
        evidence_rate: factor on it for the weights of the untrained evidence.
        weight_decay: of the maps.
        accumulate: batches per step.
        clip: largest gradient norm.
        mixed_precision: of accelerate.
    """

    steps: Positive = 200
    batch: Positive = 1024
    learning_rate: float = 1e-3
    evidence_rate: float = 3.0
    weight_decay: float = 0.05
    accumulate: Positive = 1
    clip: float = 10.0
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"


class TrainingConfig(Config):
    """One training run.

    Attributes:
        recipe: what is trained.
        model: model file whose frozen encoders are used.
        masks: images with masks; their cells are the training examples.
        named: images with names, or none.
        principal: width that features are reduced to while training; the result is folded back.
        dropout: share of principal channels dropped per step.
        balance: cells are drawn with probability (size of their class)^−balance.
        coverage: share of a cell that one class must cover for the cell to count.
        evidence: starting weights of prototype, detection, presence, image prototype, and the two offsets.
        scale: starting scale of the trained map.
        schedule: optimisation.
        save_every: steps between checkpoints.
        seed: of everything random.
        out: run folder.
        export: file that the trained head is also written to.
    """

    recipe: Literal["alignment"] = "alignment"
    model: str = "mini"
    masks: tuple[MaskData, ...] = Field(min_length=1)
    named: tuple[NamedData, ...] = ()
    principal: Positive = 512
    dropout: Share = 0.2
    balance: Share = 0.5
    coverage: Share = 0.55
    evidence: tuple[float, float, float, float, float, float] = (5.0, 10.0, 1.0, 1.0, 1.0, 0.5)
    scale: float = 10.0
    schedule: Schedule = Schedule()
    save_every: Positive = 50
    seed: int = 0
    out: Path = Path("runs/mini")
    export: Path | None = None
