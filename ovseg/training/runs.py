"""A training run from its configuration to a run folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ovseg.encoders.embedded.build import HEAD_FILE
from ovseg.encoders.registry import ModelConfig, build_model, read_model_config
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
    model = build_model(_with_any_head(read_model_config(config.model)))
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


def _with_any_head(config: ModelConfig) -> ModelConfig:
    """The model file without the checksum of the head, which is about to be replaced."""
    sums = {name: digest for name, digest in config.encoder.sha256.items() if name != HEAD_FILE}
    return config.model_copy(update={"encoder": config.encoder.model_copy(update={"sha256": sums})})
