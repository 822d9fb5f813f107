"""What every training file says (``configs/training/*.yaml``); what a recipe adds is beside the recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from ovseg.config import Config

Positive = Annotated[int, Field(gt=0)]
Above0 = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]
Place = Annotated[str, BeforeValidator(str)]
"""A folder, or ``hf://owner/name[:split]``, of which a ``Path`` would lose a slash."""


class Schedule(Config):
    """Optimisation with AdamW.

    Attributes:
        steps: optimiser steps.
        batch: examples per step, over all processes.
        learning_rate: the largest.
        kind: how the rate changes: one-cycle, or after a linear warm-up a cosine or (1 − t)^power to zero.
        warmup: steps of the linear warm-up of cosine and poly.
        power: of poly.
        evidence_rate: factor on the rate for scalar weights (evidences, gains).
        weight_decay: of the maps.
        accumulate: batches per step.
        clip: largest gradient norm.
        mixed_precision: of accelerate.
        ema: decay of the running mean of the weights, which is then what is validated and kept; 0 is none.
    """

    steps: Positive = 200
    batch: Positive = 1024
    learning_rate: Above0 = 1e-3
    kind: Literal["one-cycle", "cosine", "poly"] = "one-cycle"
    warmup: Annotated[int, Field(ge=0)] = 0
    power: float = 0.9
    evidence_rate: float = 3.0
    weight_decay: float = 0.05
    accumulate: Positive = 1
    clip: Above0 = 10.0
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    ema: Share = 0.0


class Validation(Config):
    """When and on what the head is scored; the best is kept beside the last.

    Attributes:
        protocol, path, split, orientation: as of ``ovseg evaluate``.
        limit: only so many images, evenly spread.
        every: steps between two scores.
    """

    protocol: str
    path: Place
    split: str | None = None
    orientation: Literal["upright", "stored"] | None = None
    limit: Positive | None = None
    every: Positive = 100


class TrainingConfig(Config):
    """What every recipe has.

    Attributes:
        recipe: what is trained.
        model: model file whose frozen encoders are used.
        schedule: optimisation.
        validation: None trains without looking.
        save_every: steps between checkpoints.
        seed: of everything random.
        features: folder of cached features, which runs may share; None keeps them in ``out``.
        out: run folder.
    """

    recipe: str
    model: str = "mini"
    schedule: Schedule = Schedule()
    validation: Validation | None = None
    save_every: Positive = 50
    seed: int = 0
    features: Path | None = None
    out: Path = Path("runs/head")
