"""A training run from its configuration to a run folder that ``ovseg.load`` takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from ovseg.bank.store import writing
from ovseg.config import choose, parse_config
from ovseg.errors import ConfigError
from ovseg.evaluation import RunOptions, evaluate
from ovseg.files import atomic_path, read_json, sha256_of, write_json
from ovseg.identity import digest
from ovseg.journal import read_journal
from ovseg.models.build import build_model
from ovseg.models.config import MODEL_FILE, ModelConfig, read_model_config
from ovseg.models.embedded import HEAD_FILE
from ovseg.models.model import Model
from ovseg.models.trained import join
from ovseg.pipeline.segmenter import Segmenter
from ovseg.progress import progress_bar, remark
from ovseg.provenance import environment
from ovseg.training.card import write_card
from ovseg.training.checkpoint import (
    BEST,
    CHECKPOINT,
    METRICS,
    TrainingError,
    flatten,
    more_steps,
    read_checkpoint,
    refuse_other_run,
    settings_of,
)
from ovseg.training.config import TrainingConfig, Validation
from ovseg.training.curves import draw_curves
from ovseg.training.data import MaskData, check_masks, dataset_content, open_masks
from ovseg.training.features import FeatureCache
from ovseg.training.loop import make_accelerator, train_steps
from ovseg.training.recipe import Task
from ovseg.training.recipes import RECIPES
from ovseg.training.schedule import restore
from ovseg.vocabulary.templates import Templates

RESULT = "result.json"  # written last: a folder that has it is finished


def train(config: TrainingConfig, *, progress: bool = False) -> Path:
    """Train what ``config`` says; an interrupted run goes on where it stopped, a finished one is left as it is.

    A finished run that is given more steps goes on from its last checkpoint, with the learning rates that the new
    number of steps has at each of them: all schedules depend on it, so the result is not that of a run that had as
    many from its start, and its card says so.

    Args:
        config: the run.
        progress: show bars on standard error.

    Returns:
        The run folder: resolved configuration, data manifest, metrics and their picture, checkpoints, the trained
        head with its card, and ``model.yaml``, so that ``ovseg.load`` takes the folder.

    Raises:
        OvsegError: data are missing, the loss is not a number, or the folder holds a run of another configuration,
            of another model or of other data.
    """
    out, recipe = config.out, choose("recipe", config.recipe, RECIPES)
    if config.validation is not None and not recipe.validates:
        raise ConfigError(f"recipe '{config.recipe}' cannot be validated while it trains; remove 'validation'")
    accelerator = make_accelerator(config)
    shown = progress and accelerator.is_main_process
    model = trainable_model(config.model)
    cache = FeatureCache(config.features or out / "features", progress=shown)
    run = describe(config, model, recipe.identity(config, model, cache), cache)
    if is_finished(out, run):
        with progress_bar("finished before", total=config.schedule.steps, shown=shown) as advance:
            advance(config.schedule.steps)
        return out
    kept = kept_run(out, run)  # one of another run is refused before features are computed
    remarks = check_data(config, shown=shown)
    with writing(out, what="training run") if accelerator.is_main_process else nullcontext():
        task = recipe.build(config, model, cache, accelerator)
        if accelerator.is_main_process:
            begin(config, task, kept, run=run)
        steps = train_steps(
            task, config, out, run=run, validate=validator(config, model, task), accelerator=accelerator
        )
        done = 0
        with progress_bar("training", total=config.schedule.steps, shown=shown) as advance:
            for step, loss in steps:
                advance(step - done, note=f"loss {loss:.3f}")
                done = step
        if accelerator.is_main_process:
            refuse_nothing(read_journal(out / METRICS))
            finish(config, model, task, run=run, remarks=remarks)
        accelerator.wait_for_everyone()
    return out


def kept_run(out: Path, run: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the checkpoint in the folder says about its run; None where there is no checkpoint.

    Raises:
        TrainingError: it is of another run, or only the result of a shorter one is left.
    """
    if (out / CHECKPOINT).is_file():
        described: dict[str, Any] = read_checkpoint(out / CHECKPOINT, run)["run"]
        return described
    if (out / RESULT).is_file() and more_steps(read_result(out).get("run"), run):
        raise TrainingError(
            f"'{out}' holds a finished run without its '{CHECKPOINT}', from which more steps would go on; "
            "choose another out folder"
        )
    return None


def begin(config: TrainingConfig, task: Task, kept: Mapping[str, Any] | None, *, run: Mapping[str, Any]) -> None:
    """Write what a run folder says from its start on; a finished run that goes on is finished no more."""
    out = config.out
    if kept is not None and more_steps(kept, run):
        (out / RESULT).unlink(missing_ok=True)
    write_json(out / "config.json", config.model_dump(mode="json"))
    if kept is None:
        write_json(out / "environment.json", environment())
        write_json(out / "data.json", task.manifest)


def describe(config: TrainingConfig, model: Model, known: Mapping[str, str], cache: FeatureCache) -> dict[str, Any]:
    """All that decides a run's result, as plain values with speaking names.

    Args:
        config: every setting but the places of files.
        model: its file, the weights of its encoders, and its prompt templates.
        known: what the recipe adds, see ``Recipe.identity``.
        cache: reads the data that the run is validated on.
    """
    parts: dict[str, Any] = {
        "model": model.config.model_dump(mode="json"),
        "weights": {part: mark for part, mark in model.weights.items() if part != "head"},
        "templates": digest(Templates.named(model.config.templates).templates),
        "content": dict(known),
    }
    if config.validation is not None:
        scored = config.validation
        dataset = open_masks(validation_data(scored))
        parts["content"]["validation"] = dataset_content(dataset, range(len(dataset.names)), cache)
    return {**settings_of(config), **flatten(parts)}


def refuse_nothing(rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuse to call a head trained whose loss was 0 at every step.

    Raises:
        TrainingError: it was.
    """
    if rows and all(row["loss"] == 0 for row in rows):
        raise TrainingError(
            f"the loss was 0 at all {len(rows)} steps, so nothing was learned and no head is written; "
            "do the data show at least two things to tell apart?"
        )


def validation_data(scored: Validation) -> MaskData:
    """The images and masks that a run is validated on."""
    return MaskData(**scored.model_dump(include={"protocol", "path", "split", "orientation"}))


def check_data(config: TrainingConfig, *, shown: bool) -> list[str]:
    """Look at all masks that a run trains on or is validated on; what is remarkable is told where ``shown``.

    Raises:
        DatasetError: masks cannot be what their class list says.
    """
    lists = (value for value in vars(config).values() if isinstance(value, tuple))
    sets = [data for values in lists for data in values if isinstance(data, MaskData)]
    if config.validation is not None:
        sets.append(validation_data(config.validation))
    remarks = [sentence for data in sets for sentence in check_masks(data)]
    for sentence in remarks if shown else ():
        remark(sentence)
    return remarks


def is_finished(out: Path, run: Mapping[str, Any]) -> bool:
    """Whether the folder holds this run, and all that it was to give.

    Raises:
        TrainingError: it holds a finished run of another configuration, model or data.
    """
    if not (out / RESULT).is_file():
        return False
    result = read_result(out)
    if more_steps(result.get("run"), run):
        return False
    refuse_other_run(result.get("run"), run, path=out / RESULT)
    weights = out / result["weights"]
    return weights.is_file() and bool(sha256_of(weights) == result["sha256"])


def read_result(out: Path) -> dict[str, Any]:
    """What a finished run says about itself."""
    advice = f"remove it, and the run is finished again from its '{CHECKPOINT}'"
    result = read_json(out / RESULT, what="result of a run", advice=advice)
    if not all(isinstance(result.get(key), str) for key in ("weights", "sha256")):
        raise TrainingError(f"'{out / RESULT}' does not say which weights it is of; {advice}")
    return result


def trainable_model(name: str) -> Model:
    """The model ``name`` without the checksum of its head, which may be about to be replaced.

    Raises:
        ConfigError: the model has a trained head already.
    """
    config = read_model_config(name)
    if config.head is not None:
        raise ConfigError(f"expected a model without a trained head, got '{name}'; train on the model below it")
    sums = {file: sha256 for file, sha256 in config.encoder.sha256.items() if file != HEAD_FILE}
    encoder = config.encoder.model_copy(update={"sha256": sums})
    return build_model(config.model_copy(update={"encoder": encoder}))


def trained_config(model: Model, task: Task, *, weights: str = "", sha256: str = "") -> ModelConfig:
    """The model file of ``model`` with a trained head, which has the scale of the logits inside."""
    kind = task.settings.kind
    changed = {
        "name": f"{model.config.name}-{kind}",
        "summary": f"{kind} trained on {model.config.name}",
        "head": task.settings.model_copy(update={"weights": weights, "sha256": sha256}),
        "logit_scale": 1.0,
        "templates": "word" if task.head.reads_tokens else model.config.templates,
    }
    written = model.config.model_copy(update=changed)
    if not task.changes:
        return written
    return parse_config(ModelConfig, {**written.model_dump(), **task.changes}, source=f"model of '{kind}'")


def segmenter_of(model: Model, task: Task) -> Segmenter:
    """A segmenter with the task's head as it is now, which keeps no text on disk."""
    configured = replace(model, config=trained_config(model, task))
    device = next(task.head.parameters()).device
    return Segmenter(join(configured, task.head, mark="training"), device=device)


def validator(config: TrainingConfig, model: Model, task: Task) -> Callable[[], float] | None:
    """The mean IoU of the task's head as it is when called, by the project's own evaluation; None without data."""
    settings = config.validation
    if settings is None:
        return None
    options = RunOptions(
        split=settings.split, orientation=settings.orientation, check=False, boundary=False, sheet=False
    )

    def score() -> float:
        segmenter = segmenter_of(model, task)
        report = evaluate(segmenter, settings.protocol, data=settings.path, limit=settings.limit, options=options)
        return report.mean_iou

    return score


def finish(
    config: TrainingConfig, model: Model, task: Task, *, run: Mapping[str, Any], remarks: Sequence[str] = ()
) -> None:
    """Write the trained head (the best where runs are validated), its model file, card and curves."""
    out = config.out
    task.eval()
    if (out / BEST).is_file() and config.validation is not None:
        restore(task, torch.load(out / BEST, weights_only=True))
    metadata = {"recipe": config.recipe, "config": config.model_dump_json()}
    sha256 = task.export(out / task.weights_file, metadata=metadata)
    written = trained_config(model, task, weights=task.weights_file, sha256=sha256)
    with atomic_path(out / MODEL_FILE) as path:
        path.write_text(yaml.safe_dump(written.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
    rows = read_journal(out / METRICS)
    draw_curves(rows, out / "curves.png")
    before = read_checkpoint(out / CHECKPOINT, run).get("before", [])
    write_card(
        config, written, rows, task.manifest, out / "README.md", remarks=[*remarks, *went_on(before, config)]
    )
    result = {
        "weights": task.weights_file,
        "sha256": sha256,
        "steps": config.schedule.steps,
        "before": before,
        "run": dict(run),
    }
    write_json(out / RESULT, result)


def went_on(before: Sequence[int], config: TrainingConfig) -> list[str]:
    """What the card says of a run that was given more steps when it was finished."""
    if not before:
        return []
    rates, stages = config.schedule.kind, ", ".join(map(str, before))
    return [
        f"this run was finished at step {stages} and given more; from there on the {rates} learning rates are "
        f"those of {config.schedule.steps} steps, so the weights are not those of so many steps in one go"
    ]
