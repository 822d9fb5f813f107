"""A training run from its configuration to a run folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ovseg.encoders.embedded.build import HEAD_FILE
from ovseg.encoders.registry import Model, build_model, read_model_config
from ovseg.files import write_json
from ovseg.training.alignment import build_alignment
from ovseg.training.config import TrainingConfig
from ovseg.training.features import FeatureCache
from ovseg.training.loop import train_steps


def train(config: TrainingConfig, *, progress: Callable[[int, float], None] | None = None) -> Path:
    """Train what ``config`` says; a run that was interrupted goes on where it stopped.

    Args:
        config: the run.
        progress: called with (step, loss) after every step.

    Returns:
        The run folder: resolved configuration, metrics, checkpoint, and the trained head.

    Raises:
        OvsegError: data are missing, the loss is not a number, or the folder holds another run.
    """
    out = config.out
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "config.json", config.model_dump(mode="json"))
    model = trainable_model(config.model)
    task = build_alignment(config, model, FeatureCache(out / "features"))
    for step, loss in train_steps(task, config, out):
        if progress is not None:
            progress(step, loss)
    metadata = {"recipe": config.recipe, "config": config.model_dump_json()}
    digest = task.export(out / HEAD_FILE, metadata=metadata)
    if config.export is not None:
        digest = task.export(config.export, metadata=metadata)
    write_json(out / "result.json", {"weights": HEAD_FILE, "sha256": digest, "steps": config.schedule.steps})
    return out


def trainable_model(name: str) -> Model:
    """The model ``name`` without the checksum of its head, which is about to be replaced."""
    config = read_model_config(name)
    sums = {file: digest for file, digest in config.encoder.sha256.items() if file != HEAD_FILE}
    encoder = config.encoder.model_copy(update={"sha256": sums})
    return build_model(config.model_copy(update={"encoder": encoder}))
