"""A training run from its configuration to a run folder that ``ovseg.load`` takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator

from ovseg.errors import ConfigError
from ovseg.evaluation import RunOptions, evaluate
from ovseg.files import atomic_path, write_json
from ovseg.heads.registry import HeadConfig
from ovseg.models.build import build_model
from ovseg.models.config import MODEL_FILE, ModelConfig, read_model_config
from ovseg.models.embedded import HEAD_FILE
from ovseg.models.model import Model
from ovseg.models.trained import join
from ovseg.pipeline.segmenter import Segmenter
from ovseg.provenance import environment
from ovseg.training.card import draw_curves, write_card
from ovseg.training.checkpoint import BEST, METRICS, read_log
from ovseg.training.config import AlignmentConfig, CaptionsConfig, MasksConfig, TrainingConfig
from ovseg.training.features import FeatureCache
from ovseg.training.loop import make_accelerator, train_steps
from ovseg.training.recipes.alignment import build_alignment
from ovseg.training.recipes.captions import build_captions
from ovseg.training.recipes.masks import build_masks, learned_contexts
from ovseg.training.schedule import restore

WEIGHTS = "head.safetensors"


def train(config: TrainingConfig, *, progress: Callable[[int, float], None] | None = None) -> Path:
    """Train what ``config`` says; a run that was interrupted goes on where it stopped.

    Args:
        config: the run.
        progress: called with (step, loss) after every step.

    Returns:
        The run folder: resolved configuration, data manifest, metrics and their picture, checkpoints, the trained
        head with its card, and ``model.yaml``, so that ``ovseg.load`` takes the folder.

    Raises:
        OvsegError: data are missing, the loss is not a number, or the folder holds another run.
    """
    out = config.out
    out.mkdir(parents=True, exist_ok=True)
    accelerator = make_accelerator(config)
    if accelerator.is_main_process:
        write_json(out / "config.json", config.model_dump(mode="json"))
        write_json(out / "environment.json", environment())
    model = trainable_model(config.model)
    task = build_task(config, model, accelerator)
    validate = None if config.validation is None else validator(config, model, task)
    for step, loss in train_steps(task, config, out, validate=validate, accelerator=accelerator):
        if progress is not None:
            progress(step, loss)
    if accelerator.is_main_process:
        finish(config, model, task)
    accelerator.wait_for_everyone()
    return out


def build_task(config: TrainingConfig, model: Model, accelerator: Accelerator) -> Any:
    """The task of the recipe, its data read and its features cached."""
    folder = config.features or config.out / "features"
    if isinstance(config, AlignmentConfig):
        with accelerator.main_process_first():
            return build_alignment(config, model, FeatureCache(folder))
    if isinstance(config, CaptionsConfig):
        with accelerator.main_process_first():
            return build_captions(config, model, FeatureCache(folder))
    if isinstance(config, MasksConfig):
        return build_masks(config, model, folder, accelerator)
    raise ConfigError(f"no recipe for a configuration of type {type(config).__name__}; use load_training")


def trainable_model(name: str) -> Model:
    """The model ``name`` without the checksum of its head, which may be about to be replaced.

    Raises:
        ConfigError: the model has a trained head already.
    """
    config = read_model_config(name)
    if config.head is not None:
        raise ConfigError(f"expected a model without a trained head, got '{name}'; train on the model below it")
    sums = {file: digest for file, digest in config.encoder.sha256.items() if file != HEAD_FILE}
    encoder = config.encoder.model_copy(update={"sha256": sums})
    return build_model(config.model_copy(update={"encoder": encoder}))


def trained_config(model: Model, settings: HeadConfig, *, weights: str = "", sha256: str = "") -> ModelConfig:
    """The model file of ``model`` with a trained head, which has the scale of the logits inside."""
    head = settings.model_copy(update={"weights": weights, "sha256": sha256})
    changed = {
        "name": f"{model.config.name}-{settings.kind}",
        "summary": f"{settings.kind} trained on {model.config.name}",
        "head": head,
        "logit_scale": 1.0,
        "templates": "word" if learned_contexts(settings) else model.config.templates,
    }
    return model.config.model_copy(update=changed)


def segmenter_of(model: Model, task: Any) -> Segmenter:
    """A segmenter with the task's head as it is now, which keeps no text on disk."""
    configured = replace(model, config=trained_config(model, task.settings))
    device = next(task.head.parameters()).device
    return Segmenter(join(configured, task.head, mark="training"), device=device)


def validator(config: TrainingConfig, model: Model, task: Any) -> Callable[[], float]:
    """The mean IoU of the task's head by the project's own evaluation.

    Raises:
        ConfigError: the recipe has no head that could be scored while it trains.
    """
    settings = config.validation
    assert settings is not None
    if not hasattr(task, "settings"):
        raise ConfigError(f"recipe '{config.recipe}' cannot be validated while it trains; remove 'validation'")
    options = RunOptions(split=settings.split, boundary=False, sheet=False)

    def score() -> float:
        segmenter = segmenter_of(model, task)
        report = evaluate(segmenter, settings.protocol, data=settings.path, limit=settings.limit, options=options)
        return report.mean_iou

    return score


def finish(config: TrainingConfig, model: Model, task: Any) -> None:
    """Write the trained head (the best where runs are validated), its model file, card and curves."""
    out = config.out
    task.eval()
    if (out / BEST).is_file() and config.validation is not None:
        restore(task, torch.load(out / BEST, weights_only=True))
    metadata = {"recipe": config.recipe, "config": config.model_dump_json()}
    alignment = isinstance(config, AlignmentConfig)
    weights = HEAD_FILE if alignment else WEIGHTS
    digest = task.export(out / weights, metadata=metadata)
    if isinstance(config, AlignmentConfig) and config.export is not None:
        digest = task.export(config.export, metadata=metadata)
    settings = HeadConfig(kind="alignment") if alignment else task.settings
    written = trained_config(model, settings, weights=weights, sha256=digest)
    with atomic_path(out / MODEL_FILE) as path:
        path.write_text(yaml.safe_dump(written.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
    write_json(out / "result.json", {"weights": weights, "sha256": digest, "steps": config.schedule.steps})
    rows = read_log(out / METRICS)
    draw_curves(rows, out / "curves.png")
    manifest = getattr(task, "manifest", [])
    write_json(out / "data.json", manifest)
    write_card(config, written, rows, manifest, out / "README.md")
