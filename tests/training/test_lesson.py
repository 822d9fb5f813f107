from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.toy import make_segmenter
from helpers.training import losses, recipe, write_pseudo_labels, write_table
from PIL import Image
from pydantic import ValidationError

from ovseg.errors import ConfigError, DatasetError
from ovseg.models.model import Model
from ovseg.pipeline.segmenter import Segmenter
from ovseg.training import train
from ovseg.training.checkpoint import TrainingError
from ovseg.training.config import Schedule, Validation
from ovseg.training.data import MaskData, PseudoLabels
from ovseg.training.lesson import Lesson, check_share
from ovseg.training.recipes.alignment import AlignmentConfig
from ovseg.training.recipes.captions import CaptionSchedule, CaptionsConfig
from ovseg.training.runs import refuse_nothing


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> Model:
    model = make_segmenter().model
    monkeypatch.setattr("ovseg.training.runs.trainable_model", lambda _: model)
    return model


def relabel(folder: Path, function: Callable[[Any], Any], *names: str) -> None:
    for path in (folder / "masks").iterdir():
        Image.fromarray(np.asarray(function(np.asarray(Image.open(path))), np.uint8)).save(path)
    (folder / "classes.txt").write_text("\n".join(names) + "\n")


@pytest.mark.parametrize("loss", ["softmax", "binary"])
def test_one_class_without_anything_else_is_refused(folder: Path, loss: str) -> None:
    relabel(folder, np.zeros_like, "sky")
    with pytest.raises(
        DatasetError, match=r"shows one class, 'sky'.*add masks of another class, or call what is not"
    ):
        train(recipe(folder, loss=loss))
    assert not (folder.parent / "run" / "result.json").exists()


def test_one_class_and_a_background_are_learned_when_that_is_meant(folder: Path) -> None:
    relabel(folder, lambda ids: ids == 2, "background", "blue")
    with pytest.raises(
        DatasetError, match=r"shows one class, 'blue'.*--set loss=binary learns it against the background"
    ):
        train(recipe(folder))
    found = losses(train(recipe(folder, loss="binary", phrases=1, schedule={"steps": 30})))
    assert min(found) > 0 and np.mean(found[-5:]) < np.mean(found[:5])


def test_a_list_of_which_one_class_is_drawn_is_one_class(folder: Path) -> None:
    relabel(folder, lambda ids: np.full_like(ids, 1), "sky", "road", "cat")
    with pytest.raises(DatasetError, match="shows one class, 'road'"):
        train(recipe(folder))


def test_holding_out_all_classes_but_one_leaves_nothing_to_tell_apart(folder: Path) -> None:
    data = MaskData(protocol="folder", path=str(folder), held_out_classes=("sky", "cat"))
    with pytest.raises(DatasetError, match="shows one class, 'road'"):
        train(recipe(folder, data=(data,)))


def test_every_source_must_teach(folder: Path, tmp_path: Path) -> None:
    from helpers.training import write_masks

    other = write_masks(tmp_path / "other", seed=1, names=("sky", "road", "cat"))
    relabel(other, lambda ids: np.where(ids == 0, 0, 255), "sky", "road", "cat")
    sources = tuple(MaskData(protocol="folder", path=str(path)) for path in (folder, other))
    with pytest.raises(DatasetError, match="masks hold only 0 and 255"):
        train(recipe(folder, data=sources))
    relabel(other, lambda ids: np.where(ids == 0, 1, 255), "sky", "road", "cat")
    with pytest.raises(DatasetError, match=r"other' shows one class, 'road'"):
        train(recipe(folder, data=sources))


def test_masks_that_are_all_ignored_are_refused_before_the_encoder_runs(folder: Path) -> None:
    relabel(folder, lambda ids: np.full_like(ids, 255), "sky", "road")
    with pytest.raises(DatasetError, match="no pixel of 3 masks counts"):
        train(recipe(folder))
    assert not (folder.parent / "run" / "features").exists()


def test_a_softmax_over_one_name_is_refused(folder: Path) -> None:
    with pytest.raises(ValidationError, match="a softmax over phrases: 1 is 0 whatever is learned"):
        recipe(folder, phrases=1)
    assert recipe(folder, phrases=1, loss="binary").phrases == 1


@pytest.mark.parametrize("cache", [True, False])
def test_pseudo_labels_without_any_confidence_are_refused(folder: Path, cache: bool) -> None:
    root = write_pseudo_labels(folder)
    for file in (root / "confidence").iterdir():
        Image.fromarray(np.zeros((64, 96), np.uint8)).save(file)
    data = PseudoLabels(pseudo_labels=root, images=folder.parent)
    with pytest.raises(DatasetError, match="has confidence 0, so that none counts; set weighted: false"):
        train(recipe(folder, data=(data,), cache=cache))
    unweighted = data.model_copy(update={"weighted": False})
    assert min(losses(train(recipe(folder, data=(unweighted,), cache=cache)))) > 0


def test_pseudo_labels_of_one_label_are_refused(folder: Path) -> None:
    root = write_pseudo_labels(folder)
    for file in (root / "labels").iterdir():
        ids = np.asarray(Image.open(file))
        Image.fromarray(np.where(ids == 2, 2, 255).astype(np.uint8)).save(file)
    with pytest.raises(DatasetError, match="pseudo' shows one class, 'cat'"):
        train(recipe(folder, data=(PseudoLabels(pseudo_labels=root, images=folder.parent),)))


def test_an_alignment_on_one_class_or_one_name_is_refused(
    small: Segmenter, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ovseg.training.runs.trainable_model", lambda _: small.model)

    def config(**values: Any) -> AlignmentConfig:
        masks = ({"protocol": "folder", "path": str(folder), **values.pop("masks", {})},)
        schedule = Schedule(**{"steps": 2, "batch": 16, **values.pop("schedule", {})})
        return AlignmentConfig(masks=masks, principal=8, schedule=schedule, out=folder.parent / "run", **values)  # type: ignore[arg-type]

    with pytest.raises(DatasetError, match="shows one class, 'road'"):
        train(config(masks={"held_out_classes": ("sky", "cat")}))
    with pytest.raises(
        DatasetError, match=r"no pixel of 3 images of .* is labelled with a class that is trained on"
    ):
        train(config(masks={"held_out_classes": ("sky", "road", "cat")}))
    table = write_table(folder / "names.csv", "name", [("images/0.png", "cat"), ("images/2.png", "cat")])
    named = ({"table": table},)
    with pytest.raises(DatasetError, match="at least 2 different names to tell apart, got 1"):
        train(config(named=named))
    with pytest.raises(ConfigError, match=r"schedule.batch must be at least 2, 2 for each of 1 processes, got 1"):
        train(config(named=named, schedule={"batch": 1}))
    with pytest.raises(ValidationError, match="greater than 0"):
        config(masks={"weight": 0})


def test_captions_one_at_a_time_are_refused(folder: Path) -> None:
    table = write_table(folder / "captions.csv", "caption", [(f"{n}.png", word) for n, word in enumerate("abc")])
    config = CaptionsConfig(table=table, held_out=0.0, schedule=CaptionSchedule(batch=1), out=folder.parent / "run")
    with pytest.raises(ConfigError, match="got 1: a caption is only told from those of other photos"):
        train(config)


@pytest.mark.parametrize("values", [{"learning_rate": 0}, {"learning_rate": float("nan")}, {"clip": 0.0}])
def test_a_schedule_by_which_nothing_moves_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"greater than 0|finite number"):
        Schedule(**values)


def test_a_validation_without_a_pixel_that_counts_stops_the_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ovseg.training.runs.validator", lambda config, model, task: lambda: float("nan"))
    with pytest.raises(TrainingError, match="the validation has no score"):
        train(recipe(folder, validation=Validation(protocol="folder", path=str(folder), every=2)))


def test_a_run_whose_loss_never_was_anything_is_not_called_trained() -> None:
    with pytest.raises(TrainingError, match="the loss was 0 at all 2 steps, so nothing was learned"):
        refuse_nothing([{"step": 1, "loss": 0.0}, {"step": 2, "loss": 0.0}])
    refuse_nothing([{"step": 1, "loss": 0.0}, {"step": 2, "loss": 0.1}])
    refuse_nothing([])


def test_lessons_and_shares_by_hand() -> None:
    Lesson("data", 3, ["sky", "cat"]).check("softmax")
    Lesson("data", 3, ["sky"], background=True).check("binary")
    check_share(4, processes=2, least=2, why="")
    with pytest.raises(ConfigError, match="at least 4, 2 for each of 2 processes, got 3: so"):
        check_share(3, processes=2, least=2, why="so")
